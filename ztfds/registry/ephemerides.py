"""Sets of orbits and prepared nights in the database: what is in use, what came before, what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ztfds.registry.database import Cursor, fetch_all, fetch_one, insert, rows, transaction

KINDS = ("mpcorb", "comets", "obscodes")
GOOD, REFUSED, WITHDRAWN = "good", "refused", "withdrawn"
_LOCK = 7_201_701_011


def lock(cursor: Cursor) -> None:
    """Let only one refresh or roll-back at a time change what is in use, until the transaction ends."""
    cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))


def current(dsn: str, kind: str) -> dict[str, Any] | None:
    """The set in use: the newest good one; None if there never was one."""
    query = "select * from ephemeris_sets where kind = %s and state = 'good' order by set_id desc limit 1"
    return fetch_one(dsn, query, (kind,))


def newest(dsn: str, kind: str) -> dict[str, Any] | None:
    """The newest row of a kind, good or not."""
    return fetch_one(dsn, "select * from ephemeris_sets where kind = %s order by set_id desc limit 1", (kind,))


def of_content(dsn: str, kind: str, sha256: str) -> dict[str, Any] | None:
    """The newest set with this very content, in whatever state."""
    query = "select * from ephemeris_sets where kind = %s and sha256 = %s order by set_id desc limit 1"
    return fetch_one(dsn, query, (kind, sha256))


def history(dsn: str, kind: str, limit: int = 100) -> list[dict[str, Any]]:
    """Sets of a kind, the newest first."""
    return fetch_all(dsn, "select * from ephemeris_sets where kind = %s order by set_id desc limit %s", (kind, limit))


def record(dsn: str, values: Mapping[str, Any]) -> int:
    """Insert a set; returns its number."""
    with transaction(dsn) as cursor:
        lock(cursor)
        row = insert(cursor, "ephemeris_sets", values, "returning set_id")
    assert row is not None
    return int(row["set_id"])


def refuse(dsn: str, values: Mapping[str, Any]) -> int:
    """Keep that a set was refused, once: the same refusal again (kind, source, content, reason) only counts as looked at."""
    with transaction(dsn) as cursor:
        lock(cursor)
        same = rows(
            cursor,
            "update ephemeris_sets set checked = now() where set_id = (select max(set_id) from ephemeris_sets where"
            " kind = %(kind)s) and state = 'refused' and source = %(source)s and reason = %(reason)s"
            " and sha256 is not distinct from %(sha256)s returning set_id",
            {"sha256": None, **values},
        )
        row = same[0] if same else insert(cursor, "ephemeris_sets", {**values, "state": REFUSED}, "returning set_id")
    assert row is not None
    return int(row["set_id"])


def checked(dsn: str, set_id: int) -> None:
    """Keep that the source still offers this content."""
    with transaction(dsn) as cursor:
        cursor.execute("update ephemeris_sets set checked = now() where set_id = %s", (set_id,))


def roll_back(dsn: str, set_id: int, reason: str) -> tuple[dict[str, Any] | None, int]:
    """Use an older set again: it becomes good, every newer good one of its kind is withdrawn.

    Returns
    -------
    row : dict or None
        The set, None (and nothing changed) where it does not exist, was refused, or has no file any more.
    withdrawn : int
        How many newer ones were taken out of use.
    """
    with transaction(dsn) as cursor:
        lock(cursor)
        found = rows(
            cursor,
            "update ephemeris_sets set state = 'good' where set_id = %s and state <> 'refused' and path is not null returning *",
            (set_id,),
        )
        if not found:
            return None, 0
        cursor.execute(
            "update ephemeris_sets set state = 'withdrawn', reason = %s where kind = %s and state = 'good' and set_id > %s",
            (reason, found[0]["kind"], set_id),
        )
        return found[0], cursor.rowcount


def forget_files(dsn: str, kind: str, keep: int) -> list[str]:
    """Paths of good and withdrawn sets beyond the newest `keep`: their rows stay, their files may be removed now."""
    with transaction(dsn) as cursor:
        lock(cursor)
        gone = rows(
            cursor,
            "select set_id, path from ephemeris_sets where kind = %s and path is not null order by set_id desc offset %s",
            (kind, keep),
        )
        used = rows(cursor, "select max(set_id) as n from ephemeris_sets where kind = %s and state = 'good'", (kind,))
        gone = [row for row in gone if row["set_id"] != used[0]["n"]]
        cursor.execute(
            "update ephemeris_sets set path = null, state = case when state = 'good' then 'withdrawn' else state end,"
            " reason = case when state = 'good' then 'old: its file was removed' else reason end where set_id = any(%s)",
            ([row["set_id"] for row in gone],),
        )
    return [row["path"] for row in gone]


def record_night(dsn: str, values: Mapping[str, Any]) -> None:
    """Keep what a night was prepared from; an earlier preparation is replaced."""
    updates = ", ".join(f"{name} = excluded.{name}" for name in values if name != "nid")
    with transaction(dsn) as cursor:
        insert(cursor, "ephemeris_nights", values, f"on conflict (nid) do update set {updates}, made = now()")


def night(dsn: str, nid: int) -> dict[str, Any] | None:
    """The preparation of one night."""
    return fetch_one(dsn, "select * from ephemeris_nights where nid = %s", (nid,))


def nearest_night(dsn: str, nid: int, most: float) -> dict[str, Any] | None:
    """The prepared night nearest to one, not farther than `most` nights (an earlier one before a later one)."""
    query = """select * from ephemeris_nights where path is not null and abs(nid - %(nid)s) <= %(most)s
        order by abs(nid - %(nid)s), nid limit 1"""
    return fetch_one(dsn, query, {"nid": nid, "most": most})


def forget_nights(dsn: str, keep: int) -> list[str]:
    """Paths of the files of all nights but the `keep` made last (old nights are made anew for reprocessing); they may be removed."""
    with transaction(dsn) as cursor:
        gone = rows(
            cursor,
            "select nid, path from ephemeris_nights where path is not null order by made desc, nid desc offset %s",
            (keep,),
        )
        cursor.execute("update ephemeris_nights set path = null where nid = any(%s)", ([row["nid"] for row in gone],))
    return [row["path"] for row in gone]
