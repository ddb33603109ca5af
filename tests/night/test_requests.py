"""What an operator asks for through Airflow's interface: releases, fields, matching, limits, database care; and what is refused."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ztfds.drills.sandbox import Sandbox
from ztfds.formats.raw import read_raw, write_raw
from ztfds.operations.services import airflow
from ztfds.operations.services.rest import AirflowApi
from ztfds.registry import database
from ztfds.survey import fields, ids
from ztfds.survey.errors import ConfigurationError
from ztfds.survey.names import RawName

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
NUMBER = 2017


@pytest.fixture(scope="module")
def operator(observatory: Sandbox) -> Iterator[AirflowApi]:
    """Airflow's interface with the operator's account."""
    client = airflow.api(observatory.state, "operator")
    yield client
    client.close()


def ask(observatory: Sandbox, client: AirflowApi, dag: str, run: str, **form: Any) -> tuple[str, str]:
    """Fill in a form and wait; the state of the run, and the line of its outcome."""
    assert client.trigger(dag, run, form)
    state = observatory.await_run(dag, run, 120)
    query = "select state, line from task_outcomes where task = %s and run_id = %s"
    (row,) = observatory.query(query, (dag, run))
    assert (row["state"] == "failed") == (state == "failed")
    return state, row["line"]


def refused(client: AirflowApi, dag: str, **form: Any) -> str:
    """What is said of a form that may not be; nothing is begun."""
    with pytest.raises(ConfigurationError) as refusal:
        client.trigger(dag, "refused", form)
    assert client.call("GET", f"/api/v2/dags/{dag}/dagRuns/refused")[0] == 404
    return str(refusal.value)


def test_epochs_are_released_and_a_data_release_is_frozen(observatory: Sandbox, operator: AirflowApi) -> None:
    state, line = ask(observatory, operator, "public_release", "release_1")
    assert state == "success" and line.startswith("epochs released: ") and " of program 1" in line
    unreleased = "select count(*) from exposures where imgtype = 'o' and programid = 1 and released is null"
    assert observatory.count(unreleased) == 0
    span = "select min(nid) as first, max(nid) as last from exposures where imgtype = 'o' and released is not null"
    (nights,) = observatory.query(span)
    form = {"first": ids.night_date(nights["first"]), "last": ids.night_date(nights["last"]), "title": "the first"}
    state, line = ask(observatory, operator, "public_release", "freeze_1", freeze=1, verify=True, **form)
    assert state == "success" and "none was due; data release 1 is frozen" in line
    assert observatory.query("select author from data_releases") == [{"author": "operator"}], "the account signs"
    archive = observatory.context.archive
    check = ["sha256sum", "--quiet", "-c", archive / "releases/dr001/files.sha256"]
    assert subprocess.run(check, cwd=archive, check=False).returncode == 0
    assert ask(observatory, operator, "public_release", "freeze_7", freeze=7, **form) == (
        "failed",
        "configuration: the next data release is number 2, not 7",
    )
    assert "freeze: -1 is less than the minimum of 0" in refused(operator, "public_release", freeze=-1)
    assert "first: 'soon' does not match" in refused(operator, "public_release", freeze=2, first="soon")
    assert observatory.count("select count(*) from data_releases") == 1


def test_what_is_due_for_source_matching_is_queued(observatory: Sandbox, operator: AirflowApi) -> None:
    groups = observatory.count(
        "select count(*) from (select distinct field, rcid, fid from products where kind = 'psfcat' and vbest > 0 and status = 1) g"
    )
    state, line = ask(observatory, operator, "source_matching", "match_many", epochs=1000)
    assert (state, line.split(",")[0]) == ("success", f"0 of {groups} fields")
    state, line = ask(observatory, operator, "source_matching", "match_1", epochs=1)
    assert (state, line.split(",")[0]) == ("success", f"{groups} of {groups} fields") and groups > 0
    assert observatory.count("select count(*) from matching_queue where queued is not null") == groups
    assert "epochs: 0 is less than the minimum of 1" in refused(operator, "source_matching", epochs=0)


def test_limits_of_telemetry_are_changed_by_form(observatory: Sandbox, operator: AirflowApi) -> None:
    high = "select high from telemetry_quantities where name = 'humidity'"
    form = {"limits": [{"name": "humidity", "high": 20}], "reason": "to see what departs"}
    state, line = ask(observatory, operator, "telemetry_limits", "limits_1", **form)
    assert (state, line) == ("success", "version 2 by operator: humidity: high 85.0 → 20.0")
    assert observatory.query(high) == [{"high": 20.0}]
    mood = {**form, "limits": [{"name": "mood", "low": 0}]}
    expected = "configuration: nobody measures mood"
    assert ask(observatory, operator, "telemetry_limits", "limits_2", **mood) == ("failed", expected)
    wrong = {**form, "limits": [{"name": "humidity", "low": 30}]}
    state, line = ask(observatory, operator, "telemetry_limits", "limits_3", **wrong)
    assert state == "failed" and "humidity: low 30 is not below high 20" in line
    assert "reason: '' is too short" in refused(operator, "telemetry_limits", limits=form["limits"])
    assert ask(observatory, operator, "telemetry_limits", "limits_4", version=1, reason="as before")[0] == "success"
    assert observatory.query(high) == [{"high": 85.0}]


def test_the_database_is_cared_for_and_old_messages_go(observatory: Sandbox, operator: AirflowApi) -> None:
    with database.transaction(observatory.context.dsn) as cursor:
        values = {"level": "warning", "source": "a test", "text": "long ago", "host": "here", "at": "2020-01-01"}
        database.insert(cursor, "messages", values)
    state, line = ask(observatory, operator, "database_care", "care_1")
    assert state == "success" and ", 1 old messages deleted" in line
    assert observatory.count("select count(*) from messages where at < '2021-01-01'") == 0


def off_grid(observatory: Sandbox, folder: Path) -> tuple[list[Path], fields.Field]:
    """The raw files of an exposure under a field number that is not on the grid, and where it points."""
    plan, other = observatory.plan(1), folder / "other"
    other.mkdir()
    files = []
    for path in sorted(observatory.stage(plan, folder)[:-1]):
        if path.suffix == ".fz":
            raw = read_raw(path, observatory.context.camera.quadrant_shape)
            raw.header["FIELDID"] = NUMBER
            files.append(other / replace(RawName.parse(path.name), field=NUMBER).filename)
            write_raw(files[-1], raw.header, raw.quadrants)
    return files, fields.get(plan.fields[0])


def send(observatory: Sandbox, files: list[Path]) -> None:
    """Put files into the inbox as the transfer does."""
    for path in files:
        part = observatory.home / "inbox" / f"{path.name}.part"
        part.write_bytes(path.read_bytes())
        part.rename(part.with_suffix(""))


def test_a_field_off_the_grid_is_prepared_and_its_exposures_are_let_in(
    observatory: Sandbox, operator: AirflowApi, tmp_path: Path
) -> None:
    files, centre = off_grid(observatory, tmp_path)
    names = [path.name for path in files]
    send(observatory, files)
    aside = (
        "select count(*) from receipts where filename = any(%s) and verdict = 'quarantined' and error_code = 'off_grid'"
    )
    observatory.wait(lambda: observatory.count(aside, (names,)) == len(names), "the files are put aside", 120)
    form = {"field": NUMBER, "ra": centre.ra, "dec": centre.dec, "words": "a test", "least": 5}
    empty = {**form, "ra": (centre.ra + 180) % 360, "dec": -centre.dec, "field": NUMBER + 1}
    assert ask(observatory, operator, "prepare_field", "field_empty", **empty) == (
        "failed",
        f"bad_catalog: a quadrant of field {NUMBER + 1} has 0 gaia stars, 5 are needed",
    )
    assert "field: 600 is less than the minimum of 2000" in refused(operator, "prepare_field", **{**form, "field": 600})
    assert "ra: 360.0 is greater than or equal to the maximum of 360" in refused(
        operator, "prepare_field", **{**form, "ra": 360.0}
    )
    assert "ra: None is not of type 'number'" in refused(operator, "prepare_field", field=NUMBER)
    with pytest.raises(ConfigurationError, match="403"):
        airflow.api(observatory.state, "viewer").trigger("prepare_field", "refused", form)
    state, line = ask(observatory, operator, "prepare_field", "field_1", **form)
    assert state == "success" and line.startswith(f"field {NUMBER} is ready: at least ")
    assert line.endswith(f"{len(names)} files sent again")
    assert observatory.query("select field, author from prepared_fields") == [{"field": NUMBER, "author": "operator"}]
    good = "select count(*) from ccdfiles where filename = any(%s) and state in ('calibrated', 'processed')"
    observatory.wait(lambda: observatory.count(good, (names,)) == len(names), "the files are processed", 180)
