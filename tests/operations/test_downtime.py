"""A downtime holds new work and loses none of it."""

import time
from datetime import timedelta

import pytest
from test_ingestd import Airflow, put, put_whole, raw_name

from ztfds.operations.context import Context
from ztfds.operations.day import downtime
from ztfds.operations.ingestd import Watcher, sweep
from ztfds.operations.pages.tonight import tonight
from ztfds.registry import database as db
from ztfds.survey.errors import ConfigurationError, NoWork

EARLY, LATE, NEWEST = "ztf_20261120123456", "ztf_20261120223456", "ztf_20261120323456"


@pytest.fixture
def context(database, tmp_path):
    places = {name: tmp_path / name for name in ("archive", "inbox", "catalogs")}
    for folder in places.values():
        folder.mkdir()
    return Context.build(database.pipeline, {**places, "camera": "tiny"})


@pytest.fixture
def watcher(context, database, monkeypatch):
    monkeypatch.setattr(downtime, "ASK_EVERY_S", 0.0)
    return Watcher(context.inbox, 2, held=downtime.Hold(database.reader))


def test_files_wait_in_the_inbox_and_the_newest_go_first_afterwards(context, watcher):
    airflow = Airflow()
    put_whole(context.inbox, EARLY)
    assert sweep(watcher, airflow, time.time()) == 1
    said = downtime.hold(context, "new rack", "ops")
    assert said.line == "new work is held until somebody resumes: new rack (ops)"
    put_whole(context.inbox, LATE, NEWEST)
    put(context.inbox, raw_name(6, "ztf_20261120423456") + ".part")
    for _ in range(3):
        assert sweep(watcher, airflow, time.time()) == 0
    assert airflow.tried == [EARLY] and len(list(context.inbox.iterdir())) == 7
    done = downtime.resume(context, "ops")
    assert "6 files have arrived" in done.line and done.figures["waiting"] == 6
    assert sweep(watcher, airflow, time.time()) == 2
    assert airflow.tried == [EARLY, NEWEST, LATE]
    with pytest.raises(NoWork):
        downtime.resume(context, "ops")


def test_a_downtime_ends_by_itself_and_another_can_follow(context, watcher):
    downtime.hold(context, "short", "ops", hours=1)
    first = downtime.current(context.dsn)
    assert first["ends"] - first["announced"] == timedelta(hours=1) and watcher.held()
    downtime.hold(context, "longer", "ops", hours=2)
    changed = downtime.current(context.dsn)
    assert changed["downtime_id"] == first["downtime_id"] and changed["reason"] == "longer"
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update downtimes set ends = now() - interval '1 s'")
    assert downtime.current(context.dsn) is None and not watcher.held()
    assert downtime.drained(context)
    downtime.hold(context, "again", "ops")
    rows = db.fetch_all(context.dsn, "select reason, released_by from downtimes order by downtime_id")
    assert [(r["reason"], r["released_by"]) for r in rows] == [("longer", "its end"), ("again", None)]


def test_drained_when_nothing_runs(context):
    downtime.hold(context, "kernel", "ops")
    with db.transaction(context.dsn) as cursor:
        db.insert(cursor, "jobs", {"step": "sci", "dataset": "x", "host": "h", "pid": 1})
    assert not downtime.drained(context)
    assert downtime.report(context).state == "warn"
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update jobs set state = 'done'")
    assert not downtime.drained(context, runs=1)
    assert downtime.drained(context)
    at = downtime.current(context.dsn)["drained"]
    assert downtime.drained(context) and downtime.current(context.dsn)["drained"] == at
    assert "nothing runs; 0 files wait" in downtime.report(context).line
    downtime.resume(context, "ops")
    assert "no downtime" in downtime.report(context).line


def test_the_live_page_says_that_work_is_held(context):
    with db.transaction(context.dsn) as cursor:
        cursor.execute("select ensure_night(900)")
    assert "New work is held" not in tonight(context.dsn, context.camera, {})
    downtime.hold(context, "new <rack>", "ops", hours=1)
    html = tonight(context.dsn, context.camera, {})
    assert "New work is held since" in html and "new &lt;rack&gt; (ops)" in html


def test_while_the_database_is_away_the_last_answer_counts(context, database, monkeypatch):
    monkeypatch.setattr(downtime, "ASK_EVERY_S", 0.0)
    hold = downtime.Hold(database.reader)
    assert not hold()
    downtime.hold(context, "x", "ops")
    assert hold()
    hold.dsn = "postgresql://nobody@127.0.0.1:1/none"
    assert hold()
    monkeypatch.setattr(downtime, "ASK_EVERY_S", 60.0)
    hold.dsn = database.reader
    downtime.resume(context, "ops")
    assert hold()  # asked a moment ago
    hold.asked -= 61
    assert not hold()


def test_a_downtime_needs_a_reason_and_a_length_that_makes_sense(context):
    for reason, hours in ((" ", 1), ("x", -1), ("x", 1000)):
        with pytest.raises(ConfigurationError):
            downtime.hold(context, reason, "ops", hours)
    assert downtime.current(context.dsn) is None


def test_operators_may_hold_and_readers_may_not(database):
    import psycopg2

    with db.transaction(database.operator) as cursor:
        cursor.execute("insert into downtimes (reason, announced_by) values ('x', 'ops')")
        cursor.execute("update downtimes set released = now(), released_by = 'ops'")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(database.reader) as cursor:
        cursor.execute("insert into downtimes (reason, announced_by) values ('x', 'ops')")
