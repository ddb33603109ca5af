"""The page *Runs*: what ran, when, where, with what, how long, how it ended; searched by exposure, night, step, host, state and class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from ztfds.operations.pages.render import page
from ztfds.registry import database
from ztfds.survey import ids
from ztfds.survey.errors import ZtfdsError

PAGE = 100
"""Executions on one page."""
FILTERS = {
    "exposure": "exposure = %(exposure)s",
    "night": "nid = %(night)s",
    "rcid": "rcid = %(rcid)s",
    "step": "step = %(step)s",
    "host": "host = %(host)s",
    "state": "state = %(state)s",
    "class": "error_class = %(class)s",
    "run": "run_id = %(run)s",
    "before": "job_id < %(before)s",
}
"""What can be searched for, and its condition."""
SHOWN = tuple(name for name in FILTERS if name not in ("before",))
NUMBERS = ("rcid", "before")
_JOBS = """
    select job_id, step, dataset, exposure, rcid, run_id, try, host, pid, started, ended, cpu_s, wall_s, peak_mb, state, error_class,
           error_text, dag, task, map_index, waited_s, swversion, config_hash from jobs {where} order by job_id desc limit %(limit)s"""
_MESSAGES = """
    select at, level, source, text, step, exposure, rcid, dag, task, map_index, run_id, try, host from messages
     {where} order by message_id desc limit 50"""
_CHOICES = """
    with recursive known as (
        (select step from jobs order by step limit 1)
        union all select (select j.step from jobs j where j.step > k.step order by j.step limit 1) from known k where k.step is not null)
    select step from known where step is not null"""
STATES = ("running", "done", "skipped", "error", "killed")


def runs_page(dsn: str, query: Mapping[str, str]) -> str:
    """Executions of steps that fit, the newest first, with what their tasks said.

    Parameters
    ----------
    dsn : str
    query : mapping
        Names of `FILTERS` with values as text; what is empty or no name of these is not heeded, a value that cannot be is said.
    """
    asked = {name: str(query[name]).strip() for name in FILTERS if str(query.get(name) or "").strip()}
    parameters, wrong = _parameters(asked)
    with database.session(dsn):
        jobs = database.fetch_all(dsn, _JOBS.format(where=_where(parameters)), {**parameters, "limit": PAGE + 1})
        about = {
            name: value
            for name, value in parameters.items()
            if name in ("exposure", "night", "rcid", "step", "host", "run")
        }
        said = database.fetch_all(dsn, _MESSAGES.format(where=_where(about)), about)
        steps = [row["step"] for row in database.fetch_all(dsn, _CHOICES)]
    more = len(jobs) > PAGE
    jobs = jobs[:PAGE]
    kept = {name: value for name, value in asked.items() if name != "before"}
    for row in (*jobs, *said):
        row["href"] = task_address(row)
    return page(
        "runs",
        jobs=jobs,
        messages=said,
        asked=asked,
        wrong=wrong,
        choices={"step": steps, "state": STATES},
        shown=SHOWN,
        older=urlencode({**kept, "before": jobs[-1]["job_id"]}) if more else None,
        newest=urlencode(kept) if "before" in asked else None,
    )


def _parameters(asked: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Values of a query as the database takes them, and what is not understood, in words."""
    values: dict[str, Any] = {}
    wrong = []
    for name, value in asked.items():
        try:
            values[name] = (
                ids.nid_of_date(value.replace("-", "")) if name == "night" else int(value) if name in NUMBERS else value
            )
        except (ValueError, ZtfdsError):
            wrong.append(f"{name}: {value!r} is not {'a UT date YYYYMMDD' if name == 'night' else 'a number'}")
    return values, wrong


def _where(parameters: Mapping[str, Any]) -> str:
    """The condition of a query; only conditions of `FILTERS` are in it, never a value."""
    return "where " + " and ".join(FILTERS[name] for name in parameters) if parameters else ""


def task_address(row: Mapping[str, Any]) -> str | None:
    """Where Airflow shows a try of a task with its log; None for work that no task did."""
    if not row["dag"] or not row["run_id"]:
        return None
    mapped = f"/mapped/{row['map_index']}" if (row["map_index"] or 0) >= 0 and row["map_index"] is not None else ""
    return f"/dags/{quote(row['dag'])}/runs/{quote(row['run_id'], safe='')}/tasks/{quote(row['task'])}{mapped}?try_number={row['try']}"
