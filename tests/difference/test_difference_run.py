"""The whole differencing step on analytic skies: completeness, both signs, noise, registration, masks, verdicts."""

from __future__ import annotations

from dataclasses import replace

import analytic_sky as sky
import numpy as np
import pytest

from ztfds.config.difference import CandidateConfig, DifferenceConfig
from ztfds.difference.candidates import DTYPE, passes_trigger
from ztfds.difference.products import DifferenceInputs, DifferenceProducts
from ztfds.difference.quality import asymmetry
from ztfds.difference.run import run
from ztfds.difference.score import read_card
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
    assert np.median(rows["drb"]) > 0.8
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
    # the limit is that of the flux errors on blank sky: of sources that are gone; those that are there add their photons' noise
    limit, gone = sky.MAGZP - 2.5 * np.log10(5 * rows["fluxunc"]) - rows["diffmaglim"], truth.tflux < 0
    assert np.median(limit[gone]) == pytest.approx(0, abs=0.06)
    assert -0.4 < np.median(limit[~gone]) < -0.05


def test_every_column_of_the_table_is_filled_or_null(rng: np.random.Generator) -> None:
    truth = sky.make_truth(rng, (264, 256), 150, 9, snr=30.0)
    out = subtract(sky.make_scene(rng, truth))
    for name in ("magpsf", "magap", "fwhm", "ra", "distnr", "magnr", "jd", "exptime", "magzpsci", "clrcoeff"):
        assert np.isfinite(out.candidates[name]).all(), name
    assert out.candidates.dtype == DTYPE
    card = read_card()
    for name in ("rb", "drb"):
        assert ((out.candidates[name] >= 0) & (out.candidates[name] <= 1)).all()
        assert set(out.candidates[f"{name}version"]) == {card[name]["version"]}
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


def test_a_transient_in_a_ghost_or_halo_is_a_candidate_without_bad_pixels(rng: np.random.Generator) -> None:
    truth = sky.make_truth(rng, (264, 256), 100, 9, snr=60.0)
    scene = sky.make_scene(rng, truth)
    scene.science.mask[:, :128] |= bits.GHOST | bits.HALO
    scene.reference.mask[:, :128] |= bits.HALO
    out = subtract(scene)
    found = matched(out, truth)
    assert out.status == 1, out.reason
    assert (found >= 0).all()
    assert (out.candidates["nbad"][found] == 0).all()
    assert all(passes_trigger(row, CONFIG.candidates) for row in out.candidates[found])
    assert (out.mask[:, 20:100] & bits.GHOST != 0).all()  # the mask still says so


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
    one = subtract(scene)
    for size in 2 ** np.arange(
        4, 22
    ):  # memory that is freed here holds no numbers; what is given out again must not be read
        np.full(size, np.nan, np.float32)
    two = subtract(scene)
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


def test_magnitudes_are_of_the_whole_light() -> None:
    """A star has 1 % of its light beyond the stamp of the PSF; zero points count it, and so do magpsf and the exported PSF."""
    rng = np.random.default_rng(5)
    psf = sky.MoffatPsf(2.4, beta=2.1)
    truth = sky.make_truth(rng, (264, 256), 60, 36, snr=200.0)
    out = subtract(sky.make_scene(rng, truth, psf_new=psf, psf_ref=sky.MoffatPsf(2.2, beta=2.1)))
    assert 0.008 < psf.outside < 0.02
    found = matched(out, truth)
    positive = (found >= 0) & (truth.tflux > 0)
    rows = out.candidates[found[positive]]
    error = rows["magpsf"] - (sky.MAGZP - 2.5 * np.log10(truth.tflux[positive]))
    assert positive.sum() >= 16
    assert abs(np.mean(error)) < 3e-3 + 2 * np.mean(rows["sigmapsf"]) / np.sqrt(positive.sum())
    assert out.psf.sum() == pytest.approx(1 / (1 + psf.outside), abs=1e-4)


