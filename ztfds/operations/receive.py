"""P1, the reception of a raw file: verify it, decide about it, register it, and move it from the inbox to its place.

The registration is committed first, the file is renamed after that. Whoever is killed in between leaves the file in the inbox
with a receipt that names this very file (device, inode, time of change and checksum); the next attempt finishes the move. So at
any moment a file is in the inbox, or registered and in the archive (or in quarantine), and it is never taken for a second copy
of itself.

``X.fits`` and ``X.fits.fz`` are the same raw file in two spellings: locks, rows, receipts and places go by the second one.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg2

from ztfds.formats.atomic import sha256_of
from ztfds.formats.raw import RawCcd, read_primary_header
from ztfds.ingest.verify import verify
from ztfds.operations.context import Context
from ztfds.registry import exposures, products, receipts
from ztfds.registry.database import Cursor, insert, json_safe, rows, transaction
from ztfds.registry.products import Step, Subject
from ztfds.registry.runner import Meter, software_of, sync_folder
from ztfds.survey import fields, ids, names
from ztfds.survey.errors import (
    BadData,
    BadName,
    ChecksumMismatch,
    ConflictingDuplicate,
    FilesMissing,
    MissingKeyword,
    StoreDown,
    ZtfdsError,
)
from ztfds.survey.names import RawName
from ztfds.survey.states import CcdState

log = logging.getLogger(__name__)

STEP = Step("ingest", "1")
FIRST_NIGHT = 1
"""No file of the survey is older: identifiers count from here."""
FAULT_POINTS = ("verified", "before_commit", "committed", "moved")
"""Moments at which a fault can be injected, as ``ingest:<point>``."""

_IN_USE = {CcdState.ingested, CcdState.processed, CcdState.calibrated, CcdState.bad, CcdState.failed}
"""States of a file that was accepted: another one of its name is a duplicate or a conflict."""
_NOT_USED_YET = {CcdState.ingested, CcdState.failed}
"""States of an accepted file of which nothing was made."""
_TRIES = 5
"""How often a file that changes under our hands is begun again before it is left for later."""


class _Replaced(Exception):
    """The file in the inbox is not the one that was looked at any more."""


class Verdict(StrEnum):
    """What became of a file name that was to be received."""

    accepted = "accepted"
    """It was in the inbox, is good, and is now archived."""
    duplicate = "duplicate"
    """The same file was accepted before; this copy is in quarantine."""
    quarantined = "quarantined"
    """It cannot be used; it is in quarantine with a named reason."""
    known = "known"
    """It was received by an earlier attempt."""


@dataclass(frozen=True)
class Received:
    """The outcome of a reception.

    Attributes
    ----------
    verdict : Verdict
    filename : str
        Its name in the registry.
    row : dict or None
        The row of `ccdfiles`; None for a file whose name says nothing.
    raw : RawCcd or None
        The file in memory when it was read just now.
    error_code, reason : str or None
        Why it is in quarantine.
    """

    verdict: Verdict
    filename: str
    row: dict[str, Any] | None
    raw: RawCcd | None = None
    error_code: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class _Arrived:
    """A file in the inbox and everything that is known of it before the decision."""

    path: Path
    filename: str
    name: RawName | None
    source: str
    bytes: int
    sha256: str
    arrival: datetime
    run_id: str | None
    raw: RawCcd | None
    error: BadData | None
    meter: Meter


def receive(context: Context, filename: str, arrival: datetime | str | None, run_id: str | None = None) -> Received:
    """Receive one file of the inbox; repeating it changes nothing.

    Parameters
    ----------
    context : Context
    filename : str
        Name in the inbox, without a folder.
    arrival : datetime or ISO 8601 str or None
        When it arrived (None: its time of change).
    run_id : str, optional
        Run of the orchestrator, for the record.

    Returns
    -------
    Received

    Raises
    ------
    FilesMissing
        It is not in the inbox and was never received, or it changes all the time.
    StoreDown, DatabaseDown
        It stays in the inbox.
    """
    for _ in range(_TRIES):
        path = context.inbox / filename
        if Path(filename).name != filename or not path.is_file():
            return _known(context, identity(filename))
        try:
            return _receive(context, path, arrival, run_id)
        except (_Replaced, FileNotFoundError):
            log.warning("%s changed while it was received: once more", filename)
    raise FilesMissing(f"{filename} changes all the time")


def identity(filename: str) -> str:
    """The name by which the registry knows a file: one for both spellings of a raw name, and always storable text."""
    name = _name_of(filename)
    return name.filename if name else filename.encode("utf-8", "backslashreplace").decode()


def _source(path: Path) -> str:
    """What tells this very file from another one under its name: device, inode and time of change."""
    info = path.stat()
    return f"{info.st_dev}:{info.st_ino}:{info.st_mtime_ns}"


def _receive(context: Context, path: Path, arrival: datetime | str | None, run_id: str | None) -> Received:
    """Look at the file that is in the inbox now, decide about it, and move it."""
    meter = Meter()
    source, info, filename = _source(path), path.stat(), identity(path.name)
    checksum = sha256_of(path)
    with transaction(context.dsn) as cursor:
        before = receipts.find(cursor, filename, source, checksum)
    if before is not None:
        return _finish(context, path, before)
    name, (raw, error) = _name_of(path.name), _verified(context, path)
    context.fault("ingest:verified")
    file = _Arrived(
        path, filename, name, source, info.st_size, checksum, _when(arrival, info.st_mtime), run_id, raw, error, meter
    )
    try:
        return _decide(context, file)
    except (psycopg2.IntegrityError, psycopg2.DataError) as refused:
        return _decide_refused(context, file, refused)


def _decide_refused(context: Context, file: _Arrived, refused: psycopg2.Error) -> Received:
    """Quarantine a file whose values the registry cannot take, by its name alone if its exposure's row is the trouble."""
    what = (str(refused).strip() or type(refused).__name__).splitlines()[0]
    kind = ConflictingDuplicate if isinstance(refused, psycopg2.IntegrityError) else MissingKeyword
    bad = replace(file, raw=None, error=file.error or kind(f"the registry cannot take it: {what}"))
    try:
        return _decide(context, bad)
    except (psycopg2.IntegrityError, psycopg2.DataError):
        return _decide(context, replace(bad, name=None))


