"""Kernels that move an image onto another pixel grid: Lanczos-3 conserving flux, masks, filling of holes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

TAPS = 6
"""Pixels per axis that a Lanczos-3 sample uses."""

PHASES = 1024
"""Steps of the weight table across one pixel: the nearest step misplaces a sample by at most 0.0005 px."""


@lru_cache(maxsize=2)
def lanczos_table(phases: int = PHASES) -> np.ndarray:
    """Weights of the Lanczos-3 interpolator for each sub-pixel phase, normalised to sum 1.

    w(u) = sinc(u) sinc(u / 3) for |u| < 3 (Duchon 1979, J. Appl. Meteor. 18, 1016).

    Parameters
    ----------
    phases : int
        Steps across one pixel.

    Returns
    -------
    (6, phases + 1) float32
        Row a is the weight of pixel floor(x) - 2 + a for the fraction x - floor(x) = column / phases.
    """
    fraction = np.arange(phases + 1) / phases
    distance = fraction[None, :] - (np.arange(TAPS) - 2)[:, None]
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    return np.ascontiguousarray(weights / weights.sum(axis=0), dtype=np.float32)


@njit("f4(f4[:, ::1], f8, f8, f4[:, ::1])", cache=True, nogil=True, fastmath=False)
def _sample_clamped(image: np.ndarray, x: float, y: float, table: np.ndarray) -> np.float32:
    """Lanczos-3 sample with the outermost pixels repeated beyond the border; NaN outside the image."""
    ny, nx = image.shape
    if not (x >= -0.5 and y >= -0.5 and x <= nx - 0.5 and y <= ny - 0.5):
        return np.float32(np.nan)
    phases = table.shape[1] - 1
    ix, iy = int(np.floor(x)), int(np.floor(y))
    px, py = int((x - ix) * phases + 0.5), int((y - iy) * phases + 0.5)
    total = np.float32(0)
    for b in range(TAPS):
        row = min(max(iy - 2 + b, 0), ny - 1)
        part = np.float32(0)
        for a in range(TAPS):
            part += table[a, px] * image[row, min(max(ix - 2 + a, 0), nx - 1)]
        total += table[b, py] * part
    return total


@njit("void(f4[:, ::1], i8, i8, i8, f4[::1], f4[::1], f4[::1])", cache=True, nogil=True, fastmath=True)
def _columns(
    image: np.ndarray, iy: int, ix: int, count: int, weight: np.ndarray, slope: np.ndarray, out: np.ndarray
) -> None:
    """The six rows of a cell summed with weights that change along it: weight at output pixel i is weight + slope i.

    A column serves output pixels up to three to either side, and takes the weights of the one at its place: where the phase
    changes by 0.02 px along a cell of 64, that misplaces a sample by less than 0.001 px.
    """
    r0, r1, r2 = image[iy, ix:], image[iy + 1, ix:], image[iy + 2, ix:]
    r3, r4, r5 = image[iy + 3, ix:], image[iy + 4, ix:], image[iy + 5, ix:]
    w0, w1, w2, w3, w4, w5 = weight[0], weight[1], weight[2], weight[3], weight[4], weight[5]
    s0, s1, s2, s3, s4, s5 = slope[0], slope[1], slope[2], slope[3], slope[4], slope[5]
    for c in range(count):
        level = r0[c] * w0 + r1[c] * w1 + r2[c] * w2 + r3[c] * w3 + r4[c] * w4 + r5[c] * w5
        rise = r0[c] * s0 + r1[c] * s1 + r2[c] * s2 + r3[c] * s3 + r4[c] * s4 + r5[c] * s5
        out[c] = level + np.float32(c - 2) * rise


@njit("void(f4[::1], f4[::1], f4[::1], f4, f4, f4[::1])", cache=True, nogil=True, fastmath=True)
def _rows(
    line: np.ndarray,
    weight: np.ndarray,
    slope: np.ndarray,
    factor: np.float32,
    factor_slope: np.float32,
    out: np.ndarray,
) -> None:
    """A cell's row of samples from its summed columns, times a linear factor; weights as in `_columns`."""
    c1, c2, c3, c4, c5 = line[1:], line[2:], line[3:], line[4:], line[5:]
    w0, w1, w2, w3, w4, w5 = weight[0], weight[1], weight[2], weight[3], weight[4], weight[5]
    s0, s1, s2, s3, s4, s5 = slope[0], slope[1], slope[2], slope[3], slope[4], slope[5]
    for i in range(out.size):
        level = line[i] * w0 + c1[i] * w1 + c2[i] * w2 + c3[i] * w3 + c4[i] * w4 + c5[i] * w5
        rise = line[i] * s0 + c1[i] * s1 + c2[i] * s2 + c3[i] * s3 + c4[i] * s4 + c5[i] * s5
        at = np.float32(i)
        out[i] = (level + at * rise) * (factor + at * factor_slope)


