"""What other people know of the simulated asteroids: a list of orbits as the Minor Planet Center writes it, and one of places.

A part of the asteroids is withheld: they are there to be discovered.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ztfds.formats.atomic import write_atomic
from ztfds.simulator import events
from ztfds.simulator.ephemeris import ALTITUDE_M, LATITUDE_DEG, LONGITUDE_DEG, TT_MINUS_UTC_D, observer_vector
from ztfds.simulator.schedule import Plan

F64 = NDArray[np.float64]
FIRST_NUMBER = 500_000
"""Number of the first asteroid."""
WITHHELD = 5
"""Every so many-th asteroid is in no list."""
V_MINUS_R = 0.20
"""Colour of an asteroid of mean g - r (0.55) between Johnson V and r."""
SLOPE = 0.15
ORBITS, OBSERVATORIES = "MPCORB.DAT", "obscodes.json"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TILT = math.radians(23.43929111)
_HEADER = "MINOR PLANET CENTER ORBIT DATABASE (MPCORB), in imitation\n\nDes'n     H     G   Epoch     M        Peri.      Node\n"


def known_names(plan: Plan) -> dict[int, str]:
    """Names of the asteroids in the list, by the identifier of the truth."""
    ids = events.asteroids(plan)["id"]
    return {int(i): str(FIRST_NUMBER + k) for k, i in enumerate(ids) if k % WITHHELD != 1}


def write_orbits(folder: Path, plan: Plan) -> dict[str, Path]:
    """Write the list of orbits, at 0h TT of the last night, and that of observatories; returns the paths by kind."""
    jd0 = math.floor(plan.onset_jd + 0.25 - 0.5) + 0.5
    text = _HEADER + "-" * 160 + "\n" + "".join(line + "\n" for line in _lines(plan, jd0))
    paths = {"mpcorb": Path(folder) / ORBITS, "obscodes": Path(folder) / OBSERVATORIES}
    write_atomic(paths["mpcorb"], text.encode())
    write_atomic(paths["obscodes"], json.dumps({"I41": _palomar()}, indent=1).encode())
    return paths


def _lines(plan: Plan, epoch: float) -> list[str]:
    """A line of 202 columns for each known asteroid."""
    table = events.asteroids(plan)
    pos, vel = events.asteroid_states(plan, epoch - TT_MINUS_UTC_D)
    magnitudes = _absolute(plan, table)
    packed, last = pack_day(epoch), _calendar(epoch - 1.0)
    lines = []
    for k in range(table.size):
        if int(table["id"][k]) not in known_names(plan):
            continue
        elements = elements_of(pos[k], vel[k])
        number = FIRST_NUMBER + k
        angles = " ".join(f"{elements[name]:9.5f} " for name in ("M", "peri", "node", "incl"))
        head = f"{_BASE62[number // 10000]}{number % 10000:04d}   {magnitudes[k]:5.2f} {SLOPE:5.2f} {packed} {angles}"
        orbit = f"{elements['e']:9.7f} {elements['n']:11.8f} {elements['a']:11.7f}"
        tail = f"  0 SIM         500  10 2001-{last[:4]} 0.40 M-v 30h SIMULATED  0000 {f'({number})':>8s}"
        lines.append(f"{head}{orbit}{tail}".ljust(194) + last)
    return lines


def elements_of(pos: F64, vel: F64) -> dict[str, float]:
    """Osculating elements (AU, degrees, degrees per day; ecliptic J2000) of an equatorial heliocentric state (AU, AU/d).

    Angular momentum and eccentricity vectors (Murray & Dermott 1999, section 2.8).
    """
    x, v = (np.array([u[0], math.cos(_TILT) * u[1] + math.sin(_TILT) * u[2], math.cos(_TILT) * u[2] - math.sin(_TILT) * u[1]])
            for u in (pos, vel))  # fmt: skip
    r, h = float(np.linalg.norm(x)), np.cross(x, v)
    eccentric = np.cross(v, h) / events.GM - x / r
    e, a = float(np.linalg.norm(eccentric)), 1.0 / (2.0 / r - float(v @ v) / events.GM)
    node_line = np.array([-h[1], h[0], 0.0])
    node = math.atan2(node_line[1], node_line[0])
    peri = _angle(node_line, eccentric, h)
    true = _angle(eccentric, x, h)
    anomaly = 2 * math.atan2(math.sqrt(1 - e) * math.sin(true / 2), math.sqrt(1 + e) * math.cos(true / 2))
    turned = {"M": anomaly - e * math.sin(anomaly), "peri": peri, "node": node}
    out = {name: math.degrees(value) % 360.0 for name, value in turned.items()}
    incl = math.degrees(math.acos(h[2] / np.linalg.norm(h)))
    return {**out, "incl": incl, "e": e, "a": a, "n": math.degrees(math.sqrt(events.GM / a**3))}


def _angle(first: F64, second: F64, axis: F64) -> float:
    """Angle from one vector to another about an axis, rad."""
    return math.atan2(float(np.cross(first, second) @ axis) / float(np.linalg.norm(axis)), float(first @ second))


def _absolute(plan: Plan, table: NDArray[np.void]) -> F64:
    """H magnitudes such that the H, G system predicts the asteroids' V on the night."""
    jd = plan.onset_jd + 0.25
    observer = observer_vector(jd)
    pos, _ = events.asteroid_states(plan, jd)
    seen = pos - observer
    r, delta = np.linalg.norm(pos, axis=1), np.linalg.norm(seen, axis=1)
    half = np.tan(np.arccos(np.sum(pos * seen, axis=1) / (r * delta)) / 2)
    phase = (1 - SLOPE) * np.exp(-3.33 * half**0.63) + SLOPE * np.exp(-1.87 * half**1.22)
    h: F64 = table["r"] + V_MINUS_R - 5 * np.log10(r * delta) + 2.5 * np.log10(phase)
    return h


def _calendar(jd: float) -> str:
    """UT date, YYYYMMDD (Fliegel & Van Flandern 1968)."""
    a = math.floor(jd + 0.5) + 68569
    b = 4 * a // 146097
    a -= (146097 * b + 3) // 4
    i = 4000 * (a + 1) // 1461001
    a = a - 1461 * i // 4 + 31
    j = 80 * a // 2447
    day, a = a - 2447 * j // 80, j // 11
    return f"{100 * (b - 49) + i + a:04d}{j + 2 - 12 * a:02d}{day:02d}"


def pack_day(jd: float) -> str:
    """A date packed as in MPCORB: century letter, year, month and day in base 62."""
    date = _calendar(jd)
    return f"{'IJK'[int(date[:2]) - 18]}{date[2:4]}{_BASE62[int(date[4:6])]}{_BASE62[int(date[6:])]}"


def _palomar() -> dict[str, float | str]:
    """Parallax constants from geodetic coordinates (IERS 2010 ellipsoid)."""
    phi, f, height = math.radians(LATITUDE_DEG), 1 / 298.25642, ALTITUDE_M / 6378136.6
    c = 1 / math.sqrt(math.cos(phi) ** 2 + (1 - f) ** 2 * math.sin(phi) ** 2)
    cos, sin = (c + height) * math.cos(phi), ((1 - f) ** 2 * c + height) * math.sin(phi)
    return {"Longitude": LONGITUDE_DEG % 360.0, "cos": cos, "sin": sin, "Name": "Palomar Mountain, simulated"}
