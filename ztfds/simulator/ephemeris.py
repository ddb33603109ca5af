"""Where Sun and Moon stand, what the sky over Palomar looks like: low-precision formulae, good to about 0.3 degrees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from astropy.coordinates import get_body_barycentric
from astropy.time import Time
from numpy.typing import NDArray

from ztfds.simulator.sky import separation_deg, unit_vectors

LATITUDE_DEG, LONGITUDE_DEG, ALTITUDE_M = 33.3573, -116.8598, 1668.0
AU_LIGHT_DAYS = 0.005775518
TT_MINUS_UTC_D = 69.184 / 86400.0
"""Since 2017."""
_OBLIQUITY = math.radians(23.4393)
_EARTH_RADIUS_AU = 6378.137 / 149597870.7


def sidereal_deg(jd: float) -> float:
    """Local mean sidereal time in degrees (Meeus, Astronomical Algorithms, eq. 12.4)."""
    return (280.46061837 + 360.98564736629 * (jd - 2451545.0) + LONGITUDE_DEG) % 360.0


def sun_vector(jd: float) -> NDArray[np.float64]:
    """Geocentric equatorial position of the Sun (AU), from the Astronomical Almanac's low-precision series (0.01 deg)."""
    n = jd - 2451545.0
    g = math.radians(357.528 + 0.9856003 * n)
    lon = math.radians(280.460 + 0.9856474 * n + 1.915 * math.sin(g) + 0.020 * math.sin(2 * g))
    dist = 1.00014 - 0.01671 * math.cos(g) - 0.00014 * math.cos(2 * g)
    return dist * ecliptic_to_equatorial(np.array([math.cos(lon), math.sin(lon), 0.0]))


@lru_cache(maxsize=64)
def observer_vector(jd: float) -> NDArray[np.float64]:
    """Heliocentric equatorial position (AU) of the observatory: astropy's Earth (12 km), and a turning ellipsoid (0.02 arcsec)."""
    time = Time(jd, format="jd", scale="utc")
    earth, sun = (get_body_barycentric(body, time, ephemeris="builtin").xyz.to_value("au") for body in ("earth", "sun"))
    phi, theta, f = math.radians(LATITUDE_DEG), math.radians(sidereal_deg(jd)), 1 / 298.257
    c = 1 / math.sqrt(math.cos(phi) ** 2 + (1 - f) ** 2 * math.sin(phi) ** 2)
    height = ALTITUDE_M / 6378137.0
    across, up = (c + height) * math.cos(phi), ((1 - f) ** 2 * c + height) * math.sin(phi)
    site = np.array([across * math.cos(theta), across * math.sin(theta), up]) * _EARTH_RADIUS_AU
    return np.asarray(earth - sun + site)


