"""Verification of a raw CCD file before it is let in: whole, intact, the right size, and what it says it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from astropy.io import fits

from ztfds.config.detrend import IngestConfig
from ztfds.formats.raw import REQUIRED_KEYWORDS, RawCcd, read_raw
from ztfds.survey import fields, ids
from ztfds.survey.camera import Camera
from ztfds.survey.errors import BadName, Mislabelled, MissingKeyword, ZtfdsError
from ztfds.survey.names import IMAGE_TYPES, RawName
from ztfds.survey.programs import by_id

logger = logging.getLogger(__name__)

_TEXT_KEYWORDS = frozenset({"IMGTYPE"})
_DAY_S = 86400.0


def verify(
    path: Path | str,
    camera: Camera,
    config: IngestConfig | None = None,
    off_grid: Mapping[int, fields.Field] = MappingProxyType({}),
) -> RawCcd:
    """Read a raw CCD file and check everything that can be checked without the database.

    In this order: the name follows the rules; the file is whole FITS; its checksums are right; there are four quadrants
    of the camera's size with their overscans; the keywords that the reduction needs are there with usable values (under
    the survey's own names, or any that `ztfds.formats.keywords` knows if the settings accept substitutes); the header
    agrees with the name (CCD, image type, field, filter, date) and each extension with its place; the field is in the grid
    and the telescope pointed at it.

    Parameters
    ----------
    path : Path or str
        The file, under its own name.
    camera : Camera
        Which CCDs and what size of quadrants to expect.
    config : IngestConfig, optional
        Tolerances.
    off_grid : mapping of int to Field
        Fields that were prepared although they are not in the grid.

    Returns
    -------
    RawCcd
        The file in memory; its `header` and `name` have been found to agree.

    Raises
    ------
    BadName, TruncatedFile, UnreadableFile, ChecksumMismatch, WrongSize, MissingKeyword, Mislabelled, OffGridField
        What is wrong, all of them `BadData`; the message says it with the values.
    FilesMissing
        There is no such file.
    """
    config = config or IngestConfig()
    path = Path(path)
    name = RawName.parse(path.name)
    try:
        raw = read_raw(path, camera.quadrant_shape)
        check_keywords(raw.header, name, config, () if config.accept_substitutes else raw.supplied)
        check_labels(raw, camera, config)
        if name.imgtypecode == "o":
            header = raw.header
            pointing = (header["RAD"], header["DECD"], config.pointing_tolerance_deg)
            fields.check_pointing(name.field, *pointing, off_grid)
    except ZtfdsError as error:
        raise error.located(exposure=name.exposure, step="ingest") from error.__cause__
    logger.info("%s verified: %d HDUs with right checksums", path.name, raw.checksummed)
    return raw


def check_keywords(header: fits.Header, name: RawName, config: IngestConfig, supplied: Sequence[str] = ()) -> None:
    """Raise `MissingKeyword` unless all required keywords of the image type are there and usable.

    `supplied` keywords were not in the file under their own name, and count as missing.
    """
    required = REQUIRED_KEYWORDS[name.imgtypecode]
    missing = [keyword for keyword in required if header.get(keyword) is None or keyword in supplied]
    if missing:
        raise MissingKeyword(f"{name.filename} lacks {', '.join(missing)}")
    for keyword in required:
        value = header[keyword]
        usable = isinstance(value, str) and value.strip() if keyword in _TEXT_KEYWORDS else _is_number(value)
        if not usable:
            raise MissingKeyword(f"{name.filename}: {keyword} = {value!r} is not usable")
    if name.imgtypecode == "o":
        _check_science_values(header, name, config)


def _is_number(value: object) -> bool:
    """Whether a header value is a finite number (FITS logicals are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_science_values(header: fits.Header, name: RawName, config: IngestConfig) -> None:
    """Raise `MissingKeyword` for values of an on-sky exposure that cannot be true."""
    low, high = config.exptime_range_s
    if not low <= header["EXPTIME"] <= high:
        raise MissingKeyword(f"{name.filename}: EXPTIME = {header['EXPTIME']} s is outside {low:g} to {high:g}")
    if not (0.0 <= header["RAD"] <= 360.0 and -90.0 <= header["DECD"] <= 90.0):
        raise MissingKeyword(f"{name.filename}: RAD, DECD = {header['RAD']}, {header['DECD']} is no position")
    if header["AIRMASS"] < 1.0 - config.airmass_tolerance:
        raise MissingKeyword(f"{name.filename}: AIRMASS = {header['AIRMASS']} is below 1")
    try:
        by_id(int(header["PROGRMID"]))
    except BadName as error:
        raise MissingKeyword(f"{name.filename}: PROGRMID = {header['PROGRMID']}: {error.message}") from error


def _amplifiers(raw: RawCcd) -> list[tuple[str, object, object]]:
    """What each quadrant's AMP_ID is and should be; nothing where the four do not count 0 to 3 or 1 to 4 in any order.

    Other numberings and letters do not contradict the order of the extensions, which alone says which quadrant is which.
    """
    stated = [quadrant.header.get("AMP_ID") for quadrant in raw.quadrants]
    if not all(isinstance(amp, int) for amp in stated) or set(stated) not in ({0, 1, 2, 3}, {1, 2, 3, 4}):
        return []
    first = min(stated)
    return [(f"AMP_ID of quadrant {k + 1}", amp, k + first) for k, amp in enumerate(stated)]


def check_labels(raw: RawCcd, camera: Camera, config: IngestConfig) -> None:
    """Raise `Mislabelled` unless the header says the same as the name, and each extension what its place says."""
    name, header = raw.name, raw.header
    pairs: list[tuple[str, object, object]] = [
        ("CCD_ID", int(header["CCD_ID"]), name.ccdid),
        ("IMGTYPE", str(header["IMGTYPE"]).strip().lower(), IMAGE_TYPES[name.imgtypecode]),
    ]
    if name.imgtypecode in "of":
        pairs.append(("FILTERID", int(header["FILTERID"]), name.fid))
    if name.imgtypecode == "o":
        pairs.append(("FIELDID", int(header["FIELDID"]), name.field))
    pairs += _amplifiers(raw)
    wrong = [f"{keyword} is {stated!r}, expected {said!r}" for keyword, stated, said in pairs if stated != said]
    if wrong:
        raise Mislabelled(f"{name.filename}: {'; '.join(wrong)}")
    off = (float(header["OBSJD"]) - ids.jd_of_filefracday(name.ffd)) * _DAY_S
    if abs(off) > config.date_tolerance_s:
        raise Mislabelled(f"{name.filename}: OBSJD is {off:.1f} s after the date in the name")
    if name.ccdid not in camera.ccdids:
        raise Mislabelled(f"{name.filename}: camera {camera.name} has no CCD {name.ccdid}")
