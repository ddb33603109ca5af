"""The solver against truth: accuracy, robustness to wrong headers and bad detections, and refusal of wrong solutions."""

from __future__ import annotations

import numpy as np
import pytest
from astrometric_scenes import FULL, TINY, Scene, gaia_table, make_scene, make_wcs, matrix
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.astrometry.quality import residuals
from ztfds.astrometry.solve import AstrometricSolution, solve
from ztfds.config.astrometry import AstrometryConfig
from ztfds.kernels.match import contamination
from ztfds.survey.bits import INFOBITS, evaluate
from ztfds.survey.errors import AstrometryFailed, BadData

CONFIG = {TINY: AstrometryConfig.tiny(), FULL: AstrometryConfig()}


def run(scene: Scene, **kw) -> AstrometricSolution:
    return solve(
        scene.x, scene.y, scene.flux, scene.shape, scene.guess, scene.gaia, CONFIG[scene.shape], snr=scene.snr,
        fwhm_px=2.2, **kw,
    )  # fmt: skip


def check_pairs(scene: Scene, solution: AstrometricSolution, least: float = 0.97) -> None:
    """Matched pairs are the true ones, up to detections whose own star is not in the catalog."""
    truth = scene.star[solution.detection_index]
    assert (truth == solution.gaia_index)[truth >= 0].mean() >= least


@pytest.mark.parametrize("seed", range(30))
def test_tiny_quadrants_with_pointing_errors(seed):
    rng = np.random.default_rng(seed)
    scene = make_scene(rng, TINY, int(rng.uniform(38, 110)))
    assert len(scene.x) >= 30
    solution = run(scene)
    error = np.abs(scene.errors_mas(solution.wcs))
    assert np.sqrt((error**2).mean()) < 45 and error.max() < 150
    assert error.max() < 5 * solution.predicted_corner_error_mas
    assert solution.order <= 3 and solution.confidence > 10 and not solution.flipped
    check_pairs(scene, solution)


@pytest.mark.parametrize("seed", range(12))
def test_full_quadrants_from_clouds_to_crowds(seed):
    """30 to 4000 stars over 52 arcmin, distortions of the real camera's size."""
    rng = np.random.default_rng(100 + seed)
    n_stars = int(10 ** rng.uniform(1.65, 3.6))
    scene = make_scene(rng, FULL, n_stars, limit_mag=20.6 if n_stars > 300 else 16.0)
    assert len(scene.x) >= 30
    solution = run(scene)
    error = scene.errors_mas(solution.wcs)
    rms = np.sqrt((error**2).mean())
    # Few stars cannot tell the distortion; the solution must know how well it does.
    assert rms < max(15.0, 2.5 * solution.predicted_error_mas)
    assert np.abs(error).max() < max(40.0, 4 * solution.predicted_corner_error_mas)
    check_pairs(scene, solution)
    if n_stars > 1000:
        assert rms < 10 and solution.order == 4
        # The scene's floor of 10 mas and S/N >= 50: 19 mas per axis at most.
        assert max(solution.rms_ra_mas, solution.rms_dec_mas) < 25
        assert 0.3 < solution.chi2 < 2.0


@pytest.mark.parametrize(
    ("seed", "change"),
    [
        (0, {"guess_cd": matrix(0, 1.0, -1)}),
        (1, {"guess_cd": matrix(90)}),
        (2, {"guess_cd": matrix(180, 1.0, -1)}),
        (3, {"guess_cd": matrix(37.0)}),
        (4, {"guess_cd": matrix(-141.0, 1.0, -1)}),
        (5, {"scale": 0.985}),
        (6, {"scale": 1.012, "rotation_deg": 1.4}),
        (7, {"offset_arcsec": 400, "margin_deg": 0.3}),
        (8, {"false_fraction": 1.5}),
        (9, {"missing_fraction": 0.4, "n_stars": 90}),
        (10, {"catalog_extra_mag": 4.0}),
        (11, {"center": (359.99, 10.0)}),
        (12, {"center": (77.0, 89.93)}),
        (13, {"n_stars": 450}),
        (14, {"margin_deg": 0.04}),
    ],
)
def test_strange_headers_and_detections(seed, change):
    rng = np.random.default_rng(200 + seed)
    scene = make_scene(rng, TINY, **{"n_stars": 60, **change})
    solution = run(scene)
    assert np.abs(scene.errors_mas(solution.wcs)).max() < 200
    assert solution.flipped == (seed in (0, 2, 4))
    check_pairs(scene, solution, 0.95)


