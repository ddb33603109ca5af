"""The embedded PostgreSQL server: start, stop, kill, permissions."""

import json
import os
import signal
import stat
import tempfile
from pathlib import Path

import psutil
import psycopg2
import pytest

from ztfds.operations import machine
from ztfds.operations import postgres as pg
from ztfds.operations.postgres import ADMIN, EmbeddedPostgres
from ztfds.registry import database as db
from ztfds.survey.errors import ConfigurationError, DatabaseDown


@pytest.fixture(scope="module")
def home():
    """A home that the server's account can reach; removed with its server."""
    folder = Path(tempfile.mkdtemp(prefix="ztfds-test-home-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder)
    yield folder
    server.destroy()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.fixture
def running(home):
    server = EmbeddedPostgres(home)
    server.start()
    return server


def _ask(server, role="ztf_pipeline", query="select 1"):
    connection = psycopg2.connect(server.dsn(role))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]
    finally:
        connection.close()


def test_every_role_enters_its_own_database(running):
    for role, database in pg.DATABASE_OF_ROLE.items():
        assert _ask(running, role, "select current_database()") == database
        assert _ask(running, role, "select rolsuper from pg_roles where rolname = current_user") is False


def test_starting_twice_is_one_server(running):
    pid, port, urls = running.pid, running.port, running.dsns()
    assert EmbeddedPostgres(running.home).start() == urls
    assert (running.pid, running.port) == (pid, port)
    assert running.status() == pg.PostgresStatus(True, pid, port, running.data)


def test_secrets_are_private_and_other_keys_of_the_file_survive(running):
    assert stat.S_IMODE(running.secrets_file.stat().st_mode) == 0o600
    kept = json.loads(running.secrets_file.read_text())
    assert set(kept["postgres"]) == {ADMIN, *pg.DATABASE_OF_ROLE}
    assert len(set(kept["postgres"].values())) == len(kept["postgres"])
    machine.write_private(running.secrets_file, json.dumps({**kept, "other": 1}))
    running.stop()
    running.start()
    assert json.loads(running.secrets_file.read_text()) == {**kept, "other": 1}


def test_only_loopback_and_only_with_a_password(running):
    assert _ask(running, ADMIN, "show listen_addresses") == "127.0.0.1"
    assert _ask(running, ADMIN, "show unix_socket_directories") == ""
    with pytest.raises(psycopg2.OperationalError, match=r"no password supplied|password authentication failed"):
        psycopg2.connect(f"postgresql://ztf_pipeline@127.0.0.1:{running.port}/ztfds", password="")


def test_the_server_does_not_run_as_root(running):
    owner = Path(f"/proc/{running.pid}").stat().st_uid
    assert owner != 0 and (os.geteuid() == 0 or owner == os.geteuid())
    assert stat.S_IMODE(running.data.stat().st_mode) == 0o700


def test_killed_it_recovers_on_the_same_port_with_everything_committed(running):
    with db.transaction(running.dsn("ztf_owner")) as cursor:
        cursor.execute("create table if not exists public.kept (n integer)")
        cursor.execute("insert into public.kept values (42)")
    port = running.port
    os.kill(running.pid, signal.SIGKILL)
    assert EmbeddedPostgres(running.home).start()["ztf_owner"] == running.dsn("ztf_owner")
    assert running.port == port
    assert _ask(running, "ztf_owner", "select n from public.kept") == 42
    with db.transaction(running.dsn("ztf_owner")) as cursor:
        cursor.execute("drop table public.kept")


def test_stop_leaves_no_process_and_stopping_again_is_fine(running):
    pid = running.pid
    running.stop()
    assert running.pid is None and not running.status().running
    assert psutil.pid_exists(pid) is False or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    running.stop()
    with pytest.raises(DatabaseDown):
        db.connect(running.dsn("ztf_pipeline"), timeout_s=2)


def test_a_stale_pid_file_of_another_process_is_not_believed(running):
    running.stop()
    (running.data / "postmaster.pid").write_text(f"{os.getpid()}\n{running.data}\n")
    assert running.pid is None
    running.start()
    assert _ask(running) == 1


def test_a_port_taken_by_others_is_given_up(running, monkeypatch):
    running.stop()
    monkeypatch.setattr(pg, "PORT_PATIENCE_S", 0.1)
    import socket

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", running.port))
        other.listen()
        taken = running.port
        running.start()
        assert running.port != taken and _ask(running) == 1


def test_half_made_data_are_made_anew(tmp_path_factory):
    folder = Path(tempfile.mkdtemp(prefix="ztfds-test-half-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder)
    try:
        server.data.mkdir()
        (server.data / "PG_VERSION").write_text("18\n")
        server.start()
        assert _ask(server) == 1
    finally:
        server.destroy()
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_a_home_that_others_cannot_reach_keeps_its_permissions(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (closed, *closed.parents)}
    server = EmbeddedPostgres(closed / "var")
    server.start()
    try:
        assert _ask(server) == 1
        assert server.data.is_relative_to(pg.ROOT_STATE)
        assert server.log_file.read_text() is not None
        assert {path: stat.S_IMODE(path.stat().st_mode) for path in modes} == modes
    finally:
        server.destroy()
    assert not server.data.exists()


def test_before_the_first_start_there_is_nothing_to_connect_to(tmp_path):
    server = EmbeddedPostgres(tmp_path / "var")
    assert server.status().running is False and server.port is None
    with pytest.raises(ConfigurationError, match="never started"):
        server.dsn("ztf_pipeline")
