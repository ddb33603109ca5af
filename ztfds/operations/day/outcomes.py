"""Outcomes of day tasks: one line for each run, kept in the database and shown on a page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ztfds.registry import database
from ztfds.survey.errors import DatabaseDown, NoWork, ZtfdsError

log = logging.getLogger(__name__)

STATES = ("ok", "warn", "failed")
"""From good to bad: nothing to do, to look at by day, to look at now."""
LONGEST_LINE = 400


@dataclass(frozen=True)
class Outcome:
    """How a run of a day task ended.

    Attributes
    ----------
    state : {'ok', 'warn', 'failed'}
    line : str
        One line for a person.
    figures : mapping
        The numbers behind it.
    """

    state: str
    line: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, line: str, *, warnings: Sequence[str] = (), failures: Sequence[str] = (), **figures: Any) -> Outcome:
        """An outcome as bad as the worst that is said of it; failures and warnings follow the line and are kept as figures."""
        state = "failed" if failures else "warn" if warnings else "ok"
        said = [*failures, *warnings]
        more = f" ({len(said) - 3} more)" if len(said) > 3 else ""
        words = "; ".join([line, *said[:3]]) + more
        return cls(state, words, {**figures, **({"problems": said} if said else {})})


def one_line(text: str) -> str:
    """A text as one line of bounded length."""
    words = " ".join(text.split()) or "nothing was said"
    return words if len(words) <= LONGEST_LINE else f"{words[: LONGEST_LINE - 1]}…"


def settle(
    dsn: str, task: str, run_id: str, work: Callable[[], Outcome], *, subject: str = "", attempt: int = 1
) -> Outcome:
    """Do the work of a day task and keep its outcome, also when it fails.

    Parameters
    ----------
    dsn : str
        Database as ``ztf_pipeline``.
    task, run_id : str
        Name of the DAG and of its run; a repetition of a run replaces its line.
    work : callable
        Does the work.
    subject : str
        Night (``YYYYMMDD``) it is about, if any.
    attempt : int

    Returns
    -------
    Outcome

    Raises
    ------
    Exception
        Whatever the work raises, after its line was kept; NoWork leaves no line.
    """
    began = datetime.now(UTC)
    try:
        outcome = work()
    except NoWork:
        raise
    except Exception as error:
        said = f"{error.code}: {error}" if isinstance(error, ZtfdsError) else f"{type(error).__name__}: {error}"
        _keep_quietly(dsn, task, run_id, Outcome("failed", said), subject, attempt, began)
        raise
    keep(dsn, task, run_id, outcome, subject=subject, attempt=attempt, started=began)
    return outcome


def _keep_quietly(
    dsn: str, task: str, run_id: str, outcome: Outcome, subject: str, attempt: int, began: datetime
) -> None:
    """Keep the line of a failure; where the database is what failed, the log has it."""
    try:
        keep(dsn, task, run_id, outcome, subject=subject, attempt=attempt, started=began)
    except DatabaseDown:
        log.error("%s: %s", task, outcome.line)


def keep(
    dsn: str, task: str, run_id: str, outcome: Outcome, *, subject: str = "", attempt: int = 1, started: datetime
) -> None:
    """Write the line of a run, in place of an earlier one of the same run."""
    values = {
        "task": task,
        "subject": subject,
        "run_id": run_id,
        "attempt": attempt,
        "started": started,
        "state": outcome.state,
        "line": one_line(outcome.line),
        "figures": dict(outcome.figures),
    }
    tail = (
        "on conflict (task, subject, run_id) do update set attempt = excluded.attempt, started = excluded.started,"
        " ended = now(), state = excluded.state, line = excluded.line, figures = excluded.figures"
    )
    with database.transaction(dsn) as cursor:
        database.insert(cursor, "task_outcomes", values, tail)
    log.info("%s%s: %s: %s", task, f" of {subject}" if subject else "", outcome.state, values["line"])


def newest(dsn: str, task: str) -> dict[str, Any] | None:
    """The last outcome of a task, None if it never ran."""
    query = "select * from task_outcomes where task = %s order by ended desc, outcome_id desc limit 1"
    return database.fetch_one(dsn, query, (task,))


def newest_good(dsn: str, task: str) -> dict[str, Any] | None:
    """The last outcome of a task that did not fail, None if there is none."""
    query = (
        "select * from task_outcomes where task = %s and state <> 'failed' order by ended desc, outcome_id desc limit 1"
    )
    return database.fetch_one(dsn, query, (task,))


def recent(dsn: str, limit: int = 200) -> list[dict[str, Any]]:
    """Newest outcomes of all tasks, the newest first."""
    return database.fetch_all(
        dsn, "select * from task_outcomes order by ended desc, outcome_id desc limit %s", (limit,)
    )


def latest_of_each(dsn: str) -> list[dict[str, Any]]:
    """The last outcome of every task, the worst first."""
    query = """
        select o.*, (select count(*) from task_outcomes f where f.task = o.task and f.state = 'failed'
                      and f.ended > now() - interval '30 days')::integer as failed_30d
          from (select distinct on (task) * from task_outcomes order by task, ended desc, outcome_id desc) o
         order by array_position(array['failed', 'warn', 'ok'], state), task"""
    return database.fetch_all(dsn, query)
