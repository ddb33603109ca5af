"""Kernels of celestial mechanics: Kepler motion, perturbed motion of massless bodies, and apparent places.

Lengths in AU, times in days, axes equatorial ICRS, origin the Sun.
"""

from __future__ import annotations

import numpy as np
from numba import njit

GM_SUN = 0.01720209894846**2
"""AU^3 / d^2 (DE440's GM of the Sun, as a Gaussian constant)."""
LIGHT_AU_PER_DAY = 173.1446326846693
MOST_STEPS = 200_000
NODES = 8
"""Days of the table of planets that an interpolated position rests on."""
_SOFT = 1e-7  # AU: inside it a body has hit a planet, and its acceleration stays finite


@njit("Tuple((f8, f8, f8, f8))(f8)", cache=True, nogil=True)
def _stumpff(psi):  # type: ignore[no-untyped-def]
    """Stumpff functions c0..c3 of psi = alpha s^2: series near 0, quartered arguments and doubling beyond it."""
    n = 0
    while abs(psi) > 0.1 and n < 60:
        psi *= 0.25
        n += 1
    c3 = (1 - psi / 20 * (1 - psi / 42 * (1 - psi / 72 * (1 - psi / 110 * (1 - psi / 156))))) / 6
    c2 = (1 - psi / 12 * (1 - psi / 30 * (1 - psi / 56 * (1 - psi / 90 * (1 - psi / 132))))) / 2
    c1 = 1 - psi * c3
    c0 = 1 - psi * c2
    for _ in range(n):
        c3 = (c2 + c0 * c3) / 4
        c2 = c1 * c1 / 2
        c1 = c0 * c1
        c0 = 2 * c0 * c0 - 1
    return c0, c1, c2, c3


@njit("UniTuple(f8, 6)(f8, f8, f8, f8, f8, f8, f8)", cache=True, nogil=True)
def kepler(x, y, z, u, v, w, dt):  # type: ignore[no-untyped-def]
    """Two-body motion about the Sun for dt days, any conic (universal variables; Danby 1988, section 6.9).

    Kepler's equation r0 s c1 + eta s^2 c2 + mu s^3 c3 = dt is solved by Laguerre's method, which converges from any start.
    """
    r0 = np.sqrt(x * x + y * y + z * z)
    eta = x * u + y * v + z * w
    alpha = 2 * GM_SUN / r0 - (u * u + v * v + w * w)
    if alpha > 0:  # whole revolutions change nothing
        period = 2 * np.pi * GM_SUN / alpha**1.5
        if abs(dt) > period:
            dt -= period * np.floor(dt / period)
    s = dt / r0
    if abs(s * eta / r0) < 0.5:
        s *= 1 - 0.5 * eta * s / r0
    elif alpha < 0:  # a hyperbola's time grows as exp(root s): start where that is about dt, not where it overflows
        root = np.sqrt(-alpha)
        scale = GM_SUN / root**3
        growth = r0 / root + np.sign(dt) * eta / (root * root) + scale
        farthest = np.log(1 + 2 * (abs(dt) + 50 * scale + r0 / root + abs(eta) / (root * root)) / growth) / root
        s = np.sign(dt) * min(abs(s), farthest)
    c1 = c2 = c3 = 0.0
    r = r0
    for _ in range(60):
        c0, c1, c2, c3 = _stumpff(alpha * s * s)
        c1, c2, c3 = c1 * s, c2 * s * s, c3 * s * s * s
        f = r0 * c1 + eta * c2 + GM_SUN * c3 - dt
        r = r0 * c0 + eta * c1 + GM_SUN * c2
        second = (GM_SUN - r0 * alpha) * c1 + eta * c0
        root = np.sqrt(abs(16 * r * r - 20 * f * second))
        step = -5 * f / (r + (root if r > 0 else -root))
        s += step
        if abs(step) <= 1e-13 * abs(s) or f == 0.0:
            break
    c0, c1, c2, c3 = _stumpff(alpha * s * s)
    c1, c2, c3 = c1 * s, c2 * s * s, c3 * s * s * s
    r = r0 * c0 + eta * c1 + GM_SUN * c2
    f1, g1 = -GM_SUN * c2 / r0, dt - GM_SUN * c3
    f2, g2 = -GM_SUN * c1 / (r * r0), -GM_SUN * c2 / r
    return (
        x + f1 * x + g1 * u,
        y + f1 * y + g1 * v,
        z + f1 * z + g1 * w,
        u + f2 * x + g2 * u,
        v + f2 * y + g2 * v,
        w + f2 * z + g2 * w,
    )


