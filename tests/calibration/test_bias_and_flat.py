"""Bias and flat stacks, and their acceptance, on frames made with numpy from known patterns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import sigma_clip

from ztfds.calibration.bias import stack_bias
from ztfds.calibration.flat import clipped_mean, stack_flat
from ztfds.calibration.products import CalibrationImage, accept
from ztfds.calibration.stacking import noisy_threshold
from ztfds.config.detrend import BiasConfig, FlatConfig
from ztfds.formats.raw import RawQuadrant
from ztfds.survey import bits
from ztfds.survey.errors import CalibrationMissing, WrongSize

SHAPE = (264, 256)
READ_NOISE_DN, GAIN = 1.61, 6.2
NOISY, HOT = (40, 50), (60, 70)
DATE = fits.Header({"OBSJD": 58800.5 + 2400000.5})
A, B = -1.36e-11, 6.38e-07  # CCD 3, quadrant 1, late 2019


def overscan_of(rng, level):
    return np.rint(rng.normal(level, READ_NOISE_DN, (SHAPE[0], 30))).astype(np.uint16)


def frame(rng, signal, level):
    """One raw frame of a signal in true DN: electronics offset, non-linearity, read noise, rounding."""
    measured = signal - (A * signal**2 + B * signal) * -signal  # first order of the inverse of x / (A x^2 + B x + 1)
    pixels = np.rint(measured + level + rng.normal(0, READ_NOISE_DN, SHAPE))
    return RawQuadrant(1, 8, np.clip(pixels, 0, 65535).astype(np.uint16), overscan_of(rng, level), fits.Header())


def bias_pattern():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return 1.5 * np.sin(x / 9.0) + 0.8 * np.exp(-y / 30.0)


@pytest.fixture
def biases(rng):
    frames = []
    for _ in range(20):
        raw = frame(rng, bias_pattern(), 1000 + rng.normal(0, 3))
        raw.pixels[NOISY] = max(0, int(1000 + rng.normal(0, 40)))
        raw.pixels[HOT] = 9000
        ys, xs = rng.integers(0, SHAPE[0], 40), rng.integers(0, SHAPE[1], 40)
        raw.pixels[ys, xs] += 700  # radiation
        frames.append(raw)
    return frames


def test_bias_recovers_the_pattern_and_its_error(biases):
    bias = stack_bias(biases, BiasConfig.tiny())
    good = bias.cmask == 0
    residual = (bias.data - bias_pattern())[good]
    # Twenty frames: read noise and rounding; the overscan of each adds a little common noise.
    expected = np.hypot(READ_NOISE_DN, 1 / np.sqrt(12)) / np.sqrt(20)
    assert residual.std() < 1.07 * expected
    assert abs(residual.mean()) < 0.03
    assert np.median(bias.uncertainty) == pytest.approx(expected, rel=0.05)
    assert bias.qa["noise"] == pytest.approx(np.hypot(READ_NOISE_DN, 1 / np.sqrt(12)), rel=0.03)
    assert bias.qa["n_frames"] == 20


def test_bias_rejects_radiation_like_astropy(biases):
    bias = stack_bias(biases, BiasConfig.tiny())
    cube = np.array([raw.pixels.astype(float) - np.median(raw.overscan) for raw in biases])
    theirs = sigma_clip(cube, sigma=3, cenfunc="median", stdfunc="mad_std", axis=0).mean(axis=0)
    good = bias.cmask == 0
    assert np.abs(bias.data - theirs)[good].max() < 2.5
    assert (np.abs(bias.data - bias_pattern())[good] > 5 * 0.36).sum() == 0


def test_bias_marks_noisy_and_hot_pixels_and_few_others(biases):
    bias = stack_bias(biases, BiasConfig.tiny())
    assert bias.cmask[NOISY] & bits.NOISY == 16
    assert bias.cmask[HOT] & bits.DEAD
    assert bias.qa["bad_fraction"] < 2e-3
    assert np.isin(bias.cmask, [0, 16, 512, 528]).all()


def test_few_frames_do_not_make_good_pixels_noisy(biases):
    few = stack_bias(biases[:6], BiasConfig.tiny())
    assert few.qa["bad_fraction"] < 5e-3
    assert noisy_threshold(6, BiasConfig()) > 2.0
    assert noisy_threshold(12, BiasConfig()) == 1.85


def test_too_few_or_mixed_frames_are_refused(biases):
    with pytest.raises(CalibrationMissing, match="4 bias frames"):
        stack_bias(biases[:4], BiasConfig())
    with pytest.raises(WrongSize, match="rcid 9"):
        stack_bias([*biases[:5], replace(biases[5], rcid=9)], BiasConfig.tiny())


def response():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pattern = 1 + 0.03 * np.cos(x / 80.0) + 0.02 * (y / SHAPE[0] - 0.5)
    pattern *= 1 + np.random.default_rng(5).normal(0, 0.006, SHAPE)
    pattern[100, 100], pattern[110, 110], pattern[120, 120] = 0.4, 1.6, 0.0
    return pattern


def flats_of(rng, n=12, lamp=1.0, noisy=True):
    frames = []
    for level in rng.uniform(14_000, 19_000, n):
        signal = rng.poisson(level * response() * lamp * GAIN) / GAIN
        if noisy:
            signal[130, 130] *= rng.normal(1, 0.1)
        frames.append(frame(rng, signal + bias_pattern(), 1000 + rng.normal(0, 3)))
        frames[-1].pixels[rng.integers(0, SHAPE[0], 30), rng.integers(0, SHAPE[1], 30)] += 3000
    return frames


@pytest.fixture
def true_bias():
    none = np.zeros(SHAPE, np.uint16)
    return CalibrationImage(bias_pattern().astype(np.float32), np.full(SHAPE, 0.4, np.float32), none, {})


def test_flat_recovers_the_response(rng, true_bias):
    flat = stack_flat(flats_of(rng), true_bias, FlatConfig.tiny(), headers=[DATE] * 12)
    truth = response()
    good = flat.cmask == 0
    ratio = flat.data[good] / truth[good]
    assert good.mean() > 0.998
    shot = np.sqrt(1 / (16_500 * GAIN * 12))
    assert ratio.std() / ratio.mean() < 1.08 * shot
    assert np.median(flat.uncertainty) == pytest.approx(shot, rel=0.08)
    assert abs(flat.data[good].mean() - 1) < 1e-3
    assert flat.qa["shot_gain_e_per_dn"] == pytest.approx(GAIN, rel=0.05)
    # No dependence on the level of response: linearity was undone.
    assert abs(np.polyfit(truth[good], ratio, 1)[0]) < 5e-3


def test_linearity_matters_in_a_flat(rng, true_bias):
    """Without it the response of faint and bright pixels is biased: the test above can fail."""
    frames, dates = flats_of(rng), [DATE] * 12
    right = stack_flat(frames, true_bias, FlatConfig.tiny(), headers=dates)
    config = FlatConfig.tiny()
    wrong = stack_flat(
        frames, true_bias, config.model_copy(update={"split": config.split.model_copy(update={"linearize": False})}),
        headers=dates,
    )  # fmt: skip
    assert abs(right.data[100, 100] - 0.4 / response().mean()) < abs(wrong.data[100, 100] - 0.4 / response().mean())


def test_flat_marks_each_kind_of_bad_pixel(rng, true_bias):
    flat = stack_flat(flats_of(rng), true_bias, FlatConfig.tiny(), headers=[DATE] * 12)
    assert flat.cmask[100, 100] & bits.LOW_RESPONSE
    assert flat.cmask[110, 110] & bits.HIGH_RESPONSE
    assert flat.cmask[120, 120] & bits.DEAD
    assert flat.data[120, 120] == 1.0
    assert flat.cmask[130, 130] & bits.NOISY
    assert flat.qa["bad_fraction"] < 3e-3


def test_lamp_correction_removes_the_screens_unevenness(rng, true_bias):
    lamp = (1 + 0.1 * np.linspace(-1, 1, SHAPE[1]))[None, :] * np.ones(SHAPE)
    frames = flats_of(rng, lamp=lamp, noisy=False)
    flat = stack_flat(frames, true_bias, FlatConfig.tiny(), lamp.astype(np.float32), headers=[DATE] * 12)
    ratio = flat.data / np.where(response() > 0, response(), 1)
    left, right = ratio[:, :60][flat.cmask[:, :60] == 0], ratio[:, -60:][flat.cmask[:, -60:] == 0]
    assert left.mean() == pytest.approx(right.mean(), rel=2e-4)
    assert flat.header["LAMPCORR"]


def test_dim_and_saturated_flats_are_left_out(rng, true_bias):
    frames = flats_of(rng, 8)
    dark = frame(rng, np.full(SHAPE, 20.0), 1000)
    blinding = frame(rng, np.full(SHAPE, 46_000.0), 1000)
    flat = stack_flat([dark, *frames, blinding], true_bias, FlatConfig.tiny(), headers=[DATE] * 10)
    assert flat.qa["n_frames"] == 8
    with pytest.raises(CalibrationMissing, match="4 usable flat frames of 6"):
        stack_flat([dark, *frames[:4], blinding], true_bias, FlatConfig.tiny(), headers=[DATE] * 6)


def test_shapes_are_compared(rng, true_bias):
    with pytest.raises(WrongSize, match="lamp"):
        stack_flat(flats_of(rng, 5), true_bias, FlatConfig.tiny(), np.ones((3, 3), np.float32), headers=[DATE] * 5)


def test_clipped_mean_ignores_what_is_far_out(rng):
    values = np.concatenate((rng.normal(10, 1, 5000), np.full(300, 80.0), [np.nan, np.inf]))
    assert clipped_mean(values, 3.0) == pytest.approx(10, abs=0.05)
    assert np.isnan(clipped_mean(np.array([np.nan]), 3.0))
    assert clipped_mean(np.full(5, 3.0), 3.0) == 3.0


def some_bias(rng, noise=1.0, level=0.0, bad=0.0, n=20.0, pattern=0.0):
    """A calibration image with honest errors around a fixed structure."""
    structure = np.random.default_rng(9).normal(0, 1, SHAPE) + pattern * np.random.default_rng(8).normal(0, 1, SHAPE)
    error = noise / np.sqrt(n)
    cmask = np.where(rng.random(SHAPE) < bad, np.uint16(16), np.uint16(0))
    data = (structure + level + rng.normal(0, error, SHAPE)).astype(np.float32)
    qa = {"n_frames": n, "mean": float(data.mean()), "noise": noise, "bad_fraction": float((cmask != 0).mean())}
    return CalibrationImage(data, np.full(SHAPE, error, np.float32), cmask, qa)


def test_a_repeatable_bias_is_accepted(rng):
    assert accept(some_bias(rng), None, BiasConfig()) == (True, "accepted")
    assert accept(some_bias(rng, level=2), some_bias(rng), BiasConfig()) == (True, "accepted")


@pytest.mark.parametrize(
    ("change", "word"),
    [({"noise": 1.6}, "noise is 1.60"), ({"level": 9.0}, "level changed by"), ({"bad": 0.05}, "noisy or dead"),
     ({"n": 3.0}, "only 3"), ({"pattern": 2.0}, "structure changed")],
)  # fmt: skip
def test_a_changed_bias_is_refused_with_its_reason(rng, change, word):
    accepted, reason = accept(some_bias(rng, **change), some_bias(rng), BiasConfig())
    assert not accepted
    assert word in reason


def test_a_bias_of_another_shape_or_with_nan_is_refused(rng):
    other = some_bias(rng)
    broken = replace(other, data=np.where(np.arange(SHAPE[1]) == 3, np.nan, other.data).astype(np.float32))
    assert "finite" in accept(broken, None, BiasConfig())[1]
    small = replace(other, data=other.data[:9], uncertainty=other.uncertainty[:9], cmask=other.cmask[:9])
    assert "shape" in accept(small, other, BiasConfig())[1]
