"""The simulated sky, its mapping to pixels, and the light of stars and galaxies, against independent calculations."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, get_sun
from astropy.time import Time
from astropy.wcs import WCS
from scipy import integrate

from ztfds.simulator import ephemeris, kernels
from ztfds.simulator.config import OpticsConfig, SkyConfig
from ztfds.simulator.exposure import SERSIC_PROFILE
from ztfds.simulator.optics import PsfField, Seeing, distortion, true_wcs
from ztfds.simulator.sky import galactic, propagate, separation_deg, sky_patch, star_density, variability

SHAPE = (264, 256)
SEEING = Seeing(2.2, 0.1, 0.02, -0.03, 0.4)


@pytest.fixture(scope="module")
def psf() -> PsfField:
    """A point-spread function with everything switched on."""
    return PsfField(3, 22, SHAPE, SEEING, OpticsConfig())


def profile(shape: np.ndarray, dx: float, dy: float) -> float:
    """The two Moffats, written out independently of the kernels."""
    a, b, c, norm, a2, b2, c2, norm2, ox, oy = (float(v) for v in shape)
    ex, ey = dx - ox, dy - oy
    core = norm * (1 + a * dx * dx + 2 * b * dx * dy + c * dy * dy) ** -3
    return core + norm2 * (1 + a2 * ex * ex + 2 * b2 * ex * ey + c2 * ey * ey) ** -2.5


def test_profile_integrates_to_one(psf: PsfField) -> None:
    shape = psf.shapes(np.array([40.0]), np.array([200.0]))[0]
    total, _ = integrate.dblquad(lambda y, x: profile(shape, x, y), -400, 400, -400, 400, epsabs=1e-4)
    assert total == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(("x", "y"), [(100.0, 120.0), (100.5, 120.25), (31.7, 200.2)])
def test_painted_star_keeps_its_flux(psf: PsfField, x: float, y: float) -> None:
    image, half = np.zeros(SHAPE, np.float32), 30
    shape = psf.shapes(np.array([x]), np.array([y]))
    kernels.paint_points(image, np.array([x]), np.array([y]), np.array([5e4], np.float32), np.array([half]), shape)
    jx, jy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    expected, _ = integrate.dblquad(
        lambda b, a: profile(shape[0], a - x, b - y),
        jx - half - 0.5,
        jx + half + 0.5,
        jy - half - 0.5,
        jy + half + 0.5,
        epsabs=1e-5,
    )
    assert image.sum() == pytest.approx(5e4 * expected, rel=5e-4)
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    assert (image * xx).sum() / image.sum() == pytest.approx(x, abs=0.12)
    assert (image * yy).sum() / image.sum() == pytest.approx(y, abs=0.12)


def test_radius_leaves_only_invisible_light_out(psf: PsfField) -> None:
    x = y = np.array([128.0])
    flux = np.array([3e5], np.float32)
    shape = psf.shapes(x, y)
    radius = int(psf.radii(flux, shape, 0.03)[0])
    assert 3e5 * profile(shape[0], radius + 1.0, 0.0) < 0.06
    assert 3e5 * profile(shape[0], radius - 3.0, 0.0) > 0.015


def test_width_is_the_requested_one_and_varies(psf: PsfField) -> None:
    stamp = psf.stamp(128.0, 132.0)
    half = np.sum(stamp >= stamp.max() / 2)
    assert 2 * np.sqrt(half / np.pi) == pytest.approx(psf.fwhm(128.0, 132.0), rel=0.15)
    assert psf.fwhm(128.0, 132.0) == pytest.approx(2.2 * 1.03, rel=0.06)
    corners = [psf.fwhm(x, y) for x in (0.0, 255.0) for y in (0.0, 263.0)]
    assert max(corners) / min(corners) > 1.01


def test_galaxy_keeps_its_flux_and_is_wider_than_a_star(psf: PsfField) -> None:
    for kind, lost in ((0, 0.01), (1, 0.08)):
        image = np.zeros(SHAPE, np.float32)
        x, y = np.array([128.0]), np.array([130.0])
        kernels.paint_galaxies(
            image,
            x,
            y,
            np.array([1e5], np.float32),
            np.array([3.0], np.float32),
            np.array([0.5], np.float32),
            np.array([0.0], np.float32),
            np.array([kind], np.uint8),
            psf.shapes(x, y),
            SERSIC_PROFILE,
            0.03,
        )
        assert 1e5 * (1 - lost) < image.sum() < 1.001e5
        yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
        near = image * ((xx - 128) ** 2 + (yy - 130) ** 2 < 400)
        sx = np.sqrt((near * (xx - 128) ** 2).sum() / near.sum())
        sy = np.sqrt((near * (yy - 130) ** 2).sum() / near.sum())
        assert sx > 1.25 * sy > 1.25


@pytest.mark.parametrize("pointing", [(150.0, 40.0), (359.9, -20.0), (80.0, 84.0)])
def test_true_mapping_is_what_its_header_says(pointing: tuple[float, float]) -> None:
    wcs = true_wcs(pointing, 0.3, 1.012, (-2.1, 1.4), (3080, 3072), distortion(5, 22, 4e-4, 4e-4))
    x, y = np.array([0.0, 3071.0, 1500.3, 10.0]), np.array([0.0, 3079.0, 100.0, 2900.5])
    ra, dec = wcs.to_sky(x, y)
    expected = np.array(WCS(wcs.header()).all_pix2world(x, y, 0))
    assert np.max(separation_deg(ra, dec, expected[0], expected[1])) * 3600 < 1e-5
    bx, by = wcs.to_pixel(ra, dec)
    assert np.allclose([bx, by], [x, y], atol=1e-6)


def test_orientation_and_quadrant_place() -> None:
    wcs = true_wcs((150.0, 40.0), 0.0, 1.012, (1.0, -0.5), (3080, 3072), distortion(5, 22, 0.0, 0.0))
    centre = SkyCoord(150.0 * u.deg, 40.0 * u.deg)
    ra, dec = wcs.to_sky(np.array([1535.5, 1635.5, 1535.5]), np.array([1539.5, 1539.5, 1639.5]))
    east, north = centre.spherical_offsets_to(SkyCoord(ra * u.deg, dec * u.deg))
    assert east[0].deg == pytest.approx(1.0, abs=2e-3) and north[0].deg == pytest.approx(-0.5, abs=2e-3)
    assert east[1] < east[0] and north[2] < north[0]


def test_sky_is_one_whatever_cone_is_asked() -> None:
    config = SkyConfig()
    big, big_galaxies = sky_patch(9, 0.02, 30.0, 0.4, config)
    small, small_galaxies = sky_patch(9, 359.95, 30.1, 0.15, config)
    assert small.size > 100 and set(small["id"]) <= set(big["id"])
    assert set(small_galaxies["id"]) <= set(big_galaxies["id"])
    assert np.unique(big["id"]).size == big.size
    assert not set(small["id"]) & set(sky_patch(10, 359.95, 30.1, 0.15, config)[0]["ra"])


def test_counts_follow_the_galaxy() -> None:
    pole, plane = (192.86, 27.13), (286.0, 5.0)
    assert abs(galactic(*pole)[1]) > 89.5
    expected = SkyCoord(plane[0] * u.deg, plane[1] * u.deg).galactic
    assert galactic(*plane) == pytest.approx((expected.l.deg, expected.b.deg), abs=1e-3)
    stars = [np.sum(sky_patch(2, *place, 0.5, SkyConfig())[0]["r"] < 20.5) / (np.pi * 0.25) for place in (pole, plane)]
    assert stars[0] == pytest.approx(star_density(*galactic(*pole)), rel=0.15)
    assert stars[1] > 20 * stars[0]
    near_pole = sky_patch(2, 10.0, 89.8, 0.4, SkyConfig())[0]
    assert near_pole.size / (np.pi * 0.16) > 1500


def test_proper_motion_and_variability() -> None:
    stars, _ = sky_patch(2, 180.0, 60.0, 0.5, SkyConfig(variable_fraction=0.3))
    ra, dec = propagate(stars, 2457206.375 + 10 * 365.25)
    moved = separation_deg(ra, dec, stars["ra"], stars["dec"]) * 3.6e6
    assert np.allclose(moved, 10 * np.hypot(stars["pmra"], stars["pmdec"]), rtol=1e-3, atol=0.1)
    swing = np.ptp([variability(stars, 2460000.5 + t) for t in np.linspace(0, 3, 60)], axis=0)
    assert np.all(swing[stars["var_kind"] == 0] == 0)
    assert np.median(swing[stars["var_kind"] == 1]) > 0.05


def test_sun_moon_and_altitude() -> None:
    jd = 2460380.75
    sun = get_sun(Time(jd, format="jd"))
    ra, dec = ephemeris.radec(ephemeris.sun_vector(jd))
    assert separation_deg(ra, dec, sun.ra.deg, sun.dec.deg) < 0.4  # of date against J2000
    new_moon = 2460379.875  # 2024-03-10 09:00 UT
    state = ephemeris.sky_state(140.0, 40.0, new_moon)
    assert state.moon_fraction < 0.01
    full = ephemeris.sky_state(140.0, 40.0, 2460394.79)  # 2024-03-25 07:00 UT, the Moon stands high
    assert full.moon_fraction > 0.99 and full.moonlight_nl > 100
    assert ephemeris.altitude_azimuth(0.0, 90.0, jd)[0] == pytest.approx(ephemeris.LATITUDE_DEG, abs=1e-6)
    assert ephemeris.airmass(30.0) == pytest.approx(1.993, abs=0.01)
