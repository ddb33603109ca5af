"""Names of objects: given at the first detection, found again within 1.5 arcsec, never given twice under concurrency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psycopg2.extras
from astropy.time import Time
from psycopg2 import sql

from ztfds.registry import sky
from ztfds.registry.database import Cursor, rows
from ztfds.survey import ids

RADIUS_ARCSEC = 1.5
"""Two detections closer than this are of the same object."""

_LOCK_CLASS = 29_001


def associate(
    cursor: Cursor,
    ra: np.ndarray,
    dec: np.ndarray,
    candid: Sequence[int],
    jd: float,
    radius_arcsec: float = RADIUS_ARCSEC,
) -> list[str]:
    """Name the objects of detections: the nearest known name within the radius, else a new one.

    Coarse HEALPix cells around the detections are locked until the transaction ends, in sorted order (no deadlock); two
    detections within the radius of each other always share a lock, so whoever comes second sees the first one's name.

    Parameters
    ----------
    cursor : psycopg2 cursor
        Inside the transaction that registers the detections (isolation: read committed).
    ra, dec : float64 array of shape (n,)
        ICRS, deg.
    candid : sequence of int
        Candidate ids; names are given in their order, so the result does not depend on the order of the rows.
    jd : float
        Start of the exposure: its year is in the new names.
    radius_arcsec : float

    Returns
    -------
    list of str
        objectid of every detection, in the given order.
    """
    if not len(candid):
        return []
    for key in sky.lock_keys(ra, dec, radius_arcsec):
        cursor.execute("select pg_advisory_xact_lock(%s, %s)", (_LOCK_CLASS, key))
    known = _known(cursor, ra, dec, radius_arcsec)
    names, new = _match(cursor, np.asarray(ra, float), np.asarray(dec, float), list(candid), jd, radius_arcsec, known)
    if new:
        statement = "insert into object_names (objectid, ra, dec, hpx, jd, candid, year) values %s"
        psycopg2.extras.execute_values(cursor, statement, new)
    return names


def _known(cursor: Cursor, ra: np.ndarray, dec: np.ndarray, radius_arcsec: float) -> list[tuple[str, float, float]]:
    """Names near any of the positions: (objectid, ra, dec)."""
    found: dict[str, tuple[str, float, float]] = {}
    for start in range(0, len(ra), 50):  # short lists of ranges keep the planner fast
        spans = sky.ranges(ra[start : start + 50], dec[start : start + 50], radius_arcsec)
        query = sql.SQL("select objectid, ra, dec from object_names where {}").format(sky.within("hpx", spans))
        for row in rows(cursor, query):
            found[row["objectid"]] = (row["objectid"], row["ra"], row["dec"])
    return list(found.values())


def _match(
    cursor: Cursor,
    ra: np.ndarray,
    dec: np.ndarray,
    candid: list[int],
    jd: float,
    radius_arcsec: float,
    known: list[tuple[str, float, float]],
) -> tuple[list[str], list[tuple[str, float, float, int, float, int, int]]]:
    """Give every detection a name; returns the names and the rows of the new ones."""
    year = int(Time(jd, format="jd").datetime.year)
    names = [""] * len(candid)
    new: list[tuple[str, float, float, int, float, int, int]] = []
    for i in sorted(range(len(candid)), key=lambda k: candid[k]):
        name = _nearest(known, ra[i], dec[i], radius_arcsec)
        if name is None:
            cursor.execute("select next_object_number(%s)", (year,))
            (number,) = cursor.fetchone() or (0,)
            name = ids.object_name(int(number), year)
            cell = int(sky.cell(ra[i], dec[i])[0])
            new.append((name, float(ra[i]), float(dec[i]), cell, float(jd), int(candid[i]), year))
            known.append((name, float(ra[i]), float(dec[i])))
        names[i] = name
    return names, new


def _nearest(known: list[tuple[str, float, float]], ra: float, dec: float, radius_arcsec: float) -> str | None:
    """Name of the nearest known object within the radius (ties: the older name), None if there is none."""
    if not known:
        return None
    apart = sky.separation_arcsec(ra, dec, np.array([k[1] for k in known]), np.array([k[2] for k in known]))
    near = [(float(apart[i]), known[i][0]) for i in np.flatnonzero(apart <= radius_arcsec)]
    return min(near)[1] if near else None
