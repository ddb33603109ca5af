"""Care of the database: partitions ahead, retirement, old messages, vacuum and analyze where it is worth it, and a report."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any

from psycopg2 import sql

from ztfds.config.operations import LIMITS
from ztfds.formats.atomic import sha256_of
from ztfds.operations.context import Context
from ztfds.operations.day import cleanup, outcomes
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database, messages
from ztfds.registry.database import answering, connect
from ztfds.survey import ids

log = logging.getLogger(__name__)

FEWEST_ROWS = 1000
"""Smaller tables are left to the server's own vacuum."""
CHANGED_SHARE = 0.1
_PARTITIONS = """
    select substring(c.relname from 'candidates_n([0-9]+)$')::int as nid from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'ztf.candidates'::regclass order by 1"""
_TABLES = """
    select s.relname as name, s.n_live_tup as live, s.n_dead_tup as dead, s.n_mod_since_analyze as changed,
           greatest(s.last_analyze, s.last_autoanalyze) as analyzed, pg_total_relation_size(s.relid) as bytes,
           pg_indexes_size(s.relid) as index_bytes
      from pg_stat_user_tables s where s.schemaname = 'ztf' order by bytes desc, name"""
_WHOLE = """
    select pg_database_size(current_database()) as bytes, age(d.datfrozenxid) as xid_age,
           (select count(*) from pg_stat_activity where datname = current_database())::int as connections,
           current_setting('max_connections')::int as most_connections,
           s.blks_hit::float8 / nullif(s.blks_hit + s.blks_read, 0) as hits, s.deadlocks
      from pg_database d join pg_stat_database s on s.datid = d.oid where d.datname = current_database()"""
_UNUSED = """
    select i.indexrelname as name, pg_relation_size(i.indexrelid) as bytes from pg_stat_user_indexes i
      join pg_index x on x.indexrelid = i.indexrelid
     where i.schemaname = 'ztf' and i.idx_scan = 0 and not x.indisunique and pg_relation_size(i.indexrelid) > 100e6
     order by bytes desc limit 10"""
_FILE = "select path, sha256, bytes, meta from products where nid = %s and kind = 'candidates_parquet' and vbest > 0"


def care(context: Context, *, keep_nights: int = 0, everything: bool = False) -> Outcome:
    """Take care of the survey's database and report on it.

    Parameters
    ----------
    context : Context
    keep_nights : int
        Candidates of older nights are retired: dropped from the database once their file in the archive was read back.
        0: none are.
    everything : bool
        Vacuum every table, not only those where it is worth it.
    """
    today = ids.nid_of_date(datetime.now(UTC).strftime("%Y%m%d"))
    ahead = make_ahead(context.dsn, today)
    dropped = drop_unused(context.dsn, today)
    retired, refused = retire(context, keep_nights) if keep_nights else ([], [])
    pruned = prune_messages(context.dsn)
    treated, problems = vacuum(context.dsn, everything)
    figures = describe(context.dsn)
    before = outcomes.newest_good(context.dsn, "database_care")
    grown = figures["bytes"] - before["figures"].get("bytes", figures["bytes"]) if before else 0
    line = (
        f"{figures['bytes'] / 1e9:.2f} GB ({grown / 1e9:+.2f}), {len(treated)} tables vacuumed, {ahead} partitions made ahead,"
        f" {dropped} unused dropped, {len(retired)} nights retired, {pruned} old messages deleted"
    )
    return Outcome.of(
        line,
        warnings=[*problems, *refused, *doubts(figures)],
        **figures,
        grown=grown,
        treated=treated,
        retired=retired,
        pruned=pruned,
    )


def partitions(dsn: str) -> list[int]:
    """Nights that have a partition of candidates."""
    return [row["nid"] for row in database.fetch_all(dsn, _PARTITIONS)]


def make_ahead(dsn: str, today: int) -> int:
    """Make the partitions of the nights to come, so that none is made while alerts wait; returns how many were missing."""
    made = 0
    for nid in range(today, today + LIMITS.partitions_ahead + 1):
        row = database.fetch_one(dsn, "select ensure_candidates_partition(%s) as made", (nid,))
        made += bool(row and row["made"])
    return made


def drop_unused(dsn: str, today: int) -> int:
    """Drop partitions of nights that never began: made ahead, and past."""
    past = [nid for nid in partitions(dsn) if nid < today - 2]
    opened = {row["nid"] for row in database.fetch_all(dsn, "select nid from nights where nid = any(%s)", (past,))}
    gone = 0
    for nid in past:
        if nid not in opened:
            row = database.fetch_one(dsn, "select drop_empty_partition(%s) as dropped", (nid,))
            gone += bool(row and row["dropped"])
    return gone


