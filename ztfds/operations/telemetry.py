"""Telemetry of telescope, dome and weather: files received like raw ones, their readings in the database beside the exposures.

As for raw files the decision is committed first and the file moved after that; whoever is killed in between leaves a file in the inbox
whose receipt names it, and the next attempt finishes the move.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2.extras

from ztfds.formats.atomic import Written, sha256_of
from ztfds.formats.telemetry import Reading, read_telemetry
from ztfds.operations.context import Context
from ztfds.operations.receive import identity, move
from ztfds.registry import database, products, receipts
from ztfds.registry.database import Cursor
from ztfds.survey import ids, names
from ztfds.survey.errors import BadData, ConflictingDuplicate, FilesMissing, Mislabelled, TruncatedFile, UnreadableFile
from ztfds.survey.states import TelemetryState

log = logging.getLogger(__name__)

_STATE_OF = {TruncatedFile.code: TelemetryState.truncated, UnreadableFile.code: TelemetryState.unreadable}
"""State by what is wrong with a file; everything else is mislabelled."""
_COPY = """
    insert into telemetry (quantity_id, time, value, file_id)
    select quantity_id, to_timestamp(seconds), value, %s from telemetry_load order by 1, 2 on conflict do nothing"""


@dataclass(frozen=True)
class Received:
    """What became of a file.

    Attributes
    ----------
    filename : str
    state : TelemetryState
    readings, left_out : int
        Taken over, and not.
    reason : str
        What is wrong, or what was left out.
    """

    filename: str
    state: TelemetryState
    readings: int = 0
    left_out: int = 0
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.filename}: {self.state}, {self.readings} readings" + (f" ({self.reason})" if self.reason else "")


@dataclass
class _File:
    """A file in the inbox with all that is known before the decision."""

    path: Path
    date: str
    source: str
    bytes: int
    sha256: str
    arrival: datetime
    run_id: str | None
    readings: list[Reading] = field(default_factory=list)
    error: BadData | None = None


def receive(context: Context, filename: str, arrival: datetime | str | None, run_id: str | None = None) -> Received:
    """Receive one file of telemetry; repeating it changes nothing.

    Parameters
    ----------
    context : Context
    filename : str
        Name in the inbox.
    arrival : datetime or ISO 8601 str or None
        When it arrived (None: its time of change).
    run_id : str, optional
        Run of the orchestrator, for the record.

    Raises
    ------
    BadName
        The name is not that of a telemetry file.
    FilesMissing
        It is not in the inbox and was never received.
    StoreDown, DatabaseDown
        It stays in the inbox.
    """
    date, _ = names.parse_telemetry_filename(filename)
    path = context.inbox / filename
    if not path.is_file():
        return _known(context, filename)
    info = path.stat()
    when = datetime.fromisoformat(arrival) if isinstance(arrival, str) else arrival
    source = f"{info.st_dev}:{info.st_ino}:{info.st_mtime_ns}"
    when = when or datetime.fromtimestamp(info.st_mtime, UTC)
    file = _File(path, date, source, info.st_size, sha256_of(path), when, run_id)
    with database.transaction(context.dsn) as cursor:
        before = receipts.find(cursor, filename, source, file.sha256)
    if before is not None:  # an earlier attempt was killed before the move
        move(path, context.archive / before["path"], file.sha256)
        return _known(context, filename)
    try:
        file.readings = read_telemetry(path)
    except BadData as error:
        file.error = error
    received = _decide(context, file)
    log.info("%s", received)
    return received


def _known(context: Context, filename: str) -> Received:
    """What is known of a file that is not in the inbox any more."""
    row = database.fetch_one(context.dsn, "select * from telemetry_files where filename = %s", (filename,))
    if row is None or row["state"] == TelemetryState.missing:
        raise FilesMissing(f"{filename} is neither in the inbox nor registered")
    state = TelemetryState(row["state"])
    return Received(filename, state, row["readings"], row["left_out"], row["reason"] or "")


def _decide(context: Context, file: _File) -> Received:
    """Decide, register the decision with its readings in one transaction, then move the file to its place."""
    name, nid = file.path.name, ids.nid_of_date(file.date)
    with database.transaction(context.dsn) as cursor:
        cursor.execute("select ensure_night(%s)", (nid,))
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 4))", (f"telemetry/{name}",))
        found = database.rows(cursor, "select * from telemetry_files where filename = %s", (name,))
        before = found[0] if found and TelemetryState(found[0]["state"]).usable else None
        values: dict[str, np.ndarray] = {}
        left_out: Counter[str] = Counter()
        if file.error is None and before is None:
            try:
                values, left_out = _in_units(file.readings, _quantities(cursor))
            except Mislabelled as found_wrong:
                file.error = found_wrong
        state, error = _state(cursor, file, nid, before)
        _receipt(cursor, file, state, error)
        kept = 0
        if state is not TelemetryState.duplicate and before is None:
            key = _row(cursor, file, nid, state, error)
            if state.usable:
                kept = _load(cursor, values, key)
                _finish_row(cursor, key, kept, left_out, values)
                _product(cursor, context, file, nid)
    context.fault("telemetry:committed")
    place = _place(file, state)
    move(file.path, context.archive / place, file.sha256)
    reason = error.message if error else _said(left_out)
    return Received(name, state, kept, sum(left_out.values()), reason)


def _state(
    cursor: Cursor, file: _File, nid: int, before: Mapping[str, Any] | None
) -> tuple[TelemetryState, BadData | None]:
    """The state that the file gets, given the accepted one of its name if there is one."""
    if before is not None and before["sha256"] == file.sha256:
        return TelemetryState.duplicate, None
    error = file.error
    if error is None and before is not None:
        error = ConflictingDuplicate(f"another file of this name was accepted (sha256 {before['sha256'][:12]})")
    if error is not None:
        return _STATE_OF.get(error.code, TelemetryState.mislabelled), error
    closed = "select 1 from manifests where nid = %s and part = 'night' and arrival < %s"
    late = bool(database.rows(cursor, closed, (nid, file.arrival)))
    return TelemetryState.late if late else TelemetryState.ingested, None


def _quantities(cursor: Cursor) -> dict[str, dict[str, Any]]:
    """The vocabulary, by name."""
    return {row["name"]: row for row in database.rows(cursor, "select * from telemetry_quantities")}


def _in_units(
    readings: Iterable[Reading], known: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """Readings as columns in the units of the vocabulary, and how many were left out, by reason.

    Raises
    ------
    Mislabelled
        A known quantity comes in a unit of another kind, or in none that anybody knows.
    """
    columns: dict[str, list[float]] = {"quantity_id": [], "seconds": [], "value": []}
    left_out: Counter[str] = Counter()
    scales: dict[tuple[str, str], Any] = {}
    for reading in readings:
        quantity = known.get(reading.name)
        if quantity is None or not math.isfinite(reading.value):
            left_out["no value" if quantity else f"unknown quantity {reading.name[:40]}"] += 1
            continue
        pair = (reading.unit, quantity["unit"])
        if pair not in scales:
            scales[pair] = _conversion(reading, quantity["unit"])
        columns["quantity_id"].append(quantity["quantity_id"])
        columns["seconds"].append(reading.time.timestamp())
        columns["value"].append(scales[pair](reading.value))
    return {name: np.array(column, float) for name, column in columns.items()}, left_out


def _conversion(reading: Reading, unit: str) -> Any:
    """From the unit of a reading to that of the vocabulary."""
    if reading.unit == unit:
        return float
    from astropy import units

    try:
        given = units.Unit(reading.unit)
        given.to(unit, 1.0, equivalencies=units.temperature())
    except (ValueError, TypeError) as error:
        raise Mislabelled(f"{reading.name} comes in {reading.unit!r}, which is no kind of {unit}") from error
    return lambda value: float(given.to(unit, value, equivalencies=units.temperature()))


def _said(left_out: Mapping[str, int]) -> str:
    return "; ".join(f"{count} left out: {why}" for why, count in sorted(left_out.items()))


def _place(file: _File, state: TelemetryState) -> str:
    """Where a file goes, below the archive root."""
    if state.usable:
        return names.telemetry_path(file.path.name)
    date = file.arrival.astimezone(UTC).strftime("%Y%m%d")
    folder = f"duplicates/{date}" if state is TelemetryState.duplicate else date
    return names.quarantine_path(file.path.name, folder, file.sha256)


def _receipt(cursor: Cursor, file: _File, state: TelemetryState, error: BadData | None) -> None:
    """Keep that the file arrived."""
    verdict = "accepted" if state.usable else "duplicate" if state is TelemetryState.duplicate else "quarantined"
    values = {
        "filename": identity(file.path.name), "bytes": file.bytes, "sha256": file.sha256, "source": file.source,
        "arrival": file.arrival, "verdict": verdict, "error_code": error.code if error else None,
        "reason": error.message if error else None, "path": _place(file, state), "run_id": file.run_id,
    }  # fmt: skip
    receipts.record(cursor, values)


def _row(cursor: Cursor, file: _File, nid: int, state: TelemetryState, error: BadData | None) -> int:
    """The row of the file, in place of an earlier one that could not be used; returns its number."""
    values = {
        "filename": file.path.name, "nid": nid, "state": state.value, "error_code": error.code if error else None,
        "reason": error.message if error else None, "bytes": file.bytes, "sha256": file.sha256,
        "path": _place(file, state), "arrival": file.arrival, "run_id": file.run_id,
        "ingested": datetime.now(UTC) if state.usable else None,
    }  # fmt: skip
    replaced = ", ".join(f"{name} = excluded.{name}" for name in values if name != "filename")
    tail = f"on conflict (filename) do update set {replaced} returning file_id"
    row = database.insert(cursor, "telemetry_files", values, tail)
    return int(row["file_id"]) if row else 0


def _load(cursor: Cursor, values: Mapping[str, np.ndarray], key: int) -> int:
    """Load readings; one whose quantity and time are there already is left. Returns how many are new."""
    cursor.execute(
        "create temporary table if not exists telemetry_load (quantity_id smallint, seconds float8, value float8)"
        " on commit drop"
    )
    cursor.execute("truncate telemetry_load")
    rows = zip(*(values[name].tolist() for name in ("quantity_id", "seconds", "value")), strict=True)
    psycopg2.extras.execute_values(
        cursor, "insert into telemetry_load values %s", [(int(q), s, v) for q, s, v in rows], page_size=5000
    )
    cursor.execute(_COPY, (key,))
    return max(cursor.rowcount, 0)


def _finish_row(cursor: Cursor, key: int, kept: int, left_out: Mapping[str, int], values: Mapping[str, Any]) -> None:
    """What was taken over, in the row of the file."""
    seconds = values["seconds"]
    first, last = (float(seconds.min()), float(seconds.max())) if len(seconds) else (None, None)
    cursor.execute(
        "update telemetry_files set readings = %s, left_out = %s, reason = %s, first = to_timestamp(%s),"
        " last = to_timestamp(%s) where file_id = %s",
        (kept, sum(left_out.values()), _said(left_out) or None, first, last, key),
    )


def _product(cursor: Cursor, context: Context, file: _File, nid: int) -> None:
    """Register the archived file, so that it is backed up, verified and found like every other."""
    place = names.telemetry_path(file.path.name)
    written = Written(context.archive / place, file.bytes, file.sha256)
    products.register_file(cursor, "telemetry", f"telemetry/{file.path.name}", nid, written, place)


def mark_missing(dsn: str, filenames: Sequence[str]) -> int:
    """Register announced files of telemetry that never came; returns how many. Other names are left alone."""
    marked = 0
    with database.transaction(dsn) as cursor:
        for filename in filenames:
            try:
                date, _ = names.parse_telemetry_filename(filename)
            except BadData:
                continue
            values = {"filename": filename, "nid": ids.nid_of_date(date), "state": TelemetryState.missing.value,
                      "reason": "in the manifest, never came"}  # fmt: skip
            database.insert(cursor, "telemetry_files", values, "on conflict (filename) do nothing")
            marked += cursor.rowcount
    return marked
