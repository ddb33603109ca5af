"""Refraction and proper motions: what the polynomial takes up, what it cannot, and what the catalog must do."""

from __future__ import annotations

import numpy as np
import pytest
from astrometric_scenes import FULL, gaia_table, make_scene

from ztfds.astrometry.plane import to_plane
from ztfds.astrometry.solve import solve
from ztfds.astrometry.tpv import design, least_squares
from ztfds.config.astrometry import AstrometryConfig
from ztfds.formats.catalogs import GAIA_DTYPE, move_to_epoch

JD_2026 = 2461041.5


def refracted(ra, dec, zenith_distance_deg, parallactic_deg, ra0, dec0):
    """Apparent sky positions, raised towards the zenith by 47.8 tan z - 0.054 tan^3 z arcsec (g band, 620 mmHg)."""

    def unit(a, d):
        a, d = np.radians(a), np.radians(d)
        return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])

    centre = unit(ra0, dec0)
    east = np.array([-np.sin(np.radians(ra0)), np.cos(np.radians(ra0)), 0.0])
    z, q = np.radians(zenith_distance_deg), np.radians(parallactic_deg)
    zenith = np.cos(z) * centre + np.sin(z) * (np.sin(q) * east + np.cos(q) * np.cross(centre, east))
    v = unit(np.asarray(ra), np.asarray(dec))
    cosine = zenith @ v
    tangent = np.sqrt(1 - cosine**2) / cosine
    lift = np.radians((47.8 * tangent - 0.054 * tangent**3) / 3600)
    up = v + lift * (zenith[:, None] - cosine * v) / np.sqrt(1 - cosine**2)
    up /= np.linalg.norm(up, axis=0)
    return np.degrees(np.arctan2(up[1], up[0])) % 360, np.degrees(np.arcsin(up[2]))


@pytest.mark.parametrize(("airmass", "limit_mas"), [(1.2, 0.01), (2.0, 0.02), (2.5, 0.05)])
@pytest.mark.parametrize("parallactic_deg", [0.0, 35.0])
def test_achromatic_refraction_is_within_the_polynomial(airmass, limit_mas, parallactic_deg):
    """A polynomial of order 4 over 52 arcmin leaves less than 0.05 mas of the refraction at airmass 2.5."""
    ra0, dec0 = 150.0, 40.0
    u, v = (g.ravel() for g in np.meshgrid(np.linspace(-0.44, 0.44, 15), np.linspace(-0.44, 0.44, 15)))
    ra, dec = ra0 + u / np.cos(np.radians(dec0)), dec0 + v
    z = np.degrees(np.arccos(1 / airmass))
    apparent = to_plane(*refracted(ra, dec, z, parallactic_deg, ra0, dec0), ra0, dec0)
    target = np.stack(to_plane(ra, dec, ra0, dec0), axis=-1)
    terms = design(*apparent, 4)
    left = target - terms @ least_squares(terms, target, np.ones(len(terms)))
    straight = target - design(*apparent, 1) @ least_squares(design(*apparent, 1), target, np.ones(len(terms)))
    assert np.abs(left).max() * 3.6e6 < limit_mas < np.abs(straight).max() * 3.6e6


def refractivity(angstrom):
    """n - 1 of air at 620 mmHg, 10 deg C (Edlen 1953, Barrell 1951, as in Filippenko 1982)."""
    s = (1e4 / angstrom) ** 2
    standard = (64.328 + 29498.1 / (146 - s) + 255.4 / (41 - s)) * 1e-6
    return standard * 620 * (1 + (1.049 - 0.157) * 1e-6 * 620) / (720.883 * (1 + 0.03661))


