"""The rehearsal of a change of settings: the same standard night without and with it, scored against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ztfds.operations.control.changes import merged
from ztfds.operations.services import stack
from ztfds.simulator.rehearsal import Rehearsal


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
