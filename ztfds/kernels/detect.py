"""Matched filter, local maxima and adaptive moments: where the sources are, before any PSF is known."""

from __future__ import annotations

import numpy as np
from numba import njit

from .background import mesh_value

LEAST_CONTRAST = 0.3  # the weight of adaptive moments grows at most by so much, inverted, in a step


@njit("void(f4[::1], f4[::1], f4)", cache=True, nogil=True, fastmath=True)
def _add_scaled(target: np.ndarray, source: np.ndarray, factor: np.float32) -> None:
    """target += factor * source."""
    for i in range(target.size):
        target[i] += factor * source[i]


@njit("void(f4[::1], f4[::1], f4[::1])", cache=True, nogil=True, fastmath=True)
def _exchange(target: np.ndarray, new: np.ndarray, old: np.ndarray) -> None:
    """target += new - old."""
    for i in range(target.size):
        target[i] += new[i] - old[i]


@njit("void(f4[::1], f4[::1], f4, f4[::1], f4[::1], f4)", cache=True, nogil=True, fastmath=True)
def _begin(
    out: np.ndarray, middle: np.ndarray, m: np.float32, one: np.ndarray, other: np.ndarray, f: np.float32
) -> None:
    """out = m * middle + f * (one + other)."""
    for i in range(out.size):
        out[i] = m * middle[i] + f * (one[i] + other[i])


@njit("void(f4[::1], f4[::1], f4[::1], f4, f4[::1], f4[::1], f4)", cache=True, nogil=True, fastmath=True)
def _add_pairs(
    target: np.ndarray, a: np.ndarray, b: np.ndarray, f: np.float32, c: np.ndarray, d: np.ndarray, g: np.float32
) -> None:
    """target += f * (a + b) + g * (c + d)."""
    for i in range(target.size):
        target[i] += f * (a[i] + b[i]) + g * (c[i] + d[i])


@njit("void(f4[::1], f4[::1], f4[::1])", cache=True, nogil=True, fastmath=True)
def _sums_of_four(values: np.ndarray, out: np.ndarray, spare: np.ndarray) -> None:
    """out[i] = sum of values[i : i + 4] for all i but the last three; `spare` is work space of the same length."""
    n = values.size
    one, other, pairs = values[: n - 1], values[1:], spare[: n - 1]
    for i in range(n - 1):
        pairs[i] = one[i] + other[i]
    near, far, fours = spare[: n - 3], spare[2 : n - 1], out[: n - 3]
    for i in range(n - 3):
        fours[i] = near[i] + far[i]


@njit("void(f4[::1], f4[:, ::1], i8, f4, f4[::1])", cache=True, nogil=True, fastmath=True)
def _box_row(columns: np.ndarray, work: np.ndarray, half_box: int, share: np.float32, row: np.ndarray) -> None:
    """row[i] += share * sum of columns[i : i + 2 half_box + 1]; `work`: two lines as long as `columns`.

    The sums are put together from those of four neighbours: whole lines are added, while a running sum would wait for itself
    at every pixel.
    """
    nx, width = row.size, 2 * half_box + 1
    fours = work[0]
    _sums_of_four(columns, fours, work[1])
    done = 0
    while done + 16 <= width:
        _add_pairs(row, fours[done : done + nx], fours[done + 4 : done + 4 + nx], share,
                   fours[done + 8 : done + 8 + nx], fours[done + 12 : done + 12 + nx], share)  # fmt: skip
        done += 16
    while done + 4 <= width:
        _add_scaled(row, fours[done : done + nx], share)
        done += 4
    while done < width:
        _add_scaled(row, columns[done : done + nx], share)
        done += 1


@njit("void(f4[:, ::1], i8, f4[::1], f4[::1], f4[::1])", cache=True, nogil=True, fastmath=True)
def _smooth_rows(pixels: np.ndarray, j: int, taps: np.ndarray, dark: np.ndarray, out: np.ndarray) -> None:
    """out = smoothed row j across rows; `dark` is a row of zeros, for what lies outside the image."""
    ny, h = pixels.shape[0], taps.size // 2
    below, above = pixels[j - 1] if j >= 1 else dark, pixels[j + 1] if j + 1 < ny else dark
    _begin(out, pixels[j], taps[h], below, above, taps[h + 1])
    for t in range(2, h + 1, 2):
        u = t + 1 if t < h else ny  # an odd one out has no partner
        a, b = pixels[j - t] if j >= t else dark, pixels[j + t] if j + t < ny else dark
        c, d = pixels[j - u] if j >= u else dark, pixels[j + u] if j + u < ny else dark
        _add_pairs(out, a, b, taps[h + t], c, d, taps[h + u] if u <= h else np.float32(0.0))


@njit("void(f4[::1], f4[::1], f4[::1])", cache=True, nogil=True, fastmath=True)
def _smooth_along(line: np.ndarray, taps: np.ndarray, row: np.ndarray) -> None:
    """row = smoothed line; `line` has a margin of taps.size // 2 on both sides."""
    h, n = taps.size // 2, row.size
    _begin(row, line[h : h + n], taps[h], line[h - 1 : h - 1 + n], line[h + 1 : h + 1 + n], taps[h + 1])
    for t in range(2, h + 1, 2):
        u = min(t + 1, h)
        second = taps[h + u] if u > t else np.float32(0.0)
        _add_pairs(row, line[h - t : h - t + n], line[h + t : h + t + n], taps[h + t], line[h - u : h - u + n],
                   line[h + u : h + u + n], second)  # fmt: skip


