"""The plane and the TPV polynomial against astropy, and on a real header."""

from __future__ import annotations

import numpy as np
import pytest
from astrometric_scenes import FULL, make_wcs, matrix, random_distortion
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.astrometry.plane import separation_arcsec, to_plane, to_sky
from ztfds.astrometry.tpv import PV_INDEX, TERMS, Distortion, design, least_squares, leverage, n_terms


@pytest.mark.parametrize(("ra0", "dec0"), [(10.0, 0.0), (359.9, 45.0), (0.0, 89.9), (200.0, -60.0)])
def test_plane_is_the_gnomonic_projection_of_astropy(rng, ra0, dec0):
    tan = make_wcs((1, 1), ra0, dec0, np.eye(2))
    xi, eta = rng.uniform(-2, 2, (2, 100))
    ra, dec = tan.all_pix2world(xi, eta, 0)
    np.testing.assert_allclose(to_plane(ra, dec, ra0, dec0), [xi, eta], atol=1e-10)
    again = to_sky(xi, eta, ra0, dec0)
    np.testing.assert_allclose(((again[0] - ra + 180) % 360 - 180) * np.cos(np.radians(dec)), 0, atol=1e-10)
    np.testing.assert_allclose(again[1], dec, atol=1e-10)


def test_far_side_of_the_sky_has_no_place_in_the_plane():
    assert np.isnan(to_plane([190.0], [0.0], 10.0, 0.0)).all()
    assert separation_arcsec(359.999, 0.0, 0.001, 0.0) == pytest.approx(7.2)


def test_terms_are_the_powers_that_the_design_matrix_has(rng):
    u, v = rng.normal(size=(2, 20))
    for order in (1, 2, 3, 4):
        expected = np.stack([u**i * v**j for i, j in TERMS[: n_terms(order)]], axis=-1)
        np.testing.assert_allclose(design(u, v, order), expected)


def test_least_squares_recovers_coefficients_and_obeys_the_prior(rng):
    matrix_ = design(*rng.normal(0, 0.4, (2, 200)), 4) * 1e-3
    truth = rng.normal(size=(15, 2))
    np.testing.assert_allclose(least_squares(matrix_, matrix_ @ truth, np.ones(200)), truth, rtol=1e-8)
    held = least_squares(matrix_, matrix_ @ truth, np.ones(200), np.full(15, 1e12))
    assert np.abs(held).max() < 1e-6


def test_cards_read_by_astropy_give_the_same_sky_and_back(rng):
    coefficients = np.vstack([np.zeros(2), np.eye(2), rng.normal(0, 4e-4, (12, 2))])
    model = Distortion(1535.5, 1539.5, 359.95, 62.0, matrix(0.3), coefficients)
    x, y = rng.uniform(0, 3000, (2, 500))
    wcs = model.wcs()
    ra, dec = model.sky(x, y)
    expected = wcs.all_pix2world(x, y, 0)
    np.testing.assert_allclose(((ra - expected[0] + 180) % 360 - 180) * 3.6e6, 0, atol=1e-3)
    np.testing.assert_allclose((dec - expected[1]) * 3.6e6, 0, atol=1e-3)
    np.testing.assert_allclose(wcs.all_world2pix(ra, dec, 0), [x, y], atol=1e-6)
    cards = model.cards()
    assert cards["CTYPE1"] == "RA---TPV" and cards["CRPIX1"] == 1536.5 and cards["RADESYS"] == "ICRS"
    assert "PV1_3" not in cards and "PV2_11" not in cards and "PV2_16" in cards


def test_leverage_is_what_leaving_a_star_out_changes(rng):
    terms, values = design(*rng.normal(0, 0.4, (2, 30)), 2), rng.normal(size=(30, 1))
    weights, precision, used = rng.uniform(0.5, 2, 30), np.array([0, 0, 0, 1.0, 1.0, 1.0]), np.ones(30, bool)
    h = leverage(terms, used, weights, precision)
    residual = values - terms @ least_squares(terms, values, weights, precision)
    for k in (0, 7):
        used[k] = False
        without = values[k] - terms[k] @ least_squares(terms, values, used * weights, precision)
        np.testing.assert_allclose(without, residual[k] / (1 - h[k]))
        np.testing.assert_allclose(1 + leverage(terms, used, weights, precision)[k], 1 / (1 - h[k]))
        used[k] = True


