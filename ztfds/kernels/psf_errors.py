"""What the PSF fit of a source is worth: errors with blended neighbours, chi, sharpness."""

from __future__ import annotations

import numpy as np
from numba import njit

from .psf import HALF_NODES, NODES, OVERSAMPLING, PAD, local_psf, render, stamp_box

NEIGHBOURS = 4  # strongest neighbours that enter the error matrix
SIZE = 3 * (NEIGHBOURS + 1)


@njit("b1(f8[:, ::1], i8, i8, f8[::1], f8[:, ::1])", cache=True, nogil=True)
def _inverse_diagonal(matrix: np.ndarray, n: int, wanted: int, out: np.ndarray, lower: np.ndarray) -> bool:
    """First `wanted` diagonal elements of the inverse of a positive definite n x n matrix (Cholesky); False if it is not."""
    for i in range(n):
        for j in range(i + 1):
            s = matrix[i, j]
            for k in range(j):
                s -= lower[i, k] * lower[j, k]
            if i == j:
                if s <= 1e-12 * matrix[i, i] or s <= 0.0:
                    return False
                lower[i, i] = np.sqrt(s)
            else:
                lower[i, j] = s / lower[j, j]
    column = np.empty(n, np.float64)
    for c in range(wanted):
        total = 0.0
        for i in range(c, n):
            s = 1.0 if i == c else 0.0
            for k in range(c, i):
                s -= lower[i, k] * column[k]
            column[i] = s / lower[i, i]
            total += column[i] * column[i]
        out[c] = total
    return True


