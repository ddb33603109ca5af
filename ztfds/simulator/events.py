"""What changes or moves in the sky: supernovae, asteroids on orbits, fast movers; positions and magnitudes at any time."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ztfds.simulator.ephemeris import AU_LIGHT_DAYS, ecliptic_to_equatorial, observer_vector
from ztfds.simulator.optics import TrueWcs, distortion, true_wcs
from ztfds.simulator.schedule import Plan, nominal_mag
from ztfds.simulator.sky import sky_patch, unit_vectors
from ztfds.survey import camera as survey_camera
from ztfds.survey import fields as field_grid

F64 = NDArray[np.float64]
TRANSIENT = np.dtype(
    [
        ("id", "i8"),
        ("field", "i4"),
        ("rcid", "i2"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("g", "f4"),
        ("r", "f4"),
        ("i", "f4"),
        ("rate", "f4"),
        ("on_galaxy", "?"),
        ("host_id", "i8"),
    ]
)
ASTEROID = np.dtype([("id", "i8"), ("pos", "f8", 3), ("vel", "f8", 3), ("r", "f4"), ("norm", "f8")])
FAST = np.dtype([("id", "i8"), ("ra", "f8"), ("dec", "f8"), ("jd", "f8"), ("rate", "f8"), ("pa", "f8"), ("r", "f4")])
GM = 0.01720209895**2
"""AU^3 / d^2, the Gaussian constant squared."""
_COLOUR = {"transient": (0.10, 0.05), "asteroid": (0.55, 0.20)}


def nominal_wcs(plan: Plan, fieldid: int, rcid: int) -> TrueWcs:
    """The mapping of a quadrant when the telescope points exactly at the field."""
    field = field_grid.get(fieldid)
    optics, (ccdid, qid) = plan.config.optics, survey_camera.ccd_qid(rcid)
    pv = distortion(plan.seed, rcid, optics.distortion_quadratic, optics.distortion_cubic)
    return true_wcs(
        (field.ra, field.dec),
        0.0,
        plan.camera.pixel_scale_arcsec,
        plan.camera.quadrant_centre_deg(ccdid, qid),
        plan.camera.quadrant_shape,
        pv,
    )


@lru_cache(maxsize=4)
def transients(plan: Plan) -> NDArray[np.void]:
    """All injected supernovae of the plan's fields (dtype TRANSIENT; magnitudes at `onset_jd`, rate in mag per day)."""
    parts = [_transients_of(plan, field, rcid) for field in plan.fields for rcid in plan.camera.rcids]
    return np.concatenate(parts) if parts else np.zeros(0, TRANSIENT)


def _transients_of(plan: Plan, fieldid: int, rcid: int) -> NDArray[np.void]:
    sky, rng = plan.config.sky, np.random.default_rng([plan.seed, 21, fieldid, rcid])
    n, wcs = sky.transients_per_quadrant, nominal_wcs(plan, fieldid, rcid)
    xs, ys, hosts = _places(plan, wcs, rng, n)
    out = np.zeros(xs.size, TRANSIENT)
    out["id"] = 5_000_000_000_000 + (fieldid * 64 + rcid) * 1000 + np.arange(xs.size)
    out["field"], out["rcid"], out["host_id"], out["on_galaxy"] = fieldid, rcid, hosts, hosts > 0
    out["ra"], out["dec"] = wcs.to_sky(xs, ys)
    low, high = np.log(sky.transient_snr)
    # Evenly spread in log S/N, so that every quadrant has bright and faint ones.
    u = (rng.permutation(xs.size) + rng.random(xs.size)) / max(1, xs.size)
    out["r"] = nominal_mag(plan, 2, np.exp(low + u * (high - low)))
    gr, ri = rng.normal(0.10, 0.15, xs.size), rng.normal(0.05, 0.10, xs.size)
    out["g"], out["i"] = out["r"] + gr, out["r"] - ri
    out["rate"] = np.where(rng.random(xs.size) < 0.4, rng.uniform(-0.2, 0.0, xs.size), rng.uniform(0.0, 0.08, xs.size))
    return out


