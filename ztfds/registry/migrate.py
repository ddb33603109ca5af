"""Database migrations: numbered plain-SQL files, each applied once, in order, in a transaction of its own."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from ztfds.registry.database import Cursor, rows, transaction
from ztfds.survey.errors import ConfigurationError

log = logging.getLogger(__name__)

_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_LOCK = 7_201_701_001


@dataclass(frozen=True)
class Migration:
    """One numbered SQL file: its number, its name, its text and the checksum of the text."""

    version: int
    name: str
    text: str
    sha256: str


def migrations_folder() -> Path:
    """The folder with the SQL files: inside the installed package, or beside it in a checkout.

    Raises
    ------
    ConfigurationError
        Neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "sql", package.parent / "sql"):
        if folder.is_dir():
            return folder
    raise ConfigurationError(f"no migrations: neither {package / 'sql'} nor {package.parent / 'sql'} exists")


def load(folder: Path | None = None) -> list[Migration]:
    """Read the numbered files of a folder in order; other files are ignored, a number used twice is an error."""
    found = []
    for path in sorted((folder or migrations_folder()).iterdir()):
        if match := _NAME.match(path.name):
            text = path.read_text()
            digest = hashlib.sha256(text.encode()).hexdigest()
            found.append(Migration(int(match[1]), match[2], text, digest))
    numbers = [m.version for m in found]
    if len(set(numbers)) != len(numbers):
        raise ConfigurationError(f"two migrations have the same number: {numbers}")
    return found


def migrate(dsn: str, folder: Path | None = None) -> list[str]:
    """Apply the migrations that are missing; running it again changes nothing.

    Parameters
    ----------
    dsn : str
        Connection of the role that owns the schema (``ztf_owner``).
    folder : Path, optional
        Folder with files ``NNNN_name.sql``; default `migrations_folder`.

    Returns
    -------
    list of str
        Names of the migrations applied now.

    Raises
    ------
    ConfigurationError
        A migration that was applied before has another text now.
    """
    wanted = load(folder)
    with transaction(dsn) as cursor:
        cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        _ledger(cursor)
    return [m.name for m in wanted if _apply(dsn, m)]


def _ledger(cursor: Cursor) -> None:
    """Make the table of applied migrations."""
    cursor.execute("create schema if not exists ztf")
    cursor.execute(
        "create table if not exists ztf.schema_migrations (version integer primary key, name text not null,"
        " sha256 text not null, applied timestamptz not null default now())"
    )


def _apply(dsn: str, migration: Migration) -> bool:
    """Apply one migration unless it was applied before; False when it was."""
    with transaction(dsn) as cursor:
        cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        before = rows(cursor, "select sha256 from ztf.schema_migrations where version = %s", (migration.version,))
        if before:
            if before[0]["sha256"] != migration.sha256:
                raise ConfigurationError(
                    f"migration {migration.version:04d}_{migration.name} was changed after it was applied: write a new one"
                )
            return False
        cursor.execute(migration.text)
        cursor.execute(
            "insert into ztf.schema_migrations (version, name, sha256) values (%s, %s, %s)",
            (migration.version, migration.name, migration.sha256),
        )
    log.info("applied migration %04d_%s", migration.version, migration.name)
    return True
