"""The outlier-rejecting stack that biases and flats share: block by block, straight from the raw integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from ztfds.config.detrend import StackConfig
from ztfds.kernels import stack as kernels

_NOISE_STEP = 13
_NORMAL_PIXELS = 65_536
_ROUNDS = 4
FillBlock = Callable[[int, slice, np.ndarray], None]
"""Writes the samples of one frame (number, rows, (rows, nx) float32 to fill)."""


@dataclass(frozen=True)
class Stack:
    """Result of a stack; all arrays (ny, nx).

    Attributes
    ----------
    mean, std, error : ndarray of float32
        Mean, standard deviation and standard error of the kept samples; the deviation is corrected for what clipping
        takes off normal noise.
    rejected : ndarray of uint8
        Samples left out of each pixel.
    noise : float
        Noise of one sample of a typical pixel, from the median of `std` without the bias of that.
    rejected_fraction : float
        Of all samples.
    """

    mean: np.ndarray
    std: np.ndarray
    error: np.ndarray
    rejected: np.ndarray
    noise: float
    rejected_fraction: float


@dataclass(frozen=True)
class Recipe:
    """What the clipped stack of n samples needs to know, and what it makes of unit normal noise.

    Attributes
    ----------
    n, trim : int
        Samples; order statistics number `trim` from either end measure the noise of a pixel.
    network : (m, 2) int32
        Comparators that bring the median and these two into place.
    kappa : float
        Rejection limit, sigmas.
    half_to_sigma : float
        1 / (mean of the smaller distance of these order statistics from the median).
    rms, median : float
        Root mean square and median of the standard deviations of kept samples.
    efficiency : float
        True scatter of the mean over the standard error that follows from the corrected deviation and the kept samples.
    """

    n: int
    trim: int
    network: np.ndarray
    kappa: float
    half_to_sigma: float
    rms: float = 1.0
    median: float = 1.0
    efficiency: float = 1.0

    def stack(self, samples: np.ndarray, typical: float, *planes: np.ndarray) -> int:
        """Run the kernel on (n, m) samples of a typical noise; `planes` are its mean, std, error and rejected, (m,)."""
        return kernels.clipped_stack(
            samples,
            self.network,
            self.trim,
            self.half_to_sigma,
            self.kappa,
            typical,
            1.0 / self.rms,
            self.efficiency,
            *planes,
        )

    def noise(self, std: np.ndarray) -> float:
        """Noise of one sample from the corrected deviations of many pixels."""
        return float(np.median(std)) * self.rms / self.median


def _planes(pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Room for mean, standard deviation, standard error and the number of rejected samples."""
    mean, std, error = (np.empty(pixels, np.float32) for _ in range(3))
    return mean, std, error, np.empty(pixels, np.uint8)


def trim_of(n: int) -> int:
    """Outliers on either side that cannot move the noise estimate of n samples; more than this rejected is too many."""
    return max(1, n // 5)


@lru_cache(maxsize=64)
def recipe(n: int, kappa: float) -> Recipe:
    """How to stack n frames.

    Rejecting the tails makes the deviations too small, and few frames make their distribution skew. All factors are
    measured with the stacking kernel itself on a fixed set of 65,536 x n normal numbers: good to 0.2 %.
    """
    trim = trim_of(n)
    network = kernels.selection_network(n, {trim, (n - 1) // 2, n // 2, n - 1 - trim})
    samples = np.random.default_rng(20170917).standard_normal((n, _NORMAL_PIXELS), np.float32)
    ordered = np.sort(samples, axis=0)
    median = 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])
    half = np.minimum(median - ordered[trim], ordered[n - 1 - trim] - median)
    plain = Recipe(n, trim, network, kappa, 1.0 / float(half.mean(dtype=np.float64)))
    mean, std, error, rejected = _planes(_NORMAL_PIXELS)
    plain.stack(samples, 1.0, mean, std, error, rejected)
    rms = float(np.sqrt(np.mean(std.astype(np.float64) ** 2)))
    expected = float(np.sqrt(np.mean((error / rms).astype(np.float64) ** 2)))
    return Recipe(
        n,
        trim,
        network,
        kappa,
        plain.half_to_sigma,
        rms,
        float(np.median(std)),
        float(mean.std(dtype=np.float64)) / expected,
    )


def noisy_threshold(n: int, config: StackConfig) -> float:
    """Factor over the median standard deviation above which a pixel is noisy.

    The factor of the real pipeline, unless so few frames are stacked that chance alone would put more than
    `noisy_false_rate` of good pixels above it: (n - 1) s^2 / sigma^2 follows chi-square with n - 1 degrees of freedom.
    """
    dof = n - 1
    chance = math.sqrt(stats.chi2.isf(config.noisy_false_rate, dof) / stats.chi2.median(dof))
    return max(config.noisy_factor, chance)


def noisy_pixels(stack: Stack, n: int, config: StackConfig) -> np.ndarray:
    """(ny, nx) bool: pixels whose samples scatter too much, or of which more were rejected than radiation can explain."""
    typical = float(np.median(stack.std[::4, ::4]))
    return (stack.std > noisy_threshold(n, config) * typical) | (stack.rejected > trim_of(n))


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
    how = recipe(n, config.clip_sigma)
    typical = _typical_noise(how, shape, fill, config.noise_rows, sigma_floor)
    mean, std, error, rejected = _planes(ny * nx)
    samples = np.empty((n, min(config.block_rows, ny) * nx), np.float32)
    kept = 0
    for first in range(0, ny, config.block_rows):
        rows = slice(first, min(first + config.block_rows, ny))
        count = rows.stop - first
        if count * nx != samples.shape[1]:
            samples = np.empty((n, count * nx), np.float32)
        for k in range(n):
            fill(k, rows, samples[k].reshape(count, nx))
        flat = slice(first * nx, rows.stop * nx)
        kept += how.stack(samples, typical, mean[flat], std[flat], error[flat], rejected[flat])
    return Stack(
        mean.reshape(shape), std.reshape(shape), error.reshape(shape), rejected.reshape(shape),
        how.noise(std[::_NOISE_STEP]), 1.0 - kept / (n * ny * nx),
    )  # fmt: skip


def _typical_noise(how: Recipe, shape: tuple[int, int], fill: FillBlock, rows: int, floor: float) -> float:
    """Noise of a sample of a typical pixel, from some rows; found by stacking them with the noise found before."""
    ny, nx = shape
    chosen = np.unique(np.linspace(0, ny - 1, rows).astype(int))
    samples = np.empty((how.n, chosen.size * nx), np.float32)
    for k in range(how.n):
        for i, row in enumerate(chosen):
            fill(k, slice(row, row + 1), samples[k, i * nx : (i + 1) * nx].reshape(1, nx))
    planes = _planes(samples.shape[1])
    typical = floor
    for _ in range(_ROUNDS):
        how.stack(samples, typical, *planes)
        typical = max(floor, how.noise(planes[1]))
    return typical
