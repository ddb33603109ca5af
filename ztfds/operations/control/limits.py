"""Limits of telemetry as versioned data: how an operator changes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ztfds.config.telemetry import TelemetryLimits
from ztfds.operations.control import versions
from ztfds.operations.control.versions import Book, Change, amended
from ztfds.operations.day.outcomes import Outcome
from ztfds.survey.errors import ConfigurationError

BOOK = Book("telemetry_limits", "limits of telemetry", TelemetryLimits)
"""The database itself puts a new version into ``telemetry_quantities``, which everybody reads."""


def change_in_words(dsn: str, form: Mapping[str, Any]) -> Outcome:
    """Change limits as a form says, or only look what would change; one line about it."""
    return BOOK.change(dsn, proposed(dsn, form), form)


def proposed(dsn: str, form: Mapping[str, Any]) -> Change[TelemetryLimits]:
    """Check what a form would change.

    Parameters
    ----------
    dsn : str
    form : mapping
        ``limits``: objects with the name of a quantity and what is to differ of ``low``, ``high`` and ``tolerance_s`` (others
        stay; null: no limit); ``version``: an earlier version to begin with (0: the present one; 1: the shipped one).

    Raises
    ------
    ConfigurationError
        A quantity is not known, a limit is not valid, or nothing would change.
    """
    before = BOOK.in_force(dsn)
    start = BOOK.begin_with(dsn, int(form.get("version") or 0), before)["limits"]
    after = BOOK.parse({"limits": amended(start, "name", form.get("limits") or [], what="limits")})
    if unknown := sorted({one.name for one in after.limits} - {one.name for one in before.limits}):
        raise ConfigurationError(f"nobody measures {', '.join(unknown)}")
    found = versions.differences(*([(one.name, one) for one in rules.limits] for rules in (before, after)))
    if not found:
        raise ConfigurationError("nothing would change")
    return Change(after, found)
