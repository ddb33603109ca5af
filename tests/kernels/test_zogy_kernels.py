"""Differencing kernels against direct formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import convolve2d

from ztfds.difference.subtract import Tile, _small_transform, subtract_block, tile_cores, which_tile
from ztfds.kernels import zogy as kernels


def gauss(size: int, sigma: float, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    u = np.arange(size) - size // 2
    stamp = np.exp(-((u[None, :] - dx) ** 2 + (u[:, None] - dy) ** 2) / (2 * sigma**2))
    return (stamp / stamp.sum()).astype(np.float32)


def direct_zogy(
    new: np.ndarray, ref: np.ndarray, pn: np.ndarray, pr: np.ndarray, sn2: float, sr2: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """D, S in flux units and P_D by the formulas of Zackay et al. 2016 in complex128 on the whole (periodic) image."""

    def padded(stamp: np.ndarray) -> np.ndarray:
        out = np.zeros(new.shape)
        out[: stamp.shape[0], : stamp.shape[1]] = stamp
        return np.fft.fft2(np.roll(out, (-(stamp.shape[0] // 2), -(stamp.shape[1] // 2)), (0, 1)))

    n, r, fn, fr = np.fft.fft2(new), np.fft.fft2(ref), padded(pn), padded(pr)
    q = sn2 * np.abs(fr) ** 2 + sr2 * np.abs(fn) ** 2
    fd = 1 / np.sqrt(sn2 + sr2)
    d = (fr * n - fn * r) / np.sqrt(q)
    pd = fr * fn / (fd * np.sqrt(q))
    s = fd * d * np.conj(pd)
    flux_norm = fd * np.mean(np.abs(pd) ** 2) * fd
    return np.fft.ifft2(d).real / fd, np.fft.ifft2(s).real / flux_norm, np.fft.ifft2(pd).real


def blocks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Noise with zero borders, so that periodic and padded transforms agree."""
    new, ref = (np.zeros((96, 90), np.float32) for _ in range(2))
    new[30:66, 30:60] = rng.normal(0, 5, (36, 30))
    ref[30:66, 30:60] = rng.normal(0, 2, (36, 30))
    return new, ref, np.full(new.shape, 25.0, np.float32), np.full(new.shape, 4.0, np.float32)


def test_block_against_the_formulas(rng: np.random.Generator) -> None:
    new, ref, vn, vr = blocks(rng)
    pn, pr = gauss(25, 1.1), gauss(25, 0.9)
    diff, score, score_ref, variance, psf = subtract_block(new, ref, vn, vr, pn, pr)
    d, s, pd = direct_zogy(new, ref, pn, pr, 25.0, 4.0)
    np.testing.assert_allclose(diff[20:76, 20:70], d[20:76, 20:70], atol=0.02)
    np.testing.assert_allclose(score[20:76, 20:70], s[20:76, 20:70], atol=0.05)
    assert psf.noise == pytest.approx(np.sqrt(29.0))
    np.testing.assert_allclose(psf.stamp, np.roll(pd, (12, 12), (0, 1))[:25, :25], atol=2e-4)
    # the variance of the score far from the edges is that of white noise through the two kernels
    assert np.ptp(variance[40:56, 40:50]) < 1e-3 * variance.mean()
    assert np.sqrt(variance[48, 45]) == pytest.approx(psf.limit, rel=0.01)
    assert np.isfinite(score_ref).all()


def test_separable_convolution(rng: np.random.Generator) -> None:
    image, out = rng.normal(5, 1, (40, 37)).astype(np.float32), np.ones((40, 37), np.float32)
    column, row = rng.random(7).astype(np.float32), rng.random(7).astype(np.float32)
    kernels.add_separable(image, 5.0, column, row, out)
    expected = convolve2d(image, np.outer(column, row), mode="same", boundary="fill", fillvalue=5.0)
    np.testing.assert_allclose(out, 1 + expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(60, 64), (75, 81)])