@pytest.mark.parametrize("seed", range(3))
def test_full_quadrant_of_unknown_orientation(seed):
    rng = np.random.default_rng(300 + seed)
    scene = make_scene(rng, FULL, 500, guess_cd=matrix(rng.uniform(0, 360), 1.0, rng.choice([-1, 1])))
    assert np.abs(scene.errors_mas(run(scene).wcs)).max() < 120


def test_plane_is_solved_among_neighbours():
    rng = np.random.default_rng(5)
    scene = make_scene(rng, FULL, 20000)
    solution = run(scene)
    assert np.abs(scene.errors_mas(solution.wcs)).max() < 20
    assert solution.metrics["astrom_detected_percent"] > 50
    check_pairs(scene, solution)


def test_header_distortion_is_kept_where_stars_are_too_few():
    """With the header's own distortion 40 stars do for corners that they could never determine."""
    worst = {}
    for known in (True, False):
        errors = []
        for seed in range(4):
            rng = np.random.default_rng(400 + seed)
            scene = make_scene(rng, FULL, 45, limit_mag=16.0, guess_pv=known, distortion=4.0, false_fraction=0.0)
            errors.append(np.abs(scene.errors_mas(run(scene).wcs)).max())
        worst[known] = np.median(errors)
    assert worst[True] < 0.5 * worst[False]


def scrambled(scene: Scene, rng: np.random.Generator) -> None:
    ny, nx = scene.shape
    scene.x, scene.y = rng.uniform(0, nx - 1, len(scene.x)), rng.uniform(0, ny - 1, len(scene.x))


def other_sky(scene: Scene, rng: np.random.Generator) -> None:
    ra, dec = scene.guess.wcs.crval
    scene.gaia = make_scene(rng, scene.shape, len(scene.x), center=(float(ra), float(dec))).gaia


def clustered(scene: Scene, rng: np.random.Generator) -> None:
    ny, nx = scene.shape
    which = rng.integers(0, 8, len(scene.x))
    scene.x = np.clip(rng.uniform(0, nx, 8)[which] + rng.normal(0, 5, which.size), 0, nx - 1)
    scene.y = np.clip(rng.uniform(0, ny, 8)[which] + rng.normal(0, 5, which.size), 0, ny - 1)


def bad_columns(scene: Scene, rng: np.random.Generator) -> None:
    ny, nx = scene.shape
    scene.x = rng.uniform(0, nx - 1, 4)[rng.integers(0, 4, len(scene.x))]
    scene.y = rng.uniform(0, ny - 1, len(scene.x))


@pytest.mark.parametrize("spoil", [scrambled, other_sky, clustered, bad_columns])
@pytest.mark.parametrize("seed", range(3))
def test_wrong_solutions_are_never_served(spoil, seed):
    rng = np.random.default_rng(500 + seed)
    scene = make_scene(rng, TINY, int(rng.uniform(12, 200)))
    spoil(scene, rng)
    with pytest.raises(AstrometryFailed) as caught:
        run(scene)
    assert isinstance(caught.value, BadData) and "\n" not in caught.value.message


@pytest.mark.parametrize("spoil", [scrambled, other_sky])
def test_wrong_full_quadrants_are_never_served(spoil):
    rng = np.random.default_rng(600)
    scene = make_scene(rng, FULL, 800)
    spoil(scene, rng)
    with pytest.raises(AstrometryFailed):
        run(scene)


def test_half_wrong_solution_is_refused():
    """Detections of one half belong elsewhere: no single solution explains both, and none is served."""
    rng = np.random.default_rng(8)
    scene = make_scene(rng, FULL, 1500, false_fraction=0.0)
    right = scene.x > FULL[1] / 2
    scene.x[right] += 25.0
    with pytest.raises(AstrometryFailed, match="do not match"):
        run(scene)


def test_stars_in_one_corner_are_not_enough():
    rng = np.random.default_rng(9)
    scene = make_scene(rng, FULL, 3000, false_fraction=0.0, offset_arcsec=10.0, rotation_deg=0.1)
    keep = (scene.x < 450) & (scene.y < 450)
    assert keep.sum() > 30
    with pytest.raises(AstrometryFailed):
        solve(
            scene.x[keep], scene.y[keep], scene.flux[keep], FULL, scene.guess, scene.gaia, CONFIG[FULL],
            snr=scene.snr[keep],
        )  # fmt: skip


def test_dead_half_is_solved():
    rng = np.random.default_rng(10)
    scene = make_scene(rng, FULL, 3000)
    keep = scene.x < 0.5 * FULL[1]
    solution = solve(
        scene.x[keep], scene.y[keep], scene.flux[keep], FULL, scene.guess, scene.gaia, CONFIG[FULL], snr=scene.snr[keep]
    )
    gx, gy = np.meshgrid(np.linspace(0, 1500, 8), np.linspace(0, 3079, 8))
    truth = scene.truth.all_pix2world(gx, gy, 0)
    found = solution.wcs.all_pix2world(gx, gy, 0)
    assert np.abs(found[1] - truth[1]).max() * 3.6e6 < 60
    assert solution.metrics["n_astrom_ingrid_min"] == 0
    assert solution.predicted_corner_error_mas > 2 * solution.predicted_error_mas