@njit("void(f8[::1], f8)", cache=True, nogil=True)
def _drift(state, dt):  # type: ignore[no-untyped-def]
    """Two-body motion in place."""
    a, b, c, d, e, f = kepler(state[0], state[1], state[2], state[3], state[4], state[5], dt)
    state[0], state[1], state[2], state[3], state[4], state[5] = a, b, c, d, e, f


@njit("void(f8[:, ::1], f8[::1])", cache=True, nogil=True)
def kepler_many(states, dt):  # type: ignore[no-untyped-def]
    """Two-body motion of (n, 6) states, each for its own time dt (n,), d, in place."""
    for k in range(states.shape[0]):
        _drift(states[k], dt[k])


@njit("void(f8[:, :, ::1], f8, f8[:, ::1])", cache=True, nogil=True)
def bodies_at(table, day, out):  # type: ignore[no-untyped-def]
    """Positions of the perturbers at a time: from the daily table, between its days by Lagrange's formula of eight points."""
    k = int(np.floor(day))
    part = day - k
    if part == 0.0 and k >= 0 and k < table.shape[0]:
        out[:, :] = table[k]
        return
    first = min(max(k - NODES // 2 + 1, 0), table.shape[0] - NODES)
    out[:, :] = 0.0
    for i in range(NODES):
        weight = 1.0
        for j in range(NODES):
            if j != i:
                weight *= (day - first - j) / (i - j)
        for b in range(table.shape[1]):
            for c in range(3):
                out[b, c] += weight * table[first + i, b, c]


@njit("f8(f8[::1], f8[:, ::1], f8[::1], f8[::1])", cache=True, nogil=True)
def _perturb(state, bodies, gm, out):  # type: ignore[no-untyped-def]
    """Acceleration besides the Sun's Newtonian one; returns the longest step (d) that these forces allow.

    Planets and Moon, direct and indirect (the Sun is pulled too); relativity of the Sun (Einstein-Infeld-Hoffmann, one
    body): mu / (c^2 r^3) [(4 mu / r - v^2) r + 4 (r.v) v].
    """
    x, y, z, u, v, w = state[0], state[1], state[2], state[3], state[4], state[5]
    r2 = x * x + y * y + z * z
    r = np.sqrt(r2)
    v2 = u * u + v * v + w * w
    factor = GM_SUN / (LIGHT_AU_PER_DAY * LIGHT_AU_PER_DAY * r2 * r)
    radial, along = factor * (4 * GM_SUN / r - v2), factor * 4 * (x * u + y * v + z * w)
    ax, ay, az = radial * x + along * u, radial * y + along * v, radial * z + along * w
    allowed = 0.07 * r * np.sqrt(r / GM_SUN)
    speed = np.sqrt(v2) + 1e-6
    for b in range(gm.size):
        px, py, pz = bodies[b, 0], bodies[b, 1], bodies[b, 2]
        dx, dy, dz = px - x, py - y, pz - z
        d2 = dx * dx + dy * dy + dz * dz + _SOFT * _SOFT
        d, p2 = np.sqrt(d2), px * px + py * py + pz * pz
        direct, indirect = gm[b] / (d2 * d), gm[b] / (p2 * np.sqrt(p2))
        ax += direct * dx - indirect * px
        ay += direct * dy - indirect * py
        az += direct * dz - indirect * pz
        # A passage lasts d / speed; its steps may be longer the weaker the pull is (fourth-order quadrature).
        pull = gm[b] * r2 / (GM_SUN * d2)
        allowed = min(allowed, 0.3 * d / speed / np.sqrt(np.sqrt(pull)))
    out[0], out[1], out[2] = ax, ay, az
    return allowed


@njit("f8(f8, f8)", cache=True, nogil=True)
def _step(allowed, left):  # type: ignore[no-untyped-def]
    """A power of two of days not above `allowed` (1/1024 to 16, or what is left): halves of steps fall on whole days."""
    h = 16.0
    while h > allowed and h > 1.0 / 1024.0:
        h *= 0.5
    return min(h, left)


@njit("void(f8[::1], f8[::1], f8)", cache=True, nogil=True)
def _kick(state, acceleration, dt):  # type: ignore[no-untyped-def]
    """Change of velocity in place."""
    for c in range(3):
        state[3 + c] += dt * acceleration[c]


@njit("void(f8[:, ::1], f8[::1], f8, f8[:, :, ::1], f8[::1], i4[::1])", cache=True, nogil=True)
def propagate(states, days, target, table, gm, steps):  # type: ignore[no-untyped-def]
    """Carry heliocentric states to one time under Sun, planets, Moon and relativity, in place.

    A step is the map SBAB2 of Laskar and Robutel (2001): kicks of h/6, 4h/6, h/6 by the perturbations, and Kepler motion
    between them; its error is of order (perturbation) h^4. Steps follow the orbit's curvature and the nearest planet.

    Parameters
    ----------
    states : (n, 6) float64, changed
        Positions AU, velocities AU/d; NaN for a body that would need more than `MOST_STEPS` steps.
    days : (n,) float64
        Times of the states, days since the first row of the table.
    target : float
        Time wanted, same unit.
    table : (days, bodies, 3) float64
        Heliocentric positions of the perturbers, AU, one row a day, reaching over all times.
    gm : (bodies,) float64
        Their GM, AU^3/d^2.
    steps : (n,) int32, filled
        Number of steps taken.
    """
    bodies = np.empty((gm.size, 3))
    acceleration = np.empty(3)
    for k in range(states.shape[0]):
        state = states[k]
        day, n = days[k], 0
        sign = 1.0 if target >= day else -1.0
        bodies_at(table, day, bodies)
        allowed = _perturb(state, bodies, gm, acceleration)
        while abs(target - day) > 1e-9 and n < MOST_STEPS:
            h = sign * _step(allowed, abs(target - day))
            _kick(state, acceleration, h / 6)
            _drift(state, h / 2)
            bodies_at(table, day + h / 2, bodies)
            half = _perturb(state, bodies, gm, acceleration)
            _kick(state, acceleration, 2 * h / 3)
            _drift(state, h / 2)
            day += h
            bodies_at(table, day, bodies)
            allowed = min(half, _perturb(state, bodies, gm, acceleration))
            _kick(state, acceleration, h / 6)
            n += 1
        steps[k] = n
        if abs(target - day) > 1e-9:  # so deep in a well that it never got there
            state[:] = np.nan


@njit("void(f8[:, ::1], f8, f8[::1], f8[::1], f8[:, ::1])", cache=True, nogil=True)
def places(states, dt, observer, sun_velocity, out):  # type: ignore[no-untyped-def]
    """Where an observer sees bodies: two-body motion for dt days and light time.

    Parameters
    ----------
    states : (n, 6) float64
        Heliocentric, all at one time.
    dt : float
        Time of observation minus time of the states, d.
    observer : (3,) float64
        Heliocentric position at the observation, AU.
    sun_velocity : (3,) float64
        Barycentric velocity of the Sun, AU/d: while light travels, the Sun moves.
    out : (n, 5) float64, filled
        Unit vector (astrometric: no aberration), distance from the observer and from the Sun, AU.
    """
    for k in range(states.shape[0]):
        s = states[k]
        lag, delta, r = 0.0, 1.0, 1.0
        x = y = z = 0.0
        for _ in range(4):
            x, y, z, _u, _v, _w = kepler(s[0], s[1], s[2], s[3], s[4], s[5], dt - lag)
            r = np.sqrt(x * x + y * y + z * z)
            x -= observer[0] + sun_velocity[0] * lag
            y -= observer[1] + sun_velocity[1] * lag
            z -= observer[2] + sun_velocity[2] * lag
            delta = np.sqrt(x * x + y * y + z * z)
            before = lag
            lag = delta / LIGHT_AU_PER_DAY
            if abs(lag - before) < 1e-8:
                break
        out[k, 0], out[k, 1], out[k, 2], out[k, 3], out[k, 4] = x / delta, y / delta, z / delta, delta, r
