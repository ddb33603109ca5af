"""Artefact masks against scenes with known hits, trails and stars, and against real images."""

from __future__ import annotations

import numpy as np
import pytest
from artifact_scenes import GAIN, READ_NOISE, SKY, lacosmic, make_scene, star_light, trail_light
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import binary_dilation
from scipy.special import erf

from ztfds.config.detrend import GhostModel, MaskConfig
from ztfds.config.photometry import PhotometryConfig
from ztfds.kernels.masks import SHARPNESS_TESTS, sharpness_ratios
from ztfds.photometry import measure
from ztfds.science.masks import BRIGHT_STAR_DTYPE, mask_artifacts
from ztfds.science.tracks import find_tracks, track_table
from ztfds.survey import bits

CONFIG = MaskConfig(ghosts=())
NOISE = float(np.sqrt(SKY / GAIN + (READ_NOISE / GAIN) ** 2))


def masked(pixels, fwhm, saturated=None, config=CONFIG, **more):
    mask = np.zeros(pixels.shape, np.uint16)
    if saturated is not None:
        mask[saturated] = bits.SATURATED
    return mask_artifacts(pixels, mask, SKY, GAIN, READ_NOISE, fwhm, config, **more).mask


def found_fraction(scene, hit, least_sn):
    significance = scene.charge / GAIN / scene.noise
    numbers = [k for k in range(scene.owner.max() + 1) if significance[scene.owner == k].max(initial=0) > least_sn]
    return np.mean([hit[scene.owner == k].any() for k in numbers]), len(numbers)


@pytest.mark.parametrize("fwhm", [2.0, 2.5])
@pytest.mark.parametrize("n_stars", [200, 2500])
def test_hits_are_found_as_completely_as_by_lacosmic(rng, fwhm, n_stars):
    scene = make_scene(n_stars, 90, fwhm, rng)
    ours = (masked(scene.pixels, fwhm, scene.saturated) & bits.SPIKE) != 0
    theirs = lacosmic(scene.pixels) & ~scene.saturated
    fraction, n = found_fraction(scene, ours, 10)
    assert n > 60
    assert fraction >= max(0.95, found_fraction(scene, theirs, 10)[0] - 0.02)
    bright = (scene.charge / GAIN > 10 * scene.noise) & ~binary_dilation(scene.saturated, iterations=4)
    assert ours[bright].mean() >= max(0.93, theirs[bright].mean())


@pytest.mark.parametrize("fwhm", [2.0, 2.2, 2.5])
@pytest.mark.parametrize("gauss", [False, True])
def test_stars_are_not_eaten(rng, fwhm, gauss):
    scene = make_scene(2500, 0, fwhm, rng, gauss=gauss)
    hit = (masked(scene.pixels, fwhm, scene.saturated) & bits.SPIKE) != 0
    on_stars = scene.stars > 3 * scene.noise
    assert on_stars.sum() > 8000
    assert hit[on_stars].sum() <= 3
    assert hit.sum() <= 4


def seeing(scene):
    """FWHM as the pipeline measures it."""
    mask = np.where(scene.saturated, np.uint16(bits.SATURATED), np.uint16(0))
    return measure.prepare(scene.pixels, mask, GAIN, READ_NOISE, 45000.0, PhotometryConfig.tiny()).fwhm_px


@pytest.mark.parametrize("optics_fwhm", [1.1, 1.5])
@pytest.mark.parametrize("gauss", [False, True])
def test_undersampled_stars_are_not_eaten_and_hits_among_them_are_found(rng, optics_fwhm, gauss):
    """The narrower optics give 1.4 px with the pixel in it."""
    scene = make_scene(700, 60, optics_fwhm, rng, gauss=gauss, subpixels=5)
    fwhm = seeing(scene)
    assert 0.8 * np.hypot(optics_fwhm, 0.8) < fwhm < 1.2 * np.hypot(optics_fwhm, 0.9)
    hit = (masked(scene.pixels, fwhm, scene.saturated) & bits.SPIKE) != 0
    clean = ~binary_dilation(scene.charge > 0, np.ones((3, 3)), iterations=1)
    on_stars = (scene.stars > 3 * scene.noise) & clean
    assert on_stars.sum() > 2000
    assert hit[on_stars].sum() <= 3
    # L.A.Cosmic finds more of them, and eats hundreds of pixels of the stars.
    assert found_fraction(scene, hit, 20)[0] > (0.85 if optics_fwhm > 1.2 else 0.4)


