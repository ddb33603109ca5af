"""What is remembered between calls about the services of one home folder: ports, secrets, settings, processes."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ztfds.operations.machine import free_port, write_private
from ztfds.survey.errors import ConfigurationError

USERS = {"admin": "admin", "operator": "op", "viewer": "viewer", "ingestd": "user"}
"""Airflow users of the embedded default and their roles."""

PORTS = ("api", "kafka", "kafka_controller")
"""Names of the loopback ports that this module hands out (PostgreSQL keeps its own)."""

_guard = threading.RLock()
"""Held while a state is changed or written: services are started from several threads."""


@dataclass(frozen=True)
class Process:
    """One started process, recognisable after its number has been given to somebody else.

    Attributes
    ----------
    pid : int
        Process id, also the id of its session and process group.
    created : float
        Its creation time, Unix seconds, as the kernel tells it.
    """

    pid: int
    created: float


@dataclass
class Settings:
    """What the pipelines of this home work on.

    Attributes
    ----------
    camera : str
        Name of the camera (``ZTF``, ``CCD`` or ``TINY``).
    config_set : str
        Name of the set of step configurations.
    catalogs : str
        Folder of the static catalogs.
    patience_s : float
        How long ingestd waits for the other CCD files of an exposure after the first [s].
    dags : str
        Folder of DAG files; empty: the repository's.
    faults : bool
        A sandbox for drills: steps heed the faults in ``faults.json`` of the home folder.
    backup : str
        The second place, where backups go; empty: the folder ``backup`` of the home, which is no second disk.
    notify : dict of str to str
        Who is told of alarms and gets the nightly report: ``webhook``, ``mail_to``, ``smtp``, ``mail_from``.
    changes : dict
        Differences of settings that a rehearsal tries.
    approvers : dict of str to list of str
        Accounts that decide about the runs of a DAG, e.g. of ``change_request``.
    slots : int
        Tasks of the pool `science` that run at the same time; 0: one a core, at most four.
    """

    camera: str = "ZTF"
    config_set: str = "ztf"
    catalogs: str = ""
    patience_s: float = 60.0
    dags: str = ""
    faults: bool = False
    backup: str = ""
    notify: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    approvers: dict[str, list[str]] = field(default_factory=lambda: {"change_request": ["admin"]})
    slots: int = 0


@dataclass
class State:
    """Everything remembered of the services of one home folder (file ``services.json``, mode 0600).

    Attributes
    ----------
    home : Path
        The home folder.
    instance : str
        Random word that marks every process started for this home.
    settings : Settings
        What the pipelines work on.
    ports : dict of str to int
        Loopback ports by name.
    secrets : dict of str to str
        Keys that Airflow's components share.
    passwords : dict of str to str
        Airflow passwords by user.
    processes : dict of str to Process
        Processes by service.
    fingerprints : dict of str to str
        Hash of command and environment with which each service was started.
    notes : dict of str to str
        Small facts, such as the version to which Airflow's tables were brought.
    """

    home: Path
    instance: str = field(default_factory=lambda: secrets.token_hex(8))
    settings: Settings = field(default_factory=Settings)
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def api_url(self) -> str:
        """Address of Airflow's api-server and pages."""
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def bootstrap_servers(self) -> str:
        """Address of the Kafka broker, host:port."""
        return f"127.0.0.1:{self.ports['kafka']}"

    @property
    def logs(self) -> Path:
        """Folder with one log file for each service."""
        return self.home / "logs"

    @property
    def roots(self) -> dict[str, str]:
        """Folders of the survey's files by purpose."""
        return {name: str(self.home / name) for name in ("inbox", "archive")}

    @property
    def places(self) -> dict[str, Any]:
        """Folders, camera and settings by the names that `Context.build` knows."""
        settings = self.settings
        return {
            "home": str(self.home),
            **self.roots,
            "quarantine": str(self.home / "archive" / "quarantine"),
            "catalogs": settings.catalogs or str(self.home / "catalogs"),
            "camera": settings.camera,
            "config": settings.config_set,
            "approvers": settings.approvers,
            **settings.notify,
            **({"settings": settings.changes} if settings.changes else {}),
            **({"faults": str(self.home / "faults.json")} if settings.faults else {}),
            **({"backup": settings.backup} if settings.backup else {}),
        }

    def save(self) -> None:
        """Write the state, readable by its owner alone, in one atomic step."""
        with _guard:
            content = dataclasses.asdict(self)
            del content["home"]
            write_private(self.home / "services.json", json.dumps(content, indent=1) + "\n")

    def note(self, key: str, value: str | None) -> None:
        """Keep a small fact, or drop it (None)."""
        with _guard:
            self.notes.pop(key, None)
            if value is not None:
                self.notes[key] = value
            self.save()

    def began(self, name: str, process: Process, fingerprint: str) -> None:
        """Keep which process a service is."""
        with _guard:
            self.processes[name], self.fingerprints[name] = process, fingerprint
            self.save()

    def ended(self, name: str) -> None:
        """Forget the process of a service."""
        with _guard:
            self.processes.pop(name, None)
            self.fingerprints.pop(name, None)
            self.save()


def load(home: Path) -> State | None:
    """Read the state of a home folder; None where no service was ever started.

    Raises
    ------
    ConfigurationError
        The file is not what this module writes.
    """
    path = Path(home).resolve() / "services.json"
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        content["settings"] = Settings(**content["settings"])
        content["processes"] = {name: Process(**entry) for name, entry in content["processes"].items()}
        return State(home=path.parent, **content)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{path} is damaged ({error}); remove it after stopping what it started") from error


def load_or_create(home: Path) -> State:
    """Read the state of a home folder, or begin one with fresh secrets and free ports."""
    state = load(home)
    if state is None:
        home.mkdir(parents=True, exist_ok=True)
        state = State(home=Path(home).resolve())
    complete(state)
    return state


def complete(state: State) -> None:
    """Fill in the secrets, passwords and ports that the state does not have yet."""
    state.secrets.setdefault("fernet_key", base64.urlsafe_b64encode(os.urandom(32)).decode())
    for name in ("jwt_secret", "api_secret_key"):
        state.secrets.setdefault(name, secrets.token_hex(32))
    for user in USERS:
        state.passwords.setdefault(user, secrets.token_urlsafe(12))
    for name in PORTS:
        if name not in state.ports:
            state.ports[name] = free_port(set(state.ports.values()))


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the home's lock: one start or stop at a time."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "services.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
