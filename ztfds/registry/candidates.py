"""Candidates and difference images: loading by binary COPY, history around positions, coverage of positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psycopg2.extras
from psycopg2 import sql

from ztfds.alerts.association import RADIUS_ARCSEC
from ztfds.alerts.numbering import Earlier, merged
from ztfds.registry import sky
from ztfds.registry.database import Cursor, copy_rows, fetch_all, insert, rows, transaction
from ztfds.survey import ids

_types: dict[str, str] = {}


def column_types(cursor: Cursor) -> dict[str, str]:
    """Columns of the table `candidates` and their PostgreSQL types, in order (asked once per process)."""
    if not _types:
        cursor.execute(
            "select column_name, data_type from information_schema.columns"
            " where table_schema = 'ztf' and table_name = 'candidates' order by ordinal_position"
        )
        _types.update(cursor.fetchall())
    return dict(_types)


def insert_candidates(
    cursor: Cursor,
    exposure: str,
    records: Sequence[Mapping[str, Any]],
    objectids: Sequence[str],
    alerted: Sequence[bool],
) -> int:
    """Load the candidates of one difference image, and count them in the history of their objects.

    Parameters
    ----------
    cursor : psycopg2 cursor
        Inside the registering transaction; the night's partition exists (`exposures.ensure_night`).
    exposure : str
    records : sequence of mappings
        The `candidate` part of an alert packet (None or NaN is null; fields that are absent are null).
    objectids : sequence of str
    alerted : sequence of bool
        Whether a packet was made of it.

    Returns
    -------
    int
        Number of rows.
    """
    if not records:
        return 0
    ra, dec = (np.array([float(r[key]) for r in records]) for key in ("ra", "dec"))
    extra = {
        "objectid": list(objectids),
        "exposure": [exposure] * len(records),
        "hpx": sky.cell(ra, dec).tolist(),
        "alerted": [bool(value) for value in alerted],
    }
    columns = {}
    for name, kind in column_types(cursor).items():
        values = extra[name] if name in extra else [record.get(name) for record in records]
        columns[name] = (kind, _array(kind, values))
    _count(cursor, records, objectids)
    return copy_rows(cursor, "candidates", columns)


def _count(cursor: Cursor, records: Sequence[Mapping[str, Any]], objectids: Sequence[str]) -> None:
    """Add detections to the history of their objects."""
    times: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for record, objectid in zip(records, objectids, strict=True):
        times[objectid, int(record["field"]), int(record["rcid"])].append(float(record["jd"]))
    psycopg2.extras.execute_values(
        cursor,
        "insert into object_history as h (objectid, field, rcid, ndet, jdfirst, jdlast) values %s"
        " on conflict (objectid, field, rcid) do update set ndet = h.ndet + excluded.ndet,"
        " jdfirst = least(h.jdfirst, excluded.jdfirst), jdlast = greatest(h.jdlast, excluded.jdlast)",
        [(*key, len(jds), min(jds), max(jds)) for key, jds in sorted(times.items())],
    )


def lock(cursor: Cursor, pid: int) -> None:
    """Let nobody else change the candidates of a quadrant until the transaction ends."""
    cursor.execute("select pg_advisory_xact_lock(hashtextextended('ztf.candidates', %s))", (pid,))


def earlier(cursor: Cursor, nid: int, pid: int) -> list[Earlier]:
    """Every candidate number that was ever given in a quadrant, by any version of its difference image.

    Parameters
    ----------
    cursor : psycopg2 cursor
        What is decided by the answer holds until the transaction ends if the quadrant is locked (`lock`).
    nid, pid : int
        Night and processing number.

    Returns
    -------
    list of Earlier
        Candidates that are served, those that were replaced, and numbers that only the outbox knows (without position).
    """
    query = (
        "select candid, isdiffpos, xpos, ypos, alerted, true as served from candidates where nid = %(nid)s and pid = %(pid)s"
        " union all select candid, isdiffpos, xpos, ypos, alerted, false from former_candidates where pid = %(pid)s"
        " union all select candid, null, null, null, true, false from alert_outbox where candid between %(low)s and %(high)s"
    )
    low = pid * 1_000_000
    found = rows(cursor, query, {"nid": nid, "pid": pid, "low": low, "high": low + 999_999})
    return merged(
        Earlier(
            candid=row["candid"],
            positive=row["isdiffpos"] in ("t", "1"),
            x=np.nan if row["xpos"] is None else row["xpos"] - 1.0,
            y=np.nan if row["ypos"] is None else row["ypos"] - 1.0,
            alerted=row["alerted"],
            served=row["served"],
        )
        for row in found
    )


def remove(cursor: Cursor, nid: int, pid: int) -> set[int]:
    """Take the candidates of an earlier version of a difference image out, before those of a newer one are loaded.

    Their numbers and positions are kept in `former_candidates`: see `earlier`. The quadrant is locked (`lock`).

    Parameters
    ----------
    cursor : psycopg2 cursor
        Inside the transaction that registers the newer version.
    nid, pid : int
        Night and processing number.

    Returns
    -------
    set of int
        Candidate ids of which packets were made: they stay alerted, and are not alerted again.
    """
    lock(cursor, pid)
    gone = rows(
        cursor,
        "delete from candidates where nid = %s and pid = %s"
        " returning candid, alerted, objectid, field, rcid, isdiffpos, xpos, ypos",
        (nid, pid),
    )
    _remember(cursor, pid, gone)
    counts: dict[tuple[str, int, int], int] = defaultdict(int)
    for row in gone:
        counts[row["objectid"], row["field"], row["rcid"]] += 1
    for key, n in sorted(counts.items()):
        _discount(cursor, key, n)
    return {row["candid"] for row in gone if row["alerted"]}


def _remember(cursor: Cursor, pid: int, gone: Sequence[Mapping[str, Any]]) -> None:
    """Keep the numbers of candidates that were just deleted, and what they are inherited by."""
    psycopg2.extras.execute_values(
        cursor,
        "insert into former_candidates as f (pid, candid, isdiffpos, xpos, ypos, alerted) values %s"
        " on conflict (pid, candid) do update set xpos = excluded.xpos, ypos = excluded.ypos,"
        " alerted = f.alerted or excluded.alerted, removed = now()",
        [(pid, *(row[name] for name in ("candid", "isdiffpos", "xpos", "ypos", "alerted"))) for row in gone],
    )


def _discount(cursor: Cursor, key: tuple[str, int, int], n: int) -> None:
    """Take detections that were just deleted out of the history of an object."""
    where = "objectid = %s and field = %s and rcid = %s"
    cursor.execute(f"delete from object_history where {where} and ndet <= %s", (*key, n))
    span = rows(cursor, f"select jdfirst, jdlast from object_history where {where}", key)
    if span:
        nights = (ids.nid(span[0]["jdfirst"]), ids.nid(span[0]["jdlast"]))
        cursor.execute(
            "update object_history h set ndet = ndet - %s, jdfirst = c.first, jdlast = c.last from"
            f" (select min(jd) as first, max(jd) as last from candidates where nid between %s and %s and {where}) c"
            f" where {where}",
            (n, *nights, *key, *key),
        )


def _array(kind: str, values: Sequence[Any]) -> np.ndarray:
    """Values of one column as `binary_copy` wants them: NaN, masked or None where null."""
    if kind == "text":
        return np.array([None if value is None else str(value) for value in values], dtype=object)
    if kind in ("real", "double precision"):
        return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    null = [value is None or value != value for value in values]
    filled = [0 if missing else int(value) for value, missing in zip(values, null, strict=True)]
    return np.ma.MaskedArray(np.array(filled, dtype=np.int64), mask=null)


def near(
    cursor: Cursor,
    ra: np.ndarray,
    dec: np.ndarray,
    jd_from: float,
    jd_to: float,
    radius_arcsec: float = RADIUS_ARCSEC,
) -> list[list[dict[str, Any]]]:
    """Candidates within a radius of each position and an interval of time.

    Parameters
    ----------
    cursor : psycopg2 cursor
    ra, dec : float64 array of shape (n,)
        Positions, deg.
    jd_from, jd_to : float
        Interval of the exposures' start, both ends included, d.
    radius_arcsec : float

    Returns
    -------
    list of n lists of dict
        Rows with all columns of the packet's candidate record, objectid, exposure, alerted, and whether the exposure is
        ``released``; oldest first.
    """
    if not len(ra):
        return []
    inner = (
        "select * from candidates where nid between %s and %s and jd between %s and %s and hpx between r.lo and r.hi"
    )
    query = sql.SQL("select c.* from {} order by jd, candid").format(
        sky.probe(sky.ranges(ra, dec, radius_arcsec), inner)
    )
    every = rows(cursor, query, (ids.nid(jd_from), ids.nid(jd_to), jd_from, jd_to))
    return _around(_with_release(cursor, every), ra, dec, radius_arcsec)


def _with_release(cursor: Cursor, every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say of each row whether everybody may see its exposure; asked when it is needed, so that a release counts at once.

    A query of its own, because joined to one about the sky the planner would read all exposures of the survey.
    """
    query = "select exposure from exposures where exposure = any(%s) and released is not null"
    names = sorted({row["exposure"] for row in every})
    released = {row["exposure"] for row in rows(cursor, query, (names,))} if names else set()
    for row in every:
        row["released"] = row["exposure"] in released
    return every