def _places(plan: Plan, wcs: TrueWcs, rng: np.random.Generator, n: int) -> tuple[F64, F64, NDArray[np.int64]]:
    """Pixel places of n transients, far from each other and from the edges; the host's id or 0 for the hostless."""
    sky, (ny, nx) = plan.config.sky, plan.camera.quadrant_shape
    edge = sky.transient_edge_px
    radius = plan.camera.radius_deg() * 1.05
    galaxies = sky_patch(plan.seed, wcs.ra0, wcs.dec0, radius, sky)[1]
    gx, gy = wcs.to_pixel(galaxies["ra"], galaxies["dec"])
    usable = np.flatnonzero((galaxies["r"] < 20.8) & (gx > edge) & (gy > edge) & (gx < nx - edge) & (gy < ny - edge))
    order = list(rng.permutation(usable))
    found: list[tuple[float, float, int]] = []
    n_hosted = round(n * sky.transient_host_fraction)
    for _ in range(60 * max(1, n)):
        if len(found) >= n:
            break
        if len(found) < n_hosted and order:
            k = order.pop()
            reach = rng.uniform(0.2, 1.3) * galaxies["re"][k] / plan.camera.pixel_scale_arcsec
            angle = rng.uniform(0, 2 * np.pi)
            x, y, host = gx[k] + reach * np.cos(angle), gy[k] + reach * np.sin(angle), int(galaxies["id"][k])
        else:
            x, y, host = rng.uniform(edge, nx - 1 - edge), rng.uniform(edge, ny - 1 - edge), 0
        if all(np.hypot(x - a, y - b) > sky.transient_separation_px for a, b, _ in found):
            found.append((float(x), float(y), host))
    table = np.array(found, float).reshape(-1, 3)
    return table[:, 0], table[:, 1], np.array([f[2] for f in found], np.int64)


def transient_mags(table: NDArray[np.void], plan: Plan, fid: int, jd: float) -> F64:
    """Magnitudes in one filter; infinite before the onset."""
    band = table["gri"[fid - 1]].astype(float)
    days = jd - plan.onset_jd
    return np.where(days < 0, np.inf, band + table["rate"] * days)


@lru_cache(maxsize=4)
def asteroids(plan: Plan) -> NDArray[np.void]:
    """Main-belt-like bodies (dtype ASTEROID): heliocentric equatorial state at `onset_jd` (AU, AU/d), r magnitude there."""
    rng = np.random.default_rng([plan.seed, 22])
    ra, dec = _scatter(plan, rng, plan.config.sky.asteroids_per_quadrant)
    n = ra.size
    out = np.zeros(n, ASTEROID)
    out["id"] = 6_000_000_000_000 + np.arange(n)
    earth, line, r = observer_vector(plan.onset_jd + 0.25), unit_vectors(ra, dec), rng.uniform(2.1, 3.2, n)
    along = line @ earth
    delta = -along + np.sqrt(along**2 - earth @ earth + r**2)
    pos = earth + delta[:, None] * line
    out["pos"], out["vel"] = pos, _orbital_velocity(rng, pos, r)
    low, high = np.log(plan.config.sky.asteroid_snr)
    out["r"], out["norm"] = nominal_mag(plan, 2, np.exp(rng.uniform(low, high, n))), 5 * np.log10(r * delta)
    return out


def _orbital_velocity(rng: np.random.Generator, pos: F64, r: F64) -> F64:
    """Velocities (AU/d) of prograde, slightly eccentric orbits through given places (vis-viva), inclined by a few deg."""
    n, radial = r.size, pos / r[:, None]
    pole = ecliptic_to_equatorial(np.array([0.0, 0.0, 1.0]))
    normal = pole - (radial @ pole)[:, None] * radial
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    tilt = np.radians(rng.normal(0, 7.0, n))[:, None]
    normal = normal * np.cos(tilt) + np.cross(radial, normal) * np.sin(tilt)
    speed = np.sqrt(GM * (2 / r - 1 / (r * rng.uniform(0.92, 1.08, n))))
    lean = rng.normal(0, 0.08, n)[:, None]
    return speed[:, None] * (np.cross(normal, radial) * np.sqrt(1 - lean**2) + radial * lean)


def asteroid_positions(plan: Plan, jd: float) -> tuple[F64, F64, F64]:
    """Apparent right ascension, declination (degrees, from Palomar, light time allowed for) and r magnitudes at a date."""
    table = asteroids(plan)
    epoch, earth = plan.onset_jd + 0.25, observer_vector(jd)
    pos, _ = _kepler(table["pos"], table["vel"], jd - epoch)
    delta = np.linalg.norm(pos - earth, axis=1)
    pos, _ = _kepler(table["pos"], table["vel"], jd - epoch - AU_LIGHT_DAYS * delta)
    seen = pos - earth
    delta, r = np.linalg.norm(seen, axis=1), np.linalg.norm(pos, axis=1)
    ra = np.degrees(np.arctan2(seen[:, 1], seen[:, 0])) % 360.0
    return ra, np.degrees(np.arcsin(seen[:, 2] / delta)), table["r"] + 5 * np.log10(r * delta) - table["norm"]


