"""Low-frequency flats from dithered stars and lamp corrections, against the maps that went in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztfds.calibration.products import CalibrationImage, accept, with_low_frequency
from ztfds.calibration.smooth import (
    CatalogMagnitudes,
    SmoothMap,
    StarObservations,
    basis,
    judge_map,
    lamp_correction,
    low_frequency_flat,
    terms,
)
from ztfds.config.detrend import LowFrequencyConfig
from ztfds.survey.errors import CalibrationMissing, WrongSize

SHAPE = (770, 768)
CONFIG = LowFrequencyConfig(order=4)
STEADY = LowFrequencyConfig(order=4, zeropoint_sigma_mag=0.002)


def response(x, y, gradient=0.0):
    """A response of the real size, 3 % from corner to corner, with a bump that no polynomial of order 2 follows."""
    u, v = x / SHAPE[1] - 0.5, y / SHAPE[0] - 0.5
    return 1 + 0.03 * (u**2 - v * u) - 0.015 * np.exp(-((u - 0.2) ** 2 + (v + 0.1) ** 2) / 0.15) + gradient * u


def truth(gradient=0.0):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    image = response(x, y, gradient)
    return image / image.mean()


def epochs(rng, n=25, stars=600, dither=70.0, zero=0.3, gradient=0.0, photon=0.01):
    """Observations of stars on a sky three dithers wider than the quadrant, a twentieth of them variable."""
    sky = rng.uniform(-200, 970, (stars, 2))
    mag = rng.uniform(14, 18, stars)
    rows = []
    for epoch in range(n):
        x, y = (sky + rng.normal(0, dither, 2)).T
        z = rng.normal(0, zero)
        observed = mag + z - 2.5 * np.log10(response(x, y, gradient)) + rng.normal(0, photon, stars)
        observed[::20] += rng.normal(0, 0.3, observed[::20].size)
        inside = np.flatnonzero((x > 0) & (x < SHAPE[1] - 1) & (y > 0) & (y < SHAPE[0] - 1))
        rows.append(np.column_stack([inside, np.full(inside.size, epoch), x[inside], y[inside], observed[inside]]))
    table = np.concatenate(rows)
    found = StarObservations(
        table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2], table[:, 3], table[:, 4],
        np.full(len(table), photon),
    )  # fmt: skip
    return found, mag


def test_steady_epochs_give_the_map(rng):
    stars, _ = epochs(rng, zero=0.002)
    low = low_frequency_flat(stars, SHAPE, STEADY)
    error = low.data / truth() - 1
    assert error.std() < 4e-3
    assert np.abs(error).max() < 0.015
    assert low.qa["n_frames"] == 25 and low.data.mean() == pytest.approx(1, abs=1e-6)
    assert judge_map(low, CONFIG) == ""
    assert 0.5 < error.std() / np.sqrt(np.mean(low.uncertainty**2)) < 2.0


def test_with_a_catalog_zero_points_are_free_and_a_gradient_is_found(rng):
    stars, mag = epochs(rng, zero=0.5, gradient=0.02)
    catalog = CatalogMagnitudes(mag + rng.normal(0, 0.02, mag.size), np.full(mag.size, 0.02))
    catalog.mag[::7] = np.nan
    low = low_frequency_flat(stars, SHAPE, CONFIG, catalog)
    assert (low.data / truth(0.02) - 1).std() < 3e-3


def test_what_dithers_alone_cannot_tell_shows_in_the_uncertainty(rng):
    """A gradient and zero points that follow the dithers are the same thing."""
    stars, mag = epochs(rng, zero=0.3)
    blind = low_frequency_flat(stars, SHAPE, CONFIG.model_copy(update={"zeropoint_sigma_mag": 10.0}))
    seen = low_frequency_flat(stars, SHAPE, CONFIG, CatalogMagnitudes(mag, np.full(mag.size, 0.01)))
    assert np.median(blind.uncertainty) > 5 * np.median(seen.uncertainty)
    assert "standard error" in judge_map(blind, CONFIG)
    # Curvature needs no zero points: what is left of the error is a plane.
    y, x = np.mgrid[: SHAPE[0] : 16, : SHAPE[1] : 16].astype(float)
    error = (blind.data / truth())[::16, ::16].ravel()
    plane = np.column_stack([np.ones(error.size), x.ravel(), y.ravel()])
    assert (error - plane @ np.linalg.lstsq(plane, error, rcond=None)[0]).std() < 2e-3


def test_too_few_epochs_stars_or_places_are_named(rng):
    stars, _ = epochs(rng, n=4)
    with pytest.raises(CalibrationMissing, match="4 epochs"):
        low_frequency_flat(stars, SHAPE, STEADY)
    stars, _ = epochs(rng, stars=60)
    with pytest.raises(CalibrationMissing, match="at least 5 and 100"):
        low_frequency_flat(stars, SHAPE, STEADY)
    stars, _ = epochs(rng)
    corner = (stars.x < 200) & (stars.y < 200)
    left = StarObservations(*(values[~corner] for values in vars(stars).values()))
    with pytest.raises(CalibrationMissing, match="a part of the quadrant has 0"):
        low_frequency_flat(left, SHAPE, CONFIG)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_a_map_is_the_same_as_an_image_and_at_positions(seed, order):
    rng = np.random.default_rng(seed)
    k = len(terms(order))
    smooth = SmoothMap((37, 53), order, rng.normal(0, 0.01, k), np.eye(k) * 1e-6)
    y, x = rng.integers(0, 37, 20), rng.integers(0, 53, 20)
    assert np.allclose(smooth.image()[y, x], smooth.at(x, y), atol=1e-12)
    assert basis(x, y, (37, 53), order).shape == (20, k)
    assert np.all(smooth.error_image() >= 0)


def flat(data, noise=0.001, seed=1, **figures):
    pattern = 1 + np.random.default_rng(4).normal(0, 0.006, SHAPE)
    pixels = data * pattern * (1 + np.random.default_rng(seed).normal(0, noise, SHAPE))
    cmask = np.zeros(SHAPE, np.uint16)
    cmask[100:130, 200:210] = 16
    qa = {
        "n_frames": 12.0,
        "mean": 1.0,
        "noise": noise * np.sqrt(12),
        "bad_fraction": 5e-4,
        "structure": 0.02,
        **figures,
    }
    return CalibrationImage(pixels.astype(np.float32), np.full(SHAPE, noise, np.float32), cmask, qa)


def test_the_lamp_correction_is_the_ratio(rng):
    """Whatever the pixels look like; and flats divided by it show the response to the sky."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / 770.0
    lamp = 1 + 0.01 * (x - 0.5) - 0.02 * (y - 0.5) ** 2
    lamp /= lamp.mean()
    dome, sky = flat(truth() * lamp), flat(truth(), seed=2)
    dome.data[100:130, 200:210] = 30.0  # bad pixels do not matter
    found = lamp_correction(dome, sky, CONFIG)
    assert np.abs(found.data / lamp - 1).max() < 5e-4
    assert np.median(found.uncertainty) < 1e-4
    assert found.header["CALTYPE"] == "lampcorr"
    with pytest.raises(WrongSize):
        lamp_correction(dome, replace(sky, data=sky.data[:9]), CONFIG)
    with pytest.raises(CalibrationMissing, match="parts of the quadrant"):
        lamp_correction(dome, replace(sky, cmask=np.full(SHAPE, 16, np.uint16)), CONFIG)


