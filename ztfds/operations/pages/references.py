"""The page *References*: which there are, which failed, what waits to be made anew and why, what was retired; one in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ztfds.operations.pages.render import page
from ztfds.reference.quality import METRICS
from ztfds.registry import database, qa, reference_queue
from ztfds.survey.errors import FilesMissing
from ztfds.survey.limits import reference_limits

SHOWN_FIELDS = 200
"""Fields and filters in the table, those with failures first."""

_COUNTS = """
    select field, fid, count(*) filter (where status = 1) as good, count(*) filter (where status <> 1) as failed,
           count(*) filter (where regenerate) as queued, min(nframes) as frames_low, max(nframes) as frames_high,
           avg(maglimit) filter (where status = 1) as maglimit, avg(fwhm_px) filter (where status = 1) as fwhm_px
      from references_ where vbest > 0 group by 1, 2 order by 1, 2"""
_REMARKED = """
    select field, fid, count(*) filter (where remarks is not null and status = 1) as n from references_
     where vbest > 0 and (status <> 1 or regenerate or remarks is not null) group by 1, 2"""
_LOOK = """
    select reference_id, rfid, field, rcid, fid, version, status, coalesce(remarks, reason) as reason, nframes, maglimit,
           regenerate, created from references_
     where vbest > 0 and (status <> 1 or regenerate or remarks is not null)
     order by regenerate desc, status, created desc limit 200"""
_TRIES = """
    select t.field, t.rcid, t.fid, t.inputs, t.reason, t.tried, t.rejected from reference_tries t
     where t.reason is not null and not exists (
        select 1 from references_ r where (r.field, r.rcid, r.fid) = (t.field, t.rcid, t.fid) and r.vbest > 0)
     order by t.tried desc limit 200"""
_VERSIONS = """
    select reference_id, version, vbest, status, retired, nframes, fwhm_px, maglimit, created, coalesce(remarks, reason) as reason
      from references_ where rfid = %(rfid)s order by version desc"""

_ALL = """
    select reference_id, rfid, field, rcid, fid, version, status, coalesce(remarks, reason) as reason, regenerate from references_
     where vbest > 0 and field = %s and fid = %s order by rcid"""
DECISIONS = {
    "retire": "retire it: mark all dependants, serve it no more, queue a new one",
    "undo": "take its retirement back",
    "lock": "lock it: serve this version whatever newer ones there are",
    "release": "release it: newer ones may replace it again",
}
"""What the form can ask for, in words."""


def references_page(dsn: str, field: int | None = None, fid: int | None = None) -> str:
    """Counts by field and filter, the queue, those that failed or wait, retirements, and those that could not be made yet.

    With a field and a filter, all references of these that are served come first.
    """
    with database.transaction(dsn) as cursor:
        counts, look, tries = (database.rows(cursor, query) for query in (_COUNTS, _LOOK, _TRIES))
        remarked = {(row["field"], row["fid"]): row["n"] for row in database.rows(cursor, _REMARKED)}
        chosen = database.rows(cursor, _ALL, (field, fid)) if field is not None and fid is not None else []
    for row in tries:
        row["why"] = _grouped(row["rejected"] or [])
    for row in counts:
        row["remarked"] = remarked.get((row["field"], row["fid"]), 0)
    retired, queue = reference_queue.retirements(dsn), reference_queue.latest(dsn, 100)
    return page(
        "references",
        counts=sorted(counts, key=_urgency)[:SHOWN_FIELDS],
        totals=_totals(counts),
        n_fields=len(counts),
        look=look,
        chosen=chosen,
        tries=tries,
        queue=queue,
        retired=retired,
    )


def _urgency(row: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Fields with failures and wishes come first."""
    return -row["failed"], -row["queued"], row["field"], row["fid"]


def _totals(counts: Sequence[Mapping[str, Any]]) -> list[dict[str, int]]:
    """References of all fields by filter."""
    names = ("good", "remarked", "failed", "queued")
    return [
        {"fid": fid, "fields": len(own), **{name: sum(row[name] for row in own) for name in names}}
        for fid in sorted({row["fid"] for row in counts})
        if (own := [row for row in counts if row["fid"] == fid])
    ]


def _grouped(rejected: list[dict[str, Any]]) -> str:
    """Reasons why images were left out, in one line: how many for each kind of reason, and one example."""
    kinds: dict[str, list[str]] = {}
    for row in rejected:
        kinds.setdefault(str(row["reason"]).split(" is ")[0], []).append(str(row["reason"]))
    return "; ".join(f"{len(texts)} × {texts[0]}" for texts in sorted(kinds.values(), key=len, reverse=True))


def reference_page(dsn: str, reference_id: int) -> str:
    """One reference: every metric with unit, meaning and limit; inputs, images left out with reasons, versions, dependants.

    Raises
    ------
    FilesMissing
        There is none of this id.
    """
    row = database.fetch_one(dsn, "select * from references_ where reference_id = %s", (reference_id,))
    if row is None:
        raise FilesMissing(f"there is no reference with the id {reference_id}")
    return page(
        "reference",
        row=row,
        metrics=_metrics(qa.of_provenance(dsn, row["provenance_id"]), row["limits_version"]),
        members=reference_queue.members(dsn, reference_id),
        rejected=row["rejected"] or [],
        versions=database.fetch_all(dsn, _VERSIONS, row),
        found=reference_queue.dependants(dsn, reference_id),
        actions=_actions(row),
        decisions=DECISIONS,
    )


def _actions(row: dict[str, Any]) -> list[str]:
    """What can be decided about a reference as it is."""
    if row["retired"]:
        return ["undo"]
    return ["retire", {1: "lock", 2: "release"}.get(row["vbest"], "lock")]


def _metrics(values: dict[str, float | None], version: int | None) -> list[dict[str, Any]]:
    """Rows of name, value, unit, meaning, limits in words, and whether one is broken."""
    out = []
    rules = reference_limits("quality", version)
    for name, (unit, meaning) in METRICS.items():
        own = [rule for rule in rules if rule.name == name]
        value = values.get(name)
        broken = value is not None and any(rule.broken(value) for rule in own)
        out.append({"name": name, "value": value, "unit": unit, "meaning": meaning, "broken": broken,
                    "limit": "; ".join(_bound(rule) for rule in own)})  # fmt: skip
    return out


def _bound(rule: Any) -> str:
    """A rule as a page shows it: what is allowed."""
    fatal = "" if rule.fatal else " (remark)"
    if rule.comparison == "outside":
        return f"{rule.limit:g} to {rule.upper:g}{fatal}"
    area = " on a full quadrant" if rule.per_area else ""
    return f"{'≤' if rule.comparison == '>' else '≥'} {rule.limit:g}{area}{fatal}"
