"""The pages *Reprocessing*: all requests with their progress; one request with its files and the figures before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ztfds.operations.control import reprocessing
from ztfds.operations.pages.render import page
from ztfds.registry import database
from ztfds.survey.errors import FilesMissing

_REQUESTS = """
    select r.*, n.total, n.finished, n.failed from reprocessing_requests r
      left join lateral (select count(*) as total, count(*) filter (where state not in ('waiting', 'running')) as finished,
                                count(*) filter (where state = 'failed') as failed
                           from reprocessing_items i where i.request_id = r.request_id) n on true
     order by r.request_id desc limit 200"""
_ITEMS = """
    select filename, exposure, state, reason, started, ended from reprocessing_items where request_id = %s
     order by state = 'failed' desc, ended desc nulls last limit 200"""
ACTIONS = {
    "waiting": ("pause", "cancel"),
    "running": ("pause", "cancel"),
    "paused": ("resume", "cancel", "roll_back"),
    "done": ("roll_back",),
    "cancelled": ("roll_back",),
    "rolled_back": (),
}
"""What can be done with a request, by its state."""
PLOTTED = 12
"""Figures that are plotted, new against old."""
SIDE = 120
COMPARED_FILES = 30
"""Files whose figures are compared; of a larger request an even choice."""


def reprocessing_page(dsn: str) -> str:
    """Requests, the newest first."""
    return page("reprocessing", requests=database.fetch_all(dsn, _REQUESTS))


def request_page(dsn: str, request_id: int) -> str:
    """One request; raises `FilesMissing` for an unknown one."""
    with database.session(dsn):
        found = [row for row in database.fetch_all(dsn, _REQUESTS) if row["request_id"] == request_id]
        items = database.fetch_all(dsn, _ITEMS, (request_id,))
    compared = reprocessing.compare(dsn, request_id, COMPARED_FILES)
    if not found:
        raise FilesMissing(f"there is no reprocessing request {request_id}")
    plots = [(row["name"], scatter(row["old_values"], row["new_values"])) for row in compared[:PLOTTED]]
    return page(
        "request",
        r=found[0],
        actions=ACTIONS[found[0]["state"]],
        items=items,
        compared=compared,
        plots=plots,
        most=COMPARED_FILES,
    )


def scatter(old: Sequence[float], new: Sequence[float]) -> dict[str, Any]:
    """Places of dots (px, origin at the top left) of new against old values on one common scale."""
    values = [*old, *new]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = max(1, len(old) // 500)
    dots = [
        (round(4 + (SIDE - 8) * (a - low) / span, 1), round(SIDE - 4 - (SIDE - 8) * (b - low) / span, 1))
        for a, b in list(zip(old, new, strict=True))[::step]
    ]
    return {"dots": dots, "low": low, "high": high, "side": SIDE}