def test_stars_measure_the_lamp_of_the_screen(rng):
    """A dome flat under an uneven lamp, stars flattened with it: both products together give the true response."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    dome = flat(np.ones(SHAPE))  # a flat response under a lamp that is the inverse of what the stars will show
    stars, _ = epochs(rng, zero=0.002)
    low = low_frequency_flat(stars, SHAPE, STEADY)
    whole = with_low_frequency(dome, low)
    lamp = lamp_correction(dome, whole, CONFIG)
    assert (lamp.data * response(x, y)).std() / response(x, y).mean() < 4e-3
    assert np.array_equal(whole.cmask, dome.cmask)
    with pytest.raises(WrongSize):
        with_low_frequency(dome, replace(low, data=low.data[:5]))


def test_a_map_that_changed_is_refused(rng):
    stars, _ = epochs(rng, zero=0.002)
    low = low_frequency_flat(stars, SHAPE, STEADY)
    again = low_frequency_flat(epochs(rng, zero=0.002)[0], SHAPE, STEADY)
    assert accept(again, low, CONFIG) == (True, "accepted")
    x = np.linspace(-1, 1, SHAPE[1], dtype=np.float32)
    tilted = replace(again, data=again.data * (1 + 0.05 * x))
    assert "a part of the image" in accept(tilted, low, CONFIG)[1]
