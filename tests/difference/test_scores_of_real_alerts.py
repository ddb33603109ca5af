"""The models, which know simulated nights only, on real alert packets beside the scores that these carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ztfds.difference import score
from ztfds.difference.candidates import DTYPE
from ztfds.formats.alerts import read_packets, unpack_cutout
from ztfds.training.evaluate import area_under_curve

CUTOUTS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")


def table_of(candidates: list[dict[str, Any]]) -> np.ndarray:
    """Candidate records as a candidate table; null becomes NaN."""
    table = np.zeros(len(candidates), DTYPE)
    for name in DTYPE.names or ():
        if DTYPE[name].kind == "f":
            table[name] = [np.nan if c.get(name) is None else c[name] for c in candidates]
    table["isdiffpos"] = [c["isdiffpos"] for c in candidates]
    table["nneg"], table["nbad"] = ([c[name] for c in candidates] for name in ("nneg", "nbad"))
    table["tblid"] = np.arange(len(candidates))
    return table


@pytest.fixture(scope="module")
def packets(real_data: Path) -> list[dict[str, Any]]:
    return [p for path in sorted((real_data / "alerts").glob("*/*.avro")) for p in read_packets(path)]


@pytest.mark.realdata
def test_real_alerts_get_scores_that_follow_their_own(packets: list[dict[str, Any]]) -> None:
    """Measured: docs/science/realbogus.md. A weak demand: the simulated domain is not the real one."""
    theirs = [p["candidate"] for p in packets]
    table = table_of(theirs)
    score.attach(table, {k: tuple(unpack_cutout(p[c]["stampData"]) for c in CUTOUTS) for k, p in enumerate(packets)})
    for name in score.SCORES:
        assert ((table[name] >= 0) & (table[name] <= 1)).all()
    drb = np.array([np.nan if c.get("drb") is None else c["drb"] for c in theirs])
    sure = drb > 0.9
    assert sure.sum() >= 10
    assert np.median(table["drb"][sure]) > 0.9
    likely = np.array([c["rb"] for c in theirs]) > 0.5
    for name in score.SCORES:
        assert area_under_curve(table[name].astype(float), likely) > 0.7, name
