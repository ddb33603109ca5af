"""Resampling kernels against direct sums, scipy, reproject and analytic images."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import maximum_filter

from ztfds.kernels import resample as kernels
from ztfds.reference.grid import CoarseGrid, coarse_grid, resample_image, resample_mask, resample_nearest


def gaussian(shape: tuple[int, int], x0: float, y0: float, sigma: float, flux: float = 1000.0) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    value = flux / (2 * np.pi * sigma**2) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    return value.astype(np.float32)


def affine_grid(shape: tuple[int, int], matrix: np.ndarray, shift: tuple[float, float], step: int = 16) -> CoarseGrid:
    y, x = np.mgrid[0 : shape[0] + step : step, 0 : shape[1] + step : step].astype(float)
    u = matrix[0, 0] * x + matrix[0, 1] * y + shift[0]
    v = matrix[1, 0] * x + matrix[1, 1] * y + shift[1]
    return CoarseGrid(np.ascontiguousarray(u), np.ascontiguousarray(v), step, shape)


def test_a_grid_reaches_beyond_the_last_pixel() -> None:
    x, y = np.meshgrid(np.arange(0.0, 49, 16), np.arange(0.0, 65, 16))
    assert CoarseGrid(x, y, 16, (64, 48)).shape == (64, 48)
    for shape in ((65, 48), (64, 49)):
        with pytest.raises(ValueError, match="do not cover"):
            CoarseGrid(x, y, 16, shape)


def test_table_is_the_lanczos_window() -> None:
    table = kernels.lanczos_table(8)
    assert table.shape == (6, 9)
    np.testing.assert_allclose(table.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(table[:, 0], [0, 0, 1, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(table[:, 4], table[::-1, 4], atol=1e-7)
    u = 0.25 - (np.arange(6) - 2)
    expected = np.sinc(u) * np.sinc(u / 3) * (np.abs(u) < 3)
    np.testing.assert_allclose(table[:, 2], expected / expected.sum(), atol=1e-6)


def test_whole_pixel_shift_is_exact(rng: np.random.Generator) -> None:
    image = rng.normal(0, 1, (90, 100)).astype(np.float32)
    grid = affine_grid((60, 70), np.eye(2), (12.0, 7.0))
    np.testing.assert_allclose(resample_image(image, grid), image[7:67, 12:82], atol=2e-6)


def test_against_direct_sum(rng: np.random.Generator) -> None:
    image = rng.normal(0, 1, (80, 96)).astype(np.float32)
    matrix = np.array([[1.003, 0.02], [-0.015, 0.996]])
    grid = affine_grid((50, 64), matrix, (9.37, 11.81))
    out = resample_image(image, grid)
    area = abs(np.linalg.det(matrix))
    for j, i in ((0, 0), (3, 17), (49, 63), (25, 31), (48, 2)):
        x, y = matrix @ (i, j) + (9.37, 11.81)
        ix, iy = int(np.floor(x)), int(np.floor(y))
        k = np.arange(-2, 4)
        wx, wy = (np.sinc(d) * np.sinc(d / 3) for d in (x - ix - k, y - iy - k))
        expected = (wy / wy.sum()) @ image[iy - 2 : iy + 4, ix - 2 : ix + 4] @ (wx / wx.sum())
        assert out[j, i] == pytest.approx(area * expected, abs=4e-3)  # 1 / 1024 px of phase on pure noise


def test_flux_and_position_of_a_star_survive() -> None:
    scale = 1.003
    grid = affine_grid((80, 80), np.eye(2) * scale, (5.3, 3.7))
    star = gaussian((100, 100), 47.2, 51.9, 1.1)
    out = resample_image(star, grid)
    assert out.sum() == pytest.approx(1000.0, rel=5e-4)
    expected = gaussian((80, 80), (47.2 - 5.3) / scale, (51.9 - 3.7) / scale, 1.1 / scale)
    np.testing.assert_allclose(out, expected, atol=0.012 * expected.max())
    for slope in np.gradient(expected):
        shift = -((out - expected) * slope).sum() / (slope**2).sum()
        assert abs(shift) < 0.003


def tpv_like_pair() -> tuple[WCS, WCS]:
    """Two distorted systems: TPV coefficients of ZTF's size, turned and shifted against each other."""
    systems = []
    for angle, shift, quadratic in ((0.0, 0.0, 4.5e-4), (0.05, 4.4, 2.0e-4)):
        header: dict[str, object] = {
            "NAXIS": 2,
            "CTYPE1": "RA---TPV",
            "CTYPE2": "DEC--TPV",
            "CRVAL1": 150.0,
            "CRVAL2": 30.0,
        }
        header |= {"CRPIX1": 1536.5 + shift, "CRPIX2": 1540.5 - shift, "CUNIT1": "deg", "CUNIT2": "deg"}
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        header |= {"CD1_1": -2.81e-4 * c, "CD1_2": 2.81e-4 * s, "CD2_1": -2.81e-4 * s, "CD2_2": -2.81e-4 * c}
        header |= {"PV1_1": 1.0, "PV2_1": 1.0, "PV1_4": quadratic, "PV2_5": -quadratic, "PV1_7": 3e-4, "PV2_9": -2e-4}
        systems.append(WCS(fits.Header(header)))
    return systems[0], systems[1]


