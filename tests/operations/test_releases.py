"""The public release on a real archive: who is released when, and data releases that stay as they were frozen."""

from __future__ import annotations

import subprocess

import pytest
from prepared import process

from ztfds.formats.alerts import read_container
from ztfds.operations.day.releases import release
from ztfds.registry import database as db
from ztfds.survey.errors import ConfigurationError

FORM = {
    "freeze": 1,
    "first": "20181103",
    "last": "20181203",
    "title": "the first",
    "author": "Ada",
    "remarks": "Enjoy.",
}


def released(context) -> set[str]:
    return {
        row["exposure"]
        for row in db.fetch_all(context.dsn, "select exposure from exposures where released is not null")
    }


def test_epochs_are_released_when_their_program_says_so(context):
    with db.transaction(context.dsn) as cursor:
        cursor.execute("select ensure_night(2630), extract(julian from now() at time zone 'utc')")
        now = float(cursor.fetchone()[1])
        for k, (program, days) in enumerate([(0, 4000), (1, 0.1), (2, 540), (2, 550), (3, 550), (None, 550)]):
            values = {"exposure": f"ztf_2024031500000{k}", "nid": 2630, "field": 600, "filtercode": "zr", "imgtype": "o",
                      "obsjd": now - days, "programid": program, "expid": k}  # fmt: skip
            db.insert(cursor, "exposures", values)
    line = release(context, {}).line
    assert line == "epochs released: 1 of program 1, 1 of program 2, 1 of program 3"
    assert {name[-1] for name in released(context)} == {"1", "3", "4"}
    assert release(context, {}).line == "epochs released: none was due"


def test_the_days_of_a_program_are_data_and_what_is_released_stays_so(context, database):
    test_epochs_are_released_when_their_program_says_so(context)
    with db.transaction(database.operator) as cursor:
        cursor.execute("update release_policy set days = 100 where programid = 2")
        cursor.execute("update release_policy set days = null where programid = 3")
    assert release(context, {}).line == "epochs released: 1 of program 2"
    assert {name[-1] for name in released(context)} == {"1", "2", "3", "4"}


def test_a_data_release_is_frozen_with_files_checksums_statistics_and_notes(ready):
    context = ready
    nights = db.fetch_one(context.dsn, "select min(nid) as a, max(nid) as b from exposures where imgtype = 'o'")
    from ztfds.survey import ids

    form = {**FORM, "first": ids.night_date(nights["a"]), "last": ids.night_date(nights["b"])}
    outcome = release(context, form)
    assert "data release 1 is frozen" in outcome.line
    folder = context.archive / "releases/dr001"
    done = subprocess.run(
        ["sha256sum", "-c", folder / "files.sha256"], cwd=context.archive, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout[-500:]
    listed = {line.split("  ")[1] for line in (folder / "files.sha256").read_text().splitlines()}
    assert outcome.figures["files"] == len(listed) and any(name.endswith("sciimg.fits") for name in listed)
    assert any("refimg" in name for name in listed)
    text = (folder / "notes.md").read_text()
    assert (
        "# Data release 1: the first" in text and "| sciimg | zr |" in text and "Enjoy." in text and "1 public" in text
    )
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update products set vbest = 0 where kind = 'sciimg'")
    (folder / "notes.md").unlink()
    again = release(context, {**FORM, "first": "", "last": ""})
    assert "data release 1 stays as it is" in again.line and again.figures["files"] == len(listed)
    assert (folder / "notes.md").read_text() == text, "written again as it was"
    for wrong, words in (
        ({**form, "first": "20180101"}, "of other nights"),
        ({**form, "freeze": 3}, "the next data release is number 2"),
        ({**form, "freeze": 2, "author": ""}, "title and an author"),
        ({**form, "freeze": 2, "first": "20200101", "last": "20200102"}, "no released epochs"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            release(context, wrong)
    assert len(db.fetch_all(context.dsn, "select 1 from data_releases")) == 1


def test_what_is_not_in_the_archive_as_registered_is_not_released(ready):
    context = ready
    release(context, {})
    row = db.fetch_one(context.dsn, "select path from products where kind = 'refimg' and vbest > 0 limit 1")
    path = context.archive / row["path"]
    content = path.read_bytes()
    path.unlink()  # the archive may be shared by hard links
    path.write_bytes(content[:-1] + b"?")
    form = {**FORM, "first": "20180101", "last": "20181231"}
    with pytest.raises(ConfigurationError, match="another checksum"):
        release(context, {**form, "verify": True})
    path.unlink()
    with pytest.raises(ConfigurationError, match="is not there"):
        release(context, form)
    assert not (context.archive / "releases").exists()


@pytest.mark.parametrize("days", [None, 548])
def test_packets_of_all_programs_hold_private_epochs_from_their_release_on(ready, mountain, database, days):
    first, second = mountain.of_kind("o", 1)
    assert mountain.plan.exposures[second].programid == 1
    earlier = process(ready, mountain, first).exposure
    with db.transaction(ready.dsn) as cursor:
        for table in ("exposures", "diffimages", "candidates"):  # it was Caltech's
            cursor.execute(f"update {table} set programid = 3 where exposure = %s", (earlier,))
    with db.transaction(ready.dsn) as cursor:
        cursor.execute("update release_policy set days = %s where programid = 3", (days,))
    assert ("1 of program 3" in release(ready, {}).line) == (days is not None)
    exposure = process(ready, mountain, second).exposure
    rows = db.fetch_all(ready.dsn, "select packet from alert_outbox where exposure = %s", (exposure,))
    packets = [record for row in rows for record in read_container(bytes(row["packet"])).records]
    assert {packet["candidate"]["programid"] for packet in packets} == {1}
    for part in ("prv_candidates", "fp_hists"):
        found = {row["programid"] for packet in packets for row in packet[part] or []}
        assert found == ({3} if days else set()), part
