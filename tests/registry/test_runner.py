"""The runner: everything or nothing, and nothing twice."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import one_step
import pytest

from ztfds.formats.atomic import sha256_of
from ztfds.registry import database as db
from ztfds.registry import products
from ztfds.registry.products import Parent, Step, Subject
from ztfds.registry.runner import FAULT_POINTS, WORK, Outputs, Runner, provenance_id, sweep
from ztfds.survey.errors import BadDifference, DatabaseDown, StoreDown


@pytest.fixture
def dsn(database):
    one_step.prepare(database.pipeline)
    return database.pipeline


def _count(dsn, table, where="true"):
    return db.fetch_one(dsn, f"select count(*)::int as n from {table} where {where}")["n"]


def _assert_complete(dsn, archive, version=1):
    rows = products.best(dsn, one_step.SUBJECT.dataset)
    assert set(rows) == {"number", "square"}
    for row in rows.values():
        path = archive / row["path"]
        assert (row["version"], row["vbest"]) == (version, 1)
        assert (path.stat().st_size, sha256_of(path)) == (row["bytes"], row["sha256"])
    assert _count(dsn, "object_names") == version
    assert [p for p in (archive / WORK).glob("*") if p.name.rsplit("-", 2)[1] == str(os.getpid())] == []


def test_products_parents_quality_and_job_are_registered_together(dsn, tmp_path):
    first = one_step.run(dsn, tmp_path)
    assert first.value == 42 and not first.skipped
    _assert_complete(dsn, tmp_path)
    row = first.products["number"]
    assert row["meta"] == {"seeing": 2.0} and row["status"] == 1 and row["swversion"].endswith("/double/1")
    metrics = db.fetch_all(dsn, "select name, value from qa_metrics order by name")
    assert metrics == [{"name": "unknown", "value": None}, {"name": "value", "value": 42.0}]
    job = db.fetch_one(dsn, "select * from jobs")
    assert job["state"] == "done" and job["try"] == 2 and job["run_id"] == "test"
    assert job["cpu_s"] >= 0 and job["peak_mb"] > 10 and job["ended"] >= job["started"]
    config = db.fetch_one(dsn, "select * from config_versions")
    assert config["config"]["factor"] == 2.0 and config["config_hash"] == row["config_hash"]


def test_the_same_provenance_is_skipped(dsn, tmp_path):
    first = one_step.run(dsn, tmp_path)
    again = one_step.run(dsn, tmp_path, words="only the wording differs")
    assert again.skipped and again.value is None and again.provenance_id == first.provenance_id
    assert {k: r["product_id"] for k, r in again.products.items()} == {
        k: r["product_id"] for k, r in first.products.items()
    }
    assert _count(dsn, "products") == 2 and _count(dsn, "jobs") == 1


def test_another_setting_makes_a_new_version_and_keeps_the_old_file(dsn, tmp_path):
    first = one_step.run(dsn, tmp_path)
    second = one_step.run(dsn, tmp_path, factor=3.0)
    assert second.products["number"]["version"] == 2
    _assert_complete(dsn, tmp_path, version=2)
    old = db.fetch_one(dsn, "select * from products where product_id = %s", (first.products["number"]["product_id"],))
    assert old["vbest"] == 0 and (tmp_path / old["path"]).read_text() == "42.0"


def test_a_locked_version_stays_best(dsn, tmp_path, database):
    one_step.run(dsn, tmp_path)
    with db.transaction(database.operator) as cursor:
        cursor.execute("update products set vbest = 2 where kind = 'number'")
    one_step.run(dsn, tmp_path, factor=3.0)
    best = products.best(dsn, one_step.SUBJECT.dataset)
    assert (best["number"]["version"], best["square"]["version"]) == (1, 2)


def test_a_lost_file_is_made_again_without_a_new_version(dsn, tmp_path):
    first = one_step.run(dsn, tmp_path)
    (tmp_path / first.products["square"]["path"]).unlink()
    again = one_step.run(dsn, tmp_path)
    assert not again.skipped and again.value == 42
    _assert_complete(dsn, tmp_path)
    assert one_step.run(dsn, tmp_path).skipped


def test_provenance_follows_step_settings_and_parents_but_not_their_order():
    a, b, config = Parent(1, "a"), Parent(2, "b"), one_step.DoubleConfig()
    base = provenance_id(one_step.STEP, "q1", config, [a, b])
    assert base == provenance_id(one_step.STEP, "q1", one_step.DoubleConfig(words="x"), [b, a])
    others = [
        provenance_id(Step("double", "2"), "q1", config, [a, b]),
        provenance_id(Step("triple", "1"), "q1", config, [a, b]),
        provenance_id(one_step.STEP, "q2", config, [a, b]),
        provenance_id(one_step.STEP, "q1", one_step.DoubleConfig(factor=2.5), [a, b]),
        provenance_id(one_step.STEP, "q1", config, [a]),
        provenance_id(one_step.STEP, "q1", None, [a, b]),
    ]
    assert len({base, *others}) == 7


def test_parents_are_linked(dsn, tmp_path):
    parent = one_step.run(dsn, tmp_path)
    child = Runner(dsn, tmp_path).execute(
        Step("child", "1"),
        Subject("child/1", exposure=one_step.EXPOSURE),
        parent.parents,
        None,
        lambda: 1.0,
        lambda value: Outputs([one_step.outputs(value).files[0]]),
    )
    links = db.fetch_all(dsn, "select * from product_parents")
    assert [link["product_id"] for link in links] == [child.products["number"]["product_id"]]
    assert links[0]["parent_id"] in {row["product_id"] for row in parent.products.values()}


def test_an_error_is_located_and_the_job_says_it(dsn, tmp_path):
    def fail() -> float:
        raise BadDifference("too noisy")

    with pytest.raises(BadDifference) as caught:
        Runner(dsn, tmp_path, attempt=3).execute(one_step.STEP, one_step.SUBJECT, [], None, fail, one_step.outputs)
    assert (caught.value.exposure, caught.value.rcid, caught.value.step, caught.value.attempt) == (
        one_step.EXPOSURE,
        20,
        "double",
        3,
    )
    job = db.fetch_one(dsn, "select * from jobs")
    assert (job["state"], job["error_class"]) == ("error", "bad_difference") and "too noisy" in job["error_text"]
    assert _count(dsn, "products") == 0


def test_a_failing_row_rolls_everything_back(dsn, tmp_path):
    one_step.run(dsn, tmp_path)
    with db.transaction(dsn) as cursor:
        cursor.execute("insert into object_names values ('v2', 0, 0, 0, 0, 0, 2018)")  # the next version's row clashes
    with pytest.raises(Exception, match="duplicate key"):
        one_step.run(dsn, tmp_path, factor=5.0)
    assert _count(dsn, "products") == 2 and _count(dsn, "config_versions") == 1
    assert {row["version"] for row in products.best(dsn, one_step.SUBJECT.dataset).values()} == {1}


def test_no_place_to_write_is_store_down(dsn, tmp_path):
    (tmp_path / "sci").write_text("a file where a folder should be")
    with pytest.raises(StoreDown):
        one_step.run(dsn, tmp_path)
    assert _count(dsn, "products") == 0


def test_no_connection_is_held_while_computing(dsn, tmp_path, database):
    seen = []

    def compute() -> float:
        query = """
            select count(*)::int as n from pg_stat_activity
             where datname = %s and pid <> pg_backend_pid() and backend_type = 'client backend'"""
        seen.append(db.fetch_one(database.owner, query, (database.name,))["n"])
        return 1.0

    Runner(dsn, tmp_path).execute(one_step.STEP, one_step.SUBJECT, [], None, compute, one_step.outputs)
    assert seen == [0]


def test_database_gone_while_computing_registers_nothing_and_a_retry_completes(dsn, tmp_path, database, postgres):
    from embedded import administer

    def fault(point: str) -> None:
        if point == "double:before_commit":
            kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s'"
            administer(postgres, kill % database.name)

    with pytest.raises(DatabaseDown):
        one_step.run(dsn, tmp_path, fault=fault)
    assert _count(dsn, "products") == 0
    assert not one_step.run(dsn, tmp_path).skipped
    _assert_complete(dsn, tmp_path)


@pytest.mark.parametrize("point", FAULT_POINTS)
def test_killed_at_any_point_leaves_nothing_visible_and_the_next_attempt_completes(dsn, tmp_path, point):
    script = Path(one_step.__file__)
    killed = subprocess.run([sys.executable, script, dsn, tmp_path, point], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    committed = point == "committed"
    assert _count(dsn, "products") == (2 if committed else 0)
    assert _count(dsn, "object_names") == (1 if committed else 0)
    assert _count(dsn, "qa_metrics") == (2 if committed else 0)
    assert _count(dsn, "jobs", "state = 'running'") == (0 if committed else 1)
    again = one_step.run(dsn, tmp_path)
    assert again.skipped is committed
    _assert_complete(dsn, tmp_path)
    assert _count(dsn, "jobs", "state = 'killed'") == (0 if committed else 1)
    assert _count(dsn, "jobs", "state = 'done'") == 1
    left = list((tmp_path / WORK).glob("*"))
    assert sweep(tmp_path) == len(left)
    assert list((tmp_path / WORK).glob("*")) == []


def test_two_at_once_register_one_version(dsn, tmp_path):
    barrier = threading.Barrier(2)
    results = []

    def fault(point: str) -> None:
        if point == "double:after_write":
            barrier.wait(30)

    threads = [threading.Thread(target=lambda: results.append(one_step.run(dsn, tmp_path, fault=fault))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2 and results[0].provenance_id == results[1].provenance_id
    assert _count(dsn, "products") == 2
    assert sorted(row["state"] for row in db.fetch_all(dsn, "select state from jobs")) == ["done", "skipped"]
    _assert_complete(dsn, tmp_path)