@pytest.mark.realdata
@pytest.mark.parametrize(("band", "mas_per_mag"), [("g", 98), ("r", 31), ("i", 10)])
def test_chromatic_refraction_of_the_real_filters(real_data, band, mas_per_mag):
    """Planck spectra of 3,000 to 10,000 K through the real filter curves, at airmass 2: the numbers of the documentation."""
    curves = {b: np.loadtxt(real_data / "grid" / f"filter_p48_{b}.dat", skiprows=1).T for b in "gri"}

    def photons(b, kelvin):
        wavelength, response = curves[b]
        return wavelength**-4.0 / np.expm1(1.4387769e8 / (wavelength * kelvin)) * response

    def magnitude(b, kelvin):
        return -2.5 * np.log10(photons(b, kelvin).sum() / (curves[b][1] / curves[b][0]).sum())

    def lift_mas(kelvin):
        weight = photons(band, kelvin)
        return 206264806.0 * np.sqrt(3) * (weight * refractivity(curves[band][0])).sum() / weight.sum()

    kelvin = np.array([3000, 3500, 4000, 4500, 5000, 5500, 6000, 7000, 8000, 10000])
    colour = [magnitude("g", t) - magnitude("r", t) for t in kelvin]
    slope = np.polyfit(colour, [lift_mas(t) for t in kelvin], 1)[0]
    assert -slope == pytest.approx(mas_per_mag, rel=0.03)


def chromatic_scene(seed: int, mas_per_mag: float):
    """3,000 stars whose places shift along x with a colour of 0.35 mag rms; faint stars are redder by 0.1 mag per mag."""
    scene = make_scene(np.random.default_rng(seed), FULL, 3000, rotation_deg=0.2)
    rng = np.random.default_rng(seed + 1)
    faintness = -2.5 * np.log10(scene.flux / np.median(scene.flux))
    scene.x = scene.x + mas_per_mag / 1012 * (rng.normal(0, 0.35, len(scene.x)) + 0.1 * np.clip(faintness, -3, 3))
    return scene


def test_colours_widen_residuals_but_do_not_bend_the_solution():
    """In g at airmass 2 the scatter grows by 34 mas; the WCS becomes that of the mean star and stays true otherwise."""
    errors, scatter = {}, {}
    for mas_per_mag in (0, 98):
        scene = chromatic_scene(700, mas_per_mag)
        solution = solve(
            scene.x, scene.y, scene.flux, FULL, scene.guess, scene.gaia, AstrometryConfig(), snr=scene.snr, fwhm_px=2.2
        )
        error = scene.errors_mas(solution.wcs)
        errors[mas_per_mag] = np.sqrt(((error - error.mean(axis=0)) ** 2).mean())
        scatter[mas_per_mag] = max(solution.rms_ra_mas, solution.rms_dec_mas)
        assert np.abs(error.mean(axis=0)).max() < 30
    assert scatter[98] > 1.5 * scatter[0] and errors[98] < 10


def test_proper_motions_must_be_applied_and_are_by_the_catalog():
    """Ten years of motions that share a drift of 6 mas/yr: positions of 2015.5 shift the solution, moved ones do not."""
    rng = np.random.default_rng(31)
    scene = make_scene(rng, FULL, 1500, center=(120.0, 60.0), offset_arcsec=60.0, distortion=0.5)
    pmra, pmdec = rng.normal(6.0, 8.0, len(scene.gaia)), rng.normal(-4.0, 8.0, len(scene.gaia))
    years = 2000.0 + (JD_2026 - 2451545.0) / 365.25 - 2015.5
    old = np.zeros(len(scene.gaia), GAIA_DTYPE)
    now = gaia_table(scene.gaia["ra"], scene.gaia["dec"], scene.gaia["gmag"])
    old["gmag"], old["ra_error"], old["dec_error"], old["ref_epoch"] = now["gmag"], 0.5, 0.5, 2015.5
    old["pmra"], old["pmdec"] = pmra, pmdec
    old["dec"] = now["dec"] - years * pmdec / 3.6e6
    old["ra"] = now["ra"] - years * pmra / 3.6e6 / np.cos(np.radians(now["dec"]))
    mean = {}
    for name, table in (("left", old), ("moved", move_to_epoch(old, JD_2026))):
        found = solve(
            scene.x, scene.y, scene.flux, FULL, scene.guess, table, AstrometryConfig(), snr=scene.snr, fwhm_px=2.2
        )
        mean[name] = scene.errors_mas(found.wcs).mean(axis=0)
    assert np.abs(mean["moved"]).max() < 5
    assert mean["left"][0] == pytest.approx(-6.0 * years, abs=10) and mean["left"][1] == pytest.approx(
        4.0 * years, abs=10
    )
