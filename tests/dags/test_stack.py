"""All services for real: start, duplicate runs, late runs, kills, and nothing left after stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import airflow, kafka, stack, supervise
from ztfds.operations.services.rest import AirflowApi
from ztfds.operations.services.state import Settings, State

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(not find_spec("airflow"), reason="Airflow is not installed (extra 'services')"),
]

SETTINGS = Settings(camera="TINY", config_set="tiny", patience_s=3.0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder that is stopped whatever happens."""
    folder = tmp_path_factory.mktemp("services") / "var"
    yield folder
    stack.stop(folder)
    EmbeddedPostgres(folder).destroy()


@pytest.fixture
def up(home: Path) -> State:
    """The services, started where they do not run."""
    return stack.start(home, settings=SETTINGS)


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
    assert AirflowApi(up.api_url, "admin", up.passwords["admin"]).dags() >= airflow.DAGS


def test_a_file_in_the_inbox_becomes_a_run(up: State, api: AirflowApi) -> None:
    partial = up.home / "inbox" / "not a survey file.txt.part"
    partial.write_text("hello")
    partial.rename(partial.with_suffix(""))
    assert supervise.wait_until(lambda: bool(api.runs("exposure", "unnamed__")), 60)
    (run,) = api.runs("exposure", "unnamed__")
    assert finished(api, run["dag_run_id"]) == "success"
    assert not (up.home / "inbox" / "not a survey file.txt").exists()


def test_a_late_exposure_is_noticed(up: State, api: AirflowApi) -> None:
    name = "ztf_20261120000002"
    absent = f"{name}_000601_zr_c06_o.fits.fz"  # never came: the task tries again and again
    api.trigger("exposure", name, conf(name, absent, arrived=timedelta(minutes=9, seconds=55)), partition_key=name)
    log = up.logs / "triggerer.log"
    written = [log, *(up.logs / "airflow").rglob("*.log")]
    line = f"exposure {name} is late"

    def noticed() -> bool:
        nonlocal written
        written = [log, *(up.logs / "airflow").rglob("*.log")]
        return any(line in file.read_text(errors="replace") for file in written)

    assert supervise.wait_until(noticed, 90, 1.0)
    _, answer = api.call("GET", f"/api/v2/dags/exposure/dagRuns/{name}/taskInstances?limit=10")
    weights = {entry["task_id"]: entry["priority_weight"] for entry in answer["task_instances"]}
    day = (date(2026, 11, 20) - date(2017, 1, 1)).days
    assert weights == dict.fromkeys(("received", "process_ccd", "close"), 100_000 * day), "the newest exposure first"
    api.call("PATCH", f"/api/v2/dags/exposure/dagRuns/{name}", {"state": "failed"})


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