def test_stars_survive_a_psf_ten_percent_sharper_than_assumed(rng):
    scene = make_scene(2500, 0, 2.2, rng)
    hit = (masked(scene.pixels, 2.2 * 1.1, scene.saturated) & bits.SPIKE) != 0
    assert hit.sum() <= 10


def test_saturated_stars_bad_pixels_and_nan_are_left_alone(rng):
    scene = make_scene(50, 0, 2.2, rng)
    pixels, mask = scene.pixels.copy(), np.zeros(scene.pixels.shape, np.uint16)
    pixels[100, 100:140] = np.nan
    mask[100, 100:140] = bits.NAN
    pixels[200, 200], mask[200, 200] = 60000, bits.SATURATED
    pixels[201, 200] = 20000
    pixels[300, 300], mask[300, 300] = 5000, bits.DEAD
    out = mask_artifacts(pixels, mask, SKY, GAIN, READ_NOISE, 2.2, CONFIG).mask
    touched = (out & bits.SPIKE) != 0
    assert not touched[98:103, 98:142].any()
    assert not touched[196:206, 196:205].any()
    assert not touched[298:303, 298:303].any()
    assert (out & mask == mask).all()


def test_hits_on_the_borders_are_found(rng):
    pixels = (SKY + rng.normal(0, NOISE, (60, 70))).astype(np.float32)
    for y, x in ((0, 30), (59, 30), (30, 0), (30, 69), (1, 1), (58, 68)):
        pixels[y, x] += 800
    out = masked(pixels, 2.2)
    assert all(out[y, x] & bits.SPIKE for y, x in ((0, 30), (59, 30), (30, 0), (30, 69), (1, 1), (58, 68)))


def test_sky_of_unknown_noise_is_not_eaten(rng):
    pixels = (SKY + rng.normal(0, 6 * NOISE, (300, 300))).astype(np.float32)
    assert ((masked(pixels, 2.2) & bits.SPIKE) != 0).sum() <= 3


def test_no_hits_are_looked_for_without_a_believable_fwhm(rng):
    scene = make_scene(100, 30, 2.2, rng)
    for fwhm in (float("nan"), 0.0, 1.1):
        assert not (masked(scene.pixels, fwhm) & bits.SPIKE).any()


@pytest.mark.parametrize(
    ("ends", "sigmas"),
    [((-20, 30, 520, 470), 0.6), ((60, -10, 180, 520), 2.0), ((400, 0, 100, 511), 60.0), ((-5, 300, 520, 330), 1.0)],
)
def test_a_trail_is_masked_over_its_whole_length(rng, ends, sigmas):
    config = MaskConfig(ghosts=(), track_min_length_px=300)
    scene = make_scene(700, 0, 2.2, rng, shape=(512, 512))
    light = trail_light(scene.pixels.shape, *ends, sigmas * NOISE)
    out = masked((scene.pixels + light).astype(np.float32), 2.2, scene.saturated, config)
    track = (out & bits.TRACK) != 0
    core = light > 0.5 * light.max()
    assert track[core].mean() > 0.99
    far = light < 1e-6 * light.max()
    assert track[far].mean() < 0.01


def test_two_crossing_trails_are_both_found(rng):
    config = MaskConfig(ghosts=(), track_min_length_px=300)
    scene = make_scene(300, 0, 2.2, rng, shape=(512, 512))
    one = trail_light((512, 512), -5, 100, 520, 400, 3 * NOISE)
    two = trail_light((512, 512), 300, -5, 200, 520, 8 * NOISE)
    track = (masked((scene.pixels + one + two).astype(np.float32), 2.2, config=config) & bits.TRACK) != 0
    assert track[one > 1.5 * NOISE].mean() > 0.99
    assert track[two > 4 * NOISE].mean() > 0.99


def test_short_streaks_columns_and_stars_are_no_tracks(rng):
    config = MaskConfig(ghosts=(), track_min_length_px=300)
    scene = make_scene(2500, 20, 2.2, rng, shape=(512, 512))
    pixels = scene.pixels + trail_light((512, 512), 200, 200, 270, 240, 30 * NOISE)
    pixels[:, 333] += 3 * NOISE
    assert not (masked(pixels.astype(np.float32), 2.2, scene.saturated, config) & bits.TRACK).any()


def test_pure_noise_has_no_tracks(rng):
    config = MaskConfig(track_min_length_px=150)
    level, state = np.zeros((400, 420), np.float32), np.zeros((400, 420), np.uint8)
    for _ in range(5):
        pixels = rng.normal(0, NOISE, level.shape).astype(np.float32)
        assert find_tracks(pixels, level, state, NOISE, config) == []


