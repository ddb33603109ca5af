"""Identifiers against the real packets and header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztfds.survey import ids
from ztfds.survey.errors import BadName


def real_alerts(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "alerts").glob("*/*.avro")):
        with path.open("rb") as stream:
            yield from fastavro.reader(stream)


@pytest.mark.realdata
def test_every_real_pid_candid_and_rfid_is_reproduced(real_data: Path) -> None:
    pids = candids = rfids = 0
    for alert in real_alerts(real_data):
        candidate = alert["candidate"]
        rows = [candidate, *(alert["prv_candidates"] or []), *(alert.get("fp_hists") or [])]
        for row in rows:
            night, _, rcid, pipeline = ids.split_pid(row["pid"])
            assert ids.pid(row["jd"], rcid, pipeline) == row["pid"]
            assert row.get("rcid") in (None, rcid)
            assert row.get("nid") in (None, night)
            assert ids.nid(row["jd"]) == night
            pids += 1
        for row in [candidate, *(p for p in alert["prv_candidates"] or [] if p["candid"])]:
            _, version, positive, tblid = ids.split_candid(row["candid"])
            assert positive == (row["isdiffpos"] in ("t", "1"))
            if version == 1:
                assert tblid == row["tblid"]
                assert ids.candid(row["pid"], positive, tblid) == row["candid"]
                candids += 1
        if "rfid" in candidate:
            assert ids.rfid(candidate["field"], candidate["fid"], candidate["rcid"]) == candidate["rfid"]
            assert ids.split_rfid(candidate["rfid"]) == (candidate["field"], candidate["fid"], candidate["rcid"])
            rfids += 1
    assert pids > 2800
    assert candids > 600
    assert rfids >= 32


@pytest.mark.realdata
def test_every_real_object_name_survives_coding(real_data: Path) -> None:
    names = {alert["objectId"] for alert in real_alerts(real_data)}
    assert len(names) > 60
    for name in names:
        count, year = ids.parse_object_name(name)
        assert 0 <= count < 26**7
        assert 2017 <= year <= 2023
        assert ids.object_name(count, year) == name


@pytest.mark.realdata
def test_real_candid_with_row_above_999_and_with_other_version(real_data: Path) -> None:
    assert ids.split_candid(550426152415011058) == (550426152415, 1, False, 1058)
    assert ids.split_candid(1122512730015025004) == (1122512730015, 2, True, 4)
    assert ids.candid(1122512730015, True, 4, version=2) == 1122512730015025004


def test_numbers_of_the_real_header() -> None:
    jd = 2458559.807662
    assert ids.expid(jd) == 80530766
    assert ids.nid(jd) == 805
    assert ids.night_date(805) == "20190317"
    assert ids.nid_of_date("20190317") == 805
    assert ids.split_calid(80430002) == (804, 30, 2)
    assert ids.split_calid(39630011) == (396, 30, 11)
    assert ids.calid(804, 30, ids.calibration_sequence("bias")) == 80430002
    # The file's name is 2 s before the exposure's start.
    assert 0 < (jd - ids.jd_of_filefracday("20190317307639")) * 86400 < 15


def test_calibration_products_of_one_night_and_channel_differ() -> None:
    sequences = [ids.calibration_sequence("bias"), *(ids.calibration_sequence("hifreqflat", f) for f in (1, 2, 3))]
    assert len({ids.calid(804, 30, s) for s in sequences}) == 4


@given(st.integers(0, 26**7 - 1), st.integers(2017, 2099))
def test_object_names_are_a_bijection(count: int, year: int) -> None:
    name = ids.object_name(count, year)
    assert len(name) == 12
    assert ids.parse_object_name(name) == (count, year)


def test_object_names_at_the_ends() -> None:
    assert ids.object_name(0, 2018) == "ZTF18aaaaaaa"
    assert ids.object_name(1, 2018) == "ZTF18aaaaaab"
    assert ids.object_name(26, 2018) == "ZTF18aaaaaba"
    assert ids.object_name(26**7 - 1, 2018) == "ZTF18zzzzzzz"
    with pytest.raises(BadName, match="outside"):
        ids.object_name(26**7, 2018)
    for wrong in ("ZTF18aaaaaa", "ZTF18aaaaaaA", "ZTF1aaaaaaaa", "PTF18aaaaaaa", "ZTF18aaaaaaé"):
        with pytest.raises(BadName):
            ids.parse_object_name(wrong)


@given(st.integers(0, 10_000), st.integers(0, 999_999))
def test_filefracday_survives_the_way_through_a_julian_date(night: int, micro: int) -> None:
    ffd = f"{ids.night_date(night)}{micro:06d}"
    jd = ids.jd_of_filefracday(ffd)
    assert ids.filefracday(jd) == ffd
    assert ids.nid(jd) == night
    # Exactly on a round number the two truncations may differ by one unit, as in the real packets.
    assert night * 100_000 + micro // 10 - ids.expid(jd) in (0, 1)


@given(st.floats(2457754.5, 2466976.5), st.integers(0, 63), st.booleans(), st.integers(0, 4999), st.integers(1, 99))
def test_pid_and_candid_come_apart_again(jd: float, rcid: int, positive: bool, tblid: int, version: int) -> None:
    pid = ids.pid(jd, rcid)
    assert ids.split_pid(pid) == (ids.nid(jd), ids.expid(jd) % 100_000, rcid, 15)
    number = ids.candid(pid, positive, tblid, version)
    assert ids.split_candid(number) == (pid, version, positive, tblid)
    assert number < 2**63


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadName, match="table row 5000"):
        ids.candid(1, True, 5000)
    with pytest.raises(BadName, match="version 0"):
        ids.candid(1, True, 1, version=0)
    for wrong in ("2019031730763", "20190317a07639", "20191317307639", "२0190317307639"):
        with pytest.raises(BadName):
            ids.jd_of_filefracday(wrong)