@njit("void(f4[:, ::1], f4[::1], i8, f4[:, ::1])", cache=True, nogil=True, fastmath=True)
def lowered_filter(pixels: np.ndarray, taps: np.ndarray, half_box: int, out: np.ndarray) -> None:
    """Separable smoothing minus the mean of a square box: a matched filter with zero sum (Stetson 1987, PASP 99, 191).

    The zero sum takes out what is smooth on the scale of the box: wings of bright stars, unresolved crowding, errors of the
    sky map. Outside the image the light is zero.

    Parameters
    ----------
    pixels : (ny, nx) float32, sky-subtracted, 0 where unusable
    taps : (2 h + 1,) float32, one-dimensional smoothing kernel with sum 1, h > 0
    half_box : half side of the box, pixels
    out : (ny, nx) float32, filled here
    """
    ny, nx = pixels.shape
    h = taps.size // 2
    columns, work = np.zeros(nx + 2 * half_box, np.float32), np.empty((2, nx + 2 * half_box), np.float32)
    line, dark = np.zeros(nx + 2 * h, np.float32), np.zeros(nx, np.float32)
    middle, inner = columns[half_box : half_box + nx], line[h : h + nx]
    share = np.float32(-1.0 / ((2 * half_box + 1) * (2 * half_box + 1)))
    for j in range(ny):
        if j % 64 == 0:
            # afresh now and then: float32 sums of added and subtracted rows drift
            middle[:] = np.float32(0.0)
            for jj in range(max(0, j - half_box), min(ny, j + half_box + 1)):
                _add_scaled(middle, pixels[jj], np.float32(1.0))
        else:
            new, old = j + half_box, j - half_box - 1
            _exchange(middle, pixels[new] if new < ny else dark, pixels[old] if old >= 0 else dark)
        _smooth_rows(pixels, j, taps, dark, inner)
        _smooth_along(line, taps, out[j])
        _box_row(columns, work, half_box, share, out[j])


@njit(
    "i8(f4[:, ::1], f4[:, ::1], f4[:, ::1], b1[:, ::1], f4[:, ::1], i8, f8, f8, f8, f8, f8, f4, f8[::1], f8[::1], f8[::1], "
    "f8[::1])",
    cache=True,
    nogil=True,
)
def find_peaks(
    filtered: np.ndarray,
    data: np.ndarray,
    residual: np.ndarray,
    usable: np.ndarray,
    variance: np.ndarray,
    box: int,
    limit: float,
    noise_gain: float,
    response: float,
    gain: float,
    damping: float,
    floor: float,
    xs: np.ndarray,
    ys: np.ndarray,
    fluxes: np.ndarray,
    snrs: np.ndarray,
) -> int:
    """Local maxima (3 x 3) of a filtered image above a local threshold.

    The threshold is limit * noise, with the noise of the sky mesh and of the light that is there, plus `damping` times the
    brightest model pixel around (data - residual), so that what a PSF model leaves behind is not a source.

    Parameters
    ----------
    filtered : (ny, nx) float32, DN, filtered residual image
    data, residual : (ny, nx) float32, DN, sky-subtracted image before and after subtraction of the models; the same array
        when nothing was subtracted
    usable : (ny, nx) bool
    variance : mesh of sky variance, DN^2, with box side `box`
    limit : threshold, sigmas
    noise_gain : square root of the sum of the squares of the filter
    response : value of the filter on a point source of flux 1
    gain : e-/DN
    floor : smallest filtered value worth a look, DN
    xs, ys, fluxes, snrs : float64, filled here: position in pixels (0-based), flux in DN, signal to noise

    Returns
    -------
    number of maxima (never more than xs.size)
    """
    ny, nx = filtered.shape
    n = 0
    for j in range(1, ny - 1):
        for i in range(1, nx - 1):
            v = filtered[j, i]
            if v < floor or not usable[j, i]:
                continue
            if not (
                v >= filtered[j - 1, i]
                and v > filtered[j + 1, i]
                and v >= filtered[j, i - 1]
                and v > filtered[j, i + 1]
                and v >= filtered[j - 1, i - 1]
                and v > filtered[j + 1, i + 1]
                and v >= filtered[j - 1, i + 1]
                and v > filtered[j + 1, i - 1]
            ):
                continue
            model = 0.0
            light = 0.0
            for q in range(-1, 2):
                for p in range(-1, 2):
                    model = max(model, data[j + q, i + p] - residual[j + q, i + p])
                    light += data[j + q, i + p]
            sky = mesh_value(variance, box, float(i), float(j))
            noise = noise_gain * np.sqrt(sky + max(light, 0.0) / 9.0 / gain)
            if v < limit * noise + damping * model or n >= xs.size:
                continue
            left, right, down, up = filtered[j, i - 1], filtered[j, i + 1], filtered[j - 1, i], filtered[j + 1, i]
            xs[n] = i + 0.5 * (right - left) / max(2.0 * v - left - right, 1e-20)
            ys[n] = j + 0.5 * (up - down) / max(2.0 * v - up - down, 1e-20)
            fluxes[n] = v / response
            snrs[n] = v / noise
            n += 1
    return n


