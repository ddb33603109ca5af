"""Orbits carried to one night, sorted by place on the sky, so that an image reads only those around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy import units
from astropy_healpix import core

from ztfds.config.solarsystem import SolarSystemConfig
from ztfds.kernels import orbits as kernels
from ztfds.solarsystem import planets
from ztfds.solarsystem.mpc import COMET, NO_MAGNITUDE
from ztfds.solarsystem.planets import Observer, Site

STATE = np.dtype([("state", "f8", 6), ("h", "f4"), ("g", "f4"), ("kind", "u1"), ("u", "i1"), ("name", "S16")])
"""One prepared object: heliocentric state at the night's epoch (AU, AU/d, equatorial), magnitude parameters, kind, name."""
KNOWN = np.dtype(
    [
        ("name", "U16"),
        *[(name, "f8") for name in ("ra", "dec")],
        *[(name, "f4") for name in ("mag", "rate_ra", "rate_dec", "delta", "r")],
        ("u", "i1"),
    ]
)
"""A known object at the time of an exposure: astrometric place (ICRS, deg), predicted V (mag), motion (arcsec/h, in RA times
cos dec), distances from observer and Sun (AU), uncertainty code of the orbit."""
_CELL_REACH_DEG = 1.15
"""Farthest corner of a HEALPix cell from its centre, in units of the mean cell width (1.05 at most, and some room)."""
_MOTION_STEP_D = 0.01
_UNSEEN = 1e-4  # elongation or distance below which a place means nothing


@dataclass(frozen=True)
class Night:
    """Everything known that may be seen in one night.

    Attributes
    ----------
    tt : float
        JD, TT, of the states.
    starts : (cells + 2,) int64
        First row of each HEALPix cell (ring order of `core`'s nested numbers); the last part holds the fast objects.
    states : (n,) array of `STATE`
        Sorted by cell; may be a memory map.
    about : mapping
        Where the orbits came from: identifiers and ages of the sets.
    """

    tt: float
    starts: np.ndarray
    states: np.ndarray
    about: Mapping[str, Any] = field(default_factory=dict)


def prepare(orbits: Sequence[np.ndarray], nid_jd: float, config: SolarSystemConfig, site: Site) -> Night:
    """Carry orbits to the middle of a night and sort them by where they are then.

    Parameters
    ----------
    orbits : sequence of arrays of `mpc.ORBIT`
        Asteroids, comets.
    nid_jd : float
        JD of 0h UTC of the night.
    config : SolarSystemConfig
    site : Site

    Returns
    -------
    Night
        Orbits that end in the Sun or become undefined are left out.
    """
    tt = nid_jd + config.epoch_of_day
    rows = np.concatenate([_carried(part, tt) for part in orbits])
    rows = rows[np.isfinite(rows["state"]).all(axis=1)]
    cell = _cells(rows["state"], tt, config, site)
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(12 * 4**config.cell_order + 2))
    return Night(tt, starts.astype(np.int64), rows[order], {"fast_deg_per_day": config.fast_deg_per_day})


def _carried(orbits: np.ndarray, tt: float) -> np.ndarray:
    """Prepared rows of orbits."""
    rows = np.zeros(len(orbits), STATE)
    for name in ("h", "g", "kind", "u", "name"):
        rows[name] = orbits[name]
    if len(orbits):
        rows["state"] = carry(orbits["state"], orbits["epoch"], tt)[0]
    return rows


def carry(states: np.ndarray, epochs: np.ndarray, tt: float) -> tuple[np.ndarray, np.ndarray]:
    """Carry heliocentric states to a common time under Sun, planets, Moon and relativity.

    Parameters
    ----------
    states : (n, 6) float64
        AU, AU/d, equatorial.
    epochs : (n,) float64
        JD, TT.
    tt : float
        JD, TT.

    Returns
    -------
    states : (n, 6) float64
    steps : (n,) int32
        Steps of the integration.
    """
    start, table = planets.perturbers(min(float(np.min(epochs)), tt), max(float(np.max(epochs)), tt))
    out, steps = np.array(states, np.float64, order="C"), np.empty(len(states), np.int32)
    kernels.propagate(out, np.ascontiguousarray(epochs - start, dtype=np.float64), tt - start, table, planets.GM, steps)
    return out, steps


def _cells(states: np.ndarray, tt: float, config: SolarSystemConfig, site: Site) -> np.ndarray:
    """HEALPix cell of each object at the epoch; one past the last cell for fast ones."""
    n_cells = 12 * 4**config.cell_order
    utc = tt - float(planets.tt_of_utc(tt) - tt)
    here = _places(states, tt, planets.observer(utc, site))
    ahead = _places(states, tt, planets.observer(utc + _MOTION_STEP_D, site))
    rate = np.degrees(np.linalg.norm(ahead[:, :3] - here[:, :3], axis=1)) / _MOTION_STEP_D
    slow = rate < config.fast_deg_per_day  # also turns away NaN
    cell = np.full(len(states), n_cells, np.int64)
    ra, dec = sky_of(here[slow])
    cell[slow] = core.lonlat_to_healpix(ra * units.deg, dec * units.deg, 2**config.cell_order, order="nested")
    return cell


def _places(states: np.ndarray, tt: float, observer: Observer) -> np.ndarray:
    """Unit vectors and distances, (n, 5), of states of one time."""
    out = np.empty((len(states), 5))
    given = np.array(states, np.float64, order="C")
    kernels.places(given, observer.tt - tt, np.ascontiguousarray(observer.position), observer.sun_velocity, out)
    return out


