"""Reading what the Minor Planet Center publishes: MPCORB.DAT, CometEls.txt, the list of observatories."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from ztfds.kernels.orbits import GM_SUN, kepler_many
from ztfds.solarsystem.planets import Site, ecliptic_to_equatorial
from ztfds.survey.errors import BadData

ORBIT = np.dtype(
    [
        ("name", "S16"),
        ("kind", "u1"),
        ("state", "f8", 6),
        ("epoch", "f8"),
        ("h", "f4"),
        ("g", "f4"),
        ("u", "i1"),
        ("nobs", "i4"),
        ("last", "i4"),
    ]
)
"""One orbit: name as alerts carry it (number, or designation without blanks); kind 0 asteroid, 1 comet; heliocentric state
(AU, AU/d, equatorial J2000) at epoch (JD, TT); H and G (comets: total magnitude and slope); uncertainty 0..9 (-1 unknown);
number of observations; last observation, yyyymmdd (0 unknown)."""
ASTEROID, COMET = 0, 1
NO_MAGNITUDE = 99.0
"""H of an object without one."""
_DEFAULT_SLOPE = 0.15
_WIDTH = 202
_CHUNK = 200_000
_NAMED_LINES = 20
_EPOCHS = (2396758.5, 2488069.5)
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE = {digit: value for value, digit in enumerate(_DIGITS)}
_FIELDS = {"m": (26, 35), "peri": (37, 46), "node": (48, 57), "incl": (59, 68), "e": (70, 79), "a": (92, 103)}
_ABOUT = {"h": (8, 13), "g": (14, 19), "u": (105, 106), "nobs": (117, 122), "last": (194, 202)}
_LIMITS = {
    "h": (-10.0, 40.0, NO_MAGNITUDE),
    "g": (-2.0, 5.0, _DEFAULT_SLOPE),
    "u": (0.0, 9.0, -1.0),
    "nobs": (0.0, 1e6, 0.0),
    "last": (18000101.0, 21001231.0, 0.0),
}
_COMET = re.compile(r"^[ 0-9]{4}[CPDXIA ]")


@dataclass(frozen=True)
class Parsed:
    """What a file held.

    Attributes
    ----------
    orbits : (n,) array of `ORBIT`
    bad : int
        Lines that could not be read.
    named : list of str
        The first of them, with number and reason.
    """

    orbits: np.ndarray
    bad: int = 0
    named: list[str] = field(default_factory=list)


# -- designations and dates --------------------------------------------------------------------------------------------


def unpack_number(packed: str) -> int:
    """Number of a packed number: 00433, A0345 = 100345, ~0000 = 620000; ValueError for anything else."""
    if len(packed) != 5:
        raise ValueError(f"{packed!r} is no packed number")
    if packed[0] == "~":
        return 620000 + _base62(packed[1:])
    return _digit(packed[0]) * 10000 + _decimal(packed[1:])


def unpack_designation(packed: str) -> str:
    """Provisional designation without blank: J95X00A = 1995XA, K07Tf8A = 2007TA418, PLS2040 = 2040P-L, _RD0aEM = 2027DZ6190.

    The last form (MPC, since 2026) holds the year's two digits, the half-month and the count beyond 15,500 in base 62.
    """
    if len(packed) != 7:
        raise ValueError(f"{packed!r} is no packed designation")
    if packed[:3] in ("PLS", "T1S", "T2S", "T3S"):
        survey = {"PLS": "P-L", "T1S": "T-1", "T2S": "T-2", "T3S": "T-3"}[packed[:3]]
        return f"{_decimal(packed[3:])}{survey}"
    if packed[0] == "_":
        count = 15500 + _base62(packed[3:])
        letters = "ABCDEFGHJKLMNOPQRSTUVWXYZ"
        return f"{2000 + _digit(packed[1])}{_letter(packed[2])}{letters[count % 25]}{count // 25}"
    century = {"I": 18, "J": 19, "K": 20}[packed[0]]
    cycle = _digit(packed[4]) * 10 + _decimal(packed[5])
    return f"{century}{_decimal(packed[1:3]):02d}{_letter(packed[3])}{_letter(packed[6])}{cycle or ''}"


def name_of(packed: str) -> str:
    """Number or designation of the first seven columns of MPCORB."""
    packed = packed.strip()
    return str(unpack_number(packed)) if len(packed) == 5 else unpack_designation(packed)


def unpack_epoch(packed: str) -> float:
    """JD (TT) of a packed date: K25BL = 2025 November 21, 0h; ValueError for one that is far from all that can be observed."""
    if len(packed) != 5:
        raise ValueError(f"{packed!r} is no packed date")
    century = {"I": 18, "J": 19, "K": 20}[packed[0]]
    return _sensible(julian_day(century * 100 + _decimal(packed[1:3]), _digit(packed[3]), _digit(packed[4])))


def _sensible(epoch: float) -> float:
    """An epoch of elements, if orbits can be carried from it with the planets' series."""
    if not _EPOCHS[0] <= epoch <= _EPOCHS[1]:
        raise ValueError(f"epoch JD {epoch:.1f} is before 1850 or after 2100")
    return epoch


