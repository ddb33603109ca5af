"""Start, recognise and end processes in sessions of their own, so that nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from ztfds.operations.services.state import Process
from ztfds.survey.errors import ServiceDown

logger = logging.getLogger(__name__)

MARK = "ZTFDS_SERVICE"
"""Environment variable that every process of a service and all its descendants carry: ``<instance>/<service>``."""

LOG_LIMIT = 64 * 2**20
"""A log file larger than this is set aside (one generation) when its service starts [bytes]."""


@dataclass(frozen=True)
class Service:
    """What it takes to run one service.

    Attributes
    ----------
    name : str
        Name of the service, also of its log file.
    command : sequence of str
        Program and arguments.
    environment : mapping of str to str
        The whole environment of the process.
    log : Path
        File to which its output is appended.
    folder : Path
        Its working folder.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    folder: Path

    @property
    def fingerprint(self) -> str:
        """Hash of command and settings; when it changes the service has to be started again."""
        relevant = {key: value for key, value in self.environment.items() if key.startswith(("AIRFLOW_", "ZTFDS_"))}
        return hashlib.sha256(json.dumps([self.command, relevant], sort_keys=True).encode()).hexdigest()[:16]


def start(service: Service) -> Process:
    """Start a service in a session of its own; its output goes to its log file.

    Raises
    ------
    ServiceDown
        The program cannot be started.
    """
    service.log.parent.mkdir(parents=True, exist_ok=True)
    if service.log.exists() and service.log.stat().st_size > LOG_LIMIT:
        service.log.replace(service.log.with_suffix(".log.1"))
    try:
        with service.log.open("ab") as stream:
            child = subprocess.Popen(
                service.command,
                env=dict(service.environment),
                cwd=service.folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise ServiceDown(f"{service.name} cannot be started: {error}") from error
    # The child outlives this process on purpose; telling Popen it is over keeps it from warning about that.
    child.returncode = 0
    logger.info("%s started, pid %d", service.name, child.pid)
    process = Process(child.pid, psutil.Process(child.pid).create_time())
    # The kernel shows the new environment a moment after the program has been replaced; until then `stop` would not see it.
    wait_until(lambda: bool(_mark(child.pid)) or not alive(process), 5.0, pause_s=0.002)
    return process


def alive(process: Process | None) -> bool:
    """Whether this very process is running (not a zombie, not another one with its number)."""
    if process is None:
        return False
    _reap(process.pid)
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.created) < 1.0
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _reap(pid: int) -> None:
    """Collect the exit status of a child of ours that has ended, so that it does not stay as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def members(instance: str, service: str | None = None) -> list[psutil.Process]:
    """Find the living processes of one service, or of all services, of an instance by the mark in their environment.

    The mark is inherited by every descendant, also by those that made a session of their own or lost their parent.
    """
    wanted = f"{instance}/{service}" if service else f"{instance}/"
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        mark = _mark(process.pid)
        if mark == wanted or (service is None and mark.startswith(wanted)):
            found.append(process)
    return found


def _mark(pid: int) -> str:
    """Read the mark of a process; empty where it has none, is gone, is a zombie or belongs to another user."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    prefix = f"{MARK}=".encode()
    return next((entry[len(prefix) :].decode() for entry in variables if entry.startswith(prefix)), "")


def stop(instance: str, services: Iterable[str], grace_s: float = 5.0) -> int:
    """End services with everything they started: SIGTERM to their process groups, SIGKILL to what is left after `grace_s`.

    Returns
    -------
    int
        Number of processes that had to be killed.
    """
    names = list(services)
    for process in _members_of(instance, names):
        _signal(process, signal.SIGTERM)
    if wait_until(lambda: not _members_of(instance, names), grace_s):
        return 0
    stubborn = _members_of(instance, names)
    logger.warning("killing %s", ", ".join(f"{process.pid}" for process in stubborn))
    for _ in range(50):  # again, because a process may fork between being listed and being killed
        rest = _members_of(instance, names)
        if not rest:
            break
        for process in rest:
            _signal(process, signal.SIGKILL)
        time.sleep(0.1)
    return len(stubborn)


def _members_of(instance: str, services: list[str]) -> list[psutil.Process]:
    """Find the living processes of several services."""
    marks = {f"{instance}/{service}" for service in services}
    found = [process for process in members(instance) if _mark(process.pid) in marks]
    for process in found:
        _reap(process.pid)
    return found


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def wait_until(condition: Callable[[], bool], timeout_s: float, pause_s: float = 0.1) -> bool:
    """Ask again and again until `condition` holds; False when it does not within `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
    return True


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log file, for an error message."""
    if not log.exists():
        return "(no log)"
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
