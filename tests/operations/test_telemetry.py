"""Telemetry on a real database: files of every state, readings once, the join to exposures, limits, the account, the page."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2.errors
import pytest
from tiny import deliver

from ztfds.formats.manifests import ManifestFile, make_manifest, write_manifest
from ztfds.formats.telemetry import Reading, read_telemetry, write_telemetry
from ztfds.operations import accountability, afternoon, report, telemetry
from ztfds.operations.control.limits import change_in_words
from ztfds.operations.pages.telemetry import telemetry_page
from ztfds.registry import database as db
from ztfds.simulator.faults import listed
from ztfds.simulator.telemetry import WAVES, write_night
from ztfds.survey import ids
from ztfds.survey.errors import BadName, ConfigurationError, FilesMissing
from ztfds.survey.states import TelemetryState

NIGHT, NID = "20181203", ids.nid_of_date("20181203")
START = datetime(2018, 12, 3, 4, 0, 0, tzinfo=UTC)
KELVIN = 273.15


def readings(n: int = 10, name: str = "outside_temperature", unit: str = "deg_C", value: float = 5.0) -> list[Reading]:
    return [Reading(START + timedelta(seconds=30 * k), name, value + 0.1 * k, unit) for k in range(n)]


def made(tmp_path: Path, rows: list[Reading], night: str = NIGHT) -> Path:
    folder = tmp_path / "mountain"
    folder.mkdir(exist_ok=True)
    return write_telemetry(folder, night, rows).path


def arrive(context, path: Path, arrival: datetime | None = None) -> telemetry.Received:
    (name,) = deliver(context, path)
    return telemetry.receive(context, name, arrival, "tel_run")


def stored(context) -> list[dict]:
    return db.fetch_all(
        context.dsn, "select q.name, t.* from telemetry t join telemetry_quantities q using (quantity_id)"
    )


def files(context) -> dict[str, dict]:
    return {row["filename"]: row for row in db.fetch_all(context.dsn, "select * from telemetry_files")}


def test_a_file_says_the_same_after_writing_and_reading(tmp_path):
    rows = [*readings(3), Reading(START + timedelta(minutes=5), "humidity", math.nan, "%")]
    path = made(tmp_path, rows)
    assert path.name == "ztf_20181203_040000_telemetry.ecsv"
    found = read_telemetry(path)
    assert found[:3] == rows[:3] and math.isnan(found[3].value)


def test_a_good_file_is_archived_loaded_and_registered_once(context, tmp_path):
    path = made(tmp_path, readings())
    got = arrive(context, path)
    assert (got.state, got.readings, got.left_out) == (TelemetryState.ingested, 10, 0)
    assert telemetry.receive(context, path.name, None) == got, "a repeated task changes nothing"
    place = context.archive / "telemetry/2018/1203" / path.name
    assert place.read_bytes() == path.read_bytes() and not (context.inbox / path.name).exists()
    product = db.fetch_one(context.dsn, "select * from products where kind = 'telemetry'")
    assert product["path"] == f"telemetry/2018/1203/{path.name}" and product["vbest"] == 1
    assert len(stored(context)) == 10


def test_units_of_the_same_kind_are_converted(context, tmp_path):
    arrive(context, made(tmp_path, readings(1, unit="K", value=KELVIN + 7)))
    assert stored(context)[0]["value"] == pytest.approx(7.0)


def test_unknown_quantities_and_missing_values_are_left_out_and_counted(context, tmp_path):
    rows = [*readings(2), *readings(3, "mood", "deg_C"), *readings(1, "humidity", "%", math.nan)]
    got = arrive(context, made(tmp_path, rows))
    assert (got.state, got.readings, got.left_out) == (TelemetryState.ingested, 2, 4)
    assert got.reason == "1 left out: no value; 3 left out: unknown quantity mood"


def spoil(path: Path, how: str) -> Path:
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    spoiled = {
        "empty": "",
        "within a line": text[:-5],
        "lines missing": "".join(lines[:-3]),
        "header only": "".join(line for line in lines if line.startswith("#")) + "time,name,value,unit\n",
        "more lines": text + lines[-1],
        "other night": text.replace("night: '20181203'", "night: '20181204'"),
        "no meta": text.replace("night: '20181203'", "evening: '20181203'"),
        "no column": text.replace("time,name,value,unit", "time,name,value,kind").replace("name: unit", "name: kind"),
        "no table": "hello\nworld\n",
        "no time": text.replace("2018-12-03T04:01:00", "yesterday"),
        "other unit": text.replace("deg_C", "mm"),
        "no unit": text.replace("deg_C", "bananas"),
        "other times": text.replace("2018-12-03T04", "2018-12-03T05"),
        "next day": text.replace("2018-12-03T04:04", "2018-12-04T04:04"),
    }
    path.write_text(spoiled[how])
    return path


@pytest.mark.parametrize(
    ("how", "state", "code"),
    [
        ("empty", "truncated", "truncated"),
        ("within a line", "truncated", "truncated"),
        ("lines missing", "truncated", "truncated"),
        ("header only", "truncated", "truncated"),
        ("more lines", "mislabelled", "mislabelled"),
        ("other night", "mislabelled", "mislabelled"),
        ("no meta", "mislabelled", "missing_keyword"),
        ("no column", "mislabelled", "missing_keyword"),
        ("no table", "unreadable", "unreadable"),
        ("no time", "unreadable", "unreadable"),
        ("other unit", "mislabelled", "mislabelled"),
        ("no unit", "mislabelled", "mislabelled"),
        ("other times", "mislabelled", "mislabelled"),
        ("next day", "mislabelled", "mislabelled"),
    ],
)
def test_a_bad_file_is_put_aside_with_a_named_state_and_a_good_one_takes_its_place(context, tmp_path, how, state, code):
    good = made(tmp_path, readings())
    content = good.read_bytes()
    got = arrive(context, spoil(good, how))
    assert got.state == state and got.reason
    row = files(context)[good.name]
    assert (row["state"], row["error_code"], row["readings"]) == (state, code, 0)
    assert row["path"].startswith("quarantine/") and (context.archive / row["path"]).is_file()
    assert stored(context) == []
    good.write_bytes(content)
    assert arrive(context, good).state == "ingested"
    assert files(context)[good.name]["error_code"] is None and len(stored(context)) == 10


def test_a_second_copy_is_a_duplicate_and_another_content_a_conflict(context, tmp_path):
    path = made(tmp_path, readings())
    arrive(context, path)
    assert arrive(context, path).state == "duplicate"
    got = arrive(context, made(tmp_path, readings(value=7.0)))
    assert got.state == "mislabelled" and "another file of this name was accepted" in got.reason
    verdicts = [row["verdict"] for row in db.fetch_all(context.dsn, "select verdict from receipts order by receipt_id")]
    assert verdicts == ["accepted", "duplicate", "quarantined"]
    assert files(context)[path.name]["state"] == "ingested", "the first one counts"
    assert len(stored(context)) == 10 and stored(context)[0]["value"] == 5.0


def test_readings_that_overlap_are_loaded_once(context, tmp_path):
    arrive(context, made(tmp_path, readings()))
    later = [*readings()[5:], Reading(START + timedelta(hours=1), "outside_temperature", 9.0, "deg_C")]
    assert arrive(context, made(tmp_path, later)).readings == 1
    assert len(stored(context)) == 11


class Killed(Exception):
    pass


def test_a_kill_between_registration_and_move_loses_and_doubles_nothing(context, tmp_path):
    from dataclasses import replace

    path = made(tmp_path, readings())

    def kill(point: str) -> None:
        raise Killed(point)

    with pytest.raises(Killed):
        arrive(replace(context, fault=kill), path)
    assert (context.inbox / path.name).exists()
    assert telemetry.receive(context, path.name, None).state == "ingested"
    assert not (context.inbox / path.name).exists() and len(stored(context)) == 10
    assert len(db.fetch_all(context.dsn, "select 1 from receipts")) == 1


def test_a_name_of_another_kind_and_a_file_that_is_nowhere(context):
    with pytest.raises(BadName):
        telemetry.receive(context, "ztf_20181203_250000_telemetry.ecsv", None)
    with pytest.raises(FilesMissing):
        telemetry.receive(context, "ztf_20181203_040000_telemetry.ecsv", None)


def exposure(context, at: datetime, name: str = "ztf_20181203171181") -> None:
    jd = at.timestamp() / 86400.0 + 2440587.5
    with db.transaction(context.dsn) as cursor:
        cursor.execute("select ensure_night(%s)", (NID,))
        values = {
            "exposure": name,
            "nid": NID,
            "field": 600,
            "filtercode": "zr",
            "imgtype": "o",
            "obsjd": jd,
            "exptime": 30.0,
        }
        db.insert(cursor, "exposures", values)


def beside(context, name: str = "ztf_20181203171181") -> dict[str, dict]:
    rows = db.fetch_all(context.dsn, "select * from exposure_telemetry where exposure = %s", (name,))
    return {row["name"]: row for row in rows}


def test_an_exposure_gets_the_nearest_reading_within_the_tolerance(context, tmp_path):
    rows = [*readings(10), *readings(10, "wind_speed", "km / h", 70.0)]
    arrive(context, made(tmp_path, rows))
    exposure(context, START + timedelta(seconds=110))  # its middle is at 125 s, nearest readings at 120 s
    found = beside(context)
    assert set(found) == {"outside_temperature", "wind_speed"}
    assert found["outside_temperature"]["value"] == pytest.approx(5.4)
    assert found["outside_temperature"]["offset_s"] == pytest.approx(-5.0, abs=0.01)
    assert not found["outside_temperature"]["departs"]
    assert found["wind_speed"]["departs"] and found["wind_speed"]["value"] == pytest.approx(70.4 / 3.6)
    exposure(context, START + timedelta(minutes=30), "ztf_20181203191181")
    assert beside(context, "ztf_20181203191181") == {}, "nothing within two minutes"
    page = telemetry_page(context.dsn)
    assert "1 of 2 exposures" in page and "wind_speed 19.56 m / s" in page and "<polyline" in page


WHO = {"author": "Ada", "reason": "a cold night"}


def test_limits_and_tolerances_are_versions_that_count_at_once(context, database, tmp_path):
    arrive(context, made(tmp_path, readings(10)))
    exposure(context, START + timedelta(minutes=8))
    assert beside(context) == {}
    form = {"limits": [{"name": "outside_temperature", "high": 5, "low": None, "tolerance_s": 600}], **WHO}
    looked = change_in_words(context.dsn, {**form, "only_look": True})
    assert looked.line.startswith(
        "would change: outside_temperature: high 35.0 → 5.0; outside_temperature: low -15.0 → –"
    )
    assert beside(context) == {}
    done = change_in_words(database.operator, form)
    assert done.line == looked.line.replace("would change", "version 2 by Ada") and done.state == "ok"
    assert beside(context)["outside_temperature"]["departs"]
    page = telemetry_page(context.dsn)
    assert "Limits: version 2 by Ada" in page and "high 35.0 → 5.0" in page and "a cold night" in page
    assert "tolerance_s 600.0 → 120.0" in change_in_words(context.dsn, {"version": 1, **WHO}).line
    assert beside(context) == {}, "as it was shipped"
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(database.operator) as cursor:
        cursor.execute("update telemetry_quantities set high = 5")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"limits": [{"name": "mood", "high": 1}]}, "nobody measures mood"),
        ({"limits": [{"name": "humidity", "low": 90}]}, "low 90 is not below high 85"),
        ({"limits": [{"name": "humidity", "hihg": 90}]}, "no limits of telemetry"),
        ({"limits": [{"name": "humidity", "tolerance_s": 0}]}, "greater than 0"),
        ({"limits": ["humidity"]}, "an object with its name"),
        ({"limits": [{"name": "humidity", "high": 85}]}, "nothing would change"),
        ({"version": 9}, "no version 9"),
        ({"limits": [{"name": "humidity", "high": 80}], "reason": " "}, "an author and a reason"),
    ],
)
def test_limits_that_make_no_sense_change_nothing(context, form, words):
    with pytest.raises(ConfigurationError, match=words):
        change_in_words(context.dsn, {**WHO, **form})
    assert db.fetch_one(context.dsn, "select max(version) as n from telemetry_limits")["n"] == 1


def test_the_nightly_report_tells_what_was_measured_and_what_left_its_limits(context, tmp_path):
    exposure(context, START)
    assert "No reading of telescope or weather." in report.write_report(context, NID).with_suffix(".txt").read_text()
    wind = [
        Reading(START + timedelta(seconds=30 * k), "wind_speed", v, "m / s") for k, v in enumerate((14, 16, 19, 12, 17))
    ]
    arrive(context, made(tmp_path, [*readings(10), *wind]))
    html = report.write_report(context, NID)
    text = html.with_suffix(".txt").read_text()
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "wind_speed m / s 0 to 15 5 16 12 19 3 04:01:00" in lines
    assert "outside_temperature deg_C -15 to 35 10 5.45 5 5.9 0 –" in lines
    assert "humidity % 0 to 85 0 – – – 0 –" in lines, "what did not measure is said"
    assert "<h2>Telemetry</h2>" in html.read_text() and "<td>04:01:00</td>" in html.read_text()


def manifest_of(context, *entries: ManifestFile) -> None:
    manifest = make_manifest(NIGHT, "night", "tiny", "2018-12-03T13:00:00Z", entries)
    deliver(context, write_manifest(context.inbox.parent / f"ztf_{NIGHT}_manifest.json", manifest).path)
    afternoon.receive_manifest(context, f"ztf_{NIGHT}_manifest.json")


def test_the_account_of_a_night_counts_files_of_telemetry(context, tmp_path):
    paths = [
        made(tmp_path, [Reading(r.time + timedelta(hours=k), r.name, r.value, r.unit) for r in readings()])
        for k in range(4)
    ]
    entries = [listed(path) for path in paths]
    arrive(context, paths[0])
    arrive(context, spoil(paths[1], "lines missing"))
    manifest_of(context, *entries[:3], entries[3])
    assert arrive(context, paths[2], datetime.now(UTC)).state == "late"
    assert not afternoon.settled(context, NIGHT, 1e6), "one file may still come"
    assert afternoon.settled(context, NIGHT, 0.0)
    assert files(context)[paths[3].name]["state"] == "missing"
    assert afternoon.settled(context, NIGHT, 1e6), "what is missing is waited for no longer"
    account = accountability.account(context, NID)
    assert (account.sent, account.received, account.processed, account.archived, account.quarantined, account.lost) == (
        4, 3, 2, 2, 1, 1,
    )  # fmt: skip
    assert account.states == {"ingested": 1, "truncated": 1, "late": 1, "missing": 1}
    assert len(account.differences) == 2 and any("late: it came after" in note for note in account.notes)
    assert arrive(context, paths[3], datetime.now(UTC)).state == "late", "what was given up may come all the same"
    assert accountability.account(context, NID).lost == 0


def test_a_file_that_nobody_announced_is_said(context, tmp_path):
    manifest_of(context)
    path = made(tmp_path, readings())
    arrive(context, path)
    assert f"{path.name}: came but is in no manifest (late)" in accountability.account(context, NID).differences


def test_the_simulated_mountain_writes_what_is_received(context, mountain, tmp_path):
    night = len(mountain.plan.dates) - 1
    (tmp_path / "sheets").mkdir()
    sheets = write_night(tmp_path / "sheets", mountain.plan, night)
    assert [arrive(context, sheet.path).state for sheet in sheets] == ["ingested"] * len(sheets) and sheets
    assert {row["name"] for row in stored(context)} == {
        *(wave.name for wave in WAVES),
        "dome_azimuth",
        "wind_direction",
    }
    sky = [e for e in mountain.plan.of_night(night) if e.kind == "o"]
    with db.transaction(context.dsn) as cursor:
        for k, one in enumerate(sky):
            values = {"exposure": f"ztf_{NIGHT}{k:06d}", "nid": NID, "field": 600, "filtercode": "zr", "imgtype": "o",
                      "obsjd": one.jd, "exptime": one.exptime}  # fmt: skip
            db.insert(cursor, "exposures", values)
    joined = db.fetch_all(context.dsn, "select exposure, count(*) as n from exposure_telemetry group by exposure")
    assert {row["n"] for row in joined} == {12} and len(joined) == len(sky)
