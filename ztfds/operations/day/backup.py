"""Backups at a second place: the database as of one instant, and every file of the archive by its content.

::

    <place>/objects/ab/ab12…            a file's content, under its SHA-256, once
    <place>/sets/20261120T183000Z/      one backup: database.dump, files.parquet, manifest.json
    <place>/sets/.20261120T183000Z.part one that was never finished: it does not count, the next backup clears it away

A set is renamed into place when everything in it is on disk, its manifest last; until then it is no backup.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import ztfds
from ztfds.formats.atomic import describe, sha256_of, write_atomic
from ztfds.operations.context import Context
from ztfds.operations.day.dump import Proof, dump
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database
from ztfds.registry.runner import WORK
from ztfds.survey.errors import ChecksumMismatch, ConfigurationError, FilesMissing, LockedByOther, StoreDown

log = logging.getLogger(__name__)

FORMAT = 1
STAMP = "%Y%m%dT%H%M%S.%fZ"
DUMP, FILES, MANIFEST = "database.dump", "files.parquet", "manifest.json"
SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("mtime_ns", pa.int64()), ("sha256", pa.string())])
_CHUNK = 1 << 20

_REGISTERED = """
    select path, sha256, vbest > 0 as served from products
    union all select path, sha256, false from receipts where verdict <> 'accepted' order by served"""
_REMOVED = "select distinct path from removed_files where place = 'archive'"
_NEVER_LOST = """
    select sha256 from products union select sha256 from receipts
    union select sha256 from removed_files where sha256 is not null"""


@dataclass(frozen=True)
class Kept:
    """One file of the archive in a backup: its path below the archive root, size, time of change, and content's SHA-256."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str


@dataclass
class Copied:
    """What the copying of files came to."""

    files: int = 0
    bytes: int = 0
    new: int = 0
    new_bytes: int = 0


def place_of(context: Context) -> Path:
    """The second place: the setting ``backup``, else the folder ``backup`` beside the archive."""
    return Path(str(context.places.get("backup") or context.archive.parent / "backup"))


def same_disk(a: Path, b: Path) -> bool:
    """Whether two folders (or their nearest existing parents) are on one file system."""
    return _nearest(a).stat().st_dev == _nearest(b).stat().st_dev


def _nearest(path: Path) -> Path:
    """The path itself or its first parent that exists."""
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Only one at a time writes or prunes backups; raises `LockedByOther` at once."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with (place / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LockedByOther(f"somebody else is writing to {place}") from error
            yield
    except OSError as error:
        raise StoreDown(f"the second place {place} cannot be used: {error}") from error


def object_path(place: Path, sha256: str) -> Path:
    """Where a content is kept."""
    return place / "objects" / sha256[:2] / sha256


def sets(place: Path) -> list[str]:
    """Names of the complete backups, oldest first."""
    folder = place / "sets"
    return sorted(p.name for p in folder.glob("2*") if (p / MANIFEST).is_file()) if folder.is_dir() else []


def time_of(name: str) -> datetime:
    """When a backup was begun."""
    return datetime.strptime(name, STAMP).replace(tzinfo=UTC)


def read_set(place: Path, name: str | None = None) -> tuple[str, dict[str, Any]]:
    """Name and manifest of a backup, the newest by default, after a look at whether it is whole.

    Raises
    ------
    FilesMissing
        There is none.
    ChecksumMismatch
        One of its parts is not what the manifest says.
    """
    known = sets(place)
    if not known or (name and name not in known):
        raise FilesMissing(f"no complete backup{f' {name}' if name else ''} at {place}")
    name = name or known[-1]
    manifest: dict[str, Any] = json.loads((place / "sets" / name / MANIFEST).read_text())
    for part in (DUMP, FILES):
        if sha256_of(place / "sets" / name / part) != manifest["parts"][part]["sha256"]:
            raise ChecksumMismatch(f"{part} of the backup {name} is damaged")
    return name, manifest


def proof_of(manifest: Mapping[str, Any]) -> Proof:
    """What the database of a backup must reproduce."""
    return Proof(**manifest["proof"])


def files_of(place: Path, name: str) -> list[Kept]:
    """The files of a backup."""
    return [Kept(**row) for row in pq.read_table(place / "sets" / name / FILES).to_pylist()]


