"""Selection of the inputs of a reference."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from ztfds.config.difference import ReferenceConfig
from ztfds.reference.select import select

CONFIG = ReferenceConfig()


def header(seeing: float, **changes: object) -> dict[str, object]:
    row: dict[str, object] = {"SEEING": seeing, "MAGZP": 26.2, "MAGZPRMS": 0.03, "CLRCOEFF": 0.1, "MAGLIM": 20.5}
    row |= {
        "OBSJD": 2458560.0 + seeing,
        "STATUS": 1,
        "MEDSKY": 200.0,
        "SKYSIG": 6.0,
        "ASTRRMS1": 1.5e-5,
        "ASTRRMS2": 1e-5,
    }
    return row | changes


def test_the_sharpest_are_taken_in_order() -> None:
    rows = [header(s) for s in np.linspace(3.5, 1.8, 20)]
    choice = select(rows, CONFIG)
    assert choice.chosen == tuple(range(19, 4, -1))
    assert set(choice.rejected) == set(range(5))
    assert choice.reason == ""


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"STATUS": 0}, "STATUS"),
        ({"SEEING": 4.2}, "seeing"),
        ({"SEEING": None}, "no seeing"),
        ({"MAGZP": None}, "no zero point"),
        ({"MAGZP": 25.5}, "zero point"),
        ({"CLRCOEFF": 0.4}, "colour"),
        ({"MAGZPRMS": 0.09}, "scatter"),
        ({"MAGLIM": 17.0}, "limiting"),
        ({"MEDSKY": 3000.0}, "sky"),
        ({"SKYSIG": 40.0}, "noise"),
        ({"ASTRRMS2": 1e-4}, "astrometric"),
        ({"OBSJD": 2458100.0}, "date"),
    ],
)
def test_each_cut(changes: dict[str, object], word: str) -> None:
    rows = [header(2.0) for _ in range(7)] + [header(1.5, **changes)]
    choice = select(rows, CONFIG)
    assert 7 not in choice.chosen
    assert word in choice.rejected[7]
    assert len(choice.chosen) == 7


def test_too_few_are_no_reference() -> None:
    choice = select([header(2.0) for _ in range(5)], CONFIG)
    assert choice.chosen == ()
    assert "6 are needed" in choice.reason


def test_no_candidates() -> None:
    assert select([], CONFIG).chosen == ()


def test_absent_keywords_are_not_judged_and_case_does_not_matter() -> None:
    rows = [{"seeing": 2.0 + 0.01 * k, "magzp": 26.2} for k in range(6)]
    assert select(rows, CONFIG).chosen == (0, 1, 2, 3, 4, 5)
    headers = []
    for row in rows:
        item = fits.Header()
        item.update(row)
        headers.append(item)
    assert select(headers, CONFIG).chosen == (0, 1, 2, 3, 4, 5)
