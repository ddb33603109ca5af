"""The whole differencing step on analytic skies: completeness, both signs, noise, registration, masks, verdicts."""

from __future__ import annotations

from dataclasses import replace

import analytic_sky as sky
import numpy as np
import pytest

from ztfds.config.difference import CandidateConfig, DifferenceConfig
from ztfds.difference.candidates import DTYPE, passes_trigger
from ztfds.difference.products import DifferenceInputs, DifferenceProducts
from ztfds.difference.run import run
from ztfds.survey import bits, ids

CONFIG = DifferenceConfig.tiny()


def subtract(scene: sky.Scene, config: DifferenceConfig = CONFIG) -> DifferenceProducts:
    return run(DifferenceInputs(scene.science, scene.reference, *sky.empty_catalogs()), config)


def matched(out: DifferenceProducts, truth: sky.Truth) -> np.ndarray:
    """Row of the candidate of each transient, -1 where there is none of its sign within 1.5 px."""
    found = np.full(truth.tx.size, -1)
    for k, (x, y, f) in enumerate(zip(truth.tx, truth.ty, truth.tflux, strict=True)):
        distance = np.hypot(out.candidates["x"] - x, out.candidates["y"] - y)
        distance[np.sign(out.candidates["flux"]) != np.sign(f)] = 99
        if distance.size and distance.min() < 1.5:
            found[k] = int(distance.argmin())
    return found


