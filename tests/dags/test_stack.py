"""All services for real: start, duplicate runs, late runs, kills, and nothing left after stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from post import Post, post_office

from ztfds.config.triggers import TriggerRules
from ztfds.operations.control.triggers import ASK_EVERY_S, FILE
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import airflow, kafka, stack, supervise
from ztfds.operations.services.rest import AirflowApi, AirflowDown
from ztfds.operations.services.state import Settings, State
from ztfds.registry import database
from ztfds.survey.errors import ServiceDown

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(not find_spec("airflow"), reason="Airflow is not installed (extra 'services')"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder that is stopped whatever happens."""
    folder = tmp_path_factory.mktemp("services") / "var"
    yield folder
    stack.stop(folder)
    EmbeddedPostgres(folder).destroy()


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    """A mail server and a webhook."""
    with post_office() as opened:
        yield opened


@pytest.fixture
def up(home: Path, post: Post) -> State:
    """The services, started where they do not run; people are told by mail and webhook."""
    told = {"mail_to": "night@example.org", "smtp": post.smtp, "webhook": post.webhook}
    return stack.start(home, settings=Settings(camera="TINY", config_set="tiny", patience_s=3.0, notify=told))


@pytest.fixture
def api(up: State) -> Iterator[AirflowApi]:
    client = airflow.api(up)
    yield client
    client.close()


def run_of(api: AirflowApi, dag_id: str, run_id: str) -> dict[str, Any]:
    _, answer = api.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")
    return dict(answer)


def finished(api: AirflowApi, run_id: str, limit_s: float = 120.0) -> str:
    """Wait for an exposure's run; its state."""
    supervise.wait_until(lambda: run_of(api, "exposure", run_id)["state"] in ("success", "failed"), limit_s, 0.5)
    return str(run_of(api, "exposure", run_id)["state"])


def conf(exposure: str, *names: str, arrived: timedelta = timedelta()) -> dict[str, Any]:
    files = [{"name": name, "bytes": 1, "mtime_ns": 1, "ctime_ns": 1} for name in names]
    return {"arrival": (datetime.now(UTC) - arrived).isoformat(), "exposure": exposure, "files": files}


def test_everything_runs_and_a_second_start_changes_nothing(up: State) -> None:
    rows = {row.name: row for row in stack.status(up.home)}
    assert {name: row.state for name, row in rows.items()} == dict.fromkeys(("postgres", *stack.ORDER), "running")
    assert airflow.unhealthy(up) == {}
    assert kafka.healthy(up)
    again = stack.start(up.home)
    assert (again.processes, again.ports, again.settings) == (up.processes, up.ports, up.settings)


def test_a_run_sent_twice_exists_once(api: AirflowApi) -> None:
    name = "ztf_20261120000001"
    assert api.trigger("exposure", name, conf(name), partition_key=name)
    assert not api.trigger("exposure", name, conf(name), partition_key=name)
    body = {"dag_run_id": name, "logical_date": None, "partition_key": name, "conf": {}}
    assert api.call("POST", "/api/v2/dags/exposure/dagRuns", body)[0] == 409
    assert finished(api, name) == "success"
    assert [run["dag_run_id"] for run in api.runs("exposure", name)] == [name]


def test_the_accounts_have_their_rights_only(up: State) -> None:
    viewer = airflow.api(up, "viewer")
    body = {"dag_run_id": "x", "logical_date": None, "partition_key": "x", "conf": {}}
    assert viewer.call("POST", "/api/v2/dags/exposure/dagRuns", body)[0] == 403
    assert AirflowApi(up.api_url, "admin", up.passwords["admin"]).dags().keys() >= airflow.DAGS


def test_a_folder_is_ready_when_each_file_has_shown_a_dag_of_whatever_name(
    up: State, api: AirflowApi, tmp_path: Path
) -> None:
    folder = shutil.copytree(airflow.repository() / "dags", tmp_path / "dags")
    other = replace(up, settings=replace(up.settings, dags=str(folder)))
    (folder / "shared.py").write_text('"""Words that the DAG files of Airflow share."""\n')
    airflow.ensure_ready(other)
    assert "drill_night_resent" in api.dags() and "drill" not in api.dags(), "not every file is called like its DAG"
    (folder / "more.py").write_text("from airflow.sdk import DAG\n\nwith DAG('something'):\n    pass\n")
    assert airflow.missing_dags(other, api) == {"more.py"}
    with pytest.raises(ServiceDown, match=r"more\.py"):
        airflow.ensure_ready(other, timeout_s=0.5)


