"""The outlier-rejecting stack that biases and flats share: block by block, straight from the raw integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import integrate, stats

from ztfds.config.detrend import StackConfig
from ztfds.kernels import stack as kernels

FillBlock = Callable[[int, slice, np.ndarray], None]
"""Writes the samples of one frame (number, rows, (rows, nx) float32 to fill)."""


@dataclass(frozen=True)
class Stack:
    """Result of a stack; all arrays (ny, nx) float32.

    Attributes
    ----------
    mean, std : ndarray
        Mean and standard deviation of the kept samples; the latter corrected for the clipping of normal noise.
    kept : ndarray
        Number of kept samples.
    """

    mean: np.ndarray
    std: np.ndarray
    kept: np.ndarray

    @property
    def uncertainty(self) -> np.ndarray:
        """Standard error of the mean."""
        return self.std / np.sqrt(np.maximum(self.kept, 1.0))


@lru_cache(maxsize=64)
def order_statistic_distance(n: int, trim: int) -> float:
    """Expected distance of the order statistics `trim` and n - 1 - `trim` (from 0) of n unit normal numbers.

    E[X_(r)] = n! / ((r-1)! (n-r)!) * int x Phi(x)^(r-1) (1 - Phi(x))^(n-r) phi(x) dx with r = n - trim (David & Nagaraja,
    Order Statistics, 2003, eq. 3.1.1); the distance is twice that.
    """
    r = n - trim
    factor = math.exp(math.lgamma(n + 1) - math.lgamma(r) - math.lgamma(n - r + 1))

    def integrand(x: float) -> float:
        return float(x * stats.norm.cdf(x) ** (r - 1) * stats.norm.sf(x) ** (n - r) * stats.norm.pdf(x))

    return 2.0 * factor * integrate.quad(integrand, -9.0, 9.0, limit=200)[0]


def truncation_factor(kappa: float) -> float:
    """Standard deviation of normal noise cut at +-kappa sigma, relative to the uncut one."""
    inside = 2.0 * stats.norm.cdf(kappa) - 1.0
    return math.sqrt(1.0 - 2.0 * kappa * stats.norm.pdf(kappa) / inside)


def noisy_threshold(n: int, config: StackConfig) -> float:
    """Factor over the median standard deviation above which a pixel is noisy.

    The factor of the real pipeline, unless so few frames are stacked that chance alone would put more than
    `noisy_false_rate` of good pixels above it: (n - 1) s^2 / sigma^2 follows chi-square with n - 1 degrees of freedom.
    """
    dof = n - 1
    chance = math.sqrt(stats.chi2.isf(config.noisy_false_rate, dof) / stats.chi2.median(dof))
    return max(config.noisy_factor, chance)


def stack_frames(n: int, shape: tuple[int, int], fill: FillBlock, config: StackConfig, sigma_floor: float) -> Stack:
    """Stack `n` frames with outlier rejection, `config.block_rows` rows at a time.

    Parameters
    ----------
    n : int
        Number of frames.
    shape : (ny, nx)
        Shape of a frame.
    fill : callable
        Gives the samples of frame k in some rows; they must be finite.
    config : StackConfig
    sigma_floor : float
        Smallest noise of a sample, its unit.
    """
    ny, nx = shape
    trim = max(1, n // 6)
    network = kernels.sorting_network(n)
    to_sigma = 1.0 / order_statistic_distance(n, trim)
    mean, std, kept = (np.empty(ny * nx, np.float32) for _ in range(3))
    samples = np.empty((n, min(config.block_rows, ny) * nx), np.float32)
    for first in range(0, ny, config.block_rows):
        rows = slice(first, min(first + config.block_rows, ny))
        count = rows.stop - first
        if count * nx != samples.shape[1]:
            samples = np.empty((n, count * nx), np.float32)
        for k in range(n):
            fill(k, rows, samples[k].reshape(count, nx))
        flat = slice(first * nx, rows.stop * nx)
        kernels.clipped_stack(
            samples, network, trim, to_sigma, config.clip_sigma, sigma_floor, mean[flat], std[flat], kept[flat]
        )
    std /= np.float32(truncation_factor(config.clip_sigma))
    return Stack(mean.reshape(shape), std.reshape(shape), kept.reshape(shape))
