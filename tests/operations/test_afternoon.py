"""Calibration products of an afternoon, and manifests."""

import json
from dataclasses import replace

import numpy as np
import pytest
from prepared import process
from tiny import N_BIAS, N_FLAT, deliver

from ztfds.formats.images import read_image
from ztfds.formats.manifests import make_manifest
from ztfds.formats.manifests import write_manifest as write_file
from ztfds.operations import afternoon, lowfrequency
from ztfds.operations.receive import Verdict, receive
from ztfds.registry import calibrations, exposures, outbox, receipts
from ztfds.registry import database as db
from ztfds.registry.outbox import Alert
from ztfds.simulator.camera import quadrant
from ztfds.simulator.faults import listed
from ztfds.simulator.night import write_manifest
from ztfds.survey import ids
from ztfds.survey.camera import rcid
from ztfds.survey.detector import READ_NOISE_E
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


# -- damaged files, trends, smooth maps --------------------------------------------------------------------------------


def _spoil(path):
    """Turn bits inside the file without changing its size."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    path.write_bytes(bytes(content))


def _again_as_of(context, calibration, days):
    """A later night's set made of the same frames: what was made becomes that many days older."""
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update calibrations set valid_from_jd = valid_from_jd - %s", (days,))
        cursor.execute("update channel_trends set jd = jd - %s", (days,))
    changed = {calibration: getattr(context.config, calibration).model_copy(update={"noisy_false_rate": 2.4e-4})}
    return replace(context, config=context.config.model_copy(update=changed))


def test_a_damaged_earlier_calibration_is_named_and_stops_nobody(context, mountain, night):
    _receive_afternoon(context, mountain)
    assert all(m.accepted for m in afternoon.calibrate_ccd(context, night, CCD))
    bad = {q: calibrations.valid(context.dsn, "bias", rcid(CCD, q), 0, 2460000.5) for q in (1, 2)}
    _spoil(context.archive / bad[1]["data"]["path"])
    (context.archive / bad[2]["cmask"]["path"]).unlink()
    made = afternoon.calibrate_ccd(_again_as_of(context, "bias", 3.0), night, CCD)
    assert [m.accepted for m in made[:4]] == [True] * 4
    assert "compared by figures only" in made[0].reason and "checksum" in made[0].reason
    assert "cannot be read: files_missing" in made[1].reason
    assert [m.reason for m in made[2:4]] == ["accepted"] * 2
    versions = db.fetch_all(
        context.dsn, "select version from calibrations where caltype = 'bias' order by calibration_id"
    )
    assert [row["version"] for row in versions] == [1] * 4 + [2] * 4


def test_flats_whose_bias_is_damaged_are_named_and_the_others_made(context, mountain, night):
    _receive_afternoon(context, mountain)
    afternoon.calibrate_ccd(context, night, CCD)
    row = calibrations.valid(context.dsn, "bias", rcid(CCD, 3), 0, 2460000.5)
    _spoil(context.archive / row["unc"]["path"])
    made = afternoon.calibrate_ccd(_again_as_of(context, "flat", 0.0), night, CCD)[4:]
    assert [m.accepted for m in made] == [True, True, False, True]
    assert made[2].reason.startswith("files_missing: bias") and "checksum_mismatch" in made[2].reason


def test_a_damaged_raw_frame_is_left_out(context, mountain, night):
    _receive_afternoon(context, mountain, "b")
    (frame, *_) = calibrations.frames(context.dsn, ids.nid_of_date(night), CCD, "b")
    _spoil(context.archive / frame["path"])
    made = afternoon.calibrate_ccd(context, night, CCD)
    assert [m.reason for m in made] == [
        f"calibration_missing: {N_BIAS - 1} frames can be read, at least 5 are needed"
    ] * 4


def test_a_bad_set_never_replaces_a_good_one(context, mountain, night):
    _receive_afternoon(context, mountain, "b")
    afternoon.calibrate_ccd(context, night, CCD)
    good = calibrations.valid(context.dsn, "bias", rcid(CCD, 1), 0, 2460000.5)
    later = _again_as_of(context, "bias", 1.0)
    strict = later.config.bias.model_copy(update={"max_noisy_fraction": 1e-9})
    refused = afternoon.calibrate_ccd(
        replace(later, config=later.config.model_copy(update={"bias": strict})), night, CCD
    )
    assert [m.accepted for m in refused] == [False] * 4 and "noisy or dead" in refused[0].reason
    assert (
        calibrations.valid(context.dsn, "bias", rcid(CCD, 1), 0, 2460000.5)["calibration_id"] == good["calibration_id"]
    )


