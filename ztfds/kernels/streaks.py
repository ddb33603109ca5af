"""Kernels that find short straight streaks: sums of a significance image along lines of many directions and lengths."""

from __future__ import annotations

import numpy as np
from numba import njit

LENGTHS = 4
"""Lengths that one search tries along every direction."""
CHUNK = 1024
"""Columns that are searched together: their running sums stay in the cache."""
QUANTUM = 64
"""Steps per sigma of the significance image in 16-bit integers, whose sums are exact, fast, and may wrap around."""
HIT_COLUMNS = 5


@njit("void(i2[::1], i2[::1], i2[::1], i8)", cache=True, nogil=True)
def _add_row(now: np.ndarray, before: np.ndarray, row: np.ndarray, count: int) -> None:
    """now = before + row; a loop of its own, which the compiler turns into vector instructions."""
    for x in range(count):
        now[x] = np.int16(before[x] + row[x])


@njit("void(f4[::1], b1[::1], f4, i2[::1])", cache=True, nogil=True, error_model="numpy")
def _clipped(score: np.ndarray, blocked: np.ndarray, clip: float, out: np.ndarray) -> None:
    """A row of the significance image in units of 1 / QUANTUM, clipped; 0 where it is blocked or no number."""
    step, half, zero = np.float32(QUANTUM), np.float32(0.5), np.float32(0)
    for x in range(out.size):
        v = score[x]
        v = v if v == v else zero
        v = min(max(v, -clip), clip) * step
        v = zero if blocked[x] else v
        out[x] = np.int16(np.int32(np.floor(v + half)))


