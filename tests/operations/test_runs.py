"""What ran and what it said: the page Runs on a real database, messages of tasks kept the moment they come."""

from __future__ import annotations

import logging
import re

import pytest
from prepared import process

from ztfds.operations.control.changes import parsed
from ztfds.operations.pages import exposure as exposures
from ztfds.operations.pages.references import reference_page, references_page
from ztfds.operations.pages.runs import PAGE, runs_page, task_address
from ztfds.registry import database as db
from ztfds.registry import messages
from ztfds.registry.messages import About, collected
from ztfds.registry.runner import Task
from ztfds.survey.errors import ConfigurationError

TASK = {"dag": "exposure", "task": "process_ccd", "map_index": 3, "run_id": "run", "try": 2}
log = logging.getLogger("ztfds.science.somewhere")


def said(database) -> list[dict[str, object]]:
    return db.fetch_all(database.reader, "select * from messages order by message_id")


def rows_of(html: str) -> int:
    return html.split("What tasks said")[0].count("<tr>") - 1


def test_an_execution_keeps_its_task_night_software_and_settings(ready, mountain):
    from dataclasses import replace

    context = replace(ready, task=Task("exposure", "process_ccd", 1, 4.5))
    exposure = process(context, mountain, mountain.of_kind("o", 1)[0]).exposure
    jobs = db.fetch_all(ready.dsn, "select * from jobs where exposure = %s", (exposure,))
    assert {job["step"] for job in jobs} == {"ingest", "science", "difference"}
    for job in jobs:
        assert (job["dag"], job["task"], job["map_index"], job["waited_s"]) == ("exposure", "process_ccd", 1, 4.5)
        assert job["nid"] and job["swversion"].split("/")[1] == job["step"]
    made = db.fetch_all(
        ready.dsn,
        "select j.swversion as a, p.swversion as b, j.config_hash as c, p.config_hash as d from jobs j join products p using (job_id)"
        " where j.exposure = %s",
        (exposure,),
    )
    assert made and all(row["a"] == row["b"] and row["c"] == row["d"] for row in made)
    night = exposure[4:12]
    html = runs_page(ready.dsn, {"exposure": exposure, "night": night, "step": "science"})
    assert rows_of(html) == 4 and "/dags/exposure/runs/run/tasks/process_ccd/mapped/1?try_number=1" in html
    assert "None fits" in runs_page(ready.dsn, {"exposure": exposure, "state": "error"})
    assert "not heeded" in runs_page(ready.dsn, {"night": "yesterday", "rcid": "x"})


def test_many_executions_are_shown_page_by_page(database):
    with db.transaction(database.pipeline) as cursor:
        cursor.execute(
            "insert into jobs (step, dataset, host, pid, state) select 'science', 'd' || k, 'h', 1, 'done'"
            " from generate_series(1, %s) k",
            (2 * PAGE + 5,),
        )
    shown, query = 0, ""
    for _ in range(3):
        html = runs_page(database.reader, dict(part.split("=") for part in query.split("&") if part))
        shown += rows_of(html)
        older = re.search(r'/runs\?([^"]*)">older', html)
        query = older[1].replace("&amp;", "&") if older else ""
    assert shown == 2 * PAGE + 5 and not query


def test_what_a_task_says_is_there_while_it_goes_on(database):
    with collected(database.pipeline, TASK, About(exposure="ztf_20240311000000")):
        log.info("nobody need know")
        log.warning("no radiation hits looked for: the FWHM is %.2f px", 0.9)
        assert [row["text"] for row in said(database)] == ["no radiation hits looked for: the FWHM is 0.90 px"]
        token = messages.ABOUT.set(About("science", "ztf_20240311000001", 7, 2626))
        log.error("with a NUL \0 inside")
        messages.ABOUT.reset(token)
    log.warning("after the task")
    first, second = said(database)
    assert (first["exposure"], first["level"], first["map_index"], first["try"]) == (
        "ztf_20240311000000",
        "warning",
        3,
        2,
    )
    assert (second["exposure"], second["rcid"], second["nid"], second["level"]) == (
        "ztf_20240311000001",
        7,
        2626,
        "error",
    )
    html = runs_page(database.reader, {"night": "20240311"})
    assert "with a NUL" in html and "nobody need know" not in html


def test_a_flood_of_messages_is_cut_and_a_database_that_is_away_stops_nobody(database):
    with collected(database.pipeline, TASK):
        for k in range(messages.MOST + 50):
            log.warning("again %d", k)
    kept = said(database)
    assert len(kept) == messages.MOST and kept[-1]["text"].startswith("more messages")
    with collected("postgresql://nobody@127.0.0.1:9/none?connect_timeout=1", TASK):
        log.warning("nobody keeps this")


def test_work_without_a_task_has_no_address():
    assert task_address({"dag": None, "run_id": "x"}) is None
    row = {"dag": "reference", "run_id": "a b+c", "task": "make", "map_index": -1, "try": 3}
    assert task_address(row) == "/dags/reference/runs/a%20b%2Bc/tasks/make?try_number=3"


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (None, {}),
        ({"a": {"b": 1}}, {"a": {"b": 1}}),
        (
            ["difference.candidates.threshold = 6.5", " ", "difference.on = true"],
            {"difference": {"candidates": {"threshold": 6.5}, "on": True}},
        ),
        (["science.mode=fast"], {"science": {"mode": "fast"}}),
    ],
)
def test_settings_are_typed_one_a_line(typed, found):
    assert parsed(typed) == found


@pytest.mark.parametrize("line", ["threshold", "a. = 3", "= 3", "a.b ="])
def test_a_line_that_is_no_setting_is_refused_with_an_example(line):
    with pytest.raises(ConfigurationError, match=r"difference\.candidates\.threshold = 6"):
        parsed([line])


def test_pages_offer_what_can_be_decided(ready, mountain):
    exposure = process(ready, mountain, mountain.of_kind("o", 1)[0]).exposure
    html = exposures.exposure_page(ready.dsn, ready.camera, exposure)
    assert "Run again what is not finished" in html and "&#34;task_ids&#34;: [&#34;process_ccd&#34;]" in html
    row = db.fetch_one(ready.dsn, "select reference_id, field, fid, rfid from references_ where vbest = 1 limit 1")
    assert str(row["rfid"]) in references_page(ready.dsn, row["field"], row["fid"])
    page = reference_page(ready.dsn, row["reference_id"])
    assert 'value="retire"' in page and 'value="lock"' in page and 'value="undo"' not in page
