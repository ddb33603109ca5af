"""Errors, states, programs, filters and detector facts."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ztfds.survey import detector, errors, filters, programs
from ztfds.survey.states import CcdState as C
from ztfds.survey.states import ExposureState as E
from ztfds.survey.states import exposure_state


def test_error_codes_are_unique_and_lead_back_to_their_class() -> None:
    kinds = errors.all_classes()
    codes = [kind.code for kind in kinds]
    assert len(kinds) > 25
    assert len(set(codes)) == len(codes)
    for kind in kinds:
        assert errors.class_of_code(kind.code) is kind
        assert kind.__doc__
    assert errors.class_of_code("from the future") is errors.BugOrConfiguration


def test_consequences_are_inherited() -> None:
    assert errors.CalibrationMissing.retry and errors.DatabaseDown.retry
    for kind in (errors.TruncatedFile, errors.ReferenceMissing, errors.ConfigurationError, errors.AlreadyChanged):
        assert not kind.retry
    assert errors.ReferenceMissing.exit_code == 0
    assert errors.TruncatedFile.exit_code == errors.BadData.exit_code == 65


def test_errors_say_where_and_survive_another_process() -> None:
    error = errors.TruncatedFile("too short", exposure="ztf_20190317307639", rcid=0, step="ingest")
    assert str(error) == "too short [exposure=ztf_20190317307639, rcid=0, step=ingest]"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.TruncatedFile
    assert str(again) == str(error)
    assert again.located(rcid=5, attempt=2).rcid == 0
    assert again.attempt == 2
    assert str(errors.BadData("plain")) == "plain"


@pytest.mark.parametrize(
    ("ccds", "state"),
    [
        ([], E.arriving),
        ([C.received], E.arriving),
        ([C.ingested, C.ingested], E.arriving),
        ([C.ingested, C.processed], E.processing),
        ([C.processed], E.processing),
        ([C.processed, C.processed], E.processed),
        ([C.processed, C.processed, C.duplicate], E.processed),
        ([C.processed, C.calibrated], E.calibrated),
        ([C.processed, C.missing], E.incomplete),
        ([C.calibrated, C.quarantined], E.incomplete),
        ([C.calibrated, C.failed], E.incomplete),
        ([C.bad, C.bad], E.bad),
        ([C.bad, C.quarantined], E.bad),
        ([C.quarantined, C.missing], E.bad),
        ([C.bad, C.failed], E.failed),
        ([C.missing, C.missing], E.missing),
    ],
)
def test_state_of_an_exposure_of_two_ccds(ccds: list[C], state: E) -> None:
    assert exposure_state(ccds, 2) is state
    assert exposure_state(ccds[::-1], 2) is state


@pytest.mark.parametrize(
    ("ccds", "state"),
    [
        ([], E.arriving),
        ([C.ingested], E.arriving),
        ([C.ingested, C.ingested], E.calibration),
        ([C.ingested, C.quarantined], E.arriving),
        ([C.quarantined, C.quarantined], E.bad),
        ([C.missing, C.missing], E.missing),
    ],
)
def test_state_of_a_calibration_exposure_of_two_ccds(ccds: list[C], state: E) -> None:
    assert exposure_state(ccds, 2, calibration=True) is state


def test_who_sees_what() -> None:
    allowed = {(a, r) for a in range(4) for r in range(4) if programs.may_see(a, r)}
    assert allowed == {(0, r) for r in range(4)} | {(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)}
    assert programs.may_see(1, 3, released=True)
    with pytest.raises(errors.BadName):
        programs.may_see(7, 1)


def test_filters() -> None:
    assert filters.by_fid(2).code == "zr"
    assert filters.by_code("ZTF_i") is filters.by_code("zi") is filters.by_fid(3)
    assert [f.color_bands for f in filters.FILTERS] == [("g", "r"), ("g", "r"), ("r", "i")]
    with pytest.raises(errors.BadName):
        filters.by_code("zy")
    with pytest.raises(errors.BadName):
        filters.by_fid(4)


@pytest.mark.realdata
def test_linearity_is_that_of_the_camera_team(real_data: Path) -> None:
    dates = {"201803": (58000.0, 58778.9), "201910": (58779.0, 58966.9), "202004": (58967.0, 60500.0)}
    count = 0
    for table, mjds in dates.items():
        text = (real_data / "detector" / f"linearity_coeffs_{table}.txt").read_text()
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                ccdid, _, ampid, a, b = line.split()
                for mjd in mjds:
                    assert detector.linearity(int(ccdid), int(ampid) + 1, mjd) == (float(a), float(b))
                count += 1
    assert count == 192


def test_linearity_is_monotonic_over_the_range_of_the_converter() -> None:
    for ccdid in range(1, 17):
        for qid in range(1, 5):
            a, b = detector.linearity(ccdid, qid, 58559.3)
            levels = [x / (a * x * x + b * x + 1) for x in range(0, detector.RAW_CEILING_DN, 1000)]
            assert levels == sorted(set(levels))
            assert levels[20] == pytest.approx(20000, rel=0.02)
    with pytest.raises(errors.ConfigurationError):
        detector.linearity(17, 1, 58559.3)