def back_up(context: Context, *, reread: bool = False, keep_daily: int = 7, keep_weekly: int = 5) -> Outcome:
    """Make a backup of database and archive at the second place, then retire old ones.

    Only content that is not there yet is copied. A file whose size and time of change are those of the last backup is taken
    to be unchanged, unless `reread` asks to look at every byte; a file whose content is not what the registry says is
    reported, and does not take the place of a good copy.

    Parameters
    ----------
    context : Context
    reread : bool
    keep_daily, keep_weekly : int
        The newest set of so many days, and of so many weeks, is kept.

    Returns
    -------
    Outcome
        Failed when a registered file is damaged or absent.

    Raises
    ------
    StoreDown, DatabaseDown, LockedByOther
        Try again; nothing half-made counts.
    """
    place, began = place_of(context), datetime.now(UTC)
    if place.resolve().is_relative_to(context.archive.resolve()):
        raise ConfigurationError(f"the second place {place} lies inside the archive")
    with locked(place):
        _clear_unfinished(place)
        name = began.strftime(STAMP)
        made, proof, problems = _make(context, place, name, reread)
        retired = prune(context.dsn, place, keep_daily, keep_weekly)
    line = (
        f"{made.files} files ({made.bytes / 1e9:.2f} GB, {made.new} new) and {proof.rows} rows kept as {name}"
        f"{', on the same disk as the archive' if same_disk(place, context.archive) else ''}"
    )
    return Outcome.of(
        line, failures=problems, set=name, **asdict(made), rows=proof.rows, retired=retired, place=str(place)
    )


def _clear_unfinished(place: Path) -> None:
    """Remove what a killed backup left; it never counted."""
    for folder in (place / "sets").glob(".*.part"):
        shutil.rmtree(folder)
    for file in (place / "objects").glob("*/.*.part"):
        file.unlink()


def _make(context: Context, place: Path, name: str, reread: bool) -> tuple[Copied, Proof, list[str]]:
    """Write one set; database first, so that every file it names is in the archive when the files are copied."""
    work, final = place / "sets" / f".{name}.part", place / "sets" / name
    try:
        work.mkdir(parents=True)
        proof = dump(context.dsn, work / DUMP)
        context.fault("backup:dumped")
        kept, copied, problems = copy_archive(context, place, reread)
        context.fault("backup:copied")
        pq.write_table(pa.Table.from_pylist([asdict(k) for k in kept], SCHEMA), work / FILES, compression="zstd")
        _write_manifest(work, name, proof, copied)
        context.fault("backup:written")
        _sync_folder(work)
        work.rename(final)
        _sync_folder(final.parent)
    except OSError as error:
        raise StoreDown(f"cannot write to {place}: {error}") from error
    return copied, proof, problems


def _write_manifest(work: Path, name: str, proof: Proof, copied: Copied) -> None:
    """Write what a set is made of, after its parts are on disk."""
    parts = {}
    for part in (DUMP, FILES):
        _sync_folder(work / part)
        written = describe(work / part)
        parts[part] = {"bytes": written.bytes, "sha256": written.sha256}
    content = {
        "format": FORMAT,
        "name": name,
        "version": ztfds.__version__,
        "parts": parts,
        "files": copied.files,
        "bytes": copied.bytes,
        "proof": asdict(proof),
    }
    write_atomic(work / MANIFEST, json.dumps(content, indent=1).encode())


