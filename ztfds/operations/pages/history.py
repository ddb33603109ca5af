"""The page *Run history*: what ran, when, where, with what, how long, after what wait, and how it ended."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ztfds.operations.pages.render import page
from ztfds.registry import database
from ztfds.survey.errors import FilesMissing

SHOWN = 200
STATES = ("running", "done", "skipped", "error", "killed")

_NEWEST = "select max(started) as at from jobs"
_STEPS = """
    select step, count(*) as n, count(*) filter (where state in ('error', 'killed')) as failed,
           count(*) filter (where state = 'running') as running, avg(wall_s) filter (where state = 'done') as wall_s,
           sum(cpu_s) as cpu_s, max(wall_s) as longest_s
      from jobs where started >= %(since)s and started < %(until)s group by step order by step"""
_JOBS = """
    with found as (
        select * from jobs where {when} and (%(step)s::text is null or step = %(step)s) and (%(state)s::text is null or state = %(state)s)
           and (%(failed)s is false or state in ('error', 'killed'))
           and (%(text)s::text is null or strpos(dataset, %(text)s) > 0 or strpos(host, %(text)s) > 0
                or strpos(error_class, %(text)s) > 0 or strpos(lower(error_text), lower(%(text)s)) > 0)
         order by started desc, job_id desc limit %(most)s)
    select j.job_id, j.step, j.dataset, j.exposure, j.rcid, j.run_id, j.try, j.host, j.pid, j.started, j.ended, j.cpu_s, j.wall_s,
           j.peak_mb, j.state, j.error_class, j.error_text, extract(epoch from j.started - e.arrival) as wait_s, w.swversion, w.config_hash
      from found j left join exposures e using (exposure)
      left join lateral (select swversion, config_hash from products p
                          where p.exposure = j.exposure and p.rcid = j.rcid and p.job_id = j.job_id limit 1) w on true
     order by j.started desc, j.job_id desc"""
_DAY = "started >= %(since)s and started < %(until)s"
_EXPOSURE = "exposure = %(exposure)s"


@dataclass(frozen=True)
class Search:
    """What is looked for; empty text: everything.

    Attributes
    ----------
    day : str
        UT date of the start, YYYY-MM-DD; the newest that has work without it.
    exposure : str
        Name of an exposure, of any day.
    step, state : str
        Names; the state ``failed`` stands for both ``error`` and ``killed``.
    text : str
        Part of the data set, host, class or message of the error.
    before : str
        Only what started earlier, ISO time: the next page.
    """

    day: str = ""
    exposure: str = ""
    step: str = ""
    state: str = ""
    text: str = ""
    before: str = ""

    def parameters(self, newest: dt.datetime) -> dict[str, Any]:
        """Parameters of the queries.

        Raises
        ------
        FilesMissing
            A day or time that is none.
        """
        try:
            day = dt.date.fromisoformat(self.day) if self.day else newest.date()
            since = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
            until = since + dt.timedelta(days=1)
            until = min(until, _time(self.before)) if self.before else until
        except ValueError as error:
            raise FilesMissing(f"there is no such day or time: {error}") from error
        return {
            "since": since, "until": until, "exposure": self.exposure, "step": self.step or None,
            "state": None if self.state in ("", "failed") else self.state, "failed": self.state == "failed",
            "text": self.text or None, "most": SHOWN,
        }  # fmt: skip


def _time(text: str) -> dt.datetime:
    """An ISO time, UTC."""
    found = dt.datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def history_page(dsn: str, search: Search) -> str:
    """Executions of steps that fit a search, the newest first, under a summary of the day."""
    with database.transaction(dsn) as cursor:
        newest = database.rows(cursor, _NEWEST)[0]["at"]
        if newest is None:
            return page("empty", title="Run history", text="Nothing has run yet.")
        asked = search.parameters(newest)
        steps = database.rows(cursor, _STEPS, {**asked, "until": asked["since"] + dt.timedelta(days=1)})
        jobs = database.rows(cursor, _JOBS.format(when=_EXPOSURE if search.exposure else _DAY), asked)
    older = jobs[-1]["started"].isoformat() if len(jobs) == SHOWN and not search.exposure else ""
    return page(
        "history",
        search=search,
        day=asked["since"].date(),
        steps=steps,
        jobs=jobs,
        older=_link(search, before=older) if older else "",
        yesterday=_link(search, day=str(asked["since"].date() - dt.timedelta(days=1)), before=""),
        tomorrow=_link(search, day=str(asked["since"].date() + dt.timedelta(days=1)), before=""),
        states=("failed", *STATES),
    )


def _link(search: Search, **changes: str) -> Mapping[str, str]:
    """The search with changes, as fields of an address."""
    return {name: value for name, value in {**vars(search), **changes}.items() if value}
