"""Overscan, linearity, saturation, bias and flat against independent arithmetic and known truth."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import sigma_clip
from scipy.ndimage import binary_dilation

from ztfds.calibration.products import CalibrationImage
from ztfds.config.detrend import DetrendConfig, SplitConfig
from ztfds.detrend.apply import detrend
from ztfds.detrend.overscan import model_overscan, usable_columns
from ztfds.detrend.split import SplitQuadrant, linearity_of, split
from ztfds.formats.raw import RawQuadrant
from ztfds.kernels import detrend as kernels
from ztfds.survey import bits
from ztfds.survey.errors import MissingKeyword, WrongSize

SHAPE = (600, 200)
MJD = 58800.3


def drift(rows, qid):
    """A smooth offset along the rows in the order of reading, DN, returned in the stored order."""
    t = np.linspace(0, 1, rows)
    level = 1003.7 + 2.5 * (t - 0.5) + 1.2 * np.exp(-4 * t)
    return level[::-1] if qid in (3, 4) else level


def strip(rng, qid, noise=1.6, shape=SHAPE):
    return np.rint(drift(shape[0], qid)[:, None] + rng.normal(0, noise, (shape[0], 30))).astype(np.uint16)


def raw_of(pixels, overscan, qid=1, ccdid=3, **cards):
    return RawQuadrant(qid, 4 * (ccdid - 1) + qid - 1, pixels.astype(np.uint16), overscan, fits.Header(cards))


def header(mjd=MJD):
    return fits.Header({"OBSJD": mjd + 2400000.5})


def test_row_levels_agree_with_astropys_clipping(rng):
    values = rng.normal(1000, 2, (400, 17)).round().astype(np.uint16)
    values[::7, 3] += 500
    level, scatter = np.empty(400, np.float32), np.empty(400, np.float32)
    kernels.row_levels(values, 3.0, level, scatter)
    theirs = sigma_clip(values.astype(float), sigma=3, maxiters=1, cenfunc="median", stdfunc="mad_std", axis=1)
    assert np.median(np.abs(level - theirs.mean(axis=1))) == pytest.approx(0, abs=1e-3)
    assert np.abs(level - 1000).max() < 2.5
    assert np.median(scatter) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("qid", [1, 2, 3, 4])
def test_the_overscan_model_follows_the_drift(rng, qid):
    model = model_overscan(strip(rng, qid), qid, SplitConfig())
    assert np.abs(model.level - drift(SHAPE[0], qid)).max() < 0.2
    assert model.noise_dn == pytest.approx(np.hypot(1.6, 1 / np.sqrt(12)), rel=0.05)
    assert model.drift_dn == pytest.approx(drift(SHAPE[0], 1)[-1] - drift(SHAPE[0], 1)[0], abs=0.15)
    assert model.rejected_fraction < 0.02


@pytest.mark.parametrize("qid", [1, 3])
@pytest.mark.parametrize("rows", [slice(0, 150), slice(200, 380), slice(450, 600)])
def test_bleeding_into_the_overscan_does_not_pull_the_model(rng, qid, rows):
    """A quarter of the rows, at either end too, with 5 to 3000 DN of spilled charge in all columns."""
    overscan = strip(rng, qid).astype(float)
    overscan[rows] += np.geomspace(3000, 5, rows.stop - rows.start)[:, None]
    model = model_overscan(np.rint(overscan).astype(np.uint16), qid, SplitConfig())
    assert np.abs(model.level - drift(SHAPE[0], qid)).max() < 0.6
    assert model.rejected_fraction == pytest.approx((rows.stop - rows.start) / 600, abs=0.03)


def test_charge_left_in_the_first_columns_is_skipped(rng):
    overscan = strip(rng, 1).astype(float)
    overscan += 400 * np.exp(-np.arange(30) / 1.2)
    model = model_overscan(np.rint(overscan).astype(np.uint16), 1, SplitConfig())
    assert np.abs(model.level - drift(SHAPE[0], 1)).max() < 0.2


def test_a_jump_of_the_electronics_shows_in_the_quality(rng):
    overscan = strip(rng, 1)
    overscan[300:] += 12
    assert model_overscan(overscan, 1, SplitConfig()).worst_block_dn > 2
    assert model_overscan(strip(rng, 1), 1, SplitConfig()).worst_block_dn < 0.5


def test_an_overscan_that_is_too_small_is_refused(rng):
    with pytest.raises(WrongSize, match="leaves 2 columns"):
        model_overscan(strip(rng, 1)[:, :2], 1, SplitConfig())
    with pytest.raises(WrongSize, match="40 rows"):
        model_overscan(strip(rng, 1)[:40], 1, SplitConfig())


@pytest.mark.parametrize(
    ("width", "first", "used"), [(40, 8, 26), (30, 8, 16), (24, 6, 14), (20, 5, 11), (4, 1, 3), (3, 0, 3)]
)
def test_a_strip_of_another_width_is_used_in_proportion(rng, width, first, used):
    columns = usable_columns(width, SplitConfig())
    assert (columns.start, columns.stop - columns.start) == (first, used)
    overscan = rng.normal(1000.0, 3.0, (528, width)).astype(np.uint16)
    assert model_overscan(overscan, 1, SplitConfig()).mean_dn == pytest.approx(999.5, abs=0.5)


def test_a_detector_that_says_it_is_linear_is_not_corrected():
    header = fits.Header({"OBSJD": 2458200.5})
    assert linearity_of(20, header, SplitConfig()) != (0.0, 0.0)
    header["LINEAR"] = True
    assert linearity_of(20, header, SplitConfig()) == (0.0, 0.0)


# Coefficients as published for CCD 3 (amplifier h, id 0, of which quadrant 1 is made) at three epochs.
PUBLISHED = {58000.0: (-1.14e-11, 6.94e-07), 58800.0: (-1.36e-11, 6.38e-07), 59000.0: (-6.27e-12, 6.92e-08)}


@pytest.mark.parametrize("mjd", PUBLISHED)
def test_linearity_is_that_of_the_date(rng, mjd):
    a, b = PUBLISHED[mjd]
    pixels = rng.integers(1000, 50_000, SHAPE)
    overscan = np.full((SHAPE[0], 30), 1000, np.uint16)
    out = split(raw_of(pixels, overscan), header(mjd), SplitConfig())
    x = pixels - 1000.0
    assert np.allclose(out.pixels, x / (a * x**2 + b * x + 1), rtol=3e-7, atol=2e-3)
    assert out.header["LINCOEFA"] == a
    assert out.header["LINCOEFB"] == b


@pytest.mark.realdata
def test_linearity_of_every_amplifier_is_the_camera_teams(real_data, rng):
    pixels = rng.integers(1000, 50_000, (70, 16))
    overscan = np.full((70, 30), 1000, np.uint16)
    for name, mjd in (("201803", 58500.0), ("201910", 58850.0), ("202004", 59500.0)):
        text = (real_data / "detector" / f"linearity_coeffs_{name}.txt").read_text()
        rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        assert len(rows) == 64
        for ccdid, _, amplifier, a, b in rows:
            raw = raw_of(pixels, overscan, int(amplifier) + 1, int(ccdid))
            x = pixels - 1000.0
            expected = x / (float(a) * x**2 + float(b) * x + 1)
            assert np.allclose(split(raw, header(mjd), SplitConfig()).pixels, expected, rtol=1e-6, atol=5e-3)


def test_saturation_comes_from_the_raw_level(rng):
    pixels = np.full(SHAPE, 2000)
    pixels[10, 10], pixels[10, 11], pixels[20, 20] = 65535, 49999, 50000
    overscan = np.full((SHAPE[0], 30), 1000, np.uint16)
    raw = raw_of(pixels, overscan)
    by_nominal = split(raw, header(), SplitConfig())
    assert np.argwhere(by_nominal.mask).tolist() == [[10, 10], [20, 20]]
    assert by_nominal.qa["n_saturated"] == 2
    by_header = split(raw_of(pixels, overscan, SATURATE=48999.0), header(), SplitConfig())
    assert np.argwhere(by_header.mask & bits.SATURATED).tolist() == [[10, 10], [10, 11], [20, 20]]
    by_setting = split(raw, header(), SplitConfig(saturation_raw_dn=1e9))
    assert np.argwhere(by_setting.mask).tolist() == [[10, 10]]
    a, b = PUBLISHED[58800.0]
    assert by_nominal.saturation_dn == pytest.approx(49000 / (a * 49000**2 + b * 49000 + 1), rel=1e-6)


def test_quality_metrics_are_those_of_the_scene(rng):
    overscan = strip(rng, 2)
    pixels = np.rint(drift(SHAPE[0], 2)[:, None] + rng.normal(150, 6, SHAPE))
    out = split(raw_of(pixels, overscan, 2), header(), SplitConfig())
    assert out.qa["median_dn"] == pytest.approx(150, abs=0.6)
    assert out.qa["scatter_dn"] == pytest.approx(6, rel=0.1)
    assert out.qa["overscan_mean_dn"] == pytest.approx(drift(SHAPE[0], 2).mean(), abs=0.05)
    assert out.qa["read_noise_dn"] == pytest.approx(1.63, rel=0.05)
    assert abs(out.pixels.mean(axis=1) - 150).max() < 2.5


def test_a_header_without_date_is_refused(rng):
    raw = raw_of(np.full(SHAPE, 2000), strip(rng, 1))
    with pytest.raises(MissingKeyword, match="OBSJD"):
        split(raw, fits.Header(), SplitConfig())
    assert split(raw, fits.Header(), SplitConfig(linearize=False)).header["LINCOEFA"] == 0
    by_mjd = split(raw, fits.Header({"OBSMJD": MJD}), SplitConfig())
    assert np.array_equal(by_mjd.pixels, split(raw, header(), SplitConfig()).pixels)


def calibration(data, cmask=None):
    data = np.asarray(data, np.float32)
    cmask = np.zeros(data.shape, np.uint16) if cmask is None else cmask
    return CalibrationImage(data, np.zeros_like(data), cmask, {})


def signal_of(pixels, mask=None):
    pixels = np.asarray(pixels, np.float32)
    mask = np.zeros(pixels.shape, np.uint16) if mask is None else mask
    return SplitQuadrant(1, 8, pixels, mask, fits.Header(), 49000.0, {})


def test_detrending_is_bias_and_flat_with_all_masks(rng):
    signal, bias, flat = rng.normal(500, 9, SHAPE), rng.normal(2, 1, SHAPE), rng.normal(1, 0.05, SHAPE)
    of_bias, of_flat = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.uint16)
    of_bias[5, 6], of_flat[5, 6], of_flat[7, 8] = bits.NOISY, bits.LOW_RESPONSE, bits.HIGH_RESPONSE
    flat[30, 40], flat[31, 40], signal[50, 60], signal[51, 60] = 0.0, np.nan, np.nan, np.inf
    pixels, mask = detrend(signal_of(signal), calibration(bias, of_bias), calibration(flat, of_flat))
    flat[30, 40] = np.nan
    undefined = np.zeros(SHAPE, bool)
    undefined[[30, 31, 50, 51], [40, 40, 60, 60]] = True
    assert np.isnan(pixels[undefined]).all()
    assert np.allclose(pixels[~undefined], ((signal - bias) / flat)[~undefined], rtol=2e-6)
    assert mask[5, 6] == bits.NOISY | bits.LOW_RESPONSE
    assert mask[7, 8] == bits.HIGH_RESPONSE
    assert mask[30, 40] == mask[31, 40] == bits.DEAD | bits.NAN
    assert mask[50, 60] == mask[51, 60] == bits.NAN
    assert np.count_nonzero(mask) == 6


def test_saturation_grows_along_the_bleed_and_not_into_the_sky():
    pixels = np.full((80, 60), 200.0)
    mask = np.zeros(pixels.shape, np.uint16)
    pixels[30:50, 20] = 48000
    pixels[38:42, 20], mask[38:42, 20] = 50000, bits.SATURATED
    pixels[10:14, 40] = 48000  # bright, but nowhere near a saturated pixel
    config = DetrendConfig(bleed_margin_px=2)
    ones = np.ones(pixels.shape)
    _, out = detrend(signal_of(pixels, mask), calibration(0 * ones), calibration(ones), config)
    expected = np.zeros(pixels.shape, bool)
    expected[28:52, 19:22] = True
    assert np.array_equal((out & bits.SATURATED) != 0, expected)


def test_growth_without_bleeding_is_a_dilation(rng):
    mask = np.where(rng.random((100, 120)) < 0.004, np.uint16(bits.SATURATED | bits.NOISY), np.uint16(0))
    seeds = mask != 0
    n = kernels.grow_saturation(np.zeros(mask.shape, np.float32), mask, bits.SATURATED, 1.0, 50, 2)
    expected = binary_dilation(seeds, np.ones((5, 3), bool))
    assert np.array_equal((mask & bits.SATURATED) != 0, expected)
    assert n == expected.sum()
    assert np.array_equal((mask & bits.NOISY) != 0, seeds)


def test_shapes_that_differ_are_refused():
    with pytest.raises(WrongSize, match="flat"):
        detrend(signal_of(np.ones((5, 5))), calibration(np.ones((5, 5))), calibration(np.ones((5, 6))))
