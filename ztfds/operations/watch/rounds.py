"""The rounds of the watch: measure, judge, keep, tell; every few seconds, in a thread of ingestd, whatever else is down."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ztfds.operations.machine import write_private
from ztfds.operations.watch import alarms, metrics
from ztfds.operations.watch.metrics import Disks, Metric
from ztfds.operations.watch.notify import Notifier
from ztfds.registry import database
from ztfds.survey.errors import ConfigurationError, DatabaseDown, ZtfdsError

log = logging.getLogger(__name__)

INTERVAL_S = 10.0
BLIND_AFTER_S = 120.0
"""Figures older than this mean that nobody watches, s."""


@dataclass
class Watch:
    """One watcher of one survey.

    Attributes
    ----------
    dsn : str
        Database as ``ztf_pipeline``.
    folders : mapping of str to Path
        Folders whose disks are watched; ``inbox`` among them.
    textfile : Path
        Figures in the text format of Prometheus, replaced in every round, also without a database.
    probes : mapping of str to callable
        Whether each service answers.
    notifier : Notifier
    """

    dsn: str
    folders: Mapping[str, Path]
    textfile: Path
    probes: Mapping[str, Callable[[], bool]]
    notifier: Notifier = field(default_factory=Notifier)
    judge: alarms.Judge = field(default_factory=alarms.Judge)

    def __post_init__(self) -> None:
        self.disks = Disks(self.folders)

    def round(self, now: float | None = None) -> list[alarms.Alarm]:
        """Measure and judge once; returns the alarms of this moment.

        Without a database the figures are written to the text file all the same, and people are told directly: what is kept
        in memory reaches the database when it is back.
        """
        now = time.time() if now is None else now
        found, reachable = self._measured(now)
        if reachable:
            self._refresh_rules()
        present = self.judge.judge(found, now)
        write_private(self.textfile, metrics.prometheus(found, now))
        if reachable:
            self._keep(found, present, now)
        else:
            self._tell_directly(present)
        return present

    def _measured(self, now: float) -> tuple[list[Metric], bool]:
        """All figures that can be had, and whether the database answers."""
        found = metrics.from_services(self.probes) + self.disks.metrics(now)
        found += [Metric("ztfds_telling_failed", float(bool(trouble)), way) for way, trouble in self.ways.items()]
        if (inbox := self.folders.get("inbox")) and inbox.is_dir():
            found += metrics.from_inbox(inbox, now)
        try:
            found += metrics.from_database(self.dsn)
        except DatabaseDown:
            return [*found, Metric("ztfds_component_up", 0.0, "postgres")], False
        return [*found, Metric("ztfds_component_up", 1.0, "postgres")], True

    def _refresh_rules(self) -> None:
        """Take over rules that were changed; invalid ones leave the old in force."""
        try:
            self.judge.rules = alarms.rules_in_force(self.dsn)
        except ConfigurationError as error:
            log.error("alarm rules in the database are not used: %s", error)

    def _keep(self, found: list[Metric], present: list[alarms.Alarm], now: float) -> None:
        """Alarms and figures into the database; then tell who is to be told."""
        alarms.store(self.dsn, present, self.judge, now)
        values = {"at": datetime.fromtimestamp(now, UTC), "metrics": json.dumps(metrics.as_json(found))}
        statement = "on conflict (one) do update set at = excluded.at, metrics = excluded.metrics"
        with database.transaction(self.dsn) as cursor:
            database.insert(cursor, "watch_rounds", values, statement)
        self._tell()

    def _tell(self) -> None:
        """Tell of what nobody was told of; what cannot be told now is tried again in the next round."""
        for alarm in alarms.untold(self.dsn):
            content = {
                key: alarm[key] for key in ("rule", "subject", "severity", "message", "value", "raised", "cleared")
            }
            runbook = {"runbook": f"{alarms.RUNBOOK}#{alarm['rule']}"}
            if not self._told_of(alarms.in_words(alarm), {**content, **runbook}):
                return
            alarms.note_told(self.dsn, alarm)

    def _tell_directly(self, present: list[alarms.Alarm]) -> None:
        """Tell of alarms that cannot be kept, once each."""
        for alarm in present:
            if alarm.key in self._told:
                continue
            log.error("ALARM %s %s: %s (the database is away)", alarm.severity, alarm.rule, alarm.message)
            if not self._told_of(f"[{alarm.severity}] {alarm.rule}: {alarm.message}", {"runbook": alarms.RUNBOOK}):
                return
            self._told.add(alarm.key)

    def _told_of(self, subject: str, content: Mapping[str, object]) -> bool:
        """Tell people, and remember which ways failed; False where every way did."""
        found = self.notifier.attempt(subject, content)
        self.ways = {**self.ways, **found}
        for way, trouble in found.items():
            if trouble:
                log.warning("nobody could be told of %r by %s: %s", subject, way, trouble)
        return not found or not all(found.values())

    ways: dict[str, str] = field(default_factory=dict)
    """What went wrong at the last message, by way; empty where it arrived."""
    _told: set[alarms.Key] = field(default_factory=set)

    def run(self, stopped: threading.Event, interval_s: float = INTERVAL_S) -> None:
        """Rounds until told to stop; a round that fails is logged and the next one comes."""
        while not stopped.wait(interval_s):
            try:
                self.round()
            except (ZtfdsError, OSError) as error:
                log.error("a round of the watch failed: %s", error)
            except Exception:
                log.exception("a round of the watch failed; the inbox is watched all the same")


def age_s(dsn: str) -> float | None:
    """Time since the last round of the watch, s; None where there was none."""
    row = database.fetch_one(dsn, "select extract(epoch from now() - at) as age from watch_rounds")
    return float(row["age"]) if row else None