@njit(
    "void(f4[:, ::1], f4[:, ::1], b1[:, ::1], f4[:, :, :, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1], "
    "i8[::1], f8, f8, f8[:, ::1])",
    cache=True,
    nogil=True,
    fastmath=True,
)
def fit_quality(
    data: np.ndarray,
    residual: np.ndarray,
    usable: np.ndarray,
    phased: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    fluxes: np.ndarray,
    skies: np.ndarray,
    fit_radii: np.ndarray,
    neighbour_start: np.ndarray,
    neighbours: np.ndarray,
    gain: float,
    model_error: float,
    out: np.ndarray,
) -> None:
    """Errors, chi and sharpness of every fitted source.

    The errors are the square roots of the diagonal of the inverse Fisher matrix of flux and position of the source and of its
    strongest neighbours, so that a blend carries its ambiguity. chi is the square root of the reduced chi square. sharp is the
    extra variance per axis (pixels^2) by which the source is broader than the PSF: the residual is projected on the change of
    the PSF under the three-pixel broadening (s/2, 1 - s, s/2) in x and y, made orthogonal to the PSF itself.

    Parameters as in `kernels.psf.fit_sweep`; neighbours of source s are neighbours[neighbour_start[s]:neighbour_start[s + 1]].
    out : (n, 6) float64, filled: sigma of flux (DN), of x, of y (pixels), chi, sharp (pixels^2), fraction of the PSF's
        weight (sum of squares) in usable pixels. NaN where it cannot be had.
    """
    ny, nx = residual.shape
    local = np.zeros((OVERSAMPLING, NODES, HALF_NODES), np.float32)
    rows = np.empty((2, NODES, PAD), np.float32)
    value, value_x = np.empty((PAD, PAD), np.float32), np.empty((PAD, PAD), np.float32)
    value_y = np.empty((PAD, PAD), np.float32)
    own = np.empty((PAD, PAD), np.float32)
    basis = np.zeros((SIZE, PAD * PAD), np.float64)
    weight = np.empty(PAD * PAD, np.float64)
    phi = np.empty(6)
    fisher, lower = np.empty((SIZE, SIZE)), np.empty((SIZE, SIZE))
    diagonal = np.empty(3)
    chosen = np.empty(NEIGHBOURS, np.int64)
    for s in range(xs.size):
        out[s, :] = np.nan
        x, y, f, radius = xs[s], ys[s], fluxes[s], min(fit_radii[s], 11.0)
        ix0, iy0, width, height = stamp_box(x, y, radius, nx, ny)
        if width < 3 or height < 3:
            continue
        local_psf(phased, x, y, nx, ny, radius + 2.0, phi, local)
        # one pixel more on every side, for the broadening
        render(local, x, y, ix0 - 1, iy0 - 1, width + 2, height + 2, own, value_x, value_y, rows, False)
        render(local, x, y, ix0, iy0, width, height, value, value_x, value_y, rows, True)
        n = 0
        s_w = s_pp = s_pl = s_rp = s_rl = s_ll = s_rr = all_pp = 0.0
        for j in range(height):
            dy2 = (iy0 + j - y) * (iy0 + j - y)
            for i in range(width):
                if dy2 + (ix0 + i - x) * (ix0 + i - x) > radius * radius:
                    weight[j * width + i] = 0.0
                    continue
                p = float(value[j, i])
                all_pp += p * p
                if not usable[iy0 + j, ix0 + i]:
                    weight[j * width + i] = 0.0
                    continue
                r = float(residual[iy0 + j, ix0 + i])
                light = max(float(data[iy0 + j, ix0 + i]) - r, 0.0)
                bias = model_error * f * p
                w = 1.0 / (skies[s] + light / gain + bias * bias)
                weight[j * width + i] = w
                spread = 0.5 * (own[j, i + 1] + own[j + 2, i + 1] + own[j + 1, i] + own[j + 1, i + 2]) - 2.0 * p
                s_w += p * p
                s_pp += w * p * p
                s_pl += w * p * spread
                s_ll += w * spread * spread
                s_rp += w * r * p
                s_rl += w * r * spread
                s_rr += w * r * r
                n += 1
        if n < 5 or s_pp <= 0.0:
            continue
        for j in range(height):
            for i in range(width):
                k = j * width + i
                basis[0, k] = value[j, i]
                basis[1, k] = f * value_x[j, i]
                basis[2, k] = f * value_y[j, i]
        count = 0
        for q in range(neighbour_start[s], neighbour_start[s + 1]):
            t = neighbours[q]
            # insertion into the list of the brightest
            place = count if count < NEIGHBOURS else -1
            if place < 0:
                faintest = 0
                for c in range(1, NEIGHBOURS):
                    if fluxes[chosen[c]] < fluxes[chosen[faintest]]:
                        faintest = c
                if fluxes[t] > fluxes[chosen[faintest]]:
                    place = faintest
            else:
                count += 1
            if place >= 0:
                chosen[place] = t
        size = 3
        for c in range(count):
            t = chosen[c]
            reach = max(
                max(abs(ix0 - xs[t]), abs(ix0 + width - 1 - xs[t])),
                max(abs(iy0 - ys[t]), abs(iy0 + height - 1 - ys[t])),
            )
            if reach > 12.5:
                continue
            local_psf(phased, xs[t], ys[t], nx, ny, reach, phi, local)
            render(local, xs[t], ys[t], ix0, iy0, width, height, value, value_x, value_y, rows, True)
            for j in range(height):
                for i in range(width):
                    k = j * width + i
                    basis[size, k] = value[j, i]
                    basis[size + 1, k] = fluxes[t] * value_x[j, i]
                    basis[size + 2, k] = fluxes[t] * value_y[j, i]
            size += 3
        for a in range(size):
            for b in range(a + 1):
                total = 0.0
                for k in range(width * height):
                    total += weight[k] * basis[a, k] * basis[b, k]
                fisher[a, b] = total
                fisher[b, a] = total
        for a in range(3, size, 3):
            # a neighbour is somewhere within its own pixel: keeps faint neighbours from making the matrix singular
            fisher[a + 1, a + 1] += 1.0
            fisher[a + 2, a + 2] += 1.0
            fisher[a, a] += 1.0 / (fluxes[chosen[a // 3 - 1]] ** 2 + 1e-30)
        if not _inverse_diagonal(fisher, size, 3, diagonal, lower):
            continue
        out[s, 0], out[s, 1], out[s, 2] = np.sqrt(diagonal[0]), np.sqrt(diagonal[1]), np.sqrt(diagonal[2])
        out[s, 3] = np.sqrt(s_rr / max(n - 3, 1))
        across = s_ll - s_pl * s_pl / s_pp
        if across > 0.0 and f > 0.0:
            out[s, 4] = (s_rl - s_rp * s_pl / s_pp) / (across * f)
        out[s, 5] = s_w / max(all_pp, 1e-30)


@njit(
    "void(f4[:, ::1], b1[:, ::1], f4[:, :, :, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8, f8, f8[:, ::1])",
    cache=True,
    nogil=True,
    fastmath=True,
)
def core_excess(
    residual: np.ndarray,
    usable: np.ndarray,
    phased: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    fluxes: np.ndarray,
    skies: np.ndarray,
    gain: float,
    radius: float,
    out: np.ndarray,
) -> None:
    """Residual power beyond noise, and model power, within `radius` pixels of each star.

    out : (n, 2) float64, DN^2: sum of (residual^2 - variance), sum of model^2. Their ratio is the square of the PSF's
    relative error in a pixel.
    """
    ny, nx = residual.shape
    local = np.zeros((OVERSAMPLING, NODES, HALF_NODES), np.float32)
    rows = np.empty((2, NODES, PAD), np.float32)
    value, value_x = np.empty((PAD, PAD), np.float32), np.empty((PAD, PAD), np.float32)
    value_y = np.empty((PAD, PAD), np.float32)
    phi = np.empty(6)
    for s in range(xs.size):
        x, y, f = xs[s], ys[s], fluxes[s]
        out[s, :] = 0.0
        ix0, iy0, width, height = stamp_box(x, y, radius, nx, ny)
        if width == 0 or height == 0:
            continue
        local_psf(phased, x, y, nx, ny, radius, phi, local)
        render(local, x, y, ix0, iy0, width, height, value, value_x, value_y, rows, False)
        for j in range(height):
            for i in range(width):
                d2 = (iy0 + j - y) ** 2 + (ix0 + i - x) ** 2
                if d2 > radius * radius or not usable[iy0 + j, ix0 + i]:
                    continue
                m = f * float(value[j, i])
                r = float(residual[iy0 + j, ix0 + i])
                out[s, 0] += r * r - skies[s] - max(m, 0.0) / gain
                out[s, 1] += m * m
