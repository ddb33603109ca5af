"""Kernels that bring one frame onto the co-add's grid in two passes, rows first, with its flags, cell by cell."""

from __future__ import annotations

import numpy as np
from numba import njit

TAPS = 6
U = np.uint64
"""Type of indices that cannot be negative: the loops over them become vector instructions."""

PAD = 4
"""Pixels that the padded arrays have more on each side: a sample near the border reads three of them."""

HOLE, FULL = 1, 2
"""Flags of a pixel: it says nothing; it is saturated."""

EVEN_PX, PIECE = 0.03, 16
"""Change of the phase over which weights are taken as linear (error below 4e-4), and samples at a time where it is more."""

STRAIGHT_PX = 0.12
"""Largest change of a sample's phase across a cell for which the two passes are used (rotation of 0.1 degree, step 64)."""


@njit("void(f4[:, ::1], u2[:, ::1], u2, u2, b1[:, ::1], b1[:, ::1])", cache=True, nogil=True)
def classify(
    pixels: np.ndarray, mask: np.ndarray, bad: np.uint16, full: np.uint16, hole: np.ndarray, usable: np.ndarray
) -> None:
    """Tell pixels that say nothing (`hole`) from those whose value is good for the sky (`usable`).

    Parameters
    ----------
    pixels : (ny, nx) float32
    mask : (ny, nx) uint16
    bad, full : uint16
        Mask bits of unusable pixels, and of saturated ones (neither hole nor usable).
    hole, usable : (ny, nx) bool
        Written.
    """
    ny, nx = pixels.shape
    for j in range(ny):
        for i in range(nx):
            value, bits = pixels[j, i], mask[j, i]
            none = ((bits & bad) != 0) | (not (np.float32(-3e38) < value < np.float32(3e38)))
            hole[j, i] = none
            usable[j, i] = not (none | ((bits & full) != 0))


@njit("void(f4[:, ::1], f4[:, ::1])", cache=True, nogil=True)
def padded(image: np.ndarray, out: np.ndarray) -> None:
    """Copy an image into the middle of a larger one, its outermost pixels repeated."""
    ny, nx = image.shape
    for j in range(ny + 2 * PAD):
        line, target = image[min(max(j - PAD, 0), ny - 1)], out[j]
        for i in range(PAD):
            target[i] = line[0]
            target[nx + PAD + i] = line[nx - 1]
        for i in range(nx):
            target[PAD + i] = line[i]


@njit("void(u2[:, ::1], b1[:, ::1], u2, i8, u1[:, ::1])", cache=True, nogil=True)
def spread_flags(mask: np.ndarray, hole: np.ndarray, full: np.uint16, reach: int, out: np.ndarray) -> None:
    """Flags of what any of the 2 reach x 2 reach pixels around a sample carries, read at the floor of its position.

    Parameters
    ----------
    mask : (ny, nx) uint16
    hole : (ny, nx) bool
    full : uint16
        Mask bit of saturated pixels.
    reach : int
        1 for the two nearest pixels per axis, 2 for the four (all Lanczos-3 weights above 0.03).
    out : (ny + 2 PAD, nx + 2 PAD) uint8
        Written, padded with what the outermost pixels carry.
    """
    ny, nx = mask.shape
    flags = np.zeros((ny, nx + 2 * PAD), np.uint8)
    for j in range(ny):
        for i in range(nx):
            flags[j, i + PAD] = (HOLE if hole[j, i] else 0) | (FULL if (mask[j, i] & full) != 0 else 0)
    line = np.empty(nx + 2 * PAD, np.uint8)
    for j in range(ny):
        line[:] = 0
        for b in range(max(1 - reach, -j), min(reach, ny - 1 - j) + 1):
            other = flags[j + b]
            for i in range(nx + 2 * PAD):
                line[i] |= other[i]
        target = out[j + PAD]
        target[:] = 0
        inner = target[PAD : nx + PAD]
        for a in range(1 - reach, reach + 1):
            other = line[PAD + a : nx + PAD + a]
            for i in range(nx):
                inner[i] |= other[i]
        target[:PAD] = target[PAD]
        target[nx + PAD :] = target[nx + PAD - 1]
    for j in range(PAD):
        out[j], out[ny + PAD + j] = out[PAD], out[ny + PAD - 1]


