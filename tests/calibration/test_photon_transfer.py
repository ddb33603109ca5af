"""Gain, read noise and saturation from pairs of frames, against what the frames were made with; channels against their history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from ztfds.calibration.bias import stack_bias
from ztfds.calibration.transfer import bias_pair_noise, clipped_variance, photon_transfer
from ztfds.config.detrend import SPLIT_RULES, BiasConfig, FlatConfig, QualityConfig
from ztfds.detrend.history import flags, judge
from ztfds.detrend.overscan import model_overscan
from ztfds.formats.raw import RawQuadrant

SHAPE = (264, 256)
GAIN, READ_NOISE_DN, WELL_DN = 6.15, 1.62, 47_000.0
BIAS = np.zeros(SHAPE, np.float32)
GOOD = np.ones(SHAPE, bool)


def response():
    return 1 + np.random.default_rng(5).normal(0, 0.03, SHAPE)


@dataclass
class Flat:
    """A linearized, bias-subtracted frame in memory."""

    pixels: np.ndarray
    level_dn: float

    def samples(self, bias, rows, out):
        out[:] = (self.pixels[rows] - bias[rows]) / self.level_dn


def flat(rng, level, hits=20):
    """Poisson light that fills wells, read noise, some radiation."""
    signal = rng.poisson(level * response() * GAIN) / GAIN
    pixels = np.minimum(signal, WELL_DN) + rng.normal(0, READ_NOISE_DN, SHAPE)
    pixels[rng.integers(0, SHAPE[0], hits), rng.integers(0, SHAPE[1], hits)] += 2000
    return Flat(pixels.astype(np.float32), float(np.median(pixels)))


def transfer(frames):
    return photon_transfer(frames, BIAS, GOOD, READ_NOISE_DN, FlatConfig())


@pytest.mark.parametrize("level", [2_500, 17_000, 35_000])
def test_the_gain_is_that_of_the_light(rng, level):
    found = transfer([flat(rng, level * f) for f in rng.uniform(0.97, 1.03, 12)])
    assert len(found.points) == 6
    assert found.gain_e_per_dn == pytest.approx(GAIN, abs=4 * found.gain_error)
    assert found.gain_error < 0.003 * GAIN
    assert found.read_noise_e == pytest.approx(READ_NOISE_DN * found.gain_e_per_dn)
    assert np.isnan(found.saturation_dn)
    assert found.unsaturated_to_dn == pytest.approx(level, rel=0.04)


def test_gains_of_many_sets_scatter_as_stated():
    pulls = []
    for seed in range(1000, 1030):
        rng = np.random.default_rng(seed)
        found = transfer([flat(rng, 15_000) for _ in range(4)])
        pulls.append((found.gain_e_per_dn - GAIN) / found.gain_error)
    assert 0.7 < np.std(pulls) < 1.4
    assert abs(np.mean(pulls)) < 0.6


def test_a_ramp_shows_where_the_wells_are_full(rng):
    levels = np.repeat(np.linspace(3_000, 54_000, 18), 2)
    found = transfer([flat(rng, level) for level in levels])
    assert found.saturation_dn == pytest.approx(WELL_DN, rel=0.04)
    assert 0.85 * WELL_DN < found.unsaturated_to_dn < found.saturation_dn
    assert found.gain_e_per_dn == pytest.approx(GAIN, rel=0.005)


def test_a_flickering_lamp_does_not_matter_and_nothing_is_invented(rng):
    steady = [flat(rng, 15_000) for _ in range(8)]
    noisy = [
        Flat(f.pixels + rng.normal(0, 60, SHAPE).astype(np.float32), f.level_dn)
        for f in (flat(rng, 9_000), flat(rng, 9_000))
    ]
    assert transfer(steady + noisy).gain_e_per_dn == pytest.approx(GAIN, rel=0.01)
    assert np.isnan(transfer([flat(rng, 5_000)]).gain_e_per_dn)
    assert np.isnan(transfer([flat(rng, 5_000), flat(rng, 9_000)]).gain_e_per_dn)


def biases(rng, n=20):
    frames = []
    for _ in range(n):
        level = 1000 + rng.normal(0, 3)
        pixels = np.rint(level + rng.normal(0, READ_NOISE_DN, SHAPE))
        pixels[rng.integers(0, SHAPE[0], 15), rng.integers(0, SHAPE[1], 15)] += 900
        strip = np.rint(rng.normal(level, READ_NOISE_DN, (SHAPE[0], 30)))
        frames.append(RawQuadrant(1, 8, pixels.astype(np.uint16), strip.astype(np.uint16), fits.Header()))
    return frames


def test_read_noise_of_bias_pairs_is_free_of_rounding(rng):
    raws, config = biases(rng), BiasConfig.tiny()
    overscans = [model_overscan(raw.overscan, 1, config.split) for raw in raws]
    noise, error = bias_pair_noise(raws, overscans, config)
    assert noise == pytest.approx(READ_NOISE_DN, abs=4 * error)
    assert error < 0.004
    assert np.isnan(bias_pair_noise(raws[:1], overscans[:1], config)[0])


def test_a_disturbed_frame_does_not_move_the_read_noise(rng):
    raws = biases(rng)
    raws[4].pixels[:] = np.rint(1000 + rng.normal(0, 9, SHAPE))
    assert stack_bias(raws, BiasConfig.tiny()).qa["read_noise_dn"] == pytest.approx(READ_NOISE_DN, rel=0.02)


def test_a_stack_is_within_two_percent_of_ideal_and_rejects_what_was_planted():
    """In all, and in the pixels that were hit: 20 frames with outliers from 10 to 10,000 sigma."""
    rng = np.random.default_rng(1001)
    raws, hits = biases(rng), np.zeros(SHAPE, int)
    for raw in raws:
        y, x = rng.integers(0, SHAPE[0], 400), rng.integers(0, SHAPE[1], 400)
        raw.pixels[y, x] += np.geomspace(16, 16_000, 400).astype(np.uint16)
        hits[y, x] += 1
    bias = stack_bias(raws, BiasConfig.tiny())
    ideal = np.hypot(READ_NOISE_DN, 1 / np.sqrt(12)) / np.sqrt(20)
    assert bias.data[hits == 0].std() < 1.02 * ideal
    hit = (hits > 0) & (hits < 5)
    assert (bias.data[hit] * np.sqrt((20 - hits[hit]) / 20)).std() < 1.05 * ideal
    assert np.abs(bias.data).max() < 7 * ideal
    assert np.sqrt(np.mean(bias.uncertainty**2)) == pytest.approx(ideal, rel=0.03)


@given(st.floats(0.01, 1e4), st.floats(-1e3, 1e3), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_clipped_variance_is_that_of_the_normal_part(sigma, centre, seed):
    values = np.random.default_rng(seed).normal(0, 1, 20_000)
    values[:200] += 1000
    assert clipped_variance(sigma * values + centre, 4.0) == pytest.approx(sigma**2, rel=0.06)


# -- history -----------------------------------------------------------------------------------------------------------

METRICS = {rule.metric for rule in SPLIT_RULES}


def past(rng, n=30):
    """A channel as it usually is."""
    return [{metric: 10.0 + rng.normal(0, 0.01) for metric in METRICS} for _ in range(n)]


@pytest.mark.parametrize("rule", SPLIT_RULES, ids=lambda rule: rule.name)
def test_each_figure_is_flagged_by_its_name_and_bit(rng, rule):
    history, config = past(rng), QualityConfig()
    usual = dict.fromkeys(METRICS, 10.0)
    floor = max(rule.floor * (10.0 if rule.relative else 1.0), 0.1)
    (found,) = judge({**usual, rule.metric: 10.0 + 1.2 * floor}, history, SPLIT_RULES, config)
    assert str(found).startswith(f"{rule.name}: {rule.metric} is")
    assert flags([found]) == 1 << rule.bit
    low = judge({**usual, rule.metric: 10.0 - 1.2 * floor}, history, SPLIT_RULES, config)
    assert len(low) == (0 if rule.upwards else 1)
    assert judge({**usual, rule.metric: 10.0 + 0.8 * min(floor, rule.floor)}, history, SPLIT_RULES, config) == []


def test_a_restless_history_widens_the_limit(rng):
    history = [{"overscan_mean_dn": 1000 + rng.normal(0, 20)} for _ in range(30)]
    assert judge({"overscan_mean_dn": 1100.0}, history, SPLIT_RULES, QualityConfig()) == []
    assert judge({"overscan_mean_dn": 1400.0}, history, SPLIT_RULES, QualityConfig()) != []


def test_a_few_bad_ones_in_the_history_do_not_hide_a_departure(rng):
    history = [*past(rng, 20), *[dict.fromkeys(METRICS, 1e6)] * 9]
    assert judge({"read_noise_dn": 12.0}, history, SPLIT_RULES, QualityConfig())[0].rule.name == "read_noise"


def test_without_history_or_figure_nothing_is_said(rng):
    assert judge({"read_noise_dn": 99.0}, past(rng, 7), SPLIT_RULES, QualityConfig()) == []
    assert judge({"read_noise_dn": float("nan")}, past(rng), SPLIT_RULES, QualityConfig()) == []
    assert judge({"read_noise_dn": 99.0}, [{"read_noise_dn": None}] * 30, SPLIT_RULES, QualityConfig()) == []
    assert len({rule.bit for rule in SPLIT_RULES}) == len(SPLIT_RULES)
