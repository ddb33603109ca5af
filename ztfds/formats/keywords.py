"""The keywords of raw files under one set of names, whoever wrote them: synonyms, other units, and defaults with an honest source."""

from __future__ import annotations

import datetime as dt
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from astropy.io import fits

from ztfds.survey import detector, fields
from ztfds.survey.names import IMAGE_TYPES, RawName

logger = logging.getLogger(__name__)

MJD_ZERO_JD = 2400000.5
IMAGE_TYPE_WORDS = {
    **dict.fromkeys(("o", "object", "light", "science", "sci", "onsky", "on-sky", "target"), "object"),
    **dict.fromkeys(("b", "bias", "zero"), "bias"),
    **dict.fromkeys(("f", "flat", "dome", "domeflat", "dome flat", "flatfield", "screenflat", "skyflat"), "flat"),
    **dict.fromkeys(("d", "dark"), "dark"),
}
"""What headers call an image type, in lower case, and the survey's word for it."""

_SYNONYMS = {
    "IMGTYPE": ("IMGTYP", "IMAGETYP", "IMAGETYPE", "OBSTYPE"),
    "EXPTIME": ("EXPOSURE", "AEXPTIME"),
    "CCD_ID": ("CCDID",),
    "FIELDID": ("FIELD",),
    "FILTERID": ("FID",),
    "PROGRMID": ("PROGRAMID",),
    "GAIN": ("EGAIN",),
    "READNOI": ("RDNOISE", "READNOIS", "RON"),
}
_TIMES = (("JD", 0.0), ("OBSMJD", MJD_ZERO_JD), ("MJD-OBS", MJD_ZERO_JD), ("MJD", MJD_ZERO_JD))
_ISO_TIMES = ("DATE-OBS", "UTC-OBS", "SHUTOPEN")
_CLOCKS = ("TIME-OBS", "UTC-OBS", "UT")
_POINTINGS = (("OBJRAD", "OBJDECD"), ("TELRAD", "TELDECD"), ("RA", "DEC"), ("OBJRA", "OBJDEC"), ("TELRA", "TELDEC"))

DEFAULT_EXPTIME_S = {"object": 30.0, "flat": 30.0, "dark": 30.0, "bias": 0.0}
DEFAULT_PROGRAM = 1
DEFAULT_AIRMASS = 1.2
"""Where none can be computed: the field is not up at the stated time."""
_LATITUDE_DEG, _LONGITUDE_DEG = 33.357, -116.865
_HIGHEST_AIRMASS = 5.0


def normalise(primary: fits.Header, name: RawName, extensions: Sequence[fits.Header]) -> tuple[str, ...]:
    """Give headers the survey's keywords, in place; what is there under the survey's name is not changed.

    OBSJD, EXPTIME, RAD, DECD, CCD_ID, FILTERID, FIELDID, IMGTYPE, PROGRMID, PROGRMPI, AIRMASS in the primary header and GAIN,
    READNOI, SATURATE in the extensions come, in this order of preference, from a synonym, from another unit, from the file
    name, or from a default; time has no default, and the pointing only that of the field's centre when every quadrant says
    by its world coordinates where it lies. What cannot be found stays away.

    Parameters
    ----------
    primary : fits.Header
        Primary header.
    name : RawName
        What the file name says.
    extensions : sequence of fits.Header
        Headers of the four quadrants.

    Returns
    -------
    tuple of str
        The keywords of the primary header that were not there under their own name.
    """
    for header in (primary, *extensions):
        _drop_unreadable(header, name)
    before = {keyword for keyword in primary if _stated(primary, keyword) is not None}
    kind = IMAGE_TYPES[name.imgtypecode]
    _synonyms(primary, ("IMGTYPE", "EXPTIME", "CCD_ID", "FIELDID", "FILTERID", "PROGRMID"))
    _numbers(primary)
    _image_type(primary, kind)
    _time(primary)
    _position(primary, name, extensions)
    said = {"CCD_ID": name.ccdid, "FIELDID": name.field, "FILTERID": name.fid, "PROGRMID": DEFAULT_PROGRAM}
    for keyword, value in said.items():
        _default(primary, keyword, value)
    _default(primary, "PROGRMPI", "Unknown")
    _default(primary, "EXPTIME", DEFAULT_EXPTIME_S[kind])
    if kind == "object":
        _default(primary, "AIRMASS", airmass(primary))
    for header in extensions:
        _amplifier(header, primary)
    added = tuple(sorted({keyword for keyword in primary if _stated(primary, keyword) is not None} - before))
    if added:
        logger.info("%s: %s", name.filename, ", ".join(f"{key} = {primary[key]!r} supplied" for key in added))
    return added


def _drop_unreadable(header: fits.Header, name: RawName) -> None:
    """Remove cards whose value cannot be read at all, such as NAN without quotes: one of them would spoil every later use."""
    bad: list[tuple[int, str]] = []
    for index, card in enumerate(header.cards):
        try:
            _ = card.value
        except (fits.VerifyError, ValueError):
            bad.append((index, card.keyword))
    for index, keyword in reversed(bad):
        logger.warning("%s: the card %s cannot be read and is left out", name.filename, keyword)
        del header[index]


def _stated(header: fits.Header, keyword: str) -> Any:
    """The value of a card; None if it is not there or has no value."""
    value = header.get(keyword)
    return None if isinstance(value, fits.card.Undefined) else value


