"""Restoring a backup on an empty machine, and proving by it that a backup is one."""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ztfds.formats.atomic import sha256_of, write_atomic
from ztfds.operations.context import Context
from ztfds.operations.day import backup
from ztfds.operations.day.backup import Kept
from ztfds.operations.day.dump import Proof, load, nights_of, prove
from ztfds.operations.day.outcomes import Outcome
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.registry.database import connect, fetch_all
from ztfds.survey.errors import BadData, ChecksumMismatch, ConfigurationError, FilesMissing

log = logging.getLogger(__name__)


def restore(place: Path, home: Path, name: str | None = None) -> Outcome:
    """Bring a backup back to life in an empty home folder: a new PostgreSQL server, and the archive.

    Everything is compared with what was written down when the backup was made: rows and checksum of every table, every
    sequence, the answers of the declared queries about the newest nights, and the checksum of every file as it is written.

    Parameters
    ----------
    place : Path
        The second place.
    home : Path
        Home folder to make; it must hold neither survey tables nor archived files.
    name : str, optional
        Which backup; default the newest.

    Returns
    -------
    Outcome
        Failed, with a line for everything that differs.

    Raises
    ------
    ConfigurationError
        The home is not empty.
    FilesMissing, ChecksumMismatch
        There is no such backup, or it is damaged.
    """
    name, manifest = backup.read_set(place, name)
    archive = Path(home).resolve() / "archive"
    if archive.is_dir() and any(archive.iterdir()):
        raise ConfigurationError(f"{archive} is not empty: a backup is restored into an empty home only")
    server = EmbeddedPostgres(home)
    ran = server.status().running
    dsns = server.start()
    try:
        copy = restore_database(dsns["ztf_owner"], place, name, backup.proof_of(manifest))
    finally:
        if not ran:
            server.stop()
    problems = backup.proof_of(manifest).differences(copy)
    files = backup.files_of(place, name)
    problems += write_files(place, archive, files)
    line = f"{name} restored to {home}: {len(copy.tables)} tables, {copy.rows} rows, {len(files)} files"
    figures: dict[str, Any] = {"set": name, "tables": len(copy.tables), "rows": copy.rows, "files": len(files)}
    return Outcome.of(
        f"{line}{', all identical' if not problems else ''}", failures=problems, queries=len(copy.queries), **figures
    )


def restore_database(owner: str, place: Path, name: str, original: Proof) -> Proof:
    """Load the dump of a backup into an empty database and prove what came of it.

    Parameters
    ----------
    owner : str
        Database as ``ztf_owner``.
    place, name : Path, str
        The backup.
    original : Proof
        What was proved when it was made: the same nights are asked about.

    Raises
    ------
    ConfigurationError
        The database is not empty.
    """
    if fetch_all(owner, "select 1 from pg_namespace where nspname = 'ztf'"):
        raise ConfigurationError(
            "the database holds survey tables already: a backup is restored into an empty one only"
        )
    load(owner, place / "sets" / name / backup.DUMP)
    connection = connect(owner)
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        return prove(connection, nights_of(original))
    finally:
        connection.close()


def write_files(place: Path, archive: Path, files: Sequence[Kept]) -> list[str]:
    """Write the files of a backup into an archive, each compared with its checksum; a line for each that fails."""
    problems = []
    for file in files:
        source, target = backup.object_path(place, file.sha256), archive / file.path
        try:
            if not source.is_file():
                raise FilesMissing(f"{source} is not there")
            if write_atomic(target, lambda path, source=source: shutil.copyfile(source, path)).sha256 != file.sha256:  # type: ignore[misc]
                target.unlink()
                raise ChecksumMismatch(f"{source} is damaged")
        except (BadData, FilesMissing) as error:
            problems.append(f"{file.path}: {error.message}")
    return problems


def put_back(place: Path, archive: Path, path: str, sha256: str) -> None:
    """Bring back one file of the archive from the second place, by its checksum.

    Raises
    ------
    FilesMissing, ChecksumMismatch
        There is no good copy.
    """
    kept = backup.object_path(place, sha256)
    problems = write_files(place, archive, [Kept(path, kept.stat().st_size if kept.is_file() else 0, 0, sha256)])
    if problems:
        raise FilesMissing(problems[0])
    if sha256_of(archive / path) != sha256:
        raise ChecksumMismatch(f"{path} is damaged after it was written")


def prove_backup(context: Context, *, share: float = 1.0, name: str | None = None) -> Outcome:
    """Prove a backup by restoring it: its database into a new server that is thrown away, its files by reading them back.

    Parameters
    ----------
    context : Context
    share : float
        Part of the files that is read back (all are looked for); another part every time.
    name : str, optional
        Which backup; default the newest.

    Returns
    -------
    Outcome
    """
    place = backup.place_of(context)
    name, manifest = backup.read_set(place, name)
    original = backup.proof_of(manifest)
    scratch = Path(tempfile.mkdtemp(prefix="ztfds-restore-"))
    scratch.chmod(0o755)  # the unprivileged account of the server must pass
    server = EmbeddedPostgres(scratch)
    try:
        copy = restore_database(server.start()["ztf_owner"], place, name, original)
    finally:
        server.destroy()
        shutil.rmtree(scratch, ignore_errors=True)
    problems = original.differences(copy)
    files = backup.files_of(place, name)
    read, unreadable = _read_back(place, files, share)
    line = (
        f"{name} restored into a scratch database: {copy.rows} rows in {len(copy.tables)} tables and {len(copy.queries)}"
        f" queries identical, {read} of {len(files)} files read back"
    )
    if problems or unreadable:
        line = f"{name} is NOT a good backup"
    return Outcome.of(line, failures=[*problems, *unreadable], set=name, rows=copy.rows, files=len(files), read=read)


def _read_back(place: Path, files: Sequence[Kept], share: float) -> tuple[int, list[str]]:
    """Read a share of the contents and look for the rest; number read, and a line for each that is not good."""
    dice, problems, read = random.SystemRandom(), [], 0
    unique = {file.sha256: file for file in files}
    for file in unique.values():
        look = dice.random() < share
        read += look
        try:
            if look:
                backup.verify_object(place, file.sha256, file.bytes)
            elif not backup.object_path(place, file.sha256).is_file():
                raise FilesMissing(f"{backup.object_path(place, file.sha256)} is not there")
        except (BadData, FilesMissing) as error:
            problems.append(f"{file.path}: {error.message}")
    return read, problems
