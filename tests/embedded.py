"""The embedded PostgreSQL of the tests: one server per session, one fresh migrated database per test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg2
import pytest

from ztfds.operations.postgres import ADMIN, EmbeddedPostgres
from ztfds.registry.migrate import migrate

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """Connection URLs of one database for every role."""

    owner: str
    pipeline: str
    reader: str
    operator: str
    name: str


@cache
def server() -> EmbeddedPostgres:
    """Start the server, with a migrated template."""
    home = Path(tempfile.mkdtemp(prefix="ztfds-test-pg-"))
    home.chmod(0o755)
    postgres = EmbeddedPostgres(home)
    postgres.start()
    migrate(postgres.dsn("ztf_owner"))
    return postgres


def stop() -> None:
    """Stop the server and remove everything of it."""
    if server.cache_info().currsize:
        postgres = server()
        postgres.destroy()
        shutil.rmtree(postgres.home, ignore_errors=True)
        server.cache_clear()


def administer(postgres: EmbeddedPostgres, statement: str) -> None:
    """Run one statement as the administrator."""
    connection = psycopg2.connect(postgres.dsn(ADMIN))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The running server."""
    yield server()
    stop()


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A fresh database with all migrations applied."""
    name = f"test_{next(_numbers)}"
    administer(postgres, f"create database {name} template ztfds owner ztf_owner")
    roles = ("owner", "pipeline", "reader", "operator")
    yield Database(*(postgres.dsn(f"ztf_{role}", name) for role in roles), name=name)
    administer(postgres, f"drop database {name} with (force)")
