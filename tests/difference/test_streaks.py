"""The search for streaks: completeness, errors, impostors, flags, and what happens when it breaks."""

from __future__ import annotations

import analytic_sky as sky
import numpy as np
import pytest
import streak_scenes as scenes
from astropy.io import fits
from scipy.signal import fftconvolve

from ztfds.config.difference import DifferenceConfig
from ztfds.config.streaks import StreakConfig
from ztfds.difference import streaks
from ztfds.difference.products import DifferenceInputs
from ztfds.difference.run import run
from ztfds.survey import bits, ids

CONFIG = StreakConfig()


def find(scene: scenes.Scene, mask=None, gaia=None, config=CONFIG):
    mask = np.zeros(scene.shape, np.uint16) if mask is None else mask
    gaia = scenes.no_stars() if gaia is None else gaia
    wcs = sky.tan_wcs(scene.shape)
    return streaks.find_streaks(scene.images(), mask, scenes.header(), wcs, gaia, config)[0]


def crowd(rng, length, snr, side=4, shape=(640, 640)):
    """A scene with side x side streaks of random directions, and their places."""
    scene, truth = scenes.Scene(shape, 2.2, rng), []
    for k in range(side * side):
        x = (k % side + 0.5) * shape[1] / side + rng.uniform(-15, 15)
        y = (k // side + 0.5) * shape[0] / side + rng.uniform(-15, 15)
        angle = rng.uniform(0, 180)
        truth.append((x, y, angle, length, scene.add_streak(x, y, angle, length, snr)))
    return scene, np.array(truth)


@pytest.mark.parametrize("length", [12.0, 30.0, 60.0])
def test_faint_streaks_are_found_with_right_errors(rng, length):
    scene, truth = crowd(rng, length, 8.0)
    table = find(scene)
    pulls, found = [], 0
    for x, y, angle, _, flux in truth:
        near = table[np.hypot(table["x"] - x, table["y"] - y) < max(4.0, length / 2)]
        if not len(near):
            continue
        row, found = near[0], found + 1
        turn = np.degrees(np.arctan2(row["y2"] - row["y1"], row["x2"] - row["x1"])) - angle
        turn = (turn + 90) % 180 - 90
        pulls.append(
            ((row["length"] - length) / row["lengtherr"], (row["flux"] - flux) / row["fluxerr"], turn / row["paerr"])
        )
    assert found >= 13  # of 16: nine tenths are the survey's mark
    assert len(table) == found
    pulls = np.array(pulls)
    assert np.all(np.abs(np.median(pulls, axis=0)) < 1.2)
    assert np.all(np.median(np.abs(pulls), axis=0) < 2.0)


def test_noise_alone_and_points_make_no_streaks(rng):
    scene = scenes.Scene((900, 900), 2.2, rng)
    yy, xx = np.mgrid[:900, :900]
    for k, snr in enumerate((6, 8, 12, 30, 100, 400)):
        x, y = 120.0 + 130 * k + 0.37, 200.0 + 90 * k + 0.21
        scene.light += snr * scene.psf.limit * scenes.profile(2.2, xx - x, yy - y)
    # A pair of points that a line would join.
    for x in (300.0, 318.0):
        scene.light += 12 * scene.psf.limit * scenes.profile(2.2, xx - x, yy - 800.0)
    assert len(find(scene)) == 0


def test_columns_of_a_bright_streak(rng):
    scene = scenes.Scene((400, 380), 2.2, rng)
    flux = scene.add_streak(190.0, 210.0, 30.0, 40.0, 40.0)
    row = find(scene)[0]
    wcs, head = sky.tan_wcs(scene.shape), scenes.header()
    ends = sorted([(row["x1"], row["y1"]), (row["x2"], row["y2"])])
    half = 20 * np.array([np.cos(np.radians(30)), np.sin(np.radians(30))])
    np.testing.assert_allclose(ends, [np.array([190, 210]) - half, np.array([190, 210]) + half], atol=0.8)
    np.testing.assert_allclose(wcs.all_world2pix(row["ra1"], row["dec1"], 0), (row["x1"], row["y1"]), atol=1e-6)
    assert row["flux"] == pytest.approx(flux, rel=0.1)
    assert row["fitmag"] == pytest.approx(scenes.MAGZP - 2.5 * np.log10(flux), abs=0.1)
    assert abs(row["dmag"]) < 0.2
    assert row["snr"] == pytest.approx(40, rel=0.1)
    assert 0.4 * row["snr"] < row["apsnr"] < 0.8 * row["snr"]  # an aperture of 10 px across lets in much noise
    assert row["sigma"] == pytest.approx(2.2 / 2.3548, rel=0.15)
    assert row["chi2"] == pytest.approx(1.0, abs=0.2)
    assert row["rate"] == pytest.approx(40 * 1.012 / 3600 * 86400 / 30, rel=0.03)
    # The grid of the test runs west and south: +x is west, +y is south.
    assert row["pa"] == pytest.approx(np.degrees(np.arctan2(-np.cos(np.radians(30)), -0.5)) % 180, abs=2)
    assert row["pid"] == ids.pid(head["OBSJD"], 22)
    assert row["streakid"] == row["pid"] * 10_000
    assert row["endmjd"] - row["startmjd"] == pytest.approx(30 / 86400, rel=1e-3)
    assert row["flags"] == 0
    assert row["prob"] > 0.9
    # Errors of the ends are larger along the streak than across it.
    assert row["ra1err"] > 0.5 * row["ra2err"] > 0
    assert abs(row["corr1"]) <= 1


def test_what_is_longer_or_crosses_is_no_streak(rng):
    scene = scenes.Scene((700, 700), 2.2, rng)
    scene.add_streak(350.0, 350.0, 33.0, 1500.0, 60.0)
    assert len(find(scene)) == 0


def test_a_line_narrower_than_the_psf_is_no_streak(rng):
    scene = scenes.Scene((400, 400), 2.6, rng)
    for k in range(24):
        scene.light[200 + k // 3, 180 + k] += 60.0
    assert len(find(scene)) == 0


def test_a_defocused_line_is_no_streak(rng):
    scene = scenes.Scene((400, 400), 2.2, rng)
    scene.light += 12_000 * scenes.trail(scene.shape, 200.0, 200.0, 0.5, 40.0, 5.5)
    assert len(find(scene)) == 0


def test_light_beside_a_masked_track_is_no_streak(rng):
    scene = scenes.Scene((400, 400), 2.2, rng)
    scene.add_streak(200.0, 200.0, 0.0, 60.0, 12.0)
    assert len(find(scene)) == 1
    mask = np.zeros(scene.shape, np.uint16)
    mask[204:212] |= bits.TRACK
    assert len(find(scene, mask=mask)) == 0


def test_a_spike_of_a_bright_star_is_no_streak(rng):
    scene = scenes.Scene((400, 400), 2.2, rng)
    scene.add_streak(200.0, 230.0, 90.0, 30.0, 15.0)
    gaia = np.zeros(1, scenes.no_stars().dtype)
    gaia["gmag"] = 10.0
    gaia["ra"], gaia["dec"] = sky.tan_wcs(scene.shape).all_pix2world([200.5], [195.0], 0)
    assert len(find(scene, gaia=gaia)) == 0
    gaia["gmag"] = 15.0
    assert len(find(scene, gaia=gaia)) == 1


def test_a_streak_that_leaves_the_image_is_flagged(rng):
    scene = scenes.Scene((400, 400), 2.2, rng)
    scene.add_streak(395.0, 200.0, 20.0, 60.0, 25.0)
    scene.add_streak(200.0, 200.0, 20.0, 60.0, 25.0)
    table = find(scene)
    assert len(table) == 2
    cut = table[np.argmax(table["x"])]
    assert cut["flags"] & streaks.FLAG_EDGE
    assert not table[np.argmin(table["x"])]["flags"] & streaks.FLAG_EDGE


def test_a_trail_across_a_corner_is_no_streak(rng):
    scene = scenes.Scene((400, 400), 2.2, rng)
    scene.add_streak(382.0, 17.0, 45.0, 600.0, 300.0)  # fifty pixels of it lie on the image
    assert len(find(scene)) == 0


def test_blocked_pixels_are_bridged(rng):
    scene = scenes.Scene((400, 400), 2.2, rng)
    flux = scene.add_streak(200.0, 200.0, 70.0, 40.0, 20.0)
    scene.blocked[196:201] = True
    scene.light[196:201] = 0.0
    row = find(scene)[0]
    assert row["flux"] == pytest.approx(flux, rel=0.2)
    assert row["length"] == pytest.approx(40, abs=4)
    assert row["flags"] & streaks.FLAG_BAD


def test_a_search_that_breaks_off_is_a_note(rng, monkeypatch):
    scene = scenes.Scene((100, 100), 2.2, rng)

    def broken(*_):
        raise ValueError("no such line")

    monkeypatch.setattr(streaks, "find_lines", broken)
    wcs = sky.tan_wcs(scene.shape)
    mask = np.zeros(scene.shape, np.uint16)
    made = streaks.search_image(scene.images(), mask, scenes.header(), wcs, scenes.no_stars(), lambda *_: None, CONFIG)
    assert "ValueError" in made.note
    assert len(made.table) == 0


def test_step_finds_a_fast_mover_with_its_cutouts(rng):
    truth = sky.make_truth(rng, (264, 256), 120, 4, snr=15.0)
    scene = sky.make_scene(rng, truth)
    psf, image = sky.MoffatPsf(2.4), np.zeros((264, 256))
    n = 100
    t = ((np.arange(n) + 0.5) / n - 0.5) * 30
    x, y = 90.0 + t * np.cos(0.7), 150.0 + t * np.sin(0.7)
    sky.add_stars(image, psf, x, y, np.full(n, 4000.0 / n))
    scene.science.pixels[:] += image.astype(np.float32)
    inputs = DifferenceInputs(scene.science, scene.reference, *sky.empty_catalogs())
    made = run(inputs, DifferenceConfig.tiny())
    table = made.streaks.table
    assert len(table) == 1
    assert np.hypot(table["x"][0] - 90, table["y"][0] - 150) < 1.5
    assert table["flux"][0] == pytest.approx(4000, rel=0.15)
    assert made.qa["n_streaks"] == 1
    science, template, difference = made.streaks.cutouts[0]
    assert science.shape == template.shape == difference.shape == (71, 71)
    assert difference[35, 35] > 0
    without = run(inputs, DifferenceConfig.tiny().model_copy(update={"streaks": StreakConfig(enabled=False)}))
    assert len(without.streaks.table) == 0


@pytest.mark.realdata
def test_the_streak_of_a_real_image_is_found(real_data):
    pixels = fits.getdata(real_data / "streak" / "long.fits").astype(np.float32)
    scene = scenes.Scene(pixels.shape, 4.0, np.random.default_rng(1))
    level = np.median(pixels)
    noise = 1.4826 * np.median(np.abs(pixels - level))
    scene.light = (pixels - level).astype(float) * scenes.NOISE / noise
    images = scene.images(noisy=False)
    stamp = scene.psf.stamp.astype(float)
    assert images.scorr.shape == fftconvolve(pixels, stamp, mode="same").shape
    from ztfds.difference.streakfit import fit_lines
    from ztfds.difference.streaksearch import find_lines

    config = StreakConfig(max_length_px=400.0)
    fits_ = fit_lines(images, *find_lines(images, config), config)
    fits_ = fits_[fits_["length"] > 60]
    best = fits_[np.argmax(fits_["gain"])]
    dx, dy = 0.5 * best["length"] * np.cos(best["angle"]), 0.5 * best["length"] * np.sin(best["angle"])
    ends = sorted([(best["x"] - dx, best["y"] - dy), (best["x"] + dx, best["y"] + dy)])
    # Ends read off the image by eye.
    np.testing.assert_allclose(ends, [(21, 338), (338, 309)], atol=8)
    # In the survey's settings it is too long: a satellite.
    table, _ = streaks.find_streaks(
        images, np.zeros(pixels.shape, np.uint16), scenes.header(), sky.tan_wcs(pixels.shape), scenes.no_stars(), CONFIG
    )
    assert not np.any(np.abs(table["y"] - 325) < 12)
