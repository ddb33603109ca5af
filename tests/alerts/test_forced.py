"""Forced photometry on stamps: unbiased fluxes, honest errors, and codes for what cannot be measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import erf

from ztfds.alerts.forced import MANY_BAD, OFF_IMAGE, OK, SOME_BAD, ForcedFlux, correlation, measure, shifted_psf
from ztfds.alerts.packet import complete
from ztfds.config.alerts import ForcedConfig
from ztfds.formats.alerts import read_packets
from ztfds.operations.context import Context

CONFIG = ForcedConfig()
SIDE = 2 * CONFIG.stamp_half_px + 1


def star(fwhm: float, dy: np.ndarray, dx: np.ndarray, side: int) -> np.ndarray:
    """Gaussian stars integrated over pixels, exactly: (n, side, side)."""
    s = fwhm / 2.3548 * np.sqrt(2)
    edges = np.arange(side + 1) - side / 2

    def one(d: np.ndarray) -> np.ndarray:
        return 0.5 * np.diff(erf((edges[None, :] - d[:, None]) / s), axis=1)

    return one(dy)[:, :, None] * one(dx)[:, None, :]


def scene(
    rng: np.random.Generator, n: int, flux: float, *, fwhm: float = 2.2, noise: float = 7.0, sky: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stamps with one star each in white noise, the PSF, and where the stars are; gain 6.2."""
    dy, dx = rng.uniform(-0.5, 0.5, (2, n))
    light = flux * star(fwhm, dy, dx, SIDE)
    pixels = light + sky + rng.normal(0, 1, light.shape) * np.sqrt(noise**2 + np.maximum(light, 0) / 6.2)
    zero = np.zeros(1)
    return pixels.astype(np.float32), star(fwhm, zero, zero, 25)[0].astype(np.float32), dy, dx


@pytest.mark.parametrize("fwhm", [1.8, 2.2, 3.5])
def test_the_shifted_psf_is_the_psf_of_the_shifted_star(rng: np.random.Generator, fwhm: float) -> None:
    dy, dx = rng.uniform(-0.5, 0.5, (2, 40))
    centred = star(fwhm, np.zeros(1), np.zeros(1), 25)[0]
    exact, found = star(fwhm, dy, dx, 25), shifted_psf(centred, dy, dx)
    assert np.abs(found - exact).max() < (0.012 if fwhm < 2 else 0.003) * exact.max()
    scale = np.sum(found * exact, axis=(1, 2)) / np.sum(found * found, axis=(1, 2))
    assert np.abs(scale - 1).max() < (6e-3 if fwhm < 2 else 3e-4)


@pytest.mark.parametrize(("flux", "sky"), [(0.0, 0.0), (300.0, -4.0), (300.0, 15.0), (-2000.0, 3.0), (20000.0, 0.0)])
def test_fluxes_have_no_bias_and_errors_are_the_scatter(rng: np.random.Generator, flux: float, sky: float) -> None:
    n = 1500
    pixels, psf, dy, dx = scene(rng, n, flux, sky=sky)
    found = measure(pixels, psf, dy, dx, 6.2, CONFIG)
    pull = (found.flux - flux) / found.error
    assert abs(pull.mean()) < 4 / np.sqrt(n)
    assert 0.94 < pull.std() < 1.06
    assert set(found.status) == {"0"}
    if flux == 0:  # the best possible for white noise, and the sky level's part
        ideal = 7.0 / np.sqrt(np.sum(psf.astype(float) ** 2))
        assert 0.98 < np.median(found.error) / ideal < 1.06


def test_the_noise_is_the_local_one(rng: np.random.Generator) -> None:
    quiet, psf, dy, dx = scene(rng, 300, 0.0)
    loud, *_ = scene(rng, 300, 0.0, noise=21.0)
    errors = [np.median(measure(pixels, psf, dy, dx, 6.2, CONFIG).error) for pixels in (quiet, loud)]
    assert errors[1] / errors[0] == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("blur", [0.3, -0.2])
def test_correlated_noise_is_in_the_error(rng: np.random.Generator, blur: float) -> None:
    """Noise that was mixed with that of the next pixel, as resampling does, or sharpened."""
    _, psf, dy, dx = scene(rng, 1500, 0.0)
    white = rng.normal(0, 7, (1500, SIDE, SIDE + 1))
    pixels = (white[:, :, 1:] + blur * white[:, :, :-1]).astype(np.float32)
    found = measure(pixels, psf, dy, dx, 6.2, CONFIG)
    assert 0.94 < (found.flux / found.error).std() < 1.06
    level, noise = np.zeros(1500), np.full(1500, 7 * np.hypot(1, blur))
    factor = correlation(pixels, level, noise, psf, CONFIG.sky_inner_px)
    few = [correlation(pixels[k : k + 1], level[:1], noise[:1], psf, CONFIG.sky_inner_px) for k in range(40)]
    assert abs(np.mean(few) - factor) < 0.05 and np.std(few) < 0.2
    assert correlation(np.full((1, SIDE, SIDE), np.nan, np.float32), level[:1], noise[:1], psf, 8.0) == 1.0