def test_a_file_in_the_inbox_becomes_a_run(up: State, api: AirflowApi) -> None:
    partial = up.home / "inbox" / "not a survey file.txt.part"
    partial.write_text("hello")
    partial.rename(partial.with_suffix(""))
    assert supervise.wait_until(lambda: bool(api.runs("exposure", "unnamed__")), 60)
    (run,) = api.runs("exposure", "unnamed__")
    assert finished(api, run["dag_run_id"]) == "success"
    assert not (up.home / "inbox" / "not a survey file.txt").exists()


def test_a_late_exposure_is_noticed_and_people_are_told(up: State, api: AirflowApi, post: Post) -> None:
    name = "ztf_20261120000002"
    absent = f"{name}_000601_zr_c06_o.fits.fz"  # never came: the task tries again and again
    api.trigger("exposure", name, conf(name, absent, arrived=timedelta(minutes=9, seconds=55)), partition_key=name)
    line = f"exposure {name} is late"
    dsn = EmbeddedPostgres(up.home).dsn("ztf_reader")
    query = "select late_stage, goal_stage from exposures where exposure = %s and late_stage is not null and goal_stage is not null"
    assert supervise.wait_until(lambda: bool(database.fetch_one(dsn, query, (name,))), 90, 1.0)
    assert supervise.wait_until(lambda: any(subject.startswith(line) for subject in post.subjects), 30, 0.5)
    stages = "not ingested", "arrived"  # the latter where the goal, missed before, has registered it already
    assert any(call.get("exposure") == name and call["stage"] in stages for call in post.calls)
    _, answer = api.call("GET", f"/api/v2/dags/exposure/dagRuns/{name}/taskInstances?limit=10")
    weights = {entry["task_id"]: entry["priority_weight"] for entry in answer["task_instances"]}
    assert weights == dict.fromkeys(("received", "process_ccd", "close"), of_day(20)), "the newest exposure first"
    api.call("PATCH", f"/api/v2/dags/exposure/dagRuns/{name}", {"state": "failed"})


def of_day(day: int) -> int:
    """Weight of an exposure in the first seconds of a day of November 2026, while exposures come first."""
    return 100_000 * (date(2026, 11, day) - date(2017, 1, 1)).days


def weight(api: AirflowApi, run_id: str, dag_id: str = "exposure", task_id: str = "received") -> int:
    _, answer = api.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")
    return int(answer["priority_weight"])


def change_rules(api: AirflowApi, run_id: str, **form: Any) -> None:
    """Fill in the operators' form and wait for its line of outcome."""
    form = {**form, "author": "Ada", "reason": "to see that it counts"}
    assert api.trigger("trigger_rules", run_id, form)
    supervise.wait_until(lambda: run_of(api, "trigger_rules", run_id)["state"] in ("success", "failed"), 60, 0.5)
    assert run_of(api, "trigger_rules", run_id)["state"] == "success"


