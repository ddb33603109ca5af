"""The score of a drill: files lost, alerts lost or doubled, time to recover, alarms raised, and what is wrong with that."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ztfds.drills.contingencies import Acted, Contingency
from ztfds.drills.sandbox import FINAL, Report, Sandbox
from ztfds.survey.errors import ZtfdsError

LIMIT_S = 400.0
"""Longest time that a night may take to come to its end after the repair, s."""


@dataclass
class DrillScore:
    """What came of a drill.

    Attributes
    ----------
    name, title : str
        The contingency.
    night : str
        UT date of the sandbox night, YYYYMMDD.
    began : str
        When, ISO 8601 UTC.
    files, files_lost : int
        Files that the mountain sent; of these, neither archived nor kept aside with a reason.
    states : dict of str to int
        Files by their named state.
    alerts, alerts_lost, alerts_doubled : int
        Alerts of the night; of these, not in the topics; copies in the topics beyond the first.
    recovery_s : float
        From the repair until every file was in a final state and every alert acknowledged.
    wall_s : float
        The whole drill.
    alarms : list of str
        Rules that raised an alarm during it.
    problems : list of str
        Why it failed; empty when it passed.
    """

    name: str
    title: str
    night: str = ""
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    files: int = 0
    files_lost: int = 0
    states: dict[str, int] = field(default_factory=dict)
    alerts: int = 0
    alerts_lost: int = 0
    alerts_doubled: int = 0
    recovery_s: float = 0.0
    wall_s: float = 0.0
    alarms: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the database."""
        return {**asdict(self), "passed": self.passed}


def drill(sandbox: Sandbox, contingency: Contingency, report: Report) -> DrillScore:
    """Run one contingency on a sandbox and score it; an error of the drill is a failed drill, not an exception."""
    score, began = DrillScore(contingency.name, contingency.title), time.monotonic()
    try:
        acted = contingency.act(sandbox, report)
        score.night = acted.plan.dates[0]
        _await_end(sandbox, acted, score)
        _judge_files(sandbox, acted, score)
        _judge_alerts(sandbox, acted, score)
        raised = sandbox.query("select distinct rule from alarms where last_seen > %s order by 1", (score.began,))
        score.alarms = [row["rule"] for row in raised]
        score.problems += acted.problems
    except (ZtfdsError, AssertionError, OSError) as error:
        score.problems.append(f"{type(error).__name__}: {error}")
    score.wall_s = round(time.monotonic() - began, 1)
    return score


def _await_end(sandbox: Sandbox, acted: Acted, score: DrillScore) -> None:
    """Wait for the night to be closed and for everything to settle; how long that took after the repair."""
    outcome = sandbox.finish(acted.plan, LIMIT_S)
    sandbox.wait(lambda: sandbox.settled(acted.plan), "every file and alert has settled", LIMIT_S)
    score.recovery_s = round(max(0.0, time.monotonic() - acted.repaired), 1)
    if outcome != acted.outcome:
        score.problems.append(f"the run that closes the night ended with {outcome}, {acted.outcome} is due")


def _judge_files(sandbox: Sandbox, acted: Acted, score: DrillScore) -> None:
    """Every file that was sent is archived or kept aside, in the state that is due."""
    result = sandbox.account(acted.plan)
    states = sandbox.states(acted.plan)
    score.files, score.files_lost = result.sent, result.lost
    score.states = dict(sorted(Counter(states.values()).items()))
    if result.lost:
        score.problems.append(f"{result.lost} files lost")
    if result.duplicated:
        score.problems.append(f"{result.duplicated} files accepted twice")
    if open_ := [name for name, state in states.items() if state not in FINAL]:
        score.problems.append(f"{len(open_)} files in no final state: {_few(open_)}")
    good = sum(state == acted.state for state in states.values())
    due = sandbox.on_sky_files(acted.plan) - acted.spoiled
    if good < due:
        score.problems.append(f"{good} files are {acted.state}, {due} should be: {score.states}")
    if acted.outcome == "success":
        score.problems += result.differences


def _judge_alerts(sandbox: Sandbox, acted: Acted, score: DrillScore) -> None:
    """Every alert of the night is in its topic exactly once."""
    queued, sent = sandbox.alerts(acted.plan)
    score.alerts = len(queued)
    score.alerts_lost = len(set(queued) - set(sent))
    score.alerts_doubled = len(sent) - len(set(sent))
    if score.alerts_lost:
        score.problems.append(f"{score.alerts_lost} alerts lost")
    if score.alerts_doubled:
        score.problems.append(f"{score.alerts_doubled} alerts sent more than once")
    if not queued and acted.state == "processed":
        score.problems.append("no alert was made")


def _few(names: Sequence[str], most: int = 3) -> str:
    """The first of many names."""
    return ", ".join(list(names)[:most]) + (" ..." if len(names) > most else "")