def _when(arrival: datetime | str | None, mtime: float) -> datetime:
    """The time of arrival as a datetime."""
    if isinstance(arrival, str):
        arrival = datetime.fromisoformat(arrival)
    return arrival or datetime.fromtimestamp(mtime, UTC)


def _name_of(filename: str) -> RawName | None:
    """What a file name says; None if it is not that of a raw file of the survey's time."""
    try:
        name = RawName.parse(filename)
    except BadName:
        return None
    return name if name.nid >= FIRST_NIGHT else None


def _verified(context: Context, path: Path) -> tuple[RawCcd | None, BadData | None]:
    """The verified content of a file, or what is wrong with it."""
    try:
        raw = verify(path, context.camera, context.config.ingest, _off_grid(context, path.name))
    except BadData as error:
        return None, error
    except FilesMissing as error:
        raise _Replaced from error
    if raw.name.nid < FIRST_NIGHT:
        return None, BadName(f"{path.name} is of a night before the survey began ({ids.night_date(FIRST_NIGHT)})")
    return raw, None


def _off_grid(context: Context, filename: str) -> dict[int, fields.Field]:
    """Prepared fields off the grid, for a file that claims to be of one."""
    name = _name_of(filename)
    if name is None or name.imgtypecode != "o" or name.field in fields.all_fields():
        return {}
    return exposures.off_grid_fields(context.dsn)


def _known(context: Context, filename: str) -> Received:
    """What an earlier attempt found out about a file that is not in the inbox any more."""
    row = exposures.find_ccdfile(context.dsn, filename)
    if row is not None and row["state"] != CcdState.missing:
        return Received(Verdict.known, filename, row, None, row["error_code"], row["reason"])
    found = receipts.of_name(context.dsn, filename)
    if found:
        return Received(Verdict.known, filename, None, None, found[-1]["error_code"], found[-1]["reason"])
    raise FilesMissing(f"{filename} is neither in the inbox nor registered")


