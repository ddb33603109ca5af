"""The queue of references to be made anew, with reasons; retirement of a reference, with everything that depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ztfds.registry.database import Cursor, fetch_all, fetch_one, insert, rows, transaction
from ztfds.survey.errors import NoWork

ORIGINS = ("operator", "bad differences", "defective input", "failed quality", "better inputs", "retired")
RETIRED = "reference retired"


@dataclass(frozen=True)
class Wish:
    """Who wants a reference made, and why.

    Attributes
    ----------
    origin : str
        One of `ORIGINS`.
    reason : str
        One line.
    who : str
        A person, or the rule that asked.
    priority : int
        Larger ones come first.
    reference_id : int or None
        The one that is to be replaced.
    """

    origin: str
    reason: str
    who: str
    priority: int = 0
    reference_id: int | None = None


def enqueue(cursor: Cursor, field: int, rcid: int, fid: int, wish: Wish) -> int:
    """Put a reference into the queue; one that waits already stays, with the higher priority and both reasons.

    Returns
    -------
    int
        queue_id.
    """
    row = insert(
        cursor,
        "reference_queue",
        {"field": field, "rcid": rcid, "fid": fid, **vars(wish)},
        "on conflict (field, rcid, fid) where state in ('queued', 'running') do update set"
        " priority = greatest(reference_queue.priority, excluded.priority),"
        " reason = case when position(excluded.reason in reference_queue.reason) > 0 then reference_queue.reason"
        " else left(reference_queue.reason || '; ' || excluded.reason, 500) end returning queue_id",
    )
    assert row is not None
    cursor.execute(
        "update references_ set regenerate = true where field = %s and rcid = %s and fid = %s and vbest > 0",
        (field, rcid, fid),
    )
    return int(row["queue_id"])


def waiting(dsn: str, most: int = 100_000) -> list[dict[str, Any]]:
    """What is queued, the next first: rows of ``reference_queue``; what a killed run left running counts as queued."""
    query = (
        "select * from reference_queue where state = 'queued' or (state = 'running' and started < now() - interval"
        " '6 hours') order by priority desc, created, queue_id limit %s"
    )
    return fetch_all(dsn, query, (most,))


def start(dsn: str, field: int, rcid: int, fid: int) -> int | None:
    """Mark the entry of a reference as running; its queue_id, None where nothing waits."""
    statement = (
        "update reference_queue set state = 'running', started = now() where field = %s and rcid = %s and fid = %s"
        " and state in ('queued', 'running') returning queue_id"
    )
    with transaction(dsn) as cursor:
        found = rows(cursor, statement, (field, rcid, fid))
    return int(found[0]["queue_id"]) if found else None


def finish(dsn: str, queue_id: int, state: str, outcome: str, made_id: int | None = None) -> None:
    """Close an entry with one line: ``done``, ``failed`` or ``refused``; the reference waits no longer."""
    with transaction(dsn) as cursor:
        found = rows(
            cursor,
            "update reference_queue set state = %s, outcome = left(%s, 500), made_id = %s, finished = now()"
            " where queue_id = %s returning field, rcid, fid",
            (state, outcome, made_id, queue_id),
        )
        for row in found:
            cursor.execute(
                "update references_ set regenerate = false where field = %(field)s and rcid = %(rcid)s and fid = %(fid)s",
                row,
            )


def latest(dsn: str, most: int = 200) -> list[dict[str, Any]]:
    """The queue as a page shows it: what runs and waits first, then what was finished last."""
    query = (
        "select q.*, r.version as made_version from reference_queue q left join references_ r on r.reference_id = q.made_id"
        " order by q.state not in ('queued', 'running'), case when q.state in ('queued', 'running') then -q.priority end,"
        " coalesce(q.finished, q.created) desc limit %s"
    )
    return fetch_all(dsn, query, (most,))


# -- rules that fill the queue -----------------------------------------------------------------------------------------


def with_bad_differences(dsn: str, reasons: str, bad: int, last: int) -> list[dict[str, Any]]:
    """Served references of whose last differences several were bad for reasons that point at the reference.

    Parameters
    ----------
    dsn : str
    reasons : str
        Regular expression that a telling reason of a bad difference matches.
    bad, last : int
        At least so many of the last so many differences.

    Returns
    -------
    list of dict
        reference_id, rfid, field, rcid, fid, bad, n, reason (the latest one). Those queued already are left out.
    """
    query = """
        with recent as (
            select r.reference_id, r.rfid, r.field, r.rcid, r.fid, d.status, d.reason, d.jd,
                row_number() over (partition by r.reference_id order by d.jd desc) as age
            from references_ r join diffimages d using (reference_id) where r.vbest > 0 and r.status = 1)
        select reference_id, rfid, field, rcid, fid, count(*)::int as n,
            (count(*) filter (where status <> 1 and reason ~ %(reasons)s))::int as bad,
            (array_agg(reason order by jd desc) filter (where status <> 1 and reason ~ %(reasons)s))[1] as reason
        from recent where age <= %(last)s and not exists (
            select 1 from reference_queue q where (q.field, q.rcid, q.fid) = (recent.field, recent.rcid, recent.fid)
                and (q.state in ('queued', 'running') or (q.reference_id = recent.reference_id
                    and q.origin = 'bad differences' and q.finished > now() - interval '7 days')))
        group by 1, 2, 3, 4, 5
        having count(*) filter (where status <> 1 and reason ~ %(reasons)s) >= %(bad)s order by 3, 4, 5"""
    return fetch_all(dsn, query, {"reasons": reasons, "bad": bad, "last": last})


def failed_with_newer_inputs(dsn: str) -> list[dict[str, Any]]:
    """Failed references for which usable images exist that no attempt has seen: reference_id, field, rcid, fid, reason, newer."""
    query = """
        select r.reference_id, r.field, r.rcid, r.fid, r.reason, count(p.product_id)::int as newer
        from references_ r join reference_tries t using (field, rcid, fid)
        join products p on (p.field, p.rcid, p.fid) = (r.field, r.rcid, r.fid) and p.kind = 'sciimg' and p.vbest > 0
            and p.status = 1 and p.product_id > t.last_input
        where r.vbest > 0 and r.status = 0 and not exists (select 1 from reference_queue q
            where (q.field, q.rcid, q.fid) = (r.field, r.rcid, r.fid) and q.state in ('queued', 'running'))
        group by 1, 2, 3, 4, 5 order by 2, 3, 4"""
    return fetch_all(dsn, query)


def with_new_inputs(dsn: str, nid: int) -> list[dict[str, Any]]:
    """Served, unlocked references of which good images were taken in a night: reference_id, field, rcid, fid."""
    query = """
        select r.reference_id, r.field, r.rcid, r.fid from references_ r
        where r.vbest = 1 and r.status = 1 and exists (select 1 from products p where p.kind = 'sciimg' and p.nid = %s
            and p.vbest > 0 and p.status = 1 and (p.field, p.rcid, p.fid) = (r.field, r.rcid, r.fid))
            and not exists (select 1 from reference_queue q where (q.field, q.rcid, q.fid) = (r.field, r.rcid, r.fid)
                and q.state in ('queued', 'running'))
        order by 2, 3, 4"""
    return fetch_all(dsn, query, (nid,))


def members(dsn: str, reference_id: int) -> list[dict[str, Any]]:
    """The images in a reference: product_id, exposure, and everything in the product's ``meta``."""
    query = (
        "select m.product_id, m.exposure, p.status, p.meta from reference_members m join products p using (product_id)"
        " where m.reference_id = %s order by m.product_id"
    )
    return [{**(row.pop("meta") or {}), **row} for row in fetch_all(dsn, query, (reference_id,))]


