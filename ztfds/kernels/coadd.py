"""Kernels of the co-add: median and spread of each pixel of a stack with gaps, departures by blocks, clipped weighted mean."""

from __future__ import annotations

import numpy as np
from numba import njit

LANES = 256
"""Pixels worked on together."""


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
    column = np.empty(nx, np.float32)
    zero = np.float32(0)
    for j in range(ny):
        above, here, below = image[max(j - 1, 0)], image[j], image[min(j + 1, ny - 1)]
        for i in range(nx):
            a, b, c = above[i], here[i], below[i]
            a = a if a > zero else zero
            a = b if b > a else a
            column[i] = c if c > a else a
        line = out[j]
        for i in range(1, nx - 1):
            a, b, c = column[i - 1], column[i], column[i + 1]
            a = b if b > a else a
            line[i] = c if c > a else a
        line[0] = max(column[0], column[min(1, nx - 1)])
        line[nx - 1] = max(column[nx - 1], column[max(nx - 2, 0)])


@njit(
    "void(f4[:, :, ::1], f4[::1], f4[::1], f4[:, ::1], f4[:, ::1], f4, f4, i8, f4[:, :, ::1])",
    cache=True,
    nogil=True,
)
def block_departures(
    stack: np.ndarray,
    sky_variance: np.ndarray,
    gain: np.ndarray,
    median: np.ndarray,
    brightest: np.ndarray,
    tolerance: float,
    ceiling: float,
    block: int,
    out: np.ndarray,
) -> None:
    """How far each block of each frame departs from the median frame, in sigmas of a block.

    B = sum(r) / sqrt(number), r = (v - median) / e held within +- ceiling, e^2 = sky variance + median / gain +
    (tolerance x brightest)^2. What is too faint to be seen in one pixel (the wings of a trail, a ghost) adds up over a
    block; stars do not, because e allows for their change.

    Parameters
    ----------
    stack : (n, ny, nx) float32, DN
    sky_variance, gain : (n,) float32
        DN^2 and electrons per DN of each frame.
    median, brightest : (ny, nx) float32, DN
        Median of the frames, and the largest median of the 3 x 3 neighbourhood.
    tolerance, ceiling : float
        Allowed change as a fraction of the brightest neighbour; most that one pixel counts, sigmas.
    block : int
        Side of a block, pixels.
    out : (n, ceil(ny / block), ceil(nx / block)) float32
        Written; 0 for a block without samples.
    """
    n, ny, nx = stack.shape
    scaled = np.empty(nx, np.float32)
    number = np.empty(nx, np.float32)
    zero, one, most = np.float32(0), np.float32(1), np.float32(ceiling)
    square = np.float32(tolerance * tolerance)
    for b in range(out.shape[1]):
        for k in range(n):
            scaled[:] = 0
            number[:] = 0
            sky, per_electron = sky_variance[k], one / gain[k]
            for j in range(b * block, min((b + 1) * block, ny)):
                line, centre, bright = stack[k, j], median[j], brightest[j]
                for i in range(nx):
                    m, d = centre[i], line[i] - centre[i]
                    light = m if m > zero else zero
                    r = d / np.sqrt(sky + light * per_electron + square * bright[i] * bright[i])
                    known = r == r
                    r = most if r > most else r
                    r = -most if r < -most else r
                    scaled[i] += r if known else zero
                    number[i] += one if known else zero
            for a in range(out.shape[2]):
                total, used = zero, zero
                for i in range(a * block, min((a + 1) * block, nx)):
                    total += scaled[i]
                    used += number[i]
                out[k, b, a] = total / np.sqrt(used) if used > 0 else zero


@njit("i8(f4[:, :, ::1], b1[:, :, ::1], i8)", cache=True, nogil=True)
def erase_blocks(stack: np.ndarray, flagged: np.ndarray, block: int) -> int:
    """NaN in the flagged blocks of each frame, in place; returns the number of samples taken out.

    Parameters
    ----------
    stack : (n, ny, nx) float32
    flagged : (n, ceil(ny / block), ceil(nx / block)) bool
    block : int
    """
    n, ny, nx = stack.shape
    lost = 0
    for k in range(n):
        for b in range(flagged.shape[1]):
            for a in range(flagged.shape[2]):
                if flagged[k, b, a]:
                    for j in range(b * block, min((b + 1) * block, ny)):
                        for i in range(a * block, min((a + 1) * block, nx)):
                            if stack[k, j, i] == stack[k, j, i]:
                                lost += 1
                                stack[k, j, i] = np.nan
    return lost


