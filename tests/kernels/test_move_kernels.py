"""Two-pass resampling with flags against the one-pass kernel, and against what it must do to positions and holes."""

from __future__ import annotations

import numpy as np
import pytest

from ztfds.kernels import move
from ztfds.kernels import resample as one_pass

FULL = np.uint16(4)


def grid_of(shape: tuple[int, int], step: int, dx: float, dy: float, turn: float, stretch: float) -> list[np.ndarray]:
    ny, nx = shape
    y, x = np.mgrid[0 : ny - 1 + step : step, 0 : nx - 1 + step : step].astype(np.float64)
    gx = x * (1 + stretch) + dx - turn * y
    gy = y * (1 - stretch) + dy + turn * x
    return [np.ascontiguousarray(gx), np.ascontiguousarray(gy), np.ones_like(gx)]


def moved(
    image: np.ndarray, mask: np.ndarray, hole: np.ndarray, grid: list[np.ndarray], step: int, shape: tuple[int, int]
):
    wide = np.empty((image.shape[0] + 2 * move.PAD, image.shape[1] + 2 * move.PAD), np.float32)
    flags = np.empty(wide.shape, np.uint8)
    move.padded(image, wide)
    move.spread_flags(mask, hole, FULL, 2, flags)
    out, plateau, count = np.empty(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    move.move(wide, flags, *grid, step, one_pass.lanczos_table(), out, plateau, count)
    return out, plateau, count


def smooth_sky(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for _ in range(60):
        a, b = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        image += rng.uniform(10, 1000) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 2.0)
    return image.astype(np.float32)


@pytest.mark.parametrize("step", [16, 32, 64])
@pytest.mark.parametrize(
    ("dx", "dy", "turn", "stretch"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (3.37, -2.61, 3e-4, 2e-5),
        (-0.02, 0.49, -1e-3, 1e-4),
        (2.47, 7.13, 0.03, 0.01),
        (500.0, 0.0, 0.0, 0.0),
    ],
)
def test_as_one_pass(rng: np.random.Generator, step: int, dx: float, dy: float, turn: float, stretch: float) -> None:
    """The last but one map is not straight enough for two passes, the last one lies outside."""
    image, shape = smooth_sky(rng, (150, 170)), (140, 180)
    mask, hole = np.zeros(image.shape, np.uint16), np.zeros(image.shape, bool)
    grid = grid_of(shape, step, dx, dy, turn, stretch)
    out, _, _ = moved(image, mask, hole, grid, step, shape)
    expected = np.empty(shape, np.float32)
    one_pass.resample(image, *grid, step, one_pass.lanczos_table(), expected)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    known = np.isfinite(expected)
    if known.any():
        assert np.abs(out - expected)[known].max() < 2e-3 * image.max()


def test_positions_and_flux_are_kept() -> None:
    """A star's centroid (under its own profile) lies where the map says to 5e-3 px, and its sum is the same to 1e-3."""
    y, x = np.mgrid[:96, :96]
    image = (1e4 * np.exp(-((x - 50.3) ** 2 + (y - 44.8) ** 2) / 2.42)).astype(np.float32)
    mask, hole = np.zeros(image.shape, np.uint16), np.zeros(image.shape, bool)
    out, _, _ = moved(image, mask, hole, grid_of((96, 96), 32, 1.37, -0.73, 5e-4, 0.0), 32, (96, 96))
    light = np.nan_to_num(out.astype(float))
    u, v = 49.0, 45.5
    for _ in range(30):
        seen = light * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 2.42)
        u += 2 * ((seen * x).sum() / seen.sum() - u)
        v += 2 * ((seen * y).sum() / seen.sum() - v)
    assert u + 1.37 - 5e-4 * v == pytest.approx(50.3, abs=5e-3)
    assert v - 0.73 + 5e-4 * u == pytest.approx(44.8, abs=5e-3)
    assert light.sum() == pytest.approx(image.sum(), rel=1e-3)


def test_holes_and_saturated_pixels_are_told_apart(rng: np.random.Generator) -> None:
    image, shape = smooth_sky(rng, (100, 100)), (100, 100)
    mask, hole = np.zeros(image.shape, np.uint16), np.zeros(image.shape, bool)
    hole[40, 50], mask[70, 20] = True, FULL
    out, plateau, count = moved(image, mask, hole, grid_of(shape, 32, 0.4, 0.3, 0.0, 0.0), 32, shape)
    lost, full = np.isnan(out) & (count == 0), count > 0
    spread, expected = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
    gx, gy, _ = grid_of(shape, 32, 0.4, 0.3, 0.0, 0.0)
    for flagged, found in ((hole, lost), (mask == FULL, full)):
        one_pass.spread_mask(flagged.astype(np.uint16), 2, spread)
        one_pass.gather_mask(spread, gx, gy, 32, 0, expected)
        inside = np.s_[:99, :99]  # beyond, nothing was seen
        np.testing.assert_array_equal(found[inside], expected[inside] > 0)
        assert found[inside].sum() == 16
    assert np.isnan(out[full]).all() and (plateau[full] != 0).all() and (plateau[~full] == 0).all()


def test_classify() -> None:
    pixels = np.array([[1.0, np.nan, np.inf, 3.0, 4.0]], np.float32)
    mask = np.array([[0, 0, 0, 1, 4]], np.uint16)
    hole, usable = np.empty(mask.shape, bool), np.empty(mask.shape, bool)
    move.classify(pixels, mask, np.uint16(3), FULL, hole, usable)
    assert hole.tolist() == [[False, True, True, True, False]]
    assert usable.tolist() == [[True, False, False, False, False]]


def test_a_map_that_is_not_a_number_gives_nothing() -> None:
    image, shape = np.ones((70, 70), np.float32), (64, 64)
    grid = grid_of(shape, 32, 0.0, 0.0, 0.0, 0.0)
    grid[0][0, 0] = np.nan
    out, _, _ = moved(image, np.zeros((70, 70), np.uint16), np.zeros((70, 70), bool), grid, 32, shape)
    assert np.isnan(out[:31, :31]).all() and np.allclose(out[33:, 33:], 1.0, atol=1e-5)
