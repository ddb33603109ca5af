"""Backup and restore: nothing half-made counts, and what comes back on an empty machine is identical to the bit."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from embedded import administer
from prepared import make_context, process

from ztfds.formats.atomic import write_atomic
from ztfds.operations import realtime
from ztfds.operations.context import Context
from ztfds.operations.day import backup, dump, restore
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.registry import database as db
from ztfds.registry.products import register_document
from ztfds.survey.errors import ChecksumMismatch, ConfigurationError, DatabaseDown, FilesMissing, LockedByOther

NID = 700


def document(context, name, content, nid=NID):
    written = write_atomic(context.archive / "depot" / name, content)
    return register_document(
        context.dsn, kind="note", dataset=f"note/{name}", nid=nid, written=written, archive=context.archive
    )


@pytest.fixture
def small(database, tmp_path):
    """A context with three registered documents and a stray file."""
    places = {name: tmp_path / name for name in ("archive", "inbox", "catalogs", "backup")}
    for folder in places.values():
        folder.mkdir()
    context = Context.build(database.pipeline, {**places, "camera": "tiny"})
    for k in range(3):
        document(context, f"{k}.txt", b"content %d" % k)
    (context.archive / "stray.txt").write_text("content 1")
    (context.archive / ".work").mkdir()
    (context.archive / ".work" / "half").write_text("x")
    (context.archive / "depot" / "unfinished.part").write_text("x")
    return context


def test_a_night_comes_back_identical_on_an_empty_machine(ready, mountain, tmp_path):
    outcome = process(ready, mountain, mountain.of_kind("o", 1)[0])
    realtime.close_exposure(ready, outcome.exposure)
    context = replace(ready, places={"backup": str(tmp_path / "second")})
    made = backup.back_up(context)
    assert made.state == "ok" and made.figures["new"] == made.figures["files"] > 50, made.line
    assert "same disk" in made.line
    home = tmp_path / "machine"
    home.mkdir(mode=0o755)
    done = restore.restore(tmp_path / "second", home)
    server = EmbeddedPostgres(home)
    try:
        assert done.state == "ok", done.line
        assert "all identical" in done.line and done.figures["queries"] == 2 * len(dump.QUERIES)
        dsns = server.start()
        for query in (
            "select count(*)::int as n, sum(hashtext(c::text)::bigint)::text as s from candidates c",
            "select count(*)::int as n, sum(hashtext(o::text)::bigint)::text as s from alert_outbox o",
        ):
            first, second = db.fetch_one(ready.dsn, query), db.fetch_one(dsns["ztf_reader"], query)
            assert first == second and first["n"] > 0
        original, copy = (dict(listing(root)) for root in (ready.archive, home / "archive"))
        assert original == copy
        there = make_context(dsns["ztf_pipeline"], mountain, home)  # and work goes on there
        assert process(there, mountain, mountain.of_kind("o", 1)[1]).state == outcome.state
    finally:
        server.destroy()


def listing(root):
    for path, _ in backup.archive_files(root):
        yield path, (root / path).read_bytes()


def test_a_second_backup_copies_only_what_is_new(small):
    first = backup.back_up(small)
    assert (first.state, first.figures["files"], first.figures["new"]) == ("ok", 4, 3)  # two of one content
    document(small, "3.txt", b"content 3")
    second = backup.back_up(small)
    assert (second.figures["files"], second.figures["new"]) == (5, 1)
    place = backup.place_of(small)
    assert len(backup.sets(place)) == 1 and len(list((place / "objects").glob("??/*"))) == 4  # one of a day
    proved = restore.prove_backup(small)
    assert proved.state == "ok" and proved.figures["read"] == 4, proved.line


def test_damage_is_found_and_repaired_from_the_second_place(small):
    backup.back_up(small)
    place, path = backup.place_of(small), small.archive / "depot" / "1.txt"
    path.write_text("contenT 1")
    (small.archive / "depot" / "2.txt").unlink()
    found = backup.back_up(small)
    assert found.state == "failed"
    assert "depot/1.txt: damaged in the archive; a good copy is" in found.line
    assert "depot/2.txt: registered but not in the archive" in found.line
    rows = db.fetch_all(small.dsn, "select path, sha256 from products where path like 'depot/%'")
    for row in rows:
        restore.put_back(place, small.archive, row["path"], row["sha256"])
    assert path.read_text() == "content 1"
    assert backup.back_up(small).state == "ok"
    with pytest.raises(FilesMissing):
        restore.put_back(place, small.archive, "depot/9.txt", "0" * 64)


def test_a_damaged_backup_is_not_proved(small):
    backup.back_up(small)
    place = backup.place_of(small)
    name = backup.sets(place)[-1]
    first, second = (k for k in backup.files_of(place, name) if k.path in ("depot/0.txt", "depot/2.txt"))
    backup.object_path(place, first.sha256).write_bytes(b"content X")
    backup.object_path(place, second.sha256).unlink()
    path = place / "sets" / name / backup.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["proof"]["tables"]["products"][1] = "1"
    path.write_text(json.dumps(manifest))
    said = restore.prove_backup(small)
    assert said.state == "failed" and "NOT a good backup" in said.line
    problems = "; ".join(said.figures["problems"])
    assert "table products" in problems and f"{first.path}: " in problems and f"{second.path}: " in problems
    assert len(restore.write_files(place, small.archive.parent / "again", backup.files_of(place, name))) == 2


def test_a_set_with_a_damaged_or_missing_part_is_refused(small):
    backup.back_up(small)
    folder = backup.place_of(small) / "sets" / backup.sets(backup.place_of(small))[-1]
    content = bytearray((folder / backup.DUMP).read_bytes())
    content[-20] ^= 1
    (folder / backup.DUMP).write_bytes(content)
    with pytest.raises(ChecksumMismatch):
        restore.prove_backup(small)
    (folder / backup.MANIFEST).unlink()
    with pytest.raises(FilesMissing):
        restore.prove_backup(small)


KILLED = """
import os, sys, json
from ztfds.operations.context import Context
from ztfds.operations.day import backup
dsn, places, at = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
def fault(point):
    if point == at:
        os._exit(9)
