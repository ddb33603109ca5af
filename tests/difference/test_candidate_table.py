"""Neighbours, triggers, edges and cutouts of candidate tables."""

from __future__ import annotations

import numpy as np
import pytest

from ztfds.config.difference import CandidateConfig
from ztfds.difference.candidates import blank_table, cutout, edge_distance, passes_trigger
from ztfds.difference.neighbours import add_gaia, add_ps1, add_reference

ARCSEC = 1 / 3600


def good_table(n: int = 1) -> np.ndarray:
    """Rows of a clean point source."""
    table = blank_table(n)
    values = {"flux": 1000, "fluxunc": 50, "magpsf": 19.0, "magap": 19.05, "sigmagap": 0.1, "magdiff": 0.05, "nbad": 0}
    values |= {"fwhm": 2.4, "elong": 1.1, "rb": 0.9, "nneg": 3, "sumrat": 0.98, "chipsf": 1.1, "ra": 150.0, "dec": 30.0}
    for name, value in values.items():
        table[name] = value
    return table


def test_clean_source_triggers() -> None:
    assert passes_trigger(good_table()[0], CandidateConfig())


@pytest.mark.parametrize(
    ("name", "ok", "bad"),
    [
        ("flux", 251.0, 249.0),
        ("flux", -251.0, -249.0),
        ("magpsf", 23.5, 23.51),
        ("nbad", 4, 5),
        ("fwhm", 7.0, 7.01),
        ("elong", 1.6, 1.61),
        ("magdiff", -0.4, -0.41),
        ("magdiff", 0.75, 0.76),
        ("magdiff", 0.0, np.nan),
        ("elong", 1.0, np.nan),
    ],
)
def test_each_trigger_criterion(name: str, ok: float, bad: float) -> None:
    for value, expected in ((ok, True), (bad, False)):
        table = good_table()
        table[name] = value
        assert passes_trigger(table[0], CandidateConfig()) == expected


def test_a_null_score_never_costs_an_alert() -> None:
    table = good_table()
    table["rb"] = np.nan
    assert passes_trigger(table[0], CandidateConfig())
    applied = CandidateConfig(thres_rb=0.5)
    assert not passes_trigger(table[0], applied)
    assert passes_trigger(good_table()[0], applied)


def test_edge_distance_in_the_packets_convention() -> None:
    # one-based x, y of a quadrant of 3072 x 3080: min(x, y, 3072.5 - x, 3080.5 - y)
    x, y = np.array([10.0, 1500.0, 3000.0, 1500.0]), np.array([500.0, 3.0, 1500.0, 3070.0])
    out = edge_distance(y - 1, x - 1, (3080, 3072))
    np.testing.assert_allclose(out, [10, 3, 72.5, 10.5])


def test_cutout_is_centred_and_padded() -> None:
    image = np.arange(100 * 80, dtype=np.float32).reshape(100, 80)
    stamp = cutout(image, 40.3, 50.6, 63)
    assert stamp[31, 31] == image[40, 51]
    assert stamp[31, 30] == image[40, 50]
    corner = cutout(image, 1.0, 78.9, 63)
    assert corner[31, 31] == image[1, 79]
    assert np.isnan(corner[:30]).all()
    assert np.isnan(corner[:, 32:]).all()
    assert np.isfinite(corner[30:, :32]).all()
    assert np.isnan(cutout(image, 400, 400, 63)).all()


def reference_catalog() -> np.ndarray:
    cat = np.zeros(2, [("ra", "f8"), ("dec", "f8"), ("mag", "f4"), ("sigmag", "f4"), ("chi", "f4"), ("sharp", "f4")])
    cat["ra"], cat["dec"] = [150.0, 150.0], [30.0 + 2.024 * ARCSEC, 30.0 - 30 * ARCSEC]
    cat["mag"], cat["sigmag"], cat["chi"], cat["sharp"] = [-8.0, -9.0], 0.02, 1.1, -0.03
    return cat


def test_nearest_reference_source_in_pixels() -> None:
    table = good_table(2)
    table["dec"][1] = 30 - 29 * ARCSEC
    add_reference(table, reference_catalog(), 26.275, 1.012)
    np.testing.assert_allclose(table["distnr"], [2.0, 1 / 1.012], rtol=1e-5)
    np.testing.assert_allclose(table["magnr"], [18.275, 17.275], atol=1e-5)
    np.testing.assert_allclose(table["decnr"], reference_catalog()["dec"], atol=1e-12)
    np.testing.assert_allclose(table["sharpnr"], -0.03, rtol=1e-6)


def test_no_reference_source() -> None:
    table = good_table()
    add_reference(table, reference_catalog()[:0], 26.275, 1.012)
    assert table["distnr"][0] == table["magnr"][0] == table["ranr"][0] == -999


def test_gaia_neighbours() -> None:
    gaia = np.zeros(3, [("ra", "f8"), ("dec", "f8"), ("gmag", "f4")])
    gaia["ra"], gaia["dec"], gaia["gmag"] = 150.0, 30 + np.array([5, 40, 100]) * ARCSEC, [18.0, 12.0, 9.0]
    table = good_table()
    add_gaia(table, gaia, CandidateConfig())
    np.testing.assert_allclose(table["neargaia"], 5.0, rtol=1e-5)
    np.testing.assert_allclose(table["maggaia"], 18.0)
    np.testing.assert_allclose(table["neargaiabright"], 40.0, rtol=1e-5)
    np.testing.assert_allclose(table["maggaiabright"], 12.0)
    far = good_table()
    far["dec"] = 30.1
    add_gaia(far, gaia, CandidateConfig())
    assert far["neargaia"][0] == far["maggaia"][0] == far["neargaiabright"][0] == -999


def test_ps1_neighbours_across_ra_zero() -> None:
    names = [
        ("objid", "i8"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("g", "f4"),
        ("r", "f4"),
        ("i", "f4"),
        ("z", "f4"),
        ("sgscore", "f4"),
    ]
    ps1 = np.zeros(5, names)
    ps1["objid"] = [11, 12, 13, 14, 15]
    ps1["ra"] = np.array([-3.0, 2.0, 10.0, -20.0, 50.0]) * ARCSEC % 360
    ps1["g"], ps1["r"], ps1["sgscore"] = [20, np.nan, 19, 18, 17], 19.5, 0.9
    table = good_table()
    table["ra"], table["dec"] = 1e-9, 0.0
    add_ps1(table, ps1, CandidateConfig())
    assert [int(table[f"objectidps{k}"][0]) for k in (1, 2, 3)] == [12, 11, 13]
    np.testing.assert_allclose([table[f"distpsnr{k}"][0] for k in (1, 2, 3)], [2, 3, 10], rtol=1e-4)
    assert table["nmtchps"][0] == 4
    assert table["sgmag1"][0] == -999
    assert table["sgmag2"][0] == 20
    alone = good_table()
    add_ps1(alone, ps1, CandidateConfig())
    assert alone["objectidps1"][0] == -999
    assert alone["nmtchps"][0] == 0
