"""Care of the database: partitions, retirement that refuses to lose anything, vacuum, and what the report says."""

from dataclasses import replace

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ztfds.config.operations import LIMITS
from ztfds.operations.context import Context
from ztfds.operations.day import cleanup, health, maintenance, nightfiles
from ztfds.registry import database as db
from ztfds.registry import messages
from ztfds.registry.candidates import column_types
from ztfds.survey.errors import NoWork, StoreDown

TODAY = 3600
COLUMNS = "objectid, exposure, hpx, alerted, jd, fid, pid, programid, candid, isdiffpos, nid, rcid, field, ra, dec, magpsf, sigmapsf"


@pytest.fixture
def context(database, tmp_path):
    places = {name: tmp_path / name for name in ("archive", "inbox", "catalogs")}
    for folder in places.values():
        folder.mkdir()
    return Context.build(database.pipeline, {**places, "camera": "tiny"})


def fill(dsn, nid, n):
    with db.transaction(dsn) as cursor:
        cursor.execute("select ensure_night(%s)", (nid,))
        cursor.execute(
            f"insert into candidates ({COLUMNS}) select 'ZTF' || (k %% 7), 'e', k, false, 2458000 + k * 0.1, 1, 1, 1, k, 't',"
            " %s, 3, 500, k * 0.01, -k * 0.01, 18.5, 0.1 from generate_series(1, %s) k",
            (nid, n),
        )


def test_partitions_are_made_ahead_and_unused_ones_go(context):
    assert maintenance.make_ahead(context.dsn, TODAY) == LIMITS.partitions_ahead + 1
    assert maintenance.make_ahead(context.dsn, TODAY) == 0
    assert db.fetch_all(context.dsn, "select nid from nights") == []  # a night begins when it begins
    fill(context.dsn, TODAY + 1, 3)
    assert maintenance.drop_unused(context.dsn, TODAY + 5) == 2  # TODAY and TODAY + 2
    assert maintenance.partitions(context.dsn) == [TODAY + 1, *range(TODAY + 3, TODAY + 8)]
    with db.transaction(context.dsn) as cursor:
        cursor.execute("select drop_empty_partition(%s)", (TODAY + 1,))
        assert cursor.fetchone() == (False,)
    assert db.fetch_one(context.dsn, "select count(*)::int as n from candidates")["n"] == 3


def test_candidates_of_a_night_are_exported_once_with_every_column(context):
    with pytest.raises(NoWork):
        nightfiles.export_candidates(context, TODAY)
    fill(context.dsn, TODAY, 50)
    done = nightfiles.export_candidates(context, TODAY)
    assert done.figures["rows"] == 50
    (row,) = db.fetch_all(context.dsn, "select path, meta, programid from products where kind = 'candidates_parquet'")
    assert row["meta"] == {"rows": 50} and row["programid"] == 0
    table = pq.read_table(context.archive / row["path"])
    with db.transaction(context.dsn) as cursor:
        assert table.column_names == list(column_types(cursor))
        stored = db.rows(cursor, "select * from candidates order by objectid, jd, candid")
    assert table.equals(pa.Table.from_pylist(stored, table.schema)) and stored[0]["ra"] == 0.07
    nightfiles.export_candidates(context, TODAY)
    assert len(db.fetch_all(context.dsn, "select 1 from products")) == 1


