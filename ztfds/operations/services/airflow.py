"""Airflow on one machine: the environment of its components, its tables, its accounts, its health.

Nothing of Airflow is imported: its components are separate processes, spoken to through their command line and REST.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

import ztfds
from ztfds.operations.machine import write_private
from ztfds.operations.services import supervise
from ztfds.operations.services.rest import AirflowApi, AirflowDown
from ztfds.operations.services.state import USERS, State
from ztfds.survey.errors import ConfigurationError, DatabaseDown, ServiceDown

logger = logging.getLogger(__name__)

COMPONENTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
"""Components and the arguments that start them; task logs are read from the common folder, so nobody serves them."""

HEALTH_KEYS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}

DAGS = frozenset({"exposure", "calibration", "reference", "end_of_night", "smooth_maps"})
"""The DAGs that have to be known before work can be sent."""

MAKES_DAGS = re.compile(r"\bDAG\(|^\s*@dag\b", re.MULTILINE)
"""What the text of a file that makes DAGs contains."""

POOL = "science"
LIGHT_POOL, LIGHT_SLOTS = "light", 4
DAY_POOL, DAY_SLOTS = "day", 2
MOST_SLOTS = 4
"""The pool has one slot a core, at most so many, unless the settings say otherwise."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def repository() -> Path:
    """Return the checkout that holds `dags` and `plugins`.

    Raises
    ------
    ConfigurationError
        The library was installed without them.
    """
    root = Path(ztfds.__file__).resolve().parent.parent
    if not (root / "dags").is_dir() or not (root / "plugins").is_dir():
        raise ConfigurationError(f"no folders dags and plugins in {root}: start the services from a checkout of ztfds")
    return root


def slots(wanted: int = 0) -> int:
    """Number of tasks that run at the same time: as many as are wanted; 0: one a core, at most four."""
    return wanted or max(1, min(MOST_SLOTS, len(os.sched_getaffinity(0))))


def connections(state: State, dsns: Mapping[str, str]) -> dict[str, str]:
    """Airflow Connections that tell the DAGs where things are, as environment variables.

    ``ztfds_postgres`` (the pipelines' role), ``ztfds_reader`` (that of the pages, which only reads),
    ``ztfds_kafka`` (extra: the client's configuration, empty where no broker can be
    run) and ``ztfds_archive`` (extra: home, roots, inbox, archive, quarantine, catalogs, camera, config).
    """
    archive = {**state.places, "roots": state.roots}
    kafka = {} if "kafka" in state.notes else {"bootstrap.servers": state.bootstrap_servers}
    return {
        "AIRFLOW_CONN_ZTFDS_POSTGRES": dsns["ztf_pipeline"],
        "AIRFLOW_CONN_ZTFDS_READER": dsns["ztf_reader"],
        "AIRFLOW_CONN_ZTFDS_KAFKA": json.dumps({"conn_type": "kafka", "extra": kafka}),
        "AIRFLOW_CONN_ZTFDS_ARCHIVE": json.dumps({"conn_type": "generic", "extra": archive}),
    }


def environment(state: State, dsns: Mapping[str, str]) -> dict[str, str]:
    """Build the whole environment of Airflow's components.

    Airflow settings of the caller's environment are not inherited (connections are): the home decides alone.

    Parameters
    ----------
    state : State
        Ports, secrets and settings of the home.
    dsns : mapping of str to str
        Connection URLs of PostgreSQL by role; ``airflow``, ``ztf_pipeline`` and ``ztf_reader`` are used.
    """
    root = repository()
    return {
        **process_environment(),
        "PYTHONPATH": os.pathsep.join(str(root / folder) for folder in ("", "plugins", "plugins/settings")),
        "AIRFLOW_HOME": str(state.home / "airflow"),
        "ZTFDS_PRELOAD": "1",
        **connections(state, dsns),
        **_settings(state, dsns["airflow"]),
    }


def process_environment() -> dict[str, str]:
    """Build the environment of any Python service of ours: the caller's without Airflow's settings, one thread a process."""
    dropped = ("AIRFLOW__", "AIRFLOW_HOME", "AIRFLOW_CONFIG", "PYTHONDONTWRITEBYTECODE", "ZTFDS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        **inherited,
        **dict.fromkeys(ONE_THREAD, "1"),  # tasks are the unit of parallelism; threads do not survive a fork
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(repository()),
        "PYTHONUNBUFFERED": "1",
        "SPT_NOENV": "1",  # process titles must not overwrite the environment, by which `stop` finds the processes
    }


