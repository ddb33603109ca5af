"""Matched filter, local maxima and adaptive moments: where the sources are, before any PSF is known."""

from __future__ import annotations

import numpy as np
from numba import njit

from .background import mesh_value


@njit("void(f4[::1], f4[::1], f4)", cache=True, nogil=True, fastmath=True, inline="always")
def _add_scaled(target: np.ndarray, source: np.ndarray, factor: np.float32) -> None:
    """target += factor * source."""
    for i in range(target.size):
        target[i] += factor * source[i]


@njit("void(f4[::1], f4[::1], f4[::1], f4)", cache=True, nogil=True, fastmath=True, inline="always")
def _add_pair(target: np.ndarray, one: np.ndarray, other: np.ndarray, factor: np.float32) -> None:
    """target += factor * (one + other)."""
    for i in range(target.size):
        target[i] += factor * (one[i] + other[i])


@njit("void(f4[:, ::1], f4[::1], i8, f4[:, ::1])", cache=True, nogil=True, fastmath=True)
def lowered_filter(pixels: np.ndarray, taps: np.ndarray, half_box: int, out: np.ndarray) -> None:
    """Separable smoothing minus the mean of a square box: a matched filter with zero sum (Stetson 1987, PASP 99, 191).

    The zero sum takes out what is smooth on the scale of the box: wings of bright stars, unresolved crowding, errors of the
    sky map. Outside the image the light is zero.

    Parameters
    ----------
    pixels : (ny, nx) float32, sky-subtracted, 0 where unusable
    taps : (2 h + 1,) float32, one-dimensional smoothing kernel with sum 1
    half_box : half side of the box, pixels
    out : (ny, nx) float32, filled here
    """
    ny, nx = pixels.shape
    h = taps.size // 2
    columns = np.zeros(nx + 2 * half_box, np.float32)
    line = np.zeros(nx + 2 * h, np.float32)
    middle, inner = columns[half_box : half_box + nx], line[h : h + nx]
    share = np.float32(-1.0 / ((2 * half_box + 1) * (2 * half_box + 1)))
    for j in range(ny):
        if j % 64 == 0:
            # afresh now and then: float32 sums of added and subtracted rows drift
            middle[:] = np.float32(0.0)
            for jj in range(max(0, j - half_box), min(ny, j + half_box + 1)):
                _add_scaled(middle, pixels[jj], np.float32(1.0))
        else:
            if j + half_box < ny:
                _add_scaled(middle, pixels[j + half_box], np.float32(1.0))
            if j - half_box - 1 >= 0:
                _add_scaled(middle, pixels[j - half_box - 1], np.float32(-1.0))
        inner[:] = np.float32(0.0)
        _add_scaled(inner, pixels[j], taps[h])
        for t in range(1, h + 1):
            if j >= t and j + t < ny:
                _add_pair(inner, pixels[j - t], pixels[j + t], taps[h + t])
            elif j + t < ny or j >= t:
                _add_scaled(inner, pixels[j - t if j >= t else j + t], taps[h + t])
        row = out[j]
        row[:] = np.float32(0.0)
        _add_scaled(row, inner, taps[h])
        for t in range(1, h + 1):
            _add_pair(row, line[h - t : h - t + nx], line[h + t : h + t + nx], taps[h + t])
        total = 0.0
        for i in range(2 * half_box):
            total += columns[i]
        for i in range(nx):
            total += columns[i + 2 * half_box]
            row[i] += share * np.float32(total)
            total -= columns[i]


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
    ny, nx = data.shape
    along = np.empty(48, np.float64)
    for s in range(xs.size):
        x, y, variance = xs[s], ys[s], start * start
        mxx = myy = mxy = total = np.nan
        good = False
        for _ in range(25):
            radius = min(4.0 * np.sqrt(variance), 20.0)
            x0, x1 = max(0, int(np.ceil(x - radius))), min(nx - 1, int(np.floor(x + radius)))
            y0, y1 = max(0, int(np.ceil(y - radius))), min(ny - 1, int(np.floor(y + radius)))
            s0 = sx = sy = sxx = syy = sxy = norm = 0.0
            for i in range(x0, x1 + 1):
                along[i - x0] = np.exp(-0.5 * (i - x) * (i - x) / variance)
            for j in range(y0, y1 + 1):
                across = np.exp(-0.5 * (j - y) * (j - y) / variance)
                for i in range(x0, x1 + 1):
                    if not usable[j, i]:
                        continue
                    dx, dy = i - x, j - y
                    w = across * along[i - x0]
                    norm += w * w
                    v = w * data[j, i]
                    s0 += v
                    sx += v * dx
                    sy += v * dy
                    sxx += v * dx * dx
                    syy += v * dy * dy
                    sxy += v * dx * dy
            good = False
            if s0 <= 0.0 or norm <= 0.0:
                break
            cx, cy = sx / s0, sy / s0
            mxx, myy, mxy = 2.0 * (sxx / s0 - cx * cx), 2.0 * (syy / s0 - cy * cy), 2.0 * (sxy / s0 - cx * cy)
            total = s0 / norm
            x += 2.0 * cx
            y += 2.0 * cy
            new = 0.5 * (mxx + myy)
            if new < 0.04 or new > 60.0 or abs(x - xs[s]) > 3.0 or abs(y - ys[s]) > 3.0:
                break
            good = True
            change = abs(new - variance)
            variance = new
            if change < 1e-3 * variance and abs(cx) + abs(cy) < 1e-3:
                break
        if good:
            xs[s], ys[s] = x, y
            flux[s] = total
            xx[s], yy[s], xy[s] = mxx, myy, mxy
        else:
            flux[s] = xx[s] = yy[s] = xy[s] = np.nan
