"""The page *Readiness*: go or no-go for the night, with a line for every check."""

from __future__ import annotations

from ztfds.operations.day import outcomes
from ztfds.operations.pages.render import page
from ztfds.registry import database

_HISTORY = "select ended, state, line, run_id from task_outcomes where task = 'readiness' order by ended desc limit 14"


def readiness_page(dsn: str) -> str:
    """The newest readiness check, and how the last two weeks stood."""
    with database.session(dsn):
        row, history = outcomes.newest(dsn, "readiness"), database.fetch_all(dsn, _HISTORY)
    if row is None:
        return page("empty", title="Readiness", text="No readiness check has been made yet: run the DAG readiness.")
    return page("readiness", row=row, checks=row["figures"].get("checks", []), history=history)
