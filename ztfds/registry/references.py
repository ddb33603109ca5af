"""Reference images: which one is used, what they are made of, and what could be made into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2.extras

from ztfds.registry.database import Cursor, fetch_all, fetch_one, insert, rows, transaction
from ztfds.registry.reference_queue import Wish, enqueue
from ztfds.survey.errors import ReferenceMissing


def record(cursor: Cursor, values: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> int:
    """Insert a reference as the best of its field, channel and filter (unless an older one is locked); return its id.

    Parameters
    ----------
    cursor : psycopg2 cursor
    values : mapping
        rfid, field, rcid, fid, version, status, reason, remarks, infobits, limits_version, nframes, jdstart, jdend, magzp,
        maglimit, fwhm_px, rejected, provenance_id, product_id. One with status 0 never replaces one with status 1.
    members : sequence of mappings
        product_id and exposure of every image in it.
    """
    where = (values["field"], values["rcid"], values["fid"])
    current = rows(
        cursor,
        "select vbest, status, provenance_id from references_ where field = %s and rcid = %s and fid = %s and vbest > 0"
        " for update",
        where,
    )
    keeps = bool(current) and (current[0]["vbest"] == 2 or current[0]["status"] > values["status"])
    if keeps:
        _serve(cursor, values["provenance_id"], 0)
        _serve(cursor, current[0]["provenance_id"], current[0]["vbest"])
    if not keeps:
        cursor.execute("update references_ set vbest = 0 where field = %s and rcid = %s and fid = %s", where)
    row = insert(
        cursor,
        "references_",
        {**values, "vbest": 0 if keeps else 1},
        "on conflict (provenance_id) do nothing returning *",
    )
    if row is None:
        return 0
    psycopg2.extras.execute_values(
        cursor,
        "insert into reference_members (reference_id, product_id, exposure) values %s",
        [(row["reference_id"], member["product_id"], member.get("exposure")) for member in members],
    )
    return int(row["reference_id"])


def _serve(cursor: Cursor, provenance_id: str, vbest: int) -> None:
    """Say which of the products of two versions are served, as of the references themselves."""
    cursor.execute("update products set vbest = %s where provenance_id = %s", (vbest, provenance_id))


def serve_again(dsn: str, reference_id: int) -> bool:
    """Serve an older, usable version where none is served now; whether it is."""
    with transaction(dsn) as cursor:
        found = rows(
            cursor,
            "update references_ r set vbest = 1 where reference_id = %s and status = 1 and not retired and not exists ("
            " select 1 from references_ o where (o.field, o.rcid, o.fid) = (r.field, r.rcid, r.fid) and o.vbest > 0)"
            " returning provenance_id",
            (reference_id,),
        )
        for row in found:
            _serve(cursor, row["provenance_id"], 1)
        return bool(found)


def usable(dsn: str, field: int, rcid: int, fid: int) -> dict[str, Any]:
    """The reference to difference with.

    Returns
    -------
    dict
        Its row of `references_`, with ``products``: its product rows by kind.

    Raises
    ------
    ReferenceMissing
        There is none, or the best one is not usable (status 0).
    """
    row = fetch_one(
        dsn,
        "select r.*, (select jsonb_object_agg(p.kind, to_jsonb(p)) from products p"
        " where p.provenance_id = r.provenance_id) as products"
        " from references_ r where field = %s and rcid = %s and fid = %s and vbest > 0 and status = 1",
        (field, rcid, fid),
    )
    if row is None:
        raise ReferenceMissing(f"no usable reference for field {field}, filter {fid}", rcid=rcid)
    return row


def inputs(dsn: str, field: int, rcid: int, fid: int, before_jd: float | None = None) -> list[dict[str, Any]]:
    """Science images from which a reference of this field, channel and filter can be made.

    Returns
    -------
    list of dict
        One row per served image with status 1, oldest first: product_id, provenance_id, exposure, dataset, path, infobits,
        obsjd and everything in its ``meta`` (seeing, magzp, maglimit, ... as the science step wrote it).
    """
    query = """
        select p.product_id, p.provenance_id, p.exposure, p.dataset, p.path, p.infobits, e.obsjd, p.meta
        from products p join exposures e using (exposure)
        where p.field = %(field)s and p.rcid = %(rcid)s and p.fid = %(fid)s and p.kind = 'sciimg' and p.vbest > 0
            and p.status = 1 and (%(jd)s::float8 is null or e.obsjd < %(jd)s)
        order by e.obsjd, p.product_id"""
    found = fetch_all(dsn, query, {"field": field, "rcid": rcid, "fid": fid, "jd": before_jd})
    return [{**(row.pop("meta") or {}), **row} for row in found]


def wanted(dsn: str, minimum: int, nid: int | None = None, nights: int = 1) -> list[dict[str, Any]]:
    """Fields, channels and filters with enough good images and no usable reference (or one to be remade), newest first.

    Those whose images are the very ones of the last attempt (`note_try`) would give the same again and are left out.

    Parameters
    ----------
    dsn : str
    minimum : int
        Smallest number of images that a reference needs.
    nid : int, optional
        Only those that were observed in this night, or in the nights before it:
    nights : int
        How many nights, `nid` included, count.

    Returns
    -------
    list of dict
        field, rcid, fid, n (images), the last observed first.
    """
    query = """
        with images as (
            select p.field, p.rcid, p.fid, count(*)::int as n, max(p.product_id) as last_input, max(p.nid) as night,
                max(p.expid) as newest
            from products p
            where p.kind = 'sciimg' and p.vbest > 0 and p.status = 1 and (%(nid)s::int is null or (p.field, p.rcid, p.fid) in (
                select s.field, s.rcid, s.fid from products s where s.kind = 'sciimg' and s.vbest > 0 and s.status = 1
                    and s.nid between %(nid)s - %(nights)s + 1 and %(nid)s))
            group by p.field, p.rcid, p.fid having count(*) >= %(minimum)s)
        select i.field, i.rcid, i.fid, i.n from images i
        where not exists (
                select 1 from references_ r where r.field = i.field and r.rcid = i.rcid and r.fid = i.fid
                    and r.vbest > 0 and r.status = 1 and not r.regenerate)
            and not exists (
                select 1 from reference_tries t where t.field = i.field and t.rcid = i.rcid and t.fid = i.fid
                    and t.inputs = i.n and t.last_input = i.last_input)
        order by i.night desc, i.newest desc nulls last, i.field, i.rcid, i.fid"""
    return fetch_all(dsn, query, {"minimum": minimum, "nid": nid, "nights": nights})


def note_try(
    dsn: str,
    field: int,
    rcid: int,
    fid: int,
    available: Sequence[Mapping[str, Any]],
    reason: str,
    rejected: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Note an attempt at a reference: from which images (rows of `inputs`), which were left out, why there is none, if so."""
    values = {
        "field": field,
        "rcid": rcid,
        "fid": fid,
        "inputs": len(available),
        "last_input": max((int(row["product_id"]) for row in available), default=0),
        "reason": reason or None,
        "rejected": psycopg2.extras.Json(list(rejected)),
    }
    with transaction(dsn) as cursor:
        insert(
            cursor,
            "reference_tries",
            values,
            "on conflict (field, rcid, fid) do update set inputs = excluded.inputs, last_input = excluded.last_input,"
            " reason = excluded.reason, rejected = excluded.rejected, tried = now()",
        )


def want_again(
    dsn: str, reference_id: int, reason: str, origin: str = "defective input", who: str = "verdict", priority: int = 3
) -> None:
    """Put a reference into the queue of those to be made anew, once; it is used until the new one is there.

    Parameters
    ----------
    dsn : str
    reference_id : int
    reason : str
        One line.
    origin, who, priority
        See `ztfds.registry.reference_queue.Wish`.
    """
    with transaction(dsn) as cursor:
        statement = "update references_ set reason = %s where reference_id = %s returning field, rcid, fid"
        for row in rows(cursor, statement, (reason, reference_id)):
            enqueue(cursor, row["field"], row["rcid"], row["fid"], Wish(origin, reason, who, priority, reference_id))
        cursor.execute(
            "update reference_tries t set inputs = 0 from references_ r where r.reference_id = %s"
            " and (t.field, t.rcid, t.fid) = (r.field, r.rcid, r.fid)",
            (reference_id,),
        )
