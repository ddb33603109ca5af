"""Where planets, Moon, Earth and observatory are: analytic series of ERFA, no file and no network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import erfa
import numpy as np

from ztfds.kernels.orbits import GM_SUN

OBLIQUITY_RAD = np.radians(84381.448 / 3600.0)
"""Obliquity of the ecliptic of J2000 to which orbital elements refer (IAU 1976, as the MPC and JPL use it)."""
MARGIN_DAYS = 8
"""Rows of a table of perturbers before the first and after the last day wanted: interpolation and steps reach out."""
_MASS_RATIOS = (6023682.155592, 408523.718658, 332946.048834, 3098703.590291, 1047.348625, 3497.901768, 22902.981613)
_NEPTUNE, _MOON = 19412.259776, 27068703.241203
GM = GM_SUN / np.array([*_MASS_RATIOS, _NEPTUNE, _MOON])
"""Mercury, Venus, Earth, Mars (system), ... Neptune (systems), Moon, AU^3/d^2 (mass ratios of DE440)."""
_EARTH_RADIUS_AU = 6378.137 / 149597870.7


@dataclass(frozen=True)
class Site:
    """An observatory by the MPC's parallax constants.

    Attributes
    ----------
    code : str
    longitude_deg : float
        East.
    rho_cos, rho_sin : float
        Distances from the Earth's axis and equator, in equatorial radii (6378.137 km).
    """

    code: str
    longitude_deg: float
    rho_cos: float
    rho_sin: float


PALOMAR = Site("I41", 243.14022, 0.836322, 0.546875)
"""Palomar Mountain--ZTF, as the MPC lists it."""


@dataclass(frozen=True)
class Observer:
    """An observer at one time.

    Attributes
    ----------
    tt : float
        JD, TT.
    position : (3,) float64
        Heliocentric, ICRS axes, AU.
    sun_velocity : (3,) float64
        Barycentric velocity of the Sun, AU/d.
    """

    tt: float
    position: np.ndarray
    sun_velocity: np.ndarray


def tt_of_utc(jd_utc: float | np.ndarray) -> np.ndarray:
    """JD in TT of a JD in UTC (leap seconds as ERFA knows them)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)  # "dubious year": leap seconds to come are not known
        whole, part = erfa.utctai(np.floor(jd_utc), jd_utc - np.floor(jd_utc))
    return np.asarray(whole + (part + 32.184 / 86400.0))


def earth(tt: np.ndarray | float) -> np.ndarray:
    """Heliocentric position of the Earth, (..., 3) AU (ERFA epv00, good to 12 km)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        return np.asarray(erfa.epv00(np.asarray(tt, float), 0.0)[0]["p"])


def perturbers(first_tt: float, last_tt: float) -> tuple[float, np.ndarray]:
    """Daily heliocentric positions of everything that pulls.

    Parameters
    ----------
    first_tt, last_tt : float
        JD, TT, of the times that orbits are at and are carried to.

    Returns
    -------
    start : float
        JD, TT, of the first row (0h of a day).
    table : (days, 9, 3) float64
        In the order of `GM`, AU, ICRS axes.
    """
    start = np.floor(min(first_tt, last_tt) - 0.5) + 0.5 - MARGIN_DAYS
    n = int(np.ceil(max(first_tt, last_tt) - start)) + MARGIN_DAYS + 1
    tt = start + np.arange(n)
    table = np.empty((n, GM.size, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        for body, number in enumerate((1, 2, 0, 4, 5, 6, 7, 8)):
            if number:
                table[:, body] = erfa.plan94(tt, 0.0, number)["p"]
    table[:, 2] = earth(tt)
    table[:, 8] = table[:, 2] + erfa.moon98(tt, 0.0)["p"]
    return float(start), table


def observer(jd_utc: float, site: Site = PALOMAR) -> Observer:
    """An observatory's heliocentric place: Earth plus its own offset, with precession, nutation and rotation (IAU 2006/2000A).

    UT1 is taken as UTC and polar motion as zero: 0.4 km at most, 0.6 mas at 1 AU.

    Parameters
    ----------
    jd_utc : float
        JD of the middle of the exposure, UTC.
    site : Site
    """
    tt = float(tt_of_utc(jd_utc))
    longitude = np.radians(site.longitude_deg)
    fixed = np.array([site.rho_cos * np.cos(longitude), site.rho_cos * np.sin(longitude), site.rho_sin])
    turned = erfa.c2t06a(tt, 0.0, jd_utc, 0.0, 0.0, 0.0).T @ fixed
    heliocentric, barycentric = erfa.epv00(tt, 0.0)
    velocity = barycentric["v"] - heliocentric["v"]
    return Observer(tt, heliocentric["p"] + _EARTH_RADIUS_AU * turned, np.ascontiguousarray(velocity))


def ecliptic_to_equatorial(vectors: np.ndarray) -> np.ndarray:
    """Rotate (..., 3) vectors from ecliptic to equatorial axes, J2000."""
    c, s = np.cos(OBLIQUITY_RAD), np.sin(OBLIQUITY_RAD)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.stack([x, c * y - s * z, s * y + c * z], axis=-1)
