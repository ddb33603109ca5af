"""Kernels of the pixel corrections: overscan rows, linearity, bias and flat in one pass each, saturation growth."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit("float32(float32[::1], int64)", cache=True, nogil=True, error_model="numpy")
def _sorted_median(values: np.ndarray, n: int) -> np.float32:
    """Sort the first `n` of `values` in place (insertion sort: n is small) and return their median."""
    for i in range(1, n):
        v = values[i]
        k = i
        while k > 0 and values[k - 1] > v:
            values[k] = values[k - 1]
            k -= 1
        values[k] = v
    return np.float32(0.5) * (values[(n - 1) // 2] + values[n // 2])


@njit("void(uint16[:, :], float32, float32[::1], float32[::1])", cache=True, nogil=True, error_model="numpy")
def row_levels(overscan: np.ndarray, clip: float, level: np.ndarray, scatter: np.ndarray) -> None:
    """Outlier-rejected mean and scatter of each overscan row.

    Parameters
    ----------
    overscan : (ny, nc) uint16
        Overscan columns to use, raw DN.
    clip : float
        Samples further than `clip` robust sigmas (1.4826 MAD, at least half a DN) from the row's median are rejected.
    level, scatter : (ny,) float32
        Written: mean and standard deviation of the kept samples, DN.
    """
    ny, nc = overscan.shape
    values = np.empty(nc, np.float32)
    deviations = np.empty(nc, np.float32)
    for j in range(ny):
        for i in range(nc):
            values[i] = np.float32(overscan[j, i])
        median = _sorted_median(values, nc)
        for i in range(nc):
            deviations[i] = abs(values[i] - median)
        sigma = max(np.float32(1.4826) * _sorted_median(deviations, nc), np.float32(0.5))
        total = np.float32(0)
        squares = np.float32(0)
        kept = 0
        for i in range(nc):
            d = values[i] - median
            if abs(d) <= clip * sigma:
                total += d
                squares += d * d
                kept += 1
        level[j] = median + total / kept
        # The robust sigma of integers comes in steps of 0.74 DN; the deviation of the kept samples does not.
        scatter[j] = np.sqrt((squares - total * total / kept) / max(kept - 1, 1))


@njit(
    "int64(uint16[:, ::1], float32[::1], float32, float32, uint16, uint16, float32[:, ::1], uint16[:, ::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
    fastmath=True,
)
def subtract_and_linearize(
    raw: np.ndarray,
    level: np.ndarray,
    a: float,
    b: float,
    saturation: int,
    saturated_bit: int,
    pixels: np.ndarray,
    mask: np.ndarray,
) -> int:
    """Overscan subtraction, linearity x / (a x^2 + b x + 1) and saturation by raw level, in one pass.

    Parameters
    ----------
    raw : (ny, nx) uint16
        Raw DN.
    level : (ny,) float32
        Overscan model of each row, raw DN.
    a, b : float
        Linearity coefficients, DN^-2 and DN^-1.
    saturation : int
        Raw DN at and above which a pixel is saturated.
    saturated_bit : int
        Mask value of saturated pixels.
    pixels : (ny, nx) float32
        Written: corrected DN.
    mask : (ny, nx) uint16
        Written: `saturated_bit` or 0.

    Returns
    -------
    int
        Number of saturated pixels.
    """
    count = 0
    one = np.float32(1)
    for j in range(raw.shape[0]):
        offset = level[j]
        for i in range(raw.shape[1]):
            r = raw[j, i]
            x = np.float32(r) - offset
            pixels[j, i] = x / ((a * x + b) * x + one)
            saturated = r >= saturation
            mask[j, i] = saturated_bit if saturated else np.uint16(0)
            count += saturated
    return count


@njit("void(uint16[:, ::1], float32[::1], float32[:, ::1])", cache=True, nogil=True, error_model="numpy", fastmath=True)
def bias_samples(raw: np.ndarray, level: np.ndarray, out: np.ndarray) -> None:
    """`out` = raw - level of a block of rows: `raw` (rows, nx) DN, `level` (rows,) DN, `out` (rows, nx) DN, written."""
    for j in range(raw.shape[0]):
        offset = level[j]
        for i in range(raw.shape[1]):
            out[j, i] = np.float32(raw[j, i]) - offset


@njit("int64(float32[:, ::1], float32)", cache=True, nogil=True, error_model="numpy", fastmath=True)
def count_below(pixels: np.ndarray, limit: float) -> int:
    """Number of `pixels` (ny, nx) that are smaller than `limit`."""
    count = 0
    for j in range(pixels.shape[0]):
        for i in range(pixels.shape[1]):
            count += pixels[j, i] < limit
    return count


@njit(
    "void(uint16[:, ::1], float32[::1], float32, float32, float32[:, ::1], float32, float32[:, ::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
    fastmath=True,
)
def flat_samples(
    raw: np.ndarray, level: np.ndarray, a: float, b: float, bias: np.ndarray, scale: float, out: np.ndarray
) -> None:
    """Overscan, linearity, bias and normalisation of a block of rows of one flat frame, in one pass.

    `raw`, `bias` and `out` are (rows, nx); `level` (rows,); `out` = (linearized(raw - level) - bias) * scale.
    """
    one = np.float32(1)
    for j in range(raw.shape[0]):
        offset = level[j]
        for i in range(raw.shape[1]):
            x = np.float32(raw[j, i]) - offset
            out[j, i] = (x / ((a * x + b) * x + one) - bias[j, i]) * scale


@njit(
    "int64(float32[:, ::1], uint16[:, ::1], float32[:, ::1], uint16[:, ::1], float32[:, ::1], uint16[:, ::1],"
    " float32, uint16, uint16, float32[:, ::1], uint16[:, ::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def apply_bias_and_flat(
    pixels: np.ndarray,
    mask: np.ndarray,
    bias: np.ndarray,
    bias_cmask: np.ndarray,
    flat: np.ndarray,
    flat_cmask: np.ndarray,
    flat_floor: float,
    dead_bit: int,
    nan_bit: int,
    out: np.ndarray,
    out_mask: np.ndarray,
) -> int:
    """(pixels - bias) / flat with all masks combined, in one pass.

    Parameters
    ----------
    pixels, bias, flat : (ny, nx) float32
        DN, DN, relative response.
    mask, bias_cmask, flat_cmask : (ny, nx) uint16
        Mask bits to be combined.
    flat_floor : float
        Response below which (or NaN) a pixel is dead: its value becomes NaN.
    dead_bit, nan_bit : int
        Mask values of dead pixels and of pixels that are not finite.
    out : (ny, nx) float32
        Written: DN of a pixel of unit response; NaN where nothing can be said.
    out_mask : (ny, nx) uint16
        Written: combined mask.

    Returns
    -------
    int
        Number of pixels that are NaN.
    """
    count = 0
    nan = np.float32(np.nan)
    none = np.uint16(0)
    for j in range(pixels.shape[0]):
        for i in range(pixels.shape[1]):
            f = flat[j, i]
            alive = f > flat_floor
            v = (pixels[j, i] - bias[j, i]) / (f if alive else np.float32(1))
            finite = alive and (v - v == np.float32(0))
            out[j, i] = v if finite else nan
            bits = mask[j, i] | bias_cmask[j, i] | flat_cmask[j, i]
            out_mask[j, i] = bits | (none if alive else dead_bit) | (none if finite else nan_bit)
            count += not finite
    return count


@njit(
    "int64(float32[:, ::1], uint16[:, ::1], uint16, float32, int64, int64)", cache=True, nogil=True, error_model="numpy"
)
def grow_saturation(
    pixels: np.ndarray, mask: np.ndarray, saturated_bit: int, bleed_level: float, reach: int, margin: int
) -> int:
    """Extend the saturated mask along bleeding columns and by a margin around each saturated pixel.

    From each saturated pixel the column is followed up and down, at most `reach` pixels, as long as pixels stay above
    `bleed_level` (charge that spilled along the column but stayed below saturation); then everything is grown by
    `margin` pixels in the column and one pixel (if margin > 0) to both sides.

    Parameters
    ----------
    pixels : (ny, nx) float32
        DN; NaN stops a bleed.
    mask : (ny, nx) uint16
        Changed in place.
    saturated_bit : int
        Mask value of saturated pixels.
    bleed_level : float
        DN above which a pixel next to a saturated one in its column belongs to the bleed.
    reach, margin : int
        Pixels.

    Returns
    -------
    int
        Number of pixels that carry the bit at the end.
    """
    ny, nx = pixels.shape
    count = 0
    touched = np.zeros(ny, np.bool_)
    for j in range(ny):
        # Most rows have no saturated pixel: one vectorised OR finds that out.
        combined = np.uint16(0)
        for i in range(nx):
            combined |= mask[j, i]
        touched[j] = (combined & saturated_bit) != 0
        if touched[j]:
            for i in range(nx):
                count += (mask[j, i] & saturated_bit) != 0
    rows = np.empty(count, np.int32)
    columns = np.empty(count, np.int32)
    n = 0
    for j in range(ny):
        if touched[j]:
            for i in range(nx):
                if mask[j, i] & saturated_bit:
                    rows[n] = j
                    columns[n] = i
                    n += 1
    side = 1 if margin > 0 else 0
    for k in range(n):
        i = columns[k]
        first = rows[k]
        while first > 0 and rows[k] - first < reach and pixels[first - 1, i] > bleed_level:
            first -= 1
        last = rows[k]
        while last < ny - 1 and last - rows[k] < reach and pixels[last + 1, i] > bleed_level:
            last += 1
        for j in range(max(0, first - margin), min(ny, last + margin + 1)):
            for x in range(max(0, i - side), min(nx, i + side + 1)):
                if not mask[j, x] & saturated_bit:
                    mask[j, x] |= saturated_bit
                    count += 1
    return count
