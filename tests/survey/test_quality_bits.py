"""Mask bits and INFOBITS."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ztfds.survey import bits

GOOD = {
    "median_background_dn": 730.0,
    "pixel_noise_dn": 11.0,
    "saturated_percent": 0.01,
    "seeing_arcsec": 2.0,
    "maglim_catalog_mag": 20.5,
    "maglim_formula_mag": 20.5,
    "n_psfcat": 5000,
    "n_sexcat": 5000,
    "photcal_possible": 1,
    "n_photcal_catalog": 2000,
    "n_photcal_matches": 400,
    "zp_rms_mag": 0.03,
    "astrom_possible": 1,
    "astrom_catalog_percent": 60.0,
    "n_astrom_matches": 432,
    "n_astrom_ingrid_min": 12,
    "pixel_scale_change_percent": 0.1,
    "astrom_chi2_change_percent": -3.0,
    "astrom_chi2": 7.6,
    "astrom_ingrid_resid_arcsec": 0.1,
    "psf_possible": 1,
    "astrom_detected_percent": 80.0,
}


def test_mask_templates_are_those_of_the_survey() -> None:
    values = {bit.name: bit.value for bit in bits.MASK_BITS}
    assert values == {name: getattr(bits, name) for name in values}
    assert bits.BAD_TEMPLATE == 6141 == sum(values.values()) - bits.SEXTRACTED - bits.PSF_SOURCE
    assert bits.SOURCE_TEMPLATE == 2050
    assert bits.HARD_BAD & ~bits.BAD_TEMPLATE == 0
    assert not bits.HARD_BAD & (bits.GHOST | bits.HALO | bits.SPILL_GHOST)


@pytest.mark.realdata
def test_infobits_are_the_table_of_the_real_header(real_data: Path) -> None:
    path = next((real_data / "header").glob("*sciimg.header.txt"))
    cards = {
        line[:8].strip(): line[10:].partition("/")
        for line in path.read_text().splitlines()
        if line.startswith("BIT") and line[3:5].isdigit()
    }
    assert len(cards) == len(bits.INFOBITS) == 22
    for keyword, number, text in bits.infobits_cards():
        value, _, comment = cards[keyword]
        assert int(value) == number
        assert comment.strip() == text


def test_a_good_image_has_no_bit() -> None:
    assert set(GOOD) == {rule.metric for rule in bits.INFOBITS}
    for fid in (1, 2, 3):
        assert bits.evaluate(GOOD, fid) == (0, 1, [])


@pytest.mark.parametrize("rule", bits.INFOBITS, ids=lambda rule: f"bit{rule.bit:02d}")
def test_each_rule_breaks_just_beyond_its_limit_and_not_at_it(rule: bits.InfoBit) -> None:
    if rule.comparison == "not":
        edge, beyond = 1.0, 0.0
    elif isinstance(rule.limit, tuple):
        edge, beyond = rule.limit[1], rule.limit[1] + 1e-6
    else:
        assert rule.limit is not None
        edge, beyond = rule.limit, rule.limit + (1e-6 if rule.comparison == ">" else -1e-6)
    assert bits.evaluate({**GOOD, rule.metric: edge}, 1)[0] == 0
    infobits, status, reasons = bits.evaluate({**GOOD, rule.metric: beyond}, 1)
    assert infobits == 1 << rule.bit
    assert status == (0 if rule.fatal else 1)
    assert reasons[0].startswith(f"bit {rule.bit}: {rule.text}")


def test_nan_breaks_and_absence_does_not() -> None:
    assert bits.evaluate({**GOOD, "seeing_arcsec": math.nan}, 1)[0] == 1 << 3
    assert bits.evaluate({**GOOD, "photcal_possible": math.nan}, 1)[1] == 0
    assert bits.evaluate({}, 1) == (0, 1, [])


def test_numbers_of_objects_are_judged_per_area() -> None:
    small = {**GOOD, "n_astrom_matches": 40, "n_photcal_matches": 40}
    assert bits.evaluate(small, 1)[0] == 1 << 14
    assert bits.evaluate(small, 1, area_fraction=256 * 264 / (3072 * 3080))[0] == 0


def test_a_filter_may_have_its_own_limit() -> None:
    rule = bits.InfoBit(0, "x", ">", 4.0, "X", by_filter={3: 9.0})
    assert rule.violated(5.0, 1)
    assert not rule.violated(5.0, 3)


def test_cloudy_images() -> None:
    assert not bits.cloudy(1, 26.2, 1.2, 0.03, 400)
    assert bits.cloudy(1, 26.5, 1.2, 0.03, 400)
    assert bits.cloudy(1, 26.2, 1.2, 0.061, 400)
    assert bits.cloudy(2, 26.2, 1.2, 0.03, 119)
    assert not bits.cloudy(2, 26.2, 1.2, 0.03, 120)
    assert bits.cloudy(1, 24.0, 1.2, 0.03, 400, zp_min=25.9)
    assert not bits.cloudy(1, 24.0, 1.2, 0.03, 400)


def test_the_manual_says_the_same() -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text()
    for bit in bits.MASK_BITS:
        assert f"| {bit.bit} | {bit.value} | `{bit.name}` | {bit.meaning} |" in manual
    for rule in bits.INFOBITS:
        assert f"| {rule.bit} | `{rule.metric}` | {rule.text} | {'yes' if rule.fatal else ''} |" in manual
