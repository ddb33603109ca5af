"""Exposures, references, quality and documents in the registry."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from ztfds.formats.atomic import write_atomic
from ztfds.registry import database as db
from ztfds.registry import exposures, products, qa, references
from ztfds.survey.errors import ConfigurationError, DatabaseDown, ReferenceMissing
from ztfds.survey.states import CcdState, ExposureState

EXPOSURE, T0 = "ztf_20181202300000", datetime(2018, 12, 2, 7, 12, tzinfo=UTC)
BASE = {
    "exposure": EXPOSURE,
    "nid": 700,
    "field": 600,
    "filtercode": "zg",
    "imgtype": "o",
    "obsjd": 2458454.8,
    "expected": 2,
}


def _ccd(cursor, ccdid, state="ingested", **more):
    name = f"{EXPOSURE}_000600_zg_c{ccdid:02d}_o.fits.fz"
    exposures.register_ccdfile(
        cursor, {"exposure": EXPOSURE, "ccdid": ccdid, "filename": name, "state": state, "arrival": T0, **more}
    )
    return name


def test_later_knowledge_fills_in_and_does_not_overwrite(database):
    with db.transaction(database.pipeline) as cursor:
        exposures.register_exposure(cursor, {**BASE, "arrival": T0 + timedelta(seconds=5)})
        later = {**BASE, "obsjd": 2458454.80001, "expid": 70030001, "programid": 2, "fid": 1, "arrival": T0}
        exposures.register_exposure(cursor, later)
        exposures.register_exposure(cursor, {**later, "obsjd": 1.0, "programid": 3, "arrival": T0 + timedelta(1)})
    row = exposures.find(database.reader, EXPOSURE)
    assert (row["obsjd"], row["expid"], row["programid"], row["arrival"]) == (2458454.80001, 70030001, 2, T0)


def test_files_that_come_at_once_agree_on_one_exposure(database):
    """Every file registers its exposure in a transaction of its own; none may trip over the number that another one gives it."""
    together = threading.Barrier(4, timeout=20)

    def register(start: int) -> None:
        for k in range(60):
            values = {**BASE, "exposure": f"ztf_20181202{400000 + k}", "expid": 70040000 + k, "arrival": T0}
            together.wait()
            with db.transaction(database.pipeline) as cursor:
                exposures.register_exposure(cursor, values)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(register, range(4)))
    found = db.fetch_all(database.reader, "select expid from exposures where expid between 70040000 and 70040059")
    assert len(found) == 60


def test_state_and_stage_times_follow_the_ccd_files(database):
    with db.transaction(database.pipeline) as cursor:
        exposures.register_exposure(cursor, {**BASE, "arrival": T0})
        a = _ccd(cursor, 6, ingested=T0 + timedelta(seconds=3))
        assert exposures.refresh(cursor, EXPOSURE) is ExposureState.arriving
        exposures.stamp(cursor, a, "calibrated")
        exposures.set_ccd_state(cursor, a, CcdState.processed)
        assert exposures.refresh(cursor, EXPOSURE) is ExposureState.processing
        assert exposures.refresh(cursor, EXPOSURE, closed=True) is ExposureState.incomplete
        b = _ccd(cursor, 7, ingested=T0 + timedelta(seconds=9))
        exposures.set_ccd_state(cursor, b, CcdState.bad, error_code="astrometry_failed", reason="no stars")
        assert exposures.refresh(cursor, EXPOSURE, closed=True) is ExposureState.incomplete
    row = exposures.find(database.reader, EXPOSURE)
    assert row["ingested"] == T0 + timedelta(seconds=9) and row["calibrated"] is not None
    assert row["reason"] == "astrometry_failed" and exposures.reached_stage(row) == "processed"
    with pytest.raises(ConfigurationError), db.transaction(database.pipeline) as cursor:
        exposures.stamp(cursor, a, "filename = 'x'; --")


def test_an_unknown_state_is_refused_by_the_database(database):
    with pytest.raises(Exception, match="check constraint"), db.transaction(database.pipeline) as cursor:
        exposures.register_exposure(cursor, BASE)
        _ccd(cursor, 6, state="lost")


def test_states_of_the_database_are_those_of_the_survey(database):
    query = "select pg_get_constraintdef(oid) as text from pg_constraint where conname = %s"
    for name, states in (("exposures_state_check", ExposureState), ("ccdfiles_state_check", CcdState)):
        text = db.fetch_one(database.reader, query, (name,))["text"]
        assert set(text.split("'")[1::2]) == {state.value for state in states}


def test_only_the_first_miss_of_the_deadline_is_kept(database):
    with db.transaction(database.pipeline) as cursor:
        exposures.register_exposure(cursor, BASE)
    exposures.note_late(database.pipeline, EXPOSURE, "ingested")
    exposures.note_late(database.pipeline, EXPOSURE, "calibrated")
    assert exposures.find(database.reader, EXPOSURE)["late_stage"] == "ingested"


def test_an_exposure_without_alerts_is_published_when_it_is_processed(database):
    with db.transaction(database.pipeline) as cursor:
        exposures.register_exposure(cursor, BASE)
        exposures.note_published(cursor, EXPOSURE)
        assert db.rows(cursor, "select published from exposures")[0]["published"] is None
        cursor.execute("update exposures set processed = %s", (T0,))
        exposures.note_published(cursor, EXPOSURE)
        assert db.rows(cursor, "select published from exposures")[0]["published"] == T0


def _image(cursor, i, status=1):
    exposure = f"ztf_20181202{i:06d}"
    exposures.register_exposure(cursor, {**BASE, "exposure": exposure, "obsjd": 2458454.5 + i / 1e6})
    subject = products.Subject(f"sci/{exposure}/rcid20", exposure=exposure, nid=700, field=600, fid=1, rcid=20)
    values = {"kind": "sciimg", "step": "science", "filename": f"{i}", "path": f"{i}", "bytes": 1, "sha256": "0"}
    more = {"provenance_id": f"p{i}", "version": 1, "swversion": "x", "status": status, "meta": {"SEEING": 2.0 + i}}
    return products.register(cursor, subject, {**values, **more})


def _reference(cursor, version, status, members=()):
    values = {"rfid": 600120120, "field": 600, "rcid": 20, "fid": 1, "nframes": 6, "jdstart": 1.0, "jdend": 2.0}
    more = {"version": version, "status": status, "provenance_id": f"r{version}"}
    return references.record(cursor, {**values, **more}, members)


def test_references_are_wanted_until_there_is_a_usable_one(database):
    with db.transaction(database.pipeline) as cursor:
        images = [_image(cursor, i) for i in range(1, 7)]
        _image(cursor, 7, status=0)
    wanted = [{"field": 600, "rcid": 20, "fid": 1, "n": 6}]
    assert references.wanted(database.reader, 6) == wanted == references.wanted(database.reader, 6, 700)
    assert references.wanted(database.reader, 7) == [] == references.wanted(database.reader, 6, 701)
    rows = references.inputs(database.reader, 600, 20, 1)
    assert [row["SEEING"] for row in rows] == [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    with pytest.raises(ReferenceMissing):
        references.usable(database.reader, 600, 20, 1)
    with db.transaction(database.pipeline) as cursor:
        first = _reference(cursor, 1, 0, images[:2])
        assert first and _reference(cursor, 1, 0) == 0  # the same provenance again
    with pytest.raises(ReferenceMissing):
        references.usable(database.reader, 600, 20, 1)
    with db.transaction(database.pipeline) as cursor:
        second = _reference(cursor, 2, 1, images)
        _reference(cursor, 3, 0, images)  # a failed one does not replace a good one
    found = references.usable(database.reader, 600, 20, 1)
    assert found["reference_id"] == second and references.wanted(database.reader, 6) == []
    references.want_again(database.pipeline, second, "bad differences")
    assert references.wanted(database.reader, 6) == wanted
    assert references.usable(database.reader, 600, 20, 1)["reference_id"] == second


def test_a_reference_is_not_tried_twice_with_the_same_images(database):
    with db.transaction(database.pipeline) as cursor:
        for i in range(1, 7):
            _image(cursor, i)
    available = references.inputs(database.reader, 600, 20, 1)
    references.note_try(database.pipeline, 600, 20, 1, available, "none is sharp enough")
    assert references.wanted(database.reader, 6) == []
    with db.transaction(database.pipeline) as cursor:
        _image(cursor, 7)
    assert [row["n"] for row in references.wanted(database.reader, 6)] == [7]
    references.note_try(database.pipeline, 600, 20, 1, references.inputs(database.reader, 600, 20, 1), "")
    with db.transaction(database.pipeline) as cursor:
        made = _reference(cursor, 1, 1)
    references.want_again(database.pipeline, made, "bad differences")
    assert [row["n"] for row in references.wanted(database.reader, 6)] == [7]


def test_references_left_by_a_night_are_for_the_next_ones(database):
    with db.transaction(database.pipeline) as cursor:
        for i in range(1, 7):
            _image(cursor, i)
    assert [references.wanted(database.reader, 6, 706, nights) == [] for nights in (1, 6, 7)] == [True, True, False]


def test_ccd_tasks_do_not_wait_for_each_other_at_their_exposure(database):
    with db.transaction(database.pipeline) as cursor:
        exposures.register_exposure(cursor, {**BASE, "expid": 70030001})
    with db.transaction(database.pipeline) as holder:
        _image_of(holder, "one")  # refers to the exposure, which a statement that may change its keys would wait for
        with db.transaction(database.pipeline) as cursor:
            cursor.execute("set local lock_timeout = '2s'")
            exposures.register_exposure(cursor, {**BASE, "expid": 70030001})
            exposures.refresh(cursor, EXPOSURE)


def test_what_others_are_in_the_way_of_is_tried_again(database):
    with db.transaction(database.pipeline) as cursor:
        exposures.register_exposure(cursor, BASE)
    with db.transaction(database.pipeline) as holder:
        exposures.refresh(holder, EXPOSURE)
        with pytest.raises(DatabaseDown), db.transaction(database.pipeline) as cursor:
            cursor.execute("set local lock_timeout = '50ms'")
            exposures.refresh(cursor, EXPOSURE)


def _image_of(cursor, name):
    subject = products.Subject(name, exposure=EXPOSURE, nid=700)
    values = {"kind": "sciimg", "step": "science", "filename": name, "path": name, "bytes": 1, "sha256": "0"}
    return products.register(cursor, subject, {**values, "provenance_id": name, "version": 1, "swversion": "x"})


def test_quality_is_that_of_the_served_version(database):
    step = products.Step("science", "1")
    with db.transaction(database.pipeline) as cursor:
        row = _image(cursor, 1)
        subject = products.Subject(row["dataset"], exposure=row["exposure"], nid=700, fid=1, rcid=20)
        products.note_quality(cursor, "p1", step, subject, {"seeing": 2.1, "sky": float("nan")})
        products.note_quality(cursor, "old", step, subject, {"seeing": 9.9})
    assert qa.of_provenance(database.reader, "p1") == {"seeing": 2.1, "sky": None}
    assert {m["value"] for m in qa.of_exposure(database.reader, row["exposure"])} == {2.1, None}
    assert [m["value"] for m in qa.of_night(database.reader, 700, "science") if m["name"] == "seeing"] == [2.1]


def test_a_document_is_registered_once_per_content(database, tmp_path):
    def write(text):
        written = write_atomic(tmp_path / "depot" / "report.html", text)
        place = {"kind": "nightreport_html", "dataset": "night/700", "nid": 700, "archive": tmp_path}
        return products.register_document(database.pipeline, written=written, **place)

    first = write(b"one")
    assert write(b"one") == first and write(b"two") != first
    best = products.best(database.reader, "night/700")["nightreport_html"]
    assert (best["version"], best["path"], best["bytes"]) == (2, "depot/report.html", 3)
