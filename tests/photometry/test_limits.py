"""Limiting magnitudes: the two formulas, and the artificial stars that check them."""

from __future__ import annotations

import numpy as np
import pytest

from ztfds.config.photometry import InjectionConfig, PhotometryConfig
from ztfds.photometry import limits

GAIN = 6.2


@pytest.fixture(scope="module")
def found(isolated):
    """The isolated stars' image with artificial stars: limiting flux, what was recovered, and the arguments."""
    scene, photometry, psf = isolated
    usable = scene.mask == 0
    data = photometry.background.subtracted(scene.pixels, usable)
    limit = limits.limiting_flux_formula(photometry.background, psf, GAIN)
    arguments = (photometry, data, usable, psf, GAIN, limit, PhotometryConfig().detection)
    return limit, limits.inject(*arguments, InjectionConfig(number=100)), arguments


def test_stars_at_the_limit_are_mostly_found_and_half_of_fainter_ones(found):
    """A 5 sigma star passes the 4 sigma threshold of the nearly optimal filter four times out of five."""
    limit, result, _ = found
    assert result.number.tolist() == [100] * 5
    assert 0.6 < result.fraction_at(limit) < 0.95
    assert result.recovered[0] < 25 and result.recovered[-1] > 95
    assert 0.7 * limit < result.half_flux_dn < 1.0 * limit


def test_the_formula_and_the_catalog_agree_with_the_artificial_stars(found, isolated):
    limit, result, _ = found
    catalog = limits.limiting_flux_catalog(isolated[1].catalog)
    assert catalog == pytest.approx(limit, rel=0.08)
    assert result.fraction_at(catalog) == pytest.approx(result.fraction_at(limit), abs=0.15)


def test_the_check_is_repeatable_and_leaves_the_image_alone(found):
    _, result, arguments = found
    before = arguments[0].residual.copy()
    again = limits.inject(*arguments, InjectionConfig(number=100))
    np.testing.assert_array_equal(again.recovered, result.recovered)
    np.testing.assert_array_equal(arguments[0].residual, before)


def test_a_wrong_limit_is_noticed(found):
    """A limit of half the true flux: most of its stars are lost, which the quality bit SHALLOW says."""
    limit, _, arguments = found
    photometry, data, usable, psf, gain, _, detection = arguments
    result = limits.inject(photometry, data, usable, psf, gain, limit / 2, detection, InjectionConfig(number=100))
    assert result.fraction_at(limit / 2) < 0.3


def test_images_without_room_for_stars_are_not_judged(found):
    _, _, arguments = found
    photometry, data, usable, psf, gain, limit, detection = arguments
    for use in (np.zeros_like(usable), usable[:40, :40]):
        result = limits.inject(
            photometry, data[: use.shape[0], : use.shape[1]], use, psf, gain, limit, detection, InjectionConfig()
        )
        assert np.isnan(result.fraction_at(limit)) and np.isnan(result.half_flux_dn)


def test_too_few_faint_sources_give_no_limit(isolated):
    assert np.isnan(limits.limiting_flux_catalog(isolated[1].catalog[:5]))
