"""The zero point against truth: values, errors, selection of calibrators, and what it says about bad images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io import fits

from ztfds.config.astrometry import ZeropointConfig
from ztfds.photometry.zeropoint import calibrate, fit_line, spatial_surface
from ztfds.survey.bits import CLOUDY, CROWDED, GHOST, PATCHY, SATURATED, WRONG_FILTER, evaluate, flags
from ztfds.survey.errors import PhotometryFailed
from ztfds.survey.filters import by_code

CONFIG = ZeropointConfig()
SHAPE = (3080, 3072)
SCALE = 1.012 / 3600
RA0, DEC0 = 359.9, 35.0


@dataclass
class Sky:
    psfcat: np.ndarray
    ps1: np.ndarray


def make_sky(
    rng, n=600, code="zg", zp=26.25, color=-0.08, *, scatter=0.01, galaxies=0.3, variables=0.05, color_spread=0.4,
    limit=20.6, extinction=None, n_companions=0,
) -> Sky:  # fmt: skip
    """A quadrant: PS1 objects uniform on the sky, instrumental magnitudes from a known zero point and colour term."""
    x, y = rng.uniform(0, SHAPE[1] - 1, n), rng.uniform(0, SHAPE[0] - 1, n)
    mag = 13.0 + 8.0 * rng.random(n) ** 0.5
    g_r = np.clip(rng.normal(0.7, color_spread, n), -0.3, 1.8)
    r_i = 0.4 * g_r + rng.normal(0, 0.03, n)
    ps1 = np.zeros(
        n, [("objid", "i8"), ("ra", "f8"), ("dec", "f8"), *((b, "f4") for b in "griz"),
            *((f"{b}_err", "f4") for b in "griz"), ("sgscore", "f4")],
    )  # fmt: skip
    ps1["ra"] = (RA0 - (x - SHAPE[1] / 2) * SCALE / np.cos(np.radians(DEC0))) % 360
    ps1["dec"] = DEC0 - (y - SHAPE[0] / 2) * SCALE
    true = {"g": mag + g_r, "r": mag, "i": mag - r_i, "z": mag - r_i - 0.1}
    for band, value in true.items():
        ps1[band + "_err"] = 0.005 + 0.02 * 10 ** (0.4 * (value - 20.5))
        ps1[band] = value + rng.normal(0, ps1[band + "_err"])
    is_star = rng.random(n) >= galaxies
    ps1["sgscore"] = np.where(is_star, rng.uniform(0.6, 1.0, n), rng.uniform(0.0, 0.4, n))
    filter_ = by_code(code)
    blue, red = filter_.color_bands
    inst = true[filter_.band] - zp - color * (true[blue] - true[red]) + rng.normal(0, scatter, n)
    inst = inst + np.where(is_star, 0, rng.uniform(0.1, 1.0, n)) + rng.normal(0, 0.4, n) * (rng.random(n) < variables)
    if extinction is not None:
        inst = inst + extinction(x, y)
    snr = 5 * 10 ** (-0.4 * (true[filter_.band] - limit))
    sigma = np.hypot(1.0857 / snr, 0.003)
    cat = np.zeros(
        n, [("sourceid", "i4"), ("xpos", "f8"), ("ypos", "f8"), ("ra", "f8"), ("dec", "f8"), ("flux", "f4"),
            ("sigflux", "f4"), ("mag", "f4"), ("sigmag", "f4"), ("snr", "f4"), ("chi", "f4"), ("sharp", "f4"),
            ("flags", "i2")],
    )  # fmt: skip
    cat["xpos"], cat["ypos"] = x, y
    cat["ra"] = ps1["ra"] + rng.normal(0, 0.03 / 3600, n) / np.cos(np.radians(DEC0))
    cat["dec"] = ps1["dec"] + rng.normal(0, 0.03 / 3600, n)
    cat["mag"], cat["sigmag"], cat["snr"] = inst + rng.normal(0, sigma), sigma, snr
    cat["flux"] = 10 ** (-0.4 * cat["mag"])
    return Sky(cat[rng.permutation(np.flatnonzero(snr > 4))], ps1)


@pytest.mark.parametrize(("code", "zp", "color"), [("zg", 26.25, -0.08), ("zr", 26.2, 0.10), ("zi", 25.6, 0.02)])
@pytest.mark.parametrize("n", [150, 3000])
def test_zero_point_and_colour_term_come_out_within_their_errors(rng, code, zp, color, n):
    pulls = []
    for _ in range(12):
        sky = make_sky(rng, n, code, zp, color)
        result = calibrate(sky.psfcat, sky.ps1, by_code(code), CONFIG, shape=SHAPE, airmass=1.1)
        assert result.color_fitted and result.pcolor == by_code(code).pcolor
        pulls.append(((result.magzp - zp) / result.magzpunc, (result.clrcoeff - color) / result.clrcounc))
        assert abs(result.magzp - zp) < 0.03
        assert result.magzprms < 0.05
        assert flags(result.metrics, by_code(code).fid, area_fraction=n / 3000)[0] & ~CLOUDY == 0
        # At the mean colour the zero point without colour term is the one with it.
        assert result.magzp + result.clrcoeff * result.clrmed == pytest.approx(result.zpmed, abs=0.02)
        assert result.zpclrcov < 0 < result.clravg
    assert 0.4 < np.std(pulls) < 1.8 and np.abs(np.mean(pulls, axis=0)).max() < 1.2


def test_many_calibrators_fix_the_zero_point_to_a_few_millimag(rng):
    sky = make_sky(rng, 5000)
    result = calibrate(sky.psfcat, sky.ps1, by_code("zg"), CONFIG, shape=SHAPE)
    assert abs(result.magzp - 26.25) < 0.006 and result.magzpunc < 0.003
    assert result.nmatches > 500 and result.n_catalog >= result.nmatches
    assert np.isfinite(result.spatial_mag).all() and result.max_spatial_mag < 0.02
    assert evaluate(result.metrics, 1)[:2] == (0, 1)
    residual = (
        sky.ps1["g"][result.ps1_index].astype(float) - sky.psfcat["mag"][result.source_index] - result.magzp
        - result.clrcoeff * (sky.ps1["g"][result.ps1_index].astype(float) - sky.ps1["r"][result.ps1_index])
    )  # fmt: skip
    np.testing.assert_allclose(residual, result.residual_mag, atol=1e-5)


def test_calibrators_are_isolated_unsaturated_stars(rng):
    sky = make_sky(rng, 2000)
    flags = rng.choice([0, -1, SATURATED, GHOST], len(sky.psfcat), p=[0.7, 0.1, 0.1, 0.1])
    sky.psfcat["flags"] = flags
    result = calibrate(sky.psfcat, sky.ps1, by_code("zg"), CONFIG)
    assert set(np.unique(sky.psfcat["flags"][result.source_index])) <= {0, GHOST}
    used = sky.ps1[result.ps1_index]
    assert used["sgscore"].min() > CONFIG.min_sgscore
    assert used["g"].min() >= CONFIG.bright_mag and used["g"].max() <= CONFIG.faint_mag
    assert len(set(result.source_index.tolist())) == result.nmatches
    # Give half of the calibrators a companion: these leave.
    crowded = result.ps1_index[::2]
    companions = sky.ps1[crowded].copy()
    companions["dec"] += 3.0 / 3600
    companions["g"] += 1.0
    again = calibrate(sky.psfcat, np.concatenate([sky.ps1, companions]), by_code("zg"), CONFIG)
    assert not set(again.ps1_index.tolist()) & set(crowded.tolist())
    assert again.nmatches >= CONFIG.min_isolated


def test_crowding_relaxes_when_nobody_is_isolated(rng):
    sky = make_sky(rng, 80, galaxies=0.0)
    companions = sky.ps1.copy()
    companions["dec"] += 4.0 / 3600
    companions["g"] += 1.0
    result = calibrate(sky.psfcat, np.concatenate([sky.ps1, companions]), by_code("zg"), CONFIG)
    assert abs(result.magzp - 26.25) < 0.05


def test_few_or_one_coloured_stars_hold_the_colour_term(rng):
    few = make_sky(rng, 20, galaxies=0.0, variables=0.0)
    result = calibrate(few.psfcat[:12], few.ps1, by_code("zg"), CONFIG)
    assert not result.color_fitted and result.clrcoeff == pytest.approx(-0.06, abs=0.1)
    assert abs(result.magzp - 26.25) < 0.12
    same = make_sky(rng, 300, color_spread=0.02)
    result = calibrate(same.psfcat, same.ps1, by_code("zg"), CONFIG)
    assert not result.color_fitted and 0.01 < result.clrcounc <= 0.06
    assert abs(result.magzp + result.clrcoeff * 0.7 - 26.25 + 0.08 * 0.7) < 0.01


def test_wrong_filter_is_suspected(rng):
    sky = make_sky(rng, 1000, "zr", 26.2, 0.1)
    result = calibrate(sky.psfcat, sky.ps1, by_code("zg"), CONFIG)
    found, reasons = flags(result.metrics, 1)
    assert found & WRONG_FILTER and any("WRONG FILTER: colour coefficient" in reason for reason in reasons)


def test_clouds_are_suspected(rng):
    gray = make_sky(rng, 800, zp=25.2)
    found, reasons = flags(calibrate(gray.psfcat, gray.ps1, by_code("zg"), CONFIG, shape=SHAPE).metrics, 1)
    assert found == CLOUDY and "zero point below that of a clear sky" in reasons[0]
    patchy = make_sky(rng, 3000, extinction=lambda x, y: 0.25 * (x > 1500))
    result = calibrate(patchy.psfcat, patchy.ps1, by_code("zg"), CONFIG, shape=SHAPE)
    assert flags(result.metrics, 1)[0] & PATCHY
    assert result.spatial_mag[:, 3].mean() - result.spatial_mag[:, 0].mean() == pytest.approx(-0.25, abs=0.05)
    bright = make_sky(rng, 800, zp=27.2)
    found, reasons = flags(calibrate(bright.psfcat, bright.ps1, by_code("zg"), CONFIG).metrics, 1)
    assert found == CLOUDY and "zero point above that of a clear sky" in reasons[0]


@pytest.mark.parametrize("code", ["zg", "zr", "zi"])
def test_clear_images_raise_no_suspicion(rng, code):
    zp = {"zg": 26.28, "zr": 26.2, "zi": 25.6}[code]
    sky = make_sky(rng, 1600, code, zp, {"zg": -0.135, "zr": 0.1, "zi": 0.01}[code])
    result = calibrate(sky.psfcat, sky.ps1, by_code(code), CONFIG, shape=SHAPE, airmass=1.02)
    assert flags(result.metrics, by_code(code).fid) == (0, [])


def test_crowds_are_said_so(rng):
    sky = make_sky(rng, 2000, galaxies=0.0)
    companions = sky.ps1.copy()
    companions["dec"] += 3.0 / 3600
    for band in "griz":
        companions[band] += 2.0
    result = calibrate(sky.psfcat, np.concatenate([sky.ps1, companions]), by_code("zg"), CONFIG)
    assert result.crowded_percent > 90 and flags(result.metrics, 1)[0] & CROWDED
    assert calibrate(sky.psfcat, sky.ps1, by_code("zg"), CONFIG).crowded_percent < 20


def test_the_surface_of_the_zero_point_comes_out(rng):
    terms = np.array([0.01, -0.006, 0.012, 0.004, -0.008])
    sky = make_sky(rng, 6000, extinction=lambda x, y: -spatial_surface(terms, x, y, SHAPE))
    result = calibrate(sky.psfcat, sky.ps1, by_code("zg"), CONFIG, shape=SHAPE)
    pull = (result.spatial_terms - terms) / result.spatial_errors
    assert np.abs(pull).max() < 4 and result.spatial_errors.max() < 0.003
    assert result.spatial_rms_mag == pytest.approx(0.0085, abs=0.0015)
    assert abs(result.magzp - 26.25) < 0.006
    flat = calibrate(*vars(make_sky(rng, 6000)).values(), by_code("zg"), CONFIG, shape=SHAPE)
    assert flat.spatial_rms_mag < 0.002
    few = make_sky(rng, 60)
    assert not calibrate(few.psfcat, few.ps1, by_code("zg"), CONFIG, shape=SHAPE).spatial_terms.any()


def test_noise_of_the_catalogs_colours_does_not_flatten_the_colour_term(rng):
    """Faint red calibrators with bad g magnitudes: an ordinary fit would be off by 15 %."""
    n, slope = 4000, 0.30
    true_color, r = rng.normal(1.2, 0.15, n), np.full(n, 19.0)
    g_error, r_error = 0.06, 0.02
    noise_r = rng.normal(0, r_error, n)
    x = true_color + rng.normal(0, g_error, n) - noise_r
    y = r + noise_r - (r - 26.0 - slope * true_color)
    sigma, var_x, shared = np.full(n, r_error), np.full(n, g_error**2 + r_error**2), np.full(n, -(r_error**2))
    fit = fit_line(x, y, sigma, 3.0, None, var_x, shared)
    assert abs(fit.slope - slope) < 3.5 * np.sqrt(fit.covariance[1, 1]) < 0.02
    assert abs(fit.zero - 26.0) < 3.5 * np.sqrt(fit.covariance[0, 0])
    assert fit_line(x, y, sigma, 3.0).slope < 0.9 * slope


def test_no_calibration_is_said_so(rng):
    sky = make_sky(rng, 300)
    with pytest.raises(PhotometryFailed, match="0 calibrators matched"):
        calibrate(sky.psfcat, sky.ps1[:0], by_code("zg"), CONFIG)
    with pytest.raises(PhotometryFailed, match="calibrators matched"):
        calibrate(sky.psfcat[:0], sky.ps1, by_code("zg"), CONFIG)
    away = sky.ps1.copy()
    away["dec"] += 0.02
    with pytest.raises(PhotometryFailed):
        calibrate(sky.psfcat, away, by_code("zg"), CONFIG)
    nowhere = sky.psfcat.copy()
    nowhere["ra"] = np.nan
    with pytest.raises(PhotometryFailed):
        calibrate(nowhere, sky.ps1, by_code("zg"), CONFIG)
    wild = sky.psfcat.copy()
    wild["mag"] += rng.uniform(-3, 3, len(wild))
    with pytest.raises(PhotometryFailed, match=r"scatter|agree"):
        calibrate(wild, sky.ps1, by_code("zg"), CONFIG)
    with pytest.raises(PhotometryFailed, match="no calibration is declared"):
        calibrate(sky.psfcat, sky.ps1, by_code("zg"), ZeropointConfig(filters={}))


def test_missing_magnitudes_are_not_calibrators(rng):
    sky = make_sky(rng, 500)
    for row, value in enumerate([np.nan, -999.0, 0.0, 99.0]):
        sky.ps1["r"][row::10] = value
    result = calibrate(sky.psfcat, sky.ps1, by_code("zg"), CONFIG)
    assert np.all(result.ps1_index % 10 >= 4) and abs(result.magzp - 26.25) < 0.02


def test_robust_line_ignores_a_third_of_outliers(rng):
    x = rng.uniform(0, 1.5, 300)
    y = 26.0 - 0.1 * x + rng.normal(0, 0.02, 300)
    y[:100] += rng.uniform(0.2, 2.0, 100)
    fit = fit_line(x, y, np.full(300, 0.02), 3.0)
    assert fit.zero == pytest.approx(26.0, abs=0.02) and fit.slope == pytest.approx(-0.1, abs=0.02)
    assert fit.kept[100:].mean() > 0.95 and fit.kept[:100].mean() < 0.05


def test_header_cards_are_the_archives(rng):
    sky = make_sky(rng, 300)
    cards = calibrate(sky.psfcat, sky.ps1, by_code("zg"), CONFIG).header()
    header = fits.Header()
    for key, value in cards.items():
        header[key] = value
    assert list(header) == [
        "NMATCHES", "MAGZP", "MAGZPUNC", "MAGZPRMS", "CLRCOEFF", "CLRCOUNC", "ZPCLRCOV", "PCOLOR", "ZPMED", "ZPAVG",
        "ZPRMSALL", "CLRMED", "CLRAVG", "CLRRMS",
    ]  # fmt: skip


@pytest.mark.realdata
def test_real_header_obeys_the_formulas_of_the_line(real_data, rng):
    """Real statistics of the calibrators (number, colours, scatter) put through `fit_line` give the real covariance.

    In the archive MAGZPUNC and CLRCOUNC are variances (their product bounds ZPCLRCOV squared only so); ours are 1 sigma.
    """
    text = next((real_data / "header").glob("ztf_*.header.txt")).read_text()
    header = fits.Header.fromstring(text, sep="\n")
    assert header["ZPCLRCOV"] ** 2 < header["MAGZPUNC"] * header["CLRCOUNC"]
    n = header["NMATCHES"]
    color = rng.normal(size=n)
    color = header["CLRAVG"] + header["CLRRMS"] * (color - color.mean()) / color.std()
    sigma = np.full(n, header["MAGZPRMS"])
    y = header["MAGZP"] + header["CLRCOEFF"] * color
    fit = fit_line(color, y, sigma, 3.0)
    assert fit.covariance[0, 0] == pytest.approx(header["MAGZPUNC"], rel=0.02)
    assert fit.covariance[1, 1] == pytest.approx(header["CLRCOUNC"], rel=0.02)
    assert fit.covariance[0, 1] == pytest.approx(header["ZPCLRCOV"], rel=0.02)
    assert header["MAGZP"] + header["CLRCOEFF"] * header["CLRMED"] == pytest.approx(header["ZPMED"], abs=0.01)