@njit("i8(f8, f8, i8, i8)", cache=True, nogil=True)
def _same_floor(start: float, slope: float, first: int, end: int) -> int:
    """End of the run from `first` on along which floor(start + slope i) grows as i does; slope is near 1 or near 0."""
    lead = 1 if slope > 0.5 else 0
    base = int(np.floor(start + slope * first)) - lead * first
    if int(np.floor(start + slope * (end - 1))) - lead * (end - 1) == base:
        return end
    low, high = first, end - 1
    while high - low > 1:
        middle = (low + high) // 2
        if int(np.floor(start + slope * middle)) - lead * middle == base:
            low = middle
        else:
            high = middle
    return high


@njit("void(f4[:, ::1], f8, f8, i8, f4[:, ::1])", cache=True, nogil=True)
def _weights(table: np.ndarray, phase: float, slope: float, count: int, out: np.ndarray) -> None:
    """Weights at `phase`, within 0 to 1, and their change from one of `count` samples to the next: out (2, 6)."""
    phases = table.shape[1] - 1
    a = min(max(int(phase * phases + 0.5), 0), phases)
    b = min(max(int((phase + slope * (count - 1)) * phases + 0.5), 0), phases)
    share = np.float32(1.0 / max(count - 1, 1))
    for t in range(TAPS):
        out[0, t] = table[t, a]
        out[1, t] = (table[t, b] - table[t, a]) * share


@njit("f4(f4[:, ::1], f8, f8, f4[:, ::1])", cache=True, nogil=True)
def _sample(image: np.ndarray, x: float, y: float, table: np.ndarray) -> np.float32:
    """One sample of a padded image at a position inside the unpadded one."""
    phases = table.shape[1] - 1
    ix, iy = int(np.floor(x)), int(np.floor(y))
    px, py = int((x - ix) * phases + 0.5), int((y - iy) * phases + 0.5)
    total = np.float32(0)
    for b in range(TAPS):
        part = np.float32(0)
        for a in range(TAPS):
            part += table[a, px] * image[iy + PAD - 2 + b, ix + PAD - 2 + a]
        total += table[b, py] * part
    return total


_TAPS = "void(f4[:, ::1], i8, i8, i8, f4[:, ::1], f4[:, ::1], i8, i8)"


@njit(_TAPS, cache=True, nogil=True, fastmath=True)
def _along_row(
    image: np.ndarray, row: int, at: int, count: int, w: np.ndarray, out: np.ndarray, to: int, first: int
) -> None:
    """Six neighbours in a row, from column `at` on, times weights that change evenly from sample to sample."""
    wa, wb, wc, wd, we, wf = w[0, 0], w[0, 1], w[0, 2], w[0, 3], w[0, 4], w[0, 5]
    va, vb, vc, vd, ve, vf = w[1, 0], w[1, 1], w[1, 2], w[1, 3], w[1, 4], w[1, 5]
    r, k, o, q = U(row), U(at), U(to), U(first)
    for i in range(U(count)):
        a, b, c = image[r, k + i], image[r, k + U(1) + i], image[r, k + U(2) + i]
        d, e, f = image[r, k + U(3) + i], image[r, k + U(4) + i], image[r, k + U(5) + i]
        level = a * wa + b * wb + c * wc + d * wd + e * we + f * wf
        slope = a * va + b * vb + c * vc + d * vd + e * ve + f * vf
        out[o, q + i] = level + slope * np.float32(np.int32(i))