def holding(cursor: Cursor, product_id: int) -> list[dict[str, Any]]:
    """Served references that an image is in: reference_id, field, rcid, fid."""
    query = (
        "select r.reference_id, r.field, r.rcid, r.fid from references_ r join reference_members m using (reference_id)"
        " where m.product_id = %s and r.vbest > 0"
    )
    return rows(cursor, query, (product_id,))


# -- retirement --------------------------------------------------------------------------------------------------------

_TREE = """
    with recursive tree as (
        select p.product_id from products p join references_ r using (provenance_id) where r.reference_id = %(reference)s
        union
        select c.product_id from product_parents c join tree t on c.parent_id = t.product_id)
    select p.product_id, p.kind, p.step, p.nid, p.exposure, p.vbest from products p
    where p.product_id = any(array(select product_id from tree))
      and p.provenance_id <> (select provenance_id from references_ where reference_id = %(reference)s)"""


def find(dsn: str, rfid: int, version: int | None = None) -> dict[str, Any]:
    """The row of a reference: of the version asked for, else the served one, else the newest.

    Raises
    ------
    NoWork
        There is none.
    """
    row = fetch_one(
        dsn,
        "select * from references_ where rfid = %s and (%s::int is null or version = %s)"
        " order by vbest > 0 desc, version desc limit 1",
        (rfid, version, version),
    )
    if row is None:
        raise NoWork(f"there is no reference {rfid}" + (f" of version {version}" if version else ""))
    return row


