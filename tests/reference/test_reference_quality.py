"""Limits as data, the metrics of a co-add, and what the rejection by blocks takes out and leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import analytic_sky as sky
import numpy as np
import pytest
from test_reference_run import CONFIG, SHAPE, exposures

from ztfds.config.difference import ReferenceConfig
from ztfds.reference import quality
from ztfds.reference.agreement import compare_frames
from ztfds.reference.coadd import combine
from ztfds.reference.products import ReferenceInput, ReferenceProducts
from ztfds.reference.quality import METRICS, completeness, judge, spikes
from ztfds.reference.run import run
from ztfds.survey import limits
from ztfds.survey.limits import Limit, limits_digest, limits_version, reference_limits


@pytest.fixture(scope="module")
def truth() -> sky.Truth:
    return sky.make_truth(np.random.default_rng(21), SHAPE, 250)


@pytest.fixture(scope="module")
def reference(truth: sky.Truth) -> ReferenceProducts:
    return run(exposures(np.random.default_rng(22), truth), CONFIG)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_rule_judges_a_metric_that_exists_and_says_why_it_is_there() -> None:
    for rule in reference_limits("quality"):
        assert rule.name in METRICS and 0 <= rule.bit < 32
    for rule in (*reference_limits("input"), *reference_limits("quality")):
        assert rule.words and rule.source and math.isfinite(rule.limit)
    assert len(METRICS) >= 20 and all(meaning for _, meaning in METRICS.values())


def test_versions_overrides_areas_and_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Limit("quality", "fwhm_px", ">", 4.0, math.nan, 2, True, False, "px", "the FWHM", "x", 1)
    newer, area = replace(base, limit=3.0, version=2), replace(base, name="nsources", limit=50.0, per_area=True)
    monkeypatch.setattr(limits, "_table", lambda: (base, area, newer))
    assert limits_version() == 2
    assert [r.limit for r in reference_limits("quality", 1)] == [4.0, 50.0]
    assert [r.limit for r in reference_limits("quality")] == [3.0, 50.0]
    assert [r.limit for r in reference_limits("quality", 2, {"nsources": 8.0}, 0.5)] == [3.0, 4.0]
    assert limits_digest(1) != limits_digest(2) and len(limits_digest()) == 16


def test_the_rules_are_in_the_provenance() -> None:
    config = ReferenceConfig()
    assert config.limits_version == limits_version()
    assert config.critical_hash() != config.model_copy(update={"limits_digest": "another"}).critical_hash()
    assert config.critical_hash() == config.model_copy(update={"better_by": 2.0}).critical_hash()


@pytest.mark.parametrize(
    ("comparison", "limit", "upper", "value", "broken", "words"),
    [
        (">", 4.0, math.nan, 5.1, True, "the FWHM is 5.1 px, above the limit of 4 px"),
        ("<", 4.0, math.nan, 3.0, True, "the FWHM is 3 px, below the limit of 4 px"),
        ("outside", 1.0, 2.0, 3.0, True, "the FWHM is 3 px, outside 1 to 2 px"),
        ("outside", 1.0, 2.0, 1.5, False, ""),
        (">", 4.0, math.nan, math.nan, False, ""),
    ],
)
def test_a_limit_in_words(comparison: str, limit: float, upper: float, value: float, broken: bool, words: str) -> None:
    rule = Limit("quality", "fwhm_px", comparison, limit, upper, 2, True, False, "px", "the FWHM", "x", 1)
    assert rule.broken(value) is broken
    if broken:
        assert rule.explained(value) == words


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_of_a_good_co_add(reference: ReferenceProducts) -> None:
    qa = reference.qa
    assert set(qa) == set(METRICS)
    assert reference.status == 1 and reference.reason == ""
    assert qa["coverage_p5"] >= 5 and qa["hole_fraction"] < 0.01
    assert 0.85 < qa["noise_ratio"] < 1.3 and qa["sky_residual"] < 0.5
    assert qa["core_coverage"] > 0.95 and qa["rejected_worst"] < 0.05
    assert qa["stars_compared"] >= 5
    assert qa["zeropoint_scatter_mag"] < 0.01 and qa["astrometric_scatter_arcsec"] < 0.05
    assert 0.95 < qa["fwhm_ratio"] < 1.1 and qa["elongation"] < 1.1 and qa["fwhm_variation"] < 0.1
    assert qa["spikes_per_mpx"] < 60 and not qa["asymmetry"] > 0.05  # too few stars near a pixel's centre: not known


def test_a_wrong_zero_point_and_a_shifted_image_are_seen(truth: sky.Truth) -> None:
    inputs = exposures(np.random.default_rng(23), truth, 8, hits=0)
    inputs[2].header["MAGZP"] += 0.3
    inputs[5].header["CRPIX1"] += 0.8
    out = run(inputs, CONFIG)
    assert out.qa["zeropoint_worst_mag"] == pytest.approx(0.3, abs=0.05)
    assert out.qa["astrometric_worst_arcsec"] == pytest.approx(0.8 * 1.012, abs=0.25)
    assert out.infobits & (1 << 5) and out.infobits & (1 << 6)
    words = " ".join(out.reasons)
    assert "brightness of the stars of one input" in words and "shift of one input" in words
    assert out.header["REFBITS"] == out.infobits and "shift of one input" in str(out.header["COMMENT"])


def test_remarks_leave_it_usable_and_fatal_ones_come_first() -> None:
    shape = (3080, 3072)
    good = dict.fromkeys(METRICS, math.nan) | {"psf_possible": 1.0, "nsources": 900.0, "fwhm_px": 2.2}
    assert judge(good, shape, ReferenceConfig()).reasons == ()
    remarked = judge({**good, "elongation": 1.7}, shape, ReferenceConfig())
    assert remarked.status == 1 and remarked.reason == "" and "elongation" in remarked.reasons[0]
    bad = judge({**good, "elongation": 1.7, "fwhm_px": 5.0}, shape, ReferenceConfig())
    assert bad.status == 0 and "FWHM" in bad.reason and "FWHM" in bad.reasons[0] and len(bad.reasons) == 2
    assert judge({**good, "nsources": 49.0}, shape, ReferenceConfig()).status == 0
    assert judge({**good, "nsources": 49.0}, (1540, 1536), ReferenceConfig()).status == 1


def test_spikes_are_no_stars(rng: np.random.Generator) -> None:
    image = rng.normal(0, 1, (100, 100)).astype(np.float32)
    y, x = np.mgrid[:100, :100]
    image += (500 * np.exp(-((x - 30.2) ** 2 + (y - 40.4) ** 2) / (2 * 0.75**2))).astype(np.float32)
    assert spikes(image, 1.0) == 0
    image[70, 70], image[20, 80] = 60, -50
    assert spikes(image, 1.0) == 2


def test_completeness_is_where_counts_fall(rng: np.random.Generator) -> None:
    magnitudes = 21.5 + np.log10(rng.random(400_000)) / 0.3  # counts rise by a factor of two per mag
    kept = magnitudes[rng.random(magnitudes.size) < 1 / (1 + np.exp((magnitudes - 20.0) / 0.1))]
    assert completeness(kept) == pytest.approx(20.0, abs=0.26)
    assert math.isnan(completeness(magnitudes[:50]))


# -- rejection ---------------------------------------------------------------------------------------------------------


def test_a_faint_trail_and_a_ghost_that_no_mask_has_are_taken_out(rng: np.random.Generator) -> None:
    """1.5 sigma a pixel: no single pixel tells; without the blocks it stays in the mean."""
    n, shape = 9, (256, 256)
    variances, gains = np.full(n, 25.0), np.full(n, 6.2)
    clean = rng.normal(0, 5, (n, *shape)).astype(np.float32)
    y, x = np.mgrid[:256, :256]
    trail = 7.5 * np.exp(-0.5 * ((x - 0.6 * y - 40) / 1.6) ** 2)
    ghost = 6.0 * (np.hypot(x - 190, y - 70) < 40)
    dirty = clean.copy()
    dirty[3] += trail
    dirty[6] += ghost
    config = ReferenceConfig()
    ideal = combine(clean.copy(), variances, gains, config)
    made = combine(dirty.copy(), variances, gains, config)
    left = combine(dirty.copy(), variances, gains, config.model_copy(update={"block_px": 0}))
    inside = {"trail": trail > 4, "ghost": ghost > 0}
    for where in inside.values():
        assert np.mean((left.pixels - ideal.pixels)[where]) > 0.4
        assert abs(np.mean((made.pixels - ideal.pixels)[where])) < 0.2
    assert ideal.in_blocks < 1e-4 and 0.002 < made.in_blocks < 0.02
    assert made.rejected[3] > 0.005 and made.rejected[6] > 0.02 and made.rejected[0] < 0.002


def test_seeing_is_no_reason_to_reject_blocks_on_stars(truth: sky.Truth) -> None:
    out = run(exposures(np.random.default_rng(24), truth, 10, hits=0), CONFIG)
    assert out.qa["rejected_in_blocks"] < 1e-3
    assert out.qa["core_coverage"] > 0.97
    assert out.qa["source_ratio"] > 1.05  # no radiation hits here, which a single frame shows as peaks


def test_what_varies_in_many_frames_stays(rng: np.random.Generator) -> None:
    """Half of the frames differ: that is the sky, not an accident."""
    stack = rng.normal(0, 5, (10, 64, 64)).astype(np.float32)
    stack[:5, 20:40, 20:40] += 8
    made = combine(stack, np.full(10, 25.0), np.full(10, 6.2), ReferenceConfig())
    assert made.in_blocks < 1e-3 and (made.coverage[20:40, 20:40] > 8).mean() > 0.99


def test_no_stars_no_comparison(rng: np.random.Generator) -> None:
    stack = rng.normal(0, 1, (6, 64, 64)).astype(np.float32)
    found = compare_frames(stack, stack.mean(axis=0), 1 / 6)
    assert found.stars == 0 and np.isnan(found.magnitudes).all() and math.isnan(found.asymmetry)


def test_an_input_of_noise_alone_does_not_stop_the_verdict(truth: sky.Truth) -> None:
    inputs = exposures(np.random.default_rng(25), truth, 6, hits=0)
    noise = np.random.default_rng(26).normal(100, 5, SHAPE).astype(np.float32)
    inputs[0] = ReferenceInput(noise, inputs[0].mask, inputs[0].header)
    out = run(inputs, CONFIG)
    assert set(out.qa) == set(quality.METRICS) and out.qa["rejected_worst"] > out.qa["rejected_fraction"]