def test_ghosts_and_halos_follow_their_model():
    config = MaskConfig(
        track_max=0,
        ghosts=(
            GhostModel(kind="halo", radius_arcsec=20, max_mag=6.5),
            GhostModel(kind="ghost", radial_scale=-1.0, inner_radius_arcsec=5, radius_arcsec=10, max_mag=7.5),
        ),
    )
    stars = np.array([(30.0, 40.0, 6.0), (80.0, 100.0, 7.0), (60.0, 60.0, 9.0), (-15.0, 64.0, 5.0)], BRIGHT_STAR_DTYPE)
    pixels = np.full((128, 128), SKY, np.float32)
    out = masked(pixels, 2.2, config=config, bright_stars=stars, optical_axis=(64.0, 64.0), pixel_scale_arcsec=1.0)
    y, x = np.mgrid[:128, :128]
    halo = (np.hypot(x - 30, y - 40) <= 20) | (np.hypot(x + 15, y - 64) <= 20)
    assert np.array_equal((out & bits.HALO) != 0, halo)
    ghost = np.zeros(out.shape, bool)
    for sx, sy in ((30, 40), (80, 100), (-15, 64)):
        r = np.hypot(x - (128 - sx), y - (128 - sy))
        ghost |= (r >= 5) & (r <= 10)
    assert np.array_equal((out & bits.GHOST) != 0, ghost)
    plain = masked(pixels, 2.2, config=config, bright_stars=np.array([[30.0, 40.0, 6.0]]), pixel_scale_arcsec=1.0)
    assert not (plain & bits.GHOST).any()


def test_reflections_grow_with_light_and_with_distance_from_the_axis():
    models = (
        GhostModel(kind="halo", radius_arcsec=10, max_mag=8.0, growth=0.5),
        GhostModel(
            kind="ghost", radial_scale=1.1, inner_radius_arcsec=4, radius_arcsec=8, max_mag=5.0, size_per_deg=18.0
        ),
    )
    stars = np.array([[60.0, 64.0, 5.0], [100.0, 64.0, 8.0]])
    config = MaskConfig(track_max=0, ghosts=models)
    pixels = np.full((128, 128), SKY, np.float32)
    out = masked(pixels, 2.2, config=config, bright_stars=stars, optical_axis=(40.0, 64.0), pixel_scale_arcsec=1.0)
    y, x = np.mgrid[:128, :128]
    brighter = 10 * 10 ** (0.4 * 0.5 * 3)
    assert np.array_equal(
        out & bits.HALO != 0, (np.hypot(x - 60, y - 64) <= brighter) | (np.hypot(x - 100, y - 64) <= 10)
    )
    r, factor = np.hypot(x - 62, y - 64), 1 + 18 * 20 / 3600
    assert np.array_equal(out & bits.GHOST != 0, (r >= 4 * factor) & (r <= 8 * factor))


def test_both_ends_of_a_trail_are_recorded(rng):
    config = MaskConfig(ghosts=(), track_min_length_px=300)
    scene = make_scene(300, 0, 2.2, rng, shape=(512, 512))
    pixels = (scene.pixels + trail_light((512, 512), -5, 100, 520, 400, 3 * NOISE)).astype(np.float32)
    found = mask_artifacts(pixels, np.zeros(pixels.shape, np.uint16), SKY, GAIN, READ_NOISE, 2.2, config)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 30.0], [256.0, 256.0]
    wcs.wcs.cdelt = [-1 / 3600, 1 / 3600]
    table = track_table(found.tracks, pixels.shape, wcs)
    assert len(table) == 1
    ends = np.array(sorted([(table["x0"][0], table["y0"][0]), (table["x1"][0], table["y1"][0])]))
    assert np.abs(ends - [(0, 103), (511, 395)]).max() < 2.5
    assert table["leaves0"][0] and table["leaves1"][0]
    ra, dec = wcs.all_pix2world(table["x1"], table["y1"], 0)
    assert (table["ra1"], table["dec1"]) == (ra, dec)
    assert abs(table["peak"][0] - 3 * NOISE) < 0.4 * NOISE
    assert np.isnan(track_table(found.tracks, pixels.shape, None)["ra0"]).all()
    assert len(track_table([], pixels.shape, wcs)) == 0