def test_nan_rows_negative_fluxes_and_unusable_detections_are_harmless(rng):
    scene = make_scene(rng, TINY, 70)
    clean = run(scene)
    scene.x = np.append(scene.x, [np.nan, 10.0, 20.0, 5000.0])
    scene.y = np.append(scene.y, [10.0, np.nan, 20.0, 20.0])
    scene.flux = np.append(scene.flux, [1e5, 1e5, -1.0, 1e5])
    scene.snr = np.append(scene.snr, [100.0, 100.0, np.nan, 100.0])
    usable = np.ones(len(scene.x), bool)
    usable[np.argsort(-scene.flux)[:3]] = False
    dirty = run(scene, usable=usable)
    assert dirty.detection_index.max() < len(scene.x) - 4
    assert np.abs(scene.errors_mas(dirty.wcs) - scene.errors_mas(clean.wcs)).max() < 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: setattr(s, "flux", s.flux * 0), "0 detections in the image"),
        (lambda s: setattr(s, "gaia", s.gaia[:0]), "0 catalog stars in the image"),
        (lambda s: setattr(s, "gaia", gaia_table([10.0] * 50, [-80.0] * 50, [15.0] * 50)), "0 catalog stars"),
        (lambda s: setattr(s, "guess", make_wcs(TINY, 10, 10, np.ones((2, 2)) * 1e-4)), "WCS"),
        (lambda s: setattr(s, "guess", make_wcs(TINY, 10, 10, np.eye(2) * 2.0)), "WCS|catalog"),
        (lambda s: setattr(s, "guess", WCS(fits.Header({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}))), "catalog|WCS"),
    ],
)
def test_hopeless_inputs_fail_with_one_line(rng, change, message):
    scene = make_scene(rng, TINY, 60, center=(100.0, 30.0))
    change(scene)
    with pytest.raises(AstrometryFailed, match=message) as caught:
        run(scene)
    assert "\n" not in caught.value.message


def test_without_snr_and_catalog_errors_the_solution_is_as_good(rng):
    scene = make_scene(rng, TINY, 80)
    names = ["source_id", "ra", "dec", "gmag"]
    gaia = np.zeros(len(scene.gaia), [(n, scene.gaia.dtype[n]) for n in names])
    for name in names:
        gaia[name] = scene.gaia[name]
    solution = solve(scene.x, scene.y, scene.flux, TINY, scene.guess, gaia, CONFIG[TINY])
    assert np.abs(scene.errors_mas(solution.wcs)).max() < 150


def test_shift_rotation_and_scale_are_reported():
    rng = np.random.default_rng(3)
    scene = make_scene(rng, FULL, 1500, center=(40.0, 20.0), distortion=0.0, rotation_deg=0.0, scale=1.004)
    cd = matrix(0.6)
    ra, dec = scene.truth.all_pix2world(1535.5, 1539.5, 0)
    scene.guess = make_wcs(FULL, float(ra), float(dec) + 60 / 3600, cd)
    solution = run(scene)
    assert solution.shift_arcsec == pytest.approx(60.0, abs=0.1)
    assert solution.rotation_deg == pytest.approx(-0.6, abs=0.01)
    assert solution.scale == pytest.approx(1.0, abs=2e-5)
    assert solution.pixel_scale_arcsec == pytest.approx(1.012, abs=2e-5)


def test_metrics_are_those_of_the_quality_table():
    rng = np.random.default_rng(4)
    scene = make_scene(rng, FULL, 2000, false_fraction=0.05, missing_fraction=0.0)
    solution = run(scene)
    names = {bit.metric for bit in INFOBITS if 12 <= bit.bit <= 21 and bit.metric != "psf_possible"}
    assert names < set(solution.metrics) and all(np.isfinite(list(solution.metrics.values())))
    assert 0 < solution.metrics["astrom_predicted_mas"] < solution.metrics["astrom_predicted_worst_mas"] < 50
    assert solution.metrics["astrom_trend_mas"] < 20
    assert evaluate(solution.metrics, 2)[:2] == (0, 1)
    assert solution.metrics["n_astrom_matches"] == solution.n_matched > 100
    assert 80 < solution.metrics["astrom_detected_percent"] <= 100
    assert solution.metrics["astrom_chi2"] == pytest.approx(1.0, abs=0.5)