def sky_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination, deg, of (n, >= 3) unit vectors."""
    ra = np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) % 360.0
    return ra, np.degrees(np.arcsin(np.clip(vectors[:, 2], -1, 1)))


# -- search ------------------------------------------------------------------------------------------------------------


def known_objects(
    night: Night, ra: float, dec: float, radius: float, jd_utc: float, config: SolarSystemConfig, site: Site
) -> np.ndarray:
    """Known objects in a circle at a time.

    Parameters
    ----------
    night : Night
    ra, dec, radius : float
        Circle, ICRS, deg.
    jd_utc : float
        JD of the middle of the exposure, UTC.
    config : SolarSystemConfig
    site : Site

    Returns
    -------
    (n,) array of `KNOWN`, brightest first.
    """
    observer = planets.observer(jd_utc, site)
    rows = np.concatenate([night.states[a:b] for a, b in _slices(night, ra, dec, radius, observer.tt)])
    seen = _places(rows["state"], night.tt, observer)
    centre = np.array(_unit(ra, dec))
    with np.errstate(invalid="ignore"):
        inside = seen[:, :3] @ centre >= np.cos(np.radians(radius))
    rows, seen = rows[inside], seen[inside]
    mag = magnitude(rows, seen, observer.position)
    bright = mag <= config.faintest_mag
    order = np.argsort(mag[bright], kind="stable")
    rows, seen, mag = rows[bright][order], seen[bright][order], mag[bright][order]
    return _table(night, rows, seen, mag, jd_utc, site)


def _slices(night: Night, ra: float, dec: float, radius: float, tt: float) -> list[tuple[int, int]]:
    """Runs of rows that may hold what is in a circle: cells that it may touch, and the fast objects."""
    cells = len(night.starts) - 2
    order = round(np.log2(cells / 12) / 2)
    near = _near_cells(order, ra, dec, radius + _reach(night, tt))
    runs = np.split(near, np.flatnonzero(np.diff(near) != 1) + 1) if near.size else []
    slices = [(int(night.starts[run[0]]), int(night.starts[run[-1] + 1])) for run in runs]
    return [*slices, (int(night.starts[cells]), len(night.states))]


def _reach(night: Night, tt: float) -> float:
    """How far slow objects get from where they were sorted, deg; an hour's motion is added for the parallax's change."""
    return float(night.about.get("fast_deg_per_day", 1.0)) * (abs(tt - night.tt) + 0.05)


def _near_cells(order: int, ra: float, dec: float, reach: float) -> np.ndarray:
    """Cells of an order whose centres are near enough to touch a circle, ascending."""
    lon, lat = core.healpix_to_lonlat(np.arange(12 * 4**order), 2**order, order="nested")
    vectors = np.stack(_unit(lon.to_value("deg"), lat.to_value("deg")), axis=-1)
    limit = min(180.0, reach + _CELL_REACH_DEG * 58.6323 / 2**order)
    return np.flatnonzero(vectors @ np.array(_unit(ra, dec)) >= np.cos(np.radians(limit)))


def _unit(ra: Any, dec: Any) -> tuple[Any, Any, Any]:
    """Unit vector of a place in deg."""
    a, d = np.radians(ra), np.radians(dec)
    return np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)


def _table(night: Night, rows: np.ndarray, seen: np.ndarray, mag: np.ndarray, jd_utc: float, site: Site) -> np.ndarray:
    """The found objects with places and motions."""
    table = np.zeros(len(rows), KNOWN)
    table["ra"], table["dec"] = sky_of(seen)
    table["name"] = np.char.decode(rows["name"], "ascii") if len(rows) else ""
    table["mag"], table["u"], table["delta"], table["r"] = mag, rows["u"], seen[:, 3], seen[:, 4]
    later = _places(rows["state"], night.tt, planets.observer(jd_utc + _MOTION_STEP_D, site))
    ra, dec = sky_of(later)
    to_rate = 3600.0 / (24.0 * _MOTION_STEP_D)
    table["rate_ra"] = ((ra - table["ra"] + 180.0) % 360.0 - 180.0) * np.cos(np.radians(table["dec"])) * to_rate
    table["rate_dec"] = (dec - table["dec"]) * to_rate
    return table


def magnitude(rows: np.ndarray, seen: np.ndarray, observer: np.ndarray) -> np.ndarray:
    """Predicted V magnitudes.

    Asteroids: the H, G system (Bowell et al. 1989, IAU 1985), V = H + 5 log(r delta) - 2.5 log((1 - G) phi1 + G phi2) with
    phi_i = exp(-A_i tan(alpha / 2)^B_i). Comets: the MPC's total magnitude m1 = H + 5 log(delta) + 2.5 G log(r).

    Parameters
    ----------
    rows : (n,) structured array with h, g, kind
    seen : (n, 5) float64
        As from the kernel `places`.
    observer : (3,) float64
        Heliocentric place of the observer, AU.

    Returns
    -------
    (n,) float64, mag; infinite without H.
    """
    delta, r = np.maximum(seen[:, 3], _UNSEEN), np.maximum(seen[:, 4], _UNSEEN)
    cosine = (r**2 + delta**2 - observer @ observer) / (2 * r * delta)
    half = np.tan(np.minimum(np.arccos(np.clip(cosine, -1, 1)), np.radians(179.0)) / 2)
    h, g = rows["h"].astype(float), rows["g"].astype(float)
    phase = (1 - g) * np.exp(-3.332 * half**0.631) + g * np.exp(-1.862 * half**1.218)
    asteroid = h + 5 * np.log10(r * delta) - 2.5 * np.log10(np.maximum(phase, 1e-12))
    comet = h + 5 * np.log10(delta) + 2.5 * g * np.log10(r)
    mag = np.where(rows["kind"] == COMET, comet, asteroid)
    return np.where((h < NO_MAGNITUDE) & np.isfinite(mag), mag, np.inf)
