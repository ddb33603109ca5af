"""Reprocessing requests: what is to be made again with which settings, its preview, the work, pause, comparison, roll-back.

A request names CCD files by night, field, channel and filter. The work goes through the same steps as in real time; what it makes is a
new version of each product, served instead of the old one, which is kept. A roll-back serves the old versions again.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ztfds.config.sets import ConfigSet, changed_set
from ztfds.operations.context import Context
from ztfds.operations.control.changes import differences, parsed
from ztfds.operations.realtime import process_ccd
from ztfds.registry import candidates, database, summaries
from ztfds.registry.database import Cursor
from ztfds.survey import ids
from ztfds.survey.camera import ccd_qid
from ztfds.survey.errors import ConfigurationError, NoWork, RetryLater, ServiceDown, ZtfdsError
from ztfds.survey.filters import by_fid

log = logging.getLogger(__name__)

STEPS = ("science", "difference")
"""What can be made again: P2 and P5, P6."""
MOST_TASKS = 4000
"""Mapped tasks of one run: files are shared out among so many at most."""
MOST_FILES = 3
"""Files of one task at most: nothing is pre-empted, so real time may have to wait for one. What is left over is for the next run."""
COMPARED = (
    "seeing_px", "maglim_mag", "magzp", "zp_rms_mag", "median_background_dn", "n_psfcat", "scorr_width_raw", "n_candidates", "diffmaglim",
)  # fmt: skip
"""Quality figures shown first in a comparison, where they exist; all others follow."""


@dataclass(frozen=True)
class Selection:
    """Which data: an empty list means all.

    Attributes
    ----------
    nights : tuple of str
        UT dates, YYYYMMDD; at least one.
    fields, rcids, fids : tuple of int
        Fields, readout channels, filters.
    """

    nights: tuple[str, ...]
    fields: tuple[int, ...] = ()
    rcids: tuple[int, ...] = ()
    fids: tuple[int, ...] = ()

    @classmethod
    def of(cls, form: Mapping[str, Any]) -> Selection:
        """From a form; raises `ConfigurationError` for what is not a night, a channel or a filter."""
        try:
            found = cls(
                tuple(str(night) for night in form.get("nights") or ()),
                *(tuple(int(value) for value in form.get(name) or ()) for name in ("fields", "rcids", "fids")),
            )
            for night in found.nights:
                ids.nid_of_date(night)
            for rcid in found.rcids:
                ccd_qid(rcid)
            for fid in found.fids:
                by_fid(fid)
        except (ValueError, TypeError, LookupError, ZtfdsError) as error:
            raise ConfigurationError(f"the selection is not understood: {error}") from error
        if not found.nights:
            raise ConfigurationError("a request names at least one night")
        return found

    def parameters(self) -> dict[str, Any]:
        """For queries."""
        return {
            "nids": [ids.nid_of_date(night) for night in self.nights],
            "fields": list(self.fields) or None,
            "ccdids": sorted({ccd_qid(rcid)[0] for rcid in self.rcids}) or None,
            "fids": list(self.fids) or None,
        }


_FILES = """
    select c.filename, c.exposure, c.state, c.bytes, e.nid from ccdfiles c join exposures e using (exposure)
     where e.imgtype = 'o' and e.nid = any(%(nids)s) and c.state in ('processed', 'calibrated', 'bad', 'failed')
       and (%(fields)s::integer[] is null or e.field = any(%(fields)s)) and (%(fids)s::integer[] is null or e.fid = any(%(fids)s))
       and (%(ccdids)s::integer[] is null or c.ccdid = any(%(ccdids)s))
     order by e.obsjd desc, c.filename"""
_REPLACED = """
    select p.step, count(*) as products, sum(p.bytes)::bigint as bytes, count(*) filter (where p.vbest = 2) as locked from products p
     where p.vbest > 0 and p.step = any(%s) and p.exposure = any(%s) group by p.step order by p.step"""
_ALERTS = "select count(*) as n from alert_outbox where exposure = any(%s)"
_COST = "select avg(cpu_s) as cpu_s from jobs where state = 'done' and step = %s and ended > now() - interval '30 days'"


def preview(context: Context, selection: Selection, steps: Sequence[str]) -> dict[str, Any]:
    """Count what a request would make again and replace, before anything is done.

    Returns
    -------
    dict
        ``files``, ``exposures``, ``quadrants``, ``products`` and ``bytes`` replaced, ``locked`` (products that stay what they are),
        ``alerts`` made of these exposures so far, ``cpu_s`` expected (from the jobs of the last 30 days; None if unknown).

    Raises
    ------
    NoWork
        Nothing matches.
    """
    with database.session(context.dsn):
        files = database.fetch_all(context.dsn, _FILES, selection.parameters())
        if not files:
            raise NoWork("no processed CCD file matches the selection")
        exposures = sorted({row["exposure"] for row in files})
        replaced = database.fetch_all(context.dsn, _REPLACED, (list(steps), exposures))
        alerts = database.fetch_all(context.dsn, _ALERTS, (exposures,))[0]["n"]
        costs = [database.fetch_all(context.dsn, _COST, (step,))[0]["cpu_s"] for step in steps]
    quadrants = 4 * len(files)
    return {
        "files": len(files),
        "exposures": len(exposures),
        "quadrants": quadrants,
        "products": sum(row["products"] for row in replaced),
        "bytes": sum(int(row["bytes"]) for row in replaced),
        "locked": sum(row["locked"] for row in replaced),
        "alerts": alerts,
        "cpu_s": round(quadrants * sum(costs), 1) if all(cost is not None for cost in costs) else None,
    }


def preview_in_words(context: Context, form: Mapping[str, Any]) -> str:
    """What the request of a form would do, in lines for whoever approves it; raises as `file_request` does."""
    steps, selection = _checked(context, form), Selection.of(form)
    counted = preview(context, selection, steps)
    changed = differences(context.config, changed_set(context.config, parsed(form.get("settings"))))
    chosen = ((name, getattr(selection, name)) for name in ("nights", "fields", "rcids", "fids"))
    lines = [
        in_words("This request", counted) + f"; {counted['alerts']} alerts were made of these exposures.",
        f"- asked by {form['author']}: {form['reason']}",
        f"- made again: {', '.join(steps)}; "
        + "; ".join(f"{name}: {', '.join(map(str, values)) or 'all'}" for name, values in chosen),
        *(f"- setting {row['setting']}: {row['before']} → {row['after']}" for row in changed),
        *([] if changed else ["- with the settings in force"]),
        f"- alerts of the new candidates are {'sent, under new numbers' if form.get('resend') else 'not sent'}",
    ]
    return "\n".join([lines[0], "", *lines[1:]])


def _checked(context: Context, form: Mapping[str, Any]) -> list[str]:
    """The steps of a form whose name, reason and settings are in order; raises `ConfigurationError` where they are not."""
    steps = [step for step in STEPS if step in (form.get("steps") or STEPS)]
    if not str(form.get("author") or "").strip() or not str(form.get("reason") or "").strip():
        raise ConfigurationError("a request needs a name and a reason")
    if not steps:
        raise ConfigurationError(f"a request names what to make again: {', '.join(STEPS)}")
    changed_set(context.config, parsed(form.get("settings")))
    return steps


def file_request(context: Context, form: Mapping[str, Any]) -> tuple[int, str]:
    """Check a form, count what it touches, and put the request among those that wait.

    Parameters
    ----------
    context : Context
    form : mapping
        ``nights``, ``fields``, ``rcids``, ``fids``, ``steps``, ``settings``, ``resend``, ``priority``, ``author``, ``reason``.

    Returns
    -------
    request_id : int
    line : str
        What it will do, in words.

    Raises
    ------
    ConfigurationError, NoWork
        Nothing was filed.
    """
    steps, selection = _checked(context, form), Selection.of(form)
    author, reason, changes = form.get("author"), form.get("reason"), parsed(form.get("settings"))
    counted = preview(context, selection, steps)
    values = {
        "author": author, "reason": reason, "selection": vars(selection), "steps": steps, "settings": changes,
        "resend": bool(form.get("resend")), "priority": int(form.get("priority") or 5), "preview": counted,
    }  # fmt: skip
    with database.transaction(context.dsn) as cursor:
        row = database.insert(cursor, "reprocessing_requests", values, "returning request_id")
        number = int(row["request_id"]) if row else 0
        cursor.execute(
            f"insert into reprocessing_items (request_id, filename, exposure) select {number}, f.filename, f.exposure from ({_FILES}) f",
            selection.parameters(),
        )
    return number, in_words(f"request {number}", counted)


def in_words(name: str, counted: Mapping[str, Any]) -> str:
    """One line about what a request touches."""
    cpu_s = counted["cpu_s"]
    cost = (
        ""
        if cpu_s is None
        else f", about {cpu_s / 3600:.1f} CPU-hours"
        if cpu_s >= 3600
        else f", about {cpu_s:.0f} CPU-s"
    )
    locked = f" ({counted['locked']} are locked and stay)" if counted["locked"] else ""
    return (
        f"{name}: {counted['files']} CCD files of {counted['exposures']} exposures; replaces {counted['products']} products,"
        f" {counted['bytes'] / 1e9:.2f} GB{locked}{cost}"
    )


# -- the work ----------------------------------------------------------------------------------------------------------


def begin(context: Context) -> list[dict[str, Any]]:
    """Take the request that comes first and share out its files, or as many of them as a run can take.

    Returns
    -------
    list of dict
        ``request_id`` and ``filenames`` for each call of `work`; empty when no request waits.
    """
    query = """
        update reprocessing_requests set state = 'running', started = coalesce(started, now()) where request_id = (
            select request_id from reprocessing_requests where state in ('running', 'waiting')
             order by state = 'running' desc, priority, request_id limit 1 for update skip locked) returning request_id"""
    with database.transaction(context.dsn) as cursor:
        found = database.rows(cursor, query)
        if not found:
            return []
        number = int(found[0]["request_id"])
        todo = database.rows(
            cursor,
            "select filename from reprocessing_items where request_id = %s and state in ('waiting', 'running')"
            " order by exposure desc, filename",
            (number,),
        )
    names = [row["filename"] for row in todo][: MOST_TASKS * MOST_FILES]
    size = max(1, math.ceil(len(names) / MOST_TASKS))
    return [{"request_id": number, "filenames": names[k : k + size]} for k in range(0, len(names), size)]


def work(
    context: Context, request_id: int, filenames: Sequence[str], run_id: str | None = None, attempt: int = 1
) -> list[str]:
    """Make some files of a request again; files of a request that is paused or cancelled are left as they are.

    Returns
    -------
    list of str
        One line for each file.

    Raises
    ------
    RetryLater, ServiceDown
        Try again: what is done is not repeated.
    """
    request = _request(context.dsn, request_id)
    context = replace(
        context,
        config=_settings(context, request),
        alerts=bool(request["resend"]),
        again=frozenset(request["steps"]),
    )
    said = []
    for filename in filenames:
        state = _request(context.dsn, request_id)["state"]
        said.append(
            f"{filename}: {_one(context, request_id, filename, run_id, attempt) if state == 'running' else state}"
        )
    return said


def _settings(context: Context, request: Mapping[str, Any]) -> ConfigSet:
    """The settings of a request; alerts that are sent again get numbers of their own, all else keeps those that it has."""
    settings = changed_set(context.config, request["settings"])
    if not request["resend"]:
        return settings
    version = min(99, settings.alerts.processing_version + int(request["request_id"]))
    return settings.model_copy(update={"alerts": settings.alerts.model_copy(update={"processing_version": version})})


def _request(dsn: str, request_id: int) -> dict[str, Any]:
    """The row of a request; raises `ConfigurationError` for an unknown one."""
    row = database.fetch_one(dsn, "select * from reprocessing_requests where request_id = %s", (request_id,))
    if row is None:
        raise ConfigurationError(f"there is no reprocessing request {request_id}")
    return row


def _one(context: Context, request_id: int, filename: str, run_id: str | None, attempt: int) -> str:
    """One file: keep what is served now, make it again, note what is served then."""
    where = (request_id, filename)
    with database.transaction(context.dsn) as cursor:
        item = database.rows(
            cursor, "select * from reprocessing_items where request_id = %s and filename = %s for update", where
        )[0]
        if item["state"] in ("done", "unchanged"):
            return str(item["state"])
        before = item["before"] or snapshot(cursor, filename)
        _note(cursor, where, state="running", before=before, run_id=run_id)
    try:
        outcome = process_ccd(context, filename, None, run_id, attempt)
    except (RetryLater, ServiceDown):
        raise
    except Exception as error:
        with database.transaction(context.dsn) as cursor:
            _note(cursor, where, state="failed", reason=f"{type(error).__name__}: {error}"[:1000])
            _file_as_before(cursor, filename, before["file"])  # what is served has not changed
        log.exception("request %d: %s failed", request_id, filename)
        return "failed"
    with database.transaction(context.dsn) as cursor:
        made = served(cursor, filename)
        state = "unchanged" if made == before["products"] else "done"
        _note(cursor, where, state=state, made={"products": made}, reason=outcome.reason)
        summaries.of_exposure(cursor, item["exposure"])
    return state


def _note(cursor: Cursor, where: tuple[int, str], **values: Any) -> None:
    """Change the row of an item."""
    ended = values["state"] not in ("running", "waiting")
    names = ", ".join(f"{name} = %s" for name in values)
    statement = f"update reprocessing_items set {names}, {'ended' if ended else 'started'} = now() where request_id = %s and filename = %s"
    cursor.execute(statement, [*(database.plain(value) for value in values.values()), *where])


def served(cursor: Cursor, filename: str) -> list[int]:
    """Numbers of the products of a CCD file that are served now."""
    query = """
        select p.product_id from products p join ccdfiles c on c.exposure = p.exposure and c.ccdid = p.ccdid
         where c.filename = %s and p.vbest > 0 and p.step = any(%s) order by 1"""
    return [row["product_id"] for row in database.rows(cursor, query, (filename, list(STEPS)))]


def snapshot(cursor: Cursor, filename: str) -> dict[str, Any]:
    """What a roll-back needs: the products that are served, and the rows of differences and candidates."""
    rows = database.rows(cursor, "select exposure, ccdid, state, reason from ccdfiles where filename = %s", (filename,))
    if not rows:
        raise ConfigurationError(f"{filename} is not registered")
    where = (rows[0]["exposure"], 4 * (rows[0]["ccdid"] - 1), 4 * rows[0]["ccdid"] - 1)
    found: dict[str, Any] = {"products": served(cursor, filename), "file": rows[0]}
    query = "select to_jsonb(t) as row from {} t where exposure = %s and rcid between %s and %s and nid = %s"
    nid = ids.nid_of_date(str(rows[0]["exposure"])[4:12])
    for table in ("diffimages", "candidates"):
        found[table] = [row["row"] for row in database.rows(cursor, query.format(table), (*where, nid))]
    return found


def finish(context: Context, request_id: int) -> str:
    """Close a request whose files have all been made; one that was paused or cancelled stays so. Returns one line."""
    with database.transaction(context.dsn) as cursor:
        counts = _counts(cursor, request_id)
        open_ = counts["waiting"] + counts["running"]
        line = f"request {request_id}: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items()) if n)
        if not open_:
            cursor.execute(
                "update reprocessing_requests set state = 'done', ended = now(), outcome = %s where request_id = %s and state = 'running'",
                (line, request_id),
            )
    return line


def more(context: Context) -> bool:
    """Whether files of a request that goes on were not shared out, so that another run has to take them."""
    query = """
        select 1 from reprocessing_items i join reprocessing_requests r using (request_id)
         where r.state = 'running' and i.state = 'waiting' limit 1"""
    return bool(database.fetch_all(context.dsn, query))


def _counts(cursor: Cursor, request_id: int) -> dict[str, int]:
    """Files of a request by state."""
    counts: dict[str, int] = defaultdict(int)
    query = "select state, count(*) as n from reprocessing_items where request_id = %s group by 1"
    counts.update({row["state"]: int(row["n"]) for row in database.rows(cursor, query, (request_id,))})
    return counts


# -- control -----------------------------------------------------------------------------------------------------------

_ALLOWED = {
    "pause": (("waiting", "running"), "paused"),
    "resume": (("paused",), "waiting"),
    "cancel": (("waiting", "running", "paused"), "cancelled"),
}


def control(context: Context, request_id: int, action: str) -> str:
    """Pause, resume, cancel or roll back a request; returns one line.

    Raises
    ------
    ConfigurationError
        The action does not exist, or not in the state of the request.
    """
    if action == "roll_back":
        return roll_back(context, request_id)
    if action not in _ALLOWED:
        raise ConfigurationError(f"{action!r} is not an action: {', '.join([*_ALLOWED, 'roll_back'])}")
    states, target = _ALLOWED[action]
    request = _request(context.dsn, request_id)
    with database.transaction(context.dsn) as cursor:
        cursor.execute(
            "update reprocessing_requests set state = %s where request_id = %s and state = any(%s)",
            (target, request_id, list(states)),
        )
        if not cursor.rowcount:
            raise ConfigurationError(f"request {request_id} is {request['state']}: it cannot be {target}")
    return f"request {request_id} is {target}"


def roll_back(context: Context, request_id: int) -> str:
    """Serve again what was served before a request, file by file; files that were changed since are left and named.

    Alerts that were sent stay sent.
    """
    request = _request(context.dsn, request_id)
    if request["state"] in ("running", "rolled_back"):
        raise ConfigurationError(
            f"request {request_id} is {request['state']}: pause it first"
            if request["state"] == "running"
            else f"request {request_id} is rolled back"
        )
    items = database.fetch_all(
        context.dsn,
        "select * from reprocessing_items where request_id = %s and before is not null and state <> 'rolled_back'",
        (request_id,),
    )
    kept = []
    for item in items:
        with database.transaction(context.dsn) as cursor:
            if not _put_back(cursor, item):
                kept.append(item["filename"])
    with database.transaction(context.dsn) as cursor:
        line = f"request {request_id}: {len(items) - len(kept)} files are served as before"
        line += f"; {len(kept)} were changed since and stay: {', '.join(kept[:3])}" if kept else ""
        cursor.execute(
            "update reprocessing_requests set state = 'rolled_back', ended = now(), outcome = %s where request_id = %s",
            (line, request_id),
        )
    return line


def _put_back(cursor: Cursor, item: Mapping[str, Any]) -> bool:
    """Serve the old versions of one file; False where a later work has replaced what the request made."""
    before, made = item["before"], (item["made"] or {}).get("products")
    now = served(cursor, item["filename"])
    if made is not None and now != made:
        return False
    if now != before["products"]:
        new = [number for number in now if number not in before["products"]]
        cursor.execute("update products set vbest = 0 where product_id = any(%s) and vbest = 1", (new,))
        cursor.execute("update products set vbest = 1 where product_id = any(%s) and vbest = 0", (before["products"],))
    _put_back_rows(cursor, item["exposure"], before)
    _file_as_before(cursor, item["filename"], before["file"])
    summaries.of_exposure(cursor, item["exposure"])
    cursor.execute(
        "update reprocessing_items set state = 'rolled_back' where request_id = %s and filename = %s",
        (item["request_id"], item["filename"]),
    )
    return True


def _file_as_before(cursor: Cursor, filename: str, file: Mapping[str, Any]) -> None:
    """State and reason of a CCD file as they were."""
    values = (file["state"], file["reason"], filename)
    cursor.execute("update ccdfiles set state = %s, reason = %s where filename = %s", values)


def _put_back_rows(cursor: Cursor, exposure: str, before: Mapping[str, Any]) -> None:
    """Rows of differences and candidates as they were."""
    ccdid, nid = int(before["file"]["ccdid"]), ids.nid_of_date(exposure[4:12])
    now = database.rows(
        cursor,
        "select pid from diffimages where exposure = %s and rcid between %s and %s",
        (exposure, 4 * ccdid - 4, 4 * ccdid - 1),
    )
    for pid in sorted({row["pid"] for row in now} | {row["pid"] for row in before["diffimages"]}):
        candidates.remove(cursor, nid, pid)
        cursor.execute("delete from diffimages where pid = %s", (pid,))
    for row in before["diffimages"]:
        cursor.execute(
            "insert into diffimages select * from jsonb_populate_record(null::diffimages, %s)", (database.plain(row),)
        )
    rows = before["candidates"]
    candidates.insert_candidates(
        cursor, exposure, rows, [row["objectid"] for row in rows], [row["alerted"] for row in rows]
    )


# -- side by side ------------------------------------------------------------------------------------------------------


def compare(dsn: str, request_id: int, most_files: int | None = None) -> list[dict[str, Any]]:
    """Quality figures of what a request made beside those of what it replaced.

    Parameters
    ----------
    dsn : str
    request_id : int
    most_files : int, optional
        Of a larger request so many files, chosen by the hash of their names; without it all.

    Returns
    -------
    list of dict
        ``step``, ``name``, ``n`` (quadrants with both), ``old`` and ``new`` (medians), ``change`` (median difference),
        ``scatter`` (half the 16-84 percentile range of the differences), ``old_values`` and ``new_values``.
    """
    with database.session(dsn):
        old, new = _replaced(dsn, request_id, most_files)
        both = [(old[name], new[name]) for name in old.keys() & new.keys() if old[name] != new[name]]
        figures = _figures(dsn, [provenance for pair in both for provenance in pair])
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for before, after in both:
        for key in figures[before].keys() & figures[after].keys():
            pairs[key].append((figures[before][key], figures[after][key]))
    return sorted((_compared(key, values) for key, values in pairs.items()), key=_place)


def _replaced(dsn: str, request_id: int, most_files: int | None) -> tuple[dict[str, str], dict[str, str]]:
    """Provenance ids before and after a request, by dataset."""
    items = """
        select before -> 'products' as old, made -> 'products' as new from reprocessing_items
         where request_id = %s and state in ('done', 'rolled_back') order by hashtext(filename) limit %s"""
    query = "select distinct dataset, provenance_id from products where product_id = any(%s)"
    found = database.fetch_all(dsn, items, (request_id, most_files))
    numbers = ([number for row in found for number in row[which] or []] for which in ("old", "new"))
    old, new = ({r["dataset"]: r["provenance_id"] for r in database.fetch_all(dsn, query, (n,))} for n in numbers)
    return old, new


def _figures(dsn: str, provenances: list[str]) -> dict[str, dict[tuple[str, str], float]]:
    """Known quality figures of executions: by provenance id, then by step and name."""
    query = (
        "select provenance_id, step, name, value from qa_metrics where provenance_id = any(%s) and value is not null"
    )
    found: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for row in database.fetch_all(dsn, query, (provenances,)):
        found[row["provenance_id"]][row["step"], row["name"]] = row["value"]
    return found


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The figures that people look at first come first."""
    name = row["name"]
    return (row["step"], COMPARED.index(name) if name in COMPARED else len(COMPARED), name)


def _compared(key: tuple[str, str], values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """One figure, old and new."""
    old, new = np.array(values, float).T
    low, high = np.percentile(new - old, (16, 84))
    return {
        "step": key[0], "name": key[1], "n": len(values), "old": float(np.median(old)), "new": float(np.median(new)),
        "change": float(np.median(new - old)), "scatter": float(high - low) / 2,
        "old_values": old.tolist(), "new_values": new.tolist(),
    }  # fmt: skip
