from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from observation import COLOR_COEFFICIENT, ZEROPOINT, observe, sky_of
from scipy.spatial import cKDTree

from ztfds.config.photometry import ScienceConfig
from ztfds.photometry.zeropoint import spatial_surface
from ztfds.science.header import quality_in_words, set_reasons
from ztfds.science.run import run
from ztfds.survey import bits
from ztfds.survey.camera import TINY
from ztfds.survey.errors import MissingKeyword, WrongSize

CONFIG = ScienceConfig.tiny()


@pytest.fixture(scope="module")
def good():
    """A clean quadrant of the tiny camera: inputs, truth, products."""
    inputs, truth = observe(np.random.default_rng(7), n=110)
    return inputs, truth, run(inputs, CONFIG)


def pairs(truth, products, radius_px=1.0):
    catalog = products.psfcat
    distance, which = cKDTree(np.c_[catalog["xpos"], catalog["ypos"]]).query(np.c_[truth.x, truth.y])
    return np.flatnonzero(distance < radius_px), which[distance < radius_px]


def test_a_good_quadrant_is_usable(good):
    _, truth, products = good
    assert products.status == 1
    assert products.infobits == 0
    assert products.reasons == []
    assert len(products.psfcat) > 0.8 * len(truth.x)
    assert products.qa["n_psfcat"] == len(products.psfcat)
    assert any("zero point" in line for line in products.log)


def test_the_limiting_magnitude_is_checked_with_artificial_stars(good):
    qa = good[2].qa
    assert qa["n_injected"] == 200 and 40 < qa["injected_recovered_percent"] <= 100
    assert qa["maglim_mag"] < qa["maglim_injected_mag"] < qa["maglim_mag"] + 0.6


def test_quality_is_said_in_words(good):
    header = good[2].header
    assert header["INFOVERS"] == bits.rules_version()
    assert quality_in_words(header) == ["usable (STATUS 1), INFOBITS 0: nothing to object to"]
    # 60 calibrators are enough for the surface of the zero point, which is flat here and is only reported.
    assert [f"ZPSP{k}" in header for k in range(1, 6)] == [True] * 5 and header["ZPSPAPP"] is False
    assert header["ZPSPRMS"] == pytest.approx(good[2].qa["spatial_rms_mag"]) and header["ZPSPRMS"] < 0.02
    bad = header.copy()
    infobits, status, reasons = bits.evaluate({"seeing_arcsec": 6.1, "n_psfcat": 3}, 2)
    bad["INFOBITS"], bad["STATUS"] = infobits, status
    assert len(quality_in_words(bad)) == 3  # a header of others, without reasons: the rules' words
    set_reasons(bad, reasons, 1)
    assert quality_in_words(bad) == ["not usable (STATUS 0), INFOBITS 72", *reasons]
    assert "6.1 arcsec, above the limit of 5 arcsec" in reasons[0]
    with pytest.raises(MissingKeyword):
        quality_in_words(fits.Header())


def test_the_surface_of_the_zero_point_is_applied_on_request(good):
    inputs, _, products = good
    zeropoint = CONFIG.zeropoint.model_copy(update={"apply_spatial": True, "min_for_surface": 10})
    applied = run(inputs, CONFIG.model_copy(update={"zeropoint": zeropoint}))
    terms = np.array([applied.header[f"ZPSP{k}"] for k in range(1, 6)])
    assert applied.header["ZPSPAPP"] is True and terms.any()
    surface = spatial_surface(terms, applied.psfcat["xpos"], applied.psfcat["ypos"], TINY.quadrant_shape)
    np.testing.assert_allclose(applied.psfcat["mag"] - products.psfcat["mag"], surface, atol=1e-5)
    np.testing.assert_array_equal(applied.psfcat["flux"], products.psfcat["flux"])


def test_magnitudes_on_the_catalogs_system(good):
    _, truth, products = good
    i, j = pairs(truth, products)
    catalog = products.psfcat[j]
    header = products.header
    magnitude = catalog["mag"] + header["MAGZP"] + header["CLRCOEFF"] * truth.color[i]
    bright = (catalog["snr"] > 40) & (catalog["flags"] == 0)
    assert bright.sum() > 15
    assert abs(np.median((magnitude - truth.r[i])[bright])) < 0.015
    assert header["MAGZP"] == pytest.approx(ZEROPOINT, abs=0.04)
    assert header["CLRCOEFF"] == pytest.approx(COLOR_COEFFICIENT, abs=0.06)


