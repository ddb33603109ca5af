"""A running tiny survey to which tests send nights, kill services, and ask what became of the files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ztfds.operations.accountability import Account, account
from ztfds.operations.context import Context
from ztfds.operations.services import airflow, stack
from ztfds.operations.services.state import State, load
from ztfds.operations.summary import Summary
from ztfds.registry import database
from ztfds.simulator import night
from ztfds.simulator.rehearsal import read_topics, run_state
from ztfds.simulator.schedule import Plan, make_plan
from ztfds.survey import ids

FINAL = ("processed", "calibrated", "bad", "failed", "quarantined", "missing")


@dataclass
class Observatory:
    """A running tiny survey with references, to which more nights can be sent."""

    home: Path
    context: Context
    summary: Summary
    field: int

    @property
    def state(self) -> State:
        found = load(self.home)
        assert found is not None
        return found

    def plan(self, date: str, exposures: int) -> Plan:
        """One more night of science on the same sky."""
        return make_plan(
            self.context.camera, date, fields=[self.field], filter_codes=("zr",), n_exposures=exposures, n_reference=0,
            n_bias=0, n_flat=0, programs=(1, 2, 3),
        )  # fmt: skip

    def send(self, plan: Plan, faults: Sequence[str] = (), accelerate: float = math.inf) -> None:
        """Send a night at once (late and repeated files last), with its manifest."""
        night.simulate(
            self.home / "inbox", None, self.home / "truth", plan, 0, cadence_s=1.0, accelerate=accelerate, faults=faults,
            parts=(night.NIGHT,),
        )  # fmt: skip

    def finish(self, plan: Plan, limit_s: float = 300.0) -> str:
        """Wait for the end of the night; returns the state of its DAG run."""
        client = airflow.api(self.state)
        run, deadline = f"eon_{plan.dates[0]}", time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if (outcome := run_state(client, "end_of_night", run)) in ("success", "failed"):
                client.close()
                return str(outcome)
            time.sleep(1.0)
        raise AssertionError(f"{run} did not end within {limit_s:.0f} s; {self.states(plan)}")

    def states(self, plan: Plan) -> dict[str, str]:
        """State of every CCD file of a night."""
        query = "select filename, state from ccdfiles where exposure like %s"
        return {
            r["filename"]: r["state"] for r in database.fetch_all(self.context.dsn, query, (f"ztf_{plan.dates[0]}%",))
        }

    def account(self, plan: Plan) -> Account:
        """What became of a night's files."""
        return account(self.context, ids.nid_of_date(plan.dates[0]))

    def assert_alerts_once(self, plan: Plan) -> None:
        """Every alert of the night is in the outbox as sent and in the topics exactly once."""
        rows = database.fetch_all(
            self.context.dsn,
            "select candid, topic, state from alert_outbox where nid = %s",
            (ids.nid_of_date(plan.dates[0]),),
        )
        assert rows, "no alert was made"
        assert {row["state"] for row in rows} == {"sent"}
        sent = read_topics(self.state.bootstrap_servers, sorted({row["topic"] for row in rows}))
        assert sorted(sent) == sorted(row["candid"] for row in rows)

    def assert_clean(self, plan: Plan, outcome: str) -> None:
        """Everything of the night is processed, archived and accounted for, every alert sent once."""
        result = self.account(plan)
        assert result.differences == []
        assert outcome == "success"
        assert (result.sent, result.archived) == (len(plan.exposures) * 2, len(plan.exposures) * 2)
        assert set(self.states(plan).values()) == {"processed"}
        self.assert_alerts_once(plan)

    def wait(self, condition: Callable[[], bool], what: str, limit_s: float = 90.0) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
            time.sleep(0.1)

    def restart(self) -> None:
        """What the operator does: start what died."""
        stack.start(self.home, report=print)
