"""From a raw file to alerts, on a simulated CCD of the tiny camera with references made by the pipeline itself."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import process_once
import pytest
from prepared import CCD, process
from tiny import deliver

from ztfds.formats.alerts import read_container, unpack_cutout
from ztfds.formats.alertschema import alert_schema
from ztfds.formats.images import read_image
from ztfds.operations import afternoon, realtime, references
from ztfds.operations.receive import receive
from ztfds.registry import database as db
from ztfds.registry import exposures, products, qa, sky
from ztfds.registry import references as reference_rows
from ztfds.survey import ids
from ztfds.survey.camera import rcid
from ztfds.survey.errors import CalibrationMissing, FilesMissing, NoWork, RetryLater
from ztfds.survey.states import CcdState, ExposureState

TABLES = (
    "exposures", "ccdfiles", "receipts", "products", "product_parents", "jobs", "qa_metrics", "diffimages", "candidates",
    "object_names", "alert_outbox", "references_", "reference_members", "calibrations",
)  # fmt: skip


def _counts(context):
    return {t: db.fetch_one(context.dsn, f"select count(*)::int as n from {t}")["n"] for t in TABLES}


def _outbox(context):
    return db.fetch_all(context.dsn, "select * from alert_outbox order by candid")


def test_references_are_registered_with_members_and_read_back(ready, mountain):
    assert references.wanted(ready) == []
    row = reference_rows.usable(ready.dsn, mountain.plan.fields[0], rcid(CCD, 1), 2)
    assert row["rfid"] == ids.rfid(mountain.plan.fields[0], 2, rcid(CCD, 1)) and row["nframes"] == 6
    epochs = [e.jd for e in mountain.plan.exposures if e.purpose == "reference"]
    assert row["jdstart"] == pytest.approx(min(epochs), abs=1e-3) and row["jdend"] == pytest.approx(
        max(epochs), abs=1e-3
    )
    members = db.fetch_all(
        ready.dsn, "select exposure from reference_members where reference_id = %s", (row["reference_id"],)
    )
    assert len({m["exposure"] for m in members}) == 6
    pixels, header = read_image(ready.archive / row["products"]["refimg"]["path"])
    assert header["NFRAMES"] == 6 and np.isfinite(pixels).mean() > 0.8


def test_an_exposure_becomes_alerts(ready, mountain):
    first, second = mountain.of_kind("o", 1)
    outcome = process(ready, mountain, first)
    assert outcome.state is CcdState.processed and [q.state for q in outcome.quadrants] == [CcdState.processed] * 4
    rows = _outbox(ready)
    assert len(rows) == sum(q.alerts for q in outcome.quadrants) > 0
    candidates = db.fetch_all(ready.dsn, "select * from candidates")
    assert {c["candid"] for c in candidates if c["alerted"]} == {r["candid"] for r in rows}
    for candidate in candidates:
        assert (
            ids.split_candid(candidate["candid"])[0] == candidate["pid"] == ids.pid(candidate["jd"], candidate["rcid"])
        )
        assert candidate["ndethist"] == 1 and candidate["ncovhist"] == 1 and candidate["hpx"] is not None
    assert realtime.close_exposure(ready, outcome.exposure) is ExposureState.processed
    exposure = exposures.find(ready.dsn, outcome.exposure)
    assert all(exposure[stage] is not None for stage in exposures.STAGES) and exposure["published"] is None
    process(ready, mountain, second)
    _check_packets(ready, candidates)


def _check_packets(context, earlier):
    """Every packet is complete under the schema; one at a place seen before has that detection in its history."""
    known = {c["objectid"] for c in earlier}
    with_history = 0
    for row in _outbox(context):
        (record,) = read_container(bytes(row["packet"]), alert_schema()).records
        assert record["candid"] == row["candid"] == record["candidate"]["candid"]
        assert record["objectId"] == row["objectid"] and row["topic"] == f"ztf_20181203_programid{row['programid']}"
        for cutout in ("cutoutScience", "cutoutTemplate", "cutoutDifference"):
            assert unpack_cutout(record[cutout]["stampData"]).shape == (63, 63)
        past = record["prv_candidates"] or []
        for forced in record["fp_hists"] or []:
            assert forced["pid"] in {p["pid"] for p in past} and forced["sciinpseeing"] > 1 and forced["procstatus"]
        assert bool(record["fp_hists"]) is bool(past)
        assert all(p["jd"] < record["candidate"]["jd"] for p in past)
        if row["objectid"] in known and row["candid"] not in {c["candid"] for c in earlier}:
            seen = [p for p in past if p["candid"] is not None]
            apart = [
                sky.separation_arcsec(p["ra"], p["dec"], record["candidate"]["ra"], record["candidate"]["dec"])
                for p in seen
            ]
            assert max(apart, default=0) <= 1.5
            with_history += bool(seen)
            if seen:
                assert record["candidate"]["ndethist"] == 2 and record["candidate"]["ncovhist"] == 2
        elif past:
            assert [p["candid"] for p in past] == [None] and past[0]["diffmaglim"] > 15 and past[0]["ra"] is None
    assert with_history > 0


def test_injected_transients_are_alerted(ready, mountain):
    import pyarrow.parquet as pq

    index = mountain.of_kind("o", 1)[0]
    outcome = process(ready, mountain, index)
    stem = outcome.filename.removesuffix(".fits.fz").rsplit("_", 1)[0]
    table = next(
        p for p in (mountain.root / "truth").glob("ztf_*.parquet") if p.name[:18] == stem[:18] and "_c06" in p.name
    )
    truth = pq.read_table(table).to_pylist()
    wanted = [t for t in truth if t["kind"] == "transient" and (t["snr"] or 0) >= 10]
    found = db.fetch_all(ready.dsn, "select ra, dec from candidates where alerted")
    ra, dec = np.array([f["ra"] for f in found]), np.array([f["dec"] for f in found])
    hits = [bool((sky.separation_arcsec(t["ra"], t["dec"], ra, dec) < 1.5).any()) for t in wanted]
    assert len(hits) >= 4 and np.mean(hits) >= 0.75


def test_doing_it_again_changes_nothing(ready, mountain):
    outcome = process(ready, mountain, mountain.of_kind("o", 1)[0])
    before, alerts = _counts(ready), _outbox(ready)
    again = realtime.process_ccd(ready, outcome.filename, None, "run", 2)
    assert (again.state, again.quadrants) == (CcdState.processed, ())
    assert _counts(ready) == before and _outbox(ready) == alerts
    duplicate = process(ready, mountain, mountain.of_kind("o", 1)[0])
    assert duplicate.state is CcdState.duplicate
    assert _counts(ready) == {**before, "receipts": before["receipts"] + 1}
    assert exposures.find_ccdfile(ready.dsn, outcome.filename)["state"] == "processed"


@pytest.mark.parametrize(
    "point",
    [
        "ingest:committed",
        "science:after_write",
        "science:before_commit",
        "science:committed",
        "difference:moved",
        "difference:before_commit",
        "difference:committed",
    ],
)
def test_killed_in_the_middle_the_next_attempt_ends_as_if_nothing_had_happened(
    ready, mountain, prepared, postgres, point
):
    (path,) = mountain.files(mountain.of_kind("o", 1)[0], CCD)
    deliver(ready, path)
    before = _counts(ready)
    places = {"archive": ready.archive, "inbox": ready.inbox, "catalogs": ready.catalogs, "camera": "tiny"}
    arguments = [ready.dsn, json.dumps({k: str(v) for k, v in places.items()}), path.name, point]
    script = Path(process_once.__file__)
    killed = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -9, killed.stderr
    seen = _counts(ready)
    if point.startswith("ingest") or point in ("science:after_write", "science:before_commit"):
        assert seen["qa_metrics"] == before["qa_metrics"]
    if point != "difference:committed":
        assert [seen[t] for t in ("candidates", "alert_outbox", "object_names", "diffimages")] == [
            before[t] for t in ("candidates", "alert_outbox", "object_names", "diffimages")
        ]
    outcome = realtime.process_ccd(ready, path.name, None, "run", 2)
    assert outcome.state is CcdState.processed and list(ready.inbox.iterdir()) == []
    for qid in (1, 2, 3, 4):
        for kind in ("sci", "diff"):
            rows = products.best(ready.dsn, f"{kind}/{outcome.exposure}/rcid{rcid(CCD, qid):02d}")
            assert rows and {row["version"] for row in rows.values()} == {1}
            assert all((ready.archive / row["path"]).stat().st_size == row["bytes"] for row in rows.values())
    candids = [c["candid"] for c in db.fetch_all(ready.dsn, "select candid from candidates where alerted")]
    assert sorted(candids) == [row["candid"] for row in _outbox(ready)]
    assert realtime.close_exposure(ready, outcome.exposure) is ExposureState.processed


def test_calibrations_may_be_old_and_their_age_is_kept(ready, mountain):
    outcome = process(ready, mountain, mountain.of_kind("o", 1)[0])
    image = products.best(ready.dsn, f"sci/{outcome.exposure}/rcid{rcid(CCD, 1):02d}")["sciimg"]
    age = qa.of_provenance(ready.dsn, image["provenance_id"])["calibration_age_d"]
    assert 3.0 < age < 4.0 and image["meta"]["MAGZP"] > 20


def test_without_calibrations_it_is_tried_later_and_failed_in_the_end(context, mountain):
    one = replace(context, camera=replace(context.camera, ccdids=(CCD,)))
    index = mountain.of_kind("o", 0)[0]
    with pytest.raises(CalibrationMissing):
        process(one, mountain, index)
    (path,) = mountain.files(index, CCD)
    row = exposures.find_ccdfile(one.dsn, path.name)
    assert (row["state"], row["error_code"]) == ("ingested", "calibration_missing")
    assert realtime.close_exposure(one, row["exposure"]) is ExposureState.failed
    assert exposures.find(one.dsn, row["exposure"])["reason"] == "calibration_missing"
    for other in [i for i, e in enumerate(mountain.plan.exposures) if e.night == 0 and e.kind in "bf"]:
        process(one, mountain, other)
    afternoon.calibrate_ccd(one, mountain.plan.dates[0], CCD)
    assert realtime.process_ccd(one, path.name).state is CcdState.calibrated
    assert realtime.close_exposure(one, row["exposure"]) is ExposureState.calibrated


def test_the_last_attempt_says_failed(context, mountain):
    with pytest.raises(CalibrationMissing):
        process(context, mountain, mountain.of_kind("o", 0)[0], final=True)
    row = db.fetch_one(context.dsn, "select state, error_code from ccdfiles")
    assert row == {"state": "failed", "error_code": "calibration_missing"}


def test_a_reference_that_comes_later_is_used_without_calibrating_again(ready, mountain, database):
    outcome = process(ready, mountain, mountain.of_kind("o", 1)[0])
    name = outcome.filename
    with db.transaction(ready.dsn) as cursor:  # as if the difference had never been made
        cursor.execute("update ccdfiles set state = 'calibrated' where filename = %s", (name,))
        cursor.execute("update products set vbest = 0 where step = 'difference'")
    jobs = db.fetch_one(ready.dsn, "select count(*)::int as n from jobs where step = 'science'")["n"]
    alerts = _outbox(ready)
    again = realtime.process_ccd(ready, name, None, "later")
    assert again.state is CcdState.processed and len(again.quadrants) == 4
    assert db.fetch_one(ready.dsn, "select count(*)::int as n from jobs where step = 'science'")["n"] == jobs
    assert [a["candid"] for a in _outbox(ready)] == [a["candid"] for a in alerts]


def test_a_bad_difference_makes_no_alerts(ready, mountain):
    strict = ready.config.difference.model_copy(update={"max_scorr_width": 0.01})
    context = replace(ready, config=ready.config.model_copy(update={"difference": strict}))
    outcome = process(context, mountain, mountain.of_kind("o", 1)[0])
    assert outcome.state is CcdState.processed and "bad difference" in outcome.reason
    assert _outbox(ready) == [] and db.fetch_all(ready.dsn, "select 1 from candidates") == []
    rows = db.fetch_all(
        ready.dsn, "select d.status, d.reason, p.status as product from diffimages d join products p using (product_id)"
    )
    assert len(rows) == 4 and {row["status"] for row in rows} == {0} == {row["product"] for row in rows}


def test_missing_catalogs_are_not_the_exposures_fault(ready, mountain, tmp_path):
    empty = tmp_path / "no-catalogs"
    empty.mkdir()
    with pytest.raises(RetryLater):
        process(replace(ready, catalogs=empty), mountain, mountain.of_kind("o", 1)[0])
    (path,) = mountain.files(mountain.of_kind("o", 1)[0], CCD)
    assert exposures.find_ccdfile(ready.dsn, path.name)["state"] == "ingested"
    assert realtime.process_ccd(ready, path.name).state is CcdState.processed


@pytest.mark.parametrize("kind", ["hifreqflat", "refimg"])
def test_a_damaged_calibration_or_reference_is_not_the_exposures_fault(ready, mountain, kind):
    for row in db.fetch_all(ready.dsn, "select path from products where kind = %s", (kind,)):
        (ready.archive / row["path"]).write_bytes(b"SIMPLE  =                    T" + bytes(3000))
    with pytest.raises(FilesMissing, match=r"flat|reference"):
        process(ready, mountain, mountain.of_kind("o", 1)[0])
    row = db.fetch_one(
        ready.dsn, "select state, error_code from ccdfiles where state = 'ingested' and error_code <> ''"
    )
    assert row == {"state": "ingested", "error_code": "files_missing"}


def _places_by_name(context):
    """Positions (deg) of the candidates by the name of their object."""
    rows = db.fetch_all(context.dsn, "select objectid, ra, dec from candidates")
    return {row["objectid"]: (row["ra"], row["dec"]) for row in rows}


def test_a_second_version_of_a_difference_replaces_candidates_and_not_alerts(ready, mountain):
    outcome = process(ready, mountain, mountain.of_kind("o", 1)[0])
    alerts, before = _outbox(ready), _places_by_name(ready)
    trigger = ready.config.difference.candidates
    other = ready.config.difference.model_copy(
        update={"candidates": trigger.model_copy(update={"thres_magpsf": trigger.thres_magpsf + 0.001})}
    )
    again = replace(ready, config=ready.config.model_copy(update={"difference": other}))
    with db.transaction(ready.dsn) as cursor:
        cursor.execute("update ccdfiles set state = 'calibrated' where filename = %s", (outcome.filename,))
        cursor.execute("update products set vbest = 0 where step = 'difference'")
    assert realtime.process_ccd(again, outcome.filename, None, "later").state is CcdState.processed
    images = db.fetch_all(
        ready.dsn, "select version from products where kind = 'scimrefdiffimg' and vbest = 1 and nid is not null"
    )
    assert {row["version"] for row in images} == {2}
    after = _places_by_name(ready)
    assert after.keys() == before.keys(), "each place keeps its name, whatever its rank among the candidates"
    assert all(after[name] == pytest.approx(place, abs=1e-5) for name, place in before.items())
    assert _outbox(ready) == alerts
    history = db.fetch_all(ready.dsn, "select sum(ndet)::int as n from object_history")
    assert history == [{"n": len(before)}]


def test_a_file_whose_worker_was_always_killed_is_failed_when_its_run_ends(ready, mountain):
    (path,) = mountain.files(mountain.of_kind("o", 1)[0], CCD)
    deliver(ready, path)
    received = receive(ready, path.name, None, "run")
    name = received.row["exposure"]
    assert realtime.close_exposure(ready, name, "another run") is ExposureState.arriving
    assert realtime.close_exposure(ready, name, "run") is ExposureState.failed
    row = exposures.find_ccdfile(ready.dsn, path.name)
    assert (row["state"], row["error_code"]) == ("failed", "bug") and "killed" in row["reason"]
    assert realtime.process_ccd(ready, path.name).state is CcdState.processed


def test_no_more_references_are_ordered_than_can_be_mapped(ready, monkeypatch, caplog):
    with db.transaction(ready.dsn) as cursor:
        cursor.execute("update references_ set status = 0")
        cursor.execute("update reference_tries set inputs = 0")
    monkeypatch.setattr(references, "MOST", 3)
    assert len(references.wanted(ready)) == 3 and "1 are left for the next run" in caplog.text


def test_a_bug_is_a_failed_file_that_can_be_repaired(ready, mountain, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(realtime.science, "run", broken)
        with pytest.raises(ZeroDivisionError):
            process(ready, mountain, mountain.of_kind("o", 1)[0])
    (path,) = mountain.files(mountain.of_kind("o", 1)[0], CCD)
    row = exposures.find_ccdfile(ready.dsn, path.name)
    assert (row["state"], row["error_code"], row["reason"]) == ("failed", "bug", "a mistake")
    assert realtime.process_ccd(ready, path.name).state is CcdState.processed
    assert exposures.find_ccdfile(ready.dsn, path.name)["error_code"] is None


def test_too_few_images_are_no_work(context):
    with pytest.raises(NoWork):
        references.build(context, 600, 20, 1)


@pytest.mark.services
def test_alerts_reach_the_broker_when_the_exposure_is_closed(ready, mountain, broker):
    outcome = process(ready, mountain, mountain.of_kind("o", 1)[0])
    assert realtime.close_exposure(ready, outcome.exposure) is ExposureState.processed
    assert exposures.find(ready.dsn, outcome.exposure)["published"] is None
    assert realtime.close_exposure(replace(ready, kafka=broker.settings), outcome.exposure) is ExposureState.processed
    rows = _outbox(ready)
    assert {row["state"] for row in rows} == {"sent"}
    sent = [m for topic in {row["topic"] for row in rows} for m in broker.messages(topic)]
    assert sorted((candid, packet) for candid, packet, _, _ in sent) == [
        (r["candid"], bytes(r["packet"])) for r in rows
    ]
    exposure = exposures.find(ready.dsn, outcome.exposure)
    assert exposure["published"] >= exposure["differenced"] and exposures.reached_stage(exposure) == "published"


def test_a_run_about_unnamed_files_only_publishes(context):
    assert realtime.close_exposure(context, "unnamed__0123456789ab") is None
