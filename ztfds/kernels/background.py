"""Sky level and noise in boxes of an image, and the map in between: clipped histograms, bilinear interpolation."""

from __future__ import annotations

import numpy as np
from numba import njit

BINS = 512  # histogram cells of one box
SPAN = 8.0  # the histogram covers +- SPAN rough sigmas about the rough median
BIG_BOX = 96  # from this side on every other row is enough
SAMPLE = 512  # pixels that give the rough median and sigma


@njit("UniTuple(f8, 3)(f8[::1], f8, f8, f8, f8[:, ::1])", cache=True, nogil=True)
def _clip_histogram(
    counts: np.ndarray, start: float, step: float, clip: float, below: np.ndarray
) -> tuple[float, float, float]:
    """Median, mean and standard deviation of a histogram after iterated symmetric clipping at `clip` sigmas.

    `below` is work space, (3, counts.size + 1): sums of 1, k and k^2 over all entries below a cell, so that each clipping
    costs two look-ups.
    """
    n0 = n1 = n2 = 0.0
    below[:, 0] = 0.0
    for k in range(counts.size):
        n0 += counts[k]
        n1 += counts[k] * k
        n2 += counts[k] * k * k
        below[0, k + 1], below[1, k + 1], below[2, k + 1] = n0, n1, n2
    first, last = 0, counts.size
    median, mean, sigma = start, start, 0.0
    for _ in range(20):
        n = below[0, last] - below[0, first]
        if n < 2.0:
            break
        place = (below[1, last] - below[1, first]) / n
        mean = start + (place + 0.5) * step
        square = (below[2, last] - below[2, first]) / n - place * place
        sigma = step * np.sqrt(max(square - 1.0 / 12.0, 1e-12))
        half = below[0, first] + 0.5 * n
        k = max(first, np.searchsorted(below[0, first + 1 : last], half) + first)
        median = start + (k + (half - below[0, k]) / max(counts[k], 1.0)) * step
        low = max(0, int(np.floor((median - clip * sigma - start) / step)))
        high = min(counts.size, int(np.ceil((median + clip * sigma - start) / step)))
        if low <= first and high >= last:
            break
        first, last = max(low, first), min(high, last)
    return median, mean, sigma


