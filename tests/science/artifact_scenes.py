"""Small scenes for the artefact tests: stars, radiation hits and trails made with numpy only, and an L.A.Cosmic to compare."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, convolve, median_filter

GAIN, READ_NOISE, SKY = 6.2, 10.0, 150.0


@dataclass
class Scene:
    pixels: np.ndarray  # DN
    stars: np.ndarray  # noiseless light of the stars, DN
    charge: np.ndarray  # charge of the hits, e-
    owner: np.ndarray  # number of the hit that left most charge in a pixel, -1 without

    @property
    def saturated(self) -> np.ndarray:
        return self.stars + SKY > 45000

    @property
    def noise(self) -> np.ndarray:
        return np.sqrt((self.stars + SKY) / GAIN + (READ_NOISE / GAIN) ** 2)


def profile(r2, fwhm, beta, gauss):
    """Moffat or Gaussian of unit flux at squared radii."""
    if gauss:
        s2 = (fwhm / 2.3548) ** 2
        return np.exp(-r2 / 2 / s2) / (2 * np.pi * s2)
    a2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    return (beta - 1) / np.pi / a2 * (1 + r2 / a2) ** -beta


def star_light(n, shape, fwhm, rng, beta=3.0, gauss=False, faintest=60.0, slope=0.8, subpixels=1):
    """n point sources with fluxes (DN) of a power law, Moffat or Gaussian, sampled at pixel centres.

    With `subpixels` above 1 the profile is averaged over the pixel: `fwhm` is then that of the optics alone.
    """
    light = np.zeros(shape)
    steps = (np.arange(subpixels) + 0.5) / subpixels - 0.5
    fluxes = np.minimum(faintest * rng.random(n) ** (-1 / slope), 2e6)
    for flux, x, y in zip(fluxes, rng.uniform(-3, shape[1] + 2, n), rng.uniform(-3, shape[0] + 2, n), strict=True):
        r = int(np.clip(12 + math.sqrt(flux) / 60, 12, 40))
        rows = slice(max(0, round(y) - r), min(shape[0], round(y) + r + 1))
        columns = slice(max(0, round(x) - r), min(shape[1], round(x) + r + 1))
        gy, gx = np.mgrid[rows, columns]
        for dy in steps:
            for dx in steps:
                r2 = (gx + dx - x) ** 2 + (gy + dy - y) ** 2
                light[rows, columns] += flux / subpixels**2 * profile(r2, fwhm, beta, gauss)
    return light


def hit_charge(n, shape, rng, electrons_per_px=1500.0, diffusion=0.25):
    """n straight tracks of exponential length, log-normal energy and a little charge diffusion, e-."""
    charge, owner = np.zeros(shape), np.full(shape, -1)
    for k in range(n):
        length, angle = rng.exponential(6) + 0.3, rng.uniform(0, 2 * np.pi)
        x, y = rng.uniform(2, shape[1] - 3), rng.uniform(2, shape[0] - 3)
        m = int(length * 40) + 8
        t = np.linspace(0, length, m)
        ix = np.rint(x + t * np.cos(angle) + rng.normal(0, diffusion, m)).astype(int)
        iy = np.rint(y + t * np.sin(angle) + rng.normal(0, diffusion, m)).astype(int)
        inside = (ix >= 0) & (ix < shape[1]) & (iy >= 0) & (iy < shape[0])
        energy = electrons_per_px * rng.lognormal(0, 0.6) * max(length, 1)
        np.add.at(charge, (iy[inside], ix[inside]), energy / m)
        owner[iy[inside], ix[inside]] = k
    return charge, owner


def make_scene(n_stars, n_hits, fwhm, rng, shape=(400, 400), gauss=False, subpixels=1):
    stars = star_light(n_stars, shape, fwhm, rng, gauss=gauss, subpixels=subpixels)
    charge, owner = hit_charge(n_hits, shape, rng)
    electrons = rng.poisson((stars + SKY) * GAIN) + charge + rng.normal(0, READ_NOISE, shape)
    return Scene((electrons / GAIN).astype(np.float32), stars, charge, owner)


def trail_light(shape, x0, y0, x1, y1, peak, fwhm=2.5):
    """A straight trail of Gaussian cross-section between two points, DN."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    span = math.hypot(x1 - x0, y1 - y0)
    ux, uy = (x1 - x0) / span, (y1 - y0) / span
    across = -(x - x0) * uy + (y - y0) * ux
    along = (x - x0) * ux + (y - y0) * uy
    return peak * np.exp(-(across**2) / 2 / (fwhm / 2.3548) ** 2) * ((along >= 0) & (along <= span))


def lacosmic(pixels, gain=GAIN, read_noise=READ_NOISE, sigclip=4.5, sigfrac=0.3, objlim=5.0, iterations=4):
    """van Dokkum (2001, PASP 113, 1420) as published, with scipy filters; boolean mask."""
    clean, mask = pixels * gain, np.zeros(pixels.shape, bool)
    kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], float)
    box = np.ones((3, 3))
    for _ in range(iterations):
        fine = np.kron(clean, np.ones((2, 2)))
        laplacian = np.maximum(convolve(fine, kernel, mode="nearest"), 0)
        laplacian = laplacian.reshape(pixels.shape[0], 2, pixels.shape[1], 2).mean((1, 3))
        noise = np.sqrt(np.maximum(median_filter(clean, 5), 1e-5) + read_noise**2)
        s = laplacian / (2 * noise)
        s -= median_filter(s, 5)
        smooth = median_filter(clean, 3)
        structure = np.maximum((smooth - median_filter(smooth, 7)) / noise, 0.01)
        hit = (s > sigclip) & (s / structure > objlim)
        hit = binary_dilation(hit, box) & (s > sigclip)
        hit = binary_dilation(hit, box) & (s > sigclip * sigfrac)
        if not (hit & ~mask).any():
            break
        mask |= hit
        holes = np.where(mask, np.nan, clean)
        for y, x in np.argwhere(mask):
            around = holes[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            clean[y, x] = np.nanmedian(around) if np.isfinite(around).any() else SKY * gain
    return mask
