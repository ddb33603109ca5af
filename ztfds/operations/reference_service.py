"""What operators do with references: order them anew, list what depends on one, retire it, undo that, lock it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ztfds.operations.context import Context
from ztfds.registry import reference_queue
from ztfds.registry.database import transaction
from ztfds.registry.reference_queue import Wish
from ztfds.survey import ids
from ztfds.survey.errors import ConfigurationError

ACTIONS = ("retire", "undo", "lock", "release")


def order(context: Context, form: Mapping[str, Any]) -> str:
    """Queue the references of a field and filter: form ``field``, ``fid``, ``rcids`` (empty: all), ``reason``, ``who``, ``priority``.

    Raises
    ------
    ConfigurationError
        No reason, no name, or a channel that the camera has not.
    """
    reason, who = _told(form)
    known = set(context.camera.rcids)
    channels = [int(rcid) for rcid in form.get("rcids") or sorted(known)]
    if strange := sorted(set(channels) - known):
        raise ConfigurationError(f"the camera has no readout channels {strange}")
    wish = Wish("operator", reason, who, int(form.get("priority") or 4))
    with transaction(context.dsn) as cursor:
        for rcid in channels:
            reference_queue.enqueue(cursor, int(form["field"]), rcid, int(form["fid"]), wish)
    return f"{len(channels)} references of field {form['field']}, filter {form['fid']} are queued"


def _told(form: Mapping[str, Any]) -> tuple[str, str]:
    """Reason and name, which every decision needs."""
    reason, who = str(form.get("reason") or "").strip(), str(form.get("who") or "").strip()
    if not reason or not who:
        raise ConfigurationError("a decision about a reference needs a reason and a name")
    return reason, who


def describe(dsn: str, rfid: int, version: int | None = None) -> str:
    """What depends on a reference, in lines for a person: products by kind, nights, candidates, alerts."""
    row = reference_queue.find(dsn, rfid, version)
    found = reference_queue.dependants(dsn, row["reference_id"])
    served = {0: "not served", 1: "served", 2: "served, locked"}[row["vbest"]]
    state = "retired" if row["retired"] else "usable" if row["status"] == 1 else "not usable"
    lines = [
        f"Reference {rfid} version {row['version']}: field {row['field']}, channel {row['rcid']}, filter {row['fid']},"
        f" {row['nframes']} images, {state}, {served}.",
        f"{found['differences']} differences with {found['candidates']} candidates and {found['alerts']} alerts"
        f" ({found['sent']} sent) depend on it.",
    ]
    lines += [f"- {k['kind']}: {k['n']} products, {k['served']} served" for k in found["products"]]
    lines += [
        f"- night {ids.night_date(n['nid'])}: {n['differences']} differences, {n['candidates']} candidates, {n['alerts']} alerts"
        for n in found["nights"]
    ]
    return "\n".join(lines)


def preview(context: Context, form: Mapping[str, Any]) -> str:
    """What an action of the form would touch; checks the form.

    Raises
    ------
    ConfigurationError
        No reason or no name.
    NoWork
        There is no such reference.
    """
    _told(form)
    return f"{form['action']}: {describe(context.dsn, int(form['rfid']), form.get('version'))}"


def decide(context: Context, form: Mapping[str, Any]) -> str:
    """Do what the form says: ``action`` one of `ACTIONS`, ``rfid``, ``version``, ``reason``, ``who``; tells the outcome in a line.

    Raises
    ------
    ConfigurationError
        No reason, no name, or an unknown action.
    NoWork
        There is no such reference, or it is so already.
    """
    reason, who = _told(form)
    if form["action"] not in ACTIONS:
        raise ConfigurationError(f"{form['action']!r} is none of {', '.join(ACTIONS)}")
    row = reference_queue.find(context.dsn, int(form["rfid"]), form.get("version"))
    about = f"reference {row['rfid']} version {row['version']}"
    if form["action"] == "retire":
        done = reference_queue.retire(context.dsn, row["reference_id"], reason, who)
        return (
            f"{about} is retired: {done['marked']} products of {done['differences']} differences and {len(done['nights'])}"
            f" nights are marked, a new one is queued (entry {done['queue_id']})"
        )
    if form["action"] == "undo":
        undone = reference_queue.unretire(context.dsn, row["reference_id"], reason, who)
        state = "served again" if undone["served"] else "not served: another one is"
        return f"{about} is no longer retired: {undone['unmarked']} products unmarked, {state}"
    reference_queue.lock(context.dsn, row["reference_id"], form["action"] == "lock")
    return f"{about} is {'locked as' if form['action'] == 'lock' else 'no longer locked, and'} the best"