def test_edges_are_marked_as_wide_as_asked():
    out = masked(np.full((50, 60), SKY, np.float32), 2.2, config=MaskConfig(edge_px=3, track_max=0))
    assert (out[3:-3, 3:-3] == 0).all()
    assert (out != 0).sum() == 50 * 60 - 44 * 54


def test_the_given_mask_is_not_changed(rng):
    scene = make_scene(50, 20, 2.2, rng)
    mask = np.zeros(scene.pixels.shape, np.uint16)
    out = mask_artifacts(scene.pixels, mask, np.full(mask.shape, SKY), GAIN, READ_NOISE, 2.2, CONFIG).mask
    assert not mask.any()
    assert out.any()


def pixel_fwhm(optics_fwhm):
    """FWHM of a Gaussian averaged over pixels."""
    x = np.linspace(0, 4, 4001)
    edges = [erf((x + side) * 1.66511 / optics_fwhm) for side in (0.5, -0.5)]
    profile = edges[0] - edges[1]
    return 2 * x[np.argmin(np.abs(profile - 0.5 * profile[0]))]


def sharpest(light, y, x, test):
    """Outer pair over inner line of a sharpness test at (y, x)."""
    vy, vx, _, _, wide = test
    inner = light[y, x] + wide * light[y + vy, x + vx]
    return (light[y - vy, x - vx] + light[y + (1 + wide) * vy, x + (1 + wide) * vx]) / inner / (2 - wide)


@pytest.mark.parametrize("fwhm", [1.5, 2.0, 2.5, 3.5])
def test_no_blend_of_gaussians_beats_the_bound_on_sharpness(rng, fwhm):
    light = star_light(3000, (200, 200), fwhm, rng, gauss=True)
    y, x = np.mgrid[20:180, 20:180]
    for test, ratio in zip(SHARPNESS_TESTS, sharpness_ratios(fwhm), strict=True):
        assert (sharpest(light, y, x, test) >= ratio - 1e-5).all()


@pytest.mark.parametrize("optics_fwhm", [0.6, 1.0, 1.4, 2.0])
def test_no_core_of_an_undersampled_star_beats_the_bound(rng, optics_fwhm):
    ratios = sharpness_ratios(pixel_fwhm(optics_fwhm) - 0.01)
    for x, y in rng.uniform(9.5, 10.5, (200, 2)):
        edges = [[erf((np.arange(21) - at + side) * 1.66511 / optics_fwhm) for side in (0.5, -0.5)] for at in (y, x)]
        light = np.outer(edges[0][0] - edges[0][1], edges[1][0] - edges[1][1])
        for test, ratio in zip(SHARPNESS_TESTS, ratios, strict=True):
            assert sharpest(light, 10, 10, test) >= ratio - 1e-5


@pytest.mark.realdata
def test_hits_of_real_exposures_do_not_repeat(real_data):
    """Five aligned exposures of each of two nights: stars would be flagged again and again, radiation is not."""
    files = sorted((real_data / "decam").rglob("*.mini.fits"))
    assert len(files) == 10
    for night in ("OBS04", "OBS18"):
        flagged = []
        for file in (f for f in files if night in f.name):
            pixels, header = fits.getdata(file).astype(np.float32), fits.getheader(file)
            none = np.zeros(pixels.shape, np.uint16)
            out = mask_artifacts(pixels, none, 0.0, 4.0, 11.4, header["FWHM"], MaskConfig.tiny()).mask
            flagged.append((out & bits.SPIKE) != 0)
        count = np.sum(flagged, axis=0)
        assert (count == 1).sum() > 100
        assert (count >= 2).sum() <= 2


@pytest.mark.realdata
def test_the_trail_of_a_real_image_is_found(real_data):
    pixels = fits.getdata(real_data / "streak" / "long.fits").astype(np.float32)
    level = np.full(pixels.shape, np.median(pixels), np.float32)
    noise = 1.4826 * float(np.median(np.abs(pixels - level)))
    tracks = find_tracks(pixels, level, np.zeros(pixels.shape, np.uint8), noise, MaskConfig.tiny())
    assert len(tracks) == 1
    track = tracks[0]
    slope = (track.y1 - track.y0) / (track.x1 - track.x0)
    # The brightest row of each of some columns along the trail, found by eye and by column sums.
    for x in (60, 150, 250, 320):
        column = np.median(pixels[280:350, x - 8 : x + 9] - level[280:350, x - 8 : x + 9], axis=1)
        assert abs(track.y0 + slope * (x - track.x0) - (280 + int(np.argmax(column)))) < 4