def spoiled(scene: sky.Scene, how: str) -> sky.Scene:
    """A scene in which something went wrong upstream."""
    science, reference, rng = scene.science, scene.reference, np.random.default_rng(3)
    if how == "wrong PSF":
        return replace(scene, science=replace(science, psf=sky.MoffatPsf(1.3 * science.psf.fwhm_px)))
    if how == "wrong flux scale":
        light = science.pixels - sky.SKY
        return replace(scene, science=replace(science, pixels=(sky.SKY + 1.3 * light).astype(np.float32)))
    if how == "wrong noise":
        noisy = science.pixels + rng.normal(0, 1.2 * science.background.rms_dn, science.pixels.shape)
        return replace(scene, science=replace(science, pixels=noisy.astype(np.float32)))
    flipped = {name: getattr(reference, name)[::-1].copy() for name in ("pixels", "uncertainty", "mask")}
    return replace(scene, reference=replace(reference, **flipped))


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("wrong PSF", "wrong PSF"),
        ("wrong flux scale", "flux scale off"),
        ("wrong noise", "width of the score on blank sky"),
        ("wrong reference", "not the same sky"),
    ],
)
def test_spoiled_pairs_are_refused_with_the_cause_first(how: str, word: str) -> None:
    rng = np.random.default_rng(21)
    scene = sky.make_scene(rng, sky.make_truth(rng, (264, 256), 600, 16, snr=30.0))
    good = subtract(scene)
    assert good.status == 1, good.reason
    assert good.qa["star_residual"] < 0.5 * CONFIG.max_star_residual
    out = subtract(spoiled(scene, how))
    assert out.status == 0
    assert out.reason.startswith(word) or word in out.reason.split("; ")[:2][-1]
    assert "\n" not in out.reason
    assert len(out.candidates) == 0
    assert out.header["DIFLIMV"] == CONFIG.limits_version


def test_a_shift_by_a_pixel_is_refused_and_a_realistic_one_is_not() -> None:
    rng = np.random.default_rng(22)
    truth = sky.make_truth(rng, (264, 256), 500)
    false = []
    for shift in (0.0, 0.1, 0.2, 0.3):
        scene = sky.make_scene(np.random.default_rng(5), truth, wrong_shift=(shift, -0.5 * shift))
        out = subtract(scene)
        assert out.status == 1, out.reason
        assert out.qa["warp_px"] == pytest.approx(np.hypot(shift, 0.5 * shift), abs=0.05)
        false.append(len(out.candidates))
    assert max(false) <= false[0] + 2
    out = subtract(sky.make_scene(np.random.default_rng(5), truth, wrong_shift=(1.0, 0.0)))
    assert out.status == 0
    assert out.reason.startswith("misregistered by 1.0")


def test_light_in_a_single_pixel_is_no_candidate(rng: np.random.Generator) -> None:
    """Radiation hits that the mask does not have; stars of the same light stay, of either sign."""
    truth = sky.make_truth(rng, (264, 256), 60, 36, snr=15.0)
    scene = sky.make_scene(rng, truth)
    clean = subtract(scene)
    y, x = rng.integers(20, 244, 40), rng.integers(20, 236, 40)
    far = [
        np.hypot(truth.tx - i, truth.ty - j).min() > 12 and np.hypot(truth.x - i, truth.y - j).min() > 8
        for j, i in zip(y, x, strict=True)
    ]
    y, x = y[far], x[far]
    scene.science.pixels[y, x] += np.float32(0.6 * abs(truth.tflux[0]))
    out = subtract(scene)
    assert y.size >= 15
    assert out.qa["n_dropped_spikes"] >= 0.9 * y.size
    assert (matched(out, truth) >= 0).sum() == (matched(clean, truth) >= 0).sum() >= 35