@njit(_TAPS, cache=True, nogil=True, fastmath=True)
def _along_column(
    rows: np.ndarray, row: int, at: int, count: int, w: np.ndarray, out: np.ndarray, to: int, first: int
) -> None:
    """Six neighbours in a column, from `row` on, times weights that change evenly from sample to sample."""
    wa, wb, wc, wd, we, wf = w[0, 0], w[0, 1], w[0, 2], w[0, 3], w[0, 4], w[0, 5]
    va, vb, vc, vd, ve, vf = w[1, 0], w[1, 1], w[1, 2], w[1, 3], w[1, 4], w[1, 5]
    r, k, o, q = U(row), U(at), U(to), U(first)
    for i in range(U(count)):
        a, b, c = rows[r, k + i], rows[r + U(1), k + i], rows[r + U(2), k + i]
        d, e, f = rows[r + U(3), k + i], rows[r + U(4), k + i], rows[r + U(5), k + i]
        level = a * wa + b * wb + c * wc + d * wd + e * we + f * wf
        slope = a * va + b * vb + c * vc + d * vd + e * ve + f * vf
        out[o, q + i] = level + slope * np.float32(np.int32(i))


@njit("i8(i8, i8, f8)", cache=True, nogil=True)
def _piece(first: int, stop: int, slope: float) -> int:
    """End of the piece from `first` on along which the phase changes by less than `EVEN_PX`."""
    return stop if abs(slope) * (stop - first) < EVEN_PX else min(stop, first + PIECE)


@njit("void(f4[:, ::1], i8, f8, f8, i8, f4[:, ::1], f4[:, ::1], f4[:, ::1], i8, i8)", cache=True, nogil=True)
def _filter_row(
    image: np.ndarray, row: int, x0: float, dx: float, width: int, table: np.ndarray, weights: np.ndarray,
    out: np.ndarray, to: int, start: int,
) -> None:  # fmt: skip
    """First pass: one input row sampled at x0 + dx i where that is (nearly) inside the image, else 0; to row `to`."""
    nx = image.shape[1] - 2 * PAD
    first, end = 0, width
    while first < end and not (x0 + dx * first >= -0.75):
        out[to, start + first] = 0
        first += 1
    while end > first and not (x0 + dx * (end - 1) <= nx - 0.25):
        end -= 1
        out[to, start + end] = 0
    while first < end:
        stop = _piece(first, _same_floor(x0, dx, first, end), dx - 1.0)
        x = x0 + dx * first
        ix = int(np.floor(x))
        _weights(table, x - ix, dx - 1.0, stop - first, weights)
        _along_row(image, row + PAD, ix + PAD - 2, stop - first, weights, out, to, start + first)
        first = stop


@njit("void(f4[:, ::1], i8, f8, f8, i8, i8, f4[:, ::1], f4[:, ::1], f4[:, ::1], i8, i8)", cache=True, nogil=True)
def _filter_columns(
    rows: np.ndarray, top: int, y0: float, dy: float, first: int, end: int, table: np.ndarray, weights: np.ndarray,
    out: np.ndarray, to: int, start: int,
) -> None:  # fmt: skip
    """Second pass: samples at y0 + dy i across the filtered rows, of which the first is input row `top`."""
    while first < end:
        stop = _piece(first, _same_floor(y0, dy, first, end), dy)
        y = y0 + dy * first
        iy = int(np.floor(y))
        _weights(table, y - iy, dy, stop - first, weights)
        _along_column(rows, iy - 2 - top, start + first, stop - first, weights, out, to, start + first)
        first = stop


@njit("u1(u1[:, ::1], i8, i8, i8, u1[::1], i8)", cache=True, nogil=True)
def _copy_flags(flags: np.ndarray, row: int, at: int, count: int, out: np.ndarray, first: int) -> np.uint8:
    """Copy `count` flags of a row; returns the OR of all."""
    seen = np.uint8(0)
    r, k, q = U(row), U(at), U(first)
    for i in range(U(count)):
        value = flags[r, k + i]
        out[q + i] = value
        seen |= value
    return seen


