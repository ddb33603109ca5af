"""Astrometry of moving objects in the exchange format of the Minor Planet Center: ADES, version 2022, pipe-separated (PSV)."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ztfds.survey import ids
from ztfds.survey.errors import BadData

STATION = "I41"
"""Observatory code of the survey's telescope."""
HEADER = (
    ("observatory", (("mpcCode", STATION), ("name", "Palomar Mountain--ZTF"))),
    ("submitter", (("name", "Z. T. F. Data System"),)),
    ("observers", (("name", "Z. T. F. Survey"),)),
    ("measurers", (("name", "Z. T. F. Data System"),)),
    (
        "telescope",
        (("design", "Schmidt"), ("aperture", "1.2"), ("detector", "CCD"), ("fRatio", "2.4"), ("pixelScale", "1.01")),
    ),
)
COLUMNS = (
    "trkSub", "mode", "stn", "obsTime", "ra", "dec", "rmsRA", "rmsDec", "rmsCorr", "astCat", "mag", "rmsMag", "band", "photCat",
    "exp", "notes", "remarks",
)  # fmt: skip
BANDS = {1: "Pg", 2: "Pr", 3: "Pi"}
"""Filter number to the band of the calibrators: Pan-STARRS."""
REQUIRED = ("trkSub", "mode", "stn", "obsTime", "ra", "dec", "astCat")
TRAILED = "t"
MODES, CATALOGS = ("CCD",), ("Gaia1", "Gaia2", "Gaia3", "Gaia3E")
REMARKS_LENGTH = 200
_TRKSUB = re.compile(r"[A-Za-z0-9_-]{1,8}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TRKSUB_DIGITS = 7
_JD_UNIX = 2440587.5


def tracklet_name(pid: int, strid: int) -> str:
    """Name of a streak's tracklet: ``s`` and seven characters, unique until the year 2044.

    Parameters
    ----------
    pid : int
        Processing number of the difference image.
    strid : int
        Number of the streak on the image, 0 to 31.

    Raises
    ------
    ValueError
        Numbers that do not fit.
    """
    night, fraction, rcid, _ = ids.split_pid(pid)
    if not (0 <= strid < 32 and 0 <= rcid < 64 and 0 <= night < 10_000):
        raise ValueError(f"no tracklet name for streak {strid} of image {pid}")
    number, text = ((night * 100_000 + fraction) * 64 + rcid) * 32 + strid, ""
    for _ in range(_TRKSUB_DIGITS):
        number, digit = divmod(number, len(_ALPHABET))
        text = _ALPHABET[digit] + text
    return f"s{text}"


def utc(jd: float) -> str:
    """ISO 8601 time with milliseconds of a Julian date (UTC)."""
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(milliseconds=round((jd - _JD_UNIX) * 86_400_000))
    return moment.isoformat(timespec="milliseconds") + "Z"


def streak_observations(table: np.ndarray, astrometric_rms_arcsec: float = 0.0) -> list[dict[str, str]]:
    """One observation per streak: its middle at the middle of the exposure, both ends in the remarks.

    Which end came first one exposure cannot tell, so that the ends are no observations of their own: they would have no time.

    Parameters
    ----------
    table : structured array
        Streak table: pid, strid, jd, exptime (s), fid, ra, dec, ra1, dec1, ra2, dec2 (deg), raerr, decerr, corr (arcsec), fitmag,
        fitmagerr, length (px), pa (deg), rate (deg/day).
    astrometric_rms_arcsec : float
        Scatter of the image's astrometric solution, per axis, added in quadrature.

    Returns
    -------
    list of dict
        Column to text.
    """
    return [_observation(row, astrometric_rms_arcsec) for row in table]


def _observation(row: np.void, rms: float) -> dict[str, str]:
    """The observation of one streak."""
    ra = f"{float(row['ra']) % 360.0:.6f}"
    ra_error, dec_error = math.hypot(float(row["raerr"]), rms), math.hypot(float(row["decerr"]), rms)
    correlation = float(row["corr"]) * float(row["raerr"]) * float(row["decerr"]) / (ra_error * dec_error)
    ends = "; ".join(f"{row[f'ra{k}']:.6f} {row[f'dec{k}']:+.6f}" for k in (1, 2))
    out = {
        "trkSub": tracklet_name(int(row["pid"]), int(row["strid"])),
        "mode": "CCD",
        "stn": STATION,
        "obsTime": utc(float(row["jd"]) + 0.5 * float(row["exptime"]) / 86400.0),
        "ra": "0.000000" if ra == "360.000000" else ra,
        "dec": f"{row['dec']:+.6f}",
        "rmsRA": f"{ra_error:.3f}",
        "rmsDec": f"{dec_error:.3f}",
        "rmsCorr": f"{correlation:.3f}",
        "astCat": "Gaia2",
        "exp": f"{row['exptime']:.1f}",
        "notes": TRAILED,
        "remarks": f"trail {ends} (deg, sense not known), PA {row['pa']:.1f} deg, {row['rate']:.3f} deg/d",
    }
    if math.isfinite(float(row["fitmag"])):
        out |= {"mag": f"{row['fitmag']:.2f}", "rmsMag": f"{row['fitmagerr']:.2f}", "photCat": "PS1"}
        out |= {"band": BANDS[int(row["fid"])]} if int(row["fid"]) in BANDS else {}
    return out


def write_psv(observations: Sequence[Mapping[str, str]]) -> bytes:
    """A whole PSV file.

    Raises
    ------
    BadData
        An observation breaks a rule of the format (`check`).
    """
    problems = [problem for observation in observations for problem in check(observation)]
    if problems:
        raise BadData("; ".join(problems))
    lines = ["# version=2022"]
    for group, entries in HEADER:
        lines += [f"# {group}", *(f"! {name} {value}" for name, value in entries)]
    used = [name for name in COLUMNS if any(observation.get(name) for observation in observations)]
    lines.append("|".join(used))
    lines += ["|".join(observation.get(name, "") for name in used) for observation in observations]
    return ("\n".join(lines) + "\n").encode("ascii")


def read_psv(content: bytes) -> list[dict[str, str]]:
    """Observations of a PSV file with one header record; lines of the header are skipped.

    Raises
    ------
    BadData
        Not ASCII, no version, or a row with another number of columns.
    """
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise BadData(f"an ADES file is ASCII: {error}") from error
    if not lines or not lines[0].startswith("# version="):
        raise BadData("an ADES file starts with its version")
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line and line[0] not in "#!"]
    if not rows:
        return []
    if any(len(row) != len(rows[0]) for row in rows):
        raise BadData("a row has another number of columns than the header record")
    return [{name: cell for name, cell in zip(rows[0], row, strict=True) if cell} for row in rows[1:]]


