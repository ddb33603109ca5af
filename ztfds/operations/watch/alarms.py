"""From figures to alarms: which rules are broken for how long, raised and cleared once, kept in the database, told to people."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from ztfds.config.alarms import AlarmRule, AlarmRules
from ztfds.operations.control.versions import Book
from ztfds.operations.watch.metrics import Metric
from ztfds.registry import database
from ztfds.survey.errors import ConfigurationError

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Rule and subject of an alarm."""
RUNBOOK = "docs/operations/alarms.md"


@lru_cache(maxsize=1)
def runbook() -> dict[str, str]:
    """What to do about each alarm, by the name of its rule: the sections of the runbook; none where it was not installed."""
    package = Path(__file__).resolve().parents[2]
    for path in (package / "runbook" / "alarms.md", package.parent / RUNBOOK):
        if path.is_file():
            parts = re.split(r"^## ([a-z0-9_]+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            return {
                name: " ".join(text.replace("`", "").split())
                for name, text in zip(parts[1::2], parts[2::2], strict=True)
            }
    return {}


@dataclass(frozen=True)
class Alarm:
    """A rule that is broken.

    Attributes
    ----------
    rule, subject, severity, message : str
    value : float
        The figure.
    since : float
        Since when it is on the wrong side, Unix time, s.
    """

    rule: str
    subject: str
    severity: str
    message: str
    value: float
    since: float

    @property
    def key(self) -> Key:
        """Rule and subject."""
        return self.rule, self.subject


@dataclass
class Judge:
    """Applies the rules round by round.

    Attributes
    ----------
    rules : AlarmRules
    broken : dict of (rule, subject) to float
        Since when each is broken without a break, Unix time, s.
    """

    rules: AlarmRules = field(default_factory=AlarmRules)
    broken: dict[Key, float] = field(default_factory=dict)

    def judge(self, metrics: Iterable[Metric], now: float) -> list[Alarm]:
        """The alarms of this moment. A figure that was not measured in this round neither raises nor clears one."""
        by_name: dict[str, list[Metric]] = {}
        for metric in metrics:
            by_name.setdefault(metric.name, []).append(metric)
        alarms, measured = [], set()
        for rule in self.rules.rules:
            for metric in by_name.get(rule.metric, ()):
                measured.add((rule.name, metric.subject))
                if alarm := self._broken(rule, metric, now):
                    alarms.append(alarm)
        self.measured = measured
        self.known = {rule.name for rule in self.rules.rules}
        return alarms

    measured: set[Key] = field(default_factory=set)
    """What the last round could judge."""
    known: set[str] = field(default_factory=set)
    """Names of the rules of the last round."""

    def _broken(self, rule: AlarmRule, metric: Metric, now: float) -> Alarm | None:
        """The alarm of one figure, once it has been on the wrong side for long enough."""
        key = (rule.name, metric.subject)
        if not rule.broken_by(metric.value):
            self.broken.pop(key, None)
            return None
        since = self.broken.setdefault(key, now)
        if now - since < rule.hold_s:
            return None
        message = rule.words.format(value=metric.value, subject=metric.subject)
        return Alarm(rule.name, metric.subject, rule.severity, message, metric.value, since)


BOOK = Book("alarm_rules", "alarm rules", AlarmRules)


def rules_in_force(dsn: str) -> AlarmRules:
    """The newest version of the rules; without any, those that a survey begins with.

    Raises
    ------
    ConfigurationError
        What is in the database is not a set of rules.
    """
    return BOOK.in_force(dsn)


