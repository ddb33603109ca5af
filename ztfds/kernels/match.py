"""Kernels that match point lists in a plane: nearest neighbours by a grid hash, crowding, and the vote for a shift."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]


@njit(
    "Tuple((i4[::1], i4[::1], f8, f8, f8, i8, i8))(f8[::1], f8[::1], f8)",
    cache=True,
    nogil=True,
)
def _build_grid(x, y, reach):  # type: ignore[no-untyped-def]
    """Sort points into square cells not smaller than `reach` and, on average, not emptier than one point per two cells.

    Returns (first (n_cells + 1,), members (n,), x0, y0, cell, nx, ny): the points of cell c are
    members[first[c]:first[c + 1]], and point (x, y) lies in column int((x - x0) / cell).
    """
    n = x.size
    x0, x1, y0, y1 = np.inf, -np.inf, np.inf, -np.inf
    for k in range(n):
        x0, x1 = min(x0, x[k]), max(x1, x[k])
        y0, y1 = min(y0, y[k]), max(y1, y[k])
    if n == 0:
        x0, x1, y0, y1 = 0.0, 0.0, 0.0, 0.0
    cell = max(reach, np.sqrt((x1 - x0) * (y1 - y0) / max(2.0 * n, 1.0)))
    # A line of points has no area: bound the number of cells along it too.
    cell = max(cell, max(x1 - x0, y1 - y0) / 4096.0)
    if cell <= 0.0:
        cell = 1.0
    nx = int((x1 - x0) / cell) + 1
    ny = int((y1 - y0) / cell) + 1
    first = np.zeros(nx * ny + 1, np.int32)
    where = np.empty(n, np.int32)
    for k in range(n):
        c = int((y[k] - y0) / cell) * nx + int((x[k] - x0) / cell)
        where[k] = c
        first[c + 1] += 1
    for c in range(nx * ny):
        first[c + 1] += first[c]
    cursor = first.copy()
    members = np.empty(n, np.int32)
    for k in range(n):
        members[cursor[where[k]]] = k
        cursor[where[k]] += 1
    return first, members, x0, y0, cell, nx, ny


@njit(
    "Tuple((i4[::1], f8[::1]))(f8[::1], f8[::1], f8[::1], f8[::1], f8)",
    cache=True,
    nogil=True,
)
def _nearest(x, y, rx, ry, radius):  # type: ignore[no-untyped-def]
    first, members, x0, y0, cell, nx, ny = _build_grid(rx, ry, radius)
    index = np.full(x.size, -1, np.int32)
    distance = np.full(x.size, np.inf)
    for k in range(x.size):
        column = np.floor((x[k] - x0) / cell)
        row = np.floor((y[k] - y0) / cell)
        # Also turns away NaN: every comparison with it is false.
        if not (column >= -1 and column <= nx and row >= -1 and row <= ny):
            continue
        best = radius * radius
        for j in range(max(0, int(row) - 1), min(ny, int(row) + 2)):
            lo = first[j * nx + max(0, int(column) - 1)]
            hi = first[j * nx + min(nx, int(column) + 2)]
            for p in range(lo, hi):
                q = members[p]
                d2 = (rx[q] - x[k]) ** 2 + (ry[q] - y[k]) ** 2
                if d2 <= best:
                    best = d2
                    index[k] = q
        if index[k] >= 0:
            distance[k] = np.sqrt(best)
    return index, distance


@njit("f8[::1](f8[::1], f8[::1], f8[::1], f8)", cache=True, nogil=True)
def _contamination(x, y, flux, radius):  # type: ignore[no-untyped-def]
    first, members, x0, y0, cell, nx, ny = _build_grid(x, y, radius)
    total = np.zeros(x.size)
    for k in range(x.size):
        column = int((x[k] - x0) / cell)
        row = int((y[k] - y0) / cell)
        for j in range(max(0, row - 1), min(ny, row + 2)):
            for p in range(first[j * nx + max(0, column - 1)], first[j * nx + min(nx, column + 2)]):
                q = members[p]
                if q != k and (x[q] - x[k]) ** 2 + (y[q] - y[k]) ** 2 <= radius * radius:
                    total[k] += flux[q]
    return total


@njit(
    "Tuple((i4[::1], f8[::1], f8[::1]))(f8[::1], f8[::1], f8[::1], f8[::1], f8[:, ::1], f8, f8)",
    cache=True,
    nogil=True,
)
def _vote(x, y, rx, ry, matrices, half_width, bin_size):  # type: ignore[no-untyped-def]
    first, members, x0, y0, cell, nx, ny = _build_grid(rx, ry, half_width)
    nb = int(np.ceil(2.0 * half_width / bin_size))
    histogram = np.zeros((nb + 1, nb + 1), np.int32)
    n_hypotheses = matrices.shape[0]
    peak = np.zeros(n_hypotheses, np.int32)
    shift_x = np.zeros(n_hypotheses)
    shift_y = np.zeros(n_hypotheses)
    for h in range(n_hypotheses):
        histogram[:] = 0
        a, b, c, d = matrices[h, 0], matrices[h, 1], matrices[h, 2], matrices[h, 3]
        for k in range(x.size):
            px = a * x[k] + b * y[k]
            py = c * x[k] + d * y[k]
            column = int(np.floor((px - x0) / cell))
            row = int(np.floor((py - y0) / cell))
            if column < -1 or column > nx or row < -1 or row > ny:
                continue
            for j in range(max(0, row - 1), min(ny, row + 2)):
                for p in range(first[j * nx + max(0, column - 1)], first[j * nx + min(nx, column + 2)]):
                    q = members[p]
                    i_x = int(np.floor((rx[q] - px + half_width) / bin_size))
                    i_y = int(np.floor((ry[q] - py + half_width) / bin_size))
                    if i_x >= 0 and i_x < nb and i_y >= 0 and i_y < nb:
                        histogram[i_y, i_x] += 1
        for i in range(nb):
            for j in range(nb):
                # A window of 2 x 2 bins: a true peak on a border between bins is not halved.
                count = histogram[i, j] + histogram[i, j + 1] + histogram[i + 1, j] + histogram[i + 1, j + 1]
                if count > peak[h]:
                    peak[h] = count
                    shift_x[h] = (j + 1) * bin_size - half_width
                    shift_y[h] = (i + 1) * bin_size - half_width
    return peak, shift_x, shift_y


def _plain(values: ArrayLike) -> FloatArray:
    """Contiguous, writable float64: what the compiled signatures take (tables read from files may be read-only)."""
    return np.require(values, np.float64, ["C_CONTIGUOUS", "WRITEABLE"])


def match_nearest(
    x: ArrayLike, y: ArrayLike, rx: ArrayLike, ry: ArrayLike, radius: float
) -> tuple[IntArray, FloatArray]:
    """Nearest reference point of every point in a plane.

    Parameters
    ----------
    x, y : (n,) positions, any unit; NaN positions have no match.
    rx, ry : (m,) finite reference positions, same unit.
    radius : largest distance, same unit, inclusive, > 0.

    Returns
    -------
    index : (n,) int32, index into the references, -1 where none lies within the radius.
    distance : (n,) float64, inf where there is none.
    """
    return _nearest(_plain(x), _plain(y), _plain(rx), _plain(ry), float(radius))


def match_mutual(
    x: ArrayLike, y: ArrayLike, rx: ArrayLike, ry: ArrayLike, radius: float
) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs that are each other's nearest neighbour within a radius: never two points for one reference.

    Parameters as in `match_nearest`. Returns (i, j, distance): pair k is point i[k] and reference j[k], i ascending.
    """
    x, y, rx, ry = _plain(x), _plain(y), _plain(rx), _plain(ry)
    there, distance = _nearest(x, y, rx, ry, float(radius))
    candidates = np.flatnonzero(there >= 0).astype(np.int32)
    back, _ = _nearest(rx, ry, x[candidates], y[candidates], float(radius))
    mutual = back[there[candidates]] == np.arange(candidates.size)
    i = candidates[mutual]
    return i, there[i], distance[i]


