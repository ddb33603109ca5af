"""White difference images with trailed sources, points and defects, painted with numpy from an analytic PSF."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from scipy.signal import fftconvolve

from ztfds.difference.candidates import MeasuredImages
from ztfds.difference.subtract import Tile, TilePsf

NOISE, MAGZP, SIZE, HALF = 9.0, 26.3, 25, 12
GRID = 64


def profile(fwhm: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Round Gaussian, unit sum, at offsets from its centre, pixels."""
    sigma = fwhm / 2.3548
    return np.exp(-(dx**2 + dy**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def trail(shape: tuple[int, int], x: float, y: float, angle: float, length: float, fwhm: float) -> np.ndarray:
    """A trailed source of unit flux: the mean of many points along it; (ny, nx) float64."""
    n = max(int(3 * length), 1)
    out = np.zeros(shape)
    for t in ((np.arange(n) + 0.5) / n - 0.5) * length:
        px, py = x + t * np.cos(angle), y + t * np.sin(angle)
        i0, i1 = max(0, round(px) - 8), min(shape[1], round(px) + 9)
        j0, j1 = max(0, round(py) - 8), min(shape[0], round(py) + 9)
        if i0 < i1 and j0 < j1:
            dx, dy = np.arange(i0, i1)[None, :] - px, np.arange(j0, j1)[:, None] - py
            out[j0:j1, i0:i1] += profile(fwhm, dx, dy) / n
    return out


def tile_psf(fwhm: float) -> TilePsf:
    """PSF of a difference with white noise."""
    offset = np.arange(SIZE) - HALF
    stamp = profile(fwhm, offset[None, :], offset[:, None])
    padded = np.zeros((GRID, GRID))
    padded[:SIZE, :SIZE] = stamp
    transform = np.fft.fft2(np.roll(padded, (-HALF, -HALF), (0, 1)))
    return TilePsf(
        stamp.astype(np.float32), transform, np.ones((GRID, GRID), complex), NOISE, NOISE / np.sqrt(np.sum(stamp**2))
    )


@dataclass
class Scene:
    """A difference image in the making; light is added to `light`, DN."""

    shape: tuple[int, int]
    fwhm: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.light = np.zeros(self.shape)
        self.blocked = np.zeros(self.shape, bool)
        self.psf = tile_psf(self.fwhm)

    def flux(self, snr: float, length: float) -> float:
        """Flux, DN, of a streak of a matched-filter S/N on this noise."""
        half = int(length / 2) + 12
        unit = trail((2 * half + 1, 2 * half + 1), half, half, 0.3, length, self.fwhm)
        return float(snr * NOISE / np.sqrt(np.sum(unit**2)))

    def add_streak(self, x: float, y: float, angle_deg: float, length: float, snr: float) -> float:
        """Paint a streak; returns its flux, DN."""
        flux = self.flux(snr, length)
        self.light += flux * trail(self.shape, x, y, np.radians(angle_deg), length, self.fwhm)
        return flux

    def images(self, noisy: bool = True) -> MeasuredImages:
        """What the search is given."""
        noise = self.rng.normal(0, NOISE, self.shape) if noisy else 0.0
        diff = (self.light + noise).astype(np.float32)
        stamp = self.psf.stamp.astype(float)
        score = fftconvolve(diff, stamp[::-1, ::-1], mode="same") / np.sum(stamp**2)
        ny, nx = self.shape
        tile = Tile((0, ny, 0, nx), (0, ny, 0, nx), self.psf.stamp, self.psf.stamp)
        return MeasuredImages(
            diff=diff,
            variance=np.full(self.shape, NOISE**2, np.float32),
            score=score.astype(np.float32),
            scorr=(score / self.psf.limit).astype(np.float32),
            bad=self.blocked.copy(),
            blocked=self.blocked,
            tiles=[tile],
            psfs=[self.psf],
            sigma_diff=NOISE,
            sigma_score=self.psf.limit,
            magzp=MAGZP,
            gain=6.2,
        )


def header() -> fits.Header:
    """The cards that a streak table is made from."""
    cards = {
        "OBSJD": 2458454.7712345,
        "EXPTIME": 30.0,
        "FILTERID": 2,
        "FIELDID": 600,
        "RCID": 22,
        "PROGRMID": 1,
        "PROGRMPI": "Nobody",
        "ASTRRMS1": 2e-5,
        "ASTRRMS2": 2e-5,
    }
    return fits.Header(list(cards.items()))


def no_stars() -> np.ndarray:
    """Gaia without rows."""
    return np.zeros(0, [("ra", "f8"), ("dec", "f8"), ("gmag", "f4")])
