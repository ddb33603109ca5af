from __future__ import annotations

import moffat_scenes as scenes
import numpy as np
import pytest

from ztfds.config.photometry import BackgroundConfig
from ztfds.photometry.background import estimate


def usable(scene):
    return (scene.mask & 256) == 0


def test_empty_sky_level_and_noise(rng):
    scene = scenes.make(rng, shape=(512, 512), n=1, flux=[1.0], xy=[(5, 5)])
    sky = estimate(scene.pixels, usable(scene), BackgroundConfig(), scenes.GAIN, scenes.READNOISE)
    expected = np.sqrt(700.0 / scenes.GAIN + (scenes.READNOISE / scenes.GAIN) ** 2)
    assert sky.median_level == pytest.approx(700.0, abs=0.25)  # three sigma of 16 boxes
    assert sky.rms_dn == pytest.approx(expected, rel=0.01)
    assert sky.sigma_dn == pytest.approx(expected, rel=1e-3)


def test_crowding_moves_the_level_by_less_than_a_fifth_of_sigma(rng):
    """6000 stars a megapixel, as in the plane, add 10 DN to the mean; the mode must stay near the true sky."""
    scene = scenes.make(rng, shape=(512, 512), n=1570, slope=0.8)
    sky = estimate(scene.pixels, usable(scene), BackgroundConfig(), scenes.GAIN, scenes.READNOISE)
    assert scene.pixels.mean() - 700.0 > 7.0
    assert abs(sky.median_level - 700.0) < 2.2


def test_gradient_is_followed(rng):
    scene = scenes.make(rng, shape=(512, 640), n=100, sky_slope=0.2)
    sky = estimate(scene.pixels, usable(scene), BackgroundConfig(box_px=64))
    x = np.array([100.0, 320.0, 540.0])
    truth = 700.0 * (1 + 0.2 * (x / 640 - 0.5))
    np.testing.assert_allclose(sky.level_at(x, np.full(3, 256.0)), truth, atol=1.5)
    np.testing.assert_allclose(sky.level[256, [100, 320, 540]], truth, atol=1.5)


def test_map_and_positions_agree_to_rounding(rng):
    scene = scenes.make(rng, shape=(300, 333), n=40)
    sky = estimate(scene.pixels, usable(scene), BackgroundConfig(box_px=50))
    yy, xx = np.mgrid[0:300:7, 0:333:11]
    np.testing.assert_allclose(sky.level[yy, xx], sky.level_at(xx, yy), rtol=1e-5)
    np.testing.assert_allclose(sky.subtracted(scene.pixels, usable(scene)), scene.pixels - sky.level, atol=2e-3)


def test_masked_boxes_take_their_neighbours_value(rng):
    scene = scenes.make(rng, shape=(512, 512), n=1, flux=[1.0], xy=[(5, 5)])
    good = usable(scene)
    good[128:256, 128:256] = False
    scene.pixels[~good] = 5e4
    sky = estimate(scene.pixels, good, BackgroundConfig())
    assert sky.empty_boxes == 1
    assert sky.level_at(np.array([190.0]), np.array([190.0]))[0] == pytest.approx(700.0, abs=1.0)
    assert (sky.subtracted(scene.pixels, good)[~good] == 0).all()


def test_nothing_usable_gives_zero_level_and_no_crash():
    pixels = np.full((264, 256), np.nan, np.float32)
    sky = estimate(pixels, np.zeros(pixels.shape, bool), BackgroundConfig(box_px=64), 6.2, 10.0)
    assert sky.median_level == 0.0
    assert np.isnan(sky.rms_dn)
    assert sky.empty_boxes == 20


def test_constant_image_is_measured():
    pixels = np.full((128, 128), 12.5, np.float32)
    sky = estimate(pixels, np.ones(pixels.shape, bool), BackgroundConfig(box_px=64))
    assert sky.median_level == pytest.approx(12.5, abs=1e-3)