@njit("void(f4[:, ::1], b1[:, ::1], f4, i2[:, ::1], i2[:, ::1])", cache=True, nogil=True, error_model="numpy")
def halve(score: np.ndarray, blocked: np.ndarray, clip: float, rows: np.ndarray, columns: np.ndarray) -> None:
    """Sum pairs of rows, and pairs of columns, of a clipped significance image.

    Clipping keeps single stars from looking like lines. Blocked pixels and NaN count as zero.

    Parameters
    ----------
    score : (ny, nx) float32
    blocked : (ny, nx) bool
    clip : float
        Largest absolute value of a pixel.
    rows : (ny // 2, w) int16, w >= nx
        Written: sums of two rows in units of 1 / QUANTUM; the columns from nx on are not touched.
    columns : (nx // 2, h) int16, h >= ny
        Written: sums of two columns, transposed; the columns from ny on are not touched.
    """
    ny, nx = score.shape[0] - score.shape[0] % 2, score.shape[1] - score.shape[1] % 2
    upper, lower = np.empty(nx, np.int16), np.empty(nx, np.int16)
    side = 16  # pairs of rows that are turned together, so that whole cache lines of `columns` are written
    turned = np.empty((side, nx), np.int16)
    for y0 in range(0, ny, side):
        height = min(side, ny - y0)
        for y in range(y0, y0 + height, 2):
            _clipped(score[y], blocked[y], clip, upper)
            _clipped(score[y + 1], blocked[y + 1], clip, lower)
            _add_row(rows[y // 2], upper, lower, nx)
            for x in range(nx // 2):
                turned[y - y0, x] = upper[2 * x] + upper[2 * x + 1]
                turned[y - y0 + 1, x] = lower[2 * x] + lower[2 * x + 1]
        for x in range(nx // 2):
            for y in range(height):
                columns[x, y0 + y] = turned[y, x]


@njit("void(f4[:, ::1], i8, i8[:, ::1], i8[:, ::1], f4[:, ::1])", cache=True, nogil=True, error_model="numpy")
def line_norms(noise: np.ndarray, count: int, drifts: np.ndarray, lengths: np.ndarray, norms: np.ndarray) -> None:
    """One over the standard deviation of the line sums that `search` makes of noise of known correlation.

    Parameters
    ----------
    noise : (2 r + 1, 2 r + 1) float32
        Autocorrelation of the significance image, 1 in the middle; first axis along the pairs, beyond r zero.
    count : int
        Directions.
    drifts : (count, m) int64
        Column of each row of a line; see `search`.
    lengths : (count, LENGTHS) int64
        Rows in a line.
    norms : (count, LENGTHS) float32
        Written.
    """
    reach = noise.shape[0] // 2
    for a in range(count):
        for k in range(lengths.shape[1]):
            n = lengths[a, k]
            total = 0.0
            for i in range(n):
                for j in range(max(0, i - reach), min(n, i + reach + 1)):
                    dx = drifts[a, j] - drifts[a, i]
                    if abs(dx) > reach:
                        continue
                    for p in range(2):
                        for q in range(2):
                            dy = 2 * (j - i) + q - p
                            if abs(dy) <= reach:
                                total += noise[dy + reach, dx + reach]
            norms[a, k] = 1.0 / np.sqrt(max(total, 1e-6))


@njit("i2(i2[::1], i2[::1], i2[::1], i2[::1], i2[::1], i2[::1], i8)", cache=True, nogil=True)
def _any_above(
    now: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, least: np.ndarray, width: int
) -> np.int16:
    """Whether one of four line sums passes its threshold anywhere in a row: a loop without branches, vectorised."""
    n0, n1, n2, n3 = least[0], least[1], least[2], least[3]
    above = np.int16(0)
    for x in range(width):
        v = now[x]
        above |= np.int16(
            (np.int16(v - a[x]) > n0)
            | (np.int16(v - b[x]) > n1)
            | (np.int16(v - c[x]) > n2)
            | (np.int16(v - d[x]) > n3)
        )
    return above


@njit(
    "i8(i2[::1], i2[:, ::1], i8[::1], i2[::1], f4[::1], i8[::1], i8[::1], i8, i8, i8, i8, i8, i8, f4[:, ::1])",
    cache=True,
    nogil=True,
)
def _list_hits(
    now: np.ndarray,
    sums: np.ndarray,
    back: np.ndarray,
    least: np.ndarray,
    norms: np.ndarray,
    lengths: np.ndarray,
    drifts: np.ndarray,
    a: int,
    r: int,
    start: int,
    width: int,
    w: int,
    cell: int,
    hits: np.ndarray,
) -> int:
    """Enter the lines that end in row r and pass a threshold into the cells of their middles; returns their number."""
    across = w // (2 * cell) + 1
    found = 0
    for x in range(width):
        v = now[x]
        if not (
            np.int16(v - sums[back[0], x]) > least[0]
            or np.int16(v - sums[back[1], x]) > least[1]
            or np.int16(v - sums[back[2], x]) > least[2]
            or np.int16(v - sums[back[3], x]) > least[3]
        ):
            continue
        best = np.float32(0)
        k = 0
        for j in range(LENGTHS):
            value = np.float32(np.int16(v - sums[back[j], x])) * norms[j] / np.float32(QUANTUM)
            if value > best:
                best, k = value, j
        found += 1
        middle = max(r - lengths[k] // 2, 0)
        column = (start + x + drifts[middle]) % w
        where = (middle // cell) * across + column // (2 * cell)
        if best > hits[where, 0]:
            hits[where, 0], hits[where, 1], hits[where, 2] = best, a, lengths[k]
            hits[where, 3], hits[where, 4] = r - 0.5 * (lengths[k] - 1), column
    return found


@njit("i8(i2[:, ::1], i8[:, ::1], i8[:, ::1], f4[:, ::1], f4, i8, f4[:, ::1])", cache=True, nogil=True)
def search(
    pairs: np.ndarray,
    drifts: np.ndarray,
    lengths: np.ndarray,
    norms: np.ndarray,
    threshold: float,
    cell: int,
    hits: np.ndarray,
) -> int:
    """Line sums along many directions; the best of every cell of the image that passes a threshold.

    A line of direction a holds column x + drifts[a, r] of row r. Rows are added up in a frame that drifts with the line, so
    that the sum of any length is the difference of two rows of running sums. Lines wrap around at the right edge,
    where empty columns, more than a line drifts, keep the two sides of the image apart. Running sums overflow, their
    differences do not: the caller sees to it that LENGTHS rows of clipped pairs stay below 2^15.

    Parameters
    ----------
    pairs : (n, w) int16
        Pairs of rows (`halve`), with empty columns at the right.
    drifts : (directions, n) int64
        Column of the line in each row, relative to its first.
    lengths : (directions, LENGTHS) int64
        Rows of the lines, ascending.
    norms : (directions, LENGTHS) float32
        See `line_norms`.
    threshold : float
    cell : int
        Side of the cells, rows of pairs, and twice that in columns.
    hits : (cells, HIT_COLUMNS) float32
        In and out, for cell (r // cell) * (w // (2 cell) + 1) + x // (2 cell): significance, direction, rows, row and column
        of the middle. Cells whose significance is lower are replaced.

    Returns
    -------
    int
        Lines above the threshold.
    """
    n, w = pairs.shape
    found = 0
    ring = 0
    for a in range(lengths.shape[0]):
        ring = max(ring, lengths[a, LENGTHS - 1] + 1)
    sums = np.empty((ring, CHUNK), np.int16)
    least = np.empty(LENGTHS, np.int16)
    back = np.empty(LENGTHS, np.int64)
    for a in range(lengths.shape[0]):
        for k in range(LENGTHS):
            least[k] = np.int16(min(threshold * QUANTUM / norms[a, k], 32766.0))
        for start in range(0, w, CHUNK):
            width = min(CHUNK, w - start)
            sums[:] = np.int16(0)
            slot = 0
            for r in range(n):
                last, slot = slot, slot + 1 if slot + 1 < ring else 0
                now = sums[slot]
                first = (start + drifts[a, r]) % w
                here = min(width, w - first)
                _add_row(now, sums[last], pairs[r, first:], here)
                if here < width:
                    _add_row(now[here:], sums[last, here:], pairs[r], width - here)
                for k in range(LENGTHS):
                    back[k] = slot - lengths[a, k] if slot >= lengths[a, k] else slot - lengths[a, k] + ring
                if not _any_above(now, sums[back[0]], sums[back[1]], sums[back[2]], sums[back[3]], least, width):
                    continue
                found += _list_hits(
                    now, sums, back, least, norms[a], lengths[a], drifts[a], a, r, start, width, w, cell, hits
                )
    return found
