"""The order of exposures: the newest first, above all other work, whole before the next."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "plugins" / "settings"))
from ztfds_priority import weight


def test_newer_exposures_come_first_whatever_the_night():
    names = [
        "ztf_20180101999990",
        "ztf_20210207098186",
        "ztf_20210207098655",
        "ztf_20210208000000",
        "ztf_20601231999999",
    ]
    weights = [weight("exposure", name) for name in names]
    assert weights == sorted(weights) and len(set(weights)) == len(weights)
    assert all(1000 < value < 2**31 for value in weights)


def test_the_runs_of_one_exposure_have_one_weight():
    assert weight("exposure", "ztf_20210207098186__0123456789ab") == weight("exposure", "ztf_20210207098186")


@pytest.mark.parametrize(
    ("dag", "run"),
    [
        ("exposure", "unnamed__0123456789ab"),
        ("exposure", "ztf_20211307098186"),
        ("exposure", "ztf_2021"),
        ("reprocess_work", "ztf_20210207098186"),
        ("end_of_night", "eon_20210207"),
    ],
)
def test_all_other_work_has_the_weight_of_its_dag(dag: str, run: str):
    assert weight(dag, run) is None
