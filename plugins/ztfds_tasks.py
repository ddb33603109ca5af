"""What the DAG files share: where things are, priorities, and how the library's errors become Airflow's verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, RetryAction, RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from ztfds.operations.context import Context
    from ztfds.operations.day.outcomes import Outcome

SCIENCE = "science"
LIGHT = "light"
"""Pool of tasks that compute nothing: alerts and states must not wait for a core."""
FIRST_DELAY_S = 10.0
LONGEST_DELAY_S = 600.0
TRIES_OF_BUGS = 3


class ByConsequence(RetryPolicy):
    """Retries what the library says is worth it, with longer and longer pauses; fails at once what is not.

    Errors that are not the library's are bugs or passing troubles of the machine: three tries.
    """

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Decide from the class of the error."""
        from ztfds.survey.errors import ZtfdsError

        if not isinstance(exception, ZtfdsError):
            name = type(exception).__name__
            return (
                RetryDecision.default()
                if try_number < TRIES_OF_BUGS
                else RetryDecision.fail(f"{name}, {try_number} times")
            )
        if not exception.retry:
            return RetryDecision.fail(f"{exception.code}: not worth a retry")
        delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (try_number - 1))
        return RetryDecision(RetryAction.RETRY, timedelta(seconds=delay), exception.code)

    def serialize(self) -> dict[str, Any]:
        """There is nothing to configure."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> ByConsequence:
        """Make it again."""
        return cls()


WEIGHT_RULE = "ztfds_priority.ByRules"
"""Weights come from the trigger rules in force; those below count for DAGs without a rule, and where the rules cannot be read."""


def defaults(queue: str, weight: int) -> dict[str, Any]:
    """Arguments of every task: one pool, a queue, a weight, retries by consequence.

    Tasks are short because nothing is pre-empted.
    """
    return {
        "pool": SCIENCE,
        "queue": queue,
        "priority_weight": weight,
        "weight_rule": WEIGHT_RULE,
        "retries": 10,
        "retry_delay": timedelta(seconds=FIRST_DELAY_S),
        "retry_policy": ByConsequence(),
        "do_xcom_push": False,
    }


REALTIME = defaults("realtime", 1000)
CALIBRATION = defaults("realtime", 900)
REFERENCE = defaults("bulk", 300)
NIGHTLY = {**defaults("realtime", 200), "pool": LIGHT}
"""The night's closing computes little, and must not wait for the references of the night."""
TELEMETRY = {**defaults("bulk", 150), "pool": LIGHT}
REPROCESSING = defaults("bulk", 50)
BULK = defaults("bulk", 40)
MONTHLY = defaults("bulk", 10)
DAY = {**defaults("bulk", 50), "pool": "day", "retries": 4, "execution_timeout": timedelta(hours=2)}
"""Operators' day tasks: in a pool of their own, because some last for hours and must hold up neither images nor alerts."""

SIGNATURES = ("who", "author", "analyst")
"""Fields of forms in which people give their name."""


def who() -> Param:
    """The field of a form for the name of who fills it in."""
    words = "Your name; empty: the account with which you are logged in, which is kept in any case."
    return Param(None, type=["null", "string"], title="Who", description=words)


def lines(title: str, description: str, **more: Any) -> Param:
    """A field of a form that takes several words or numbers, one a line."""
    return Param([], type=["null", "array"], items={"type": "string"}, title=title, description=description, **more)


def form() -> dict[str, Any]:
    """The form of the present run, signed: the name that was typed with the account that filed it, or the account alone."""
    from airflow.sdk import get_current_context

    run = get_current_context()
    account, filled = run["dag_run"].triggering_user_name or "", dict(run["params"])
    for name in SIGNATURES:
        if name in filled:
            typed = str(filled[name] or "").strip()
            other = account and typed and account != typed
            filled[name] = f"{typed} (account {account})" if other else typed or account
    return filled


def library_context() -> Context:
    """Build the library's context from the Connections ztfds_postgres, ztfds_archive and ztfds_kafka, with approved settings."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook
    from airflow.sdk import Connection

    from ztfds.operations.context import Context
    from ztfds.operations.control.changes import in_force
    from ztfds.operations.memory import keep_freed_memory

    keep_freed_memory()
    places = Connection.get("ztfds_archive").extra_dejson
    kafka = Connection.get("ztfds_kafka").extra_dejson
    uri = PostgresHook("ztfds_postgres").get_uri()  # names SQLAlchemy's driver, which libpq does not know
    return in_force(Context.build(f"postgresql://{uri.split('://', 1)[1]}", places, kafka))


@contextmanager
def library() -> Iterator[Context]:
    """Give a task the library's context, and keep what the library says; an error that means "nothing to do" skips the task."""
    from dataclasses import replace

    from airflow.sdk import get_current_context
    from airflow.sdk.exceptions import AirflowSkipException

    from ztfds.registry.messages import About, collected
    from ztfds.registry.runner import Task
    from ztfds.survey.errors import NoWork

    run = get_current_context()
    ti, conf = run["ti"], run["dag_run"].conf or {}
    waited = (ti.start_date - run["dag_run"].run_after).total_seconds() if ti.try_number == 1 else None
    task = Task(ti.dag_id, ti.task_id, ti.map_index if ti.map_index is not None else -1, waited)
    said_by = {
        "dag": task.dag,
        "task": task.task,
        "map_index": task.map_index,
        "run_id": ti.run_id,
        "try": ti.try_number,
    }
    try:
        context = replace(library_context(), task=task)
        with collected(context.dsn, said_by, About(exposure=conf.get("exposure"))):
            yield context
    except NoWork as reason:
        raise AirflowSkipException(str(reason)) from reason


def of_run(name: str) -> Any:
    """What the configuration of the present run says, e.g. ``night`` or ``manifest`` (empty: closed without, or again)."""
    from airflow.sdk import get_current_context

    return get_current_context()["dag_run"].conf[name]


def nid_of_run() -> int:
    """Number of the night that the present run is about."""
    from ztfds.survey.ids import nid_of_date

    return nid_of_date(of_run("night"))


def day_run(work: Callable[[Context, dict[str, Any]], Outcome], *, subject: str = "", part: str = "") -> str:
    """Do a day task with the form of its run, keep its one line of outcome and return it; a failed outcome fails the task.

    Parameters
    ----------
    work : callable
        From the library's context and the form (Params of the run) to the outcome.
    subject : str
        Night (``YYYYMMDD``) it is about, if any.
    part : str
        Name of the part of the DAG whose outcome it is, if it has several.
    """
    from airflow.sdk import get_current_context
    from airflow.sdk.exceptions import AirflowFailException

    from ztfds.operations.day.outcomes import settle

    run = get_current_context()
    name = f"{run['dag_run'].dag_id}: {part}" if part else run["dag_run"].dag_id
    filled, ti = form(), run["ti"]
    with library() as context:
        outcome = settle(
            context.dsn, name, run["run_id"], lambda: work(context, filled), subject=subject, attempt=ti.try_number
        )
    if outcome.state == "failed":
        raise AirflowFailException(outcome.line)
    return outcome.line