def test_sky_positions_are_right(good):
    _, truth, products = good
    i, j = pairs(truth, products)
    catalog = products.psfcat[j]
    bright = catalog["snr"] > 30
    off = 3600 * np.hypot(
        (catalog["ra"] - truth.ra[i]) * np.cos(np.radians(truth.dec[i])), catalog["dec"] - truth.dec[i]
    )
    assert np.median(off[bright]) < 0.06
    wcs = WCS(products.header)
    ra, dec = wcs.all_pix2world(100.0, 90.0, 0)
    true_ra, true_dec = sky_of(TINY, 100.0, 90.0)
    assert 3600 * np.hypot(ra - true_ra, dec - true_dec) < 0.1
    assert np.isfinite(products.sexcat["ALPHAWIN_J2000"]).all()


def test_pixels_keep_the_sky_and_the_mask_marks_sources(good):
    inputs, _, products = good
    np.testing.assert_allclose(products.pixels, inputs.split.pixels - 5.0, atol=1e-3)
    assert np.median(products.pixels) == pytest.approx(700.0, abs=3.0)
    ix, iy = (np.rint(products.psfcat[name]).astype(int) for name in ("xpos", "ypos"))
    inside = (ix >= 0) & (iy >= 0) & (ix < 256) & (iy < 264)
    assert (products.mask[iy[inside], ix[inside]] & bits.PSF_SOURCE).all()
    assert 0.005 < ((products.mask & bits.SEXTRACTED) > 0).mean() < 0.3
    assert (products.mask & bits.BAD_TEMPLATE).sum() == 0


def test_limiting_magnitude_is_where_five_sigma_is(good):
    _, _, products = good
    header, catalog = products.header, products.psfcat
    magnitude = catalog["mag"] + header["MAGZP"]
    near = np.abs(magnitude - header["MAGLIM"]) < 0.5
    at_limit = np.median(catalog["snr"][near] * 10 ** (0.4 * (magnitude[near] - header["MAGLIM"])))
    assert at_limit == pytest.approx(5.0, rel=0.1)


def test_header_is_complete_and_valid_fits(good):
    _, _, products = good
    header = products.header
    assert header["RCID"] == 20
    assert header["EXPID"] == header["DBEXPID"]
    assert header["FIXAPERS"] == "2,3,4,6,10,14"
    assert header["SEEING"] == pytest.approx(2.36, rel=0.05)
    assert header["BIT21"] == 21
    assert header["STATUS"] == 1
    assert header["PCOLOR"] == "g - r"
    assert header["SATURATE"] == 49_000.0
    assert header["CTYPE1"] == "RA---TPV"
    hdu = fits.PrimaryHDU(products.pixels, header)
    hdu.verify("exception")


@pytest.mark.realdata
def test_header_has_the_real_keywords(good, real_data):
    """Every keyword that the calibration itself adds to a real header is in ours; the rest comes from the raw file."""
    path = next((real_data / "header").glob("*.header.txt"))
    real = fits.Header.fromtextfile(path)
    keywords = list(real.keys())
    first = keywords.index("CALNOTE1")
    last = keywords.index("MEDSKY")
    not_of_a_step = {"CREATED", "DBRID", "CIDPMASK", "CIDBIAS", "CIDHIFLT", "CIDLOFLT"}
    missing = [key for key in keywords[first : last + 1] if key not in good[2].header and key not in not_of_a_step]
    assert missing == []
    comments = {key: real.comments[key] for key in ("MAGZP", "NMATCHES", "APCOR3", "BIT14", "STATUS", "MAGLIM")}
    assert {key: good[2].header.comments[key] for key in comments} == comments


def test_the_same_inputs_give_the_same_products(good):
    inputs, _, products = good
    again = run(inputs, CONFIG)
    assert again.psfcat.tobytes() == products.psfcat.tobytes()
    assert again.sexcat.tobytes() == products.sexcat.tobytes()
    np.testing.assert_array_equal(again.mask, products.mask)
    assert again.header.tostring() == products.header.tostring()


def failed(products, bit, word):
    assert products.status == 0
    assert products.infobits & (1 << bit)
    assert any(word in reason for reason in products.reasons)