def _settings(state: State, dsn: str) -> dict[str, str]:
    """Airflow's own settings; where one is not the default, the comment says why."""
    root = repository()
    named: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": state.settings.dags or root / "dags",
            "plugins_folder": root / "plugins",
            "load_examples": False,
            "executor": "ztfds_executor.PromptLocalExecutor",  # plugins/settings: notices ends of tasks at once
            # The pool limits the work to one task a core. The executor gets more workers, because the supervisor of a finished
            # task can sleep until its next heartbeat, while the task's slot of the pool is free at once.
            "parallelism": 2 * slots(state.settings.slots) + 8,
            "max_active_tasks_per_dag": 64,  # counted for each run; 16 would throttle wide mappings
            "max_active_runs_per_dag": 64,
            "max_map_length": 8192,  # references of a night: field x quadrant x filter
            "dags_are_paused_at_creation": False,
            "num_dag_runs_to_retain_rendered_fields": 0,  # they go with their run; a search for old ones costs every task
            "fernet_key": state.secrets["fernet_key"],
            "simple_auth_manager_users": ",".join(f"{user}:{role}" for user, role in USERS.items()),
            "simple_auth_manager_passwords_file": state.home / "airflow" / "passwords.json",
            "execution_api_server_url": f"{state.api_url}/execution/",
        },
        "database": {"sql_alchemy_conn": dsn.replace("postgresql://", "postgresql+psycopg2://", 1)},
        "api": {
            "host": "127.0.0.1",
            "port": state.ports["api"],
            "base_url": state.api_url,
            "workers": 1,
            "secret_key": state.secrets["api_secret_key"],
        },
        "api_auth": {"jwt_secret": state.secrets["jwt_secret"]},
        "workers": {
            "min_heartbeat_interval": 3,  # each beat costs 10 ms of the api-server and PostgreSQL, for every running task
            "max_failed_heartbeats": 20,
            "execution_api_timeout": 30,
        },
        "scheduler": {
            "scheduler_idle_sleep_time": 0.1,  # the executor waits instead, and is woken by tasks that end
            # Each loop looks first at new runs, then at those not looked at for longest. Queued tasks start anyway, and every
            # run more costs 15 ms a loop, of which there is one for each task.
            "max_dagruns_per_loop_to_schedule": 3,
            "orphaned_tasks_check_interval": 15,  # after a kill of the scheduler its tasks are taken up soon
            "scheduler_health_check_threshold": 20,
            "task_instance_heartbeat_timeout": 60,  # the default is 300 s
        },
        "dag_processor": {
            "refresh_interval": 30,
            "min_file_process_interval": 120,
            "parsing_processes": 1,
            "print_stats_interval": 0,
        },
        "logging": {
            "base_log_folder": state.logs / "airflow",
            "dag_processor_child_process_log_directory": state.logs / "airflow" / "dag_processor",
            "colored_console_log": False,
            # Every call of a task would write a line; what became of a task is in its own log and in the tables.
            "namespace_levels": "http.access=WARNING airflow.api_fastapi=WARNING airflow.jobs=WARNING",
        },
    }
    return {f"AIRFLOW__{part}__{key}".upper(): str(v) for part, keys in named.items() for key, v in keys.items()}


def warm(state: State, timeout_s: float = 600.0) -> None:
    """Compile the library's kernels to their cache, so that the scheduler, which preloads them, starts at once.

    Nothing is run while sources and versions are those of the last time. A failure is left to the tasks to report.
    """
    known = _kernels_fingerprint()
    if state.notes.get("kernels") == known:
        return
    log = state.logs / "kernels.log"
    command = [sys.executable, "-c", "import ztfds.kernels; ztfds.kernels.warm()"]
    variables = {**process_environment(), supervise.MARK: f"{state.instance}/prepare"}
    done = _run(command, variables, log, timeout_s)
    if done:
        logger.warning("kernels did not compile, exit status %d:\n%s", done, supervise.tail(log))
    else:
        state.note("kernels", known)


def _kernels_fingerprint() -> str:
    """Hash of what compiled kernels depend on: their sources, the compiler's version and this machine."""
    sources = sorted((Path(ztfds.__file__).parent / "kernels").glob("*.py"))
    digest = hashlib.sha256(f"{importlib.metadata.version('numba')} {platform.machine()} {sys.version}".encode())
    for source in sources:
        digest.update(f"{source} {source.stat().st_mtime_ns} {source.stat().st_size}".encode())
    return digest.hexdigest()[:16]


def _run(command: list[str], variables: dict[str, str], log: Path, timeout_s: float) -> int:
    """Run a preparatory command, its output to a log file; returns its exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        end = subprocess.DEVNULL
        done = subprocess.run(
            command, env=variables, stdin=end, stdout=stream, stderr=stream, timeout=timeout_s, check=False
        )
    return done.returncode


def prepare(state: State) -> None:
    """Make Airflow's home and the file with the accounts (0600)."""
    folder = state.home / "airflow"
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / "passwords.json", json.dumps(state.passwords) + "\n")


