"""The contingencies that a survey must survive: each function injects one into a night of a sandbox and repairs it as an operator would."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ztfds.drills.names import TITLES
from ztfds.drills.sandbox import Report, Sandbox
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import airflow
from ztfds.simulator import night
from ztfds.simulator.schedule import Plan
from ztfds.survey import ids
from ztfds.survey.errors import ServiceDown

OUTAGE_S = 15.0
"""How long a service stays away before the operator starts it again, s."""
BAD_FILES = (
    "truncated@0:6", "unreadable@1:6", "mislabelled@2:7", "offgrid@3:6", "duplicate@4:6", "late@5:6", "missing_keyword@6:6",
    "bad_checksum@7:7", "conflicting@8:7", "wrong_size@9:6",
)  # fmt: skip
WRONG_WORDS = ("wrong_program@0:6", "wrong_pointing@1:6")


@dataclass
class Acted:
    """What a drill did, and what the score must know of it.

    Attributes
    ----------
    plan : Plan
        The night.
    repaired : float
        Monotonic time at which the cause was gone, s.
    spoiled : int
        Files that the drill itself made unusable: they end in a named state other than processed.
    state : str
        State in which every other file must end.
    outcome : str
        How the run that closes the night must end: ``failed`` where there is something that a person must see.
    problems : list of str
        What the drill itself saw that should not have been.
    """

    plan: Plan
    repaired: float = field(default_factory=time.monotonic)
    spoiled: int = 0
    state: str = "processed"
    outcome: str = "success"
    problems: list[str] = field(default_factory=list)

    def check(self, condition: bool, problem: str) -> None:
        """Note a problem unless something is so."""
        if not condition:
            self.problems.append(problem)


@dataclass(frozen=True)
class Contingency:
    """One thing that goes wrong.

    Attributes
    ----------
    name : str
        Name of the drill.
    title : str
        In words.
    act : callable
        Inject it into a night of a sandbox, repair it, tell what was done.
    """

    name: str
    title: str
    act: Callable[[Sandbox, Report], Acted]


# -- services ----------------------------------------------------------------------------------------------------------


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _work_begun(sandbox: Sandbox, plan: Plan) -> None:
    sandbox.wait(lambda: len(sandbox.states(plan)) >= 2, "work has begun")


def database_down(sandbox: Sandbox, report: Report) -> Acted:
    """The server is killed in mid-night and stays away for a while."""
    plan = sandbox.plan(5)
    sandbox.send(plan)
    _work_begun(sandbox, plan)
    pid = EmbeddedPostgres(sandbox.home).status().pid
    assert pid is not None
    _kill(pid)
    report(f"PostgreSQL killed; away for {OUTAGE_S:.0f} s")
    time.sleep(OUTAGE_S)
    sandbox.restart()
    return Acted(plan)


def broker_down(sandbox: Sandbox, report: Report) -> Acted:
    """No broker while a whole night is processed: alerts wait, nothing else does."""
    plan = sandbox.plan(4)
    _kill(sandbox.pid("kafka"))
    sandbox.send(plan)
    files = len(plan.exposures) * len(sandbox.context.camera.ccdids)
    sandbox.wait(lambda: list(sandbox.states(plan).values()).count("processed") == files, "all is processed", 300)
    waiting = sandbox.waiting_alerts(plan)
    report(f"the night is processed without a broker; {waiting} alerts wait")
    sandbox.restart()
    acted = Acted(plan)
    acted.check(waiting > 0, "no alert waited while the broker was away")
    return acted


def scheduler_restarted(sandbox: Sandbox, report: Report) -> Acted:
    """Scheduler and its workers, inbox watcher and api-server die in mid-night, one after the other."""
    plan = sandbox.plan(5)
    sandbox.send(plan)
    _work_begun(sandbox, plan)
    for service in ("scheduler", "ingestd", "api-server"):
        _kill(sandbox.pid(service))
        report(f"{service} killed")
    time.sleep(OUTAGE_S / 3)
    sandbox.restart()
    return Acted(plan)


def worker_killed(sandbox: Sandbox, report: Report) -> Acted:
    """A worker dies in the middle of a quadrant: between its files being moved and their registration."""
    plan = sandbox.plan(4)
    write_faults(sandbox, [{"at": "difference:moved", "do": "kill", "once": f"kill-{plan.dates[0]}"}])
    sandbox.send(plan)
    mark = sandbox.faults.with_name(f"{sandbox.faults.name}.kill-{plan.dates[0]}")
    sandbox.wait(mark.exists, "a worker kills itself", 200)
    report("a worker was killed between moving its products and registering them")
    write_faults(sandbox, [])
    return Acted(plan)


def store_full(sandbox: Sandbox, report: Report) -> Acted:
    """The archive store has no room for the products of a while, then lags."""
    plan = sandbox.plan(4)
    write_faults(sandbox, [{"at": "science:before_write", "do": "full"}])
    sandbox.send(plan)
    refused = "select count(*) from jobs where error_class = 'store_down' and exposure like %s"
    pattern = f"ztf_{plan.dates[0]}%"
    sandbox.wait(lambda: sandbox.count(refused, (pattern,)) > 1, "the store refuses products", 120)
    acted = Acted(plan)
    acted.check("processed" not in sandbox.states(plan).values(), "something was called processed without a product")
    report(f"the store was full for {sandbox.count(refused, (pattern,))} attempts; now it lags")
    write_faults(sandbox, [{"at": "*:before_write", "do": "slow", "seconds": 0.5}])
    acted.repaired = time.monotonic()
    sandbox.wait(lambda: sandbox.settled(plan), "everything is done", 400)
    write_faults(sandbox, [])
    return acted


def write_faults(sandbox: Sandbox, rules: Sequence[dict[str, Any]]) -> None:
    """Set the faults that the step runner heeds; none takes them away."""
    if not rules:
        sandbox.faults.unlink(missing_ok=True)
        return
    draft = sandbox.faults.with_suffix(".part")
    draft.write_text(json.dumps(list(rules)))
    draft.replace(sandbox.faults)


# -- data --------------------------------------------------------------------------------------------------------------


def link_backlog(sandbox: Sandbox, report: Report) -> Acted:
    """The link was down: the manifest is there first, then the whole night at once, in any order."""
    plan = sandbox.plan(8)
    outside = sandbox.home / "backlog" / plan.dates[0]
    files = sandbox.stage(plan, outside)
    random.Random(1).shuffle(files)
    files.sort(key=lambda path: path.suffix != ".json")
    for path in files:
        path.rename(sandbox.home / "inbox" / path.name)
    report(f"{len(files)} files arrived at once in any order, the manifest before them")
    return Acted(plan)


def bad_files(sandbox: Sandbox, report: Report) -> Acted:
    """Files truncated, unreadable, mislabelled, off the grid, doubled, late, without keywords, changed, of a wrong size."""
    plan = sandbox.plan(12)
    sandbox.send(plan, BAD_FILES)
    report(f"sent with {len(BAD_FILES)} faults")
    return Acted(plan, spoiled=7, outcome="failed")


def wrong_metadata(sandbox: Sandbox, report: Report) -> Acted:
    """A program that does not exist, and a header that points five degrees away."""
    plan = sandbox.plan(4)
    sandbox.send(plan, WRONG_WORDS)
    report("sent with a wrong program id and a wrong pointing")
    return Acted(plan, spoiled=2, outcome="failed")


def night_resent(sandbox: Sandbox, report: Report) -> Acted:
    """The operator sends a finished night again."""
    plan = sandbox.plan(3)
    sandbox.send(plan)
    sandbox.finish(plan)
    before = sandbox.account(plan)
    sandbox.send(plan)
    inbox = sandbox.home / "inbox"
    sandbox.wait(lambda: not list(inbox.glob("*.fits.fz")), "second copies are taken away")
    acted, files = Acted(plan), len(plan.exposures) * len(sandbox.context.camera.ccdids)
    sandbox.wait(lambda: sandbox.account(plan).duplicates_received == files, f"{files} duplicates are recognised", 120)
    after = sandbox.account(plan)
    acted.check(
        (after.alerts, after.archived) == (before.alerts, before.archived), "the second sending made something new"
    )
    return acted


def calibration_missing(sandbox: Sandbox, report: Report) -> Acted:
    """The afternoon's frames never come: the last valid calibration is used, and every product says how old it is."""
    plan = sandbox.plan(3)
    sandbox.send(plan)
    sandbox.finish(plan)
    acted = Acted(plan)
    ages = sandbox.query(
        "select min(q.value) as age_d, count(*) as n from qa_metrics q join products p using (provenance_id)"
        " where q.name = 'calibration_age_d' and p.kind = 'sciimg' and p.nid = %s",
        (ids.nid_of_date(plan.dates[0]),),
    )[0]
    quadrants = 4 * len(plan.exposures) * len(sandbox.context.camera.ccdids)
    acted.check(ages["n"] == quadrants, f"{ages['n']} of {quadrants} images tell the age of their calibration")
    acted.check((ages["age_d"] or 0.0) > 0.5, "an image claims calibrations of its own afternoon")
    report(f"processed with calibrations of {ages['age_d'] or 0:.1f} d")
    return acted


