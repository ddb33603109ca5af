"""The numbers and names that identify nights, exposures, products, candidates and objects; all deterministic.

``pid = nid | fffff | rc | pp`` and its relatives are decimal fields side by side, as in the real packets:
the night number, five digits of the day fraction of the exposure's start (truncated), readout channel, pipeline.
"""

from __future__ import annotations

import datetime as dt
import math

from ztfds.survey.errors import BadName

NID_ZERO_JD = 2457754.5
"""Julian date of night 0: 2017-01-01 00:00 UT."""
NID_ZERO_DATE = dt.date(2017, 1, 1)
PIPELINE_REFERENCE, PIPELINE_DIFFERENCE = 12, 15
NAME_LETTERS = 7
FIRST_NAME = sum(26**k for k in range(NAME_LETTERS))
"""Bijective base-26 value of ``aaaaaaa`` (321272407): what a year's counter 0 stands for."""
LAST_COUNT = 26**NAME_LETTERS - 1

NID_ZERO_MJD = 57754
_JD_MINUS_MJD = 2400000.5
_DIGITS = 7


def _days(jd: float) -> float:
    """Days since night 0, by way of the MJD in seven decimals.

    Truncating this to five decimals gives the day fraction of every real packet, also of those whose fraction is a round
    number, where the Julian date's own rounding (5e-10 d) would decide otherwise.
    """
    return round(jd - _JD_MINUS_MJD, _DIGITS) - NID_ZERO_MJD


def nid(jd: float) -> int:
    """Night number of a Julian date: whole days since 2017-01-01 UT."""
    return math.floor(_days(jd))


def night_date(nid: int) -> str:
    """UT date ``YYYYMMDD`` of a night number."""
    return (NID_ZERO_DATE + dt.timedelta(days=nid)).strftime("%Y%m%d")


def night_iso(nid: int) -> str:
    """UT date ``YYYY-MM-DD`` of a night number."""
    return (NID_ZERO_DATE + dt.timedelta(days=nid)).isoformat()


def nid_of_date(date: str) -> int:
    """Night number of a UT date ``YYYYMMDD``; raise `BadName` if it is not a date."""
    try:
        day = dt.datetime.strptime(date, "%Y%m%d").date()
    except ValueError as error:
        raise BadName(f"{date!r} is not a date YYYYMMDD") from error
    return (day - NID_ZERO_DATE).days


def expid(jd: float) -> int:
    """Exposure number: night number and five digits of the day fraction of the exposure's start."""
    return math.floor(_days(jd) * 100_000)


def pid(jd: float, rcid: int, pipeline: int = PIPELINE_DIFFERENCE) -> int:
    """Processing number of one quadrant of one exposure: ``nid | fffff | rc | pp``."""
    return (expid(jd) * 100 + rcid) * 100 + pipeline


def split_pid(pid: int) -> tuple[int, int, int, int]:
    """Take a `pid` apart into night number, day fraction (1e-5 d), readout channel and pipeline."""
    rest, pipeline = divmod(pid, 100)
    rest, rcid = divmod(rest, 100)
    night, fraction = divmod(rest, 100_000)
    return night, fraction, rcid, pipeline


def candid(pid: int, positive: bool, tblid: int, version: int = 1) -> int:
    """Candidate number: the `pid`, a digit pair for the processing version, the sign (5000 positive) and the table row.

    Parameters
    ----------
    pid : int
        Processing number of the difference image.
    positive : bool
        Whether it brightened (science minus reference).
    tblid : int
        Row in the extraction table of that sign, 0..4999.
    version : int
        Processing version of the night, 1..99: re-running keeps the numbers, re-processing with another one does not.

    Notes
    -----
    The numbers fit in 64 bits until night 9222 (2 April 2042).
    """
    if not 0 <= tblid < 5000:
        raise BadName(f"table row {tblid} does not fit in a candidate number (0 to 4999)")
    if not 1 <= version <= 99:
        raise BadName(f"processing version {version} does not fit in a candidate number (1 to 99)")
    return pid * 1_000_000 + version * 10_000 + 5000 * positive + tblid


