"""Change control: settings run in production only after a proposal, a rehearsal before and after, and the approval of a person."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ztfds.config.sets import ConfigSet, changed_set
from ztfds.operations.context import Context
from ztfds.registry import database
from ztfds.registry.database import Cursor
from ztfds.registry.runner import package_version
from ztfds.survey.errors import ConfigurationError

log = logging.getLogger(__name__)

FIGURES = {
    "transients_alerted_snr10": ("injected transients alerted", 1),
    "alerts": ("alerts", 0),
    "astrometry_mas_ra": ("astrometry in RA, mas", -1),
    "astrometry_mas_dec": ("astrometry in Dec, mas", -1),
    "zeropoint_rms_mag": ("zero point, mag RMS", -1),
    "psf_pull_width": ("pulls of PSF fluxes", 0),
    "scorr_width": ("width of Scorr on blank sky", 0),
    "latency_s_p95": ("latency 95 %, s", -1),
    "memory_mb_peak": ("memory, MB", -1),
    "wall_s": ("wall time, s", -1),
}
"""Key figures of a rehearsal, in words, and whether more is better (1), worse (-1) or neither."""
OPEN = ("proposed", "validated", "failed")
"""States of a change about which nobody has decided; in each it may be rehearsed (again)."""
UNDECIDED = {
    "proposed": "its rehearsal came to no end",
    "validated": "nobody answered",
    "failed": "its rehearsal has new problems",
}
"""Why a run ended without a decision, by the state in which it left its change."""


def differences(before: ConfigSet, after: ConfigSet) -> list[dict[str, Any]]:
    """Settings that differ: ``setting`` (dotted), ``before``, ``after``."""
    return list(_differences("", before.model_dump(mode="json"), after.model_dump(mode="json")))


def _differences(path: str, old: Any, new: Any) -> Iterator[dict[str, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from _differences(f"{path}.{name}" if path else name, old.get(name), new.get(name))
    elif old != new:
        yield {"setting": path, "before": old, "after": new}


def parsed(settings: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any]:
    """Nested differences of settings from what a form holds.

    Parameters
    ----------
    settings : mapping, sequence of str or None
        The nested differences themselves, or lines ``difference.candidates.threshold = 6``; values are JSON, or plain words.

    Raises
    ------
    ConfigurationError
        A line is not of that form.
    """
    if settings is None or isinstance(settings, Mapping):
        return dict(settings or {})
    found: dict[str, Any] = {}
    for line in filter(str.strip, settings):
        path, equals, text = (part.strip() for part in line.partition("="))
        names = path.split(".")
        if not equals or not text or not all(names):
            raise ConfigurationError(
                f"{line!r} is not understood: write step.name = value, e.g. difference.candidates.threshold = 6"
            )
        value: Any = _value(text)
        for name in reversed(names):
            value = {name: value}
        found = merged(found, value)
    return found


def _value(text: str) -> Any:
    """A value of a setting as it was typed: JSON, or else the words as they are."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def propose(context: Context, form: Mapping[str, Any], run_id: str = "") -> tuple[int, str]:
    """Keep a proposal; a run of the orchestrator proposes one change, however often its task is repeated.

    Parameters
    ----------
    context : Context
        With the settings in force.
    form : mapping
        ``purpose``, ``risk``, ``author``, ``settings`` (as `parsed` takes them).
    run_id : str
        The run, if any.

    Returns
    -------
    change_id : int
    line : str

    Raises
    ------
    ConfigurationError
        Something is missing, a setting does not exist or is not allowed, or nothing would change.
    """
    words = {name: str(form.get(name) or "").strip() for name in ("purpose", "risk", "author")}
    if lacking := [name for name, value in words.items() if not value]:
        raise ConfigurationError(f"a change needs: {', '.join(lacking)}")
    changes = parsed(form.get("settings"))
    found = differences(context.config, changed_set(context.config, changes))
    if not found:
        raise ConfigurationError("nothing would change")
    with database.transaction(context.dsn) as cursor:
        values = {**words, "changes": changes, "differences": {"list": found}, "run_id": run_id or None}
        tail = (
            "on conflict (run_id) where run_id is not null do update set run_id = excluded.run_id returning change_id"
        )
        row = database.insert(cursor, "setting_changes", values, tail)
        number = int(row["change_id"]) if row else 0
    return number, f"change {number}: " + "; ".join(f"{d['setting']} {d['before']} → {d['after']}" for d in found)


def begin_rehearsal(dsn: str, change_id: int) -> None:
    """Note that a change is rehearsed now; what came of an earlier rehearsal counts no more.

    Raises
    ------
    ConfigurationError
        Somebody has decided about it.
    """
    statement = "update setting_changes set state = 'proposed', validation = null, comment = null where change_id = %s"
    with database.transaction(dsn) as cursor:
        _row(cursor, change_id, OPEN)
        cursor.execute(statement, (change_id,))