def test_gain_and_noise_are_trended_and_a_departure_is_flagged(context, mountain, night):
    _receive_afternoon(context, mountain)
    afternoon.calibrate_ccd(context, night, CCD)
    channel = rcid(CCD, 1)
    truth = quadrant(mountain.plan.seed, channel, context.camera.quadrant_shape, context.camera.overscan_columns,
                     mountain.plan.config.detector)  # fmt: skip
    (bias,), (flat,) = (
        calibrations.trend(context.dsn, *which) for which in (("bias", channel, 0), ("hifreqflat", channel, 2))
    )
    assert bias["metrics"]["read_noise_dn"] == pytest.approx(READ_NOISE_E / truth.gain, rel=0.02)
    assert flat["metrics"]["gain_e_per_dn"] == pytest.approx(truth.gain, rel=0.02)
    assert flat["metrics"]["read_noise_e"] == pytest.approx(READ_NOISE_E, rel=0.03)
    assert flat["metrics"]["saturation_dn"] is None and flat["metrics"]["unsaturated_to_dn"] > 10_000
    with db.transaction(context.dsn) as cursor:
        for k in range(10):
            old = {**flat, "jd": flat["jd"] - 1 - k, "provenance_id": f"old {k}", "flags": 0, "reasons": None}
            old["metrics"] = {**flat["metrics"], "gain_e_per_dn": 1.1 * flat["metrics"]["gain_e_per_dn"]}
            nid = ids.nid_of_date(night)
            calibrations.record_trend(cursor, {**old, "caltype": "hifreqflat", "rcid": channel, "fid": 2, "nid": nid})
    again = afternoon.calibrate_ccd(_again_as_of(context, "flat", 0.0), night, CCD)[4:]
    assert all(m.accepted for m in again)
    newest = calibrations.trend(context.dsn, "hifreqflat", channel, 2)[0:2]
    flagged = next(row for row in newest if row["flags"])
    assert flagged["flags"] == 1 and flagged["reasons"].startswith("gain: gain_e_per_dn is")


def test_smooth_maps_are_made_of_stars_and_applied(ready, mountain):
    """Low-frequency flat from the reference night's stars, then the lamp correction, then flats divided by it."""
    night, fid = mountain.plan.dates[0], 2
    made = lowfrequency.map_response(ready, night, CCD, fid, night)
    assert [(m.caltype, m.accepted) for m in made] == [("lownuflat", True)] * 4, made
    jd = ids.NID_ZERO_JD + ids.nid_of_date(night) + 0.5
    flat = calibrations.valid(ready.dsn, "hifreqflat", rcid(CCD, 1), fid, jd)
    low = calibrations.low_flat_for(ready.dsn, flat, jd)
    whole = afternoon.read_flat(ready, flat, low)
    assert whole.header["LOWFLAT"] == low["calid"] == ids.calid(ids.nid_of_date(night), rcid(CCD, 1), 32)
    image = afternoon.read_calibration(ready, low)
    assert np.allclose(whole.data, afternoon.read_calibration(ready, flat).data * image.data)
    assert abs(image.data - 1).max() < 0.05
    lamps = lowfrequency.correct_lamp(ready, night, CCD, fid)
    assert [m.accepted for m in lamps] == [True] * 4, lamps
    again = afternoon.calibrate_ccd(ready, night, CCD)[4:]
    assert [m.accepted for m in again] == [True] * 4, again
    corrected = calibrations.valid(ready.dsn, "hifreqflat", rcid(CCD, 1), fid, jd)
    lamp = calibrations.valid(ready.dsn, "lampcorr", rcid(CCD, 1), fid, jd)
    assert calibrations.lamp_of(corrected) == lamp["calid"]
    assert calibrations.low_flat_for(ready.dsn, corrected, jd) is None
    assert np.allclose(afternoon.read_calibration(ready, corrected).data, whole.data, rtol=3e-3)
    assert lowfrequency.correct_lamp(ready, night, CCD, fid)[0].reason.startswith("calibration_missing: no uncorrected")


def test_quadrants_are_held_against_their_history(ready, mountain):
    (row,) = db.fetch_all(ready.dsn, "select * from split_quality where rcid = %s order by jd limit 1", (rcid(CCD, 1),))
    assert row["flags"] == 0 and row["metrics"]["read_noise_dn"] == pytest.approx(1.64, rel=0.05)
    with db.transaction(ready.dsn) as cursor:
        metrics = {**row["metrics"], "read_noise_dn": 1.3}
        cursor.execute("update split_quality set metrics = %s where rcid = %s", (json.dumps(metrics), rcid(CCD, 1)))
    quality = ready.config.quality.model_copy(update={"least": 4})
    watchful = replace(ready, config=ready.config.model_copy(update={"quality": quality}))
    index = mountain.of_kind("o", 1)[0]
    process(watchful, mountain, index)
    found = {r["rcid"]: r for r in db.fetch_all(ready.dsn, "select * from split_quality where exposure = %s",
                                                (_exposure(mountain, index),))}  # fmt: skip
    assert len(found) == 4
    assert found[rcid(CCD, 1)]["flags"] == 1 << 5 and found[rcid(CCD, 1)]["reasons"].startswith("read_noise: ")
    assert found[rcid(CCD, 2)]["flags"] == 0
    assert calibrations.split_history(ready.dsn, rcid(CCD, 1), 2460000.5, 100, 9999.0) != []