def amend_rules(dsn: str, changed: list[Any], dropped: list[str], author: str, reason: str) -> str:
    """Put a version in force that differs from the present one in some rules; returns one line about it.

    Raises
    ------
    ConfigurationError
        A rule is not valid, a dropped one does not exist, nothing would change, or author or reason are missing.
    """
    before = {rule.name: rule.model_dump(mode="json") for rule in rules_in_force(dsn).rules}
    named = {str(rule.get("name")): rule for rule in changed if isinstance(rule, dict)}
    if len(named) < len(changed):
        raise ConfigurationError("every rule is an object with a name of its own")
    if unknown := [name for name in dropped if name not in before]:
        raise ConfigurationError(f"there is no rule {', '.join(unknown)}")
    after = {name: rule for name, rule in {**before, **named}.items() if name not in dropped}
    if after == before:
        raise ConfigurationError("nothing would change")
    version = BOOK.keep(dsn, BOOK.parse({"rules": list(after.values())}), author, reason)
    return f"version {version}: {len(named)} new or different, {len(dropped)} dropped, {len(after)} in force"


def store(dsn: str, alarms: Iterable[Alarm], judge: Judge, now: float) -> None:
    """Raise what is new, refresh what goes on, clear what is over: of what the judge's last round could judge, or whose rule is gone."""
    at, present = datetime.fromtimestamp(now, UTC), {alarm.key: alarm for alarm in alarms}
    with database.transaction(dsn) as cursor:
        open_ = {
            (row["rule"], row["subject"]): row["alarm_id"]
            for row in database.rows(cursor, "select alarm_id, rule, subject from alarms where cleared is null")
        }
        for key, alarm in present.items():
            if key in open_:
                statement = "update alarms set last_seen = %s, value = %s, message = %s where alarm_id = %s"
                cursor.execute(statement, (at, alarm.value, alarm.message, open_[key]))
            else:
                _raise(cursor, alarm, at)
        judged = {key for key in open_ if key in judge.measured or key[0] not in judge.known}
        over = [open_[key] for key in judged - present.keys()]
        if over:
            cursor.execute("update alarms set cleared = %s where alarm_id = any(%s)", (at, over))
            log.info("alarms cleared: %d", len(over))


def _raise(cursor: database.Cursor, alarm: Alarm, at: datetime) -> None:
    """Insert a new alarm; one that another watcher raised just now is left."""
    values = {
        "rule": alarm.rule,
        "subject": alarm.subject,
        "severity": alarm.severity,
        "message": alarm.message,
        "value": alarm.value,
        "raised": datetime.fromtimestamp(alarm.since, UTC),
        "last_seen": at,
    }
    database.insert(cursor, "alarms", values, "on conflict (rule, subject) where cleared is null do nothing")
    log.warning("ALARM %s %s: %s", alarm.severity, alarm.rule, alarm.message)


def untold(dsn: str) -> list[dict[str, Any]]:
    """Alarms of which nobody has been told yet, and those whose end nobody has been told."""
    return database.fetch_all(
        dsn,
        "select * from alarms where told is null or (cleared is not null and told_cleared is null) order by alarm_id limit 100",
    )


def note_told(dsn: str, alarm: Mapping[str, Any]) -> None:
    """Somebody has been told of an alarm in its present state."""
    statement = """update alarms set told = coalesce(told, now()),
        told_cleared = case when %(cleared)s then now() end where alarm_id = %(alarm_id)s"""
    with database.transaction(dsn) as cursor:
        cursor.execute(statement, {"alarm_id": alarm["alarm_id"], "cleared": alarm["cleared"] is not None})


def acknowledge(dsn: str, alarm_id: int, who: str) -> bool:
    """Somebody takes care of an alarm; False where there is no open one of this number."""
    statement = "update alarms set acknowledged = now(), acknowledged_by = %s where alarm_id = %s and cleared is null"
    with database.transaction(dsn) as cursor:
        cursor.execute(statement, (who, alarm_id))
        return bool(cursor.rowcount)


def in_words(alarm: Mapping[str, Any]) -> str:
    """One line for a person."""
    over = alarm["cleared"] is not None
    return f"[{'over' if over else alarm['severity']}] {alarm['rule']}: {alarm['message']} (since {alarm['raised']:%Y-%m-%d %H:%M:%S} UTC)"
