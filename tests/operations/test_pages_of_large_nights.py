"""Pages on a database in which most rows are of earlier nights: right, and read from indexes, not by going through all that there is."""

from __future__ import annotations

import json
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
from ztfds.operations.pages import alarms, changes, channels, coverage, day, drills, quality, readiness, references, reports, reprocessing
from ztfds.operations.pages import exposure as exposures
from ztfds.operations.pages.render import ROOT
from ztfds.operations.pages.tonight import tonight
from ztfds.operations.postgres import ADMIN
from ztfds.operations.watch import metrics
from ztfds.registry import database as db
from ztfds.survey import fields, ids
from ztfds.survey.camera import TINY, ZTF
from ztfds.survey.errors import FilesMissing
from ztfds.survey.figures import all_figures, band

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
    "exposure": (lambda f: exposures.exposure_page(f.reader, ZTF, f.exposure), 1500),
    "quadrant": (lambda f: exposures.quadrant_page(f.reader, f.exposure, 2), 1500),
    "references": (lambda f: references.references_page(f.reader), 4500),  # of all fields, whatever the number of nights
    "reference": (lambda f: references.reference_page(f.reader, f.reference), 1500),
    "channels": (lambda f: channels.channels_page(f.reader), 1000),
    "night": (lambda f: quality.night_page(f.reader), 2500),
    "field": (lambda f: quality.field_page(f.reader, ZTF, f.field), 2500),
    "quadrant of a field": (lambda f: quality.field_page(f.reader, ZTF, f.field, 5), 2500),
    "channel": (lambda f: quality.channel_page(f.reader, 5), 2500),
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
    "request": (lambda f: reprocessing.request_page(f.reader, 30), 30000),  # 100 files compared: 400 quadrants, two versions
    "changes": (lambda f: changes.changes_page(f.reader), 50),
    "drills": (lambda f: drills.drills_page(f.reader), 50),
    "prometheus": (lambda f: alarms.exposition(f.reader), 50),
}  # fmt: skip
"""Every page, and the most rows of big tables that it may read."""


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


class without_sequential_reading:
    """Tables of a test are so small that reading them whole is best: forbidden, it remains only where no index can serve."""

    def __init__(self, postgres) -> None:
        self._postgres = postgres

    def __enter__(self) -> None:
        administer(self._postgres, "alter role ztf_reader set enable_seqscan = off")

    def __exit__(self, *_: object) -> None:
        administer(self._postgres, "alter role ztf_reader reset enable_seqscan")
