"""The page *Drills*: the last score of every contingency, and earlier ones."""

from __future__ import annotations

from ztfds.operations.pages.render import page
from ztfds.registry import database

_LATEST = "select distinct on (name) * from drills order by name, began desc"
_BEFORE = "select * from drills order by began desc limit 100"


def drills_page(dsn: str) -> str:
    """Files and alerts lost, alerts doubled, time to recover, alarms raised."""
    with database.transaction(dsn) as cursor:
        latest, before = (database.rows(cursor, query) for query in (_LATEST, _BEFORE))
    return page("drills", latest=sorted(latest, key=lambda row: (row["passed"], row["name"])), before=before)
