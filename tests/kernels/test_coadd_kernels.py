"""Co-add kernels against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from ztfds.config.difference import ReferenceConfig
from ztfds.kernels import coadd as kernels
from ztfds.kernels.stack import sorting_network
from ztfds.reference.coadd import combine, spread_scales


def gappy(rng: np.random.Generator, n: int, m: int = 600) -> np.ndarray:
    stack = rng.normal(10, 2, (n, m)).astype(np.float32)
    stack[rng.random((n, m)) < 0.2] = np.nan
    stack[:, 5] = np.nan
    return stack


@pytest.mark.parametrize("n", [2, 6, 7, 15, 18])
def test_median_with_gaps(rng: np.random.Generator, n: int) -> None:
    stack = gappy(rng, n)
    median, spread, count = (np.empty(stack.shape[1], np.float32) for _ in range(3))
    kernels.median_and_spread(stack, sorting_network(n), spread_scales(n), median, spread, count)
    known = np.isfinite(stack).any(axis=0)
    np.testing.assert_array_equal(count, np.isfinite(stack).sum(axis=0))
    np.testing.assert_allclose(median[known], np.nanmedian(stack[:, known], axis=0), rtol=1e-6)
    assert np.isnan(median[5])


@pytest.mark.parametrize("n", [6, 10, 15])
def test_spread_is_sigma(rng: np.random.Generator, n: int) -> None:
    stack = rng.normal(0, 3, (n, 20000)).astype(np.float32)
    median, spread, count = (np.empty(20000, np.float32) for _ in range(3))
    kernels.median_and_spread(stack, sorting_network(n), spread_scales(n), median, spread, count)
    assert spread.mean() == pytest.approx(3.0, rel=0.03)


def test_maximum_3x3(rng: np.random.Generator) -> None:
    image = rng.normal(0, 1, (31, 45)).astype(np.float32)
    image[3, 4] = np.nan
    out = np.empty_like(image)
    kernels.maximum_3x3(image, out)
    expected = maximum_filter(np.maximum(np.nan_to_num(image), 0), 3, mode="nearest")
    np.testing.assert_array_equal(out, expected)


def numpy_combine(stack: np.ndarray, variance: np.ndarray, gain: np.ndarray, config: ReferenceConfig) -> np.ndarray:
    """The clipped weighted mean, written as plainly as possible; spread and median from numpy."""
    median = np.nanmedian(stack, axis=0)
    brightest = maximum_filter(np.maximum(median, 0), 3, mode="nearest")
    scales = spread_scales(len(stack))
    out = np.empty(median.shape)
    for at in np.ndindex(*median.shape):
        values = stack[(slice(None), *at)]
        known = np.sort(values[np.isfinite(values)])
        c = known.size
        spread = (known[c - 1 - c // 6] - known[c // 6]) * scales[c]
        noise = variance + max(median[at], 0) / gain
        change = (config.clip_tolerance * brightest[at]) ** 2
        limit = config.clip_sigma * np.maximum(
            np.sqrt(noise + change / 9), np.minimum(spread, np.sqrt(2 * noise + change))
        )
        keep = np.isfinite(values) & (np.abs(values - median[at]) <= limit)
        out[at] = np.average(values[keep], weights=1 / variance[keep])
    return out


def test_combine_against_numpy(rng: np.random.Generator) -> None:
    n, shape = 9, (20, 24)
    variance = rng.uniform(20, 60, n)
    gain = rng.uniform(5, 7, n)
    sky = rng.uniform(-3, 200, shape)
    stack = (sky + rng.normal(0, 1, (n, *shape)) * np.sqrt(variance)[:, None, None]).astype(np.float32)
    stack[2, 5, 5], stack[3, 7, 9], stack[0, 1, 1] = 5000, -4000, np.nan
    config = ReferenceConfig()
    made = combine(stack, variance, gain, config)
    pixels, uncertainty, coverage, rejected = made.pixels, made.uncertainty, made.coverage, made.rejected.mean()
    expected = numpy_combine(stack, variance, gain, config)
    np.testing.assert_allclose(pixels, expected, atol=2e-3)
    assert coverage[5, 5] == n - 1
    assert coverage[7, 9] == n - 1
    assert coverage[1, 1] == n - 1
    assert 0 < rejected < 0.02
    floor = 1 / np.sqrt(np.sum(1 / variance))
    assert (uncertainty >= 0.999 * floor).all()


def test_uncertainty_is_the_scatter(rng: np.random.Generator) -> None:
    variance = np.array([20.0, 30.0, 25.0, 40.0, 50.0, 22.0])
    gain = np.full(6, 6.2)
    light = 300.0
    noise = np.sqrt(variance + light / gain)
    stack = (light + rng.normal(0, 1, (6, 200, 200)) * noise[:, None, None]).astype(np.float32)
    made = combine(stack, variance, gain, ReferenceConfig())
    pixels, uncertainty = made.pixels, made.uncertainty
    assert pixels.mean() == pytest.approx(light, abs=0.2)
    assert pixels.std() == pytest.approx(float(uncertainty.mean()), rel=0.02)


def test_nothing_covered_is_nan() -> None:
    stack = np.full((6, 8, 8), np.nan, np.float32)
    made = combine(stack, np.ones(6), np.ones(6), ReferenceConfig())
    assert np.isnan(made.pixels).all()
    assert np.isnan(made.uncertainty).all()
    assert (made.coverage == 0).all()
    assert (made.rejected == 0).all() or np.isfinite(made.rejected).all()
