"""What a night leaves in files: its candidates as parquet, and its alert packets, which then leave the outbox."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ztfds.config.operations import LIMITS
from ztfds.formats.atomic import sha256_of, write_atomic
from ztfds.operations import alertarchive
from ztfds.operations.context import Context
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database, products
from ztfds.registry.candidates import column_types
from ztfds.registry.database import answering, connect
from ztfds.survey import ids
from ztfds.survey.errors import BugOrConfiguration, ChecksumMismatch, NoWork
from ztfds.survey.programs import ENGINEERING

log = logging.getLogger(__name__)

CANDIDATES = "candidates_parquet"
ROWS_AT_ONCE = 20_000
_ARROW = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "text": pa.string(),
}
_OLD = """
    select o.nid, o.programid, count(*)::int as n, count(*) filter (where o.state <> 'sent')::int as waiting
      from alert_outbox o where o.nid in (select nid from alert_outbox where packet is not null group by nid
           having max(coalesce(acked, now())) < now() - make_interval(secs => %s))
     group by 1, 2 having count(*) filter (where packet is not null) > 0 order by 1, 2"""
_KEPT = """
    select candid, md5(packet) as digest from alert_outbox
     where nid = %s and programid = %s and packet is not null and state = 'sent' order by candid"""


def export_candidates(context: Context, nid: int) -> Outcome:
    """Write the metadata of a night's candidates to a parquet file and keep it as a product; repeating it changes nothing.

    Names, units and conventions are those of the alert packet and of the table `candidates`; sorted by object and time, so
    that the history of an object is in one place.

    Raises
    ------
    NoWork
        The night has no candidates in the database.
    BugOrConfiguration
        The file does not hold what the database holds.
    """
    date = ids.night_date(nid)
    count = (database.fetch_one(context.dsn, "select count(*)::int as n from candidates where nid = %s", (nid,)) or {})[
        "n"
    ]
    if not count:
        raise NoWork(f"night {date} has no candidates in the database")
    path = context.archive / f"candidates/{date[:4]}/ztf_{date}_candidates.parquet"
    written = write_atomic(path, lambda part: write_candidates(context.dsn, nid, part))
    found = pq.read_metadata(path).num_rows
    if found < count:
        raise BugOrConfiguration(f"{path.name} holds {found} of {count} candidates")
    products.register_document(
        context.dsn,
        kind=CANDIDATES,
        dataset=f"candidates/{nid}",
        nid=nid,
        written=written,
        archive=context.archive,
        meta={"rows": found},
        programid=ENGINEERING,  # it holds the candidates of all programs
    )
    return Outcome.of(f"{found} candidates in {written.bytes / 1e6:.1f} MB", rows=found, bytes=written.bytes)


def write_candidates(dsn: str, nid: int, path: Path) -> None:
    """Stream the candidates of a night into a parquet file."""
    connection = connect(dsn, application="ztfds export")
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with answering(connection), connection.cursor() as asking:
            types = column_types(asking)
        schema = pa.schema([(name, _ARROW[kind]) for name, kind in types.items()])
        with (
            answering(connection),
            connection.cursor("export") as cursor,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            cursor.itersize = ROWS_AT_ONCE
            columns = ", ".join(types)
            cursor.execute(f"select {columns} from candidates where nid = %s order by objectid, jd, candid", (nid,))
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                writer.write_table(pa.Table.from_arrays(_arrays(rows, schema), schema=schema))
    finally:
        connection.close()


def _arrays(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> list[pa.Array]:
    """Rows as columns."""
    return [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]


# -- packets leave the outbox ------------------------------------------------------------------------------------------


def prune_outbox(context: Context, days: float = LIMITS.packet_days) -> Outcome:
    """Remove the packets of acknowledged alerts from the database once the archive of their night holds them, to the byte.

    The rows stay: what was sent, when, and where in the topic; and ``archive_path`` says where the packet is.

    Parameters
    ----------
    context : Context
    days : float
        A night is taken when its last alert was acknowledged so long ago, d.
    """
    pruned, freed, waiting = 0, 0, []
    for row in database.fetch_all(context.dsn, _OLD, (days * 86400.0,)):
        date = ids.night_date(row["nid"])
        if row["waiting"]:
            waiting.append(f"night {date}: {row['waiting']} alerts of program {row['programid']} are not acknowledged")
            continue
        n, size = _prune(context, row["nid"], row["programid"])
        pruned, freed = pruned + n, freed + size
    line = f"{pruned} packets ({freed / 1e9:.2f} GB) left the outbox for the alert archive"
    return Outcome.of(line, warnings=waiting, pruned=pruned, bytes=freed)


def _prune(context: Context, nid: int, programid: int) -> tuple[int, int]:
    """Prune one night of one program; returns the number of packets and their bytes."""
    written = alertarchive.archive_alerts(context, nid, programid)
    if written is None:
        return 0, 0
    path = written.path.relative_to(context.archive).as_posix()
    if sha256_of(written.path) != written.sha256:
        raise ChecksumMismatch(f"{path} is damaged: nothing is removed from the outbox")
    archived = {candid: hashlib.md5(content).hexdigest() for candid, content in alertarchive.read_archive(written.path)}
    same = [
        r["candid"]
        for r in database.fetch_all(context.dsn, _KEPT, (nid, programid))
        if archived.get(r["candid"]) == r["digest"]
    ]
    size = 0
    for part in _parts(same, 5000):
        with database.transaction(context.dsn) as cursor:
            cursor.execute(
                "update alert_outbox set packet = null, archive_path = %s"
                " where candid = any(%s) and state = 'sent' and packet is not null returning bytes",
                (path, part),
            )
            size += sum(n for (n,) in cursor.fetchall())
    return len(same), size


def _parts(items: Sequence[int], n: int) -> Iterator[list[int]]:
    """A sequence in pieces."""
    for k in range(0, len(items), n):
        yield list(items[k : k + n])