backup.back_up(Context.build(dsn, places, fault=fault))
"""


@pytest.mark.parametrize("at", ["backup:dumped", "backup:file", "backup:copied", "backup:written"])
def test_a_killed_backup_does_not_count_and_the_next_one_is_whole(small, at):
    places = {key: str(value) for key, value in small.places.items()}
    command = [sys.executable, "-c", KILLED, small.dsn, json.dumps(places), at]
    assert subprocess.run(command, check=False, timeout=120).returncode == 9
    place = backup.place_of(small)
    assert backup.sets(place) == [] and list((place / "sets").iterdir())
    with pytest.raises(FilesMissing):
        backup.read_set(place)
    assert backup.back_up(small).state == "ok"
    assert [p.name for p in (place / "sets").iterdir()] == backup.sets(place)
    assert len(backup.files_of(place, backup.read_set(place)[0])) == 4


def test_rows_that_come_during_the_dump_are_in_neither_dump_nor_proof(small, tmp_path):
    proof = dump.dump(small.dsn, tmp_path / "d", lambda: document(small, "late.txt", b"late"))
    assert proof.tables["products"][0] == 3
    assert db.fetch_one(small.dsn, "select count(*)::int as n from products")["n"] == 4


def test_nothing_is_restored_over_something(small, tmp_path, database):
    backup.back_up(small)
    (tmp_path / "home" / "archive").mkdir(parents=True)
    (tmp_path / "home" / "archive" / "x").write_text("x")
    with pytest.raises(ConfigurationError, match="not empty"):
        restore.restore(backup.place_of(small), tmp_path / "home")
    place = backup.place_of(small)
    name, manifest = backup.read_set(place)
    with pytest.raises(ConfigurationError, match="tables already"):
        restore.restore_database(database.owner, place, name, backup.proof_of(manifest))
    assert db.fetch_one(small.dsn, "select count(*)::int as n from products")["n"] == 3


def test_a_load_that_fails_leaves_an_empty_database(small, postgres, tmp_path):
    administer(postgres, "create database scratch_restore owner ztf_owner")
    try:
        (tmp_path / "no.dump").write_bytes(b"PGDMP nothing of the kind")
        owner = postgres.dsn("ztf_owner", "scratch_restore")
        with pytest.raises(DatabaseDown, match="pg_restore failed"):
            dump.load(owner, tmp_path / "no.dump")
        assert db.fetch_all(owner, "select 1 from pg_namespace where nspname = 'ztf'") == []
    finally:
        administer(postgres, "drop database scratch_restore with (force)")


def test_old_sets_go_but_not_what_only_they_hold(small):
    place = backup.place_of(small)
    backup.back_up(small)
    (small.archive / "stray.txt").write_text("only once")
    (small.archive / "depot" / "gone.txt").write_text("cleaned up")
    backup.back_up(small)
    sha = {kept.path: kept.sha256 for kept in backup.files_of(place, backup.sets(place)[-1])}
    with db.transaction(small.dsn) as cursor:
        query = "insert into removed_files (place, path, bytes, sha256, rule, proof, run_id) values ('archive', %s, 1, %s, 'r', 'p', 'x')"
        cursor.execute(query, ("depot/gone.txt", sha["depot/gone.txt"]))
    for name in ("stray.txt", "depot/gone.txt"):
        (small.archive / name).unlink()
    last = backup.back_up(small, keep_daily=1, keep_weekly=1)
    assert last.figures["retired"] == 1 and len(backup.sets(place)) == 1
    assert backup.object_path(place, sha["depot/gone.txt"]).is_file()
    assert not backup.object_path(place, sha["stray.txt"]).is_file()
    assert {k.path for k in backup.files_of(place, backup.sets(place)[0])} == {f"depot/{n}.txt" for n in range(3)}


def test_which_sets_are_kept():
    start = datetime(2026, 11, 1, 18, 30, tzinfo=UTC)
    names = [(start + timedelta(hours=12 * k)).strftime(backup.STAMP) for k in range(60)]
    kept = backup.chosen(names, 7, 4)
    assert names[-1] in kept and len(kept) == 9  # seven days in two weeks, and two weeks before
    days = {backup.time_of(name).date() for name in kept}
    assert days >= {backup.time_of(names[-1]).date() - timedelta(days=k) for k in range(7)}
    assert backup.chosen(names, 0, 0) == {names[-1]} and backup.chosen([], 7, 4) == set()


def test_one_at_a_time_and_not_inside_the_archive(small):
    with backup.locked(backup.place_of(small)), pytest.raises(LockedByOther):
        backup.back_up(small)
    inside = replace(small, places={"backup": str(small.archive / "b")})
    with pytest.raises(ConfigurationError, match="inside the archive"):
        backup.back_up(inside)


def test_a_program_that_is_too_old_is_refused(monkeypatch, tmp_path):
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert Path(dump.program("pg_dump", 9)).name == "pg_dump"
    assert shutil.which("pg_dump") == str(old)
    monkeypatch.setattr(dump, "binaries", lambda: (_ for _ in ()).throw(ConfigurationError("no wheel")))
    assert dump.program("pg_dump", 9) == str(old)
    with pytest.raises(ConfigurationError, match="18 or newer"):
        dump.program("pg_dump", 18)
