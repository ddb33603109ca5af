"""The page *Day tasks*: the last outcome of each task, what each said before, and a downtime that is open."""

from __future__ import annotations

from ztfds.operations.day import outcomes
from ztfds.operations.day.downtime import current
from ztfds.operations.pages.render import page
from ztfds.registry import database

SHOWN = 100


def day_page(dsn: str) -> str:
    """One line for each day task, the worst first, and the newest runs of all."""
    with database.session(dsn):
        latest, history = outcomes.latest_of_each(dsn), outcomes.recent(dsn, SHOWN)
        downtime = current(dsn)
    return page("day", latest=latest, history=history, downtime=downtime)
