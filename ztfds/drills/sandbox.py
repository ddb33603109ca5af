"""A sandbox: a small survey of its own, with services, references and calibrations, to which drills send nights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ztfds.operations.accountability import Account, account
from ztfds.operations.context import Context
from ztfds.operations.control.changes import approve_shipped
from ztfds.operations.services import airflow, stack
from ztfds.operations.services.state import State, load
from ztfds.operations.summary import Summary
from ztfds.registry import database
from ztfds.simulator import night
from ztfds.simulator.rehearsal import DATE, Rehearsal, context_of, on_sky, read_topics, run_state
from ztfds.simulator.schedule import Plan, make_plan
from ztfds.survey import ids
from ztfds.survey.errors import ConfigurationError, ServiceDown

Report = Callable[[str], None]
FINAL = ("processed", "calibrated", "bad", "failed", "quarantined", "missing")
"""States of CCD files in which nothing more is expected to happen."""


@dataclass
class Sandbox:
    """A running tiny survey with references, to which more nights can be sent.

    Attributes
    ----------
    home : Path
        Folder that keeps everything.
    context : Context
        The library's view of it.
    fields : tuple of int
        Fields that have references.
    summary : Summary or None
        Of the rehearsal that prepared it, where this process did.
    """

    home: Path
    context: Context
    fields: tuple[int, ...]
    summary: Summary | None = None

    @property
    def state(self) -> State:
        """What is remembered of the services."""
        found = load(self.home)
        if found is None:
            raise ConfigurationError(f"no services were ever started in {self.home}")
        return found

    @property
    def faults(self) -> Path:
        """File through which faults reach the step runner."""
        return Path(str(self.state.places["faults"]))

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of the survey's database."""
        return database.fetch_all(self.context.dsn, statement, tuple(parameters))

    def count(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """The one number that a query answers."""
        return int(next(iter(self.query(statement, parameters)[0].values())) or 0)

    # -- nights --------------------------------------------------------------------------------------------------------

    def next_date(self) -> str:
        """The first UT date (YYYYMMDD) after all nights that this sandbox has seen."""
        last = self.count("select max(nid) from nights")
        day = datetime.strptime(DATE, "%Y%m%d") + timedelta(days=last - ids.nid_of_date(DATE) + 1)
        return max(day.strftime("%Y%m%d"), (datetime.strptime(DATE, "%Y%m%d") + timedelta(days=1)).strftime("%Y%m%d"))

    def plan(self, exposures: int, date: str | None = None, filters: Sequence[str] = ("zr",), **more: Any) -> Plan:
        """One more night of science on the same sky, the next one by default.

        Parameters
        ----------
        exposures : int
        date : str, optional
            UT date, YYYYMMDD.
        filters : sequence of str
            Filter codes.
        **more
            Further arguments of `make_plan`, e.g. ``n_bias``.
        """
        settings: dict[str, Any] = {"n_reference": 0, "n_bias": 0, "n_flat": 0, "programs": (1, 2, 3), **more}
        return make_plan(
            self.context.camera, date or self.next_date(), fields=list(self.fields[:1]), filter_codes=filters,
            n_exposures=exposures, **settings,
        )  # fmt: skip

    def send(self, plan: Plan, faults: Sequence[str] = (), parts: Sequence[str] = (night.NIGHT,)) -> None:
        """Send a night at once (late and repeated files last), with its manifest."""
        night.simulate(
            self.home / "inbox", None, self.home / "truth", plan, 0, cadence_s=1.0, accelerate=math.inf, faults=faults,
            parts=tuple(parts),
        )  # fmt: skip

    def stage(self, plan: Plan, folder: Path) -> list[Path]:
        """Render a night into a folder of the same file system instead of the inbox; the manifest is the last file."""
        night.simulate(
            folder, None, self.home / "truth", plan, 0, cadence_s=1.0, accelerate=math.inf, parts=(night.NIGHT,)
        )
        files = sorted(folder.glob("*.fits.fz"))
        return [*files, *sorted(folder.glob("*manifest.json"))]

    def finish(self, plan: Plan, limit_s: float = 400.0) -> str:
        """Wait for the end of the night; returns the state of its DAG run: ``success`` or ``failed``."""
        return self.await_run("end_of_night", f"eon_{plan.dates[0]}", limit_s)

    def await_run(self, dag: str, run: str, limit_s: float = 400.0) -> str:
        """Wait for the end of a DAG run; returns its state. Raises `ServiceDown` when it does not end in time."""
        client, deadline = airflow.api(self.state), time.monotonic() + limit_s
        try:
            while time.monotonic() < deadline:
                if (outcome := run_state(client, dag, run)) in ("success", "failed"):
                    return str(outcome)
                time.sleep(1.0)
        finally:
            client.close()
        raise ServiceDown(f"{run} did not end within {limit_s:.0f} s")

    # -- what became of them -------------------------------------------------------------------------------------------

    def states(self, plan: Plan) -> dict[str, str]:
        """State of every on-sky CCD file of a night."""
        statement = """
            select c.filename, c.state from ccdfiles c join exposures e using (exposure)
             where e.exposure like %s and e.imgtype = 'o'"""
        rows = self.query(statement, (f"ztf_{plan.dates[0]}%",))
        return {row["filename"]: row["state"] for row in rows}

    def settled(self, plan: Plan) -> bool:
        """Whether every file of a night is in a final state and every alert has been acknowledged."""
        states = self.states(plan)
        whole = len(states) >= self.on_sky_files(plan)
        return whole and all(state in FINAL for state in states.values()) and not self.waiting_alerts(plan)

    def on_sky_files(self, plan: Plan) -> int:
        """CCD files of the on-sky exposures of a night."""
        return len(on_sky(plan, 0)) * len(self.context.camera.ccdids)

    def waiting_alerts(self, plan: Plan) -> int:
        """Alerts of a night that the broker has not acknowledged."""
        statement = "select count(*) from alert_outbox where nid = %s and state <> 'sent'"
        return self.count(statement, (ids.nid_of_date(plan.dates[0]),))

    def account(self, plan: Plan) -> Account:
        """What became of a night's files."""
        return account(self.context, ids.nid_of_date(plan.dates[0]))

    def alerts(self, plan: Plan) -> tuple[list[int], list[int]]:
        """Candidate numbers of a night's alerts: those in the outbox, and those in the topics with repetitions."""
        rows = self.query("select candid, topic from alert_outbox where nid = %s", (ids.nid_of_date(plan.dates[0]),))
        queued = sorted(row["candid"] for row in rows)
        topics = sorted({row["topic"] for row in rows})
        if not queued:
            return [], []
        wanted = set(queued)
        sent = [candid for candid in read_topics(self.state.bootstrap_servers, topics) if candid in wanted]
        return queued, sorted(sent)

    def wait(self, condition: Callable[[], bool], what: str, limit_s: float = 90.0) -> None:
        """Wait until something is so; raises `ServiceDown` when it is not in time."""
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise ServiceDown(f"not within {limit_s:.0f} s: {what}")
            time.sleep(0.1)

    def restart(self) -> None:
        """What the operator does: start what died."""
        stack.start(self.home, report=_silent)

    def pid(self, service: str) -> int:
        """Process id of a service."""
        return self.state.processes[service].pid

    def close(self) -> None:
        """Stop the services; what was made stays on disk."""
        stack.stop(self.home)


def prepared(home: Path, report: Report) -> Sandbox:
    """A running sandbox in a folder: the one that is there, or a new one by a rehearsal of the tiny camera.

    Raises
    ------
    ServiceDown
        The rehearsal had problems: drills on top of it would prove nothing.
    """
    home = Path(home).resolve()
    found = load(home)
    if found is not None and (home / "summary.json").exists():
        stack.start(home, report=report)
        context = context_of(found)
        approve_shipped(context.dsn, context, "sandbox")  # of another version of the software, perhaps
        rows = database.fetch_all(context.dsn, "select distinct field from references_ where status = 1 and vbest > 0")
        if rows:
            return Sandbox(home, context, tuple(sorted(row["field"] for row in rows)))
    rehearsal = Rehearsal("tiny", home, report, faults=True)
    summary = rehearsal.run()
    if summary.problems:
        raise ServiceDown(f"the sandbox is not sound: {'; '.join(summary.problems)}")
    return Sandbox(rehearsal.home, rehearsal.context, tuple(rehearsal.plan.fields), summary)


def _silent(line: str) -> None:
    """Progress that nobody wants to see."""
