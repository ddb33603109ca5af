from __future__ import annotations

import moffat_scenes as scenes
import numpy as np
import pytest
from scipy.spatial import cKDTree

from ztfds.config.photometry import DetectionConfig, PhotometryConfig
from ztfds.photometry import measure
from ztfds.photometry.detection import half_sample_mode, matched_filter, measure_shapes, saturated_cores


def prepare(scene, config=None):
    return measure.prepare(
        scene.pixels, scene.mask, scenes.GAIN, scenes.READNOISE, scenes.SATURATE, config or PhotometryConfig()
    )


def test_filter_has_no_sum_and_declares_its_own_noise(rng):
    filt = matched_filter(2.4, DetectionConfig())
    constant = filt.apply(np.full((60, 60), 100.0, np.float32))
    assert np.abs(constant[20:40, 20:40]).max() < 1e-3
    noise = filt.apply(rng.normal(0, 1, (600, 600)).astype(np.float32))
    assert noise[20:-20, 20:-20].std() == pytest.approx(filt.noise_gain, rel=0.01)


@pytest.mark.parametrize("fwhm", [1.6, 2.2, 3.0, 4.5])
def test_seeing_is_measured(rng, fwhm):
    scene = scenes.make(rng, shape=(400, 400), n=80, fwhm=fwhm, faint=3000.0)
    sampled = np.hypot(fwhm, 0.87)
    assert prepare(scene).fwhm_px == pytest.approx(sampled, rel=0.06)


def test_completeness_and_false_detections(rng):
    """At S/N 8 and more nearly all isolated stars are found; in an empty megapixel at 4 sigma some 20 are false."""
    side = np.arange(20.0, 600.0, 20.0)
    xy = np.array([(x, y) for y in side for x in side]) + rng.uniform(-0.5, 0.5, (side.size**2, 2))
    scene = scenes.make(rng, shape=(620, 620), xy=xy, flux=np.full(len(xy), 370.0))
    found = prepare(scene).found
    distance, _ = cKDTree(np.c_[found.x, found.y]).query(xy)
    assert (distance < 1.0).mean() > 0.985
    away, _ = cKDTree(xy).query(np.c_[found.x, found.y])
    assert (away > 3.0).sum() < 25


def test_a_bright_star_makes_no_swarm_of_sources(rng):
    scene = scenes.make(rng, shape=(264, 256), xy=[(128.2, 130.4)], flux=[1.2e5], half=60)
    found = prepare(scene, PhotometryConfig.tiny()).found
    near = np.hypot(found.x - 128.2, found.y - 130.4) < 40
    assert near.sum() <= 2


def test_shapes_give_centroid_and_ellipticity(rng):
    xy = np.array([(50.3, 60.6), (150.1, 80.9)])
    scene = scenes.make(rng, shape=(150, 200), xy=xy, flux=[60_000.0, 50_000.0], q=0.8)
    prepared = prepare(scene, PhotometryConfig.tiny())
    shapes = measure_shapes(prepared.data, prepared.usable, prepared.found, prepared.fwhm_px)
    found = np.c_[shapes.x[:2], shapes.y[:2]]
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], xy, atol=0.03)
    assert ((shapes.ellipticity[:2] > 0.07) & (shapes.ellipticity[:2] < 0.22)).all()


def test_saturated_group_with_a_bleed_trail_is_centred_on_the_star():
    saturated = np.zeros((120, 120), bool)
    yy, xx = np.mgrid[0:120, 0:120]
    saturated |= np.hypot(xx - 40, yy - 50) < 5
    saturated[20:100, 40] = True
    x, y, radius = saturated_cores(saturated)
    assert (x[0], y[0]) == (pytest.approx(40, abs=0.5), pytest.approx(50, abs=1.5))
    assert 4 < radius[0] < 8


def test_half_sample_mode_finds_the_densest_place(rng):
    values = np.sort(np.r_[rng.normal(2.2, 0.03, 60), rng.uniform(2.0, 8.0, 60)])
    assert half_sample_mode(values) == pytest.approx(2.2, abs=0.05)


def test_empty_and_unusable_images_give_no_detections(rng):
    blank = scenes.make(rng, shape=(264, 256), n=1, flux=[0.0])
    assert len(prepare(blank, PhotometryConfig.tiny()).found) < 12
    blank.pixels[:] = np.nan
    assert len(prepare(blank, PhotometryConfig.tiny()).found) == 0