def ended(api: AirflowApi, dag_id: str, run_id: str) -> bool:
    """Whether a run could be ended: Airflow answers 500 where its scheduler writes the same rows at that moment."""
    try:
        return api.call("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})[0] == 200
    except AirflowDown:
        return False


def begun_first(api: AirflowApi, number: int) -> str:
    """Let an exposure and an end of night wait for the same pool; tell which of them gets it first when it opens."""
    api.ensure_pool(airflow.LIGHT_POOL, 0)
    name, night = f"ztf_2026112{number}000009", f"eon_2026112{number}"
    conf_night = {"night": night[4:], "manifest": "none.json", "files": []}
    assert api.trigger("exposure", name, conf(name), partition_key=name)
    assert api.trigger("end_of_night", night, conf_night)
    firsts = (("exposure", name, "received"), ("end_of_night", night, "manifest"))

    def task(dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        return dict(api.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")[1])

    assert supervise.wait_until(lambda: all(task(*one)["state"] == "scheduled" for one in firsts), 60, 0.5)
    api.ensure_pool(airflow.LIGHT_POOL, 1)
    assert supervise.wait_until(lambda: all(task(*one)["start_date"] for one in firsts), 90, 0.5)
    order = sorted(firsts, key=lambda one: task(*one)["start_date"])
    api.ensure_pool(airflow.LIGHT_POOL, airflow.LIGHT_SLOTS)
    assert supervise.wait_until(lambda: ended(api, "end_of_night", night), 30, 1.0)
    return order[0][0]


def test_a_change_of_the_rules_turns_the_order_of_waiting_work_round(up: State, api: AirflowApi) -> None:
    assert begun_first(api, 1) == "exposure"
    assert (weight(api, "ztf_20261121000009"), weight(api, "eon_20261121", "end_of_night", "manifest")) == (
        of_day(21),
        200,
    )
    change_rules(api, "reverse", works=[{"dag": "end_of_night", "weight": 2000}])
    time.sleep(ASK_EVERY_S + 1)
    assert begun_first(api, 2) == "end_of_night", "no restart, no new file"
    assert (weight(api, "ztf_20261122000009"), weight(api, "eon_20261122", "end_of_night", "manifest")) == (1000, 2000)
    change_rules(api, "back", version=-1)


def test_what_a_rule_switches_off_waits_in_the_inbox(up: State, api: AirflowApi) -> None:
    change_rules(api, "off", triggers=[{"name": "others", "enabled": False}])
    time.sleep(ASK_EVERY_S + 1)
    before = {run["dag_run_id"] for run in api.runs("exposure", "unnamed__")}
    partial = up.home / "inbox" / "another.txt.part"
    partial.write_text("hello")
    partial.rename(partial.with_suffix(""))
    time.sleep(3)
    assert {run["dag_run_id"] for run in api.runs("exposure", "unnamed__")} == before
    assert (up.home / "inbox" / "another.txt").exists()
    change_rules(api, "on", triggers=[{"name": "others", "enabled": True}])
    assert supervise.wait_until(lambda: len(api.runs("exposure", "unnamed__")) > len(before), 60, 0.5)
    assert TriggerRules.model_validate_json((up.home / FILE).read_text()) == TriggerRules(), (
        "kept for a start without a database"
    )


def test_an_overdue_day_task_is_told_and_a_dead_mail_server_is_only_said(up: State, post: Post) -> None:
    script = (
        "import asyncio, logging; logging.basicConfig(); from ztfds_deadline import report_overdue;"
        " run = {'dag_id': 'backup', 'dag_run_id': 'test'};"
        " asyncio.run(report_overdue({'dag_run': run, 'deadline': {'deadline_time': 'noon'}}))"
    )
    dsns = {role: EmbeddedPostgres(up.home).dsn(role) for role in ("airflow", "ztf_pipeline", "ztf_reader")}
    for address in (post.smtp, "127.0.0.1:9"):
        notify = {"mail_to": "night@example.org", "smtp": address}
        variables = airflow.environment(replace(up, settings=replace(up.settings, notify=notify)), dsns)
        done = subprocess.run(
            [sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert "nobody could be told of 'backup is overdue" in done.stdout + done.stderr
    assert post.subjects.count("backup is overdue: not finished by noon") == 1
    kept = database.fetch_one(
        dsns["ztf_reader"], "select line from task_outcomes where task = 'backup' and run_id = 'test (overdue)'"
    )
    assert kept and kept["line"].startswith("backup is overdue")


def test_after_a_kill_of_the_scheduler_a_start_brings_back_what_is_missing(up: State, api: AirflowApi) -> None:
    killed = up.processes["scheduler"]
    os.kill(killed.pid, signal.SIGKILL)
    name = "ztf_20261120000003"
    assert api.trigger("exposure", name, conf(name), partition_key=name)
    assert {row.name: row.state for row in stack.status(up.home)}["scheduler"] == "dead"
    again = stack.start(up.home)
    assert again.processes["scheduler"].pid != killed.pid
    assert again.processes["api-server"] == up.processes["api-server"]
    assert finished(api, name) == "success"


def test_after_a_kill_of_the_database_and_the_broker_a_start_brings_them_back(up: State) -> None:
    database = EmbeddedPostgres(up.home).status().pid
    assert database
    for pid in (database, up.processes["kafka"].pid, up.processes["ingestd"].pid):
        os.kill(pid, signal.SIGKILL)
    time.sleep(2)
    again = stack.start(up.home)
    assert {row.name: row.state for row in stack.status(up.home)} == dict.fromkeys(
        ("postgres", *stack.ORDER), "running"
    )
    client = airflow.api(again)
    name = "ztf_20261120000004"
    assert client.trigger("exposure", name, conf(name), partition_key=name)
    assert finished(client, name) == "success"


def test_nothing_is_left_after_stop(up: State) -> None:
    stack.stop(up.home)
    assert supervise.members(up.instance) == []
    assert not EmbeddedPostgres(up.home).status().running
    mentioned = [
        p.info for p in psutil.process_iter(["pid", "cmdline"]) if str(up.home) in " ".join(p.info["cmdline"] or [])
    ]
    assert mentioned == []
    assert {row.state for row in stack.status(up.home)} == {"stopped"}
    stack.stop(up.home)