def test_neighbours_outside_the_box_hardly_matter(rng: np.random.Generator) -> None:
    pixels, psf, dy, dx = scene(rng, 300, 1000.0)
    pixels[:, 2:6, 2:6] += 5000.0
    found = measure(pixels, psf, dy, dx, 6.2, CONFIG)
    assert abs(np.mean((found.flux - 1000) / found.error)) < 0.2


def _one(pixels: np.ndarray, psf: np.ndarray) -> ForcedFlux:
    return measure(pixels, psf, np.zeros(1), np.zeros(1), 6.2, CONFIG)


def test_bad_pixels_have_their_codes(rng: np.random.Generator) -> None:
    h = CONFIG.stamp_half_px
    psf = star(2.2, np.zeros(1), np.zeros(1), 25)[0]
    clean = (1000 * star(2.2, np.zeros(1), np.zeros(1), SIDE) + rng.normal(0, 7, (1, SIDE, SIDE))).astype(np.float32)

    def with_bad(y: slice, x: slice) -> ForcedFlux:
        pixels = clean.copy()
        pixels[:, y, x] = np.nan
        return _one(pixels, psf)

    corner = with_bad(slice(h + 4, h + 6), slice(h + 4, h + 6))
    assert corner.status == ["56"] and abs(corner.flux[0] - 1000) < 4 * corner.error[0]
    side = with_bad(slice(h, h + 1), slice(h + 1, h + 6))
    assert side.status == ["56"] and side.error[0] > _one(clean, psf).error[0]
    centre = with_bad(slice(h - 1, h + 2), slice(h - 1, h + 2))
    assert centre.status == ["55"] and np.isnan(centre.flux[0]) and np.isnan(centre.error[0])
    nothing = with_bad(slice(None), slice(None))
    assert nothing.status == ["54,55"] and np.isnan(nothing.flux[0])
    lonely = clean.copy()
    lonely[:, : h - 6], lonely[:, h + 7 :], lonely[:, :, : h - 6], lonely[:, :, h + 7 :] = (np.nan,) * 4
    assert _one(lonely, psf).status == ["54"]


def test_without_a_gain_there_is_no_photon_noise(rng: np.random.Generator) -> None:
    pixels, psf, dy, dx = scene(rng, 50, 20000.0)
    known, unknown = (measure(pixels, psf, dy, dx, gain, CONFIG) for gain in (6.2, np.nan))
    assert (known.error > 1.2 * unknown.error).all() and np.array_equal(known.flux, unknown.flux)


def test_the_box_may_be_wider_than_the_psf(rng: np.random.Generator) -> None:
    pixels, psf, dy, dx = scene(rng, 200, 1000.0)
    found = measure(pixels, psf[6:19, 6:19], dy, dx, 6.2, ForcedConfig(box_half_px=8, sky_inner_px=9.0))
    assert abs(np.median(found.flux) - 1000) < 10


def test_sizes_must_fit() -> None:
    with pytest.raises(ValidationError):
        ForcedConfig(stamp_half_px=8, sky_inner_px=8.0)


def test_an_operator_can_switch_it_off(tmp_path: Path) -> None:
    places = {"archive": tmp_path, "inbox": tmp_path, "catalogs": tmp_path, "camera": "tiny"}
    assert Context.build("x", places).config.alerts.forced.enabled
    for off in (False, "false", "off"):
        config = Context.build("x", {**places, "forced_photometry": off}).config
        assert not config.alerts.forced.enabled and config.difference == Context.build("x", places).config.difference


@pytest.mark.realdata
def test_the_codes_and_their_consequences_are_those_of_real_packets(real_data: Path) -> None:
    rows = [
        row
        for path in sorted((real_data / "alerts" / "v4.01").glob("*.avro"))
        for row in read_packets(path)[0]["fp_hists"] or []
    ]
    assert {row["procstatus"] for row in rows} == {OK, MANY_BAD, SOME_BAD, OFF_IMAGE}
    for row in rows:
        measured = row["procstatus"] in (OK, SOME_BAD)
        assert (row["forcediffimflux"] != -99999.0) is (row["forcediffimfluxunc"] != -99999.0) is measured
        assert row["distnr"] == -99999.0 or 0 <= row["distnr"] <= np.sqrt(2) * CONFIG.reference_reach_arcsec
        assert complete("fp_hist", {k: v for k, v in row.items() if v != -99999.0}) == row