def number(value: object) -> float | None:
    """A finite number, also one that was written as text; None for anything else (FITS logicals are no numbers)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def angle_deg(value: object, hours: bool) -> float | None:
    """An angle in deg from a number of degrees, or from sexagesimal text (hours if asked for); None if it is neither."""
    plain = number(value)
    if plain is not None or not isinstance(value, str):
        return plain
    parts = re.fullmatch(r"\s*([+-]?)(\d{1,3})[:\s]+(\d{1,2})[:\s]+(\d{1,2}(?:\.\d*)?)\s*", value)
    if parts is None:
        return None
    size = int(parts[2]) + int(parts[3]) / 60.0 + float(parts[4]) / 3600.0
    return (-size if parts[1] == "-" else size) * (15.0 if hours else 1.0)


def _default(header: fits.Header, keyword: str, value: float | int | str) -> None:
    """Set a card that is not there."""
    if _stated(header, keyword) is None:
        header[keyword] = value


def _synonyms(header: fits.Header, keywords: Sequence[str]) -> None:
    """Copy values from other names of a keyword."""
    for keyword in keywords:
        found = next((header[key] for key in _SYNONYMS[keyword] if _stated(header, key) is not None), None)
        if found is not None and (keyword not in ("CCD_ID", "FIELDID", "FILTERID") or number(found) is not None):
            _default(header, keyword, found)


def _numbers(header: fits.Header) -> None:
    """Turn numbers that were written as text into numbers; other text stays."""
    for keyword in ("OBSJD", "EXPTIME", "CCD_ID", "FIELDID", "FILTERID", "PROGRMID", "RAD", "DECD", "AIRMASS"):
        stated = _stated(header, keyword)
        value = number(stated)
        if isinstance(stated, str) and value is not None:
            header[keyword] = int(value) if value == int(value) else value


def _image_type(header: fits.Header, kind: str) -> None:
    """Make IMGTYPE the survey's word; an unknown word stays."""
    stated = _stated(header, "IMGTYPE")
    if stated is None:
        header["IMGTYPE"] = kind
    elif isinstance(stated, str) and stated.strip().lower() in IMAGE_TYPE_WORDS:
        header["IMGTYPE"] = IMAGE_TYPE_WORDS[stated.strip().lower()]


def _time(header: fits.Header) -> None:
    """Start of the exposure, UTC, as Julian date OBSJD."""
    if _stated(header, "OBSJD") is not None:
        return
    for keyword, zero in _TIMES:
        value = number(_stated(header, keyword))
        if value is not None:
            header["OBSJD"] = value + zero
            return
    clock = next((str(header[key]) for key in _CLOCKS if _stated(header, key) is not None), "")
    texts = [str(header[key]) for key in _ISO_TIMES if _stated(header, key) is not None]
    for text in [*texts, f"{header.get('DATE-OBS', '')}T{clock}"]:
        jd = _jd_of_iso(text)
        if jd is not None:
            header["OBSJD"] = jd
            return


def _jd_of_iso(text: str) -> float | None:
    """Julian date of ``YYYY-MM-DDThh:mm:ss[.s]`` (UTC); None for anything else, such as a date alone."""
    if not re.match(r"\s*\d{4}-\d\d-\d\d[T ]\d\d:\d\d", text):
        return None
    try:
        moment = dt.datetime.fromisoformat(text.strip().replace(" ", "T", 1))
    except ValueError:
        return None
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
    return 2440587.5 + (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(days=1)


def _position(header: fits.Header, name: RawName, extensions: Sequence[fits.Header]) -> None:
    """Where the boresight points, ICRS deg, as RAD and DECD: both from one source."""
    if _stated(header, "RAD") is not None and _stated(header, "DECD") is not None:
        return
    for first, second in _POINTINGS:
        ra, dec = angle_deg(header.get(first), hours=True), angle_deg(header.get(second), hours=False)
        if ra is not None and dec is not None:
            header["RAD"], header["DECD"] = ra % 360.0, dec
            return
    field = fields.all_fields().get(name.field)
    if field is not None and extensions and all("CRVAL1" in one and "CRVAL2" in one for one in extensions):
        header["RAD"], header["DECD"] = field.ra, field.dec


def airmass(header: fits.Header) -> float:
    """Airmass over Palomar (secant of the zenith distance) from OBSJD, RAD and DECD; 1.2 where it cannot be told."""
    jd, ra, dec = (number(_stated(header, keyword)) for keyword in ("OBSJD", "RAD", "DECD"))
    if jd is None or ra is None or dec is None:
        return DEFAULT_AIRMASS
    sidereal = 280.46061837 + 360.98564736629 * (jd - 2451545.0) + _LONGITUDE_DEG
    hour, d, latitude = math.radians(sidereal - ra), math.radians(dec), math.radians(_LATITUDE_DEG)
    up = math.sin(latitude) * math.sin(d) + math.cos(latitude) * math.cos(d) * math.cos(hour)
    return round(1.0 / up, 4) if up > 1.0 / _HIGHEST_AIRMASS else DEFAULT_AIRMASS


def _amplifier(header: fits.Header, primary: fits.Header) -> None:
    """GAIN (electrons per DN), READNOI (electrons) and SATURATE (DN) of a quadrant: its own, the file's, or the nominal."""
    _synonyms(header, ("GAIN", "READNOI"))
    for keyword, nominal in (("GAIN", detector.GAIN_E_PER_DN), ("READNOI", detector.READ_NOISE_E), ("SATURATE", None)):
        own = number(_stated(header, keyword))
        if own is not None and own > 0:
            header[keyword] = own
            continue
        names = (keyword, *_SYNONYMS.get(keyword, ()))
        common = next((v for key in names if (v := number(primary.get(key))) is not None and v > 0), nominal)
        if common is not None:
            header[keyword] = common