def _finish(context: Context, path: Path, receipt: dict[str, Any]) -> Received:
    """Finish the move that an earlier attempt had registered."""
    log.info("finishing the interrupted reception of %s", path.name)
    _archive(path, receipt["source"], context.archive / receipt["path"], receipt["sha256"])
    with transaction(context.dsn) as cursor:
        row = exposures.ccdfile(cursor, receipt["filename"])
    verdict = Verdict.known if receipt["verdict"] == "accepted" else Verdict(receipt["verdict"])
    return Received(verdict, receipt["filename"], row, None, receipt["error_code"], receipt["reason"])


def _archive(path: Path, source: str, target: Path, sha256: str) -> None:
    """Move a file of the inbox to its place, if it is still the one that was looked at."""
    if path.exists() and _source(path) != source:
        raise _Replaced
    move(path, target, sha256)


def _decide(context: Context, file: _Arrived) -> Received:
    """Decide, register the decision in one transaction, then move the file to its place."""
    filename = file.filename
    with transaction(context.dsn) as cursor:
        exposures.lock_filename(cursor, filename)
        if receipts.find(cursor, filename, file.source, file.sha256) is not None:
            raise _Replaced  # by nothing: somebody else has just decided about this very file
        existing = exposures.ccdfile(cursor, filename)
        used = _in_use(cursor, context, existing, file)
        file = _without_conflict(cursor, file)
        verdict, error = _verdict(file, existing if used else None)
        place = _place(file, verdict)
        receipts.record(
            cursor,
            {
                "filename": filename,
                "exposure": file.name.exposure if file.name else None,
                "bytes": file.bytes,
                "sha256": file.sha256,
                "source": file.source,
                "arrival": file.arrival,
                "verdict": verdict.value,
                "error_code": error.code if error else None,
                "reason": error.message if error else None,
                "path": place,
                "run_id": file.run_id,
            },
        )
        if verdict is Verdict.accepted:
            _register_accepted(cursor, context, file, place)
        elif verdict is Verdict.quarantined and file.name and not used:
            _register_quarantined(cursor, context, file, place, error)
        if file.name:
            exposures.refresh(cursor, file.name.exposure) if verdict is not Verdict.duplicate else None
        row = exposures.ccdfile(cursor, filename)
        context.fault("ingest:before_commit")
        if _source(file.path) != file.source:
            raise _Replaced
    context.fault("ingest:committed")
    _archive(file.path, file.source, context.archive / place, file.sha256)
    context.fault("ingest:moved")
    log.info("%s: %s%s", filename, verdict, f" ({error.code}: {error.message})" if error else "")
    raw = file.raw if verdict is Verdict.accepted else None
    return Received(verdict, filename, row, raw, error.code if error else None, error.message if error else None)


def _in_use(cursor: Cursor, context: Context, existing: dict[str, Any] | None, file: _Arrived) -> bool:
    """Whether another file of this name was accepted and is there.

    One that was replaced in the inbox between its registration and its move never reached the archive; nothing was made of
    it, and the file that took its place takes over its row.
    """
    if existing is None or CcdState(existing["state"]) not in _IN_USE:
        return False
    if CcdState(existing["state"]) not in _NOT_USED_YET or _kept(cursor, context, existing):
        return True
    place = names.quarantine_path(file.filename, file.arrival.astimezone(UTC).strftime("%Y%m%d"), existing["sha256"])
    cursor.execute(
        "update receipts set verdict = 'quarantined', error_code = %s, reason = %s, path = %s"
        " where filename = %s and sha256 = %s and verdict = 'accepted'",
        (ConflictingDuplicate.code, "replaced before it was archived", place, file.filename, existing["sha256"]),
    )
    return False


