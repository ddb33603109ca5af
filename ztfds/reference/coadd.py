"""Outlier-rejected co-addition of calibrated images on one grid and at one zero point."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy.stats import norm

from ztfds.config.difference import ReferenceConfig
from ztfds.config.photometry import BackgroundConfig
from ztfds.kernels import coadd as kernels
from ztfds.kernels import resample as resample_kernels
from ztfds.kernels.stack import sorting_network
from ztfds.photometry.background import estimate
from ztfds.reference.grid import coarse_grid, number, resample_image, resample_mask, wcs_of
from ztfds.reference.products import ReferenceInput
from ztfds.survey import bits
from ztfds.survey.errors import MissingKeyword

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coadd:
    """Images of a co-add.

    Attributes
    ----------
    pixels, uncertainty : (ny, nx) float32, DN
        NaN without coverage.
    coverage : (ny, nx) float32
        Frames used.
    mask : (ny, nx) uint16
    gain : float
        Effective electrons per DN of a fully covered pixel.
    sky_variance : float, DN^2
        Variance of an empty, fully covered pixel.
    scales : tuple of float
        Factor that brought each input to the zero point.
    rejected_fraction : float
        Share of good samples that the outlier rejection dropped.
    """

    pixels: np.ndarray
    uncertainty: np.ndarray
    coverage: np.ndarray
    mask: np.ndarray
    gain: float
    sky_variance: float
    scales: tuple[float, ...]
    rejected_fraction: float


@dataclass(frozen=True)
class _Frame:
    """One input on the output grid: NaN where bad; saturated pixels kept apart."""

    pixels: np.ndarray
    saturated: np.ndarray
    scale: float
    sky_variance: float
    gain: float


def coadd(inputs: Sequence[ReferenceInput], wcs: WCS, shape: tuple[int, int], config: ReferenceConfig) -> Coadd:
    """Resample every input to (wcs, shape) and average what agrees.

    Each input is read once, so that the sequence may load its items as they are asked for; the stack of resampled
    frames, 4 bytes per pixel and input, is all that is kept.

    Parameters
    ----------
    inputs : sequence of ReferenceInput
    wcs, shape
        Output grid.
    config : ReferenceConfig

    Returns
    -------
    Coadd

    Raises
    ------
    MissingKeyword
        An input without MAGZP.
    """
    n = len(inputs)
    stack = np.empty((n, shape[0] * shape[1]), np.float32)
    saturated = np.zeros(shape, np.uint8)
    plateau = np.zeros(shape, np.float32)
    frames: list[tuple[float, float, float]] = []
    for k in range(n):
        frame = _frame(inputs[k], wcs, shape, config)
        saturated += frame.saturated
        plateau += np.where(frame.saturated, frame.pixels, np.float32(0))
        frame.pixels[frame.saturated] = np.nan
        stack[k] = frame.pixels.ravel()
        frames.append((frame.scale, frame.sky_variance, frame.gain))
    scales, variances, gains = (np.array(v) for v in zip(*frames, strict=True))
    pixels, uncertainty, coverage, rejected = combine(stack.reshape(n, *shape), variances, gains, config)
    mask = np.zeros(shape, np.uint16)
    mask[(saturated > 0) & (saturated >= 0.5 * n)] = bits.SATURATED
    empty = coverage == 0
    only = empty & (saturated > 0)
    pixels[only] = plateau[only] / saturated[only]
    uncertainty[only] = np.sqrt(np.maximum(pixels[only], 0) / gains.sum() + 1 / np.sum(1 / variances))
    mask[only] |= bits.SATURATED
    mask[empty & ~only] |= bits.NAN
    weights = 1 / variances
    gain = float(weights.sum() ** 2 / np.sum(weights**2 / gains))
    return Coadd(
        pixels, uncertainty, coverage, mask, gain, float(1 / weights.sum()), tuple(map(float, scales)), rejected
    )


def _frame(item: ReferenceInput, wcs: WCS, shape: tuple[int, int], config: ReferenceConfig) -> _Frame:
    """Sky out, holes bridged, resampled, scaled."""
    header = item.header
    magzp = number(header, "MAGZP", np.nan)
    if not np.isfinite(magzp):
        raise MissingKeyword(f"{header.get('FILENAME', 'an input image')} has no MAGZP")
    hard = ((item.mask & (bits.HARD_BAD & ~bits.SATURATED)) != 0) | ~np.isfinite(item.pixels)
    bright = (item.mask & bits.SATURATED) != 0
    sky = estimate(item.pixels, ~(hard | bright), BackgroundConfig(box_px=config.background_box_px))
    image = item.pixels - sky.level
    resample_kernels.fill_holes(image, hard, config.fill_rings)
    grid = coarse_grid(wcs, wcs_of(header), shape, config.grid_step_px)
    scale = float(10 ** (-0.4 * (magzp - config.reference_zeropoint_mag)))
    pixels = resample_image(image, grid, scale)
    flags = np.where(hard, np.uint16(bits.NAN), np.uint16(0)) | np.where(
        bright, np.uint16(bits.SATURATED), np.uint16(0)
    )
    moved = resample_mask(flags, grid, config.mask_reach, bits.NAN)
    pixels[(moved & bits.NAN) != 0] = np.nan
    saturated = ((moved & bits.SATURATED) != 0) & np.isfinite(pixels)
    return _Frame(pixels, saturated, scale, _sky_variance(sky.median_level, sky.rms_dn, header) * scale**2,
                  number(header, "GAIN", 6.2) / scale)  # fmt: skip


def _sky_variance(level: float, measured: float, header: fits.Header) -> float:
    """Variance of a sky pixel: measured, but not more than twice nor less than half of what level and read noise say.

    Where the sky was already taken out of the input, its level says nothing and the measured noise is used.
    """
    gain, noise = number(header, "GAIN", 6.2), number(header, "READNOI", 10.0)
    expected = max(level, 0.0) / gain + (noise / gain) ** 2
    if not np.isfinite(measured) or measured <= 0:
        return expected
    return float(measured**2) if level < 10.0 else float(np.clip(measured**2, 0.5 * expected, 2.0 * expected))


def combine(
    stack: np.ndarray, variances: np.ndarray, gains: np.ndarray, config: ReferenceConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Clipped inverse-variance weighted mean of aligned frames.

    Parameters
    ----------
    stack : (n, ny, nx) float32, DN
        NaN where a frame has nothing.
    variances : (n,) float, DN^2
        Variance of an empty pixel of each frame.
    gains : (n,) float
        Electrons per DN of each frame.
    config : ReferenceConfig

    Returns
    -------
    pixels, uncertainty, coverage : (ny, nx) float32
    rejected : float
        Share of the samples that were rejected.
    """
    n, shape = stack.shape[0], stack.shape[1:]
    flat = stack.reshape(n, -1)
    median, spread, count = (np.empty(flat.shape[1], np.float32) for _ in range(3))
    kernels.median_and_spread(flat, sorting_network(n), spread_scales(n), median, spread, count)
    brightest = np.empty(shape, np.float32)
    kernels.maximum_3x3(median.reshape(shape), brightest)
    pixels, uncertainty, coverage = (np.empty(flat.shape[1], np.float32) for _ in range(3))
    v, g = variances.astype(np.float32), gains.astype(np.float32)
    kernels.clipped_weighted_mean(
        flat, v, g, median, spread, brightest.ravel(), config.clip_sigma, config.clip_tolerance,
        pixels, uncertainty, coverage,
    )  # fmt: skip
    total = float(count.sum(dtype=np.float64))
    rejected = 1.0 - float(coverage.sum(dtype=np.float64)) / total if total else 0.0
    return pixels.reshape(shape), uncertainty.reshape(shape), coverage.reshape(shape), rejected


def spread_scales(n: int) -> np.ndarray:
    """Factor from the distance of order statistics c // 6 and c - 1 - c // 6 to sigma, for counts c = 0..n.

    Expected positions of normal order statistics by Blom's formula, Phi^-1((k - 0.375) / (c + 0.25)), k from 1.
    """
    scales = np.zeros(n + 1, np.float32)
    for c in range(2, n + 1):
        low = norm.ppf((c // 6 + 1 - 0.375) / (c + 0.25))
        scales[c] = 1 / (-2 * low) if low < 0 else 0.0
    return scales
