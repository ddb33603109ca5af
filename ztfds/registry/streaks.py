"""Streaks in the database: those of the best difference image of every quadrant."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psycopg2

from ztfds.formats.ades import tracklet_name
from ztfds.registry import sky
from ztfds.registry.database import Cursor, copy_rows, fetch_all, rows

log = logging.getLogger(__name__)

_POSITIONS = {f"{axis}{end}": f"{axis}pos{end}" for axis in "xy" for end in ("", "1", "2")}
"""Pixel positions of the table, 0-based, and the columns that hold them 1-based."""
_KINDS = {"i4": "integer", "i8": "bigint", "f4": "real", "f8": "double precision"}


def replace(cursor: Cursor, exposure: str, pid: int, table: np.ndarray) -> int:
    """Load the streaks of a difference image in the place of those of an earlier version of it.

    Rows that the database refuses are left out with an error in the log: they must not cost the image its alerts.

    Parameters
    ----------
    cursor : psycopg2 cursor
        Inside the transaction that registers the image.
    exposure : str
    pid : int
        Processing number of the image.
    table : structured array
        Rows of `difference.streaks.DTYPE`; empty for an image without streaks.

    Returns
    -------
    int
        Number of rows.
    """
    cursor.execute("savepoint streaks")
    try:
        number = _replace(cursor, exposure, pid, table)
    except (psycopg2.DataError, psycopg2.IntegrityError, ValueError):
        log.exception("the streaks of image %d were not registered", pid)
        cursor.execute("rollback to savepoint streaks")
        number = 0
    cursor.execute("release savepoint streaks")
    return number


def _replace(cursor: Cursor, exposure: str, pid: int, table: np.ndarray) -> int:
    """Delete the rows of an image and load others."""
    cursor.execute("delete from streaks where pid = %s", (pid,))
    if not len(table):
        return 0
    columns: dict[str, tuple[str, np.ndarray]] = {}
    for name in table.dtype.names or ():
        kind = table.dtype[name]
        if kind.kind == "U":
            columns[name] = ("text", table[name].astype(object))
        elif name in _POSITIONS:
            columns[_POSITIONS[name]] = ("double precision", table[name].astype(np.float64) + 1.0)
        else:
            sql = _KINDS[kind.str[1:]]
            columns[name] = (sql, table[name].astype(np.int64 if kind.kind == "i" else np.float64))
    names = [tracklet_name(int(row["pid"]), int(row["strid"])) for row in table]
    columns["trksub"] = ("text", np.array(names, object))
    columns["exposure"] = ("text", np.array([exposure] * len(table), object))
    columns["hpx"] = ("bigint", sky.cell(table["ra"].astype(float), table["dec"].astype(float)).astype(np.int64))
    return copy_rows(cursor, "streaks", columns)


def retire_files(cursor: Cursor, image: Mapping[str, Any], kinds: Sequence[str]) -> int:
    """Files of streaks of earlier versions of a difference image are not served beside a newer one; returns how many.

    Parameters
    ----------
    cursor : psycopg2 cursor
        Inside the transaction that registers the image.
    image : mapping
        Row of `products` of the newer difference image: dataset, provenance_id.
    kinds : sequence of str
        Kinds of the files.
    """
    cursor.execute(
        "update products set vbest = 0 where dataset = %s and kind = any(%s) and vbest = 1 and provenance_id <> %s",
        (image["dataset"], list(kinds), image["provenance_id"]),
    )
    return cursor.rowcount


def of_night(dsn: str, nid: int, least_prob: float = 0.0) -> list[dict[str, Any]]:
    """Streaks of a night, the most convincing first."""
    return fetch_all(
        dsn, "select * from streaks where nid = %s and prob >= %s order by prob desc, streakid", (nid, least_prob)
    )


def of_image(cursor: Cursor, pid: int) -> list[dict[str, Any]]:
    """Streaks of a difference image, by number."""
    return rows(cursor, "select * from streaks where pid = %s order by strid", (pid,))