def check(observation: Mapping[str, str]) -> list[str]:
    """What is wrong with an optical observation by the rules of ADES 2022 (types, ranges, vocabulary); empty: nothing."""
    who = observation.get("trkSub", "?")
    found = [f"{name} is missing" for name in REQUIRED if not observation.get(name)]
    found += [f"unknown column {name}" for name in observation if name not in COLUMNS]
    rules = {
        "trkSub": lambda v: bool(_TRKSUB.fullmatch(v)),
        "mode": lambda v: v in MODES,
        "stn": lambda v: bool(re.fullmatch(r"[A-Z0-9][0-9]{2}", v)),
        "obsTime": _is_time,
        "ra": lambda v: _in_range(v, 0.0, 360.0) and float(v) < 360.0,
        "dec": lambda v: _in_range(v, -90.0, 90.0),
        "rmsRA": lambda v: _in_range(v, 0.0, math.inf) and float(v) > 0,
        "rmsDec": lambda v: _in_range(v, 0.0, math.inf) and float(v) > 0,
        "rmsCorr": lambda v: _in_range(v, -1.0, 1.0),
        "astCat": lambda v: v in CATALOGS,
        "mag": lambda v: _in_range(v, -5.0, 35.0),
        "rmsMag": lambda v: _in_range(v, 0.0, math.inf),
        "band": lambda v: v in BANDS.values(),
        "exp": lambda v: _in_range(v, 0.0, math.inf) and float(v) > 0,
        "remarks": lambda v: len(v) <= REMARKS_LENGTH and "|" not in v and v.isascii() and v.isprintable(),
    }
    found += [
        f"{name} {observation[name]!r}"
        for name, good in rules.items()
        if observation.get(name) and not good(observation[name])
    ]
    if bool(observation.get("mag")) != bool(observation.get("band")):
        found.append("mag and band belong together")
    if observation.get("rmsCorr") and not (observation.get("rmsRA") and observation.get("rmsDec")):
        found.append("rmsCorr without rmsRA and rmsDec")
    return [f"{who}: {text}" for text in found]


def _is_time(text: str) -> bool:
    """Whether a text is a UTC time of ADES."""
    if not _TIME.fullmatch(text):
        return False
    try:
        dt.datetime.fromisoformat(text[:-1])
    except ValueError:
        return False
    return True


def _in_range(text: str, low: float, high: float) -> bool:
    """Whether a text is a plain decimal number between two limits."""
    return bool(re.fullmatch(r"[+-]?\d+(\.\d+)?", text, re.ASCII)) and low <= float(text) <= high
