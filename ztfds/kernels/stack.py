"""Kernels of outlier-rejecting stacks: a sorting network over vectors of pixels, then a clipped mean."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit

LANES = 256
"""Pixels sorted together: small enough for the first-level cache with 20 frames, long enough for vector instructions."""


def sorting_network(n: int) -> np.ndarray:
    """Comparators of Batcher's odd-even merge sort for `n` inputs.

    The network of the next power of two is pruned: a comparator with a wire beyond `n` would compare with +infinity
    and never swap (Batcher 1968, AFIPS 32, 307; Knuth vol. 3, 5.2.2M).

    Parameters
    ----------
    n : int
        Number of inputs, at least 1.

    Returns
    -------
    (m, 2) int32
        Pairs (low wire, high wire) in order of execution.
    """
    pairs = []
    size = 1 << max(n - 1, 0).bit_length()
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j in range(k % p, size - k, 2 * k):
                for i in range(min(k, size - j - k)):
                    low, high = i + j, i + j + k
                    if low // (2 * p) == high // (2 * p) and high < n:
                        pairs.append((low, high))
            k //= 2
        p *= 2
    return np.array(pairs, np.int32).reshape(-1, 2)


def selection_network(n: int, wanted: Iterable[int]) -> np.ndarray:
    """Comparators of `sorting_network` on which some of the sorted outputs depend; the other outputs stay unsorted.

    Parameters
    ----------
    n : int
        Number of inputs.
    wanted : iterable of int
        Wires that must end with their order statistic, from 0.

    Returns
    -------
    (m, 2) int32
        Pairs (low wire, high wire) in order of execution.
    """
    needed, kept = set(wanted), []
    for low, high in sorting_network(n)[::-1].tolist():
        if low in needed or high in needed:
            kept.append((low, high))
            needed |= {low, high}
    return np.array(kept[::-1], np.int32).reshape(-1, 2)


@njit("void(float32[:, ::1], int32[:, ::1], int64)", cache=True, nogil=True, error_model="numpy", fastmath=True)
def _sort_wires(wires: np.ndarray, network: np.ndarray, width: int) -> None:
    """Sort `wires` (n, LANES) along the first axis in each of the first `width` lanes."""
    for c in range(network.shape[0]):
        low = wires[network[c, 0]]
        high = wires[network[c, 1]]
        for i in range(width):
            x = low[i]
            y = high[i]
            low[i] = min(x, y)
            high[i] = max(x, y)


@njit(
    "int64(float32[:, ::1], int32[:, ::1], int64, float32, float32, float32, float32, float32,"
    " float32[::1], float32[::1], float32[::1], uint8[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
    fastmath=True,
)
def clipped_stack(
    samples: np.ndarray,
    network: np.ndarray,
    trim: int,
    half_to_sigma: float,
    kappa: float,
    typical: float,
    std_factor: float,
    error_factor: float,
    mean: np.ndarray,
    std: np.ndarray,
    error: np.ndarray,
    rejected: np.ndarray,
) -> int:
    """Outlier-rejected mean, standard deviation and standard error of each pixel of a stack.

    Samples further from the pixel's median than kappa * max(sigma, typical) are rejected. sigma is the smaller of the
    distances of two symmetric order statistics from the median, so that outliers on one side alone, which is what
    radiation makes, cannot move it while they are fewer than half. `typical` is the noise of a typical pixel: that of
    one pixel's few samples is uncertain and would reject good samples.

    Parameters
    ----------
    samples : (n, m) float32
        n frames of m pixels; finite.
    network : (c, 2) int32
        `selection_network` of the wires `trim`, (n - 1) // 2, n // 2 and n - 1 - `trim`.
    trim : int
        Order statistics number `trim` and n - 1 - `trim` are used.
    half_to_sigma : float
        1 / (expected smaller distance of these two from the median, for unit normal noise).
    kappa : float
        Rejection limit, sigmas.
    typical : float
        Smallest sigma, unit of the samples.
    std_factor : float
        By which the deviation of the kept samples is multiplied, to undo what the clipping takes off normal noise.
    error_factor : float
        The same for the standard error, whose clipped mean scatters a little more than a plain one.
    mean, std, error : (m,) float32
        Written: mean, standard deviation (n - 1) of the kept samples, and the latter over the root of their number.
    rejected : (m,) uint8
        Written: number of rejected samples.

    Returns
    -------
    int
        Number of kept samples of all pixels.
    """
    n, m = samples.shape
    wires = np.empty((n, LANES), np.float32)
    median = np.empty(LANES, np.float32)
    limit = np.empty(LANES, np.float32)
    count = np.empty(LANES, np.float32)
    total = np.empty(LANES, np.float32)
    squares = np.empty(LANES, np.float32)
    one = np.float32(1)
    kept = 0
    for start in range(0, m, LANES):
        width = min(LANES, m - start)
        for k in range(n):
            for i in range(width):
                wires[k, i] = samples[k, start + i]
        _sort_wires(wires, network, width)
        for i in range(width):
            median[i] = np.float32(0.5) * (wires[(n - 1) // 2, i] + wires[n // 2, i])
            half = min(median[i] - wires[trim, i], wires[n - 1 - trim, i] - median[i])
            limit[i] = kappa * max(half * half_to_sigma, typical)
            count[i] = 0
            total[i] = 0
            squares[i] = 0
        for k in range(n):
            for i in range(width):
                d = wires[k, i] - median[i]
                w = one if abs(d) <= limit[i] else np.float32(0)
                count[i] += w
                total[i] += w * d
                squares[i] += w * d * d
        kept_here = np.float32(0)
        for i in range(width):
            c = max(count[i], one)
            shift = total[i] / c
            mean[start + i] = median[i] + shift
            variance = max(squares[i] - shift * total[i], np.float32(0)) / max(c - one, one)
            deviation = std_factor * np.sqrt(variance)
            std[start + i] = deviation
            error[start + i] = error_factor * deviation / np.sqrt(c)
            rejected[start + i] = np.uint8(np.float32(n) - count[i])
            kept_here += count[i]
        kept += int(kept_here)
    return kept
