"""How faint an image sees: from the catalog's errors, from sky noise and PSF, and by artificial stars put into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ztfds.config.photometry import DetectionConfig, InjectionConfig
from ztfds.kernels.psf import paint
from ztfds.photometry.background import Background
from ztfds.photometry.detection import find_sources
from ztfds.photometry.fit import PsfPhotometry
from ztfds.photometry.psf import PsfModel

FAINT_SNR = (3.0, 12.0)  # sources in this range of S/N have the error of a source at the limit
MIN_SOURCES = 10
HALF_STAMP = 13  # pixels: a star's PSF, and the matched filter about its centre, fit in
PLASTIC = 1.32471795724474602596  # root of x^3 = x + 1, of the two-dimensional low-discrepancy sequence


def limiting_flux_catalog(psfcat: np.ndarray, snr: float = 5.0) -> float:
    """Flux (DN) of a source of the given S/N: median error of clean faint sources; NaN with fewer than 10 of them."""
    faint = (psfcat["snr"] > FAINT_SNR[0]) & (psfcat["snr"] < FAINT_SNR[1]) & (psfcat["flags"] == 0)
    if faint.sum() < MIN_SOURCES:
        return float("nan")
    return float(snr * np.median(psfcat["sigflux"][faint]))


def limiting_flux_formula(background: Background, psf: PsfModel, gain: float, snr: float = 5.0) -> float:
    """Flux (DN) at the given S/N of an optimal PSF measurement at the image centre.

    F = snr sqrt(N sky + F / gain), with N = 1 / sum(P^2) noise pixels and the sky variance of a pixel in DN^2.
    """
    sky = psf.noise_pixels() * background.sigma_dn**2
    half = 0.5 * snr**2 / gain
    return float(half + np.sqrt(half**2 + snr**2 * sky))


@dataclass(frozen=True)
class Injected:
    """What became of artificial stars.

    Attributes
    ----------
    flux_dn : (levels,) float64
        Their fluxes, DN.
    number, recovered : (levels,) int64
        How many of each flux were put in and found again.
    """

    flux_dn: np.ndarray
    number: np.ndarray
    recovered: np.ndarray

    def fraction_at(self, flux_dn: float) -> float:
        """Recovered fraction at a flux, 0..1, interpolated in the logarithm of the flux; NaN if none could be put in."""
        if not self.number.all():
            return float("nan")
        found = np.maximum.accumulate(self.recovered / self.number)
        return float(np.interp(np.log(flux_dn), np.log(self.flux_dn), found))

    @property
    def half_flux_dn(self) -> float:
        """Flux, DN, at which half of the stars are found; NaN if the fluxes do not span it."""
        if not self.number.all():
            return float("nan")
        found = np.maximum.accumulate(self.recovered / self.number)
        if not found[0] < 0.5 <= found[-1]:
            return float("nan")
        k = int(np.argmax(found >= 0.5))
        part = (0.5 - found[k - 1]) / (found[k] - found[k - 1])
        return float(np.exp(np.interp(part, [0, 1], np.log(self.flux_dn[k - 1 : k + 1]))))


def inject(
    photometry: PsfPhotometry,
    data: np.ndarray,
    usable: np.ndarray,
    psf: PsfModel,
    gain: float,
    limit_dn: float,
    detection: DetectionConfig,
    config: InjectionConfig,
) -> Injected:
    """Put artificial stars of about the limiting flux into an image and look for them as for all others.

    Positions are a low-discrepancy sequence (Roberts 2018, R2) over the usable pixels of the image, whatever lies near
    them. The stars, with their photon noise, are added to the image from which all fitted sources are subtracted; only
    stamps around them are searched, put together to one small image, by `detection.find_sources` with its usual limit. A
    star is recovered when something is detected within `config.radius_fwhm` of it that was not there before.

    Parameters
    ----------
    photometry : PsfPhotometry
        Residual image and sky.
    data : (ny, nx) float32
        Sky-subtracted image, DN.
    usable : (ny, nx) bool
    psf : PsfModel
    gain : float
        e-/DN.
    limit_dn : float
        Flux about which to inject, DN.
    detection : DetectionConfig
    config : InjectionConfig

    Returns
    -------
    Injected
        The same inputs always give the same numbers: the noise has a fixed seed.
    """
    x, y = _positions(usable, config.number * len(config.levels))
    level = np.arange(x.size) % len(config.levels)
    fluxes = limit_dn * np.asarray(config.levels)
    stars = np.zeros(data.shape, np.float32)
    reach = np.full(x.size, float(HALF_STAMP - 1))
    paint(stars, psf.phased, x, y, fluxes[level], reach, np.ones(x.size, bool), 1.0)
    ix, iy = np.rint(x).astype(int), np.rint(y).astype(int)
    rows, columns = _stamps(ix, iy)
    added = stars[rows, columns]
    added += np.random.default_rng(x.size).normal(size=added.shape) * np.sqrt(np.maximum(added, 0) / gain)
    before, whole = photometry.residual[rows, columns], data[rows, columns]
    # Every stamp is brought to the same noise of the sky, so that one number holds for the small image.
    scale = (photometry.background.sigma_dn / np.sqrt(photometry.background.variance_at(x, y)))[:, None, None]
    good = usable[rows, columns]
    places = x - ix, y - iy
    seen = [
        _seen(residual * scale, light * scale, good, places, photometry.background, psf, gain, detection, config)
        for residual, light in ((before, whole), (before + added, whole + added))
    ]
    number = np.bincount(level, minlength=len(fluxes))
    return Injected(fluxes, number, np.bincount(level[seen[1] & ~seen[0]], minlength=len(fluxes)))


def _positions(usable: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `n` positions, (x, y) in pixels, on usable pixels away from the edge."""
    ny, nx = usable.shape
    if min(ny, nx) < 4 * HALF_STAMP:
        return np.empty(0), np.empty(0)
    k = np.arange(1, 3 * n + 1)
    x = HALF_STAMP + (k / PLASTIC % 1.0) * (nx - 1 - 2 * HALF_STAMP)
    y = HALF_STAMP + (k / PLASTIC**2 % 1.0) * (ny - 1 - 2 * HALF_STAMP)
    chosen = np.flatnonzero(usable[np.rint(y).astype(int), np.rint(x).astype(int)])[:n]
    return x[chosen], y[chosen]


