"""Calibration products of an afternoon, and manifests."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny import N_BIAS, N_FLAT, deliver

from ztfds.formats.images import read_image
from ztfds.formats.manifests import make_manifest
from ztfds.formats.manifests import write_manifest as write_file
from ztfds.operations import afternoon
from ztfds.operations.receive import Verdict, receive
from ztfds.registry import calibrations, exposures, outbox, receipts
from ztfds.registry import database as db
from ztfds.registry.outbox import Alert
from ztfds.simulator.faults import listed
from ztfds.simulator.night import write_manifest
from ztfds.survey import ids
from ztfds.survey.camera import rcid
from ztfds.survey.errors import BadData, CalibrationMissing, FilesMissing

CCD = 6


@pytest.fixture
def night(mountain):
    return mountain.plan.dates[0]


def _receive_afternoon(context, mountain, kinds="bf", limit=None):
    for kind in kinds:
        for index in mountain.of_kind(kind, 0)[:limit]:
            for name in deliver(context, *mountain.files(index, CCD)):
                assert receive(context, name, None).verdict is Verdict.accepted


def _count(context, table):
    return db.fetch_one(context.dsn, f"select count(*)::int as n from {table}")["n"]


def test_bias_and_flat_of_every_quadrant(context, mountain, night):
    _receive_afternoon(context, mountain)
    made = afternoon.calibrate_ccd(context, night, CCD, "cal_run", 1)
    assert {m.reason for m in made} == {"accepted"}
    assert [(m.caltype, m.fid, m.accepted) for m in made] == [("bias", 0, True)] * 4 + [("hifreqflat", 2, True)] * 4
    nid = ids.nid_of_date(night)
    for qid in (1, 2, 3, 4):
        channel = rcid(CCD, qid)
        for caltype, fid, n in (("bias", 0, N_BIAS), ("hifreqflat", 2, N_FLAT)):
            row = calibrations.valid(context.dsn, caltype, channel, fid, ids.NID_ZERO_JD + nid + 0.9)
            assert (row["nframes"], row["accepted"], row["nid"]) == (n, True, nid)
            assert row["age_d"] == pytest.approx(0.9)
            assert row["data"]["path"].startswith(f"cal/{night[:4]}/{night[4:]}/{caltype}/")
            image = afternoon.read_calibration(context, row)
            assert image.data.shape == context.camera.quadrant_shape and image.cmask.dtype == np.uint16
            assert image.qa["n_frames"] == n and image.header["RCID"] == channel
            assert np.median(image.data) == pytest.approx(1.0 if fid else image.qa["mean"], abs=0.02 if fid else 1.0)
            parents = db.fetch_all(
                context.dsn, "select 1 from product_parents where product_id = %s", (row["data_id"],)
            )
            assert len(parents) == n + (1 if fid else 0)


def test_doing_it_again_changes_nothing(context, mountain, night):
    _receive_afternoon(context, mountain, "b")
    first = afternoon.calibrate_ccd(context, night, CCD)
    counts = [_count(context, table) for table in ("products", "calibrations", "jobs", "qa_metrics")]
    assert afternoon.calibrate_ccd(context, night, CCD) == first
    assert [_count(context, table) for table in ("products", "calibrations", "jobs", "qa_metrics")] == counts


def test_too_few_frames_make_nothing_and_say_so(context, mountain, night):
    _receive_afternoon(context, mountain, "b", limit=2)
    made = afternoon.calibrate_ccd(context, night, CCD)
    assert [m.accepted for m in made] == [False] * 4 and "at least" in made[0].reason
    with pytest.raises(CalibrationMissing):
        calibrations.valid(context.dsn, "bias", rcid(CCD, 1), 0, 2460000.5)


def test_flats_without_a_bias_are_not_made(context, mountain, night):
    _receive_afternoon(context, mountain, "f")
    made = afternoon.calibrate_ccd(context, night, CCD)
    assert [(m.caltype, m.accepted) for m in made] == [("bias", False)] * 4 + [("hifreqflat", False)] * 4
    assert made[-1].reason.startswith("calibration_missing")


def test_the_last_accepted_one_is_used_however_old_and_never_one_from_the_future(context, mountain, night):
    _receive_afternoon(context, mountain, "b")
    afternoon.calibrate_ccd(context, night, CCD)
    start, channel = ids.NID_ZERO_JD + ids.nid_of_date(night), rcid(CCD, 1)
    row = calibrations.valid(context.dsn, "bias", channel, 0, start + 400.0)
    assert row["age_d"] == pytest.approx(400.0)
    with pytest.raises(CalibrationMissing):
        calibrations.valid(context.dsn, "bias", channel, 0, start - 0.1)
    calibrations.decide(context.dsn, row["calibration_id"], False, "an operator saw stripes")
    with pytest.raises(CalibrationMissing):
        calibrations.valid(context.dsn, "bias", channel, 0, start + 1.0)


def test_few_frames_at_a_time_give_the_same_bias(context, mountain, night, monkeypatch):
    _receive_afternoon(context, mountain, "b")
    monkeypatch.setattr(afternoon, "MEMORY_BYTES", 1)
    assert all(m.accepted for m in afternoon.calibrate_ccd(context, night, CCD))
    row = calibrations.valid(context.dsn, "bias", rcid(CCD, 3), 0, 2460000.5)
    pixels, _ = read_image(context.archive / row["data"]["path"])
    assert np.isfinite(pixels).all() and _count(context, "calibrations") == 4


def _manifest(context, mountain, night_index, part, indices):
    entries = [listed(path) for index in indices for path in mountain.files(index)]
    return write_manifest(context.inbox, mountain.plan, night_index, part, entries).name


def test_a_manifest_is_stored_once_and_waited_for(context, mountain, night):
    biases = mountain.of_kind("b", 0)
    name = _manifest(context, mountain, 0, "calibration", biases)
    assert afternoon.receive_manifest(context, name) == 2 * N_BIAS
    assert list(context.inbox.iterdir()) == []
    assert afternoon.receive_manifest(context, name) == 2 * N_BIAS
    assert not afternoon.settled(context, night, 1000.0)
    for index in biases:
        for file in deliver(context, *mountain.files(index)):
            receive(context, file, None)
    assert afternoon.settled(context, night, 1000.0)


def test_the_afternoon_does_not_wait_for_the_night(context, mountain, night):
    biases, science = mountain.of_kind("b", 0)[:1], mountain.of_kind("o", 0)[:1]
    afternoon.receive_manifest(context, _manifest(context, mountain, 0, "calibration", biases))
    afternoon.receive_manifest(context, _manifest(context, mountain, 0, "night", science))
    for file in deliver(context, *mountain.files(science[0], CCD), *mountain.files(biases[0])):
        receive(context, file, None)
    assert afternoon.settled(context, night, 1000.0, part="calibration")
    assert not afternoon.settled(context, night, 1000.0)


def test_the_afternoons_patience_counts_from_its_own_manifest(context, mountain, night):
    biases, science = mountain.of_kind("b", 0)[:1], mountain.of_kind("o", 0)[:1]
    afternoon.receive_manifest(context, _manifest(context, mountain, 0, "calibration", biases))
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update manifests set arrival = now() - interval '1 hour'")
    afternoon.receive_manifest(context, _manifest(context, mountain, 0, "night", science))
    assert not afternoon.settled(context, night, 1800.0)
    assert afternoon.settled(context, night, 1800.0, part="calibration")
    assert {f["filename"] for f in db.fetch_all(context.dsn, "select filename from ccdfiles")} == {
        path.name for path in mountain.files(biases[0])
    }


def test_without_a_broker_the_night_does_not_wait_for_alerts(context, mountain, night):
    science = mountain.of_kind("o", 0)[:1]
    afternoon.receive_manifest(context, _manifest(context, mountain, 0, "night", science))
    for file in deliver(context, *mountain.files(science[0])):
        receive(context, file, None)
    exposure = _exposure(mountain, science[0])
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update ccdfiles set state = 'processed'")
        exposures.refresh(cursor, exposure, closed=True)
        outbox.queue(cursor, [Alert(1, "ZTF18aaaaaaa", exposure, 20, "topic", ids.nid_of_date(night), 1, b"x")])
    assert not afternoon.settled(replace(context, kafka={"bootstrap.servers": "127.0.0.1:1"}), night, 1000.0)
    assert afternoon.settled(context, night, 1000.0)


def test_a_manifest_may_spell_raw_names_without_compression(context, mountain, night):
    (science,) = mountain.of_kind("o", 0)[:1]
    entries = [listed(path) for path in mountain.files(science)]
    spelled = [replace(entry, name=entry.name.removesuffix(".fz")) for entry in entries]
    path = write_manifest(context.inbox, mountain.plan, 0, "night", spelled)
    afternoon.receive_manifest(context, path.name)
    names = {row["filename"] for row in receipts.manifest_files(context.dsn, ids.nid_of_date(night))}
    assert names == {entry.name for entry in entries}


def test_a_manifest_from_before_the_survey_is_quarantined(context):
    path = context.inbox / "ztf_20160101_manifest.json"
    write_file(path, make_manifest("20160101", "night", "tiny", "2016-01-01T00:00:00+00:00", []))
    with pytest.raises(BadData):
        afternoon.receive_manifest(context, path.name)
    assert list(context.inbox.iterdir()) == []


def test_after_the_patience_what_never_came_is_missing(context, mountain, night):
    science = mountain.of_kind("o", 0)[:2]
    afternoon.receive_manifest(context, _manifest(context, mountain, 0, "night", science))
    (context.inbox / mountain.files(science[0], 6)[0].name).write_bytes(b"SIMPLE")
    receive(context, mountain.files(science[0], 6)[0].name, None)
    assert not afternoon.settled(context, night, 1000.0)
    assert afternoon.settled(context, night, 0.0)
    states = {
        f["filename"]: f["state"] for i in science for f in exposures.ccdfiles_of(context.dsn, _exposure(mountain, i))
    }
    assert sorted(states.values()) == ["missing", "missing", "missing", "quarantined"]
    assert exposures.find(context.dsn, _exposure(mountain, science[1]))["state"] == "missing"
    late = mountain.files(science[1], 6)[0]
    deliver(context, late)
    assert receive(context, late.name, None).verdict is Verdict.accepted
    assert exposures.find_ccdfile(context.dsn, late.name)["state"] == "ingested"


def _exposure(mountain, index):
    return mountain.files(index)[0].name[:18]


def test_a_manifest_that_contradicts_its_name_is_quarantined(context, mountain):
    name = _manifest(context, mountain, 0, "night", mountain.of_kind("o", 0)[:1])
    wrong = context.inbox / name.replace(name[4:12], "20190101")
    (context.inbox / name).rename(wrong)
    with pytest.raises(BadData):
        afternoon.receive_manifest(context, wrong.name)
    assert list(context.inbox.iterdir()) == []
    assert [r["verdict"] for r in receipts.of_name(context.dsn, wrong.name)] == ["quarantined"]
    with pytest.raises(FilesMissing):
        afternoon.receive_manifest(context, wrong.name)


def test_a_corrected_manifest_supersedes_the_former(context, mountain, night):
    science = mountain.of_kind("o", 0)[:2]
    afternoon.receive_manifest(context, _manifest(context, mountain, 0, "night", science[:1]))
    afternoon.receive_manifest(context, _manifest(context, mountain, 0, "night", science))
    nid = ids.nid_of_date(night)
    assert len(receipts.manifest_files(context.dsn, nid)) == 4
    assert json.loads(json.dumps(receipts.manifest_files(context.dsn, nid, "calibration"))) == []