def test_a_night_is_retired_only_when_its_file_is_whole(context):
    for nid in (TODAY, TODAY + 1, TODAY + 2):
        fill(context.dsn, nid, 20)
    assert maintenance.retire(context, 2) == ([], ["night 20261110 stays: its candidates were not exported"])
    nightfiles.export_candidates(context, TODAY)
    fill(context.dsn, TODAY, 0)
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update candidates set candid = 1000 where nid = %s and candid = 1", (TODAY,))
        cursor.execute(
            f"insert into candidates ({COLUMNS}) select {COLUMNS.replace('candid', '1')} from candidates where candid = 1000"
        )
    retired, refused = maintenance.retire(context, 2)
    assert retired == [] and "has 21 candidates, but its file 20" in refused[0]
    nightfiles.export_candidates(context, TODAY)
    path = next((context.archive / "candidates").rglob("*.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    retired, refused = maintenance.retire(context, 2)
    assert retired == [] and "damaged or absent" in refused[0]
    path.write_bytes(content)
    assert maintenance.retire(context, 2) == ([TODAY], [])
    assert maintenance.partitions(context.dsn) == [TODAY + 1, TODAY + 2]
    (kept,) = db.fetch_all(context.dsn, "select nid, rows, path from retired_nights")
    assert (kept["nid"], kept["rows"]) == (TODAY, 21) and pq.read_metadata(
        context.archive / kept["path"]
    ).num_rows == 21
    assert db.fetch_one(context.dsn, "select count(*)::int as n from candidates")["n"] == 40
    assert maintenance.retire(context, 2) == ([], [])


def test_vacuum_takes_what_is_worth_it_without_owning_it(context, database):
    fill(context.dsn, TODAY, 3000)
    with db.transaction(context.dsn) as cursor:
        cursor.execute("delete from candidates where candid > 1000")
    with db.transaction(database.owner) as cursor:
        cursor.execute("select pg_stat_force_next_flush()")
    treated, problems = maintenance.vacuum(context.dsn)
    assert problems == [] and f"candidates_n{TODAY}" in treated
    rows = db.fetch_one(database.owner, "select reltuples::int as n from pg_class where relname = %s", (treated[0],))
    assert rows["n"] == 1000
    assert "exposures" not in treated and "exposures" in maintenance.vacuum(context.dsn, everything=True)[0]
    refused = maintenance.vacuum(database.reader, everything=True)[1]
    assert refused and "permission denied" in refused[0]


def test_what_is_worth_a_vacuum():
    row = {"live": 10000, "dead": 0, "changed": 0, "analyzed": "then"}
    assert not maintenance.worth_it(row)
    assert maintenance.worth_it({**row, "dead": 3000})
    assert maintenance.worth_it({**row, "changed": 2000})
    assert maintenance.worth_it({**row, "analyzed": None})
    assert not maintenance.worth_it({"live": 10, "dead": 10, "changed": 20, "analyzed": None})


def test_the_whole_care_and_its_doubts(context):
    fill(context.dsn, TODAY, 10)
    done = maintenance.care(context, keep_nights=1)
    assert done.state == "ok" and done.figures["bytes"] > 1e6, done.line
    assert f"{LIMITS.partitions_ahead + 1} partitions made ahead" in done.line
    figures = {**done.figures, "xid_age": 10**9, "connections": 95, "most_connections": 100}
    figures["tables"] = [{"name": "jobs", "live": 10**5, "dead": 2 * 10**5}]
    lines = maintenance.doubts(figures)
    assert len(lines) == 3 and "mostly dead" in lines[2]


def say(dsn, *ages_d):
    """Messages of tasks, so many days old."""
    with db.transaction(dsn) as cursor:
        cursor.execute(
            "insert into messages (at, level, source, text, host) select now() - make_interval(days => age), 'warning', 's', 'w', 'h'"
            " from unnest(%s) as age",
            (list(ages_d),),
        )


def said(dsn):
    return db.fetch_one(dsn, "select count(*)::int as n from messages")["n"]


def test_old_messages_go_when_the_rules_say_so(context, database):
    say(context.dsn, 1, 29, 31, 89, 91, 100, 400)
    done = maintenance.care(context)
    assert "3 old messages deleted" in done.line and done.figures["pruned"] == 3 and said(context.dsn) == 4
    cleanup.set_rules(database.operator, {"message_days": 30}, "ops", "nobody looks that far back")
    assert maintenance.care(context).figures["pruned"] == 2 and said(context.dsn) == 2
    cleanup.set_rules(database.operator, {"message_days": None}, "ops", "keep them")
    say(context.dsn, *[400] * 7)
    assert maintenance.care(context).figures["pruned"] == 0 and said(context.dsn) == 9
    assert messages.prune(context.dsn, 30, at_once=3) == 7, "in several transactions"
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        messages.prune(database.operator, 30)


def test_health_counts_jobs_errors_and_what_is_stuck(context):
    quiet = health.review(context)
    assert quiet.figures["steps"] == [] and "0 jobs done and 0 failed" in quiet.line
    with db.transaction(context.dsn) as cursor:
        for k in range(40):
            state = "error" if k < 10 else "done"
            job = {
                "step": "science",
                "dataset": f"d{k}",
                "host": "node1" if k < 30 else "node2",
                "pid": k,
                "state": state,
            }
            db.insert(cursor, "jobs", {**job, "cpu_s": float(k), "error_class": "psf_failed" if k < 10 else None})
        cursor.execute("update jobs set ended = now()")
        db.insert(cursor, "jobs", {"step": "difference", "dataset": "long", "host": "node2", "pid": 1})
        cursor.execute("update jobs set started = now() - interval '5 hours' where dataset = 'long'")
    done = health.review(context)
    assert done.state == "warn"
    said = "; ".join(done.figures["problems"])
    assert "25.0 % of the attempts failed, most with psf_failed (10)" in said
    assert "node1 fails in 10 of 30 attempts" in said and "node2 fails" not in said
    assert "1 jobs have run for over 120 min, first difference long" in said
    (science,) = [row for row in done.figures["steps"] if row["step"] == "science"]
    assert (science["done"], science["errors"], science["cpu_s"]) == (30, 10, 24.5)
    assert done.figures["quadrants_best_hour"] == 30
    assert done.figures["write_mb_per_s"] > 0 and list((context.archive / ".work").iterdir()) == []


def test_an_archive_that_cannot_be_written_is_said(context, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreDown):
        health.write_speed(replace(context, archive=tmp_path / "file").archive)


def test_only_the_functions_change_the_structure(database):
    for dsn in (database.reader, database.operator):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(dsn) as cursor:
            cursor.execute("select retire_night(1)")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(database.pipeline) as cursor:
        cursor.execute("drop table candidates")