@njit("u1(u1[:, ::1], f8, f8, f8, f8, i8, i8, u1[::1])", cache=True, nogil=True)
def _gather(
    flags: np.ndarray, x0: float, dx: float, y0: float, dy: float, first: int, end: int, out: np.ndarray
) -> np.uint8:
    """Read spread flags for the samples of a row; returns the OR of all."""
    seen = np.uint8(0)
    while first < end:
        stop = min(_same_floor(x0, dx, first, end), _same_floor(y0, dy, first, end))
        ix, iy = int(np.floor(x0 + dx * first)) + PAD, int(np.floor(y0 + dy * first)) + PAD
        seen |= _copy_flags(flags, iy, ix, stop - first, out, first)
        first = stop
    return seen


@njit("void(f4[:, ::1], i8, i8, i8, f4, f4)", cache=True, nogil=True)
def _scale(out: np.ndarray, row: int, at: int, count: int, f: np.float32, df: np.float32) -> None:
    """Multiply samples of a row by a factor that changes evenly."""
    r, k = U(row), U(at)
    for i in range(U(count)):
        out[r, k + i] *= f + df * np.float32(np.int32(i))


@njit("UniTuple(i8, 2)(f8, f8, f8, f8, i8, i8, i8)", cache=True, nogil=True)
def _inside(x0: float, dx: float, y0: float, dy: float, width: int, mx: int, my: int) -> tuple[int, int]:
    """First and end of the samples of a row that lie inside the input image."""
    first, end = 0, width
    while first < end and not (-0.5 <= x0 + dx * first <= mx - 0.5 and -0.5 <= y0 + dy * first <= my - 0.5):
        first += 1
    while end > first and not (-0.5 <= x0 + dx * (end - 1) <= mx - 0.5 and -0.5 <= y0 + dy * (end - 1) <= my - 0.5):
        end -= 1
    return first, end


@njit("void(f4[:, ::1], i8, i8, i8)", cache=True, nogil=True)
def _blank(out: np.ndarray, row: int, at: int, count: int) -> None:
    """NaN in a part of a row."""
    for i in range(count):
        out[row, at + i] = np.nan


@njit(
    "u1(f4[:, ::1], u1[:, ::1], f8, f8, f8, f8, i8, i8, f4[:, ::1], f4[:, ::1], i8, i8, u1[::1])",
    cache=True,
    nogil=True,
)
def _one_pass(
    image: np.ndarray, flags: np.ndarray, x0: float, dx: float, y0: float, dy: float, first: int, end: int,
    table: np.ndarray, out: np.ndarray, to: int, start: int, found: np.ndarray,
) -> np.uint8:  # fmt: skip
    """Samples and flags of a row, pixel by pixel; returns the OR of the flags."""
    my, mx = image.shape[0] - 2 * PAD, image.shape[1] - 2 * PAD
    seen = np.uint8(0)
    for i in range(first, end):
        x, y = x0 + dx * i, y0 + dy * i
        if -0.5 <= x <= mx - 0.5 and -0.5 <= y <= my - 0.5:
            out[to, start + i] = _sample(image, x, y, table)
            found[i] = flags[int(np.floor(y)) + PAD, int(np.floor(x)) + PAD]
        else:
            out[to, start + i], found[i] = np.float32(0), np.uint8(HOLE)
        seen |= found[i]
    return seen


@njit("void(u1[::1], i8, i8, f4[:, ::1], f4[:, ::1], u1[:, ::1], i8, i8)", cache=True, nogil=True)
def _set_aside(
    found: np.ndarray,
    first: int,
    end: int,
    out: np.ndarray,
    plateau: np.ndarray,
    count: np.ndarray,
    to: int,
    start: int,
) -> None:
    """Flagged samples of a row become NaN; saturated ones are added to `plateau` and counted."""
    for i in range(first, end):
        if found[i] & HOLE:
            out[to, start + i] = np.nan
        elif found[i]:
            plateau[to, start + i] += out[to, start + i]
            count[to, start + i] += np.uint8(1)
            out[to, start + i] = np.nan


