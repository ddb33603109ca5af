"""Scenes that several photometry tests share; each is measured once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ztfds.config.photometry import PhotometryConfig

sys.path.insert(0, str(Path(__file__).parent))
import moffat_scenes as scenes
from moffat_scenes import measured


@pytest.fixture(scope="session")
def isolated():
    """Stars 26 pixels apart, S/N 5 to 500, elliptical PSF whose width changes by 8 % over the field: scene, result, PSF."""
    rng = np.random.default_rng(20180301)
    side = np.arange(20.0, 640.0, 26.0)
    grid = np.array([(x, y) for y in side for x in side])
    xy = grid + rng.uniform(-0.5, 0.5, grid.shape)
    flux = np.exp(rng.uniform(np.log(230.0), np.log(120_000.0), len(xy)))
    scene = scenes.make(rng, shape=(640, 652), xy=xy, flux=flux, fwhm_slope=0.08, q=0.93, sky_slope=0.05)
    photometry, psf = measured(scene)
    return scene, photometry, psf


@pytest.fixture(scope="session")
def tiny_field():
    """Four fields as the tiny camera sees them, about 90 stars each: list of (scene, result, PSF)."""
    fields = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        scene = scenes.make(rng, n=90, slope=0.5, faint=300.0)
        fields.append((scene, *measured(scene, PhotometryConfig.tiny())))
    return fields
