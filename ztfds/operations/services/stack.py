"""All services of one home folder together: start in overlapping order, state, stop in reverse order."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from ztfds.operations.machine import free_port, port_is_free
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import airflow, kafka, supervise
from ztfds.operations.services.state import Settings, State, load, load_or_create, locked
from ztfds.survey.errors import BrokerDown, ServiceDown

logger = logging.getLogger(__name__)

ORDER = ("kafka", "api-server", "scheduler", "dag-processor", "triggerer", "ingestd")
"""Services kept by this module, in the order of starting; PostgreSQL comes before all of them."""

PORT_OF = {"api-server": "api", "kafka": "kafka"}
PORTS_OF = (("api-server", "api"), ("kafka", "kafka"), ("kafka", "kafka_controller"))
START_LIMIT_S = 300.0
SICK_LIMIT_S = 90.0
"""A component that lives but does not report for so long is started again [s]."""


@dataclass(frozen=True)
class ServiceStatus:
    """What is known of one service.

    Attributes
    ----------
    name : str
        Name of the service.
    state : str
        ``running``, ``stopped``, or ``dead`` when it should run and does not.
    pid : int or None
        Process id of the running service.
    address : str
        Where it listens, or empty.
    memory_mb : float
        Proportional memory of all its processes [MB]; 0 where it cannot be read.
    """

    name: str
    state: str
    pid: int | None
    address: str
    memory_mb: float


def start(
    home: Path,
    *,
    settings: Settings | None = None,
    with_ingestd: bool = True,
    report: Callable[[str], None] = logger.info,
) -> State:
    """Start everything that does not run yet, or that runs with other settings; calling it again is harmless.

    Parameters
    ----------
    home : Path
        Folder that keeps everything; made if it is missing.
    settings : Settings, optional
        What the pipelines work on; without it what was set last (at first: the full camera).
    with_ingestd : bool
        Whether the inbox is watched.
    report : callable
        Called with one line for each event worth telling a person.

    Returns
    -------
    State
        Ports, addresses, passwords and processes.

    Raises
    ------
    ServiceDown
        Something did not come up; what this call started has been stopped again.
    """
    home = Path(home).resolve()
    with locked(home):
        state = load_or_create(home)
        state.settings = settings or state.settings
        began = time.monotonic()
        before = {name for name in ORDER if supervise.alive(state.processes.get(name))}
        postgres_ran = EmbeddedPostgres(home).status().running
        try:
            _start(state, with_ingestd, report)
        except BaseException:
            _stop(state, [name for name in ORDER if name not in before], postgres=not postgres_ran)
            raise
        report(f"all services are up after {time.monotonic() - began:.1f} s; Airflow at {state.api_url}")
        return state


def _start(state: State, with_ingestd: bool, report: Callable[[str], None]) -> None:
    """Start what is missing; Kafka comes up while PostgreSQL and Airflow's tables are prepared."""
    for folder in [*state.roots.values(), str(state.logs)]:
        Path(folder).mkdir(parents=True, exist_ok=True)
    _settle_ports(state)
    state.save()
    with ThreadPoolExecutor(3) as pool:
        kernels = pool.submit(airflow.warm, state)
        broker = pool.submit(_start_kafka, state, report)
        database = EmbeddedPostgres(state.home)
        since = 0.0 if database.status().running else time.time()
        dsns = database.start()
        tables = pool.submit(_migrate_survey, dsns)
        airflow.prepare(state)
        airflow.migrate(state, dsns)
        tables.result()
        has_broker = broker.result()
        components = airflow.services(state, dsns)
        for service in sorted(components, key=lambda service: service.name == "scheduler"):
            if service.name == "scheduler":
                kernels.result()
            _ensure(state, service)
        if with_ingestd:
            _ensure(state, _ingestd(state))
        _await_airflow(state, {service.name: service for service in components}, since)
        airflow.ensure_ready(state)
        if has_broker:
            _await_kafka(state)
    state.save()


def _settle_ports(state: State) -> None:
    """Give a new port to a stopped service whose port somebody else has taken; then all services start afresh."""
    moved = False
    for service, name in PORTS_OF:
        if not supervise.members(state.instance, service) and not port_is_free(state.ports[name]):
            state.ports[name] = free_port(set(state.ports.values()))
            moved = True
    if moved:
        _stop(state, list(ORDER), postgres=False)


def _ensure(state: State, service: supervise.Service) -> None:
    """Start a service unless it runs already with the same command and settings; clear away what a dead one left."""
    name = service.name
    same = state.fingerprints.get(name) == service.fingerprint
    if same and supervise.alive(state.processes.get(name)):
        return
    supervise.stop(state.instance, [name])
    state.began(name, supervise.start(service), service.fingerprint)


def _migrate_survey(dsns: Mapping[str, str]) -> None:
    """Bring the survey's own tables up to date."""
    from ztfds.registry.migrate import migrate

    migrate(dsns["ztf_owner"])


