"""What the DAG files share: where things are, priorities, and how the library's errors become Airflow's verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryAction, RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from ztfds.operations.context import Context
    from ztfds.operations.day.outcomes import Outcome

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


def defaults(queue: str, weight: int) -> dict[str, Any]:
    """Arguments of every task: one pool, a queue, an absolute weight, retries by consequence.

    Weights: 1000 what alerts wait for, 100 the night's closing, 10 bulk work. Tasks are short because nothing is pre-empted.
    """
    return {
        "pool": "science",
        "queue": queue,
        "priority_weight": weight,
        "weight_rule": "absolute",
        "retries": 10,
        "retry_delay": timedelta(seconds=FIRST_DELAY_S),
        "retry_policy": ByConsequence(),
        "do_xcom_push": False,
    }


REALTIME = defaults("realtime", 1000)
NIGHTLY = defaults("realtime", 100)
BULK = defaults("bulk", 10)
DAY = {**defaults("bulk", 50), "pool": "day", "retries": 4, "execution_timeout": timedelta(hours=2)}
"""Operators' day tasks: in a pool of their own, because some last for hours and must hold up neither images nor alerts."""


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
    """Give a task the library's context; an error that means "nothing to do" skips the task."""
    from airflow.sdk.exceptions import AirflowSkipException

    from ztfds.survey.errors import NoWork

    try:
        yield library_context()
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
    form, ti = dict(run["params"]), run["ti"]
    with library() as context:
        outcome = settle(
            context.dsn, name, run["run_id"], lambda: work(context, form), subject=subject, attempt=ti.try_number
        )
    if outcome.state == "failed":
        raise AirflowFailException(outcome.line)
    return outcome.line