def migrate(state: State, dsns: Mapping[str, str], timeout_s: float = 300.0) -> None:
    """Bring Airflow's tables to the installed version; nothing is run when they are there already.

    Raises
    ------
    DatabaseDown
        ``airflow db migrate`` fails; the message has its last words.
    """
    version = importlib.metadata.version("apache-airflow")
    if state.notes.get("airflow_tables") == version and _has_tables(dsns["airflow"]):
        return
    log = state.logs / "airflow-migrate.log"
    variables = {**environment(state, dsns), supervise.MARK: f"{state.instance}/prepare"}
    if status := _run([sys.executable, "-m", "airflow", "db", "migrate"], variables, log, timeout_s):
        raise DatabaseDown(f"airflow db migrate failed with exit status {status}:\n{supervise.tail(log)}")
    state.note("airflow_tables", version)


def _has_tables(dsn: str) -> bool:
    """Whether the database holds Airflow's tables (it may have been made anew since they were noted)."""
    connection = psycopg2.connect(dsn, connect_timeout=10)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('alembic_version') IS NOT NULL AND to_regclass('dag_run') IS NOT NULL")
            return cursor.fetchone() == (True,)
    finally:
        connection.close()


def services(state: State, dsns: Mapping[str, str]) -> list[supervise.Service]:
    """List the four components, ready to be started."""
    variables = environment(state, dsns)
    return [
        supervise.Service(
            name,
            (sys.executable, "-m", "airflow", *arguments),
            {**variables, supervise.MARK: f"{state.instance}/{name}"},
            state.logs / f"{name}.log",
            state.home,
        )
        for name, arguments in COMPONENTS.items()
    ]


def api(state: State, user: str = "admin") -> AirflowApi:
    """Open a client of the api-server for one of the generated accounts."""
    return AirflowApi(state.api_url, user, state.passwords[user])


def unhealthy(state: State, since: float = 0.0) -> dict[str, str]:
    """Components that do not work now, with what is known; empty when all four are well.

    A heartbeat counts only when it is younger than the process, and than `since` (Unix seconds): the one of a killed
    predecessor, or of the time before the database went away, says nothing.
    """
    try:
        answer = AirflowApi(state.api_url, "", "", timeout_s=5.0).health()
    except AirflowDown as error:
        return {"api-server": str(error)}
    sick = {}
    if answer["metadatabase"]["status"] != "healthy":
        sick["api-server"] = "does not reach its database"
    for name, key in HEALTH_KEYS.items():
        entry = answer.get(key) or {}
        beat = entry.get(f"latest_{key}_heartbeat")
        process = state.processes.get(name)
        if entry.get("status") != "healthy" or beat is None:
            sick[name] = f"status {entry.get('status')}"
        elif process and datetime.fromisoformat(beat) < datetime.fromtimestamp(max(process.created, since), UTC):
            sick[name] = "no heartbeat yet"
    return sick


def ensure_ready(state: State, timeout_s: float = 180.0) -> None:
    """Create the pools and wait until the DAGs are known and can be run.

    Of a folder of DAGs that the settings name, every file must have shown at least one DAG, whatever its DAGs are called.

    Raises
    ------
    ServiceDown
        A DAG does not appear within the time limit; the message has the import errors.
    """
    client = AirflowApi(state.api_url, "admin", state.passwords["admin"], timeout_s=60.0)
    try:
        client.warm()
        client.ensure_pool(POOL, slots(state.settings.slots))
        client.ensure_pool(LIGHT_POOL, LIGHT_SLOTS)
        client.ensure_pool(DAY_POOL, DAY_SLOTS)
        if not supervise.wait_until(lambda: not missing_dags(state, client), timeout_s, pause_s=0.25):
            _, answer = client.call("GET", "/api/v2/importErrors")
            errors = [entry["stack_trace"] for entry in (answer or {}).get("import_errors", [])]
            missing = ", ".join(sorted(missing_dags(state, client)))
            raise ServiceDown(f"DAGs not loaded after {timeout_s:.0f} s: {missing}\n" + "\n".join(errors))
    finally:
        client.close()


def missing_dags(state: State, client: AirflowApi) -> set[str]:
    """What Airflow does not know yet: DAGs that work needs, or files of another folder of DAGs of which it has found none."""
    known = client.dags()
    if not state.settings.dags:
        return set(DAGS - known.keys())
    folder = Path(state.settings.dags)
    return {path.relative_to(folder).as_posix() for path in dag_files(folder)} - set(known.values())


def dag_files(folder: Path) -> list[Path]:
    """Files below a folder that make DAGs themselves; helpers, which Airflow reads as well, show none."""
    return [path for path in sorted(folder.rglob("*.py")) if MAKES_DAGS.search(path.read_text(errors="replace"))]