def _kept(cursor: Cursor, context: Context, existing: dict[str, Any]) -> bool:
    """Whether an accepted file is in the inbox, about to be moved, or in its place (looked at in this order, as it moves)."""
    query = "select source from receipts where filename = %s and sha256 = %s and verdict = 'accepted'"
    sources = {r["source"] for r in rows(cursor, query, (existing["filename"], existing["sha256"]))}
    spellings = [context.inbox / existing["filename"], context.inbox / existing["filename"].removesuffix(".fz")]
    waiting = any(path.is_file() and _source(path) in sources for path in spellings)
    return waiting or (context.archive / existing["path"]).is_file()


def _without_conflict(cursor: Cursor, file: _Arrived) -> _Arrived:
    """The file, refused if another exposure has its exposure number: two names for one opening of the shutter."""
    if file.raw is None or file.name is None:
        return file
    expid = ids.expid(float(file.raw.header["OBSJD"]))
    other = exposures.with_expid(cursor, expid, file.name.exposure)
    if other is None:
        return file
    reason = f"OBSJD {file.raw.header['OBSJD']} gives the exposure number {expid}, which {other} has already"
    return replace(file, raw=None, error=ConflictingDuplicate(reason))


def _verdict(file: _Arrived, used: dict[str, Any] | None) -> tuple[Verdict, ZtfdsError | None]:
    """The decision about a file, given the accepted file of the same name if there is one."""
    if used is not None and used["sha256"] == file.sha256:
        return Verdict.duplicate, None
    if file.error is not None:
        return Verdict.quarantined, file.error
    if used is not None:
        text = f"another file of this name was accepted (sha256 {used['sha256'][:12]}, this one {file.sha256[:12]})"
        return Verdict.quarantined, ConflictingDuplicate(text)
    return Verdict.accepted, None


def _place(file: _Arrived, verdict: Verdict) -> str:
    """Where a file goes, below the archive root."""
    if verdict is Verdict.accepted and file.name:
        return names.raw_path(file.name)
    date = file.arrival.astimezone(UTC).strftime("%Y%m%d")
    arrived = file.path.name.encode("utf-8", "backslashreplace").decode()
    return names.quarantine_path(arrived, f"duplicates/{date}" if verdict is Verdict.duplicate else date, file.sha256)


def exposure_values(context: Context, name: RawName, header: Any | None, arrival: datetime | None) -> dict[str, Any]:
    """Values of an exposure's row, from the name of one of its files and, if it could be read, the primary header."""
    values: dict[str, Any] = {
        "exposure": name.exposure,
        "nid": name.nid,
        "field": name.field,
        "fid": name.fid,
        "filtercode": name.filtercode,
        "imgtype": name.imgtypecode,
        "obsjd": ids.jd_of_filefracday(name.ffd),
        "expected": len(context.camera.ccdids),
        "arrival": arrival,
    }
    if header is None:
        return values
    jd = float(header["OBSJD"])
    keys = {"programid": "PROGRMID", "programpi": "PROGRMPI", "exptime": "EXPTIME", "airmass": "AIRMASS"}
    return {
        **values,
        "obsjd": jd,
        "expid": ids.expid(jd),
        "ra": header.get("RAD"),
        "dec": header.get("DECD"),
        **{column: header.get(keyword) for column, keyword in keys.items()},
    }


