"""Trigger rules as versioned data: which are in force, how they are changed, and how processes that run heed a change."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ztfds.config.base import StepConfig
from ztfds.config.triggers import TriggerRules
from ztfds.operations.control import versions
from ztfds.operations.control.versions import Book, Change, amended
from ztfds.operations.day.outcomes import Outcome
from ztfds.operations.machine import write_private
from ztfds.registry import database
from ztfds.survey.errors import ConfigurationError, DatabaseDown

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0
"""How soon a running process heeds a change, s."""
ASK_AFTER_FAILURE_S = 20.0
TIMEOUT_S = 2
"""Longest wait for the database, s: whoever asks has better things to do."""
FILE = "trigger_rules.json"
"""The last good rules, in the home folder, for a start without a database."""
EXPECTED = ("exposure", "calibration", "reference", "end_of_night", "reprocess_work", "source_matching")
"""Real time before calibration, references, end of night, reprocessing and monthly work; another order is said aloud."""
BOOK = Book("trigger_rules", "trigger rules", TriggerRules)
PARTS = {"triggers": "name", "works": "dag"}
"""Parts of the rules, and the setting that names an entry of each."""


def rules_in_force(dsn: str) -> TriggerRules:
    """The newest version of the rules; without any, those that a survey begins with."""
    return BOOK.in_force(dsn)


def following_runs(dsn: str, event: str, night: str) -> list[dict[str, Any]]:
    """Runs that an event of a night starts: ``trigger_dag_id``, ``trigger_run_id`` (the same for the same night) and ``conf``."""
    return [
        {"trigger_dag_id": dag, "trigger_run_id": f"{dag[:3]}_{night}", "conf": {"night": night}}
        for dag in rules_in_force(dsn).following(event)
    ]


def change_in_words(dsn: str, form: Mapping[str, Any]) -> Outcome:
    """Change the rules as a form says, or only look what would change; one line about it."""
    return BOOK.change(dsn, proposed(dsn, form), form)


def proposed(dsn: str, form: Mapping[str, Any]) -> Change[TriggerRules]:
    """Check what a form would change.

    Parameters
    ----------
    dsn : str
    form : mapping
        ``triggers`` and ``works``: rules with the settings that are to differ (others stay); ``drop``: names of rules or DAGs
        that go; ``version``: an earlier version to begin with (0: the present one; -1: the shipped one).

    Raises
    ------
    ConfigurationError
        A rule is not valid, a dropped one does not exist, or nothing would change.
    """
    before = rules_in_force(dsn)
    start = BOOK.begin_with(dsn, int(form.get("version") or 0), before)
    drop = list(form.get("drop") or [])
    content = {part: amended(start[part], key, form.get(part) or [], drop, part) for part, key in PARTS.items()}
    known = {entry[key] for part, key in PARTS.items() for entry in start[part]}
    if unknown := [name for name in drop if name not in known]:
        raise ConfigurationError(f"there is no rule {', '.join(unknown)}")
    after = BOOK.parse(content)
    found = differences(before, after)
    if not found:
        raise ConfigurationError("nothing would change")
    return Change(after, found, doubts(after))


def differences(before: TriggerRules, after: TriggerRules) -> list[dict[str, Any]]:
    """Settings that differ between two sets of rules: ``rule``, ``setting``, ``before``, ``after`` (None: not there)."""
    return versions.differences(_named(before), _named(after))


def _named(rules: TriggerRules) -> list[tuple[str, StepConfig]]:
    """Every rule with its name; a work is named ``work DAG``."""
    return [(rule.name, rule) for rule in rules.triggers] + [(f"work {work.dag}", work) for work in rules.works]


def doubts(rules: TriggerRules) -> list[str]:
    """What is allowed but deserves a second look: another order than the usual one, arrivals that nobody takes."""
    weights = [(dag, work.weight) for dag in EXPECTED if (work := rules.work(dag))]
    said = [f"{b} comes before {a}" for (a, x), (b, y) in pairwise(weights) if y > x]
    return said + [f"{rule.event} starts nothing: it waits" for rule in rules.triggers if not rule.enabled]


@dataclass
class Source:
    """The rules in force for a process that lives long; a call costs nothing but every few seconds a short look.

    While the database does not answer, or holds something that is not a set of rules, the last good rules stay in force: those
    in memory, after a start those of the file, else those shipped.

    Attributes
    ----------
    dsn : callable or str
        Address of the database as a role that may read.
    file : Path or None
        Where the last good rules are kept.
    keeps : bool
        Whether this process writes the file.
    """

    dsn: str | Callable[[], str]
    file: Path | None = None
    keeps: bool = False
    rules: TriggerRules | None = None
    version: int = -1
    next_look: float = field(default=-1e9)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> TriggerRules:
        """The rules in force."""
        if time.monotonic() >= self.next_look and self._turn.acquire(blocking=self.rules is None):
            try:
                self._look()
            finally:
                self._turn.release()
        return self.rules or TriggerRules()

    def _look(self) -> None:
        """Ask for a newer version."""
        try:
            row = self._newest()
            self.next_look = time.monotonic() + ASK_EVERY_S
            version = row["version"] if row else 0
            if version != self.version:
                self._take(BOOK.parse(row["rules"]) if row else TriggerRules(), version)
        except (DatabaseDown, ConfigurationError) as error:
            self.next_look = time.monotonic() + ASK_AFTER_FAILURE_S
            self.rules = self.rules or self._kept()
            log.warning("trigger rules: the last good ones stay in force: %s", error)

    def _newest(self) -> dict[str, Any] | None:
        """The newest version in the database."""
        dsn = self.dsn if isinstance(self.dsn, str) else self.dsn()
        connection = database.connect(dsn, autocommit=True, timeout_s=TIMEOUT_S)
        with closing(connection), database.answering(connection), connection.cursor() as cursor:
            found = database.rows(cursor, BOOK.query)
        return found[0] if found else None

    def _take(self, rules: TriggerRules, version: int) -> None:
        """Heed another version from now on."""
        if self.version >= 0:
            log.warning(
                "trigger rules, version %d: %s", version, Change(rules, differences(self.rules or rules, rules), [])
            )
        self.rules, self.version = rules, version
        if self.keeps and self.file is not None:
            try:
                write_private(self.file, rules.model_dump_json(indent=1) + "\n")
            except OSError as error:
                log.warning("the trigger rules could not be kept in %s: %s", self.file, error)

    def _kept(self) -> TriggerRules:
        """The rules of the file, where there are any."""
        try:
            return BOOK.parse(json.loads(self.file.read_text())) if self.file else TriggerRules()
        except (OSError, ValueError, ConfigurationError):
            return TriggerRules()
