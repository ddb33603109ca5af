"""Co-adds of analytic skies: fluxes, noise, outliers, masks, catalogs, verdicts."""

from __future__ import annotations

import analytic_sky as sky
import numpy as np
import pytest
from astropy.wcs import WCS

from ztfds.config.difference import DifferenceConfig, ReferenceConfig
from ztfds.difference.products import DifferenceInputs
from ztfds.difference.run import run as run_difference
from ztfds.reference.products import ReferenceInput, ReferenceProducts
from ztfds.reference.run import run
from ztfds.survey import bits
from ztfds.survey.errors import MissingKeyword

SHAPE = (264, 256)
CONFIG = ReferenceConfig.tiny()
TO_REFERENCE = 10 ** (-0.4 * (sky.MAGZP - CONFIG.reference_zeropoint_mag))


def exposures(rng: np.random.Generator, truth: sky.Truth, n: int = 8, hits: int = 40) -> list[ReferenceInput]:
    """Dithered images of different depth, sky and seeing, with unflagged cosmic rays and flagged dead pixels."""
    base, out = sky.tan_wcs(SHAPE), []
    for k in range(n):
        wcs = sky.tan_wcs(SHAPE, *rng.normal(0, 4, 2), 0.02 * rng.normal())
        psf, dim = sky.MoffatPsf(2.2 + 0.06 * k), 10 ** (-0.4 * rng.normal(0, 0.1))
        image = np.full(SHAPE, sky.SKY * (1 + 0.2 * k))
        x, y = wcs.all_world2pix(*base.all_pix2world(truth.x, truth.y, 0), 0)
        sky.add_stars(image, psf, x, y, truth.flux * dim)
        image += rng.normal(0, 1, SHAPE) * np.sqrt(image / sky.GAIN + (sky.READNOISE / sky.GAIN) ** 2)
        mask = np.zeros(SHAPE, np.uint16)
        for j, i in rng.integers(5, 250, (hits, 2)):
            image[j : j + 2, i : i + 3] += 2000
        j, i = rng.integers(5, 250, (2, 60))
        image[j, i], mask[j, i] = -1e4, bits.DEAD
        header = sky.header_of(
            wcs, MAGZP=sky.MAGZP + 2.5 * np.log10(dim), SEEING=psf.fwhm_px, OBSJD=2458300.5 + k, EXPID=100 + k
        )
        out.append(ReferenceInput(image.astype(np.float32), mask, header))
    return out


@pytest.fixture(scope="module")
def truth() -> sky.Truth:
    return sky.make_truth(np.random.default_rng(11), SHAPE, 250)


@pytest.fixture(scope="module")
def reference(truth: sky.Truth) -> ReferenceProducts:
    return run(exposures(np.random.default_rng(12), truth), CONFIG)


def test_products_are_complete(reference: ReferenceProducts) -> None:
    assert reference.status == 1, reference.reason
    for image in (reference.pixels, reference.coverage, reference.uncertainty):
        assert image.shape == SHAPE
        assert image.dtype == np.float32
    assert reference.mask.dtype == np.uint16
    header = reference.header
    assert header["NFRAMES"] == 8
    assert header["JDSTART"] == 2458300.5
    assert header["JDEND"] == 2458307.5
    assert header["MAGZP"] == CONFIG.reference_zeropoint_mag
    assert header["EXPTIME"] == 240.0
    assert header["FIELDID"] == 712
    assert header["INP01"] == "100"
    assert 7 * sky.GAIN < header["GAIN"] < 9 * sky.GAIN
    assert reference.qa["nframes"] == 8
    assert reference.qa["covered_fraction"] > 0.95
    assert reference.psf is not None
    assert 2.2 < reference.psf.fwhm_px < 2.7


def test_stars_keep_their_flux_at_the_common_zero_point(reference: ReferenceProducts, truth: sky.Truth) -> None:
    wcs = WCS(reference.header)
    x, y = wcs.all_world2pix(*sky.tan_wcs(SHAPE).all_pix2world(truth.x, truth.y, 0), 0)
    inside = (x > 12) & (y > 12) & (x < SHAPE[1] - 13) & (y < SHAPE[0] - 13)
    ratios, shifts = [], []
    for k in np.flatnonzero(inside & (truth.flux > 800)):
        others = np.hypot(x - x[k], y - y[k])
        if np.any(truth.flux[(others < 9) & (others > 0)] > 0.03 * truth.flux[k]):
            continue
        distance = np.hypot(reference.psfcat["xpos"] - x[k], reference.psfcat["ypos"] - y[k])
        row = reference.psfcat[distance.argmin()]
        assert distance.min() < 1.0
        ratios.append(row["flux"] / (truth.flux[k] * TO_REFERENCE))
        shifts.append((row["xpos"] - x[k], row["ypos"] - y[k]))
    assert len(ratios) >= 10
    assert np.median(ratios) == pytest.approx(1.0, abs=0.012)
    assert np.abs(np.median(shifts, axis=0)).max() < 0.03
    assert np.median(np.abs(shifts)) < 0.05


