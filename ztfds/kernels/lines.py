"""Kernels that find long straight tracks: binning, the fast Radon transform of Brady, strips along a line, painting."""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK_ROWS = 64  # rows of cells that are joined before the next ones are looked at
MEDIAN_NOISE = 1.2533  # error of a median of normal numbers over that of their mean, sqrt(pi / 2)


@njit(
    "void(float32[:, ::1], float32[:, ::1], uint8[:, ::1], float32, float32, int64, float32[:, ::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def bin_significance(
    pixels: np.ndarray,
    level: np.ndarray,
    state: np.ndarray,
    noise: float,
    clip: float,
    side: int,
    cells: np.ndarray,
) -> None:
    """Bin an image into square cells of clipped significance, so that stars weigh little and faint lines add up.

    Parameters
    ----------
    pixels, level : (ny, nx) float32
        Image and sky level, DN.
    state : (ny, nx) uint8
        Pixels that are not 0 are left out.
    noise : float
        Sky noise, DN.
    clip : float
        Largest absolute significance of one pixel.
    side : int
        Pixels per side of a cell; rows and columns that do not fill a cell are dropped.
    cells : (ny // side, nx // side) float32
        Written: sum of the clipped significances over the square root of the number of good pixels; 0 without any.
    """
    scale = np.float32(1) / noise
    width = cells.shape[1] * side
    row = np.empty(width, np.float32)
    good = np.empty(width, np.float32)
    zero = np.float32(0)
    for b in range(cells.shape[0]):
        row[:] = zero
        good[:] = zero
        for y in range(b * side, b * side + side):
            for x in range(width):
                usable = state[y, x] == 0
                v = (pixels[y, x] - level[y, x]) * scale
                v = min(max(v, -clip), clip)
                row[x] += v if usable else zero
                good[x] += np.float32(1) if usable else zero
        for a in range(cells.shape[1]):
            total = zero
            n = zero
            for x in range(a * side, a * side + side):
                total += row[x]
                n += good[x]
            cells[b, a] = total / np.sqrt(n) if n > zero else zero


@njit("void(float32[:, ::1], float32[:, ::1], int64, int64, int64)", cache=True, nogil=True, fastmath=True)
def _join_strips(source: np.ndarray, target: np.ndarray, top: int, height: int, end: int) -> None:
    """Join the strips of `height` rows at `top` and below it: sums along lines of twice the height; `end`: last column + 1."""
    n = source.shape[0]
    for s in range(2 * height):
        a = s // 2
        shift = s - a
        # Lines that start further left miss the image; columns beyond its end are zero.
        start = n - s
        both = max(start, end - shift)
        upper, lower, out = source[top + a], source[top + height + a], target[top + s]
        for x in range(start, both):
            out[x] = upper[x] + lower[x + shift]
        for x in range(both, end):
            out[x] = upper[x]


@njit("void(float32[:, ::1], float32[:, ::1], int64, int64)", cache=True, nogil=True, fastmath=True)
def radon_half(table: np.ndarray, other: np.ndarray, rows: int, columns: int) -> None:
    """Sums along all digital lines that cross every row and drift 0..n-1 columns to the right over n rows.

    Brady's recursion (1998, SIAM J. Comput. 27, 107): strips of h rows are joined in pairs,
    R'[s][x] = R_upper[s // 2][x] + R_lower[s // 2][x + s - s // 2]. Costs log2(n) additions per line. Strips are joined block
    by block up to the height of a block, which stays in the cache meanwhile.

    Parameters
    ----------
    table : (n, n + w) float32
        n a power of two. In: an image in the first `rows` rows and columns n .. n + `columns` - 1, zeros elsewhere. Out,
        element [s, x]: sum along the line that starts in row 0 at column x and ends in row n - 1 at column x + s (a
        start left of n enters through the left border).
    other : (n, n + w) float32
        Work space, zeros.
    rows, columns : int
        Size of the image, rows <= n, columns <= w.
    """
    n = table.shape[0]
    end = n + columns
    block = min(n, BLOCK_ROWS)
    source, target, turns = table, other, 0
    for first in range(0, rows, block):
        source, target = table, other
        height, turns = 1, 0
        while height < block:
            for top in range(first, min(rows, first + block), 2 * height):
                _join_strips(source, target, top, height, end)
            source, target = target, source
            height *= 2
            turns += 1
    height = block
    while height < n:
        for top in range(0, rows, 2 * height):
            _join_strips(source, target, top, height, end)
        source, target = target, source
        height *= 2
        turns += 1
    if turns % 2 == 1:  # the result is in the other table
        table[:, :end] = other[:, :end]


@njit("Tuple((float32, float64))(float32[::1], float32)", cache=True, nogil=True, fastmath=True)
def _largest(sums: np.ndarray, scale: np.float32) -> tuple[np.floating, float]:
    """Largest of the scaled sums, and the sum of their squares."""
    best, squares = np.float32(0), np.float32(0)
    for x in range(sums.size):
        v = sums[x] * scale
        squares += v * v
        best = v if v > best else best
    return best, float(squares)


