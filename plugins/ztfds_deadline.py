"""The deadline of alerts, by rule 10 minutes from the arrival of an exposure. A plugin of its own, so that no other can break it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk.definitions.deadline import BaseDeadlineReference, deadline_reference

log = logging.getLogger(__name__)

ALERTS_DUE_MIN = 10.0
"""Where the trigger rules cannot be read [min]."""


@deadline_reference()
class ExposureArrival(BaseDeadlineReference):
    """``conf["arrival"]`` of the run; a run without an arrival has no deadline."""

    required_kwargs = {"dag_id", "run_id"}

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str, **_: Any) -> datetime | None:
        """Look up the arrival of one run."""
        return _arrival(session, dag_id, run_id)


@deadline_reference()
class ExposureArrivalDeadline(BaseDeadlineReference):
    """So long after the arrival of the run as the trigger rules say; a run without an arrival has no deadline."""

    required_kwargs = {"dag_id", "run_id"}

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str, **_: Any) -> datetime | None:
        """Look up the arrival of one run, and how long its DAG may take."""
        arrival, minutes = _arrival(session, dag_id, run_id), _minutes(dag_id)
        return arrival + timedelta(minutes=minutes) if arrival and minutes else None


def _arrival(session: Any, dag_id: str, run_id: str) -> datetime | None:
    """When the files of a run arrived, as its configuration says."""
    from airflow.models import DagRun
    from sqlalchemy import select

    query = select(DagRun.conf).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    arrival = (session.scalar(query) or {}).get("arrival")
    return datetime.fromisoformat(arrival) if arrival else None


def _minutes(dag_id: str) -> float | None:
    """How long a run of a DAG may take by the rules, min; None: as long as it likes."""
    try:
        from ztfds_priority import rules_source

        work = rules_source()().work(dag_id)
    except Exception:  # whatever it is, the deadline counts
        log.exception("deadline of %s as shipped", dag_id)
        return ALERTS_DUE_MIN
    return work.deadline_min if work else ALERTS_DUE_MIN


async def note_slow(context: dict[str, Any], **_: Any) -> str:
    """Note with an exposure that it missed the goal of 5 minutes, and its stage; nobody is told. Returns the line that it logged."""
    exposure, conf = _about(context)
    stage = await asyncio.to_thread(_note, exposure, conf, "goal")
    line = f"exposure {exposure} has missed the goal of {context['deadline']['deadline_time']}, stage {stage}"
    log.info(line)
    return line


def _about(context: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name of the exposure of a run, and the configuration of the run."""
    run = context["dag_run"]
    conf = run.get("conf") or {}
    return conf.get("exposure") or run["dag_run_id"].split("__")[0], conf


async def report_late(context: dict[str, Any], **_: Any) -> str:
    """Note that an exposure is late: in its row (with the stage it is in), in the log, and to the people whom the settings name.

    Runs in the triggerer; returns the line that it logged.
    """
    exposure, conf = _about(context)
    stage = await asyncio.to_thread(_note, exposure, conf)
    line = f"exposure {exposure} is late: no alerts by {context['deadline']['deadline_time']}, stage {stage}"
    log.warning(line)
    await asyncio.to_thread(_tell, line, {"exposure": exposure, "stage": stage})
    return line


def due(hours: float) -> Any:
    """A deadline of a day task: so long after its run was queued its line of outcome must be there."""
    from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference

    interval, callback = timedelta(hours=hours), AsyncCallback(report_overdue)
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=interval, callback=callback, name="day task"
    )


async def report_overdue(context: dict[str, Any], **_: Any) -> str:
    """Say that a day task is overdue: as its line of outcome, in the log, and to the people whom the settings name."""
    run = context["dag_run"]
    line = f"{run['dag_id']} is overdue: not finished by {context['deadline']['deadline_time']}"
    log.warning(line)
    await asyncio.to_thread(_note_overdue, run["dag_id"], f"{run['dag_run_id']} (overdue)", line)
    await asyncio.to_thread(_tell, line, {"dag": run["dag_id"], "run": run["dag_run_id"]})
    return line


def _note_overdue(dag_id: str, run_id: str, line: str) -> None:
    """Keep the line among the outcomes."""
    from ztfds_tasks import library_context

    from ztfds.operations.day.outcomes import Outcome, keep

    keep(library_context().dsn, dag_id, run_id, Outcome("failed", line), started=datetime.now(UTC))


def _note(exposure: str, conf: dict[str, Any], missed: str = "deadline") -> str:
    """Store the miss with the exposure, which is registered first if nothing of it was ingested; returns its stage."""
    from ztfds_tasks import library_context

    from ztfds.registry import exposures

    library = library_context()
    row = exposures.find(library.dsn, exposure)
    stage = exposures.reached_stage(row) if row else "not ingested"
    values = None if row else _from_names(library, exposure, conf)
    exposures.note_late(library.dsn, exposure, stage, values=values, missed=missed)
    return stage


def _from_names(library: Any, exposure: str, conf: dict[str, Any]) -> dict[str, Any] | None:
    """What the file names of a run tell of its exposure; None when none of them is that of a raw file of it."""
    from ztfds.operations.receive import exposure_values
    from ztfds.survey.errors import BadName
    from ztfds.survey.names import RawName

    arrival = conf.get("arrival")
    for entry in conf.get("files") or []:
        try:
            name = RawName.parse(entry["name"])
        except (BadName, KeyError, TypeError):
            continue
        if name.exposure == exposure:
            return exposure_values(library, name, None, datetime.fromisoformat(arrival) if arrival else None)
    return None


def _tell(line: str, content: dict[str, Any]) -> None:
    """Tell people, by webhook and mail as the settings say; what cannot be told is said in the log, and nothing waits for it."""
    from ztfds_tasks import library_context

    from ztfds.survey.errors import ZtfdsError

    try:
        if not library_context().notifier.tell(line, content):
            _mail(line)
    except ZtfdsError as error:
        log.error("%s", error)


def _mail(line: str) -> None:
    """Where the settings name nobody: mail by the connection ``smtp_default``, if it exists and names people in its extra (``to``)."""
    import smtplib

    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowException

    try:
        extra = Connection.get("smtp_default").extra_dejson
    except AirflowException:
        return
    if recipients := extra.get("to"):
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        try:
            SmtpNotifier(to=recipients, subject=line, html_content=line).notify({})
        except (OSError, smtplib.SMTPException, AirflowException) as error:
            log.error("no mail about %r: %s: %s", line, type(error).__name__, error)


class ZtfdsDeadline(AirflowPlugin):
    """Makes the deadline known to Airflow."""

    name = "ztfds_deadline"
    deadline_references = [ExposureArrival, ExposureArrivalDeadline]
