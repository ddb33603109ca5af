"""The cleanup removes what its rules name, and nothing whose content was not verified elsewhere just before."""

import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from test_backup import document, small
from tiny import deliver

from ztfds.formats.atomic import sha256_of
from ztfds.operations import receive
from ztfds.operations.day import backup, cleanup
from ztfds.registry import database as db
from ztfds.survey.errors import ConfigurationError

__all__ = ["small"]


def age(dsn, table, days):
    with db.transaction(dsn) as cursor:
        cursor.execute(f"update {table} set created = created - make_interval(days => %s)", (days,))


@pytest.fixture
def old(monkeypatch):
    """Let the clock of the file system stand so many days ahead."""

    def ahead(days):
        now = time.time()
        monkeypatch.setattr(cleanup.time, "time", lambda: now + days * cleanup.DAY_S)

    return ahead


@pytest.fixture
def received(context, mountain):
    """A raw file accepted, then sent again (a duplicate), then lying in the inbox once more."""
    (path,) = mountain.files(mountain.of_kind("b", 0)[0], 6)
    for _ in range(2):
        deliver(context, path)
        receive.receive(context, path.name, None)
    deliver(context, path)
    age(context.dsn, "receipts", 100)
    return context, path.name


def test_copies_go_only_while_the_archived_file_is_good(received, old):
    context, name = received
    old(10)
    duplicate = next((context.archive / "quarantine").rglob("*.fz"))
    row = db.fetch_one(context.dsn, "select path, sha256 from ccdfiles where filename = %s", (name,))
    archived = context.archive / row["path"]
    content = archived.read_bytes()
    archived.write_bytes(content[:-1] + b"X")
    refused = cleanup.clean(context, "r1", dry_run=False)
    assert refused.state == "warn" and refused.figures["refused"] == 2 and "is damaged in the archive" in refused.line
    assert duplicate.is_file() and (context.inbox / name).is_file()
    archived.write_bytes(content)
    preview = cleanup.clean(context, "r2", dry_run=True)
    assert preview.figures["removed"] == {"inbox_days": 1, "duplicate_days": 1} and preview.line.startswith(
        "would remove 2"
    )
    assert duplicate.is_file() and (context.inbox / name).is_file()
    assert db.fetch_all(context.dsn, "select 1 from removed_files") == []
    done = cleanup.clean(context, "r3", dry_run=False)
    assert done.figures["removed"] == preview.figures["removed"]
    assert not duplicate.is_file() and not (context.inbox / name).is_file()
    assert sha256_of(archived) == row["sha256"]
    noted = db.fetch_all(context.dsn, "select place, rule, sha256, proof, run_id from removed_files order by place")
    assert [(n["place"], n["rule"], n["run_id"]) for n in noted] == [
        ("archive", "duplicate_days", "r3"),
        ("inbox", "inbox_days", "r3"),
    ]
    assert all(n["proof"] == f"archive:{row['path']}" and n["sha256"] == row["sha256"] for n in noted)
    assert cleanup.clean(context, "r4", dry_run=False).figures["removed"] == {}


def test_young_changed_and_unknown_files_of_the_inbox_stay(received, old):
    context, name = received
    old(1)
    cleanup.set_rules(context.dsn, {"duplicate_days": None}, "ops", "keep all copies")
    assert cleanup.clean(context, "r", dry_run=False).figures["removed"] == {}
    old(10)
    (context.inbox / name).write_bytes(b"another file of this name")
    (context.inbox / "notes.txt").write_text("somebody's")
    done = cleanup.clean(context, "r", dry_run=False)
    assert done.figures["removed"] == {} and "not the file that was accepted" in done.line
    assert {p.name for p in context.inbox.iterdir()} == {name, "notes.txt"}


def test_a_bad_file_without_a_good_copy_stays_for_ever(context, mountain, old):
    (path,) = mountain.files(mountain.of_kind("b", 0)[0], 6)
    (context.inbox / path.name).write_bytes(path.read_bytes()[:5000])
    receive.receive(context, path.name, None)
    age(context.dsn, "receipts", 1000)
    bad = next((context.archive / "quarantine").rglob("*.fz"))
    done = cleanup.clean(context, "r", dry_run=False)
    assert "no good copy" in done.line and bad.is_file()
    deliver(context, path)
    receive.receive(context, path.name, None)
    assert cleanup.clean(context, "r", dry_run=False).figures["removed"] == {"quarantine_days": 1}
    assert not bad.is_file()