def _register_accepted(cursor: Cursor, context: Context, file: _Arrived, place: str) -> None:
    """Rows of a good file: exposure, product, CCD file, job."""
    assert file.name is not None and file.raw is not None
    name, header = file.name, file.raw.header
    values = exposure_values(context, name, header, file.arrival)
    exposures.register_exposure(cursor, values)
    software = software_of(STEP)
    products.note_versions(cursor, STEP, software, context.config.ingest)
    job = _job(cursor, context, file, name)
    subject = Subject(
        dataset=f"raw/{file.filename}",
        exposure=name.exposure,
        expid=values["expid"],
        nid=name.nid,
        field=name.field,
        fid=name.fid,
        ccdid=name.ccdid,
        programid=values["programid"],
    )
    provenance = hashlib.sha256(f"{STEP.name}/{file.filename}/{file.sha256}".encode()).hexdigest()
    before = products.by_provenance(cursor, provenance)  # the same content again, after its file was lost
    row = before.get("raw") or products.register(
        cursor,
        subject,
        {
            "provenance_id": provenance,
            "kind": "raw",
            "step": STEP.name,
            "filename": file.filename,
            "path": place,
            "bytes": file.bytes,
            "sha256": file.sha256,
            "version": products.next_version(cursor, subject.dataset),
            "swversion": software,
            "config_hash": context.config.ingest.critical_hash(),
            "job_id": job,
        },
    )
    exposures.register_ccdfile(
        cursor,
        {
            **_ccdfile_values(file, CcdState.ingested, place),
            "ingested": datetime.now(UTC),
            "product_id": row["product_id"],
            "header": json_safe({card.keyword: card.value for card in header.cards if card.keyword.strip()}),
        },
    )


def _job(cursor: Cursor, context: Context, file: _Arrived, name: RawName) -> int:
    """The row of the job of reception, which ends now."""
    used = file.meter.read()
    row = insert(
        cursor,
        "jobs",
        {
            "step": STEP.name,
            "dataset": f"raw/{file.filename}",
            "exposure": name.exposure,
            "nid": name.nid,
            "swversion": software_of(STEP),
            "config_hash": context.config.ingest.critical_hash(),
            **(context.task.columns() if context.task else {}),
            "run_id": file.run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "ended": datetime.now(UTC),
            "state": "done",
            **used,
        },
        "returning job_id",
    )
    return int(row["job_id"]) if row else 0


def _register_quarantined(
    cursor: Cursor, context: Context, file: _Arrived, place: str, error: ZtfdsError | None
) -> None:
    """Rows of a bad file whose name makes sense and of which no good copy is in use."""
    assert file.name is not None
    exposures.register_exposure(cursor, exposure_values(context, file.name, None, file.arrival))
    exposures.register_ccdfile(
        cursor,
        {
            **_ccdfile_values(file, CcdState.quarantined, place),
            "error_code": error.code if error else None,
            "reason": error.message if error else None,
            "header": _header_if_any(file.path),
        },
    )


def _ccdfile_values(file: _Arrived, state: CcdState, place: str) -> dict[str, Any]:
    """Columns of `ccdfiles` that every file has."""
    assert file.name is not None
    return {
        "exposure": file.name.exposure,
        "ccdid": file.name.ccdid,
        "filename": file.filename,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "state": state.value,
        "error_code": None,
        "reason": None,
        "run_id": file.run_id,
        "arrival": file.arrival,
        "path": place,
    }


def _header_if_any(path: Path) -> dict[str, Any] | None:
    """The primary header of a file that cannot be used, where it can be read at all."""
    try:
        return dict(json_safe({c.keyword: c.value for c in read_primary_header(path).cards if c.keyword.strip()}))
    except (ZtfdsError, ValueError):
        return None


def move(source: Path, target: Path, sha256: str) -> None:
    """Move a file durably: by renaming, or across file systems by copying, comparing the checksum, and removing.

    Parameters
    ----------
    source : Path
        The file; already gone is fine when the target is there.
    target : Path
        Its place; replaced if it exists.
    sha256 : str
        Checksum of the content.

    Raises
    ------
    StoreDown
        The archive cannot be written.
    ChecksumMismatch
        The copy differs from the original.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and source.samefile(target):  # two links of one file: renaming would leave both
            source.unlink()
            return
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, target, sha256)
            source.unlink()
        sync_folder(target.parent)
        sync_folder(source.parent)
    except OSError as error:
        if not source.exists() and target.is_file():
            return
        raise StoreDown(f"cannot move {source} to {target}: {error}") from error


def _copy(source: Path, target: Path, sha256: str) -> None:
    """Copy a file completely or not at all, and compare what was written."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, temporary)
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())
        if sha256_of(temporary) != sha256:
            raise ChecksumMismatch(f"the copy of {source.name} differs from the original")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
