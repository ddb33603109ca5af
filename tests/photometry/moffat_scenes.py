"""Artificial star fields with known truth: pixel-integrated elliptical Moffat profiles that vary over the field."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from ztfds.config.photometry import PhotometryConfig
from ztfds.photometry import measure

GAIN, READNOISE, SATURATE = 6.2, 10.0, 49_000.0
NODES, WEIGHTS = np.polynomial.legendre.leggauss(5)


@dataclass
class Scene:
    """Pixels (DN), mask, and the stars that are in them (x, y pixels, 0-based; flux DN)."""

    pixels: np.ndarray
    mask: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    extra: dict = field(default_factory=dict)


def moffat_stamp(x, y, fwhm, beta, q, theta, half):
    """Pixel-integrated Moffat of unit flux (5 x 5 Gauss-Legendre points a pixel) on (2 half + 1)^2 pixels about (x, y)."""
    ix, iy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    offset = (np.arange(-half, half + 1)[:, None] + 0.5 * NODES[None, :]).ravel()
    dx, dy = np.meshgrid(offset + ix - x, offset + iy - y)
    c, s = np.cos(theta), np.sin(theta)
    u, v = c * dx + s * dy, -s * dx + c * dy
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    r2 = u * u * q + v * v / q
    value = (beta - 1) / np.pi / alpha**2 * (1 + r2 / alpha**2) ** -beta
    n = 2 * half + 1
    value = value.reshape(n, 5, n, 5)
    return ix, iy, np.einsum("jqip,q,p->ji", value, WEIGHTS / 2, WEIGHTS / 2)


def make(
    rng,
    shape=(264, 256),
    n=80,
    sky=700.0,
    fwhm=2.2,
    beta=3.0,
    q=1.0,
    fwhm_slope=0.0,
    flux=None,
    xy=None,
    slope=1.0,
    faint=300.0,
    bright=60_000.0,
    sky_slope=0.0,
    half=20,
):
    """A noisy scene. Fluxes follow N(>F) ~ F^-slope between faint and bright unless given."""
    ny, nx = shape
    if xy is None:
        x, y = rng.uniform(-0.5, nx - 0.5, n), rng.uniform(-0.5, ny - 0.5, n)
    else:
        x, y = np.asarray(xy, float).T
    if flux is None:
        u = rng.uniform(size=x.size)
        flux = (faint**-slope + u * (bright**-slope - faint**-slope)) ** (-1 / slope)
    flux = np.asarray(flux, float)
    _, ii = np.mgrid[0:ny, 0:nx]
    model = sky * (1 + sky_slope * (ii / nx - 0.5))
    for k in range(x.size):
        width = fwhm * (1 + fwhm_slope * (x[k] / nx - 0.5))
        h = half if flux[k] > 2000 else 12
        ix, iy, stamp = moffat_stamp(x[k], y[k], width, beta, q, 0.6, h)
        x0, x1, y0, y1 = max(0, ix - h), min(nx, ix + h + 1), max(0, iy - h), min(ny, iy + h + 1)
        if x1 > x0 and y1 > y0:
            model[y0:y1, x0:x1] += flux[k] * stamp[y0 - iy + h : y1 - iy + h, x0 - ix + h : x1 - ix + h]
    electrons = rng.poisson(np.maximum(model, 0) * GAIN) + rng.normal(0, READNOISE, model.shape)
    pixels = (electrons / GAIN).astype(np.float32)
    mask = np.zeros(shape, np.uint16)
    mask[pixels > SATURATE] |= 256
    return Scene(pixels, mask, x, y, flux)


def match(scene, catalog, radius=1.0, edge=8):
    """Indices (truth, catalog) of the pairs within `radius` pixels, away from the edges."""
    ny, nx = scene.pixels.shape
    distance, which = cKDTree(np.c_[catalog["xpos"], catalog["ypos"]]).query(np.c_[scene.x, scene.y])
    good = (distance < radius) & (scene.x > edge) & (scene.y > edge) & (scene.x < nx - edge) & (scene.y < ny - edge)
    return np.flatnonzero(good), which[good]


def measured(scene, config=None):
    """Photometry and PSF of a scene by the whole chain."""
    config = config or PhotometryConfig()
    prepared = measure.prepare(scene.pixels, scene.mask, GAIN, READNOISE, SATURATE, config)
    psf = measure.model_psf(prepared, config)
    return measure.fit_scene(prepared, psf, config)