@pytest.mark.parametrize(("fwhm_new", "fwhm_ref", "seed"), [(2.4, 2.1, 1), (2.0, 2.4, 2), (3.2, 2.2, 3), (2.3, 2.3, 4)])
def test_transients_of_both_signs_are_recovered(fwhm_new: float, fwhm_ref: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = sky.make_truth(rng, (264, 256), 250, 36, snr=12.0)
    scene = sky.make_scene(rng, truth, psf_new=sky.MoffatPsf(fwhm_new), psf_ref=sky.MoffatPsf(fwhm_ref))
    out = subtract(scene)
    assert out.status == 1
    assert out.reason == ""
    found = matched(out, truth)
    assert (found >= 0).mean() >= 0.95
    assert len(out.candidates) - (found >= 0).sum() <= 3
    assert out.qa["scorr_width_raw"] == pytest.approx(1.0, abs=0.05)
    assert out.qa["scorr_width"] == pytest.approx(1.0, abs=0.02)
    rows = out.candidates[found[found >= 0]]
    pulls = (rows["flux"] - truth.tflux[found >= 0]) / rows["fluxunc"]
    assert abs(np.mean(pulls * np.sign(rows["flux"]))) < 0.6
    assert np.std(pulls) < 1.35
    assert np.median(np.hypot(rows["x"] - truth.tx[found >= 0], rows["y"] - truth.ty[found >= 0])) < 0.35
    assert np.median(rows["chipsf"]) == pytest.approx(1.0, abs=0.25)
    assert np.mean([passes_trigger(row, CONFIG.candidates) for row in rows]) > 0.6


def test_columns_make_sense(rng: np.random.Generator) -> None:
    truth = sky.make_truth(rng, (264, 256), 200, 16, snr=40.0)
    scene = sky.make_scene(rng, truth)
    out = subtract(scene)
    table = out.candidates
    found = matched(out, truth)
    assert (found >= 0).all()
    rows = table[found]
    mag = sky.MAGZP - 2.5 * np.log10(np.abs(truth.tflux))
    np.testing.assert_allclose(rows["magpsf"], mag, atol=0.15)
    assert np.median(np.abs(rows["magap"] - mag)) < 0.1
    assert np.median(np.abs(rows["magapbig"] - mag)) < 0.12
    np.testing.assert_allclose(rows["magdiff"], rows["magap"] - rows["magpsf"], atol=1e-5)
    np.testing.assert_allclose(rows["magfromlim"], rows["diffmaglim"] - rows["magap"], atol=1e-5)
    np.testing.assert_allclose(rows["elong"], rows["aimage"] / rows["bimage"], rtol=1e-5)
    np.testing.assert_allclose(rows["seeratio"] * rows["fwhm"], out.qa["diff_fwhm_px"], rtol=1e-5)
    np.testing.assert_allclose(rows["dsdiff"], rows["dsnrms"] - rows["ssnrms"], atol=1e-4)
    assert set(rows["isdiffpos"][truth.tflux > 0]) == {"t"}
    assert set(rows["isdiffpos"][truth.tflux < 0]) == {"f"}
    assert (rows["sumrat"] > 0.9).mean() > 0.9
    assert np.median(rows["nneg"]) <= 3
    assert (rows["nbad"] == 0).mean() > 0.9
    assert np.median(rows["rb"]) > 0.8
    assert (rows["classtar"] > 0.5).all()
    assert np.median(rows["fwhm"]) == pytest.approx(out.qa["diff_fwhm_px"], rel=0.15)
    wcs = sky.tan_wcs((264, 256))
    ra, dec = wcs.all_pix2world(rows["x"], rows["y"], 0)
    np.testing.assert_allclose(rows["ra"], ra, atol=1e-9)
    np.testing.assert_allclose(rows["dec"], dec, atol=1e-9)
    assert list(table["tblid"]) == list(range(len(table)))
    assert set(table["pid"]) == {ids.pid(2458559.8, 30)}
    assert set(table["rfid"]) == {ids.rfid(712, 2, 30)}
    assert set(table["nframesref"]) == {12}
    assert (rows["scorr"] > 15).all()
    # the limit is that of the flux errors on blank sky
    limit = sky.MAGZP - 2.5 * np.log10(5 * rows["fluxunc"])
    assert np.median(limit - rows["diffmaglim"]) == pytest.approx(0, abs=0.1)


def test_every_column_of_the_table_is_filled_or_null(rng: np.random.Generator) -> None:
    truth = sky.make_truth(rng, (264, 256), 150, 9, snr=30.0)
    out = subtract(sky.make_scene(rng, truth))
    for name in ("magpsf", "magap", "fwhm", "ra", "distnr", "magnr", "jd", "exptime", "magzpsci", "clrcoeff"):
        assert np.isfinite(out.candidates[name]).all(), name
    assert out.candidates.dtype == DTYPE
    assert np.isnan(out.candidates["drb"]).all()
    assert set(out.candidates["drbversion"]) == {"none"}
    assert set(out.candidates["rbversion"]) == {"rules_1"}
    assert (out.candidates["nmtchps"] == 0).all()
    assert (out.candidates["neargaia"] == -999).all()


def test_cutouts_show_the_candidate(rng: np.random.Generator) -> None:
    truth = sky.make_truth(rng, (264, 256), 60, 16, snr=60.0)
    out = subtract(sky.make_scene(rng, truth))
    found = matched(out, truth)
    assert (found >= 0).all()
    for row in out.candidates[found]:
        science, template, diff = out.cutouts[int(row["tblid"])]
        assert science.shape == template.shape == diff.shape == (63, 63)
        assert science.dtype == template.dtype == diff.dtype == np.float32
        peak = np.unravel_index(np.nanargmax(diff[26:37, 26:37]), (11, 11))
        assert abs(peak[0] - 5) <= 1
        assert abs(peak[1] - 5) <= 1
        assert np.isnan(diff).any() or row["mindtoedge"] > 31
        assert not (np.isnan(diff).any() and row["mindtoedge"] > 37)
        brighter = np.nanmax(science[29:34, 29:34]) - np.nanmax(template[29:34, 29:34])
        assert (brighter > 0) == (row["isdiffpos"] == "t")
        assert np.nanmedian(template) == pytest.approx(sky.SKY, abs=6)
        assert np.nanmedian(science) == pytest.approx(sky.SKY, abs=6)


def test_blank_difference_is_white_noise_of_the_right_size(rng: np.random.Generator) -> None:
    scene = sky.make_scene(rng, sky.make_truth(rng, (264, 256), 80))
    out = subtract(scene)
    inner = np.abs(out.pixels - np.nanmedian(out.pixels)) < 25
    inner &= np.isfinite(out.pixels)
    values = np.where(inner, out.pixels, 0)[40:-40, 40:-40]
    assert out.qa["diff_sigma_ratio"] == pytest.approx(1.0, abs=0.05)
    correlation = np.mean(values[:, 1:] * values[:, :-1]) / np.mean(values**2)
    assert abs(correlation) < 0.06


def test_wrong_astrometry_is_measured_and_repaired() -> None:
    rng = np.random.default_rng(3)
    truth = sky.make_truth(rng, (264, 256), 300, 25, snr=15.0)
    scene = sky.make_scene(rng, truth, wrong_shift=(0.22, -0.15))
    out = subtract(scene)
    assert out.qa["warp_px"] == pytest.approx(np.hypot(0.22, 0.15), abs=0.05)
    assert abs(out.qa["dx_median_px"]) < 0.05
    found = matched(out, replace(truth, tx=truth.tx + 0.22, ty=truth.ty - 0.15))
    assert (found >= 0).mean() >= 0.95
    assert len(out.candidates) - (found >= 0).sum() <= 3


def test_gain_comes_from_the_stars(rng: np.random.Generator) -> None:
    truth = sky.make_truth(rng, (264, 256), 300)
    scene = sky.make_scene(rng, truth, gain_ratio=0.8)
    scene.reference.header["MAGZP"] += 0.1  # a wrong zero point does not disturb it
    out = subtract(scene)
    assert out.qa["gain"] == pytest.approx(0.8, rel=0.012)
    assert out.qa["expected_gain"] == pytest.approx(0.8 * 10**-0.04, rel=1e-3)
    assert out.qa["n_matches"] >= 8


def test_few_stars_take_the_zero_points(rng: np.random.Generator) -> None:
    scene = sky.make_scene(rng, sky.make_truth(rng, (264, 256), 20, 4, snr=30.0))
    out = subtract(scene, CONFIG.model_copy(update={"star_snr": 1e6}))
    assert out.qa["n_matches"] == 0
    assert out.qa["gain"] == pytest.approx(0.9, rel=1e-3)
    assert out.qa["dx_rms_px"] == CONFIG.default_registration_px
    assert out.status == 1
    assert (matched(out, scene.truth) >= 0).all()


def test_bad_pixels_make_no_candidates(rng: np.random.Generator) -> None:
    scene = sky.make_scene(rng, sky.make_truth(rng, (264, 256), 150))
    pixels, mask = scene.science.pixels, scene.science.mask
    j, i = rng.integers(10, 250, 60), rng.integers(10, 245, 60)
    pixels[j, i], mask[j, i] = 30000, bits.SPIKE
    pixels[:, 55], mask[:, 55] = -500, bits.DEAD
    pixels[100:103], mask[100:103] = np.nan, bits.NAN
    j, i = j[(j < 97) | (j > 105)], i[(j < 97) | (j > 105)]
    scene.reference.pixels[40:44, 60:64] = np.nan
    scene.reference.mask[200, 100], scene.reference.pixels[200, 100] = bits.SATURATED, 40000
    out = subtract(scene)
    assert out.status == 1
    assert len(out.candidates) <= 3
    assert np.isnan(out.scorr[100:103]).all()
    assert ((out.mask[j, i] & bits.SPIKE) != 0).all()
    assert ((out.mask[j + 1, i] & bits.BAD_TEMPLATE) != 0).all()
    assert np.nanmax(np.abs(out.pixels[np.clip(j - 3, 0, 263), i])) < 500


def test_transient_next_to_a_bad_pixel_counts_it(rng: np.random.Generator) -> None:
    truth = sky.make_truth(rng, (264, 256), 100, 9, snr=60.0)
    scene = sky.make_scene(rng, truth)
    y, x = round(truth.ty[0]), round(truth.tx[0])
    scene.science.mask[y + 2, x + 1] |= bits.NOISY | bits.GHOST
    out = subtract(scene)
    k = matched(out, truth)[0]
    assert k >= 0
    assert out.candidates["nbad"][k] >= 1


def test_a_dead_pixel_next_to_a_transient_does_not_hide_it(rng: np.random.Generator) -> None:
    truth = sky.make_truth(rng, (264, 256), 100, 16, snr=25.0)
    scene = sky.make_scene(rng, truth)
    for x, y in zip(truth.tx, truth.ty, strict=True):
        at = round(y), round(x) + 1
        scene.science.mask[at], scene.science.pixels[at] = bits.DEAD, 0.0
    out = subtract(scene)
    found = matched(out, truth)
    assert (found >= 0).mean() > 0.9
    assert np.median(out.candidates["nbad"][found[found >= 0]]) == 1


def test_no_reference_there_means_no_difference_there(rng: np.random.Generator) -> None:
    scene = sky.make_scene(rng, sky.make_truth(rng, (264, 256), 200), shift=(60.0, 0.0, 0.0))
    out = subtract(scene)
    empty = np.isnan(out.pixels)
    assert empty.mean() == pytest.approx(60 / 256, abs=0.02)
    assert ((out.mask[empty] & bits.NAN) != 0).all()
    assert out.status == 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"max_bad_fraction": 0.001}, "unusable"),
        ({"max_scorr_width": 0.86}, "width"),
        ({"gain_tolerance_mag": 1e-6}, "flux scale"),
        ({"candidates": CandidateConfig(threshold=0.5, raw_threshold=0.5, max_candidates=20)}, "too many"),
    ],
)
def test_bad_difference_has_a_reason_and_no_candidates(
    rng: np.random.Generator, changes: dict[str, object], word: str
) -> None:
    scene = sky.make_scene(rng, sky.make_truth(rng, (264, 256), 150, 16, snr=30.0))
    out = subtract(scene, CONFIG.model_copy(update=changes))
    assert out.status == 0
    assert word in out.reason
    assert len(out.candidates) == 0
    assert out.cutouts == {}
    assert out.header["DIFSTAT"] == 0