@njit(
    "void(f4[:, ::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4, f4, f4[::1], f4[::1], f4[::1], i8[::1])",
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
    kept: np.ndarray,
) -> None:
    """Inverse-variance weighted mean of the samples that agree with the pixel's median.

    A sample is rejected where |v - median| > kappa max(a, min(s, b)), with e^2 = sky variance + median / gain,
    a^2 = e^2 + (tolerance x brightest / 3)^2, b^2 = 2 e^2 + (tolerance x brightest)^2 and s the robust sigma. The last
    terms keep star cores and flanks, which differ between frames with the seeing and not by accident; the order-statistic
    sigma lets the limit rise from a to b where most frames disagree, which two accidents at one place must not do.

    Parameters
    ----------
    stack : (n, m) float32, DN
        NaN where a frame has no good pixel.
    sky_variance, gain : (n,) float32
        Variance of an empty pixel, DN^2, whose inverse is the frame's weight; electrons per DN of the scaled frame.
    median, spread, brightest : (m,) float32, DN
        Of `median_and_spread`; largest median of the 3 x 3 neighbourhood.
    kappa, tolerance : float
        Rejection limit (sigmas); allowed frame-to-frame change as a fraction of the brightest neighbour.
    mean, uncertainty, coverage : (m,) float32
        Written: DN, DN (1 sigma, sky and photon noise), number of frames used; NaN, NaN, 0 without any.
    kept : (n,) int64
        Written: samples of each frame that were used.
    """
    n, m = stack.shape
    held = np.empty((8, LANES), np.float32)
    total, weights, variance, used = held[0], held[1], held[2], held[3]
    light, width2, slack, most = held[4], held[5], held[6], held[7]
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    limit, square, ninth = np.float32(kappa * kappa), np.float32(tolerance * tolerance), np.float32(1 / 9)
    kept[:] = 0
    for start in range(0, m, LANES):
        width = min(LANES, m - start)
        for i in range(width):
            c, b, s = median[start + i], brightest[start + i], spread[start + i]
            light[i] = c if c > zero else zero
            most[i] = square * b * b
            slack[i] = ninth * most[i]
            width2[i] = s * s
            total[i] = weights[i] = variance[i] = used[i] = zero
        for k in range(n):
            sky, per_electron, w = sky_variance[k], one / gain[k], one / sky_variance[k]
            line = stack[k, start : start + width]
            number = 0
            for i in range(width):
                d = line[i] - median[start + i]
                noise = sky + light[i] * per_electron
                upper, lower = two * noise + most[i], noise + slack[i]
                s2 = width2[i] if width2[i] < upper else upper
                s2 = s2 if s2 > lower else lower
                g = one if d * d <= limit * s2 else zero  # a missing sample (NaN) agrees with nothing
                d = d if g > zero else zero
                total[i] += w * d
                weights[i] += g * w
                variance[i] += g * w * w * noise
                used[i] += g
                number += 1 if g > zero else 0
            kept[k] += number
        for i in range(width):
            some = used[i] > zero
            mean[start + i] = median[start + i] + total[i] / weights[i] if some else np.float32(np.nan)
            uncertainty[start + i] = np.sqrt(variance[i]) / weights[i] if some else np.float32(np.nan)
            coverage[start + i] = used[i]


@njit("i8(f4[:, ::1], f4, f4, i8, i4[:, ::1])", cache=True, nogil=True)
def isolated_peaks(image: np.ndarray, low: float, high: float, reach: int, out: np.ndarray) -> int:
    """Local maxima between two heights that have nothing above a tenth of them outside their own profile.

    Parameters
    ----------
    image : (ny, nx) float32
    low, high : float
        Least and largest height.
    reach : int
        Half side of the box that is looked at, px; the inner half of it belongs to the star. A NaN in it excludes.
    out : (most, 2) int32
        Written: row and column.

    Returns
    -------
    int
        Number of peaks written.
    """
    ny, nx = image.shape
    found = 0
    inner = reach // 2
    for j in range(reach, ny - reach):
        for i in range(reach, nx - reach):
            v = image[j, i]
            if not (low < v < high):
                continue
            if image[j - 1, i] >= v or image[j + 1, i] > v or image[j, i - 1] >= v or image[j, i + 1] > v:
                continue
            alone = True
            for y in range(j - reach, j + reach + 1):
                for x in range(i - reach, i + reach + 1):
                    u = image[y, x]
                    outer = abs(y - j) > inner or abs(x - i) > inner
                    if not (u <= v) or (outer and u > np.float32(0.1) * v):
                        alone = False
                        break
                if not alone:
                    break
            if alone:
                out[found, 0], out[found, 1] = j, i
                found += 1
                if found == out.shape[0]:
                    return found
    return found


@njit("i8(f4[:, ::1], f4)", cache=True, nogil=True)
def count_peaks(image: np.ndarray, low: float) -> int:
    """Pixels above a height that none of their eight neighbours exceeds (NaN exceeds nothing)."""
    ny, nx = image.shape
    found = 0
    for j in range(1, ny - 1):
        for i in range(1, nx - 1):
            v = image[j, i]
            if not v > low:
                continue
            if image[j - 1, i] >= v or image[j - 1, i - 1] >= v or image[j - 1, i + 1] >= v or image[j, i - 1] >= v:
                continue
            if image[j + 1, i] > v or image[j + 1, i - 1] > v or image[j + 1, i + 1] > v or image[j, i + 1] > v:
                continue
            found += 1
    return found
