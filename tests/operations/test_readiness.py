"""Readiness: every line says what is so, and go turns to no-go for the right reason only."""

from dataclasses import replace

import pytest
from test_pages import text_of

from ztfds.operations.day import outcomes, readiness
from ztfds.operations.day.outcomes import Outcome
from ztfds.operations.day.readiness import GO, LOOK, STOP, calibration_state
from ztfds.operations.pages.readiness import readiness_page
from ztfds.registry import database as db


def lines(outcome):
    return {c["name"]: (c["state"], c["line"]) for c in outcome.figures["checks"]}


def test_a_house_with_calibrations_and_catalogs_is_ready(ready):
    with db.transaction(ready.dsn) as cursor:
        cursor.execute(
            "update calibrations set valid_from_jd = 2440587.5 + extract(epoch from now()) / 86400 - 2, valid_to_jd = null"
        )
    done = readiness.readiness(ready)
    said = lines(done)
    assert done.figures["go"] and done.state == "warn", done.line
    assert said["calibrations"] == (GO, "8 in force, the oldest 2.0 d")
    assert said["references"][1].startswith("1 of 1 fields and filters")
    assert said["database"][0] == said["disks"][0] == said["catalogs"][0] == said["downtime"][0] == GO
    assert "no backup" in said["backups"][1] and "none is configured" in said["broker"][1]
    assert said["ephemerides"] == (LOOK, "no good set of orbits: known objects are not tagged")
    assert "alerts wait" in said["outbox"][1] and set(said) == set(readiness.CHECKS)


@pytest.mark.parametrize(
    ("statement", "name", "state", "words"),
    [
        ("update calibrations set accepted = false where caltype = 'bias'", "calibrations", STOP, "4 of 8 are missing"),
        ("select 1", "calibrations", LOOK, "older than they should be"),
        ("insert into downtimes (reason, announced_by) values ('new rack', 'ops')", "downtime", STOP, "new rack"),
        ("update downtimes set ends = now()", "downtime", GO, "none"),
        ("update references_ set status = 0", "references", LOOK, "0 of 1"),
        (
            "update exposures set state = 'processing', arrival = now() - interval '30 hours'",
            "queue",
            LOOK,
            "since 30 h",
        ),
    ],
)
def test_each_line_follows_its_cause(ready, statement, name, state, words):
    with db.transaction(ready.dsn) as cursor:
        cursor.execute(statement)
    assert lines(readiness.readiness(ready))[name][0] == state
    assert words in lines(readiness.readiness(ready))[name][1]


def test_what_cannot_be_checked_is_no_go_and_stops_no_other_check(ready, tmp_path):
    broken = replace(
        ready, catalogs=tmp_path / "none", inbox=tmp_path / "none", kafka={"bootstrap.servers": "127.0.0.1:1"}
    )
    readiness.BROKER_PATIENCE_S = 0.5
    said = lines(readiness.readiness(broken))
    assert said["catalogs"][0] == STOP and said["disks"] == (STOP, said["disks"][1])
    assert "inbox is not there" in said["disks"][1]
    assert said["broker"][0] == LOOK and "does not answer" in said["broker"][1]
    dead = lines(readiness.readiness(replace(ready, dsn="postgresql://nobody@127.0.0.1:1/none")))
    assert dead["database"][0] == STOP and dead["calibrations"][0] == STOP and dead["catalogs"][0] == GO


def test_calibrations_of_every_channel_and_filter_in_use_count():
    rows = [{"caltype": "bias", "rcid": r, "fid": 0, "age_d": 1.0} for r in (0, 1)]
    rows += [{"caltype": "hifreqflat", "rcid": r, "fid": 2, "age_d": 3.0} for r in (0, 1)]
    assert calibration_state(rows, (0, 1), [2]) == (GO, "4 in force, the oldest 3.0 d")
    assert calibration_state(rows[1:], (0, 1), [2])[1].endswith("first: bias of readout channel 0")
    assert "hifreqflat in filter 1" in calibration_state(rows, (0, 1), [1, 2])[1]


def test_the_page_says_go_or_no_go(database):
    assert "No readiness check" in text_of(readiness_page(database.reader))
    checks = [
        {"name": "disks", "state": "no-go", "line": "full <b>"},
        {"name": "queue", "state": "go", "line": "empty"},
    ]
    for run, go in (("r1", True), ("r2", False)):
        made = Outcome.of("x", failures=[] if go else ["disks: full"], checks=checks, go=go)
        outcomes.settle(database.pipeline, "readiness", run, lambda made=made: made)
    words = text_of(readiness_page(database.reader))
    assert "Readiness: NO-GO" in words and "full &lt;b&gt;" in words
    outcomes.settle(database.pipeline, "readiness", "r3", lambda: Outcome("failed", "database_down: gone"))
    assert "database_down: gone" in text_of(readiness_page(database.reader))
