"""How faint an image sees: the limiting magnitude, from the catalog's errors and from sky noise and PSF."""

from __future__ import annotations

import numpy as np

from ztfds.photometry.background import Background
from ztfds.photometry.psf import PsfModel

FAINT_SNR = (3.0, 12.0)  # sources in this range of S/N have the error of a source at the limit
MIN_SOURCES = 10


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