@njit(
    "void(f4[:, ::1], f8[:, ::1], f8[:, ::1], f8[:, ::1], i8, f4[:, ::1], f4[:, ::1])",
    cache=True,
    nogil=True,
    fastmath=True,
)
def resample(
    image: np.ndarray,
    grid_x: np.ndarray,
    grid_y: np.ndarray,
    factor: np.ndarray,
    step: int,
    table: np.ndarray,
    out: np.ndarray,
) -> None:
    """Sample `image` at the positions that a coarse grid gives for each output pixel, times a smooth factor.

    Positions and factor are bilinear between grid nodes. With the factor equal to the area of an output pixel in input
    pixels, |d(x_in, y_in) / d(x_out, y_out)|, flux is conserved.

    Parameters
    ----------
    image : (my, mx) float32
        Input; finite everywhere (holes filled beforehand).
    grid_x, grid_y : (gy, gx) float64
        Input position, 0-based pixels, of output pixels (row, column) = (j step, i step).
    factor : (gy, gx) float64
        Multiplies the output.
    step : int
        Output pixels between nodes; at most 256.
    table : (6, phases + 1) float32
        `lanczos_table`.
    out : (ny, nx) float32
        Written; NaN outside the input. (gy - 1) step >= ny and likewise in x.
    """
    ny, nx = out.shape
    my, mx = image.shape
    phases = table.shape[1] - 1
    total, ends = np.empty(256 + TAPS, np.float32), np.empty((4, TAPS), np.float32)
    phase_x, phase_y = np.empty(256, np.int32), np.empty(256, np.int32)
    weight_x, weight_y = np.empty((TAPS, 256), np.float32), np.empty((TAPS, 256), np.float32)
    for j in range(ny):
        row = j // step
        v = (j - row * step) / step
        for cell in range((nx + step - 1) // step):
            start = cell * step
            width = min(step, nx - start)
            x0 = (1 - v) * grid_x[row, cell] + v * grid_x[row + 1, cell]
            x1 = (1 - v) * grid_x[row, cell + 1] + v * grid_x[row + 1, cell + 1]
            y0 = (1 - v) * grid_y[row, cell] + v * grid_y[row + 1, cell]
            y1 = (1 - v) * grid_y[row, cell + 1] + v * grid_y[row + 1, cell + 1]
            f0 = (1 - v) * factor[row, cell] + v * factor[row + 1, cell]
            f1 = (1 - v) * factor[row, cell + 1] + v * factor[row + 1, cell + 1]
            dx, dy, df = (x1 - x0) / step, (y1 - y0) / step, np.float32((f1 - f0) / step)
            f = np.float32(f0)
            xe, ye = x0 + dx * (width - 1), y0 + dy * (width - 1)
            inside = min(x0, xe) >= 2 and min(y0, ye) >= 2 and max(x0, xe) < mx - 4 and max(y0, ye) < my - 4
            if inside and int(xe) == int(x0) + width - 1 and int(ye) == int(y0):
                # the whole cell reads consecutive pixels of the same six rows: loads are contiguous; weights are linear
                # along the cell where the phase changes by less than 0.02 px (error below 3e-4), else looked up
                ix, iy = int(x0) - 2, int(y0) - 2
                px, py = x0 - int(x0), y0 - int(y0)
                if abs(dx - 1) * width < 0.02 and abs(dy) * width < 0.02:
                    ax, bx = int(px * phases + 0.5), int((xe - int(xe)) * phases + 0.5)
                    ay, by = int(py * phases + 0.5), int((ye - int(ye)) * phases + 0.5)
                    inverse = np.float32(1.0 / max(width - 1, 1))
                    for a in range(TAPS):
                        ends[0, a], ends[1, a] = table[a, ax], (table[a, bx] - table[a, ax]) * inverse
                        ends[2, a], ends[3, a] = table[a, ay], (table[a, by] - table[a, ay]) * inverse
                    _columns(image, iy, ix, width + TAPS - 1, ends[2], ends[3], total)
                    _rows(total, ends[0], ends[1], f, df, out[j, start : start + width])
                    continue
                for i in range(width):
                    phase_x[i] = int((px + (dx - 1) * i) * phases + 0.5)
                    phase_y[i] = int((py + dy * i) * phases + 0.5)
                for a in range(TAPS):
                    for i in range(width):
                        weight_x[a, i] = table[a, phase_x[i]]
                        weight_y[a, i] = table[a, phase_y[i]]
                total[:width] = 0
                for b in range(TAPS):
                    line = image[iy + b]
                    for i in range(width):
                        total[i] += weight_y[b, i] * (
                            line[ix + i] * weight_x[0, i]
                            + line[ix + i + 1] * weight_x[1, i]
                            + line[ix + i + 2] * weight_x[2, i]
                            + line[ix + i + 3] * weight_x[3, i]
                            + line[ix + i + 4] * weight_x[4, i]
                            + line[ix + i + 5] * weight_x[5, i]
                        )
                for i in range(width):
                    out[j, start + i] = total[i] * (f + df * np.float32(i))
            else:
                for i in range(width):
                    value = _sample_clamped(image, x0 + dx * i, y0 + dy * i, table)
                    out[j, start + i] = value * (f + df * np.float32(i))


@njit("void(u2[:, ::1], i8, u2[:, ::1])", cache=True, nogil=True)
def spread_mask(mask: np.ndarray, reach: int, out: np.ndarray) -> None:
    """OR of each pixel with its neighbours at offsets 1 - reach .. reach in both axes.

    Read at (floor(y), floor(x)) the result tells what any of the 2 reach x 2 reach pixels around a sample carries.

    Parameters
    ----------
    mask : (ny, nx) uint16
    reach : int
        1 for the two nearest pixels per axis, 2 for the four (all Lanczos-3 weights above 0.03).
    out : (ny, nx) uint16
        Written.
    """
    ny, nx = mask.shape
    rows = np.empty((ny, nx), np.uint16)
    for j in range(ny):
        for i in range(nx):
            rows[j, i] = mask[j, i]
        for b in range(max(1 - reach, -j), min(reach, ny - 1 - j) + 1):
            if b != 0:
                for i in range(nx):
                    rows[j, i] |= mask[j + b, i]
    for j in range(ny):
        for i in range(nx):
            out[j, i] = rows[j, i]
        for a in range(1 - reach, reach + 1):
            if a != 0:
                for i in range(max(0, -a), min(nx, nx - a)):
                    out[j, i] |= rows[j, i + a]


@njit("void(u2[:, ::1], f8[:, ::1], f8[:, ::1], i8, u2, u2[:, ::1])", cache=True, nogil=True)
def gather_mask(
    mask: np.ndarray, grid_x: np.ndarray, grid_y: np.ndarray, step: int, outside: int, out: np.ndarray
) -> None:
    """Read a (spread) mask at the floor of the positions of `resample`; `outside` where there is no input pixel."""
    ny, nx = out.shape
    my, mx = mask.shape
    for j in range(ny):
        row = j // step
        v = (j - row * step) / step
        for cell in range((nx + step - 1) // step):
            start = cell * step
            x0 = (1 - v) * grid_x[row, cell] + v * grid_x[row + 1, cell]
            x1 = (1 - v) * grid_x[row, cell + 1] + v * grid_x[row + 1, cell + 1]
            y0 = (1 - v) * grid_y[row, cell] + v * grid_y[row + 1, cell]
            y1 = (1 - v) * grid_y[row, cell + 1] + v * grid_y[row + 1, cell + 1]
            dx, dy = (x1 - x0) / step, (y1 - y0) / step
            for i in range(min(step, nx - start)):
                x, y = x0 + dx * i, y0 + dy * i
                if x >= -0.5 and y >= -0.5 and x <= mx - 0.5 and y <= my - 0.5:
                    out[j, start + i] = mask[max(int(np.floor(y)), 0), max(int(np.floor(x)), 0)]
                else:
                    out[j, start + i] = outside


@njit("void(f4[:, ::1], f8[:, ::1], f8[:, ::1], i8, f4[:, ::1])", cache=True, nogil=True)
def gather_nearest(image: np.ndarray, grid_x: np.ndarray, grid_y: np.ndarray, step: int, out: np.ndarray) -> None:
    """Nearest input pixel at the positions of `resample` (for uncertainties, which must not ring); NaN outside."""
    ny, nx = out.shape
    my, mx = image.shape
    for j in range(ny):
        row = j // step
        v = (j - row * step) / step
        for cell in range((nx + step - 1) // step):
            start = cell * step
            x0 = (1 - v) * grid_x[row, cell] + v * grid_x[row + 1, cell]
            x1 = (1 - v) * grid_x[row, cell + 1] + v * grid_x[row + 1, cell + 1]
            y0 = (1 - v) * grid_y[row, cell] + v * grid_y[row + 1, cell]
            y1 = (1 - v) * grid_y[row, cell + 1] + v * grid_y[row + 1, cell + 1]
            dx, dy = (x1 - x0) / step, (y1 - y0) / step
            width = min(step, nx - start)
            xe, ye = x0 + dx * (width - 1), y0 + dy * (width - 1)
            ix, iy = int(x0 + 0.5), int(y0 + 0.5)
            inside = min(x0, y0, xe, ye) >= 0 and max(x0, xe) < mx - 1 and max(y0, ye) < my - 1
            if inside and int(ye + 0.5) == iy and int(xe + 0.5) == ix + width - 1 and abs(dx - 1) * width < 1:
                for i in range(width):  # consecutive pixels of one row
                    out[j, start + i] = image[iy, ix + i]
                continue
            for i in range(width):
                x, y = x0 + dx * i, y0 + dy * i
                if x >= -0.5 and y >= -0.5 and x <= mx - 0.5 and y <= my - 0.5:
                    out[j, start + i] = image[min(int(y + 0.5), my - 1), min(int(x + 0.5), mx - 1)]
                else:
                    out[j, start + i] = np.float32(np.nan)


@njit("i8(f4[:, ::1], b1[:, ::1], i8)", cache=True, nogil=True)
def fill_holes(image: np.ndarray, bad: np.ndarray, rings: int) -> int:
    """Replace bad pixels in place, ring after ring from the rim inwards, by the mean of their known neighbours.

    Parameters
    ----------
    image : (ny, nx) float32
        Changed in place; pixels deeper than `rings` inside a hole become 0 (hence: subtract the background first).
    bad : (ny, nx) bool
        Not changed.
    rings : int
        How far to carry the rim inwards, pixels.

    Returns
    -------
    int
        Number of pixels deeper than `rings`.
    """
    ny, nx = image.shape
    count = 0
    for j in range(ny):
        for i in range(nx):
            count += bad[j, i]
    if count == 0:
        return 0
    holes = np.empty((count, 2), np.int32)
    state = np.zeros((ny, nx), np.uint8)  # 0 known, 1 hole, 2 being filled in this ring
    k = 0
    for j in range(ny):
        for i in range(nx):
            if bad[j, i]:
                holes[k, 0], holes[k, 1] = j, i
                state[j, i] = 1
                k += 1
    for _ in range(rings):
        left, filled = 0, 0
        ring = np.empty((count, 2), np.int32)
        for k in range(count):
            j, i = holes[k, 0], holes[k, 1]
            total, n = np.float32(0), 0
            for y in range(max(0, j - 1), min(ny, j + 2)):
                for x in range(max(0, i - 1), min(nx, i + 2)):
                    if state[y, x] == 0:
                        total += image[y, x]
                        n += 1
            if n > 0:
                image[j, i] = total / np.float32(n)
                state[j, i] = 2
                ring[filled, 0], ring[filled, 1] = j, i
                filled += 1
            else:
                holes[left, 0], holes[left, 1] = j, i
                left += 1
        for k in range(filled):
            state[ring[k, 0], ring[k, 1]] = 0
        count = left
        if filled == 0 or left == 0:
            break
    for k in range(count):
        image[holes[k, 0], holes[k, 1]] = 0
    return count


@njit("void(b1[:, ::1], i8)", cache=True, nogil=True)
def grow(flags: np.ndarray, reach: int) -> None:
    """Grow flagged pixels in place to all pixels within `reach` in both axes (a square)."""
    ny, nx = flags.shape
    rows = np.zeros((ny, nx), np.bool_)
    for j in range(ny):
        run = -1
        for i in range(nx):
            if flags[j, i]:
                for a in range(max(run, i - reach, 0), min(nx, i + reach + 1)):
                    rows[j, a] = True
                run = i + reach
    for j in range(ny):
        for i in range(nx):
            flags[j, i] = False
    for j in range(ny):
        for b in range(max(0, j - reach), min(ny, j + reach + 1)):
            for i in range(nx):
                flags[b, i] |= rows[j, i]
