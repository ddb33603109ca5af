"""Faults on request: a small file says what happens at which named point of a step, for drills on a sandbox.

The file holds a JSON list of rules. Without the file nothing ever happens; production has none.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ztfds.survey.errors import BugOrConfiguration

log = logging.getLogger(__name__)


def _full(rule: Mapping[str, Any]) -> None:
    """The store has no room left."""
    raise OSError(errno.ENOSPC, "No space left on device (drill)")


def _killed(rule: Mapping[str, Any]) -> None:
    """The worker is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def _slow(rule: Mapping[str, Any]) -> None:
    """The store, or the machine, lags."""
    time.sleep(float(rule.get("seconds", 1.0)))


def _bug(rule: Mapping[str, Any]) -> None:
    """The software is at fault: nothing that a retry would mend."""
    raise BugOrConfiguration(str(rule.get("words", "a bug (drill)")))


ACTIONS: dict[str, Callable[[Mapping[str, Any]], None]] = {"full": _full, "kill": _killed, "slow": _slow, "bug": _bug}
"""What a rule can do, by the value of its ``do``."""


@dataclass(frozen=True)
class FileFaults:
    """A fault injector whose rules stand in a file; rules can be changed or removed while tasks run.

    Attributes
    ----------
    path : Path
        JSON list of objects with ``at`` (pattern of ``<step>:<point>``), ``do`` (one of `ACTIONS`), optionally
        ``once`` (a name: the rule acts once in all processes together) and what the action needs.
    """

    path: Path

    def __call__(self, point: str) -> None:
        """Act as the first rule for this point says."""
        for rule in self._rules():
            if fnmatchcase(point, str(rule.get("at", ""))) and self._mine(rule):
                log.warning("drill: %s at %s", rule.get("do"), point)
                ACTIONS[str(rule["do"])](rule)
                return

    def _rules(self) -> list[dict[str, Any]]:
        """The rules of this moment; a file that is being written counts as none."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return []
        return [rule for rule in found if isinstance(rule, dict)] if isinstance(found, list) else []

    def _mine(self, rule: Mapping[str, Any]) -> bool:
        """Whether a rule still acts: one that acts once leaves a mark that only one process can make."""
        if not rule.get("once"):
            return True
        try:
            self.path.with_name(f"{self.path.name}.{rule['once']}").touch(exist_ok=False)
        except OSError:
            return False
        return True