@njit("i8(f8[:, ::1], f8[:, ::1], i8, i8, i8, i8, b1[::1], i8[::1], i8[::1])", cache=True, nogil=True)
def _band(
    grid_x: np.ndarray, grid_y: np.ndarray, gr: int, step: int, my: int, room: int, straight: np.ndarray,
    tops: np.ndarray, bottoms: np.ndarray,
) -> int:  # fmt: skip
    """Input rows that each cell of a band needs, and whether it is straight enough for two passes; returns the first row."""
    first = 1 << 40
    for gc in range(straight.size):
        xa, xb, xc, xd = grid_x[gr, gc], grid_x[gr, gc + 1], grid_x[gr + 1, gc], grid_x[gr + 1, gc + 1]
        ya, yb, yc, yd = grid_y[gr, gc], grid_y[gr, gc + 1], grid_y[gr + 1, gc], grid_y[gr + 1, gc + 1]
        bend = max(abs(xb - xa - step), abs(xd - xc - step), abs(xc - xa), abs(xd - xb))
        tilt = max(abs(yc - ya - step), abs(yd - yb - step), abs(yb - ya), abs(yd - yc))
        known = np.isfinite(xa + xb + xc + xd + ya + yb + yc + yd)  # the sky position of a far corner may not exist
        straight[gc] = known and max(bend, tilt) < STRAIGHT_PX
        if straight[gc]:
            tops[gc] = max(int(np.floor(min(ya, yb, yc, yd))) - 2, -3)
            bottoms[gc] = min(int(np.floor(max(ya, yb, yc, yd))) + 3, my + 2)
            first = min(first, tops[gc])
    for gc in range(straight.size):
        if straight[gc]:
            straight[gc] = bottoms[gc] - first < room
    return first


@njit(
    "void(f4[:, ::1], f8[:, ::1], f8[:, ::1], i8, i8, i8, i8, b1[::1], i8[::1], i8[::1], f4[:, ::1], f4[:, ::1], f4[:, ::1])",
    cache=True,
    nogil=True,
)
def _filter_band(
    image: np.ndarray, grid_x: np.ndarray, grid_y: np.ndarray, gr: int, step: int, nx: int, top: int, straight: np.ndarray,
    tops: np.ndarray, bottoms: np.ndarray, table: np.ndarray, weights: np.ndarray, rows: np.ndarray,
) -> None:  # fmt: skip
    """First pass of all straight cells of a band; the first of `rows` is input row `top`."""
    for r in range(top, top + rows.shape[0]):
        for gc in range(straight.size):
            if straight[gc] and tops[gc] <= r <= bottoms[gc]:
                xa, xb, xc, xd = grid_x[gr, gc], grid_x[gr, gc + 1], grid_x[gr + 1, gc], grid_x[gr + 1, gc + 1]
                middle0 = 0.5 * (grid_y[gr, gc] + grid_y[gr, gc + 1])
                middle1 = 0.5 * (grid_y[gr + 1, gc] + grid_y[gr + 1, gc + 1])
                v = (r - middle0) / (middle1 - middle0)
                x0 = (1 - v) * xa + v * xc
                dx = ((1 - v) * xb + v * xd - x0) / step
                width = min(step, nx - gc * step)
                _filter_row(image, r, x0, dx, width, table, weights, rows, r - top, gc * step)


