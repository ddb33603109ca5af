"""The page *Day tasks*: the last outcome of each task, what each said before, and a downtime that is open."""

from __future__ import annotations

from ztfds.operations.day import outcomes
from ztfds.operations.pages.render import page
from ztfds.registry import database

_DOWNTIME = "select * from downtimes where released is null and (ends is null or ends > now())"
SHOWN = 100


def day_page(dsn: str) -> str:
    """One line for each day task, the worst first, and the newest runs of all."""
    with database.session(dsn):
        latest, history = outcomes.latest_of_each(dsn), outcomes.recent(dsn, SHOWN)
        downtime = database.fetch_one(dsn, _DOWNTIME)
    return page("day", latest=latest, history=history, downtime=downtime)