def contamination(x: ArrayLike, y: ArrayLike, flux: ArrayLike, radius: float) -> FloatArray:
    """Flux of all other points within a radius, divided by the point's own flux; positions finite, flux > 0. (n,)"""
    own = _plain(flux)
    return _contamination(_plain(x), _plain(y), own, float(radius)) / own


def vote_shift(
    x: ArrayLike, y: ArrayLike, rx: ArrayLike, ry: ArrayLike, matrices: ArrayLike, half_width: float, bin_size: float
) -> tuple[IntArray, FloatArray, FloatArray]:
    """For each linear hypothesis the shift that brings most points onto references: peak of the offset histogram.

    Parameters
    ----------
    x, y : (n,) points; rx, ry : (m,) references; all finite, same unit.
    matrices : (h, 4) rows (a, b, c, d): a point is tried at (a x + b y, c x + d y).
    half_width : largest shift per axis; bin_size : width of a histogram bin; same unit.

    Returns
    -------
    count, shift_x, shift_y : (h,) number of pairs in the best window of 2 x 2 bins, and the centre of that window,
        to be added to the transformed points.
    """
    table = np.require(matrices, np.float64, ["C_CONTIGUOUS", "WRITEABLE"])
    return _vote(_plain(x), _plain(y), _plain(rx), _plain(ry), table, float(half_width), float(bin_size))