def julian_day(year: int, month: int, day: float) -> float:
    """JD of a calendar date; ValueError for an impossible one."""
    if not (1 <= year <= 9999 and 1 <= month <= 12 and 0 <= day < 32):
        raise ValueError(f"{year}-{month}-{day} is no date")
    whole = int(day)
    return date(year, month, whole).toordinal() + 1721424.5 + (day - whole)


def _digit(text: str) -> int:
    try:
        return _VALUE[text]
    except KeyError:
        raise ValueError(f"{text!r} is no digit") from None


def _base62(text: str) -> int:
    value = 0
    for letter in text:
        value = value * 62 + _digit(letter)
    return value


def _decimal(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is no number")
    return int(text)


def _letter(text: str) -> str:
    if not ("A" <= text <= "Z"):
        raise ValueError(f"{text!r} is no half-month or order")
    return text


# -- elements ----------------------------------------------------------------------------------------------------------


def state_of_elements(
    q: np.ndarray, e: np.ndarray, incl: np.ndarray, node: np.ndarray, peri: np.ndarray, since: np.ndarray
) -> np.ndarray:
    """Heliocentric states from perihelion elements, every conic.

    Parameters
    ----------
    q, e : (n,) float64
        Perihelion distance, AU, and eccentricity.
    incl, node, peri : (n,) float64
        Ecliptic J2000, rad.
    since : (n,) float64
        Time since perihelion, d.

    Returns
    -------
    (n, 6) float64, AU and AU/d, equatorial J2000.
    """
    cn, sn, cp, sp = np.cos(node), np.sin(node), np.cos(peri), np.sin(peri)
    ci, si = np.cos(incl), np.sin(incl)
    towards = np.stack([cn * cp - sn * sp * ci, sn * cp + cn * sp * ci, sp * si], axis=-1)
    ahead = np.stack([-cn * sp - sn * cp * ci, -sn * sp + cn * cp * ci, cp * si], axis=-1)
    speed = np.sqrt(GM_SUN * (1 + e) / q)
    states = np.empty((len(q), 6))
    states[:, :3] = ecliptic_to_equatorial(towards * q[:, None])
    states[:, 3:] = ecliptic_to_equatorial(ahead * speed[:, None])
    kepler_many(states, np.ascontiguousarray(since, float))
    return states


def parse_mpcorb(content: bytes) -> Parsed:
    """Orbits of an MPCORB.DAT (or a part of one, with or without its header).

    Parameters
    ----------
    content : bytes
        Text, not compressed.

    Returns
    -------
    Parsed
        In the order of the file. An orbit that is there twice (same name) is kept once, the later line.

    Raises
    ------
    BadData
        Not a single orbit in it.
    """
    parts: list[np.ndarray] = []
    bad = 0
    named: list[str] = []
    for first, lines in _orbit_lines(content):
        orbits, wrong = _mpcorb_chunk(lines)
        parts.append(orbits)
        bad += len(wrong)
        named += [f"line {first + row}: {why}" for row, why in wrong[: _NAMED_LINES - len(named)]]
    orbits = np.concatenate(parts) if parts else np.zeros(0, ORBIT)
    if not orbits.size:
        raise BadData(f"no orbit could be read ({bad} bad lines{'; ' + named[0] if named else ''})")
    return Parsed(_latest(orbits), bad, named)


def _orbit_lines(content: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Chunks of lines below the header, with the number of their first line."""
    lines = content.split(b"\n")
    rule = next((k for k, line in enumerate(lines[:200]) if line.startswith(b"-----")), -1)
    for first in range(rule + 1, len(lines), _CHUNK):
        yield first + 1, lines[first : first + _CHUNK]


def _mpcorb_chunk(lines: list[bytes]) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Orbits of some lines, and which lines are bad and why; blank lines separate the parts of the file."""
    rows = [k for k, line in enumerate(lines) if line.strip()]
    wrong = [(k, "cut off") for k in rows if len(lines[k]) < _FIELDS["a"][1]]
    rows = [k for k in rows if len(lines[k]) >= _FIELDS["a"][1]]
    if not rows:
        return np.zeros(0, ORBIT), wrong
    matrix = np.array([lines[k] for k in rows], f"S{_WIDTH}").reshape(-1, 1).view("S1").reshape(len(rows), -1)
    values = {name: _floats(_text(matrix, *span)) for name, span in _FIELDS.items()}
    texts = {"desig": (0, 7), "epoch": (20, 25)}
    names, why_name = _unpacked(_text(matrix, *texts["desig"]), name_of, "")
    epochs, why_epoch = _unpacked(_text(matrix, *texts["epoch"]), unpack_epoch, np.nan)
    problems = _impossible(values)
    for found in (why_name, why_epoch):
        problems.update(found)
    good = np.ones(len(rows), bool)
    good[list(problems)] = False
    wrong += [(rows[k], why) for k, why in sorted(problems.items())]
    orbits = np.zeros(len(rows), ORBIT)
    orbits["name"], orbits["epoch"] = names, epochs
    _describe(orbits, matrix)
    orbits = orbits[good]
    _fill_states(orbits, {name: value[good] for name, value in values.items()})
    return orbits, sorted(wrong)


def _text(matrix: np.ndarray, first: int, last: int) -> np.ndarray:
    """Columns of all lines as texts of one length."""
    return np.ascontiguousarray(matrix[:, first:last]).view(f"S{last - first}").reshape(-1)


def _floats(texts: np.ndarray) -> np.ndarray:
    """Numbers of texts, NaN where there is none."""
    try:
        return texts.astype(float)
    except ValueError:
        return np.array([_float(text) for text in texts.tolist()])


def _float(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _unpacked(texts: np.ndarray, unpack, missing) -> tuple[list, dict[int, str]]:  # type: ignore[no-untyped-def]
    """Unpack every text (each different one once); rows that cannot be unpacked, and why."""
    known: dict[bytes, object] = {}
    out, why = [], {}
    for row, text in enumerate(texts.tolist()):
        if text not in known:
            try:
                known[text] = unpack(text.decode("ascii"))
            except (ValueError, KeyError) as error:
                known[text] = error
        value = known[text]
        if isinstance(value, Exception):
            why[row] = f"{text!r} cannot be unpacked: {value}"
            value = missing
        out.append(value)
    return out, why


def _impossible(values: dict[str, np.ndarray]) -> dict[int, str]:
    """Rows whose elements describe no elliptic orbit."""
    ok = (values["e"] >= 0) & (values["e"] < 1) & (values["a"] > 0) & (values["a"] < 1e5)
    for name in ("m", "peri", "node"):
        ok &= np.abs(values[name]) <= 360.0
    ok &= (values["incl"] >= 0) & (values["incl"] <= 180.0)
    return {int(k): "elements are absent or impossible" for k in np.flatnonzero(~ok)}


def _describe(orbits: np.ndarray, matrix: np.ndarray) -> None:
    """Magnitudes and quality of the orbits."""
    columns = {name: _floats(_text(matrix, *span)) for name, span in _ABOUT.items()}
    for name, (low, high, missing) in _LIMITS.items():
        orbits[name] = _bounded(columns[name], low, high, missing)


def _bounded(values: np.ndarray, low: float, high: float, missing: float) -> np.ndarray:
    """Values within limits; what is absent, no number or beyond them is missing."""
    with np.errstate(invalid="ignore"):
        return np.where((values >= low) & (values <= high), values, missing)


def _fill_states(orbits: np.ndarray, values: dict[str, np.ndarray]) -> None:
    """States from the elements of MPCORB."""
    a, e = values["a"], values["e"]
    rate = np.sqrt(GM_SUN / a**3)
    anomaly = np.radians((values["m"] + 180.0) % 360.0 - 180.0)
    incl, node, peri = (np.radians(values[name]) for name in ("incl", "node", "peri"))
    orbits["state"] = state_of_elements(a * (1 - e), e, incl, node, peri, anomaly / rate)


def _latest(orbits: np.ndarray) -> np.ndarray:
    """Each name once, the last of its lines."""
    _, last = np.unique(orbits["name"][::-1], return_index=True)
    return orbits if last.size == orbits.size else orbits[np.sort(orbits.size - 1 - last)]


# -- comets ------------------------------------------------------------------------------------------------------------


def parse_comets(content: bytes) -> Parsed:
    """Orbits of a CometEls.txt (one line each, perihelion elements).

    Raises
    ------
    BadData
        Not a single orbit in it.
    """
    found = []
    named: list[str] = []
    bad = 0
    for number, line in enumerate(content.decode("latin-1").split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_comet(line))
        except (ValueError, IndexError) as error:
            bad += 1
            named += [f"line {number}: {error}"] if len(named) < _NAMED_LINES else []
    if not found:
        raise BadData(f"no comet could be read ({bad} bad lines{'; ' + named[0] if named else ''})")
    rows = np.array([values for _, values in found])
    orbits = np.zeros(len(found), ORBIT)
    orbits["name"], orbits["kind"], orbits["u"] = [name for name, _ in found], COMET, -1
    tp, q, e, peri, node, incl, orbits["epoch"], orbits["h"], orbits["g"] = rows.T
    incl, node, peri = (np.radians(value) for value in (incl, node, peri))
    orbits["state"] = state_of_elements(q, e, incl, node, peri, orbits["epoch"] - tp)
    found_somewhere = _somewhere(orbits)
    named += [f"{name.decode()}: elements give no place" for name in orbits["name"][~found_somewhere]]
    return Parsed(_latest(orbits[found_somewhere]), bad + int((~found_somewhere).sum()), named[:_NAMED_LINES])


def _somewhere(orbits: np.ndarray) -> np.ndarray:
    """Whether the states are finite and within the Sun's realm."""
    with np.errstate(invalid="ignore", over="ignore"):
        r = np.linalg.norm(orbits["state"][:, :3], axis=1)
    return np.isfinite(orbits["state"]).all(axis=1) & (r < 1e5)


def _comet(line: str) -> tuple[bytes, tuple[float, ...]]:
    """Name; perihelion time, q, e, peri, node, incl, epoch (the perihelion's day where none is given), magnitude, slope."""
    if not _COMET.match(line) or len(line) < 79:
        raise ValueError("no line of comet elements")
    tp = julian_day(int(line[14:18]), int(line[19:21]), float(line[22:29]))
    q, e, peri, node, incl = (float(line[a:b]) for a, b in ((30, 39), (41, 49), (51, 59), (61, 69), (71, 79)))
    if not (1e-3 < q < 1000 and 0 <= e < 10 and 0 <= incl <= 180 and abs(peri) <= 360 and abs(node) <= 360):
        raise ValueError("elements are impossible")
    day = line[81:89].strip()
    epoch = julian_day(int(day[:4]), int(day[4:6]), int(day[6:8])) if day else np.floor(tp - 0.5) + 0.5
    h, g = line[91:95].strip(), line[96:100].strip()
    shine = (_within(float(h or NO_MAGNITUDE), NO_MAGNITUDE), _within(float(g or 4.0), 4.0))
    return _comet_name(line), (tp, q, e, peri, node, incl, _sensible(epoch), *shine)


def _within(value: float, missing: float) -> float:
    """A magnitude or slope that can be one."""
    return value if -50.0 <= value <= NO_MAGNITUDE else missing


def _comet_name(line: str) -> bytes:
    """Number and type (2P, 73P-B), or type and designation (C/2020F3)."""
    number, kind, packed = line[:4].strip(), line[4], line[5:12].strip()
    if number:
        return f"{int(number)}{kind}{'-' + packed.upper() if packed and packed.islower() else ''}".encode()
    century = {"I": 18, "J": 19, "K": 20}.get(packed[:1], 0)
    if not century or len(packed) != 7:
        return f"{kind}/{line[102:158].split('(')[0].strip().removeprefix(kind + '/').replace(' ', '')}".encode()[:16]
    order = int(packed[5]) + 10 * _digit(packed[4])
    if packed[6] in "0" or packed[6].islower():
        fragment = f"-{packed[6].upper()}" if packed[6] != "0" else ""
        return f"{kind}/{century}{packed[1:3]}{packed[3]}{order}{fragment}".encode()
    return f"{kind}/{unpack_designation(packed)}".encode()


# -- observatories -----------------------------------------------------------------------------------------------------


def parse_obscodes(content: bytes) -> dict[str, Site]:
    """Observatories with parallax constants of the MPC's JSON list of codes (spacecraft have none and are left out).

    Raises
    ------
    BadData
        No JSON object of codes.
    """
    try:
        listed = json.loads(content)
    except ValueError as error:
        raise BadData(f"the list of observatories is no JSON: {error}") from error
    if not isinstance(listed, dict):
        raise BadData("the list of observatories is no object of codes")
    sites = {}
    for code, entry in listed.items():
        try:
            longitude, rho_cos, rho_sin = (float(entry[key]) for key in ("Longitude", "cos", "sin"))
        except (KeyError, TypeError, ValueError):
            continue
        sites[code] = Site(code, longitude, rho_cos, rho_sin)
    if not sites:
        raise BadData("the list of observatories holds no position")
    return sites