def test_superseded_versions_go_when_a_backup_holds_them(small):
    (small.archive / "depot" / "v1").mkdir()
    old_file = small.archive / "depot" / "v1" / "0.txt"
    (small.archive / "depot" / "0.txt").rename(old_file)
    with db.transaction(small.dsn) as cursor:
        cursor.execute("update products set path = 'depot/v1/0.txt' where path = 'depot/0.txt'")
    document(small, "0.txt", b"a newer version")
    with db.transaction(small.dsn) as cursor:
        cursor.execute(
            "update products set created = created - interval '50 days' - interval '1 hour' * vbest * 0 where vbest = 0"
        )
        cursor.execute("update products set created = created - interval '40 days' where vbest > 0")
    done = cleanup.clean(small, "r", dry_run=False)
    assert old_file.is_file() and "in no complete backup" in done.line
    backup.back_up(small)
    place = backup.place_of(small)
    sha = db.fetch_one(small.dsn, "select sha256 from products where vbest = 0")["sha256"]
    kept = backup.object_path(place, sha)
    content = kept.read_bytes()
    kept.write_bytes(b"rotten 00"[: len(content)])
    assert "is damaged" in cleanup.clean(small, "r", dry_run=False).line and old_file.is_file()
    kept.write_bytes(content)

    def killed(point):
        raise KeyboardInterrupt(point)

    with pytest.raises(KeyboardInterrupt):
        cleanup.clean(replace(small, fault=killed), "r", dry_run=False)
    assert old_file.is_file()
    assert cleanup.clean(small, "r", dry_run=False).figures["removed"] == {"superseded_days": 1}
    assert not old_file.is_file() and (small.archive / "depot" / "0.txt").read_text() == "a newer version"
    after = backup.back_up(small, keep_daily=1, keep_weekly=0)
    assert after.state == "ok" and kept.is_file()  # its only place now


def test_what_dead_processes_left_and_old_logs_go(small, old, tmp_path):
    home = tmp_path / "home"
    log = home / "logs" / "airflow" / "dag" / "1.log"
    log.parent.mkdir(parents=True)
    log.write_text("x")
    small.places["home"] = str(home)
    half = small.archive / "depot" / ".1.txt.abc.part"
    half.write_text("half")
    old(2)
    done = cleanup.clean(small, "r", dry_run=False)
    assert done.figures["removed"] == {"work_days": 2} and not half.exists() and log.exists()
    assert not (small.archive / ".work" / "half").exists()
    old(40)
    assert cleanup.clean(small, "r", dry_run=False).figures["removed"] == {"log_days": 1} and not log.exists()
    assert (small.archive / "stray.txt").is_file() and (small.archive / "depot" / "unfinished.part").is_file()


def test_rules_are_versions_that_are_validated(database):
    assert cleanup.rules(database.reader) == (cleanup.Retention(), 0)
    assert cleanup.set_rules(database.operator, {"log_days": 5}, "ops", "small disk") == 1
    assert cleanup.set_rules(database.operator, {"log_days": None}, "ops", "keep logs") == 2
    kept, version = cleanup.rules(database.reader)
    assert (kept.log_days, kept.inbox_days, version) == (None, 2.0, 2)
    for bad in ({"log_days": -1}, {"logs": 3}, {"inbox_days": "soon"}):
        with pytest.raises(ConfigurationError, match="no rules of retention"):
            cleanup.set_rules(database.operator, bad, "ops", "x")
    with pytest.raises(ConfigurationError, match="reason"):
        cleanup.set_rules(database.operator, {}, "ops", " ")
    with db.transaction(database.owner) as cursor:
        cursor.execute("""insert into retention_rules (rules, author, reason) values ('{"future": 1}', 'x', 'x')""")
    with pytest.raises(ConfigurationError):
        cleanup.rules(database.reader)


def test_hours_until_a_disk_is_full():
    start = datetime.now(UTC) - timedelta(hours=10)
    fill = [(start + timedelta(hours=k), int(100e9 - 5e9 * k)) for k in range(11)]
    assert cleanup.hours_to_full(fill) == pytest.approx(10, abs=0.1)
    assert cleanup.hours_to_full(fill[:1]) is None
    assert cleanup.hours_to_full([(t, 10**11) for t, _ in fill]) is None
    assert cleanup.hours_to_full([(t, 10**11 + k) for k, (t, _) in enumerate(fill)]) is None
    disk = {"free_bytes": 50e9, "total_bytes": 100e9, "hours_to_full": 10.0}
    assert cleanup.filling(disk) and "full in 10 h" in cleanup.disk_words("archive", disk)
    assert not cleanup.filling({**disk, "hours_to_full": None})
    assert cleanup.filling({**disk, "free_bytes": 1e9, "hours_to_full": None})


def test_disks_are_sampled(small):
    found = cleanup.sample_disks(small)
    assert set(found) == {"inbox", "archive", "backup"}
    rows = db.fetch_all(small.dsn, "select place, free_bytes from disk_samples")
    free = shutil.disk_usage(small.archive).free
    assert len(rows) == 3 and all(abs(row["free_bytes"] - free) < 1e11 for row in rows)