def _sync_folder(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def archive_files(archive: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every finished file below the archive root: path and what the file system says; working folders are left out."""
    for folder, folders, names in os.walk(archive):
        folders[:] = sorted(f for f in folders if f != WORK)
        for name in sorted(names):
            path = Path(folder) / name
            if name.startswith(".") or name.endswith(".part") or path.is_symlink():
                continue
            try:
                yield path.relative_to(archive).as_posix(), path.stat()
            except FileNotFoundError:  # moved since the folder was listed
                continue


def copy_archive(context: Context, place: Path, reread: bool) -> tuple[list[Kept], Copied, list[str]]:
    """Copy what is not kept yet; returns every file, the amounts, and a line for every file that is not as registered."""
    registered = {row["path"]: row for row in database.fetch_all(context.dsn, _REGISTERED)}  # what is served comes last
    removed = {row["path"] for row in database.fetch_all(context.dsn, _REMOVED)}
    before = {kept.path: kept for kept in files_of(place, sets(place)[-1])} if sets(place) else {}
    kept, amounts, problems = [], Copied(), []
    for path, info in archive_files(context.archive):
        try:
            one, new = _copy(context.archive, place, path, info, None if reread else before.get(path))
        except FileNotFoundError:
            continue
        kept.append(one)
        amounts.files, amounts.bytes = amounts.files + 1, amounts.bytes + one.bytes
        amounts.new, amounts.new_bytes = amounts.new + new, amounts.new_bytes + new * one.bytes
        known = registered.pop(path, None)
        if known is not None and known["sha256"] != one.sha256:
            problems.append(_damaged(place, path, known["sha256"]))
        context.fault("backup:file")
    problems += [
        f"{path}: registered but not in the archive"
        for path, row in registered.items()
        if row["served"] and path not in removed
    ]
    return kept, amounts, problems


def _damaged(place: Path, path: str, sha256: str) -> str:
    """What to say of a file that is not what was registered."""
    good = object_path(place, sha256)
    return f"{path}: damaged in the archive; " + (
        f"a good copy is {good}" if good.is_file() else "there is no good copy"
    )


def _copy(archive: Path, place: Path, path: str, info: os.stat_result, before: Kept | None) -> tuple[Kept, bool]:
    """Keep the content of one file unless it is kept; returns the entry and whether anything was copied."""
    if before and (before.bytes, before.mtime_ns) == (info.st_size, info.st_mtime_ns):
        target = object_path(place, before.sha256)
        if target.is_file() and target.stat().st_size == before.bytes:
            return before, False
    partial = place / "objects" / "new" / f".{os.getpid()}.part"
    partial.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with (archive / path).open("rb") as source, partial.open("wb") as copy:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
        size = copy.tell()
    one = Kept(path, size, info.st_mtime_ns, digest.hexdigest())
    target = object_path(place, one.sha256)
    if target.is_file() and target.stat().st_size == size:
        partial.unlink()
        return one, False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(target)
    return one, True


def verify_object(place: Path, sha256: str, size: int) -> None:
    """Read a kept content back; raise unless it is whole.

    Raises
    ------
    FilesMissing
        It is not there.
    ChecksumMismatch
        It is damaged.
    """
    path = object_path(place, sha256)
    if not path.is_file():
        raise FilesMissing(f"{path} is not there")
    if path.stat().st_size != size or sha256_of(path) != sha256:
        raise ChecksumMismatch(f"{path} is damaged")


def chosen(names: list[str], keep_daily: int, keep_weekly: int) -> set[str]:
    """Sets that are kept: the newest of each of the newest days and of the newest weeks; always the newest of all."""
    kept = set(names[-1:])
    rules: tuple[tuple[Callable[[datetime], Any], int], ...] = (
        (lambda t: t.date(), keep_daily),
        (lambda t: t.isocalendar()[:2], keep_weekly),
    )
    for period, count in rules:
        newest = {period(time_of(name)): name for name in names}
        kept |= set(sorted(newest.values())[-count:] if count > 0 else ())
    return kept


def prune(dsn: str, place: Path, keep_daily: int, keep_weekly: int) -> int:
    """Remove sets that are not kept any more and contents that no set names; returns the number of sets removed.

    Contents of registered files stay for ever: where one was removed or lost from the archive, this is its only place.
    """
    names = sets(place)
    keep = chosen(names, keep_daily, keep_weekly)
    gone = [name for name in names if name not in keep]
    if not gone:
        return 0
    wanted = {row["sha256"] for row in database.fetch_all(dsn, _NEVER_LOST)}
    for name in keep:
        wanted |= set(pq.read_table(place / "sets" / name / FILES, columns=["sha256"])["sha256"].to_pylist())
    for name in gone:
        doomed = place / "sets" / f".{name}.part"
        (place / "sets" / name).rename(doomed)
        shutil.rmtree(doomed)
    for path in (place / "objects").glob("??/*"):
        if path.name not in wanted:
            path.unlink()
    return len(gone)


def age(place: Path, now: datetime | None = None) -> timedelta | None:
    """Age of the newest complete backup, None without any."""
    known = sets(place)
    return (now or datetime.now(UTC)) - time_of(known[-1]) if known else None
