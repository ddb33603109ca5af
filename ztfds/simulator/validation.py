"""The rehearsal of a change of settings: the same standard night without and with it, scored against the truth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ztfds.operations.control.changes import merged
from ztfds.operations.services import airflow, stack
from ztfds.simulator.rehearsal import Rehearsal
from ztfds.survey.errors import ServiceDown


def rehearse(home: Path, changes: Mapping[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    """Run the tiny camera's standard night with some differences of settings, on services of its own.

    Parameters
    ----------
    home : Path
        Folder for everything; what an earlier rehearsal left in it is removed.
    changes : mapping
        Nested differences of settings; none: the settings as shipped.
    report : callable
        Called with each line of progress.

    Returns
    -------
    dict
        Its summary.
    """
    try:
        return asdict(Rehearsal("tiny", home, report, changes=changes).run())
    finally:
        stack.stop(home)


def before_and_after(
    home: Path, in_force: Mapping[str, Any], changes: Mapping[str, Any], report: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summaries of the standard night with the settings in force, and with a change on top."""
    report("rehearsal with the settings in force")
    before = rehearse(Path(home) / "before", in_force, report)
    report("rehearsal with the change")
    return before, rehearse(Path(home) / "after", merged(in_force, changes), report)


def validate(
    home: Path, in_force: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same in a process of its own, which inherits nothing from a task of Airflow; its progress goes to where ours is printed.

    Raises
    ------
    ServiceDown
        The rehearsal could not be run to its end.
    """
    command = [sys.executable, "-m", "ztfds.simulator.validation", str(home)]
    asked = json.dumps([dict(in_force), dict(changes)])
    answer = Path(home) / "validation.json"
    answer.unlink(missing_ok=True)
    done = subprocess.run(command, input=asked, text=True, check=False, env=airflow.process_environment())
    if done.returncode or not answer.exists():
        raise ServiceDown(f"the rehearsal ended with exit status {done.returncode}: see what it said above")
    before, after = json.loads(answer.read_text())
    return before, after


def _say(line: str) -> None:
    """One line of progress, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Rehearse what comes on standard input; the summaries go to ``validation.json`` of the folder that is named."""
    home = Path(sys.argv[1])
    in_force, changes = json.load(sys.stdin)
    home.mkdir(parents=True, exist_ok=True)
    both = before_and_after(home, in_force, changes, _say)
    (home / "validation.json").write_text(json.dumps(both, default=str))


if __name__ == "__main__":
    main()