@njit(
    "void(f4[:, ::1], u1[:, ::1], f8[:, ::1], f8[:, ::1], f8[:, ::1], i8, f4[:, ::1], f4[:, ::1], f4[:, ::1], u1[:, ::1])",
    cache=True,
    nogil=True,
)
def move(
    image: np.ndarray,
    flags: np.ndarray,
    grid_x: np.ndarray,
    grid_y: np.ndarray,
    factor: np.ndarray,
    step: int,
    table: np.ndarray,
    out: np.ndarray,
    plateau: np.ndarray,
    count: np.ndarray,
) -> None:
    """Lanczos-3 resampling of a frame in two passes, NaN where a sample leans on a hole or lies outside.

    Within a cell of the coarse grid the map is a shift with a very small shear and stretch. Each input row r is first sampled
    at the columns x(i, j(r)), j(r) the output row that falls on it; each column of these rows is then sampled at y(i, j): 12
    weights for a sample instead of 36. The first pass holds the image along lines that lean like the output's columns, a
    function as smooth as the image (Catmull and Smith 1980, SIGGRAPH 14, 279). Other cells are sampled pixel by pixel.

    Parameters
    ----------
    image : (my + 2 PAD, mx + 2 PAD) float32
        `padded`; finite everywhere.
    flags : (my + 2 PAD, mx + 2 PAD) uint8
        `spread_flags`.
    grid_x, grid_y : (gy, gx) float64
        Input position, 0-based pixels, of output pixels (row, column) = (j step, i step).
    factor : (gy, gx) float64
        Multiplies the output: area of an output pixel in input pixels (conserves flux) times the flux scale.
    step : int
        Output pixels between nodes.
    table : (6, phases + 1) float32
        `ztfds.kernels.resample.lanczos_table`.
    out : (ny, nx) float32
        Written; NaN also where the sample is saturated.
    plateau, count : (ny, nx) float32, uint8
        Saturated samples are added to the one and counted in the other.
    """
    ny, nx = out.shape
    my, mx = image.shape[0] - 2 * PAD, image.shape[1] - 2 * PAD
    cells = (nx + step - 1) // step
    rows = np.empty((2 * step + 64, cells * step), np.float32)
    weights = np.empty((2, TAPS), np.float32)
    found = np.empty(step, np.uint8)
    straight = np.empty(cells, np.bool_)
    tops, bottoms = np.empty(cells, np.int64), np.empty(cells, np.int64)
    for gr in range((ny + step - 1) // step):
        # a band of cells; all of its rows are filtered before its columns, so that memory is read in long runs
        top = _band(grid_x, grid_y, gr, step, my, rows.shape[0], straight, tops, bottoms)
        _filter_band(image, grid_x, grid_y, gr, step, nx, top, straight, tops, bottoms, table, weights, rows)
        for j in range(min(step, ny - gr * step)):
            to, v = gr * step + j, j / step
            for gc in range(cells):
                start = gc * step
                x0 = (1 - v) * grid_x[gr, gc] + v * grid_x[gr + 1, gc]
                x1 = (1 - v) * grid_x[gr, gc + 1] + v * grid_x[gr + 1, gc + 1]
                y0 = (1 - v) * grid_y[gr, gc] + v * grid_y[gr + 1, gc]
                y1 = (1 - v) * grid_y[gr, gc + 1] + v * grid_y[gr + 1, gc + 1]
                f0 = (1 - v) * factor[gr, gc] + v * factor[gr + 1, gc]
                f1 = (1 - v) * factor[gr, gc + 1] + v * factor[gr + 1, gc + 1]
                dx, dy, df = (x1 - x0) / step, (y1 - y0) / step, np.float32((f1 - f0) / step)
                first, end = _inside(x0, dx, y0, dy, min(step, nx - start), mx, my)
                _blank(out, to, start, first)
                _blank(out, to, start + end, min(step, nx - start) - end)
                if first == end:
                    continue
                if straight[gc]:
                    _filter_columns(rows, top, y0, dy, first, end, table, weights, out, to, start)
                    seen = _gather(flags, x0, dx, y0, dy, first, end, found)
                else:
                    seen = _one_pass(image, flags, x0, dx, y0, dy, first, end, table, out, to, start, found)
                _scale(out, to, start + first, end - first, np.float32(f0 + df * first), df)
                if seen:
                    _set_aside(found, first, end, out, plateau, count, to, start)