def test_same_inputs_same_result(rng: np.random.Generator) -> None:
    scene = sky.make_scene(rng, sky.make_truth(rng, (264, 256), 150, 9, snr=20.0))
    before = scene.science.pixels.copy(), scene.reference.pixels.copy(), scene.science.mask.copy()
    one, two = subtract(scene), subtract(scene)
    np.testing.assert_array_equal(one.pixels, two.pixels)
    np.testing.assert_array_equal(one.candidates["flux"], two.candidates["flux"])
    np.testing.assert_array_equal(before[0], scene.science.pixels)
    np.testing.assert_array_equal(before[1], scene.reference.pixels)
    np.testing.assert_array_equal(before[2], scene.science.mask)


def test_local_psfs_in_tiles() -> None:
    """A PSF that changes by a quarter over the image is followed by tiles and not by one PSF."""
    rng = np.random.default_rng(8)
    shape = (400, 500)
    truth = sky.make_truth(rng, shape, 600, 25, snr=15.0)
    scene = sky.make_scene(rng, truth, shape, psf_new=sky.MoffatPsf(2.3, growth=0.5))
    tiled = subtract(scene, CONFIG.model_copy(update={"tile_px": 130}))
    assert (matched(tiled, truth) >= 0).mean() >= 0.95
    assert tiled.qa["scorr_width_raw"] == pytest.approx(1.0, abs=0.05)
    single = subtract(scene, CONFIG.model_copy(update={"tile_px": 1000}))
    assert tiled.qa["psf_error"] < single.qa["psf_error"]