@njit("void(f4[:, ::1], b1[:, ::1], f8, f8, f8, f8[:, ::1], f8[::1])", cache=True, nogil=True, fastmath=True)
def _weighted_sums(
    data: np.ndarray, usable: np.ndarray, x: float, y: float, variance: float, work: np.ndarray, sums: np.ndarray
) -> None:
    """Sums over the pixels within four sigmas of (x, y) under a Gaussian of that variance.

    sums : (7,) float64, filled: w v, w v dx, w v dy, w v dx^2, w v dx dy, w v dy^2, w^2 with the weight w and the light v
    work : (3, 48) float64: weights along a row, times dx, times dx^2
    """
    ny, nx = data.shape
    radius, rate = min(4.0 * np.sqrt(variance), 20.0), -0.5 / variance
    x0, x1 = max(0, int(np.ceil(x - radius))), min(nx - 1, int(np.floor(x + radius)))
    y0, y1 = max(0, int(np.ceil(y - radius))), min(ny - 1, int(np.floor(y + radius)))
    sums[:] = 0.0
    n = max(0, x1 - x0 + 1)
    w0, w1, w2 = work[0, :n], work[1, :n], work[2, :n]
    for i in range(n):
        dx = x0 + i - x
        w0[i] = np.exp(rate * dx * dx)
        w1[i], w2[i] = w0[i] * dx, w0[i] * dx * dx
    for j in range(y0, y1 + 1):
        light, good = data[j, x0 : x0 + n], usable[j, x0 : x0 + n]
        v0 = v1 = v2 = norm = 0.0
        for i in range(n):
            v = float(light[i]) if good[i] else 0.0
            v0 += w0[i] * v
            v1 += w1[i] * v
            v2 += w2[i] * v
            norm += w0[i] * w0[i] if good[i] else 0.0
        dy = j - y
        across = np.exp(rate * dy * dy)
        sums[0] += across * v0
        sums[1] += across * v1
        sums[2] += across * v0 * dy
        sums[3] += across * v2
        sums[4] += across * v1 * dy
        sums[5] += across * v0 * dy * dy
        sums[6] += across * across * norm


@njit(
    "void(f4[:, ::1], b1[:, ::1], f8[::1], f8[::1], f8, f8[::1], f8[::1], f8[::1], f8[::1])",
    cache=True,
    nogil=True,
)
def adaptive_moments(
    data: np.ndarray,
    usable: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    start: float,
    flux: np.ndarray,
    xx: np.ndarray,
    yy: np.ndarray,
    xy: np.ndarray,
) -> None:
    """Centroids and second moments with a Gaussian weight matched to the source, iterated (Bernstein & Jarvis 2002).

    With a weight equal to the source's own Gaussian the weighted moments are half of the true ones; the iteration finds the
    round weight for which that holds and returns twice the weighted moments.

    Parameters
    ----------
    data : (ny, nx) float32, DN, sky-subtracted;  usable : (ny, nx) bool
    xs, ys : float64, pixels, improved in place
    start : first sigma of the weight, pixels
    flux : float64, DN, Gaussian flux, filled here
    xx, yy, xy : float64, pixels^2, filled here; NaN where the iteration fails
    """
    work, sums = np.empty((3, 48), np.float64), np.empty(7, np.float64)
    for s in range(xs.size):
        x, y, variance = xs[s], ys[s], start * start
        mxx = myy = mxy = total = np.nan
        good = False
        for _ in range(25):
            _weighted_sums(data, usable, x, y, variance, work, sums)
            good = False
            if sums[0] <= 0.0 or sums[6] <= 0.0:
                break
            cx, cy = sums[1] / sums[0], sums[2] / sums[0]
            mxx, myy = 2.0 * (sums[3] / sums[0] - cx * cx), 2.0 * (sums[5] / sums[0] - cy * cy)
            mxy = 2.0 * (sums[4] / sums[0] - cx * cy)
            total = sums[0] / sums[6]
            x += 2.0 * cx
            y += 2.0 * cy
            new = 0.5 * (mxx + myy)
            if new < 0.04 or new > 60.0 or abs(x - xs[s]) > 3.0 or abs(y - ys[s]) > 3.0:
                break
            good = True
            change = abs(new - variance)
            # a Gaussian of variance S seen through one of variance V has the moment m = S V / (S + V): solved for S
            variance = 0.5 * new / max(1.0 - 0.5 * new / variance, LEAST_CONTRAST)
            if change < 1e-3 * variance and abs(cx) + abs(cy) < 1e-3:
                break
        if good:
            xs[s], ys[s] = x, y
            flux[s] = total
            xx[s], yy[s], xy[s] = mxx, myy, mxy
        else:
            flux[s] = xx[s] = yy[s] = xy[s] = np.nan