def test_saturated_cores_and_their_halos_leave_nothing() -> None:
    """Saturated stars of blunter seeing than the reference's: cores filled from the PSFs, light beyond the stamps taken out."""
    rng = np.random.default_rng(12)
    truth = sky.make_truth(rng, (264, 256), 60)
    truth.x[:9], truth.y[:9] = (v.ravel() for v in np.meshgrid([50.3, 128.1, 206.4], [52.2, 130.4, 210.3]))
    truth.flux[:9] = 1.5e6
    scene = sky.make_scene(rng, truth, psf_new=sky.MoffatPsf(2.7, beta=2.2), psf_ref=sky.MoffatPsf(2.1, beta=2.2))
    for image, mask in ((scene.science.pixels, scene.science.mask), (scene.reference.pixels, scene.reference.mask)):
        mask[image > 3e4] |= bits.SATURATED
        image[image > 3e4] = 4e4
    scene.science.psfcat["flux"][:9] *= 1.05  # what is known of saturated stars
    out = subtract(scene)
    assert out.status == 1, out.reason
    assert len(out.candidates) <= 2
    j, i = np.mgrid[:264, :256]
    ring = [np.abs(np.hypot(j - y, i - x) - 16.0) < 2 for x, y in zip(truth.x[:9], truth.y[:9], strict=True)]
    assert max(abs(np.nanmedian(out.scorr[r])) for r in ring) < 1.5


def test_the_error_of_the_asymmetry_knows_clusters() -> None:
    """The same events all over the image, and in three places: the same asymmetry, and an error that says how sure it is."""
    rng = np.random.default_rng(31)
    events = rng.poisson(3.0, (10, 10, 2))
    n = events.sum()
    value, error = asymmetry(events)
    assert abs(value) < 3 * error and error == pytest.approx(n**-0.5, rel=0.25)
    everywhere, somewhere = events.copy(), events.copy()
    everywhere[..., 1] += 3
    somewhere[3:6, 2, 1] += 100
    spread, local = asymmetry(everywhere), asymmetry(somewhere)
    assert spread[0] == pytest.approx(local[0], abs=1e-12) and spread[0] < -0.25
    assert spread[1] < 1.3 * everywhere.sum() ** -0.5 and local[1] > 3 * spread[1]
    assert asymmetry(np.zeros((10, 10, 2), int)) == (0.0, 1.0)
    few = np.zeros((10, 10, 2), int)
    few[2, 2, 0], few[5, 7, 0] = 3, 2
    assert asymmetry(few) == (1.0, pytest.approx(5**-0.5))


def crowded(spoil: str) -> DifferenceProducts:
    """A small crowded scene with what nobody subtracted: a halo of a bright star, or faint stars that the reference does not have."""
    rng = np.random.default_rng(33)
    shape = (400, 400)
    scene = sky.make_scene(rng, sky.make_truth(rng, shape, 3000, 16, snr=30.0), shape)
    noise = np.sqrt(sky.SKY / sky.GAIN + (sky.READNOISE / sky.GAIN) ** 2)
    if spoil == "halo":
        j, i = np.mgrid[: shape[0], : shape[1]]
        r = np.hypot(j - 190, i - 60)
        scene.science.pixels[(r > 12) & (r < 45)] -= np.float32(1.1 * noise)
    elif spoil == "stars":
        x, y = rng.uniform(5, 394, (2, 600))
        sky.add_stars(scene.science.pixels, sky.MoffatPsf(2.4), x, y, np.full(600, 4.0 * 4.7 * noise))
    return subtract(scene)


def test_a_halo_in_a_small_crowded_scene_does_not_condemn_it() -> None:
    clean, halo = crowded("nothing").qa, crowded("halo")
    n = halo.qa["n_raw_positive"] + halo.qa["n_raw_negative"]
    assert abs(clean["asymmetry"]) < 0.1
    assert -halo.qa["asymmetry"] > CONFIG.max_asymmetry + 4 * n**-0.5, (
        "it would be called bad if events were independent"
    )
    assert halo.qa["asymmetry_error"] > 1.5 * n**-0.5
    assert halo.status == 1, halo.reason


def test_an_excess_of_one_sign_all_over_is_bad() -> None:
    """A reference that is not deep enough to have the faint stars of the image."""
    out = crowded("stars")
    assert out.status == 0 and "raw events" in out.reason
    assert out.qa["asymmetry"] > 0.4 and out.qa["asymmetry_error"] < 0.07