@njit("i8(f4[:, ::1], b1[:, ::1], i8, i8, i8, i8, f4[::1])", cache=True, nogil=True)
def _sample_box(pixels: np.ndarray, usable: np.ndarray, y0: int, y1: int, x0: int, x1: int, sample: np.ndarray) -> int:
    """Copy about `sample.size` usable pixels, evenly spread over the box; return how many."""
    every = max(1, ((y1 - y0) * (x1 - x0)) // sample.size)
    along = min(4, every)
    n = 0
    for j in range(y0, y1, every // along):
        for i in range(x0, x1, along):
            if usable[j, i] and n < sample.size:
                sample[n] = pixels[j, i]
                n += 1
    return n


@njit("i8(f4[:, ::1], b1[:, ::1], i8, i8, i8, i8, i8, f4, f4, i4[:, ::1], i4[::1], f8[::1])", cache=True, nogil=True)
def _fill_histogram(
    pixels: np.ndarray,
    usable: np.ndarray,
    y0: int,
    y1: int,
    x0: int,
    x1: int,
    stride: int,
    lowest: np.float32,
    inverse: np.float32,
    lanes: np.ndarray,
    cells: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Histogram `counts` (BINS,) of the usable pixels in every `stride`-th row of a box; returns how many they are.

    Neighbours are counted in different `lanes` (4, BINS + 2), so that equal ones need not wait for each other; `cells`: work
    space, one number per column. Cell 0 takes what is below or not usable, cell BINS + 1 what is above.
    """
    lanes[:] = 0
    width, top, zero = x1 - x0, np.float32(BINS + 1), np.float32(0.0)
    for j in range(y0, y1, stride):
        row, good = pixels[j, x0:x1], usable[j, x0:x1]
        for i in range(width):
            place = (row[i] - lowest) * inverse + np.float32(1.0)
            place = place if good[i] and place > zero else zero
            cells[i] = np.int32(place if place < top else top)
        for i in range(0, width - 3, 4):
            lanes[0, cells[i]] += 1
            lanes[1, cells[i + 1]] += 1
            lanes[2, cells[i + 2]] += 1
            lanes[3, cells[i + 3]] += 1
        for i in range(width - width % 4, width):
            lanes[0, cells[i]] += 1
    used = 0
    for k in range(BINS):
        n = lanes[0, k + 1] + lanes[1, k + 1] + lanes[2, k + 1] + lanes[3, k + 1]
        counts[k] = n
        used += n
    return used


@njit("void(f4[:, ::1], b1[:, ::1], i8, f8, i8, b1, f4[:, ::1], f4[:, ::1])", cache=True, nogil=True)
def box_statistics(
    pixels: np.ndarray,
    usable: np.ndarray,
    box: int,
    clip: float,
    least: int,
    crowded: bool,
    level: np.ndarray,
    sigma: np.ndarray,
) -> None:
    """Sky level (mode estimate) and noise of each box of box x box pixels; NaN in boxes with too few usable pixels.

    The pixels of a box are put into a histogram 16 rough sigmas wide, clipped symmetrically about the median until stable;
    the level is then 2.5 median - 1.5 mean, or the median where the skewness is so strong that this estimate of the mode
    is known to fail (Da Costa 1992; Bertin & Arnouts 1996, A&AS 117, 393).

    Parameters
    ----------
    pixels : (ny, nx) float32, DN
    usable : (ny, nx) bool, True where a pixel may be used
    box : side of a box, pixels
    clip : clipping limit, sigmas
    least : smallest number of usable pixels of a valid box
    crowded : whether sources are in the image; without them the level is the average of clipped mean and median, which has
        half the noise of the mode
    level, sigma : (ceil(ny / box), ceil(nx / box)) float32, DN, filled here
    """
    ny, nx = pixels.shape
    counts = np.empty(BINS, np.float64)
    stride = 2 if box >= BIG_BOX else 1
    sample = np.empty(SAMPLE, np.float32)
    lanes, cells, below = (
        np.empty((4, BINS + 2), np.int32),
        np.empty(box, np.int32),
        np.empty((3, BINS + 1), np.float64),
    )
    for b in range(level.shape[0]):
        for a in range(level.shape[1]):
            y0, x0 = b * box, a * box
            y1, x1 = min(ny, y0 + box), min(nx, x0 + box)
            level[b, a] = sigma[b, a] = np.nan
            n = _sample_box(pixels, usable, y0, y1, x0, x1, sample)
            if n < 8:
                continue
            part = sample[:n]
            centre = float(np.partition(part, n // 2)[n // 2])
            # the lower half is the less crowded one: its 16 % point gives the rough sigma
            rough = max(centre - float(np.partition(part, int(0.16 * n))[int(0.16 * n)]), 1e-6 * (1.0 + abs(centre)))
            start = centre - SPAN * rough
            step = 2.0 * SPAN * rough / BINS
            inverse, lowest = np.float32(1.0 / step), np.float32(start)
            used = _fill_histogram(pixels, usable, y0, y1, x0, x1, stride, lowest, inverse, lanes, cells, counts)
            if used * stride < least:
                continue
            median, mean, spread = _clip_histogram(counts, start, step, clip, below)
            skewed = abs(mean - median) > 0.3 * spread
            if crowded:
                level[b, a] = median if skewed else 2.5 * median - 1.5 * mean
            else:
                level[b, a] = 0.5 * (median + mean)
            sigma[b, a] = spread


@njit("f8(f4[:, ::1], i8, f8, f8)", cache=True, nogil=True, inline="always")
def mesh_value(mesh: np.ndarray, box: int, x: float, y: float) -> float:
    """Bilinear value of a mesh of box centres at pixel (x, y); constant beyond the outermost centres."""
    nb, na = mesh.shape
    v = min(max((y + 0.5) / box - 0.5, 0.0), nb - 1.0)
    u = min(max((x + 0.5) / box - 0.5, 0.0), na - 1.0)
    b, a = int(v), int(u)
    b1, a1 = min(b + 1, nb - 1), min(a + 1, na - 1)
    fv, fu = v - b, u - a
    lower = (1.0 - fu) * mesh[b, a] + fu * mesh[b, a1]
    upper = (1.0 - fu) * mesh[b1, a] + fu * mesh[b1, a1]
    return (1.0 - fv) * lower + fv * upper


@njit("void(f4[:, ::1], i8, i8, f4[::1], f4[::1])", cache=True, nogil=True)
def mesh_row(mesh: np.ndarray, box: int, y: int, nodes: np.ndarray, row: np.ndarray) -> None:
    """Fill `row` with the bilinear mesh values of image row y; `nodes` is work space, one value per mesh column."""
    nb, na = mesh.shape
    v = min(max((y + 0.5) / box - 0.5, 0.0), nb - 1.0)
    b = int(v)
    b1 = min(b + 1, nb - 1)
    fv = np.float32(v - b)
    for a in range(na):
        nodes[a] = mesh[b, a] + fv * (mesh[b1, a] - mesh[b, a])
    # between two box centres the row is a straight line
    half = 0.5 * (box - 1)
    begin = 0
    for a in range(-1, na):
        end = row.size if a == na - 1 else min(row.size, int(np.floor(half + (a + 1) * box)) + 1)
        left, right = nodes[max(a, 0)], nodes[min(a + 1, na - 1)]
        step = (right - left) / np.float32(box)
        first = left + step * np.float32(begin - (half + a * box))
        part = row[begin:end]
        for i in range(part.size):
            part[i] = first + step * np.float32(i)
        begin = max(begin, end)


@njit("void(f4[:, ::1], i8, f4[:, ::1])", cache=True, nogil=True)
def mesh_image(mesh: np.ndarray, box: int, out: np.ndarray) -> None:
    """Fill a whole image with the bilinear map of a mesh."""
    nodes = np.empty(mesh.shape[1], np.float32)
    for j in range(out.shape[0]):
        mesh_row(mesh, box, j, nodes, out[j])


@njit("void(f4[:, ::1], b1[:, ::1], f4[:, ::1], i8, f4[:, ::1])", cache=True, nogil=True)
def subtract_mesh(pixels: np.ndarray, usable: np.ndarray, mesh: np.ndarray, box: int, out: np.ndarray) -> None:
    """out = pixels - map where usable, 0 elsewhere (so that bad pixels say "no light" to linear filters)."""
    row, nodes = np.empty(pixels.shape[1], np.float32), np.empty(mesh.shape[1], np.float32)
    for j in range(pixels.shape[0]):
        mesh_row(mesh, box, j, nodes, row)
        source, good, target = pixels[j], usable[j], out[j]
        for i in range(row.size):
            target[i] = source[i] - row[i] if good[i] else np.float32(0.0)
