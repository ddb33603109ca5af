"""The page *Changes*: which settings run, and every change that was ever proposed with its validation and decision."""

from __future__ import annotations

from ztfds.operations.pages.render import page
from ztfds.registry import database

_CHANGES = "select * from setting_changes order by change_id desc limit 200"
_APPROVED = "select settings_hash, change_id, software, approved_by, approved from approved_settings order by approved desc limit 50"


def changes_page(dsn: str) -> str:
    """Changes, the newest first; approved settings."""
    with database.session(dsn):
        changes, approved = database.fetch_all(dsn, _CHANGES), database.fetch_all(dsn, _APPROVED)
    return page("changes", changes=changes, approved=approved)
