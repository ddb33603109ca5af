"""How the inputs of a co-add agree with it: brightness and position of the same stars in every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ztfds.kernels.coadd import count_peaks, isolated_peaks

REACH_PX = 8
"""Half side of the box around a star."""
RADIUS_PX = 6.0
"""Of the aperture; nothing brighter than a tenth of the star is in the rest of the box."""
LEAST_SNR = 60.0
"""Height of a star's peak over the co-add's pixel noise."""
MOST_HEIGHT_DN = 12_000.0
"""Brighter peaks are near saturation in some frame."""
MOST_STARS = 4000
USED_STARS = 600
LEAST_STARS = 5
PEAK_SNR = 8.0
"""Height, sigmas of a pixel, of the peaks that are counted."""


@dataclass(frozen=True)
class Agreement:
    """Median departures of each frame from the co-add.

    Attributes
    ----------
    stars : int
        Isolated stars measured.
    magnitudes : (n,) float64
        Frame minus co-add, mag; NaN with fewer than 5 stars.
    shifts_px : (n, 2) float64
        (x, y) of frame minus co-add, px.
    star_scatter_mag : float
        Median over the frames of the scatter from star to star, mag: patchy transparency, wrong flats.
    asymmetry : float
        Median over the stars of what is left when the star is turned by 180 degrees and subtracted, as a part of its flux,
        noise taken out: joins of misplaced frames.
    source_ratio : float
        Peaks above `PEAK_SNR` in the co-add over those in the first (sharpest) frame, each by its own noise.
    """

    stars: int
    magnitudes: np.ndarray
    shifts_px: np.ndarray
    star_scatter_mag: float
    asymmetry: float
    source_ratio: float = float("nan")


def _robust(values: np.ndarray) -> float:
    """1.4826 times the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else float("nan")


def _stamps(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(m, 2 REACH + 1, 2 REACH + 1) float64 boxes around rows and columns `at`."""
    side = np.arange(-REACH_PX, REACH_PX + 1)
    return image[at[:, 0, None, None] + side[:, None], at[:, 1, None, None] + side[None, :]].astype(np.float64)


def _measure(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aperture flux, and x and y of the centroid under a Gaussian window, which follows the star."""
    side = np.arange(-REACH_PX, REACH_PX + 1)
    inside = np.hypot(side[:, None], side[None, :]) <= RADIUS_PX
    flux = (stamps * inside).sum(axis=(1, 2))
    x, y = np.zeros(len(stamps)), np.zeros(len(stamps))
    for _ in range(4):
        window = np.exp(
            -((side[None, None, :] - x[:, None, None]) ** 2 + (side[None, :, None] - y[:, None, None]) ** 2) / 4.5
        )
        light = stamps * window
        total = np.where(np.abs(light.sum(axis=(1, 2))) > 0, light.sum(axis=(1, 2)), np.nan)
        # a star's centroid under a window of its own size moves by half of the true offset: twice the step
        x += 2 * ((light * side[None, None, :]).sum(axis=(1, 2)) / total - x)
        y += 2 * ((light * side[None, :, None]).sum(axis=(1, 2)) / total - y)
    return flux, x, y


def find_stars(pixels: np.ndarray, sky_variance: float) -> np.ndarray:
    """(m, 2) int32: rows and columns of isolated stars far above the noise, at most `USED_STARS` all over the image."""
    found = np.empty((MOST_STARS, 2), np.int32)
    low = LEAST_SNR * float(np.sqrt(sky_variance))
    count = isolated_peaks(pixels, low, MOST_HEIGHT_DN, REACH_PX, found)
    return found[:count][:: max(1, -(-count // USED_STARS))]


def compare_frames(
    stack: np.ndarray, pixels: np.ndarray, sky_variance: float, variances: np.ndarray | None = None
) -> Agreement:
    """Measure isolated stars in the co-add and in every frame.

    Parameters
    ----------
    stack : (n, ny, nx) float32, DN
        Frames on the co-add's grid and flux scale, NaN where they have nothing.
    pixels : (ny, nx) float32, DN
        The co-add.
    sky_variance : float, DN^2
        Of an empty pixel of the co-add.
    variances : (n,) float64, DN^2, optional
        Of an empty pixel of each frame.

    Returns
    -------
    Agreement
    """
    at = find_stars(pixels, sky_variance)
    n = len(stack)
    magnitudes, shifts, scatter = np.full(n, np.nan), np.full((n, 2), np.nan), np.full(n, np.nan)
    if len(at) < LEAST_STARS:
        return Agreement(len(at), magnitudes, shifts, float("nan"), float("nan"))
    stamps = _stamps(pixels, at)
    flux, x, y = _measure(stamps)
    for k in range(n):
        own, u, v = _measure(_stamps(stack[k], at))
        good = np.isfinite(own) & np.isfinite(u) & (own > 0) & (flux > 0)
        if good.sum() >= LEAST_STARS:
            change = -2.5 * np.log10(own[good] / flux[good])
            magnitudes[k], scatter[k] = np.median(change), _robust(change)
            shifts[k] = np.median(u[good] - x[good]), np.median(v[good] - y[good])
    known = scatter[np.isfinite(scatter)]
    return Agreement(
        len(at), magnitudes, shifts, float(np.median(known)) if known.size else float("nan"),
        _asymmetry(stamps, flux, x, y, sky_variance), _source_ratio(stack, pixels, sky_variance, variances),
    )  # fmt: skip


def _source_ratio(stack: np.ndarray, pixels: np.ndarray, sky_variance: float, variances: np.ndarray | None) -> float:
    """Peaks in the co-add over peaks in the first frame; NaN where that shows none."""
    if variances is None:
        return float("nan")
    single = count_peaks(stack[0], PEAK_SNR * float(np.sqrt(variances[0])))
    return count_peaks(pixels, PEAK_SNR * float(np.sqrt(sky_variance))) / single if single else float("nan")


def _asymmetry(stamps: np.ndarray, flux: np.ndarray, x: np.ndarray, y: np.ndarray, sky_variance: float) -> float:
    """Median rotational asymmetry of stars near a pixel's centre, sum |I - I180| / (2 F) without what the noise makes.

    After Conselice, Bershady and Jangren 2000 (ApJ 529, 886). Only stars within 0.12 px of the centre of a pixel are used:
    turning the others would need interpolation.
    """
    centred = (np.hypot(x, y) < 0.12) & (flux > 0)
    if centred.sum() < LEAST_STARS:
        return float("nan")
    core = stamps[centred][:, REACH_PX - 4 : REACH_PX + 5, REACH_PX - 4 : REACH_PX + 5]
    turned = core[:, ::-1, ::-1]
    noise = 2 * sky_variance * core[0].size * 2 / np.pi
    whole = np.abs(core - turned).sum(axis=(1, 2)) - np.sqrt(noise * core[0].size)
    slope = np.hypot(x[centred], y[centred])  # an offset leaves a dipole of about this part of the flux
    return float(np.median(whole / (2 * flux[centred]) - 0.35 * slope))
