"""Telemetry files: readings of telescope, dome and weather as the mountain writes them beside the exposures.

A file is an ECSV table (Enhanced Character-Separated Values, as astropy and TOPCAT read it), delimiter comma, one reading a row, with
the columns ``time`` (UTC, ISO 8601), ``name`` (quantity), ``value`` (number) and ``unit`` (VOUnit or FITS spelling), and in its meta
``night`` (YYYYMMDD) and ``readings`` (number of rows). Its name carries the UT of the first reading to the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ztfds.formats.atomic import Written, write_atomic
from ztfds.survey import ids, names
from ztfds.survey.errors import BadName, FilesMissing, Mislabelled, MissingKeyword, TruncatedFile, UnreadableFile

COLUMNS = ("time", "name", "value", "unit")
LARGEST = 64_000_000
"""No file of telemetry is larger, bytes."""


@dataclass(frozen=True)
class Reading:
    """One value of one quantity.

    Attributes
    ----------
    time : datetime
        UTC.
    name : str
        Quantity.
    value : float
        NaN: no value.
    unit : str
    """

    time: datetime
    name: str
    value: float
    unit: str


def write_telemetry(folder: Path, night: str, readings: Sequence[Reading]) -> Written:
    """Write a file of telemetry, atomically, under the name that its first reading gives it.

    Parameters
    ----------
    folder : Path
    night : str
        UT date, ``YYYYMMDD``.
    readings : sequence of Reading
        At least one, in order of time.
    """
    from astropy.table import Table

    rows = [
        [r.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"), r.name, r.value, r.unit] for r in readings
    ]
    table = Table(
        rows=rows, names=COLUMNS, dtype=("str", "str", "f8", "str"), meta={"night": night, "readings": len(rows)}
    )
    name = names.telemetry_filename(night, readings[0].time.strftime("%H%M%S"))
    return write_atomic(
        Path(folder) / name,
        lambda path: table.write(path, format="ascii.ecsv", delimiter=",", overwrite=True),
    )


def read_telemetry(path: Path | str) -> list[Reading]:
    """Read a file of telemetry and check all that it says of itself.

    Returns
    -------
    list of Reading
        In the order of the file.

    Raises
    ------
    FilesMissing
        There is no such file.
    BadName
        The name is not that of a telemetry file.
    TruncatedFile
        It ends too early: empty, within a line, or with fewer readings than it announces.
    UnreadableFile
        It is no ECSV table, or a reading has no time.
    MissingKeyword
        A column or an entry of the meta is not there.
    Mislabelled
        It is of another night or begins at another time than its name says, or holds more readings than it announces.
    """
    path = Path(path)
    date, clock = names.parse_telemetry_filename(path.name)
    table = _table(path, _whole_text(path))
    lacking = [name for name in COLUMNS if name not in table.colnames] + [
        key for key in ("night", "readings") if key not in table.meta
    ]
    if lacking:
        raise MissingKeyword(f"{path.name} lacks {', '.join(lacking)}")
    _check_number(path.name, table.meta["readings"], len(table))
    readings = list(_readings(path.name, table))
    _check_labels(path.name, date, clock, str(table.meta["night"]), readings)
    return readings


def _whole_text(path: Path) -> str:
    """The text of a file that ends with a whole line."""
    try:
        if path.stat().st_size > LARGEST:
            raise UnreadableFile(f"{path.name} is too large for telemetry")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FilesMissing(f"{path} cannot be opened: {error}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{path.name} is not text") from error
    if not text.strip() or not text.endswith("\n"):
        raise TruncatedFile(f"{path.name} ends within a line")
    if not text.startswith("# %ECSV"):
        raise UnreadableFile(f"{path.name} is no ECSV table")
    return text


def _table(path: Path, text: str) -> Any:
    """The table of a text; what has only a header, or less, is truncated."""
    from astropy.table import Table

    rows = [line for line in text.splitlines() if line and not line.startswith("#")]
    if len(rows) < 2:
        raise TruncatedFile(f"{path.name} holds no reading")
    try:
        return Table.read(text, format="ascii.ecsv")
    except Exception as error:  # astropy raises many kinds, yaml's among them
        raise UnreadableFile(f"{path.name} is no ECSV table: {str(error).splitlines()[0][:200]}") from error


def _check_number(name: str, announced: Any, found: int) -> None:
    """Fewer readings than announced: truncated; more, or no number: mislabelled."""
    if not isinstance(announced, int) or isinstance(announced, bool) or announced < found:
        raise Mislabelled(f"{name} announces {announced!r} readings and holds {found}")
    if announced > found:
        raise TruncatedFile(f"{name} announces {announced} readings and holds {found}")


def _readings(name: str, table: Any) -> Iterable[Reading]:
    """Rows as readings; a value that is no number is NaN."""
    for row in table:
        try:
            time = datetime.fromisoformat(str(row["time"]))
        except ValueError as error:
            raise UnreadableFile(f"{name}: {row['time']!r} is no time") from error
        try:
            value = float(row["value"])
        except (TypeError, ValueError):
            value = math.nan
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        yield Reading(time, str(row["name"]), value, str(row["unit"]))


def _check_labels(name: str, date: str, clock: str, night: str, readings: Sequence[Reading]) -> None:
    """Raise `Mislabelled` unless name, meta and times agree; the times belong to the UT day of the name."""
    if night != date:
        raise Mislabelled(f"{name} is of the night {night}")
    start = datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC)
    first, last = min(r.time for r in readings), max(r.time for r in readings)
    if first < start or last >= start + timedelta(days=1):
        raise Mislabelled(f"{name} holds readings from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S}")
    if first.strftime("%H%M%S") != clock:
        raise Mislabelled(f"{name} begins at {first:%H:%M:%S}")
    if ids.nid_of_date(date) < 1:
        raise BadName(f"{name} is of a night before the survey began")