def test_lower_orders_write_fewer_cards():
    model = Distortion(0.0, 0.0, 10.0, 10.0, matrix(), np.vstack([np.zeros(2), np.eye(2)]))
    cards = model.cards()
    assert "PV1_2" in cards and "PV1_4" not in cards
    ra, dec = model.wcs().all_pix2world(0, 0, 0)
    assert (float(ra), float(dec)) == pytest.approx((10.0, 10.0))


@pytest.mark.realdata
def test_real_tpv_header_and_catalog(real_data, rng):
    """The archive's own TPV: our evaluation is astropy's, and SExtractor's world positions, to 0.1 mas (their pixels are float32)."""
    text = next((real_data / "header").glob("ztf_*.header.txt")).read_text()
    header = fits.Header.fromstring(text, sep="\n")
    wcs = WCS(header)
    coefficients = np.zeros((15, 2))
    for k, index in enumerate(PV_INDEX):
        i, j = TERMS[k]
        coefficients[k, 0] = header.get(f"PV1_{index}", 0.0)
        coefficients[TERMS.index((j, i)), 1] = header.get(f"PV2_{index}", 0.0)
    cd = np.array([[header["PC1_1"], header["PC1_2"]], [header["PC2_1"], header["PC2_2"]]])
    model = Distortion(header["CRPIX1"] - 1, header["CRPIX2"] - 1, header["CRVAL1"], header["CRVAL2"], cd, coefficients)
    x, y = rng.uniform(-1000, 2072, (2, 1000))
    ra, dec = wcs.all_pix2world(x, y, 0)
    np.testing.assert_allclose(model.sky(x, y), [ra, dec], atol=1e-12)
    np.testing.assert_allclose(model.wcs().all_pix2world(x, y, 0), [ra, dec], atol=1e-12)
    own = Distortion.of_header(header)
    corners = np.array([0.0, 3071.0, 0.0, 3071.0, 1500.0]), np.array([0.0, 0.0, 3079.0, 3079.0, 1500.0])
    np.testing.assert_allclose(own.sky(*corners), WCS(header).all_pix2world(*corners, 0), atol=1e-9)
    np.testing.assert_allclose(own.pixels(*own.sky(*corners)), corners, atol=1e-6)
    sources = fits.getdata(real_data / "header" / "test_ztf_image.sources.fits", "LDAC_OBJECTS")
    assert len(sources) == 112
    world = model.sky(sources["X_IMAGE"].astype(float) - 1.0, sources["Y_IMAGE"].astype(float) - 1.0)
    np.testing.assert_allclose((world[0] - sources["X_WORLD"]) * 3.6e6, 0, atol=0.1)
    np.testing.assert_allclose((world[1] - sources["Y_WORLD"]) * 3.6e6, 0, atol=0.1)


def own_distortion(rng) -> Distortion:
    """A distortion of the real camera's size, turned."""
    coefficients = rng.normal(0, 4e-4, (15, 2))
    coefficients[:3] += [[0, 0], [1, 0], [0, 1]]
    angle, scale = rng.uniform(0, 2 * np.pi), 1.012 / 3600
    cd = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Distortion(1500.0, 1600.0, rng.uniform(0, 360), rng.uniform(-30, 80), cd, coefficients)


def test_own_cards_are_read_back_and_inverted_as_astropy_does(rng):
    x, y = rng.uniform(0, 3000, (2, 50))
    for _ in range(5):
        truth = own_distortion(rng)
        header = fits.Header(truth.cards())
        read = Distortion.of_header(header)
        ra, dec = truth.sky(x, y)
        np.testing.assert_allclose(read.sky(x, y), [ra, dec], atol=1e-12)
        np.testing.assert_allclose(read.pixels(ra, dec), [x, y], atol=1e-6)
        np.testing.assert_allclose(read.pixels(ra, dec), WCS(header).all_world2pix(ra, dec, 0), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"CTYPE1": "RA---TAN"}, {"LONPOLE": 90.0}, {"PV1_3": 1e-3}, {"CD1_1": 0.0, "CD1_2": 0.0}, {"CRPIX1": None}],
)
def test_other_headers_are_not_taken_for_own(rng, change):
    cards = {**own_distortion(rng).cards(), **change}
    header = fits.Header({name: value for name, value in cards.items() if value is not None})
    assert Distortion.of_header(header) is None


def test_distortion_scene_is_tpv(rng):
    wcs = make_wcs(FULL, 30.0, 40.0, matrix(), random_distortion(rng))
    flat = make_wcs(FULL, 30.0, 40.0, matrix())
    difference = np.subtract(wcs.all_pix2world(0, 0, 0), flat.all_pix2world(0, 0, 0)) * 3600
    assert 0.01 < np.hypot(*difference) < 5