def test_wrong_part_of_the_sky_fails_astrometry_by_name(rng):
    inputs, _ = observe(rng)
    inputs.gaia["ra"], inputs.gaia["dec"] = rng.uniform(149.9, 150.4, 60).take(np.arange(len(inputs.gaia)) % 60), 32.0
    inputs.gaia["dec"] += rng.uniform(-0.2, 0.2, len(inputs.gaia))
    products = run(inputs, CONFIG)
    failed(products, 12, "astrometry_failed")
    assert np.isnan(products.psfcat["ra"]).all()
    assert products.psf is not None
    assert products.header["WCSNAME"] == "NOMINAL"
    assert "MAGZP" not in products.header


def test_no_calibrators_fail_photometry_by_name(rng):
    inputs, _ = observe(rng)
    inputs.ps1["ra"] += 1.0
    products = run(inputs, CONFIG)
    failed(products, 8, "photometry_failed")
    assert np.isfinite(products.psfcat["ra"]).all()
    assert products.header["CTYPE1"] == "RA---TPV"


@pytest.mark.parametrize("n", [0, 1, 5])
def test_hardly_any_stars_give_a_product_that_says_so(rng, n):
    inputs, _ = observe(rng, n=n, faint=20_000.0)
    products = run(inputs, CONFIG)
    assert products.status == 0
    assert products.reasons
    assert products.pixels.shape == products.mask.shape
    if n < 3:
        failed(products, 20, "psf_failed")
        assert products.psfcat is None
        assert products.psf is None
    assert products.sexcat is not None


def test_saturated_and_unreadable_images_give_a_product(rng):
    def flood(scene):
        scene.pixels[:] = 60_000.0
        scene.mask[:] = bits.SATURATED

    products = run(observe(rng, pixels=flood)[0], CONFIG)
    failed(products, 2, "SATURATED")

    def blank(scene):
        scene.pixels[:] = np.nan

    products = run(observe(rng, pixels=blank)[0], CONFIG)
    assert products.status == 0
    fits.PrimaryHDU(products.pixels, products.header).verify("exception")


def test_radiation_hits_are_masked_and_not_catalogued(rng):
    hits = rng.integers(20, 236, (25, 2))

    def strike(scene):
        for x, y in hits:
            scene.pixels[y, x] += 4000.0
            scene.pixels[y, x + 1] += 2500.0

    inputs, truth = observe(rng, n=90, pixels=strike)
    products = run(inputs, CONFIG)
    assert products.status == 1
    alone = np.array([np.hypot(truth.x - x, truth.y - y).min() > 6 for x, y in hits])
    masked = (products.mask[hits[:, 1], hits[:, 0]] & bits.SPIKE) > 0
    assert masked[alone].mean() > 0.9
    catalog = products.psfcat
    near = cKDTree(hits + np.array([0.4, 0.0])).query(np.c_[catalog["xpos"], catalog["ypos"]])[0] < 1.5
    true = cKDTree(np.c_[truth.x, truth.y]).query(np.c_[catalog["xpos"], catalog["ypos"]])[0] < 1.5
    assert (near & ~true).sum() <= 2


def test_a_halo_star_outside_the_image_masks_part_of_it(rng):
    inputs, _ = observe(rng)
    gaia = np.append(inputs.gaia, inputs.gaia[:1])
    gaia[-1]["ra"], gaia[-1]["dec"] = sky_of(TINY, -20.0, 130.0)
    gaia[-1]["gmag"] = 4.0
    object.__setattr__(inputs, "gaia", gaia)
    products = run(inputs, CONFIG)
    halo = (products.mask & (bits.HALO | bits.GHOST)) > 0
    assert halo.any()
    assert products.status == 1
    assert (products.psfcat["flags"] & bits.HALO).any()


def test_headers_without_what_is_needed_are_named(rng):
    inputs, _ = observe(rng, n=30)
    del inputs.split.header["GAIN"]
    with pytest.raises(MissingKeyword, match="GAIN"):
        run(inputs, CONFIG)


def test_calibration_of_another_size_is_refused(rng):
    from observation import calibration

    inputs, _ = observe(rng, n=30)
    object.__setattr__(inputs, "bias", calibration((100, 100), 0.0))
    with pytest.raises(WrongSize):
        run(inputs, CONFIG)
