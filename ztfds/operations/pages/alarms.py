"""The page *Alarms*: what is wrong now, what was, which rules say so; and the figures for Prometheus."""

from __future__ import annotations

from ztfds.operations.pages.render import page
from ztfds.operations.watch import alarms, metrics, rounds
from ztfds.operations.watch.metrics import Metric
from ztfds.registry import database

_OPEN = "select * from alarms where cleared is null order by severity, raised"
_BEFORE = "select * from alarms where cleared is not null order by cleared desc limit 100"
_ROUND = "select at, metrics, extract(epoch from now() - at) as age_s from watch_rounds"
_VERSION = "select version, author, reason, created from alarm_rules order by version desc limit 1"


def alarms_page(dsn: str) -> str:
    """Open alarms first; a watch that is blind is said above all."""
    with database.session(dsn):
        open_, before = database.fetch_all(dsn, _OPEN), database.fetch_all(dsn, _BEFORE)
        last, version = database.fetch_one(dsn, _ROUND), database.fetch_one(dsn, _VERSION)
        rules = alarms.rules_in_force(dsn).rules
    return page(
        "alarms",
        open=open_,
        before=before,
        rules=rules,
        version=version,
        age_s=last["age_s"] if last else None,
        blind=last is None or last["age_s"] > rounds.BLIND_AFTER_S,
        values=values(last["metrics"] if last else []),
        runbook=alarms.runbook(),
    )


def values(kept: list[dict[str, object]]) -> dict[str, str]:
    """The last value of each figure, by name, in words."""
    found: dict[str, list[str]] = {}
    for entry in kept:
        subject = f"{entry['subject']} " if entry["subject"] else ""
        found.setdefault(str(entry["name"]), []).append(f"{subject}{float(str(entry['value'])):.4g}")
    return {name: ", ".join(parts) for name, parts in found.items()}


def exposition(dsn: str) -> str:
    """The figures of the last round in the text format of Prometheus."""
    last = database.fetch_one(dsn, _ROUND)
    if last is None:
        return metrics.prometheus([], 0.0)
    found = [Metric(entry["name"], float(entry["value"]), entry["subject"]) for entry in last["metrics"]]
    return metrics.prometheus(found, last["at"].timestamp())