def _around(
    every: list[dict[str, Any]], ra: np.ndarray, dec: np.ndarray, radius_arcsec: float
) -> list[list[dict[str, Any]]]:
    """Those of the rows that lie within the radius of each position."""
    if not every:
        return [[] for _ in ra]
    ra_all, dec_all = np.array([r["ra"] for r in every]), np.array([r["dec"] for r in every])
    apart = sky.separation_arcsec(np.asarray(ra)[:, None], np.asarray(dec)[:, None], ra_all, dec_all)
    return [[every[j] for j in np.flatnonzero(line <= radius_arcsec)] for line in apart]


def detection_counts(
    cursor: Cursor,
    ra: np.ndarray,
    dec: np.ndarray,
    field: int,
    rcid: int,
    before_jd: float,
    radius_arcsec: float = RADIUS_ARCSEC,
) -> list[tuple[int, float | None]]:
    """Earlier detections, on the same field and channel since the survey's start, of the objects near each position.

    They come from the history of the objects. Only where that goes on after `before_jd` (an exposure that is processed late)
    the candidates of the nights from there on are asked.

    Returns
    -------
    list of n tuples
        (ndethist, jdstarthist): their number, and the earliest Julian date (None without any).
    """
    if not len(ra):
        return []
    inner = "select objectid, ra, dec from object_names where hpx between r.lo and r.hi"
    query = sql.SQL("select objectid, ra, dec from {}").format(sky.probe(sky.ranges(ra, dec, radius_arcsec), inner))
    named = {row["objectid"]: row for row in rows(cursor, query)}
    known = (
        "select objectid, ndet, jdfirst, jdlast from object_history"
        " where field = %s and rcid = %s and jdfirst < %s and objectid = any(%s)"
    )
    every = [named[row["objectid"]] | row for row in rows(cursor, known, (field, rcid, before_jd, list(named)))]
    _forget(cursor, every, field, rcid, before_jd)
    found: list[tuple[int, float | None]] = []
    for inside in _around(every, ra, dec, radius_arcsec):
        first = min((row["jdfirst"] for row in inside), default=None)
        found.append((sum(row["ndet"] for row in inside), first))
    return found