@njit(
    "Tuple((float64, int64, int64, float64))(float32[:, ::1], int64, int64, int64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def best_line(table: np.ndarray, rows: int, columns: int, least: int) -> tuple[np.floating, int, int, float]:
    """The line of the largest sum over square root of its number of cells.

    Parameters
    ----------
    table : (n, n + w) float32
        Result of `radon_half`.
    rows, columns : int
        Size of the image inside the table.
    least : int
        Lines with fewer cells inside the image are not considered.

    Returns
    -------
    significance : float
    slope, start : int
        s and x of the best line, x in columns of the image (negative: it enters through the left border).
    spread : float
        Root mean square of all lines: 1 for white cells of unit variance, more where crowding makes lines by chance.
    """
    n = table.shape[0]
    best = np.float32(0)
    best_slope = 0
    best_start = 0
    squares = 0.0
    considered = 0
    root = np.empty(rows + 1, np.float32)
    for k in range(rows + 1):
        root[k] = np.float32(1) / np.sqrt(np.float32(k)) if k >= max(least, 1) else np.float32(0)
    last_row = np.float32(rows - 1)
    for s in range(n):
        drift = np.float32(s / (n - 1.0))
        # Rows per column of drift; a vertical line stays in its column.
        per_column = np.float32(1) / drift if s > 0 else np.float32(rows)
        # Lines from border to border have all rows; the others, on both sides of them, are counted one by one.
        whole = max(0, columns - int(last_row * drift) - 2) if rows >= least else 0
        most, power = _largest(table[s, n : n + whole], root[rows])
        squares += power
        considered += whole
        if most > best:
            best, best_slope = most, s
            best_start = int(np.argmax(table[s, n : n + whole]))
        for side in range(2):
            for x in range(-s if side == 0 else whole, 0 if side == 0 else columns):
                enter = np.float32(-x) * per_column if x < 0 else np.float32(0)
                leave = min(last_row, np.float32(columns - 1 - x) * per_column) if s > 0 else last_row
                count = int(leave - enter) + 1
                if count >= least:
                    v = table[s, n + x] * root[count]
                    squares += v * v
                    considered += 1
                    if v > best:
                        best = v
                        best_slope = s
                        best_start = x
    return best, best_slope, best_start, np.sqrt(squares / max(considered, 1))


@njit(
    "void(float32[:, ::1], float32[:, ::1], uint8[:, ::1], float64, float64, float64, float64, float32[:, ::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def strip_along(
    pixels: np.ndarray,
    level: np.ndarray,
    state: np.ndarray,
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    strip: np.ndarray,
) -> None:
    """Cut a straightened strip about the line (x0, y0)-(x1, y1): nearest pixels, sky removed.

    Parameters
    ----------
    pixels, level : (ny, nx) float32
        Image and sky level, DN.
    state : (ny, nx) uint8
        Pixels that are not 0 become NaN.
    x0, y0, x1, y1 : float
        Ends, pixels (0-based centres).
    strip : (length, 2 h + 1) float32
        Written: rows are equal steps from the first to the second end, columns perpendicular offsets -h..h pixels to
        the left of the direction of travel (towards (-dy, dx)); NaN outside the image.
    """
    ny, nx = pixels.shape
    length, width = strip.shape
    half = width // 2
    span = np.hypot(x1 - x0, y1 - y0)
    ux = (x1 - x0) / span
    uy = (y1 - y0) / span
    for t in range(length):
        f = t / max(length - 1.0, 1.0)
        cx = x0 + f * (x1 - x0)
        cy = y0 + f * (y1 - y0)
        for k in range(width):
            d = k - half
            x = int(np.floor(cx - d * uy + 0.5))
            y = int(np.floor(cy + d * ux + 0.5))
            if 0 <= x < nx and 0 <= y < ny and state[y, x] == 0:
                strip[t, k] = pixels[y, x] - level[y, x]
            else:
                strip[t, k] = np.float32(np.nan)


@njit("Tuple((int64, int64, float64))(float32[:, ::1], int64)", cache=True, nogil=True, error_model="numpy")
def best_offsets(strip: np.ndarray, reach: int) -> tuple[int, int, float]:
    """Straight line inside a strip, from offset d0 at its first row to d1 at its last, with the largest mean.

    Parameters
    ----------
    strip : (length, 2 h + 1) float32
        Values clipped by the caller; NaN is left out.
    reach : int
        Largest absolute offset tried, < h.

    Returns
    -------
    d0, d1 : int
        Offsets, pixels.
    mean : float
        Mean along the best line over three neighbouring offsets.
    """
    length, width = strip.shape
    half = width // 2
    best = -np.inf
    first = 0
    last = 0
    for d0 in range(-reach, reach + 1):
        for d1 in range(-reach, reach + 1):
            total = 0.0
            n = 0
            for t in range(0, length, 2):
                k = int(np.floor(half + d0 + (d1 - d0) * t / (length - 1.0) + 0.5))
                for q in range(k - 1, k + 2):
                    v = strip[t, q]
                    if v == v:
                        total += v
                        n += 1
            if n > 0 and total / n > best:
                best = total / n
                first = d0
                last = d1
    return first, last, best


@njit(
    "int64(uint16[:, ::1], uint16, float64, float64, float64, float64, float64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def paint_line(mask: np.ndarray, bit: int, x0: float, y0: float, x1: float, y1: float, half_width: float) -> int:
    """Set `bit` in `mask` (ny, nx) uint16 within `half_width` pixels of a segment; returns the number of pixels set."""
    ny, nx = mask.shape
    span2 = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-12)
    ux = (x1 - x0) / span2
    uy = (y1 - y0) / span2
    norm = np.sqrt(span2)
    count = 0
    for y in range(max(0, int(min(y0, y1) - half_width)), min(ny, int(max(y0, y1) + half_width) + 2)):
        low = min(x0, x1) - half_width
        high = max(x0, x1) + half_width
        if abs(y1 - y0) > 1e-9:
            # Columns that the band can reach in this row.
            reach = half_width * norm / abs(y1 - y0)
            centre = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
            low = max(low, centre - reach)
            high = min(high, centre + reach)
        for x in range(max(0, int(np.floor(low))), min(nx, int(np.ceil(high)) + 1)):
            f = min(max((x - x0) * ux + (y - y0) * uy, 0.0), 1.0)
            dx = x - x0 - f * (x1 - x0)
            dy = y - y0 - f * (y1 - y0)
            if dx * dx + dy * dy <= half_width * half_width:
                mask[y, x] |= bit
                count += 1
    return count


@njit("int64(uint16[:, ::1], uint16, float64, float64, float64, float64)", cache=True, nogil=True, error_model="numpy")
def paint_annulus(mask: np.ndarray, bit: int, x: float, y: float, inner: float, outer: float) -> int:
    """Set `bit` in `mask` (ny, nx) uint16 where the distance to (x, y) is in [inner, outer]; the number of pixels."""
    ny, nx = mask.shape
    count = 0
    for j in range(max(0, int(np.ceil(y - outer))), min(ny, int(np.floor(y + outer)) + 1)):
        across = np.sqrt(max(outer * outer - (j - y) ** 2, 0.0))
        for i in range(max(0, int(np.ceil(x - across))), min(nx, int(np.floor(x + across)) + 1)):
            r2 = (i - x) ** 2 + (j - y) ** 2
            if inner * inner <= r2 <= outer * outer:
                mask[j, i] |= bit
                count += 1
    return count


@njit("float64(float32[::1], int64)", cache=True, nogil=True)
def _middle(values: np.ndarray, n: int) -> float:
    """Median of the first `n` values, n > 0."""
    return float(np.median(values[:n]))


@njit("void(float32[:, ::1], int64, int64, float64, float64[::1])", cache=True, nogil=True, error_model="numpy")
def piece_significance(strip: np.ndarray, inner: int, outer: int, noise: float, pieces: np.ndarray) -> None:
    """Significance of a line in each piece of a straightened strip: median of its middle minus that of both sides.

    Parameters
    ----------
    strip : (length, 2 h + 1) float32
        DN above the sky; NaN is left out.
    inner : int
        The middle is 2 `inner` + 1 columns wide.
    outer : int
        Columns on either side that show the sky.
    noise : float
        Noise of a pixel, DN; where crowding widens the distribution of the sides their robust scatter is taken.
    pieces : (n,) float64
        Written; the pieces are as `numpy.array_split` makes them. 0 where too few pixels are good.
    """
    length, width = strip.shape
    n_pieces, half = pieces.size, width // 2
    room = (length // n_pieces + 1) * max(2 * inner + 1, 2 * outer)
    line, sides = np.empty(room, np.float32), np.empty(room, np.float32)
    last = 0
    for k in range(n_pieces):
        first, last = last, last + length // n_pieces + (1 if k < length % n_pieces else 0)
        n_line = n_sides = 0
        for t in range(first, last):
            for q in range(half - inner, half + inner + 1):
                if np.isfinite(strip[t, q]):
                    line[n_line] = strip[t, q]
                    n_line += 1
            for q in range(2 * outer):
                v = strip[t, q if q < outer else width - 2 * outer + q]
                if np.isfinite(v):
                    sides[n_sides] = v
                    n_sides += 1
        pieces[k] = 0.0
        if 2 * n_line < (last - first) * (2 * inner + 1) or n_sides < n_line or n_line == 0:
            continue
        sky = _middle(sides, n_sides)
        above = _middle(line, n_line) - sky
        for q in range(n_sides):
            sides[q] = abs(sides[q] - np.float32(sky))
        scatter = max(noise, 1.4826 * _middle(sides, n_sides))
        pieces[k] = above / (MEDIAN_NOISE * scatter * np.sqrt(1.0 / n_line + 1.0 / n_sides))
