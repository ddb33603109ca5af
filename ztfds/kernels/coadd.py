"""Kernels of the co-add: median and spread of each pixel of a stack with gaps, then the clipped weighted mean."""

from __future__ import annotations

import numpy as np
from numba import njit

LANES = 256
"""Pixels sorted together."""


@njit("void(f4[:, ::1], i4[:, ::1], f4[::1], f4[::1], f4[::1], f4[::1])", cache=True, nogil=True)
def median_and_spread(
    stack: np.ndarray,
    network: np.ndarray,
    spread_scale: np.ndarray,
    median: np.ndarray,
    spread: np.ndarray,
    count: np.ndarray,
) -> None:
    """Median and robust sigma of each pixel over the frames that have it.

    Sigma is the distance of two symmetric order statistics (number c // 6 from either end, c = frames that have the
    pixel) times `spread_scale[c]`.

    Parameters
    ----------
    stack : (n, m) float32
        n frames of m pixels; NaN where a frame has no good pixel.
    network : (k, 2) int32
        Sorting network for n inputs.
    spread_scale : (n + 1,) float32
        Factor from the distance of the order statistics to sigma, for each count.
    median, spread, count : (m,) float32
        Written; median and spread are NaN where count is 0.
    """
    n, m = stack.shape
    wires = np.empty((n, LANES), np.float32)
    for start in range(0, m, LANES):
        width = min(LANES, m - start)
        for i in range(width):
            count[start + i] = 0
        for k in range(n):
            for i in range(width):
                value = stack[k, start + i]
                known = value == value
                wires[k, i] = value if known else np.float32(np.inf)
                count[start + i] += np.float32(1) if known else np.float32(0)
        for c in range(network.shape[0]):
            low, high = wires[network[c, 0]], wires[network[c, 1]]
            for i in range(width):
                x, y = low[i], high[i]
                low[i] = x if x < y else y
                high[i] = y if x < y else x
        for i in range(width):
            c = int(count[start + i])
            if c == 0:
                median[start + i] = spread[start + i] = np.float32(np.nan)
                continue
            median[start + i] = np.float32(0.5) * (wires[(c - 1) // 2, i] + wires[c // 2, i])
            spread[start + i] = (wires[c - 1 - c // 6, i] - wires[c // 6, i]) * spread_scale[c]


@njit("void(f4[:, ::1], f4[:, ::1])", cache=True, nogil=True)
def maximum_3x3(image: np.ndarray, out: np.ndarray) -> None:
    """Largest value of each pixel's 3 x 3 neighbourhood, at least 0; NaN counts as 0."""
    ny, nx = image.shape
    rows = np.empty((3, nx), np.float32)
    for j in range(ny):
        for b in range(3):
            y = min(max(j - 1 + b, 0), ny - 1)
            for i in range(nx):
                v = image[y, i]
                rows[b, i] = v if v > 0 else np.float32(0)
        for i in range(nx):
            rows[0, i] = max(rows[0, i], rows[1, i], rows[2, i])
        for i in range(nx):
            out[j, i] = max(rows[0, max(i - 1, 0)], rows[0, i], rows[0, min(i + 1, nx - 1)])


@njit(
    "void(f4[:, ::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4, f4, f4[::1], f4[::1], f4[::1])",
    cache=True,
    nogil=True,
)
def clipped_weighted_mean(
    stack: np.ndarray,
    sky_variance: np.ndarray,
    gain: np.ndarray,
    median: np.ndarray,
    spread: np.ndarray,
    brightest: np.ndarray,
    kappa: float,
    tolerance: float,
    mean: np.ndarray,
    uncertainty: np.ndarray,
    coverage: np.ndarray,
) -> None:
    """Inverse-variance weighted mean of the samples that agree with the pixel's median.

    A sample is rejected where |v - median| > kappa max(e, min(s, 3 e)), with
    e^2 = sky variance + median / gain + (tolerance x brightest)^2 and s the robust sigma. The last term keeps star
    cores and flanks, which differ between frames with the seeing and not by accident; the order-statistic sigma lets
    the limit rise where most frames disagree, but never above three times what is expected.

    Parameters
    ----------
    stack : (n, m) float32, DN
        NaN where a frame has no good pixel.
    sky_variance : (n,) float32, DN^2
        Variance of an empty pixel of each frame; its inverse is the frame's weight.
    gain : (n,) float32
        Electrons per DN of each (scaled) frame.
    median, spread : (m,) float32, DN
        Of `median_and_spread`.
    brightest : (m,) float32, DN
        Largest median of the 3 x 3 neighbourhood.
    kappa, tolerance : float
        Rejection limit (sigmas); allowed frame-to-frame change as a fraction of the brightest neighbour.
    mean, uncertainty, coverage : (m,) float32
        Written: DN, DN (1 sigma, sky and photon noise), number of frames used; NaN, NaN, 0 without any.
    """
    n, m = stack.shape
    for i in range(m):
        centre = median[i]
        if centre != centre:
            mean[i] = uncertainty[i] = np.float32(np.nan)
            coverage[i] = 0
            continue
        light = max(centre, np.float32(0))
        slack = (tolerance * brightest[i]) ** 2
        total = weights = variance = used = np.float32(0)
        for k in range(n):
            value = stack[k, i]
            if value != value:
                continue
            noise = sky_variance[k] + light / gain[k]
            expected = np.sqrt(noise + slack)
            if abs(value - centre) > kappa * max(expected, min(spread[i], np.float32(3) * expected)):
                continue
            w = np.float32(1) / sky_variance[k]
            total += w * (value - centre)
            weights += w
            variance += w * w * noise
            used += np.float32(1)
        if used == 0:
            mean[i] = uncertainty[i] = np.float32(np.nan)
        else:
            mean[i] = centre + total / weights
            uncertainty[i] = np.sqrt(variance) / weights
        coverage[i] = used