def reference_missing(sandbox: Sandbox, report: Report) -> Acted:
    """A filter without references: images are calibrated, nothing is differenced, and the state says so."""
    plan = sandbox.plan(2, filters=("zi",), n_bias=6, n_flat=6)
    sandbox.send(plan, parts=(night.CALIBRATION,))
    sandbox.await_run("calibration", f"cal_{plan.dates[0]}")
    sandbox.send(plan)
    report("sent exposures in a filter that has calibrations and no reference")
    return Acted(plan, state="calibrated")


# -- alerts ------------------------------------------------------------------------------------------------------------


def detection_repeated(sandbox: Sandbox, report: Report) -> Acted:
    """One night's detections: a worker killed, the broker away, and every run repeated three times: one alert each."""
    plan = sandbox.plan(3)
    _kill(sandbox.pid("kafka"))
    write_faults(sandbox, [{"at": "difference:before_commit", "do": "kill", "once": f"kill-{plan.dates[0]}"}])
    sandbox.send(plan)
    files = len(plan.exposures) * len(sandbox.context.camera.ccdids)
    sandbox.wait(lambda: list(sandbox.states(plan).values()).count("processed") == files, "all is processed", 300)
    write_faults(sandbox, [])
    report("processed with a killed worker and without a broker; every run is repeated three times")
    for _ in range(3):
        rerun(sandbox, plan)
        time.sleep(OUTAGE_S / 3)
    sandbox.restart()
    acted = Acted(plan)
    rerun(sandbox, plan)
    return acted


def rerun(sandbox: Sandbox, plan: Plan) -> int:
    """Clear every task of the runs of a night's exposures, as an operator does on the page; returns how many runs."""
    client = airflow.api(sandbox.state)
    runs = client.runs("exposure", f"ztf_{plan.dates[0]}")
    for run in runs:
        body = {"dry_run": False, "dag_run_id": run["dag_run_id"], "only_failed": False, "reset_dag_runs": True}
        status, answer = client.call("POST", "/api/v2/dags/exposure/clearTaskInstances", body)
        if status >= 400:
            raise ServiceDown(f"Airflow refuses to repeat {run['dag_run_id']} ({status}): {answer}")
    client.close()
    return len(runs)


CONTINGENCIES = tuple(Contingency(name, title, globals()[name]) for name, title in TITLES.items())
"""All of them, in the order in which `ztfds drill` runs them."""
BY_NAME = {contingency.name: contingency for contingency in CONTINGENCIES}
