"""Aperture kernels against `sep`, which measures the same aperture by aperture."""

from __future__ import annotations

import numpy as np
import pytest
import sep

from ztfds.kernels import apertures

RADII = np.array([1.0, 1.5, 2.0, 3.0, 5.0, 7.0])
SIGMA, GAIN = 5.0, 6.2


@pytest.fixture
def field(rng):
    """Image with stars and bad pixels, and positions: many of them at bad pixels and at the borders."""
    data = rng.normal(0, SIGMA, (120, 140)).astype(np.float32)
    y, x = np.mgrid[:120, :140]
    for _ in range(30):
        cx, cy, flux = rng.uniform(0, 139), rng.uniform(0, 119), rng.uniform(500, 50_000)
        data += (flux / 12.6 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 4.0)).astype(np.float32)
    usable = rng.random(data.shape) > 0.01
    usable[40:50, 60:90] = False
    data[~usable] = 1e6  # what stands in a bad pixel must not matter
    xs, ys = rng.uniform(-0.4, 139.4, 300), rng.uniform(-0.4, 119.4, 300)
    xs[:40], ys[:40] = rng.uniform(58, 92, 40), rng.uniform(38, 52, 40)
    return data, usable, xs, ys


def test_circles_hold_what_sep_finds_in_each_of_them(field):
    data, usable, xs, ys = field
    flux, error, flags = np.empty((300, 6)), np.empty((300, 6)), np.empty(300, np.int64)
    apertures.circular_apertures(data, usable, xs, ys, RADII, SIGMA, GAIN, flux, error, flags)
    expected = np.zeros(300, np.int64)
    for k, radius in enumerate(RADII):
        f, e, flag = sep.sum_circle(data, xs, ys, radius, err=SIGMA, gain=GAIN, mask=~usable, subpix=5)
        good = np.isfinite(f)
        np.testing.assert_allclose(flux[good, k], f[good], rtol=1e-6, atol=1e-3)
        np.testing.assert_allclose(error[good, k], e[good], rtol=1e-6)
        assert np.isnan(flux[~good, k]).all() and np.isnan(error[~good, k]).all()
        expected |= flag
    np.testing.assert_array_equal(flags, expected)
    assert set(np.unique(flags)) == {0, apertures.TRUNCATED, apertures.MASKED, apertures.TRUNCATED | apertures.MASKED}


def test_half_light_radii_are_those_of_sep(field, rng):
    data, usable, xs, ys = field
    reach = rng.uniform(3, 20, xs.size)
    total, _, _ = sep.sum_circle(data, xs, ys, 0.7 * reach, mask=~usable, subpix=1)
    wanted = np.isfinite(total) & (total > 300)
    found = np.empty(xs.size)
    apertures.growth_radii(data, usable, xs, ys, reach, 0.5 * total, found)
    half, _ = sep.flux_radius(data, xs, ys, reach, 0.5, normflux=total, mask=~usable, subpix=1)
    assert wanted.sum() > 100
    np.testing.assert_allclose(found[wanted], half[wanted], atol=1e-6)


def test_light_that_is_not_there_has_no_radius(field):
    data, usable, xs, ys = field
    found = np.empty(2)
    reach, target = np.array([5.0, 5.0]), np.array([-3.0, 1e9])
    apertures.growth_radii(data, usable, xs[:2].copy(), ys[:2].copy(), reach, target, found)
    assert found.tolist() == [0.0, 5.0]
