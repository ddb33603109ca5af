"""Quality metrics as they are asked for: per execution, per exposure, per night."""

from __future__ import annotations

from typing import Any

from ztfds.registry.database import fetch_all


def of_provenance(dsn: str, provenance_id: str) -> dict[str, float | None]:
    """Metrics of one execution of a step, by name."""
    query = "select name, value from qa_metrics where provenance_id = %s order by name"
    return {row["name"]: row["value"] for row in fetch_all(dsn, query, (provenance_id,))}


def of_exposure(dsn: str, exposure: str) -> list[dict[str, Any]]:
    """All metrics of an exposure: rows of step, rcid, name, value; of the served versions only."""
    query = """
        select q.step, q.rcid, q.name, q.value from qa_metrics q
        where q.exposure = %s and exists (
            select 1 from products p where p.provenance_id = q.provenance_id and p.vbest > 0)
        order by q.step, q.rcid, q.name"""
    return fetch_all(dsn, query, (exposure,))


def of_night(dsn: str, nid: int, step: str | None = None) -> list[dict[str, Any]]:
    """Metrics of a night: rows of step, exposure, rcid, fid, name, value; of the served versions only."""
    query = """
        select q.step, q.exposure, q.rcid, q.fid, q.name, q.value from qa_metrics q
        where q.nid = %(nid)s and (%(step)s::text is null or q.step = %(step)s) and exists (
            select 1 from products p where p.provenance_id = q.provenance_id and p.vbest > 0)
        order by q.step, q.exposure, q.rcid, q.name"""
    return fetch_all(dsn, query, {"nid": nid, "step": step})
