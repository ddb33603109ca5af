"""Runs drills on a sandbox, tells how they went, keeps the scores."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ztfds.drills.contingencies import BY_NAME, CONTINGENCIES, Contingency, write_faults
from ztfds.drills.sandbox import Report, prepared
from ztfds.drills.score import DrillScore, drill
from ztfds.formats.atomic import write_atomic
from ztfds.registry import database
from ztfds.registry.runner import package_version
from ztfds.survey.errors import ConfigurationError, FilesMissing

COLUMNS = f"{'drill':<22}{'files':>6}{'lost':>6}{'alerts':>8}{'lost':>6}{'twice':>7}{'recovery':>10}  outcome"


def chosen(names: Sequence[str]) -> list[Contingency]:
    """Contingencies by name, all without a name; raises `ConfigurationError` for an unknown one."""
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise ConfigurationError(f"no such drill: {', '.join(unknown)}; known: {', '.join(BY_NAME)}")
    return [BY_NAME[name] for name in names] or list(CONTINGENCIES)


def run_drills(home: Path, names: Sequence[str], report: Report) -> list[DrillScore]:
    """Run drills one after the other on the sandbox of a folder, which is made first where it is not there.

    Parameters
    ----------
    home : Path
        Folder of the sandbox; scores are kept in its ``drills.json``.
    names : sequence of str
        Which drills; none: all.
    report : callable
        Called with each line of progress.
    """
    contingencies, began = chosen(names), time.monotonic()
    sandbox = prepared(home, report)
    scores: list[DrillScore] = []

    def say(line: str) -> None:
        elapsed = int(time.monotonic() - began)
        report(f"[{elapsed // 60:2d}:{elapsed % 60:02d}] {line}")

    try:
        for contingency in contingencies:
            say(f"{contingency.name}: {contingency.title}")
            scores.append(drill(sandbox, contingency, say))
            write_faults(sandbox, [])
            sandbox.restart()
            say(f"{contingency.name}: {'passed' if scores[-1].passed else 'FAILED: ' + '; '.join(scores[-1].problems)}")
            keep(home, scores)
    finally:
        sandbox.close()
    return scores


def keep(home: Path, scores: Sequence[DrillScore]) -> Path:
    """Write the scores to ``drills.json``."""
    content = json.dumps([score.as_dict() for score in scores], indent=1) + "\n"
    return write_atomic(Path(home) / "drills.json", content.encode()).path


def kept(home: Path, name: str) -> dict[str, Any]:
    """The last score of a drill; raises `FilesMissing` where it left none."""
    try:
        scores = json.loads((Path(home) / "drills.json").read_text())
        return next(score for score in scores if score["name"] == name)
    except (OSError, ValueError, StopIteration) as error:
        raise FilesMissing(f"the drill {name} left no score in {home}") from error


def record(dsn: str, score: Mapping[str, Any]) -> str:
    """Keep a score in the survey's database; the same score again changes nothing. Returns one line about it."""
    row = {**score, "software": package_version()}
    with database.transaction(dsn) as cursor:
        database.insert(cursor, "drills", row, "on conflict (name, began) do nothing")
    outcome = "passed" if score["passed"] else "failed: " + "; ".join(score["problems"])
    return (
        f"{score['name']}: {outcome}; {score['files_lost']} of {score['files']} files and {score['alerts_lost']} of"
        f" {score['alerts']} alerts lost, {score['alerts_doubled']} doubled, recovered in {score['recovery_s']:.0f} s"
    )


def table(scores: Sequence[DrillScore]) -> list[str]:
    """The scores for people."""
    lines = [COLUMNS]
    for s in scores:
        outcome = "passed" if s.passed else "FAILED: " + "; ".join(s.problems)
        lines.append(
            f"{s.name:<22}{s.files:>6}{s.files_lost:>6}{s.alerts:>8}{s.alerts_lost:>6}{s.alerts_doubled:>7}"
            f"{s.recovery_s:>8.0f} s  {outcome}"
        )
    return lines


def main(names: Sequence[str], home: Path, report: Report) -> int:
    """Run, print the table, and say by the exit status whether all passed."""
    scores = run_drills(home, names, report)
    report("")
    for line in table(scores):
        report(line)
    return 0 if all(score.passed for score in scores) else 1