def test_blends_are_left_out_and_a_trend_with_brightness_shows():
    rng = np.random.default_rng(11)
    scene = make_scene(rng, FULL, 12000, false_fraction=0.0, missing_fraction=0.0, center=(80.0, 10.0))
    clean = run(scene)
    sky = scene.gaia[np.maximum(scene.star, 0)]
    x, y = sky["ra"] * np.cos(np.radians(10.0)) * 3600, sky["dec"] * 3600
    flux = 10 ** (-0.4 * sky["gmag"].astype(float))
    blended = contamination(x, y, flux, 2.8) > 0.06
    assert blended[clean.detection_index].sum() > 100
    scene.x[blended] += 0.4
    pulled = run(scene)
    assert np.abs(scene.errors_mas(pulled.wcs) - scene.errors_mas(clean.wcs)).max() < 1.0
    scene.x += 0.1 * np.argsort(np.argsort(-scene.flux)) / len(scene.x)
    assert clean.metrics["astrom_trend_mas"] < 5 < 20 < run(scene).metrics["astrom_trend_mas"]


def test_header_cards_make_the_same_wcs_and_qa_of_any_wcs():
    rng = np.random.default_rng(6)
    scene = make_scene(rng, FULL, 1000, center=(10.0, 50.0))
    solution = run(scene)
    header = fits.Header()
    header.update(solution.header)
    again = WCS(fits.Header.fromstring(header.tostring()))
    x, y = rng.uniform(0, 3000, (2, 50))
    np.testing.assert_allclose(again.all_pix2world(x, y, 0), solution.wcs.all_pix2world(x, y, 0), atol=1e-11)
    assert header["ASTROMN"] == solution.n_matched
    i, j = solution.detection_index, solution.gaia_index
    grid = residuals(solution.wcs, scene.x[i], scene.y[i], scene.gaia["ra"][j], scene.gaia["dec"][j], FULL)
    assert grid.min_count == solution.metrics["n_astrom_ingrid_min"]
    assert grid.max_median_arcsec == pytest.approx(solution.metrics["astrom_ingrid_resid_arcsec"], abs=1e-4)
    shifted = solution.wcs.deepcopy()
    shifted.wcs.crval = shifted.wcs.crval + np.array([0.0, 1.0 / 3600])
    moved = residuals(shifted, scene.x[i], scene.y[i], scene.gaia["ra"][j], scene.gaia["dec"][j], FULL)
    np.testing.assert_allclose(moved.median_dec_arcsec - grid.median_dec_arcsec, 1.0, atol=0.02)


@pytest.mark.realdata
def test_real_detections_are_solved_back_to_the_real_wcs(real_data, rng):
    """The 112 real sources of a real ZTF image, their real TPV as truth, a header that is 90 arcsec off and turned."""
    text = next((real_data / "header").glob("ztf_*.header.txt")).read_text()
    truth = WCS(fits.Header.fromstring(text, sep="\n"))
    sources = fits.getdata(real_data / "header" / "test_ztf_image.sources.fits", "LDAC_OBJECTS")
    x, y = sources["XWIN_IMAGE"] - 1.0, sources["YWIN_IMAGE"] - 1.0
    ra, dec = truth.all_pix2world(x, y, 0)
    ra, dec = ra + rng.normal(0, 20 / 3.6e6, 112), dec + rng.normal(0, 20 / 3.6e6, 112)
    extra = truth.all_pix2world(*rng.uniform(-300, 1324, (2, 150)), 0)
    mag = np.append(26.3 - 2.5 * np.log10(sources["FLUX_AUTO"]), rng.uniform(16, 21, 150))
    gaia = gaia_table(np.append(ra, extra[0]), np.append(dec, extra[1]), mag)
    center = truth.all_pix2world(511.5, 511.5, 0)
    guess = make_wcs((1024, 1024), float(center[0]) + 0.02, float(center[1]) - 0.02, matrix(0.5))
    snr = sources["FLUX_AUTO"] / sources["FLUXERR_AUTO"]
    solution = solve(x, y, sources["FLUX_AUTO"], (1024, 1024), guess, gaia, AstrometryConfig(), snr=snr, fwhm_px=3.0)
    gx, gy = np.meshgrid(np.linspace(0, 1023, 9), np.linspace(0, 1023, 9))
    found, real = solution.wcs.all_pix2world(gx, gy, 0), truth.all_pix2world(gx, gy, 0)
    assert np.abs(np.subtract(found, real)).max() * 3.6e6 < 60
    # 58 of the 112 have S/N >= 10; all of them have their star.
    assert solution.n_matched == 58 and solution.metrics["astrom_detected_percent"] == 100
