"""The replay's own arithmetic: the real schedule is read, the ideal latency is right where it is known, no-ops say what names say."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from benchmarks import replay, stage, timed
from ztfds.formats.raw import read_raw
from ztfds.survey.fields import get
from ztfds.survey.names import RawName


@pytest.mark.realdata
def test_a_real_night_is_read_in_order_with_names_and_fields_of_the_survey(real_data, monkeypatch):
    monkeypatch.setattr(stage, "DATA", real_data)
    night = stage.pointings("2021-02-07")
    after = [pointing.after_s for pointing in night]
    assert len(night) > 600 and after[0] == 0.0 and after == sorted(after)
    assert np.median(np.diff(after)) == pytest.approx(40.6, abs=0.2)
    assert len({pointing.exposure for pointing in night}) == len(night)
    assert all(get(pointing.field).grid == 0 for pointing in night)
    assert night[0].exposure.startswith("ztf_20210207098"), "02:21:23 UT is 0.098 of a day"


def test_without_the_real_data_the_reason_is_plain(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "DATA", tmp_path)
    with pytest.raises(SystemExit, match=r"no real schedule: .* is absent"):
        stage.pointings("2021-02-07")


def test_the_ideal_latency_is_the_work_where_there_is_room_and_grows_where_there_is_not():
    assert stage.ideal_latencies([0.0, 40.0, 80.0], 15.0, 16).tolist() == [15.0] * 3
    assert stage.ideal_latencies([0.0, 10.0], 15.0, 16).tolist() == [15.0, 20.0]
    assert stage.ideal_latencies([0.0], 15.0, 8).tolist() == [30.0]


def run_of(arrival: float, latency: float) -> dict[str, object]:
    return {
        "state": "success",
        "arrival": arrival,
        "began": arrival + 1,
        "last_began": arrival + 1,
        "ended": arrival + latency,
    }


def test_late_exposures_count_unless_the_capacity_explains_them():
    quick = replay.judged([run_of(0.0, 20.0), run_of(1000.0, 700.0)], 15.0, 16)
    assert (quick["late"], quick["late_by_capacity"], quick["done"]) == (1, 0, 2)
    starved = replay.judged([run_of(0.0, 650.0)], 40.0, 1)
    assert (starved["late"], starved["late_by_capacity"]) == (1, 1)


def test_memory_that_grows_is_seen():
    rows = [{"t": 60.0 * k, "flat": 100.0, "leak": 100.0 + k} for k in range(31)]
    found = stage.memory_in_words(rows)
    assert found["flat"]["per_hour"] == 0.0 and found["leak"]["per_hour"] == pytest.approx(60.0)
    assert found["leak"] == {"start": 100.0, "end": 130.0, "max": 130.0, "per_hour": 60.0}


def test_the_copied_dags_are_the_real_ones_with_one_call_more(tmp_path):
    timed.copy_dags(tmp_path)
    for path in tmp_path.glob("*.py"):
        original = (Path(__file__).parents[2] / "dags" / path.name).read_text()
        assert path.read_text() == original + timed.LAST_LINES
        ast.parse(path.read_text())
    assert {"exposure", "end_of_night", "reprocess_work"} <= {path.stem for path in tmp_path.glob("*.py")}


def test_a_file_without_pixels_says_what_its_name_says(tmp_path):
    name = RawName("20210207177975", 808, "zr", 3, "o")
    raw = timed.read(tmp_path / name.filename)
    assert raw.name == name and [q.rcid for q in raw.quadrants] == [8, 9, 10, 11]
    assert raw.header["OBSJD"] == pytest.approx(2459252.677975, abs=1e-5)
    assert read_raw is not timed.read