def retire(context: Context, keep_nights: int) -> tuple[list[int], list[str]]:
    """Drop the candidates of old nights from the database, when the file that keeps them was read back and is whole.

    Returns
    -------
    retired : list of int
        Nights.
    refused : list of str
        A line for each night that has to stay.
    """
    nights, retired, refused = partitions(context.dsn), [], []
    opened = [row["nid"] for row in database.fetch_all(context.dsn, "select nid from nights order by nid")]
    newest = max(opened, default=0)
    for nid in nights:
        if nid > newest - keep_nights or nid not in opened:
            continue
        file = database.fetch_one(context.dsn, _FILE, (nid,))
        if file is None:
            refused.append(f"night {ids.night_date(nid)} stays: its candidates were not exported")
        elif (
            not (context.archive / file["path"]).is_file()
            or sha256_of(context.archive / file["path"]) != file["sha256"]
        ):
            refused.append(f"night {ids.night_date(nid)} stays: {file['path']} is damaged or absent")
        elif _drop(context.dsn, nid, refused):
            retired.append(nid)
    return retired, refused


def _drop(dsn: str, nid: int, refused: list[str]) -> bool:
    """Retire one night; the database refuses when the number of rows is not that of the file."""
    import psycopg2.errors

    try:
        database.fetch_one(dsn, "select retire_night(%s) as n", (nid,))
    except psycopg2.errors.RaiseException as error:
        refused.append(f"night {ids.night_date(nid)} stays: {' '.join(str(error).split())}")
        return False
    return True


def prune_messages(dsn: str) -> int:
    """Delete what tasks said longer ago than the rules of retention say; returns how many messages."""
    days = cleanup.rules(dsn)[0].message_days
    return 0 if days is None else messages.prune(dsn, days)


def vacuum(dsn: str, everything: bool = False) -> tuple[list[str], list[str]]:
    """Vacuum and analyze the tables where enough has changed; returns them, and a line for what could not be done."""
    chosen = [row["name"] for row in database.fetch_all(dsn, _TABLES) if everything or worth_it(row)]
    connection = connect(dsn, autocommit=True, application="ztfds care")
    problems = []
    try:
        with answering(connection), connection.cursor() as cursor:
            for name in chosen:
                connection.notices.clear()
                cursor.execute(sql.SQL("vacuum (analyze, skip_locked) {}").format(sql.Identifier("ztf", name)))
                said = " ".join(" ".join(connection.notices).split())
                if re.search(r"permission denied|skipping", said):
                    problems.append(f"{name}: {said}")
    finally:
        connection.close()
    return chosen, problems


def worth_it(row: dict[str, Any]) -> bool:
    """Whether a table has enough dead or changed rows, or was never analyzed."""
    rows = row["live"] + row["dead"]
    if rows < FEWEST_ROWS:
        return False
    return row["dead"] > LIMITS.dead_rows * rows or row["changed"] > CHANGED_SHARE * rows or row["analyzed"] is None


def describe(dsn: str) -> dict[str, Any]:
    """Sizes, dead rows, age of transactions, connections, and indexes that nobody uses."""
    with database.session(dsn):
        whole = database.fetch_one(dsn, _WHOLE) or {}
        tables = database.fetch_all(dsn, _TABLES)
        unused = database.fetch_all(dsn, _UNUSED)
    keys = ("name", "live", "dead", "bytes", "index_bytes")
    return {**whole, "tables": [{k: row[k] for k in keys} for row in tables[:20]], "unused_indexes": unused}


def doubts(figures: dict[str, Any]) -> list[str]:
    """What a person has to look at."""
    lines = []
    if figures["xid_age"] > LIMITS.xid_age:
        lines.append(f"the oldest transaction is {figures['xid_age']:.2g} back: vacuum everything soon")
    if figures["connections"] > 0.8 * figures["most_connections"]:
        lines.append(f"{figures['connections']} of {figures['most_connections']} connections are in use")
    for row in figures["tables"]:
        rows = row["live"] + row["dead"]
        if rows > 100 * FEWEST_ROWS and row["dead"] > 0.5 * rows:
            lines.append(f"{row['name']} is mostly dead rows ({row['dead']} of {rows})")
    return lines
