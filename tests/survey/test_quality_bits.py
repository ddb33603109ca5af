"""Mask bits and INFOBITS."""

from __future__ import annotations

import math
from operator import attrgetter
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


CLEAR = {
    "zp_clear_mag": 26.4, "zp_rms_mag": 0.03, "n_photcal_matches": 400, "clrcoeff_doubt": -0.1,
    "crowded_calibrators_percent": 10.0, "patchy_mag": 0.0, "injected_recovered_percent": 80.0,
}  # fmt: skip


def test_bits_of_the_database_are_judged_by_published_limits() -> None:
    """The cautionary notes' cuts: zero point against airmass, scatter, number of calibrators; per filter."""
    assert set(CLEAR) == {rule.metric for rule in bits.DATABASE_BITS}
    assert bits.flags(CLEAR, 1) == (0, [])
    assert bits.CLOUDY_LIMITS[1] == bits.CloudyLimits(26.7, 0.20, 0.06, 80)
    assert bits.CLOUDY_LIMITS[2] == bits.CloudyLimits(26.65, 0.15, 0.05, 120)
    assert bits.CLOUDY_LIMITS[3] == bits.CloudyLimits(26.0, 0.07, 0.06, 100)
    for metric, value, fid, bit in (
        ("zp_clear_mag", 26.71, 1, bits.CLOUDY), ("zp_clear_mag", 26.0, 1, bits.CLOUDY), ("zp_rms_mag", 0.061, 1, bits.CLOUDY),
        ("zp_rms_mag", 0.051, 2, bits.CLOUDY), ("n_photcal_matches", 119, 2, bits.CLOUDY),
        ("clrcoeff_doubt", 0.3, 1, bits.WRONG_FILTER), ("clrcoeff_doubt", -0.2, 2, bits.WRONG_FILTER),
        ("crowded_calibrators_percent", 51.0, 3, bits.CROWDED), ("patchy_mag", 0.06, 3, bits.PATCHY),
        ("injected_recovered_percent", 20.0, 1, bits.SHALLOW),
    ):  # fmt: skip
        good = CLEAR if fid != 3 else {**CLEAR, "zp_clear_mag": 25.8}
        found, reasons = bits.flags({**good, metric: value}, fid)
        assert found == bit and len(reasons) == 1 and f"{value:.6g}" in reasons[0]
    assert bits.flags({**CLEAR, "zp_rms_mag": 0.059}, 1)[0] == 0
    assert bits.flags({**CLEAR, "n_photcal_matches": 10}, 2, area_fraction=0.05)[0] == 0


def test_bits_of_the_database_never_reach_headers() -> None:
    assert {rule.bit for rule in bits.DATABASE_BITS} == {25, 26, 27, 28, 29}
    assert not {rule.bit for rule in bits.INFOBITS} & {rule.bit for rule in bits.DATABASE_BITS}
    assert len(bits.infobits_cards()) == 22
    assert not any(rule.fatal for rule in bits.DATABASE_BITS)


def test_rules_have_versions_and_nights() -> None:
    old = bits.InfoBit(0, "x", ">", 4.0, "X", version=1, valid_from="2018-03-17")
    new = bits.InfoBit(0, "x", ">", 5.0, "X", version=2, valid_from="2020-01-01")
    key = attrgetter("bit")
    other = bits.InfoBit(1, "y", "<", 1.0, "Y", version=1, valid_from="2018-03-17")
    assert sorted(bits.valid_rules([old, new, other], "2019-06-01"), key=key) == [old, other]
    assert sorted(bits.valid_rules([new, old, other], "2020-01-01"), key=key) == [new, other]
    assert sorted(bits.valid_rules([old, new, other], None), key=key) == [new, other]
    assert bits.valid_rules([old, new], "2010-01-01") == (old,)
    assert bits.rules_version() >= 1
    assert all(rule.words and rule.valid_from and rule.source for rule in bits.rules_of())


def test_bits_are_explained_in_words() -> None:
    infobits, _, reasons = bits.evaluate({**GOOD, "seeing_arcsec": 6.1, "photcal_possible": 0}, 1)
    assert reasons[0] == (
        'bit 3: IMAGE SEEING (FWHM) is > 5.0": the seeing (FWHM) is 6.1 arcsec, above the limit of 5 arcsec'
    )
    assert bits.explain(infobits) == [
        "bit 3: the seeing (FWHM) is above the limit of 5 arcsec.",
        "bit 8: there is no zero point; the image is not usable.",
    ]
    assert "could not be measured" in bits.explain(1 << 3, {"seeing_arcsec": math.nan})[0]
    assert bits.explain(1 << 16, {"pixel_scale_change_percent": 3.0}) == [
        "bit 16: the change of the pixel scale is 3 %, outside -0.2 to 2 %."
    ]
    cloudy = bits.explain(bits.CLOUDY, CLEAR | {"zp_rms_mag": 0.2})
    assert cloudy == [
        "bit 25: the scatter of the calibrators about the zero point is 0.2 mag, above the limit of 0.06 mag."
    ]
    assert bits.explain(1 << 30) == ["bit 30: no rule is known for it."]
    assert bits.explain(0) == []


def test_the_manual_says_the_same() -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text()
    for bit in bits.MASK_BITS:
        assert f"| {bit.bit} | {bit.value} | `{bit.name}` | {bit.meaning} |" in manual
    for rule in bits.INFOBITS:
        assert f"| {rule.bit} | `{rule.metric}` | {rule.text} | {'yes' if rule.fatal else ''} |" in manual