def ecliptic_to_equatorial(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate vectors (..., 3) from ecliptic to equatorial axes, J2000."""
    c, s = math.cos(_OBLIQUITY), math.sin(_OBLIQUITY)
    return np.stack([v[..., 0], c * v[..., 1] - s * v[..., 2], s * v[..., 1] + c * v[..., 2]], axis=-1)


def moon_vector(jd: float) -> NDArray[np.float64]:
    """Geocentric equatorial unit vector of the Moon, from the Almanac's low-precision series (0.3 deg)."""
    t = (jd - 2451545.0) / 36525.0

    def sine(phase: float, rate: float) -> float:
        return math.sin(math.radians(phase + rate * t))

    lon = (
        218.32
        + 481267.881 * t
        + 6.29 * sine(135.0, 477198.87)
        - 1.27 * sine(259.3, -413335.36)
        + 0.66 * sine(235.7, 890534.22)
        + 0.21 * sine(269.9, 954397.74)
        - 0.19 * sine(357.5, 35999.05)
        - 0.11 * sine(186.5, 966404.03)
    )
    lat = (
        5.13 * sine(93.3, 483202.02)
        + 0.28 * sine(228.2, 960400.89)
        - 0.28 * sine(318.3, 6003.15)
        - 0.17 * sine(217.6, -407332.21)
    )
    return ecliptic_to_equatorial(unit_vectors(lon, lat))


def radec(vector: NDArray[np.float64]) -> tuple[float, float]:
    """Right ascension and declination (degrees) of a vector."""
    v = vector / np.linalg.norm(vector)
    return float(np.degrees(np.arctan2(v[1], v[0])) % 360.0), float(np.degrees(np.arcsin(v[2])))


def altitude_azimuth(ra: float, dec: float, jd: float) -> tuple[float, float]:
    """Altitude and azimuth (north through east), degrees, without refraction."""
    h = math.radians(sidereal_deg(jd) - ra)
    d, p = math.radians(dec), math.radians(LATITUDE_DEG)
    sin_alt = math.sin(p) * math.sin(d) + math.cos(p) * math.cos(d) * math.cos(h)
    az = math.atan2(-math.cos(d) * math.sin(h), math.sin(d) * math.cos(p) - math.cos(d) * math.cos(h) * math.sin(p))
    return math.degrees(math.asin(max(-1.0, min(1.0, sin_alt)))), math.degrees(az) % 360.0


def airmass(altitude_deg: float) -> float:
    """Airmass of Hardie (1962); capped at 10 near and below the horizon."""
    z = math.radians(90.0 - max(altitude_deg, 6.0))
    s = 1.0 / math.cos(z) - 1.0
    return min(10.0, 1.0 + s * (0.9981833 - s * (0.002875 + 0.0008083 * s)))


def heliocentric_days(ra: float, dec: float, jd: float) -> float:
    """Light-travel correction HJD - JD (days) of a direction."""
    return -AU_LIGHT_DAYS * float(sun_vector(jd) @ unit_vectors(ra, dec))


@dataclass(frozen=True)
class SkyState:
    """Sun and Moon as the header wants them: degrees, illuminated fraction, phase angle, moonlight in nanolamberts."""

    sun_alt: float
    sun_az: float
    moon_ra: float
    moon_dec: float
    moon_alt: float
    moon_fraction: float
    moon_phase: float
    moonlight_nl: float


def sky_state(ra: float, dec: float, jd: float) -> SkyState:
    """Sun, Moon and the moonlight on a field.

    The moonlight is the model of Krisciunas & Schaefer (1991), eqs. 3, 15, 20 and 21, with 0.172 mag of extinction.
    """
    sun, moon = sun_vector(jd), moon_vector(jd)
    sun_alt, sun_az = altitude_azimuth(*radec(sun), jd)
    moon_ra, moon_dec = radec(moon)
    moon_alt, _ = altitude_azimuth(moon_ra, moon_dec, jd)
    elongation = math.degrees(math.acos(max(-1.0, min(1.0, float(moon @ sun) / float(np.linalg.norm(sun))))))
    phase = 180.0 - elongation
    light = _moonlight(
        phase, moon_alt, altitude_azimuth(ra, dec, jd)[0], float(separation_deg(ra, dec, moon_ra, moon_dec))
    )
    fraction = 0.5 * (1 + math.cos(math.radians(phase)))
    return SkyState(sun_alt, sun_az, moon_ra, moon_dec, moon_alt, fraction, phase, light)


def _moonlight(phase: float, moon_alt: float, field_alt: float, rho: float) -> float:
    if moon_alt <= 0:
        return 0.0
    brightness = 10 ** (-0.4 * (3.84 + 0.026 * abs(phase) + 4e-9 * phase**4))
    scatter = 10**5.36 * (1.06 + math.cos(math.radians(rho)) ** 2) + 10 ** (6.15 - rho / 40.0)

    def path(alt: float) -> float:
        return (1 - 0.96 * math.cos(math.radians(alt)) ** 2) ** -0.5

    k = 0.172
    return scatter * brightness * 10 ** (-0.4 * k * path(moon_alt)) * (1 - 10 ** (-0.4 * k * path(max(field_alt, 5.0))))