def split_candid(candid: int) -> tuple[int, int, bool, int]:
    """Take a candidate number apart into pid, processing version, whether positive, and table row."""
    number, suffix = divmod(candid, 1_000_000)
    version, rest = divmod(suffix, 10_000)
    return number, version, rest >= 5000, rest % 5000


def rfid(field: int, fid: int, rcid: int) -> int:
    """Reference-image number: ``field | 12 | ff | rc``."""
    return ((field * 100 + PIPELINE_REFERENCE) * 100 + fid) * 100 + rcid


def split_rfid(rfid: int) -> tuple[int, int, int]:
    """Take a reference number apart into field, filter number and readout channel."""
    rest, rcid = divmod(rfid, 100)
    rest, fid = divmod(rest, 100)
    return rest // 100, fid, rcid


def calid(nid: int, rcid: int, sequence: int) -> int:
    """Calibration number: ``nid | rc | sss``, e.g. 80430002 is the third (002) product of channel 30 in night 804."""
    if not 0 <= sequence < 1000:
        raise BadName(f"calibration sequence {sequence} does not fit in three digits")
    return (nid * 100 + rcid) * 1000 + sequence


def split_calid(calid: int) -> tuple[int, int, int]:
    """Take a calibration number apart into night number, readout channel and sequence."""
    rest, sequence = divmod(calid, 1000)
    night, rcid = divmod(rest, 100)
    return night, rcid, sequence


def calibration_sequence(caltype: str, fid: int = 0) -> int:
    """Sequence digits of a calibration product: 2 for the bias (as in the real header), 10 + 10 fid for flats.

    Lamp corrections and low-frequency flats follow the flat of their filter: 11 + 10 fid, 12 + 10 fid.
    """
    if caltype == "bias":
        return 2
    of_filter = ("hifreqflat", "lampcorr", "lownuflat")
    if caltype in of_filter:
        return 10 + 10 * fid + of_filter.index(caltype)
    raise BadName(f"no calibration product is called {caltype!r}")


def object_name(count: int, year: int) -> str:
    """Name of the `count`-th object (from 0) of a year, e.g. 0 of 2018 is ``ZTF18aaaaaaa``.

    The letters are the bijective base-26 numeral (digits a = 1 ... z = 26) of ``count + 321272407``.
    """
    if not 0 <= count <= LAST_COUNT:
        raise BadName(f"object count {count} is outside 0 to {LAST_COUNT}")
    number, letters = count + FIRST_NAME, ""
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return f"ZTF{year % 100:02d}{letters}"


def parse_object_name(name: str) -> tuple[int, int]:
    """Take an object name apart into (count, year); raise `BadName` if it is not one."""
    letters = name[5:]
    lower = letters.isascii() and letters.isalpha() and letters.islower()
    if len(name) != 5 + NAME_LETTERS or name[:3] != "ZTF" or not name[3:5].isdecimal() or not lower:
        raise BadName(f"{name!r} is not an object name like ZTF18aaaaaaa")
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - FIRST_NAME, 2000 + int(name[3:5])


def filefracday(jd: float) -> str:
    """UT date and six digits of the day fraction (truncated) of a Julian date: ``YYYYMMDDdddddd``."""
    night, fraction = divmod(round(_days(jd) * 10**_DIGITS), 10**_DIGITS)
    return f"{night_date(night)}{fraction // 10:06d}"


def jd_of_filefracday(ffd: str) -> float:
    """Julian date of the beginning of the microday that a ``YYYYMMDDdddddd`` names; raise `BadName` if it is none."""
    if len(ffd) != 14 or not ffd.isascii() or not ffd.isdecimal():
        raise BadName(f"{ffd!r} is not a date with day fraction YYYYMMDDdddddd")
    return NID_ZERO_JD + nid_of_date(ffd[:8]) + int(ffd[8:]) / 1_000_000