def _start_kafka(state: State, report: Callable[[str], None]) -> bool:
    """Start the broker; False where this machine cannot run one: the rest goes on, alerts wait in the outbox."""
    try:
        _ensure(state, kafka.prepare(state))
    except BrokerDown as error:
        state.note("kafka", error.message)
        report(f"No Kafka broker: {error.message}\nEverything else goes on; alerts wait in the outbox.")
        return False
    state.note("kafka", None)
    return True


def _await_kafka(state: State) -> None:
    """Wait until the broker answers."""
    supervise.wait_until(lambda: kafka.healthy(state) or not _lives(state, "kafka"), 60.0)
    if not kafka.healthy(state):
        raise BrokerDown(f"Kafka did not come up:\n{supervise.tail(state.logs / 'kafka.log')}")


def _lives(state: State, name: str) -> bool:
    """Whether a service is running."""
    return supervise.alive(state.processes.get(name))


def _ingestd(state: State) -> supervise.Service:
    """The watcher of the inbox, which needs nothing but the home folder."""
    variables = {**airflow.process_environment(), supervise.MARK: f"{state.instance}/ingestd"}
    options = ("--camera", state.settings.camera, "--patience", str(state.settings.patience_s))
    command = (sys.executable, "-m", "ztfds.cli", "ingestd", "--home", str(state.home), *options)
    return supervise.Service("ingestd", command, variables, state.logs / "ingestd.log", state.home)


def _await_airflow(state: State, components: Mapping[str, supervise.Service], since: float) -> None:
    """Wait until the four components are healthy; start again, a few times, what dies or stays silent.

    Components that lived while the database came back (at `since`, Unix seconds; 0 where it never went away) must report anew:
    one that is about to die of its lost connections still looks well by its last report.
    """
    end = time.monotonic() + START_LIMIT_S
    restarts = 0
    while True:
        sick = airflow.unhealthy(state, since)
        sick.update({name: "has ended" for name in components if not _lives(state, name)})
        if not sick:
            return
        for name in sick:
            process = state.processes[name]
            silent = time.time() - max(process.created, since) > SICK_LIMIT_S
            if silent or not supervise.alive(process):
                restarts += 1
                if restarts > 2 * len(components):
                    raise ServiceDown(f"{name} {sick[name]}:\n{supervise.tail(state.logs / f'{name}.log')}")
                logger.warning("%s %s; starting it again", name, sick[name])
                state.fingerprints.pop(name, None)
                _ensure(state, components[name])
        if time.monotonic() > end:
            words = "; ".join(f"{name}: {what}" for name, what in sick.items())
            raise ServiceDown(f"Airflow is not healthy after {START_LIMIT_S:.0f} s: {words}; logs in {state.logs}")
        time.sleep(0.2)


def stop(home: Path) -> None:
    """Stop everything that was started for a home folder and that may still run; harmless when nothing does."""
    home = Path(home).resolve()
    if not home.exists():
        return
    with locked(home):
        state = load(home)
        if state is None:
            EmbeddedPostgres(home).stop()
            return
        _stop(state, list(ORDER), postgres=True)


def _stop(state: State, names: list[str], *, postgres: bool) -> None:
    """Stop services in reverse order of starting: first who makes work, then who keeps it."""
    waves = (("ingestd", "prepare"), ("triggerer", "dag-processor", "scheduler"), ("api-server", "kafka"))
    for wave in waves:
        wanted = [name for name in wave if name in names or name == "prepare"]
        supervise.stop(state.instance, wanted)
        for name in wanted:
            state.ended(name)
    if postgres:
        EmbeddedPostgres(state.home).stop()


def status(home: Path) -> list[ServiceStatus]:
    """Tell the state of every service of a home folder (empty where none was ever started)."""
    state = load(Path(home).resolve())
    if state is None:
        return []
    database = EmbeddedPostgres(state.home).status()
    memory = _memory_mb(database.pid) if database.pid else 0.0
    address = f"127.0.0.1:{database.port}" if database.running else ""
    rows = [ServiceStatus("postgres", "running" if database.running else "stopped", database.pid, address, memory)]
    return rows + [_status(state, name) for name in ORDER]


def _status(state: State, name: str) -> ServiceStatus:
    """Tell the state of one service."""
    process = state.processes.get(name)
    if not supervise.alive(process):
        return ServiceStatus(name, "dead" if process else "stopped", None, "", 0.0)
    port = PORT_OF.get(name)
    address = f"127.0.0.1:{state.ports[port]}" if port else ""
    memory = sum(_pss_mb(member) for member in supervise.members(state.instance, name))
    return replace(ServiceStatus(name, "running", None, address, memory), pid=process.pid if process else None)


def _memory_mb(pid: int) -> float:
    """Proportional memory of a process and its descendants [MB]."""
    try:
        top = psutil.Process(pid)
        return sum(_pss_mb(process) for process in [top, *top.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0.0


def _pss_mb(process: psutil.Process) -> float:
    """Proportional set size of one process [MB]; 0 where it cannot be read."""
    try:
        return float(process.memory_full_info().pss) / 1e6
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