def dependants(dsn: str, reference_id: int) -> dict[str, Any]:
    """Everything that was made with a reference.

    Returns
    -------
    dict
        ``products``: number by kind (served ones apart); ``differences``, ``candidates``, ``alerts``, ``sent``: numbers;
        ``nights``: list of {nid, differences, candidates, alerts}.
    """
    with transaction(dsn) as cursor:
        return _dependants(cursor, reference_id)


def _dependants(cursor: Cursor, reference_id: int) -> dict[str, Any]:
    where = {"reference": reference_id}
    kinds = rows(
        cursor,
        f"select kind, count(*)::int as n, (count(*) filter (where vbest > 0))::int as served from ({_TREE}) found"
        " group by kind order by kind",
        where,
    )
    nights = rows(
        cursor,
        "select d.nid, count(*)::int as differences, coalesce(sum(d.ncandidates), 0)::int as candidates,"
        " coalesce(sum(d.nalertpackets), 0)::int as alerts from diffimages d where d.reference_id = %(reference)s"
        " group by 1 order by 1",
        where,
    )
    sent = rows(
        cursor,
        "select count(*)::int as n from alert_outbox o join diffimages d on d.exposure = o.exposure and d.rcid = o.rcid"
        " where d.reference_id = %(reference)s and o.state = 'sent'",
        where,
    )
    total = {name: sum(int(night[name]) for night in nights) for name in ("differences", "candidates", "alerts")}
    return {"products": kinds, "nights": nights, "sent": sent[0]["n"], **total}


def retire(dsn: str, reference_id: int, reason: str, who: str) -> dict[str, Any]:
    """Take a reference out of service: list and mark its dependants, serve it no more, queue a new one; all or nothing.

    Returns
    -------
    dict
        retirement_id, queue_id, marked, and what `dependants` tells.

    Raises
    ------
    NoWork
        It is retired already.
    """
    with transaction(dsn) as cursor:
        (row,) = rows(cursor, "select * from references_ where reference_id = %s for update", (reference_id,))
        if row["retired"]:
            raise NoWork(f"reference {row['rfid']} version {row['version']} is retired already")
        summary = _dependants(cursor, reference_id)
        values = {"reference_id": reference_id, "reason": reason, "who": who, "served": row["vbest"]}
        made = insert(
            cursor,
            "reference_retirements",
            {**values, "status": row["status"], "summary": summary},
            "returning retirement_id",
        )
        assert made is not None
        cursor.execute(
            f"insert into product_marks (product_id, retirement_id, mark) select product_id, %(retirement)s, %(mark)s"
            f" from ({_TREE}) found",
            {"reference": reference_id, "retirement": made["retirement_id"], "mark": RETIRED},
        )
        marked = cursor.rowcount
        cursor.execute(
            "update references_ set retired = true, vbest = 0, status = 0, regenerate = false,"
            " reason = left('retired: ' || %s, 500) where reference_id = %s",
            (reason, reference_id),
        )
        cursor.execute("update products set vbest = 0, status = 0 where provenance_id = %s", (row["provenance_id"],))
        wish = Wish("retired", f"version {row['version']} was retired: {reason}", who, 5, reference_id)
        queued = enqueue(cursor, row["field"], row["rcid"], row["fid"], wish)
        return {"retirement_id": made["retirement_id"], "queue_id": queued, "marked": marked, **summary}