def test_small_transform_is_the_fft(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    stamp = rng.normal(0, 1, (25, 25)).astype(np.float32)
    padded = np.zeros(shape)
    padded[:25, :25] = stamp
    expected = np.fft.rfft2(np.roll(padded, (-12, -12), (0, 1)))
    np.testing.assert_allclose(_small_transform(stamp, shape), expected, atol=2e-4)


def test_a_star_comes_out_with_its_flux() -> None:
    new, ref = np.zeros((101, 101), np.float32), np.zeros((101, 101), np.float32)
    new[38:63, 38:63] = 1000 * gauss(25, 1.2)
    variance = np.full(new.shape, 9.0, np.float32)
    diff, score, _, _, psf = subtract_block(new, ref, variance, variance, gauss(25, 1.2), gauss(25, 1.0))
    assert score[50, 50] == pytest.approx(1000, rel=2e-3)
    np.testing.assert_allclose(diff[38:63, 38:63], 1000 * psf.stamp, atol=0.3)
    half = psf.fine.shape[0] // 2
    np.testing.assert_allclose(psf.fine[half::5, half::5][:8, :8], psf.stamp[12:20, 12:20], atol=1e-4)


def test_equal_images_cancel(rng: np.random.Generator) -> None:
    sky = np.zeros((120, 120), np.float32)
    sky[30:90, 30:90][rng.random((60, 60)) < 0.01] = 5000

    def blur(psf: np.ndarray) -> np.ndarray:
        full = np.zeros(sky.shape)
        full[:25, :25] = psf
        return np.fft.ifft2(np.fft.fft2(sky) * np.fft.fft2(np.roll(full, (-12, -12), (0, 1)))).real.astype(np.float32)

    pn, pr = gauss(25, 1.3), gauss(25, 1.0)
    variance = np.full(sky.shape, 16.0, np.float32)
    diff, score, score_ref, _, _ = subtract_block(blur(pn), blur(pr), variance, variance, pn, pr)
    assert np.abs(diff).max() < 0.2
    assert np.abs(score).max() < 2e-4 * score_ref.max()


def test_corrected_score_terms(rng: np.random.Generator) -> None:
    score = rng.normal(0, 3, (20, 22)).astype(np.float32)
    score_ref = rng.normal(0, 50, (20, 22)).astype(np.float32)
    variance = np.full((20, 22), 9.0, np.float32)
    out = variance.copy()
    kernels.corrected_score(score, score_ref, 0.01, 0.04, 1e-4, out)
    j, i = 8, 13
    gx = 0.5 * (score_ref[j, i + 1] - score_ref[j, i - 1])
    gy = 0.5 * (score_ref[j + 1, i] - score_ref[j - 1, i])
    v = 9 + 0.01 * gx**2 + 0.04 * gy**2 + 1e-4 * score_ref[j, i] ** 2
    assert out[j, i] == pytest.approx(score[j, i] / np.sqrt(v), rel=1e-5)


def test_match_stars_measures_ratio_and_shift(rng: np.random.Generator) -> None:
    pn, pr = gauss(25, 1.2), gauss(25, 1.0)
    new, ref = np.zeros((80, 80), np.float32), np.zeros((80, 80), np.float32)
    new[28:53, 28:53] = 900 * gauss(25, 1.2, 0.08, -0.05)
    ref[28:53, 28:53] = 1000 * gauss(25, 1.0)
    out = np.empty((1, 7))
    at, ones = np.array([40], np.int64), np.ones_like(new)
    kernels.match_stars(new + 3, ref, ones, ones, at, at, np.zeros(1, np.int64), pn[None], pr[None], 5, out)
    assert out[0, 0] == pytest.approx(0.9, rel=2e-3)
    assert out[0, 1] == pytest.approx(0.08, abs=2e-3)
    assert out[0, 2] == pytest.approx(-0.05, abs=2e-3)
    assert out[0, 3] < 0.01


def test_match_and_patch() -> None:
    new, ref = np.full((70, 70), 10.0, np.float32), np.full((70, 70), 20.0, np.float32)
    bad_new, bad_ref = np.zeros((70, 70), bool), np.zeros((70, 70), bool)
    bad_new[10, 10], bad_ref[20, 20], bad_new[30, 30], bad_ref[30, 30] = True, True, True, True
    new[10, 10], ref[20, 20] = -999, 999
    both, mesh = np.empty((70, 70), bool), np.full((2, 2), 1.5, np.float32)
    sky, variance = np.full((70, 70), 88.5, np.float32), np.zeros((70, 70), np.float32)
    kernels.match_and_patch(new, ref, bad_new, bad_ref, mesh, 64, 0.5, both, sky, 0.25, 4.0, variance)
    assert new[10, 10] == ref[10, 10] == pytest.approx(11.5)
    assert ref[20, 20] == new[20, 20] == pytest.approx(10.0)
    assert new[30, 30] == ref[30, 30] == 0
    assert list(zip(*np.nonzero(both), strict=True)) == [(30, 30)]
    assert variance[5, 5] == pytest.approx((88.5 + 11.5) * 0.25 + 4)  # of the expected light, not of the pixel


def test_tiles_cover_the_image_once() -> None:
    from ztfds.config.difference import DifferenceConfig

    cores = tile_cores((3080, 3072), DifferenceConfig())
    assert len(cores) == 49
    cover = np.zeros((3080, 3072), np.uint8)
    for y0, y1, x0, x1 in cores:
        cover[y0:y1, x0:x1] += 1
    assert (cover == 1).all()
    tiles = [Tile(core, core, gauss(25, 1.0), gauss(25, 1.0)) for core in cores]
    assert list(which_tile(tiles, np.array([0.0, 3079.0, 1500.0]), np.array([0.0, 3071.0, 10.0]))) == [0, 48, 21]
    assert len(tile_cores((264, 256), DifferenceConfig())) == 1
