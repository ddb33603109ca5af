"""Pages on a database in which most rows are of earlier nights: right, and read from indexes, not by going through all that there is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from embedded import administer
from test_pages import Links, text_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import survey_tables
from benchmarks.survey_tables import NIGHT, SMALL
from ztfds.operations.context import Context
from ztfds.operations.epochs import Epochs
from ztfds.operations.pages import (
    alarms,
    changes,
    channels,
    coverage,
    day,
    drills,
    quality,
    readiness,
    references,
    reports,
    reprocessing,
    runs,
)
from ztfds.operations.pages import exposure as exposures
from ztfds.operations.pages.render import ROOT
from ztfds.operations.pages.tonight import timeline, tonight
from ztfds.operations.postgres import ADMIN
from ztfds.registry import database as db
from ztfds.registry import summaries
from ztfds.registry.products import by_filename
from ztfds.survey import fields, ids
from ztfds.survey.camera import TINY, ZTF
from ztfds.survey.errors import FilesMissing
from ztfds.survey.figures import all_figures, band
from ztfds.survey.names import RawName

BIG = (
    "products", "qa_metrics", "jobs", "diffimages", "alert_outbox", "split_quality", "ccdfiles", "receipts", "references_",
    "product_parents", "channel_quality", "exposure_quality", "reprocessing_items",
)  # fmt: skip
"""Tables that grow with every night; partitions of candidates besides."""
NIGHT_QUADRANTS = 64 * SMALL.exposures


@dataclass(frozen=True)
class Filled:
    """A filled database, an exposure of its newest night, and a reference that was used in it."""

    reader: str
    owner: str
    archive: Path
    exposure: str
    reference: int
    field: int


@pytest.fixture(scope="module")
def filled(postgres, tmp_path_factory) -> Iterator[Filled]:
    name, archive = "large_night", tmp_path_factory.mktemp("archive")
    administer(postgres, f"create database {name} template ztfds owner ztf_owner")
    survey_tables.fill(postgres.dsn(ADMIN, name), SMALL, archive)
    reader = postgres.dsn("ztf_reader", name)
    newest = db.fetch_one(reader, "select max(exposure) as exposure from exposures where state = 'processed'")
    used = db.fetch_one(
        reader,
        "select reference_id, r.field from diffimages d join references_ r using (reference_id) where d.exposure = %s limit 1",
        (newest["exposure"],),
    )
    yield Filled(reader, postgres.dsn(ADMIN, name), archive, newest["exposure"], used["reference_id"], used["field"])
    administer(postgres, f"drop database {name} with (force)")


PAGES: dict[str, tuple[Callable[[Filled], object], int]] = {
    "tonight": (lambda f: tonight(f.reader, ZTF, {}), 4 * NIGHT_QUADRANTS),
    "exposure": (lambda f: exposures.exposure_page(f.reader, ZTF, f.exposure), 2500),
    "quadrant": (lambda f: exposures.quadrant_page(f.reader, f.exposure, 2), 1500),
    "references": (lambda f: references.references_page(f.reader), 4500),  # of all fields, whatever the number of nights
    "reference": (lambda f: references.reference_page(f.reader, f.reference), 1500),
    "channels": (lambda f: channels.channels_page(f.reader), 1000),
    "night": (lambda f: quality.night_page(f.reader), 2500),
    "field": (lambda f: quality.field_page(f.reader, ZTF, f.field), 2500),
    "quadrant of a field": (lambda f: quality.field_page(f.reader, ZTF, f.field, 5), 2500),
    "channel": (lambda f: quality.channel_page(f.reader, 5), 2500),
    "runs": (lambda f: runs.runs_page(f.reader, {}), 2500),
    "runs of an exposure": (lambda f: runs.runs_page(f.reader, {"exposure": f.exposure}), 2500),
    "what failed": (lambda f: runs.runs_page(f.reader, {"state": "error"}), 2500),
    "coverage": (lambda f: coverage.coverage_page(f.reader), 200),
    "coverage picture": (lambda f: coverage.coverage_picture(f.reader, f.archive, "night", NIGHT), 50),
    "fields of a night": (lambda f: coverage.coverage_fields(f.reader, ZTF, NIGHT), 200),
    "fields": (lambda f: coverage.coverage_fields(f.reader, ZTF), 200),
    "reports": (lambda f: reports.reports_page(f.reader), 200),
    "report": (lambda f: reports.report(f.reader, f.archive, NIGHT), 50),
    "readiness": (lambda f: readiness.readiness_page(f.reader), 50),
    "day": (lambda f: day.day_page(f.reader), 50),
    "alarms": (lambda f: alarms.alarms_page(f.reader), 50),
    "reprocessing": (lambda f: reprocessing.reprocessing_page(f.reader), 2500),
    "request": (lambda f: reprocessing.request_page(f.reader, 30), 60000),  # 100 files compared: 400 quadrants, two versions
    "changes": (lambda f: changes.changes_page(f.reader), 50),
    "drills": (lambda f: drills.drills_page(f.reader), 50),
    "prometheus": (lambda f: alarms.exposition(f.reader), 50),
}  # fmt: skip
"""Every page, and the most rows of big tables that it may read."""


class without_sequential_reading:
    """Tables of a test are so small that reading them, or an index of them, whole is best: forbidden, it is a last resort."""

    def __init__(self, postgres) -> None:
        self._postgres = postgres

    def __enter__(self) -> None:
        for setting in ("enable_seqscan", "enable_bitmapscan"):
            administer(self._postgres, f"alter role ztf_reader set {setting} = off")

    def __exit__(self, *_: object) -> None:
        administer(self._postgres, "alter role ztf_reader reset all")


def rows_read(dsn: str) -> dict[str, tuple[int, int]]:
    """Rows read until now in sequence and by indexes, from the big tables; backends that have gone have reported theirs."""
    query = """
        select relname, coalesce(seq_tup_read, 0) as seq, coalesce(idx_tup_fetch, 0)
               + coalesce((select sum(i.idx_tup_read) from pg_stat_user_indexes i where i.relid = t.relid), 0) as idx
          from pg_stat_user_tables t where relname = any(%s) or relname like 'candidates_n%%'"""
    return {row["relname"]: (int(row["seq"]), int(row["idx"])) for row in db.fetch_all(dsn, query, (list(BIG),))}


def reading(filled: Filled, work: Callable[[Filled], object]) -> dict[str, tuple[int, int]]:
    """What some work reads from each big table."""
    before = rows_read(filled.owner)
    work(filled)
    after = rows_read(filled.owner)
    read = {name: (seq - before[name][0], idx - before[name][1]) for name, (seq, idx) in after.items()}
    return {name: counts for name, counts in read.items() if any(counts)}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_reads_what_it_shows_and_nothing_in_sequence(filled: Filled, name: str, postgres) -> None:
    work, most = PAGES[name]
    with without_sequential_reading(postgres):
        read = reading(filled, work)
    assert {table: seq for table, (seq, _) in read.items() if seq} == {}
    assert sum(idx for _, idx in read.values()) <= most, read


def test_a_file_and_the_states_of_a_folder_are_looked_up_by_name(filled: Filled, postgres, tmp_path) -> None:
    product = db.fetch_one(
        filled.reader, "select filename, product_id from products where vbest > 0 and kind = 'psfcat' limit 1"
    )
    files = db.fetch_all(filled.reader, "select filename, state from ccdfiles where exposure = %s", (filled.exposure,))
    raw = [RawName.parse(row["filename"]) for row in files]
    places = {**dict.fromkeys(("archive", "inbox", "catalogs"), str(tmp_path)), "camera": "ztf"}
    context, found = Context.build(filled.reader, places), []
    look_ups = {
        "product": lambda f: found.append(by_filename(f.reader, product["filename"])["product_id"]),
        "states": lambda f: found.append(Epochs(context, tmp_path, raw)._states()),
    }
    for name, work in look_ups.items():
        with without_sequential_reading(postgres):
            read = reading(filled, work)
        assert {table: seq for table, (seq, _) in read.items() if seq} == {}, name
        assert sum(idx for _, idx in read.values()) <= 1500, read  # references of a field: 128
    assert found == [product["product_id"], {row["filename"]: row["state"] for row in files}]


HTML = [
    name for name in PAGES if name not in ("coverage picture", "fields of a night", "fields", "report", "prometheus")
]
ROUTES = (
    "tonight", "alarms", "reports", "references", "channels", "readiness", "coverage", "day", "reprocessing", "changes", "drills",
    "quality", "runs", "report", "telemetry", "rules", "reference", "field", "channel", "exposure", "picture", "sky.js",
)  # fmt: skip


@pytest.mark.parametrize("name", HTML)
def test_a_page_leads_to_pages_that_exist_and_to_no_other_host(filled: Filled, name: str) -> None:
    html = str(PAGES[name][0](filled))
    targets = [
        target
        for target in Links(html).targets
        if not target.startswith(("/dags/", "/required_actions", "data:image/png"))
    ]
    assert targets and all(target.startswith(f"{ROOT}/") for target in targets)
    assert {target.removeprefix(f"{ROOT}/").split("/")[0].split("?")[0] for target in targets} <= set(ROUTES)


def test_the_map_has_every_visit_that_was_made(filled: Filled) -> None:
    found = coverage.coverage_fields(filled.reader, ZTF)
    visits = {(one["field"], fid, program): n for one in found["fields"] for fid, program, n, *_ in one["visits"]}
    counted = db.fetch_all(
        filled.reader, "select field, fid, programid, count(*)::int as n from exposures group by 1, 2, 3"
    )
    assert visits == {(row["field"], row["fid"], row["programid"]): row["n"] for row in counted}
    one = found["fields"][0]
    assert (one["ra"], one["dec"]) == (fields.get(one["field"]).ra, fields.get(one["field"]).dec)
    of_night = coverage.coverage_fields(filled.reader, ZTF, NIGHT)
    assert of_night["night"] == ids.night_date(NIGHT)
    assert sum(row[2] for field in of_night["fields"] for row in field["visits"]) == SMALL.exposures
    json.dumps(found)


def test_the_outline_of_a_field_holds_all_quadrants() -> None:
    for camera, width in ((ZTF, 7.4), (TINY, 0.3)):
        xi, eta = zip(*coverage.outline(camera), strict=True)
        for rcid in camera.rcids:
            x, y = camera.quadrant_centre_deg(rcid // 4 + 1, rcid % 4 + 1)
            assert min(xi) < x < max(xi) and min(eta) < y < max(eta)
        assert max(xi) - min(xi) < width + 0.3


def test_a_field_shows_its_epochs_and_a_quadrant_its_images(filled: Filled) -> None:
    n = db.fetch_one(filled.reader, "select count(*)::int as n from exposures where field = %s", (filled.field,))["n"]
    html = quality.field_page(filled.reader, ZTF, filled.field)
    assert html.count(f'href="{ROOT}/exposure/ztf_') == n > 1
    assert html.count(f'href="{ROOT}/field/{filled.field}?rcid=') == 3 * 64
    one = quality.field_page(filled.reader, ZTF, filled.field, 5)
    assert one.count('/5">ztf_') == n and f"{ROOT}/channel/5" in one and f"{ROOT}/reference/" in one
    empty = next(number for number in fields.all_fields() if number > 1000)
    assert "Never observed" in text_of(quality.field_page(filled.reader, ZTF, empty))
    for call in (
        lambda: quality.field_page(filled.reader, ZTF, 99999),
        lambda: quality.channel_page(filled.reader, 64),
    ):
        with pytest.raises(FilesMissing):
            call()


def test_what_departs_is_said_with_the_quadrant_to_look_at(filled: Filled) -> None:
    """One exposure gets bad seeing, worst in channel 7; one channel loses half a magnitude in the night."""
    assert "None, or the night is not over" in text_of(quality.night_page(filled.reader, NIGHT - 1))
    with db.transaction(filled.owner) as cursor:
        cursor.execute(
            "update qa_metrics set value = 4 + (rcid = 7)::integer where exposure = %s and name = 'seeing_arcsec'",
            (filled.exposure,),
        )
        cursor.execute(
            "update qa_metrics set value = value - 0.5 where nid = %s and rcid = 9 and name = 'magzp'", (NIGHT,)
        )
    summaries.renew_night(filled.owner, NIGHT)
    html = quality.night_page(filled.reader)
    assert html.count(f'<a href="{ROOT}/exposure/{filled.exposure}/7">7</a>') == 1
    assert "Seeing (FWHM) (arcsec) 4.00" in text_of(html)
    assert f'<a href="{ROOT}/channel/9">9</a>' in html and f'<a href="{ROOT}/channel/10">' not in html
    departed = text_of(quality.channel_page(filled.reader, 9)).split("Its images")[0]
    assert re.search(r"Zero point \(mag\) \d+ 25\.[67]", departed)
    assert f"{ROOT}/quality?nid={NIGHT}" in Links(quality.channel_page(filled.reader, 9)).targets


def test_summaries_follow_what_is_usable(filled: Filled) -> None:
    where = (filled.exposure,)
    query = (
        "select usable from field_nights n join exposures e using (nid, field, fid, programid) where e.exposure = %s"
    )
    before = db.fetch_one(filled.owner, query, where)["usable"]
    with db.transaction(filled.owner) as cursor:
        cursor.execute(
            "update products set status = 0 where exposure = %s and kind = 'sciimg' and vbest > 0 and rcid between 10 and 19",
            where,
        )
        changed = cursor.rowcount
        summaries.of_exposure(cursor, filled.exposure)
    assert changed == 10 and before - 10 <= db.fetch_one(filled.owner, query, where)["usable"] < before


def test_a_band_needs_history_and_believes_no_scatter_below_its_floor() -> None:
    figure = all_figures()[0]
    assert figure.name == "seeing_arcsec"
    assert not band(figure, [2.0] * 4).known and not band(figure, [2.0] * 4).departs(9.0)
    known = band(figure, [2.0] * 9)
    assert (known.low, known.high) == pytest.approx((2 - 5 * figure.floor, 2 + 5 * figure.floor))
    assert known.departs(2 + 6 * figure.floor) and not known.departs(2 + 4 * figure.floor)
    wide = band(figure, [1.0, 2.0, 3.0, 4.0, 5.0], scatter=1.0)
    assert wide.high - 3.0 == pytest.approx(5 * (1.4826**2 + 1) ** 0.5)


def test_tonight_says_when_nothing_was_taken_which_service_is_down_and_what_was_late(filled: Filled) -> None:
    rows = [
        {"obsjd": 2461364.625 + k / 144, "state": state}
        for k, state in ((0, "bad"), (0, "processed"), (7, "processed"))
    ]
    drawn = timeline(rows)
    assert drawn["top"] == 2 and [rect[4:] for rect in drawn["rects"]] == [
        ("bad", 1, "03:00"), ("processed", 1, "03:00"), ("processed", 1, "04:10")
    ]  # fmt: skip
    assert drawn["rects"][2][0] == 560.0 and drawn["hours"][0] == (0.0, 3) and timeline([]) is None
    assert "no round of the watch" in tonight(filled.reader, ZTF, {})
    figures = [
        {"name": "ztfds_component_up", "value": value, "subject": name}
        for name, value in (("kafka", 0), ("airflow", 1))
    ]
    with db.transaction(filled.owner) as cursor:
        db.insert(cursor, "watch_rounds", {"at": "now", "metrics": json.dumps(figures)})
        cursor.execute("update alarms set cleared = null where alarm_id = 1")
    words = text_of(tonight(filled.reader, ZTF, {}))
    assert "airflow answers kafka does not answer" in words
    assert "something was wrong" in words and "10 min, in the stage differenced" in words
