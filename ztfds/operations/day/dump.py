"""A consistent dump of the survey's database with what proves a copy: rows and checksums of tables, results of queries."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2.extensions
from psycopg2 import sql

from ztfds.operations.postgres import binaries
from ztfds.registry.database import Connection, answering, connect, rows
from ztfds.survey.errors import ConfigurationError, DatabaseDown

NIGHTS_ASKED = 3
"""The declared queries are asked about so many of the newest nights."""
QUERIES: dict[str, str] = {
    "exposures": "select exposure, expid, field, fid, programid, imgtype, state, reason, arrival, published, late_stage"
    " from exposures where nid = %s order by exposure",
    "files": "select c.filename, c.state, c.error_code, c.sha256, c.path from ccdfiles c join exposures e using (exposure)"
    " where e.nid = %s order by c.filename",
    "manifests": "select m.part, f.filename, f.bytes, f.sha256 from manifest_files f join manifests m using (manifest_id)"
    " where m.nid = %s and not m.superseded order by 1, 2",
    "products": "select kind, path, version, status, infobits, bytes, sha256 from products where nid = %s and vbest > 0"
    " order by path",
    "provenance": "select p.path, array_agg(q.path order by q.path) from products p join product_parents using (product_id)"
    " join products q on q.product_id = parent_id where p.nid = %s and p.vbest > 0 group by 1 order by 1",
    "quality": "select step, name, count(*), min(value), max(value) from qa_metrics where nid = %s group by 1, 2 order by 1, 2",
    "differences": "select d.pid, d.status, d.reason, d.diffmaglim, d.ncandidates, d.nalertpackets, r.rfid"
    " from diffimages d left join references_ r using (reference_id) where d.nid = %s order by d.pid",
    "candidates": "select candid, objectid, ra, dec, magpsf, sigmapsf, isdiffpos, rb, alerted from candidates where nid = %s"
    " order by candid",
    "alerts": "select candid, topic, state, kafka_partition, kafka_offset, bytes, md5(packet) from alert_outbox where nid = %s"
    " order by candid",
    "objects": "select distinct n.objectid, n.ra, n.dec, h.field, h.rcid, h.ndet, h.jdfirst, h.jdlast from candidates c"
    " join object_names n using (objectid) join object_history h using (objectid) where c.nid = %s order by 1, 4, 5",
    "calibrations": "select distinct on (caltype, rcid, fid) caltype, rcid, fid, calid, provenance_id from calibrations"
    " where accepted and nid <= %s order by caltype, rcid, fid, valid_from_jd desc",
}
"""What is asked of the original and of its copy about a night; the answers must be the same to the bit."""

_TABLES = """
    select c.relname from pg_class c join pg_namespace s on s.oid = c.relnamespace
     where s.nspname = 'ztf' and c.relkind = 'r' order by c.relname"""
_SEQUENCES = "select sequencename as name, last_value from pg_sequences where schemaname = 'ztf' order by 1"


@dataclass
class Proof:
    """What a copy of the database must reproduce.

    Attributes
    ----------
    tables : dict of str to [int, str]
        Rows and checksum of every table.
    sequences : dict of str to int or None
        Last value of every sequence; a copy may be ahead of it, as sequences are no part of a snapshot.
    queries : dict of str to [int, str]
        Rows and SHA-256 of the answer of every declared query, by ``<query>/<nid>``.
    """

    tables: dict[str, list[Any]] = field(default_factory=dict)
    sequences: dict[str, int | None] = field(default_factory=dict)
    queries: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(int(n) for n, _ in self.tables.values())

    def differences(self, copy: Proof) -> list[str]:
        """One line for everything in which a copy differs from this; empty when it is identical."""
        lines = _different("table", self.tables, copy.tables) + _different("query", self.queries, copy.queries)
        for name, value in self.sequences.items():
            if name not in copy.sequences or (value or 0) > (copy.sequences[name] or 0):
                lines.append(f"sequence {name}: {value} in the original, {copy.sequences.get(name)} in the copy")
        return lines


def _different(what: str, here: Mapping[str, list[Any]], there: Mapping[str, list[Any]]) -> list[str]:
    """Entries that are not the same on both sides."""
    lines = []
    for name in sorted({*here, *there}):
        a, b = here.get(name), there.get(name)
        if a != b:
            say = [f"{n} rows, {digest[:12]}" for n, digest in [x or (0, "absent") for x in (a, b)]]
            lines.append(f"{what} {name}: {say[0]} in the original, {say[1]} in the copy")
    return lines


def prove(connection: Connection, nights: Iterable[int] | None = None) -> Proof:
    """Count and checksum every table and ask the declared queries, inside the connection's transaction.

    The checksum is the sum of the 64-bit hashes of the rows' text: it does not depend on their order.

    Parameters
    ----------
    connection : psycopg2 connection
        As a role that may read every table.
    nights : iterable of int, optional
        Nights asked about; default the newest ones.
    """
    proof = Proof()
    with answering(connection), connection.cursor() as cursor:
        cursor.execute("set local extra_float_digits = 1; set local timezone = 'UTC'; set local datestyle = 'ISO'")
        proof.sequences = {row["name"]: row["last_value"] for row in rows(cursor, _SEQUENCES)}
        for row in rows(cursor, _TABLES):
            query = sql.SQL("select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text from {} t")
            cursor.execute(query.format(sql.Identifier("ztf", row["relname"])))
            proof.tables[row["relname"]] = list(cursor.fetchone() or ())
        if nights is None:
            newest = "select nid from ztf.nights order by nid desc limit %s"
            nights = [row["nid"] for row in rows(cursor, newest, (NIGHTS_ASKED,))]
        for nid in nights:
            proof.queries |= {f"{name}/{nid}": _answer(connection, text, nid) for name, text in QUERIES.items()}
    return proof


def _answer(connection: Connection, query: str, nid: int) -> list[Any]:
    """Number of rows and SHA-256 of the answer, taken as it streams in."""
    digest, n = hashlib.sha256(), 0
    with connection.cursor("proof") as cursor:
        cursor.itersize = 5000
        cursor.execute(query, (nid,))
        for n, row in enumerate(cursor, 1):  # noqa: B007
            digest.update(json.dumps(row, default=str).encode() + b"\n")
    return [n, digest.hexdigest()]


def nights_of(proof: Proof) -> list[int]:
    """Nights that a proof asks about."""
    return sorted({int(name.rsplit("/", 1)[1]) for name in proof.queries})


def dump(dsn: str, target: Path, during: Callable[[], None] = lambda: None) -> Proof:
    """Write the schema ``ztf`` as of one instant to a file in PostgreSQL's custom format, and prove that instant.

    Parameters
    ----------
    dsn : str
        As a role that may read every table and sequence (``ztf_pipeline``).
    target : Path
        File to make.
    during : callable
        Called between the dump and its proof; for tests.

    Returns
    -------
    Proof

    Raises
    ------
    DatabaseDown
        The server or pg_dump fails.
    ConfigurationError
        There is no pg_dump that is new enough.
    """
    connection = connect(dsn, application="ztfds backup")
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with answering(connection), connection.cursor() as cursor:
            cursor.execute("select pg_export_snapshot(), current_setting('server_version_num')::integer / 10000")
            snapshot, major = cursor.fetchone() or ("", 0)
        options = ["--format=custom", "--compress=1", "--schema=ztf", "--no-owner", "--lock-wait-timeout=60000"]
        client("pg_dump", dsn, *options, f"--snapshot={snapshot}", f"--file={target}", major=major)
        during()
        return prove(connection)
    finally:
        connection.close()


def load(dsn: str, source: Path) -> None:
    """Load a dump into an empty database, all of it or nothing.

    Parameters
    ----------
    dsn : str
        As the role that is to own everything (``ztf_owner``).
    source : Path
        File of `dump`.
    """
    client("pg_restore", dsn, "--no-owner", "--exit-on-error", "--single-transaction", str(source))
    connection = connect(dsn)
    try:
        with answering(connection), connection, connection.cursor() as cursor:
            name = sql.Identifier(psycopg2.extensions.parse_dsn(dsn)["dbname"])
            cursor.execute(sql.SQL("alter database {} set search_path = ztf, public").format(name))
            cursor.execute(sql.SQL("alter database {} set timezone = 'UTC'").format(name))
    finally:
        connection.close()


def client(name: str, dsn: str, *arguments: str, major: int = 0) -> None:
    """Run one of PostgreSQL's client programs; the password travels in the environment, where others cannot read it."""
    place = psycopg2.extensions.parse_dsn(dsn)
    named = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    variables = {variable: str(place[key]) for key, variable in named.items() if key in place}
    target = [f"--dbname={place['dbname']}"] if name == "pg_restore" else []
    command = [program(name, major), "--no-password", *target, *arguments]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "PGCONNECT_TIMEOUT": "10", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DatabaseDown(f"{name} failed: {' '.join(done.stderr.split()) or f'exit status {done.returncode}'}")


def program(name: str, major: int = 0) -> str:
    """Full path of a PostgreSQL program that is at least as new as the server: from the wheel, or on the PATH."""
    found = [str(place) for place in _places(name) if _major(place) >= major]
    if not found:
        raise ConfigurationError(f"no {name} of PostgreSQL {major} or newer: install the extra 'services'")
    return found[0]


def _places(name: str) -> list[Path]:
    """Where a program may be."""
    try:
        places = [binaries() / "bin" / name]
    except ConfigurationError:
        places = []
    on_path = shutil.which(name)
    return [place for place in [*places, *([Path(on_path)] if on_path else [])] if place.is_file()]


def _major(place: Path) -> int:
    """Major version of a PostgreSQL program, 0 when it does not say."""
    done = subprocess.run([place, "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"\) (\d+)", done.stdout)
    return int(number[1]) if number else 0
