"""Degraded modes: what an operator switches off for a night, and the work of a task under them."""

from __future__ import annotations

from dataclasses import replace

from ztfds.config.sets import without_forced_photometry
from ztfds.operations.context import Context
from ztfds.registry import database
from ztfds.survey.errors import ConfigurationError

MODES = {
    "calibrate_only": "images are calibrated, nothing is differenced",
    "no_forced_photometry": "alerts carry no forced photometry",
    "no_alerts": "candidates are kept, no packet is made",
}
"""What can be switched for a night, in words."""


def in_force(dsn: str, nid: int) -> set[str]:
    """The modes of a night."""
    rows = database.fetch_all(dsn, "select mode from operation_modes where nid = %s and ended is null", (nid,))
    return {row["mode"] for row in rows}


def under_modes(context: Context, nid: int) -> Context:
    """The context of work on a night: what is switched off is off."""
    modes = in_force(context.dsn, nid)
    if "no_forced_photometry" in modes:
        context = replace(context, config=without_forced_photometry(context.config))
    if modes & {"calibrate_only", "no_alerts"}:
        off = {"difference": "calibrate_only" not in modes, "alerts": "no_alerts" not in modes}
        context = replace(
            context, difference=context.difference and off["difference"], alerts=context.alerts and off["alerts"]
        )
    return context


def switch(dsn: str, nid: int, mode: str, on: bool, author: str, reason: str) -> str:
    """Switch a mode of a night; doing it again changes nothing. Returns one line about it.

    Raises
    ------
    ConfigurationError
        The mode is unknown, or author or reason are missing.
    """
    if mode not in MODES:
        raise ConfigurationError(f"{mode!r} is not a mode: {', '.join(MODES)}")
    if not author.strip() or not reason.strip():
        raise ConfigurationError("switching a mode needs a name and a reason")
    with database.transaction(dsn) as cursor:
        if on:
            values = {"mode": mode, "nid": nid, "author": author, "reason": reason}
            database.insert(cursor, "operation_modes", values, "on conflict (nid, mode) where ended is null do nothing")
        else:
            statement = (
                "update operation_modes set ended = now(), ended_by = %s where nid = %s and mode = %s and ended is null"
            )
            cursor.execute(statement, (author, nid, mode))
        changed = cursor.rowcount
    return f"night {nid}: {mode} is {'on' if on else 'off'}{'' if changed else ' already'}; {MODES[mode]}"