def _stamps(ix: np.ndarray, iy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of square stamps, (n, side, side) after indexing."""
    offset = np.arange(-HALF_STAMP, HALF_STAMP + 1)
    return (iy[:, None] + offset)[:, :, None], (ix[:, None] + offset)[:, None, :]


def _seen(
    residual: np.ndarray,
    light: np.ndarray,
    good: np.ndarray,
    places: tuple[np.ndarray, np.ndarray],
    background: Background,
    psf: PsfModel,
    gain: float,
    detection: DetectionConfig,
    config: InjectionConfig,
) -> np.ndarray:
    """(n,) bool: stamps (n, side, side) in which something is detected at the offset `places` from their centre."""
    n, side = residual.shape[0], residual.shape[1]
    if n == 0:
        return np.zeros(0, bool)
    small = Background(
        np.zeros((1, 1), np.float32), np.full((1, 1), background.sigma_dn, np.float32),
        np.full((1, 1), background.sigma_dn**2, np.float32), n * side, (n * side, side),
    )  # fmt: skip
    column = [np.ascontiguousarray(stamps.reshape(n * side, side)) for stamps in (residual, light, good)]
    column[0][~column[2]] = 0
    found = find_sources(
        column[0].astype(np.float32), column[1].astype(np.float32), column[2], small, gain, psf.fwhm_px, detection,
        detection.limit_snr,
    )  # fmt: skip
    which = np.clip(np.rint(found.y).astype(int) // side, 0, n - 1)
    away = np.hypot(found.x - HALF_STAMP - places[0][which], found.y - which * side - HALF_STAMP - places[1][which])
    seen = np.zeros(n, bool)
    seen[which[away <= config.radius_fwhm * psf.fwhm_px]] = True
    return seen
