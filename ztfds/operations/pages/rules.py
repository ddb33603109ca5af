"""The page *Rules*: what starts what, which work comes first, and every version that was in force."""

from __future__ import annotations

from ztfds.config.triggers import EVENTS
from ztfds.operations.control import triggers
from ztfds.operations.pages.render import page
from ztfds.registry import database

_VERSIONS = "select version, author, reason, created, differences from trigger_rules order by version desc limit 100"


def rules_page(dsn: str) -> str:
    """The rules in force in the order in which they act, then the history."""
    with database.session(dsn):
        versions = database.fetch_all(dsn, _VERSIONS)
        rules = triggers.rules_in_force(dsn)
    return page(
        "rules",
        words={event.name: event.words for event in EVENTS},
        triggers=sorted(rules.triggers, key=lambda rule: (rule.event == "night_settled", rule.order)),
        works=sorted(rules.works, key=lambda work: -work.weight),
        doubts=triggers.doubts(rules),
        versions=versions,
    )
