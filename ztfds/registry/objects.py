"""Names of objects: given at the first detection, found again within 1.5 arcsec, never given twice under concurrency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psycopg2.extras
from astropy.time import Time
from psycopg2 import sql

from ztfds.alerts import association
from ztfds.alerts.association import RADIUS_ARCSEC, KnownName
from ztfds.registry import sky
from ztfds.registry.database import Cursor, rows
from ztfds.survey import ids

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
    order = sorted(range(len(candid)), key=lambda k: candid[k])
    year = int(Time(jd, format="jd").datetime.year)
    found = association.associate(
        [float(ra[i]) for i in order],
        [float(dec[i]) for i in order],
        _known(cursor, ra, dec, radius_arcsec),
        lambda: _new_name(cursor, year),
        radius_arcsec,
    )
    names = dict(zip(order, found, strict=True))
    new = [i for i in order if names[i].is_new]
    cells = sky.cell(np.asarray(ra), np.asarray(dec))
    values = [
        (names[i].objectid, float(ra[i]), float(dec[i]), int(cells[i]), float(jd), int(candid[i]), year) for i in new
    ]
    if values:
        statement = "insert into object_names (objectid, ra, dec, hpx, jd, candid, year) values %s"
        psycopg2.extras.execute_values(cursor, statement, values)
    return [names[i].objectid for i in range(len(candid))]


def _new_name(cursor: Cursor, year: int) -> str:
    """The next unused name of a year."""
    cursor.execute("select next_object_number(%s)", (year,))
    (number,) = cursor.fetchone() or (0,)
    return ids.object_name(int(number), year)


def _known(cursor: Cursor, ra: np.ndarray, dec: np.ndarray, radius_arcsec: float) -> list[KnownName]:
    """Names near any of the positions, in alphabetical order."""
    inner = "select objectid, ra, dec from object_names where hpx between r.lo and r.hi"
    query = sql.SQL("select objectid, ra, dec from {}").format(sky.probe(sky.ranges(ra, dec, radius_arcsec), inner))
    found = [KnownName(row["objectid"], row["ra"], row["dec"]) for row in rows(cursor, query)]
    return sorted(found, key=lambda name: name.objectid)
