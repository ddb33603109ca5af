from __future__ import annotations

import moffat_scenes as scenes
import numpy as np
import pytest
from moffat_scenes import measured
from scipy.spatial import cKDTree

from ztfds.config.photometry import ApertureConfig, PhotometryConfig
from ztfds.photometry import measure
from ztfds.photometry.apertures import SEXCAT_DTYPE, aperture_catalog, aperture_corrections
from ztfds.photometry.limits import limiting_flux_catalog, limiting_flux_formula
from ztfds.survey import bits


def catalog_of(scene, config=None):
    config = config or PhotometryConfig.tiny()
    prepared = measure.prepare(scene.pixels, scene.mask, scenes.GAIN, scenes.READNOISE, scenes.SATURATE, config)
    psf = measure.model_psf(prepared, config)
    photometry, psf = measure.fit_scene(prepared, psf, config)
    catalog, footprint = aperture_catalog(
        prepared.data, prepared.usable, prepared.mask, photometry.background, scenes.GAIN, config.apertures
    )
    return catalog, footprint, photometry, psf


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(5)
    side = np.arange(25.0, 380.0, 35.0)
    xy = np.array([(x, y) for y in side for x in side]) + rng.uniform(-0.5, 0.5, (side.size**2, 2))
    scene = scenes.make(rng, shape=(400, 400), xy=xy, flux=np.full(len(xy), 20_000.0))
    return (scene, *catalog_of(scene))


def test_fixed_apertures_follow_the_curve_of_growth(stars):
    scene, catalog, _, _, _ = stars
    assert catalog.dtype == SEXCAT_DTYPE
    near, which = cKDTree(np.c_[catalog["XWIN_IMAGE"], catalog["YWIN_IMAGE"]]).query(np.c_[scene.x, scene.y])
    assert (near < 0.2).all()
    measured_fraction = np.median(catalog["FLUX_APER"][which], axis=0) / 20_000.0
    expected = np.median([growth(x, y) for x, y in zip(scene.x[::4], scene.y[::4], strict=True)], axis=0)
    np.testing.assert_allclose(measured_fraction, expected, rtol=0.02)


def growth(x, y):
    """Fractions of a star's light in the apertures when pixels are split five by five."""
    ix, iy, stamp = scenes.moffat_stamp(x, y, 2.2, 3.0, 1.0, 0.6, 10)
    fine = np.repeat(np.repeat(stamp, 5, 0), 5, 1) / 25
    offset = (np.arange(105) - 52) / 5
    radius = np.hypot(*np.meshgrid(offset + ix - x, offset + iy - y))
    return [fine[radius < diameter / 2].sum() for diameter in (2, 3, 4, 6, 10, 14)]


def test_errors_of_apertures_are_photon_and_sky_noise(stars):
    _, catalog, _, _, _ = stars
    clean = catalog["FLAGS"] == 0
    flux = catalog["FLUX_APER"][clean, 3]
    expected = np.sqrt(np.median(flux) / scenes.GAIN + np.pi * 9 * 10.75**2)
    assert np.median(catalog["FLUXERR_APER"][clean, 3]) == pytest.approx(expected, rel=0.05)
    assert flux.std() == pytest.approx(expected, rel=0.25)


def test_aperture_corrections_bring_apertures_to_psf_magnitudes(stars):
    _, catalog, _, photometry, _ = stars
    corrections = aperture_corrections(photometry.catalog, catalog, ApertureConfig())
    assert corrections.n_stars > 80
    assert (np.diff(corrections.values) > 0).all()
    assert corrections.values[0] < -1.0
    assert abs(corrections.values[5]) < 0.02
    assert (corrections.errors < 0.01).all()


def test_no_corrections_from_too_few_stars(stars):
    _, catalog, _, photometry, _ = stars
    few = aperture_corrections(photometry.catalog[:3], catalog, ApertureConfig())
    assert few.n_stars == 0
    assert np.isnan(few.values).all()


def test_footprint_covers_sources_and_little_else(stars):
    scene, _, footprint, _, _ = stars
    ix, iy = np.rint(scene.x).astype(int), np.rint(scene.y).astype(int)
    assert footprint[iy, ix].all()
    assert footprint.mean() < 0.1


def test_galaxies_are_wider_and_flags_come_from_the_mask(rng):
    xy = np.array(
        [(60.0, 60.0), (150.0, 60.0), (60.0, 150.0), (150.0, 150.0)] + [(200.0, 30.0 + 30 * k) for k in range(7)]
    )
    scene = scenes.make(rng, xy=xy, flux=np.full(len(xy), 20_000.0))
    wide = scenes.make(rng, xy=[(105.0, 105.0)], flux=[40_000.0], fwhm=6.0, sky=700.0)
    scene.pixels += wide.pixels - 700.0
    scene.mask[150, 151] |= bits.GHOST
    catalog, _, photometry, _ = catalog_of(scene)

    def nearest(x, y):
        return catalog[np.argmin(np.hypot(catalog["X_IMAGE"] - x, catalog["Y_IMAGE"] - y))]

    assert nearest(105, 105)["FLUX_RADIUS"] > 1.6 * nearest(60, 60)["FLUX_RADIUS"]
    assert nearest(150, 150)["IMAFLAGS"] == bits.GHOST
    psfcat = photometry.catalog
    galaxy = psfcat[np.argmin(np.hypot(psfcat["xpos"] - 105, psfcat["ypos"] - 105))]
    star = psfcat[np.argmin(np.hypot(psfcat["xpos"] - 60, psfcat["ypos"] - 60))]
    assert galaxy["sharp"] > 0.1 > 5 * abs(star["sharp"])


def test_limiting_flux_is_five_sigma(rng):
    """At the limiting flux the S/N of the fit is five, by catalog and by formula."""
    side = np.arange(20.0, 400.0, 20.0)
    xy = np.array([(x, y) for y in side for x in side]) + rng.uniform(-0.5, 0.5, (side.size**2, 2))
    flux = np.where(np.arange(len(xy)) % 6 == 0, 20_000.0, 300.0)
    scene = scenes.make(rng, shape=(420, 420), xy=xy, flux=flux)
    photometry, psf = measured(scene)
    catalog_limit = limiting_flux_catalog(photometry.catalog)
    formula = limiting_flux_formula(photometry.background, psf, scenes.GAIN)
    truth = scenes.moffat_stamp(12, 12, 2.2, 3.0, 1.0, 0.6, 12)[2]
    expected = 5 * np.sqrt((700 / 6.2 + (10 / 6.2) ** 2) / (truth**2).sum())
    assert formula == pytest.approx(expected, rel=0.05)
    assert catalog_limit == pytest.approx(formula, rel=0.1)


def test_empty_image_gives_an_empty_catalog():
    from ztfds.photometry.background import Background

    shape = (64, 64)
    flat = np.full((1, 1), 0.0, np.float32)
    sky = Background(flat, flat + 10, flat + 100, 64, shape)
    catalog, footprint = aperture_catalog(
        np.zeros(shape, np.float32), np.ones(shape, bool), np.zeros(shape, np.uint16), sky, 6.2, ApertureConfig()
    )
    assert len(catalog) == 0
    assert not footprint.any()
    assert np.isnan(limiting_flux_catalog(np.zeros(0, [("snr", "f4"), ("flags", "i4"), ("sigflux", "f4")])))
