"""The order of exposures: the newest first, above all other work, whole before the next."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "plugins"))
from ztfds_priority import newest_first


def test_newer_exposures_come_first_whatever_the_night():
    names = [
        "ztf_20180101999990",
        "ztf_20210207098186",
        "ztf_20210207098655",
        "ztf_20210208000000",
        "ztf_20601231999999",
    ]
    weights = [newest_first(name) for name in names]
    assert weights == sorted(weights) and len(set(weights)) == len(weights)
    assert all(10_000 < value < 2**31 for value in weights)


def test_the_runs_of_one_exposure_have_one_weight():
    assert newest_first("ztf_20210207098186__0123456789ab") == newest_first("ztf_20210207098186")


@pytest.mark.parametrize("run", ["unnamed__0123456789ab", "ztf_20211307098186", "ztf_2021", "eon_20210207"])
def test_a_run_without_a_time_has_the_weight_of_its_rule(run: str):
    assert newest_first(run) is None
