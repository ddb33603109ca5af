"""Matched filter, adaptive moments and sky statistics against direct sums and known sources."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve

from ztfds.kernels import background, detect


@pytest.mark.parametrize("half", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("half_box", [5, 6, 9, 14])
def test_the_filter_is_the_smoothed_image_minus_the_mean_of_a_box(rng, half, half_box):
    """Any width of kernel and box, also where they reach over the borders, and after the sums were made afresh."""
    pixels = rng.normal(0, 10, (75, 41)).astype(np.float32)
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / (0.4 * half)) ** 2).astype(np.float32)
    taps /= taps.sum()
    side = 2 * half_box + 1
    kernel = np.full((side, side), -1.0 / side**2)
    kernel[half_box - half : half_box + half + 1, half_box - half : half_box + half + 1] += np.outer(taps, taps)
    out = np.empty_like(pixels)
    detect.lowered_filter(pixels, taps, half_box, out)
    np.testing.assert_allclose(out, convolve(pixels.astype(float), kernel, mode="constant"), atol=2e-4)


@pytest.mark.parametrize("sigma", [1.0, 1.3, 2.5])
def test_moments_of_a_gaussian_are_its_own(sigma):
    """Elongated Gaussians, from a first weight that is too narrow or twice too wide."""
    y, x = np.mgrid[:61, :61]
    u, v = x - 30.3, y - 29.6
    shape = np.exp(-0.5 * (u**2 / (1.1 * sigma) ** 2 + v**2 / (0.9 * sigma) ** 2))
    data = (5000.0 * shape).astype(np.float32)
    usable = np.ones(data.shape, bool)
    for start in (0.7 * sigma, 2.0 * sigma):
        xs, ys = np.array([30.0]), np.array([30.0])
        flux, xx, yy, xy = (np.empty(1) for _ in range(4))
        detect.adaptive_moments(data, usable, xs, ys, start, flux, xx, yy, xy)
        assert (xs[0], ys[0]) == pytest.approx((30.3, 29.6), abs=2e-3)
        assert 0.5 * (xx[0] + yy[0]) == pytest.approx(sigma**2, rel=0.02)
        assert xx[0] > yy[0] and abs(xy[0]) < 0.01


def test_moments_of_nothing_are_nan(rng):
    data = np.full((40, 40), -1.0, np.float32)
    xs, ys = np.array([20.0]), np.array([20.0])
    flux, xx, yy, xy = (np.empty(1) for _ in range(4))
    detect.adaptive_moments(data, np.ones(data.shape, bool), xs, ys, 1.0, flux, xx, yy, xy)
    assert np.isnan([flux[0], xx[0], yy[0], xy[0]]).all() and (xs[0], ys[0]) == (20.0, 20.0)


def test_boxes_tell_level_and_noise_whatever_their_size(rng):
    """Odd sizes, bad pixels with any value, NaN; boxes without enough pixels are NaN."""
    pixels = rng.normal(500, 8, (300, 270)).astype(np.float32)
    usable = rng.random(pixels.shape) > 0.05
    pixels[~usable] = np.nan
    pixels[:5][~usable[:5]] = 1e30
    usable[130:256, :128] = False
    level, sigma = np.empty((3, 3), np.float32), np.empty((3, 3), np.float32)
    background.box_statistics(pixels, usable, 128, 3.0, 300, False, level, sigma)
    assert np.isnan(level[1, 0]) and np.isnan(sigma[1, 0])
    good = np.isfinite(level)
    assert good.sum() == 8
    np.testing.assert_allclose(level[good], 500, atol=1.5)
    assert np.median(level[good]) == pytest.approx(500, abs=0.3)
    assert np.median(sigma[good]) == pytest.approx(8.0 * 0.987, rel=0.02)