def test_coarse_grid_is_exact_to_a_thousandth_of_a_pixel(rng: np.random.Generator) -> None:
    out_wcs, in_wcs = tpv_like_pair()
    grid = coarse_grid(out_wcs, in_wcs, (3080, 3072), 64)
    x, y = rng.uniform(0, 3071, 500), rng.uniform(0, 3079, 500)
    u, v = grid.at(x, y)
    expected = in_wcs.all_world2pix(*out_wcs.all_pix2world(x, y, 0), 0)
    assert np.abs(u - expected[0]).max() < 1e-3
    assert np.abs(v - expected[1]).max() < 1e-3


def test_against_reproject() -> None:
    reproject = pytest.importorskip("reproject")
    shape = (120, 128)
    systems = []
    for angle, shift in ((0.0, 0.0), (0.7, 3.3)):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 30.0]
        wcs.wcs.crpix = [64.5 + shift, 60.5 - shift]
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        wcs.wcs.cd = -2.81e-4 * np.array([[c, -s], [s, c]])
        systems.append(wcs)
    image = sum(gaussian(shape, x, y, 1.3) for x, y in ((30, 40), (77.5, 61.2), (99.1, 20.4), (50.5, 100.5)))
    ours = resample_image(image, coarse_grid(systems[1], systems[0], shape, 16))
    theirs, footprint = reproject.reproject_interp((image, systems[0]), systems[1], shape_out=shape, order="bicubic")
    inside = (footprint > 0) & np.isfinite(ours)
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=0.02 * image.max())


def test_outside_is_nan_and_borders_are_not_lost() -> None:
    image = np.full((50, 50), 7.0, np.float32)
    out = resample_image(image, affine_grid((64, 64), np.eye(2), (-5.5, -4.0)))
    assert np.isnan(out[:4]).all()
    assert np.isnan(out[:, :5]).all()
    np.testing.assert_allclose(out[4:54, 5:55], 7.0, rtol=1e-5)


def test_mask_reaches_the_pixels_that_a_bad_one_spoils() -> None:
    mask = np.zeros((40, 40), np.uint16)
    mask[20, 15] = 256
    grid = affine_grid((40, 40), np.eye(2), (0.5, 0.0))
    near = resample_mask(mask, grid, 1, 1024)
    far = resample_mask(mask, grid, 2, 1024)
    assert set(zip(*np.nonzero(near == 256), strict=True)) == {(j, i) for j in (19, 20) for i in (14, 15)}
    assert (far == 256).sum() == 16
    assert (far[:, -1] == 0).all()
    assert (resample_mask(mask, affine_grid((40, 40), np.eye(2), (-3.0, 0.0)), 1, 1024)[:, :2] == 1024).all()


def test_nearest_takes_the_nearest() -> None:
    image = np.arange(100, dtype=np.float32).reshape(10, 10)
    out = resample_nearest(image, affine_grid((9, 9), np.eye(2), (0.4, 0.6)))
    np.testing.assert_array_equal(out[:8, :8], image[1:9, :8])


def test_holes_are_filled_from_their_rim() -> None:
    y, x = np.mgrid[:40, :40].astype(np.float32)
    plane = 3 * x + 2 * y
    image, bad = plane.copy(), np.zeros((40, 40), bool)
    bad[10:13, 20:24], bad[30, 5], bad[0, 0] = True, True, True
    image[bad] = np.nan
    assert kernels.fill_holes(image, bad, 4) == 0
    assert np.abs(image - plane)[bad].max() < 5.0
    np.testing.assert_array_equal(image[~bad], plane[~bad])


def test_deep_holes_become_zero() -> None:
    image, bad = np.full((30, 30), 5.0, np.float32), np.zeros((30, 30), bool)
    bad[5:25, 5:25] = True
    assert kernels.fill_holes(image, bad, 3) == 14 * 14
    assert image[15, 15] == 0
    assert image[6, 6] == pytest.approx(5.0)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_grow_is_a_square_dilation(rng: np.random.Generator, reach: int) -> None:
    flags = rng.random((50, 60)) < 0.01
    expected = maximum_filter(flags, 2 * reach + 1, mode="constant")
    kernels.grow(flags, reach)
    np.testing.assert_array_equal(flags, expected)
