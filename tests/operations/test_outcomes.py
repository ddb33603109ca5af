"""One line of outcome for each run of a day task."""

from datetime import UTC, datetime

import psycopg2
import pytest
from test_pages import Links, text_of

from ztfds.operations.day import outcomes
from ztfds.operations.day.outcomes import Outcome
from ztfds.operations.pages.day import day_page
from ztfds.operations.pages.render import ROOT
from ztfds.registry import database as db
from ztfds.survey.errors import DatabaseDown, NoWork, StoreDown


def test_a_run_leaves_one_line_and_its_repetition_replaces_it(database):
    done = outcomes.settle(database.pipeline, "cleanup", "run1", lambda: Outcome.of("3 files removed", removed=3))
    assert done.state == "ok"
    outcomes.settle(database.pipeline, "cleanup", "run1", lambda: Outcome.of("none left", removed=0), attempt=2)
    (row,) = outcomes.recent(database.reader)
    assert (row["line"], row["attempt"], row["figures"]) == ("none left", 2, {"removed": 0})
    assert row["started"] <= row["ended"]


def test_a_failure_leaves_its_reason_in_one_line_and_goes_on(database):
    def work():
        raise StoreDown("the disk\nis full")

    with pytest.raises(StoreDown):
        outcomes.settle(database.pipeline, "backup", "run1", work)
    row = outcomes.newest(database.reader, "backup")
    assert (row["state"], row["line"]) == ("failed", "store_down: the disk is full")
    assert outcomes.newest_good(database.reader, "backup") is None


def test_nothing_to_do_leaves_no_line_and_a_dead_database_does_not_hide_the_error(database, postgres):
    def nothing():
        raise NoWork("no night yet")

    with pytest.raises(NoWork):
        outcomes.settle(database.pipeline, "coverage", "run1", nothing)
    assert outcomes.recent(database.reader) == []

    def bug():
        raise ValueError("the first error")

    with pytest.raises(ValueError, match="the first error"):
        outcomes.settle("postgresql://nobody@127.0.0.1:1/none", "coverage", "run1", bug)
    with pytest.raises(DatabaseDown):
        outcomes.settle("postgresql://nobody@127.0.0.1:1/none", "coverage", "run1", lambda: Outcome.of("done"))


def test_an_outcome_is_as_bad_as_the_worst_said_of_it():
    said = Outcome.of("checked", warnings=["a", "b"], failures=["c", "d"], n=1)
    assert (said.state, said.line) == ("failed", "checked; c; d; a (1 more)")
    assert said.figures == {"n": 1, "problems": ["c", "d", "a", "b"]}
    assert Outcome.of("checked", warnings=["a"]).state == "warn"
    assert len(outcomes.one_line("x " * 1000)) == outcomes.LONGEST_LINE


def test_only_the_pipeline_writes_outcomes(database):
    for dsn in (database.reader, database.operator):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            outcomes.keep(dsn, "backup", "r", Outcome.of("x"), started=datetime.now(UTC))


def test_the_page_shows_the_last_outcome_of_each_task_the_worst_first(database):
    assert "None has run yet" in text_of(day_page(database.reader))
    for task, outcome in (
        ("cleanup", Outcome.of("fine")),
        ("backup", Outcome.of("set <b>", failures=["no disk"])),
        ("cleanup", Outcome.of("fine again", removed=7)),
    ):
        outcomes.settle(database.pipeline, task, f"run {outcome.line}", lambda outcome=outcome: outcome)
    words = text_of(day_page(database.reader))
    assert words.index("no disk") < words.index("fine again")
    assert "set &lt;b&gt;; no disk" in words
    outcomes.settle(
        database.pipeline, "backup: proof", "manual__2026-11-20T18:30:00+00:00", lambda: Outcome.of("identical")
    )
    targets = Links(day_page(database.reader)).targets
    assert "/dags/backup/runs/manual__2026-11-20T18%3A30%3A00%2B00%3A00" in targets
    assert all(target.startswith((ROOT, "/dags/")) for target in targets)
    with db.transaction(database.pipeline) as cursor:
        cursor.execute("insert into downtimes (reason, announced_by) values ('new rack', 'ops')")
    assert "Downtime since" in text_of(day_page(database.reader)) and "new rack" in day_page(database.reader)