def _forget(cursor: Cursor, every: list[dict[str, Any]], field: int, rcid: int, from_jd: float) -> None:
    """Subtract from histories what was detected at a time or later."""
    beyond = {row["objectid"]: row for row in every if row["jdlast"] >= from_jd}
    if not beyond:
        return
    last = max(row["jdlast"] for row in beyond.values())
    query = (
        "select objectid, count(*)::int as n from candidates where nid between %s and %s and jd >= %s"
        " and field = %s and rcid = %s and objectid = any(%s) group by objectid"
    )
    for row in rows(cursor, query, (ids.nid(from_jd), ids.nid(last), from_jd, field, rcid, list(beyond))):
        beyond[row["objectid"]]["ndet"] -= row["n"]


def register_difference(cursor: Cursor, values: Mapping[str, Any]) -> None:
    """Insert the row of a difference image, or replace that of an earlier version of it (same pid).

    Parameters
    ----------
    cursor : psycopg2 cursor
    values : mapping
        Columns of `diffimages`; ``corners`` as a list of eight floats (deg), ``hpx`` is added here.
    """
    data = dict(values)
    data["hpx"] = int(sky.cell(float(data["ra"]), float(data["dec"]))[0])
    data["corners"] = [float(value) for value in data["corners"]]
    update = ", ".join(f"{name} = excluded.{name}" for name in data if name != "pid")
    clean = {k: None if isinstance(v, float | np.floating) and not np.isfinite(v) else v for k, v in data.items()}
    insert(cursor, "diffimages", clean, f"on conflict (pid) do update set {update}")


_IMAGE = (
    "pid, exposure, nid, field, fid, rcid, jd, programid, programpi, exptime, reference_id, diffmaglim, pdiffimfilename,"
    " magzpsci, magzpsciunc, magzpscirms, clrcoeff, clrcounc, rbversion, ra, dec, corners, null::bigint as candid"
)


