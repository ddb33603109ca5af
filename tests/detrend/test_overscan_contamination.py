"""The overscan model under bright columns and bleeding; linearity back and forth and its dates; figures of a quadrant."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from ztfds.config.detrend import SplitConfig
from ztfds.detrend.overscan import model_overscan
from ztfds.detrend.split import split
from ztfds.formats.raw import RawQuadrant
from ztfds.survey import detector

ROWS = 1540
NOISE_DN = 1.6


def drift():
    t = np.linspace(0, 1, ROWS)
    return 1003.7 + 2.5 * (t - 0.5) + 1.2 * np.exp(-4 * t)


def strip(rng, added=0.0):
    return np.rint(drift()[:, None] + rng.normal(0, NOISE_DN, (ROWS, 30)) + added).astype(np.uint16)


def worst(model):
    return np.abs(model.level - drift()).max()


@pytest.mark.parametrize("height", [2.0, 6.0, 40.0, 3000.0])
@pytest.mark.parametrize("columns", [[12], [9, 10], [8, 9, 15, 20, 23]])
def test_bright_columns_are_left_out(rng, columns, height):
    """Up to five of the sixteen columns stand out over the whole strip, by little or by much."""
    added = np.zeros((ROWS, 30))
    added[:, columns] = height
    model = model_overscan(strip(rng, added), 1, SplitConfig())
    assert worst(model) < 0.2
    assert model.bright_columns == len(columns)
    assert model.noise_dn == pytest.approx(np.hypot(NOISE_DN, 1 / np.sqrt(12)), rel=0.03)


def test_a_clean_strip_loses_no_column(rng):
    for _ in range(20):
        model = model_overscan(strip(rng), 1, SplitConfig())
        assert model.bright_columns == 0
        assert abs(model.trail_dn) < 0.2


@pytest.mark.parametrize("qid", [1, 2, 3, 4])
@pytest.mark.parametrize(("first", "length", "limit"), [(0, 400, 1.2), (500, 500, 0.3), (1100, 440, 1.2)])
def test_a_saturated_column_at_the_edge_that_bleeds_into_the_overscan(rng, qid, first, length, limit):
    """A bleed that fills the last column for hundreds of rows, with a serial trail over all columns of the strip."""
    rows, column = np.arange(ROWS), np.arange(30)
    charge = np.where((rows >= first) & (rows < first + length), 50_000.0, 0.0)
    charge *= np.exp(-np.abs(rows - first - length / 2) / (0.4 * length))
    added = charge[:, None] * (4e-4 * np.exp(-column / 1.5) + 2e-3 * np.exp(-column / 12.0))
    stored = strip(rng, added)
    model = model_overscan(stored[::-1] if qid in (3, 4) else stored, qid, SplitConfig())
    level = model.level[::-1] if qid in (3, 4) else model.level
    # Where an end of the strip is spoilt the model extrapolates over more than a quarter of the rows.
    assert np.abs(level - drift()).max() < limit
    assert model.rejected_fraction > 0.8 * length / ROWS


def test_a_bright_column_and_a_bleed_together(rng):
    added = np.zeros((ROWS, 30))
    added[:, 14] = 25.0
    added[200:650] += np.geomspace(2000, 4, 450)[:, None]
    model = model_overscan(strip(rng, added), 1, SplitConfig())
    assert worst(model) < 0.6
    assert model.bright_columns == 1


def test_deferred_charge_shows_as_a_trail(rng):
    model = model_overscan(strip(rng, 12.0 * np.exp(-np.arange(30) / 10.0)), 1, SplitConfig())
    assert model.trail_dn > 1.0


@given(st.integers(0, 2**32 - 1), st.floats(-800, 30_000))
@settings(max_examples=25, deadline=None)
def test_the_model_moves_with_the_offset(seed, offset):
    """Whole DN added to everything are added to the model and to nothing else."""
    stored = strip(np.random.default_rng(seed))
    plain = model_overscan(stored, 1, SplitConfig())
    moved = model_overscan((stored.astype(int) + int(offset)).astype(np.uint16), 1, SplitConfig())
    assert np.allclose(moved.level - int(offset), plain.level, atol=0.02)
    assert moved.noise_dn == pytest.approx(plain.noise_dn, rel=1e-2)
    assert moved.drift_dn == pytest.approx(plain.drift_dn, abs=0.02)


# -- linearity ---------------------------------------------------------------------------------------------------------


def measured(signal, a, b):
    """The measured counts x of a true signal S: the root of S (a x^2 + b x + 1) = x that goes to S for small a, b."""
    p, q = a * signal, b * signal - 1.0
    return -2.0 * signal / (q - np.sqrt(q * q - 4.0 * p * signal))


@given(
    st.integers(1, 16),
    st.integers(1, 4),
    st.floats(58_200, 60_000),
    st.lists(st.floats(0, 45_000), min_size=1, max_size=9),
)
@settings(max_examples=60, deadline=None)
def test_linearity_takes_measured_counts_back_to_the_light(ccdid, qid, mjd, signals):
    """For every amplifier and date: to the half DN by which the counts were rounded."""
    a, b = detector.linearity(ccdid, qid, mjd)
    truth = np.resize(np.array(signals), (64, 16))
    raw = np.rint(measured(truth, a, b) + 1000).astype(np.uint16)
    overscan = np.full((64, 30), 1000, np.uint16)
    quadrant = RawQuadrant(qid, 4 * (ccdid - 1) + qid - 1, raw, overscan, fits.Header())
    out = split(quadrant, fits.Header({"OBSMJD": mjd}), SplitConfig())
    assert np.abs(out.pixels - truth).max() < 0.6


@pytest.mark.realdata
def test_each_set_of_coefficients_holds_on_its_days(real_data):
    """From 2018 on, from 2019-10-23, from 2020-04-28: the last set before the date, to the day."""
    sets = {"201803": (58_200.0, 58_778.999), "201910": (58_779.0, 58_966.999), "202004": (58_967.0, 61_000.0)}
    for name, days in sets.items():
        for line in (real_data / "detector" / f"linearity_coeffs_{name}.txt").read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                ccdid, _, amplifier, a, b = line.split()
                for mjd in days:
                    assert detector.linearity(int(ccdid), int(amplifier) + 1, mjd) == (float(a), float(b))


# -- figures -----------------------------------------------------------------------------------------------------------


def figures(rng, sky=150.0, change=None):
    pixels = drift()[:, None] + rng.normal(sky, np.sqrt(sky / 6.2 + NOISE_DN**2), (ROWS, 640))
    if change:
        change(pixels)
    raw = RawQuadrant(1, 8, np.clip(np.rint(pixels), 0, 65535).astype(np.uint16), strip(rng), fits.Header())
    return split(raw, fits.Header({"OBSMJD": 58800.0}), SplitConfig()).qa


def test_a_plain_sky_has_no_structure(rng):
    qa = figures(rng)
    assert qa["n_dead"] == 0 and qa["n_saturated"] == 0
    assert qa["row_structure_dn"] < 1.5
    assert qa["structure_percent"] < 1.0


@pytest.mark.parametrize("sky", [3.0, 150.0, 2000.0])
def test_dead_pixels_are_counted(rng, sky):
    """Pixels without response where the sky is bright; below it only those far under the offset."""

    def kill(pixels):
        pixels[10:20, 10:20] = (drift() if sky > 100 else drift() - 300)[10:20, None]
        pixels[500:505, 7] = 0

    assert figures(rng, sky, kill)["n_dead"] == 105


def test_banding_and_uneven_light_are_measured(rng):
    def band(pixels):
        pixels += rng.normal(0, 8, (ROWS, 1))

    def glow(pixels):
        pixels[:400, :160] += 60

    assert figures(rng, change=band)["row_structure_dn"] == pytest.approx(8, rel=0.25)
    assert figures(rng, change=glow)["structure_percent"] == pytest.approx(20, rel=0.1)