def asteroid_states(plan: Plan, jd: float) -> tuple[F64, F64]:
    """Heliocentric positions and velocities (AU, AU/d, equatorial) at a date, no light time."""
    table = asteroids(plan)
    return _kepler(table["pos"], table["vel"], jd - plan.onset_jd - 0.25)


def _kepler(pos: F64, vel: F64, dt: F64 | float) -> tuple[F64, F64]:
    """Two-body positions and velocities `dt` days later: Runge-Kutta of fourth order in steps of a day or less (error < 1e-9 AU)."""
    dt = np.broadcast_to(np.asarray(dt, float), pos.shape[:1])
    steps = max(1, int(np.ceil(np.max(np.abs(dt), initial=0.0))))
    h = (dt / steps)[:, None]

    def pull(p: F64) -> F64:
        return -GM * p / np.sum(p * p, axis=1, keepdims=True) ** 1.5

    p, v = pos.copy(), vel.copy()
    for _ in range(steps):
        a1 = pull(p)
        p2, v2 = p + 0.5 * h * v, v + 0.5 * h * a1
        a2 = pull(p2)
        p3, v3 = p + 0.5 * h * v2, v + 0.5 * h * a2
        a3 = pull(p3)
        p4, v4 = p + h * v3, v + h * a3
        p, v = p + h / 6 * (v + 2 * v2 + 2 * v3 + v4), v + h / 6 * (a1 + 2 * a2 + 2 * a3 + pull(p4))
    return p, v


def _scatter(plan: Plan, rng: np.random.Generator, mean: float) -> tuple[F64, F64]:
    """Random sky positions, a Poisson number in each quadrant of each field."""
    ny, nx = plan.camera.quadrant_shape
    ra, dec = [np.zeros(0)], [np.zeros(0)]
    for fieldid in plan.fields:
        for rcid in plan.camera.rcids:
            n = rng.poisson(mean)
            a, d = nominal_wcs(plan, fieldid, rcid).to_sky(rng.uniform(0, nx, n), rng.uniform(0, ny, n))
            ra.append(a)
            dec.append(d)
    return np.concatenate(ra), np.concatenate(dec)


@lru_cache(maxsize=4)
def fast_movers(plan: Plan) -> NDArray[np.void]:
    """Near-Earth objects (dtype FAST) that pass a field during one of its science exposures, trailed by some pixels.

    `rate` degrees per day, `pa` radians north through east, `r` the magnitude of the whole streak.
    """
    rng = np.random.default_rng([plan.seed, 23])
    ra, dec = _scatter(plan, rng, plan.config.sky.fast_movers_per_quadrant)
    moments = [e.jd for e in plan.science()]
    if not moments:
        return np.zeros(0, FAST)
    out = np.zeros(ra.size, FAST)
    out["id"], out["ra"], out["dec"] = 7_000_000_000_000 + np.arange(ra.size), ra, dec
    out["jd"] = rng.choice(moments, ra.size)
    sky = plan.config.sky
    length = _log_uniform(rng, sky.fast_mover_length_px, ra.size)
    out["rate"] = length * plan.camera.pixel_scale_arcsec / 3600.0 / (30.0 / 86400.0)
    out["pa"] = rng.uniform(0, 2 * np.pi, ra.size)
    # A streak spreads over more noise than a point: brighten by the square root of its length in FWHM.
    snr = _log_uniform(rng, sky.fast_mover_snr, ra.size) * np.sqrt(1 + length / 3.0)
    out["r"] = nominal_mag(plan, 2, snr)
    return out


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], n: int) -> F64:
    """Random numbers between two limits, uniform in their logarithm."""
    low, high = math.log(limits[0]), math.log(limits[1])
    return np.exp(rng.uniform(low, high, n))


def fast_positions(table: NDArray[np.void], jd: F64 | float) -> tuple[F64, F64]:
    """Positions (degrees) at a date, along great circles' tangents."""
    moved = table["rate"] * (jd - table["jd"])
    cos = np.cos(np.radians(table["dec"]))
    return table["ra"] + moved * np.sin(table["pa"]) / cos, table["dec"] + moved * np.cos(table["pa"])


def colours(kind: str) -> tuple[float, float]:
    """g-r and r-i of movers."""
    return _COLOUR[kind]