def unretire(dsn: str, reference_id: int, reason: str, who: str) -> dict[str, Any]:
    """Undo a retirement: marks removed, status and service as before (unless a newer reference serves by now).

    Returns
    -------
    dict
        unmarked, and served: vbest now.

    Raises
    ------
    NoWork
        It is not retired.
    """
    with transaction(dsn) as cursor:
        found = rows(
            cursor,
            "update reference_retirements set undone = now(), undone_by = %s, undone_reason = %s"
            " where reference_id = %s and undone is null returning *",
            (who, reason, reference_id),
        )
        if not found:
            raise NoWork("the reference is not retired")
        before = found[0]
        cursor.execute("delete from product_marks where retirement_id = %s", (before["retirement_id"],))
        unmarked = cursor.rowcount
        (row,) = rows(cursor, "select * from references_ where reference_id = %s for update", (reference_id,))
        where = (row["field"], row["rcid"], row["fid"])
        other = rows(
            cursor,
            "select 1 from references_ where field = %s and rcid = %s and fid = %s and vbest > 0 for update",
            where,
        )
        served = 0 if other else before["served"]
        cursor.execute(
            "update references_ set retired = false, status = %s, vbest = %s, reason = %s where reference_id = %s",
            (before["status"], served, None if before["status"] == 1 else row["reason"], reference_id),
        )
        cursor.execute(
            "update products set vbest = %s, status = %s where provenance_id = %s",
            (served, before["status"], row["provenance_id"]),
        )
        cursor.execute(
            "update reference_queue set state = 'refused', outcome = 'the retirement was undone', finished = now()"
            " where reference_id = %s and origin = 'retired' and state = 'queued'",
            (reference_id,),
        )
        return {"unmarked": unmarked, "served": served}


def retirements(dsn: str, most: int = 50) -> list[dict[str, Any]]:
    """The latest retirements with rfid and version, and how many products each has marked."""
    query = (
        "select t.*, r.rfid, r.version, (select count(*) from product_marks m where m.retirement_id = t.retirement_id)::int"
        " as marked from reference_retirements t join references_ r using (reference_id) order by t.created desc limit %s"
    )
    return fetch_all(dsn, query, (most,))


def lock(dsn: str, reference_id: int, locked: bool) -> Mapping[str, Any]:
    """Lock a reference as the best (or release it), whatever newer ones there are or will be; in one transaction.

    Raises
    ------
    NoWork
        It is not usable.
    """
    with transaction(dsn) as cursor:
        (row,) = rows(cursor, "select * from references_ where reference_id = %s for update", (reference_id,))
        if row["status"] != 1 or row["retired"]:
            raise NoWork(f"reference {row['rfid']} version {row['version']} is not usable: {row['reason']}")
        where = (row["field"], row["rcid"], row["fid"])
        served = 2 if locked else 1
        others = "select provenance_id from references_ where field = %s and rcid = %s and fid = %s and vbest > 0"
        cursor.execute(f"update products set vbest = 0 where provenance_id in ({others})", where)
        cursor.execute("update references_ set vbest = 0 where field = %s and rcid = %s and fid = %s", where)
        cursor.execute("update products set vbest = %s where provenance_id = %s", (served, row["provenance_id"]))
        statement = "update references_ set vbest = %s where reference_id = %s returning *"
        return rows(cursor, statement, (served, reference_id))[0]