def note_validation(dsn: str, change_id: int, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Keep the figures of two rehearsals of the same night, without and with the change; problems with it fail the change.

    Returns
    -------
    str
        The figures in words, for whoever decides.

    Raises
    ------
    ConfigurationError
        The rehearsal has problems that it has not without the change; its figures are kept.
    """
    rows = [
        {"figure": name, "words": words, "before": before.get(name), "after": after.get(name), "better": better}
        for name, (words, better) in FIGURES.items()
    ]
    new = [problem for problem in after.get("problems") or [] if problem not in (before.get("problems") or [])]
    state = "failed" if new else "validated"
    with database.transaction(dsn) as cursor:
        _row(cursor, change_id, OPEN)
        cursor.execute(
            "update setting_changes set state = %s, validation = %s where change_id = %s",
            (state, database.plain({"figures": rows, "problems": new}), change_id),
        )
    if new:
        raise ConfigurationError(f"the rehearsal of change {change_id} has new problems: {'; '.join(new)}")
    lines = [f"| {row['words']} | {_short(row['before'])} | {_short(row['after'])} |" for row in rows]
    return "\n".join(["The rehearsal has no new problem.", "", "| | before | after |", "|---|---|---|", *lines])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def decide(context: Context, change_id: int, approved: bool, who: str, comment: str = "") -> str:
    """Put a validated change in force, or reject it; returns one line.

    Raises
    ------
    ConfigurationError
        The change was not validated, or has been decided before.
    """
    if not who.strip():
        raise ConfigurationError("a decision needs a name")
    states = ("validated",) if approved else OPEN
    with database.transaction(context.dsn) as cursor:
        row = _row(cursor, change_id, states)
        if approved:
            _approve(cursor, changed_set(context.config, row["changes"]), who, change_id)
        _decided(cursor, change_id, "in_force" if approved else "rejected", who, comment)
    return f"change {change_id} is {'in force' if approved else 'rejected'} ({who})"


def leave_undecided(dsn: str, change_id: int) -> str:
    """Note that a run ended without a decision: the change stays, to be rehearsed again; returns one line."""
    with database.transaction(dsn) as cursor:
        why = UNDECIDED[_row(cursor, change_id, OPEN)["state"]]
        statement = "update setting_changes set state = 'failed', comment = %s where change_id = %s"
        cursor.execute(statement, (why, change_id))
    return f"change {change_id} is not decided, {why}: rehearse it again (page Changes), or leave it"


def withdraw(context: Context, change_id: int, who: str, comment: str) -> str:
    """Take the last change in force back: the settings before it are approved, since they ran before."""
    with database.transaction(context.dsn) as cursor:
        _row(cursor, change_id, ("in_force",))
        later = "select change_id from setting_changes where state = 'in_force' and change_id > %s"
        if found := database.rows(cursor, later, (change_id,)):
            raise ConfigurationError(
                f"change {found[0]['change_id']} came later and is in force: withdraw that one first"
            )
        _decided(cursor, change_id, "withdrawn", who, comment)
    return f"change {change_id} is withdrawn ({who})"


def _row(cursor: Cursor, change_id: int, states: tuple[str, ...]) -> dict[str, Any]:
    """A change that is in one of some states."""
    rows = database.rows(cursor, "select * from setting_changes where change_id = %s for update", (change_id,))
    if not rows:
        raise ConfigurationError(f"there is no change {change_id}")
    if rows[0]["state"] not in states:
        raise ConfigurationError(
            f"change {change_id} is {rows[0]['state'].replace('_', ' ')}, not {' or '.join(states)}"
        )
    return rows[0]


def _decided(cursor: Cursor, change_id: int, state: str, who: str, comment: str) -> None:
    cursor.execute(
        "update setting_changes set state = %s, decided_by = %s, decided = now(), comment = %s where change_id = %s",
        (state, who, comment or None, change_id),
    )


def _approve(cursor: Cursor, settings: ConfigSet, who: str, change_id: int | None) -> None:
    """Note that some settings may run."""
    values = {
        "settings_hash": settings.critical_hash(), "change_id": change_id, "software": package_version(), "approved_by": who,
        "settings": settings.model_dump(mode="json"),
    }  # fmt: skip
    database.insert(cursor, "approved_settings", values, "on conflict (settings_hash) do nothing")


def approve_shipped(dsn: str, context: Context, who: str) -> str:
    """An administrator approves the settings of an installed version of the software with the changes in force; returns one line."""
    with database.transaction(dsn) as cursor:
        settings = _with_changes(cursor, context.config)
        _approve(cursor, settings, who, None)
    return f"the settings {settings.critical_hash()[:12]} of version {package_version()} are approved ({who})"


def _with_changes(cursor: Cursor, settings: ConfigSet) -> ConfigSet:
    """Settings of the code with the changes in force, in the order in which they were proposed."""
    for row in database.rows(cursor, "select changes from setting_changes where state = 'in_force' order by change_id"):
        settings = changed_set(settings, row["changes"])
    return settings


def accumulated(dsn: str) -> dict[str, Any]:
    """The differences of all changes in force together."""
    out: dict[str, Any] = {}
    for row in database.fetch_all(
        dsn, "select changes from setting_changes where state = 'in_force' order by change_id"
    ):
        out = merged(out, row["changes"])
    return out


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Nested differences, one after the other."""
    out = dict(old)
    for name, value in new.items():
        both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = merged(out[name], value) if both else value
    return out


def in_force(context: Context) -> Context:
    """The context with the changes in force; settings that nobody has approved do not run.

    The settings with which a survey begins are approved by that.

    Raises
    ------
    ConfigurationError
        The settings of this software with the changes in force were never approved.
    """
    with database.transaction(context.dsn) as cursor:
        settings = _with_changes(cursor, context.config)
        digest = settings.critical_hash()
        if database.rows(cursor, "select 1 from approved_settings where settings_hash = %s", (digest,)):
            return replace(context, config=settings)
        if database.rows(cursor, "select 1 from approved_settings limit 1"):
            raise ConfigurationError(
                f"the settings {digest[:12]} of version {package_version()} are not approved: file a change (DAG change_request), or"
                " approve an installed version with `ztfds approve-settings`"
            )
        _approve(cursor, settings, "shipped with the software", None)
    log.info("the settings %s are the first of this survey", digest[:12])
    return replace(context, config=settings)