def covering(
    cursor: Cursor, ra: np.ndarray, dec: np.ndarray, jd_from: float, jd_to: float, reach_deg: float
) -> list[list[dict[str, Any]]]:
    """Good difference images that cover each position: what upper limits come from.

    Parameters
    ----------
    cursor : psycopg2 cursor
    ra, dec : float64 array of shape (n,)
        Positions on one quadrant, deg.
    jd_from, jd_to : float
        Interval of the exposures' start; the end is excluded.
    reach_deg : float
        Largest distance between a position and the centre of an image that covers it, deg.

    Returns
    -------
    list of n lists of dict
        What packets say of a difference image (columns of `diffimages`), no ``candid``, and whether its exposure is ``released``;
        oldest first.
    """
    if not len(ra):
        return []
    query = sql.SQL(
        f"select {_IMAGE} from diffimages where jd >= %s and jd < %s and status = 1 and {{}} order by jd, pid"
    ).format(_region(ra, dec, reach_deg))
    every = _with_release(cursor, rows(cursor, query, (jd_from, jd_to)))
    if not every:
        return [[] for _ in ra]
    covers = sky.inside_polygons(ra, dec, np.array([row["corners"] for row in every]))
    return [[every[k] for k in np.flatnonzero(line)] for line in covers.T]


def difference_files(dsn: str, pids: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
    """Files of difference images.

    Returns
    -------
    dict of pid to dict of kind to row
        Rows have ``path`` below the archive root and ``bytes``.
    """
    found: dict[int, dict[str, dict[str, Any]]] = {int(pid): {} for pid in pids}
    query = (
        "select d.pid, p.kind, p.path, p.bytes from diffimages d join products p using (provenance_id)"
        " where d.pid = any(%s) and p.kind in ('scimrefdiffimg', 'diffimgpsf')"
    )
    for row in fetch_all(dsn, query, (list(found),)) if found else ():
        found[row["pid"]][row["kind"]] = row
    return found


def reference_catalogs(dsn: str, reference_ids: Sequence[int]) -> dict[int, str]:
    """Places of the PSF catalogs of references, below the archive root; those without one are left out."""
    query = (
        "select r.reference_id, p.path from references_ r join products p using (provenance_id)"
        " where r.reference_id = any(%s) and p.kind = 'refpsfcat'"
    )
    return {row["reference_id"]: row["path"] for row in fetch_all(dsn, query, (list(reference_ids),))}


def coverage_counts(cursor: Cursor, ra: np.ndarray, dec: np.ndarray, before_jd: float, reach_deg: float) -> np.ndarray:
    """How often each position was covered by a good difference image of any field and channel before a time.

    Images of one field and channel point alike, so one footprint (the latest) stands for all of them.

    Returns
    -------
    int array of shape (n,)
        ncovhist.
    """
    if not len(ra):
        return np.zeros(0, int)
    query = sql.SQL(
        "select count(*)::int as n, (array_agg(pid order by jd desc))[1] as pid from diffimages"
        " where jd < %s and status = 1 and {} group by field, rcid"
    ).format(_region(ra, dec, reach_deg))
    groups = {row["pid"]: row["n"] for row in rows(cursor, query, (before_jd,))}
    latest = rows(cursor, "select pid, corners from diffimages where pid = any(%s)", (list(groups),))
    if not latest:
        return np.zeros(len(ra), int)
    covers = sky.inside_polygons(ra, dec, np.array([row["corners"] for row in latest]))
    return np.array([groups[row["pid"]] for row in latest]) @ covers


def _region(ra: np.ndarray, dec: np.ndarray, reach_deg: float) -> sql.Composable:
    """SQL condition on the centres of images that can cover any of some close positions."""
    lon, lat = np.radians(ra), np.radians(dec)
    mean = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]).mean(axis=1)
    centre = np.degrees([np.arctan2(mean[1], mean[0]), np.arctan2(mean[2], np.hypot(mean[0], mean[1]))])
    spread = float(np.max(sky.separation_arcsec(centre[0], centre[1], ra, dec))) / 3600.0
    return sky.within("hpx", sky.ranges(centre[0] % 360.0, centre[1], (reach_deg + spread) * 3600.0 + 61.0))


def of_exposure(dsn: str, exposure: str) -> list[dict[str, Any]]:
    """Candidates of an exposure, by candidate id."""
    with transaction(dsn) as cursor:
        return rows(cursor, "select * from candidates where exposure = %s order by candid", (exposure,))