def test_cosmic_rays_are_gone_and_the_noise_is_right(reference: ReferenceProducts, truth: sky.Truth) -> None:
    clean = np.isfinite(reference.pixels) & (reference.coverage >= 7)
    wcs = WCS(reference.header)
    model = np.zeros(SHAPE)
    x, y = wcs.all_world2pix(*sky.tan_wcs(SHAPE).all_pix2world(truth.x, truth.y, 0), 0)
    sky.add_stars(model, sky.MoffatPsf(2.4), x, y, truth.flux * TO_REFERENCE)
    blank = clean & (model < 1.0)
    residual = (reference.pixels / reference.uncertainty)[blank]
    assert (np.abs(residual - np.median(residual)) < 6).mean() > 0.9995
    # Lanczos resampling correlates neighbours, so that a single pixel scatters less than its low-frequency noise
    assert 0.8 < 0.5 * np.ptp(np.percentile(residual, [15.9, 84.1])) < 1.05
    # the sky estimate of a crowded 256 px field is low by a fraction of the (eight times reduced) noise
    assert abs(np.median(residual)) < 0.3
    assert reference.qa["rejected_fraction"] < 0.03


def test_star_cores_are_not_clipped(reference: ReferenceProducts, truth: sky.Truth) -> None:
    """Seeing differs by 20 % between the frames; still nearly all frames count in the cores of bright stars."""
    wcs = WCS(reference.header)
    x, y = wcs.all_world2pix(*sky.tan_wcs(SHAPE).all_pix2world(truth.x, truth.y, 0), 0)
    bright = (truth.flux > 3000) & (x > 15) & (y > 15) & (x < 240) & (y < 248)
    cores = reference.coverage[np.rint(y[bright]).astype(int), np.rint(x[bright]).astype(int)]
    assert cores.size >= 5
    assert np.mean(cores) > 7.5


def test_saturated_cores_are_flagged_not_empty(truth: sky.Truth) -> None:
    inputs = exposures(np.random.default_rng(13), truth, 6, hits=0)
    base = sky.tan_wcs(SHAPE)
    for item in inputs:
        x, y = WCS(item.header).all_world2pix(*base.all_pix2world(130.0, 120.0, 0), 0)
        j, i = round(float(y)), round(float(x))
        item.pixels[j - 2 : j + 3, i - 2 : i + 3] = 48000
        item.mask[j - 2 : j + 3, i - 2 : i + 3] |= bits.SATURATED
    out = run(inputs, CONFIG)
    x, y = WCS(out.header).all_world2pix(*base.all_pix2world(130.0, 120.0, 0), 0)
    at = round(float(y)), round(float(x))
    assert out.mask[at] & bits.SATURATED
    assert out.pixels[at] > 30000
    assert out.qa["npixsat"] >= 9


def test_pixels_bad_everywhere_are_nan(truth: sky.Truth) -> None:
    inputs = exposures(np.random.default_rng(14), truth, 6, hits=0)
    base = sky.tan_wcs(SHAPE)
    for item in inputs:
        x, y = WCS(item.header).all_world2pix(*base.all_pix2world(60.0, 70.0, 0), 0)
        j, i = round(float(y)), round(float(x))
        item.mask[j - 3 : j + 4, i - 3 : i + 4] |= bits.DEAD
    out = run(inputs, CONFIG)
    x, y = WCS(out.header).all_world2pix(*base.all_pix2world(60.0, 70.0, 0), 0)
    at = round(float(y)), round(float(x))
    assert np.isnan(out.pixels[at])
    assert out.coverage[at] == 0
    assert out.mask[at] & bits.NAN


def test_unusable_reference_says_why(truth: sky.Truth) -> None:
    inputs = exposures(np.random.default_rng(15), truth, 6)
    out = run(inputs, CONFIG.model_copy(update={"overrides": {"fwhm_px": 1.5, "nsources": 1e8}}))
    assert out.status == 0
    assert "FWHM" in out.reason
    assert "sources" in out.reason
    assert out.header["STATUS"] == 0
    empty = [ReferenceInput(np.random.default_rng(k).normal(100, 5, SHAPE).astype(np.float32), i.mask, i.header)
             for k, i in enumerate(inputs)]  # fmt: skip
    out = run(empty, CONFIG)
    assert out.status == 0
    assert out.psf is None
    assert "PSF" in out.reason


def test_bad_input_is_refused(truth: sky.Truth) -> None:
    inputs = exposures(np.random.default_rng(16), truth, 2)
    with pytest.raises(ValueError, match="at least 2"):
        run(inputs[:1], CONFIG)
    del inputs[1].header["MAGZP"]
    with pytest.raises(MissingKeyword, match="MAGZP"):
        run(inputs, CONFIG)


def test_the_reference_serves_differencing(truth: sky.Truth, reference: ReferenceProducts) -> None:
    """Co-add, its own PSF and catalog, then a difference with new sources: the two steps fit together."""
    rng = np.random.default_rng(17)
    extra = sky.make_truth(rng, SHAPE, 1, 25, snr=15.0)
    joined = sky.Truth(truth.x, truth.y, truth.flux, extra.tx, extra.ty, np.abs(extra.tflux))
    scene = sky.make_scene(rng, joined)
    out = run_difference(DifferenceInputs(scene.science, reference, *sky.empty_catalogs()), DifferenceConfig.tiny())
    assert out.status == 1, out.reason
    # 25 new sources cover 4 % of this small image: they widen the distribution a little
    assert out.qa["scorr_width_raw"] == pytest.approx(1.0, abs=0.08)
    assert out.qa["gain"] == pytest.approx(1 / TO_REFERENCE, rel=0.015)
    found = [
        np.hypot(out.candidates["x"] - x, out.candidates["y"] - y).min() < 1.5
        for x, y in zip(extra.tx, extra.ty, strict=True)
    ]
    assert np.mean(found) >= 0.95
    assert len(out.candidates) - np.sum(found) <= 4
    assert np.isfinite(out.candidates["magnr"]).all()
    assert (out.candidates["magnr"] > 10).all()
