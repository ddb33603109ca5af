"""What the PSF fit of a source is worth: errors with blended neighbours, chi, sharpness."""

from __future__ import annotations

import numpy as np
from numba import njit

from .psf import HALF_NODES, NODES, OVERSAMPLING, PAD, RADIUS, local_psf, render, stamp_box

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


@njit("i8(f8[::1], i8[::1], i8, i8, i8[::1])", cache=True, nogil=True)
def _brightest(fluxes: np.ndarray, neighbours: np.ndarray, first: int, last: int, chosen: np.ndarray) -> int:
    """Fill `chosen` with the brightest of neighbours[first:last]; return how many there are."""
    count = 0
    for q in range(first, last):
        t = neighbours[q]
        if count < chosen.size:
            chosen[count] = t
            count += 1
            continue
        faintest = 0
        for c in range(1, chosen.size):
            if fluxes[chosen[c]] < fluxes[chosen[faintest]]:
                faintest = c
        if fluxes[t] > fluxes[chosen[faintest]]:
            chosen[faintest] = t
    return count


@njit(
    "i8(f4[:, ::1], f4[:, ::1], b1[:, ::1], f4[:, ::1], f4[:, ::1], f8, f8, f8, f8, f8, f8, f8, f8[::1], f8[::1])",
    cache=True,
    nogil=True,
    fastmath=True,
)
def _pixel_sums(
    data: np.ndarray,
    residual: np.ndarray,
    usable: np.ndarray,
    value: np.ndarray,
    own: np.ndarray,
    x: float,
    y: float,
    f: float,
    sky: float,
    radius: float,
    gain: float,
    model_error: float,
    weight: np.ndarray,
    sums: np.ndarray,
) -> int:
    """Inverse variances of a stamp's pixels (0 where unused) and the sums that chi and sharp need; returns pixels used.

    `own` is the PSF with a margin of one pixel around `value`. sums: p^2 of usable pixels, p^2 of all, w p^2, w p l, w l^2,
    w r p, w r l, w r^2 with the PSF p, its broadening l, the residual r.
    """
    ix0, iy0, width, height = stamp_box(x, y, radius, residual.shape[1], residual.shape[0])
    sums[:] = 0.0
    n = 0
    for j in range(height):
        dy2 = (iy0 + j - y) * (iy0 + j - y)
        for i in range(width):
            weight[j * width + i] = 0.0
            if dy2 + (ix0 + i - x) * (ix0 + i - x) > radius * radius:
                continue
            p = float(value[j, i])
            sums[1] += p * p
            if not usable[iy0 + j, ix0 + i]:
                continue
            r = float(residual[iy0 + j, ix0 + i])
            light = max(float(data[iy0 + j, ix0 + i]) - r, 0.0)
            bias = model_error * f * p
            w = 1.0 / (sky + light / gain + bias * bias)
            spread = 0.5 * (own[j, i + 1] + own[j + 2, i + 1] + own[j + 1, i] + own[j + 1, i + 2]) - 2.0 * p
            weight[j * width + i] = w
            sums[0] += p * p
            sums[2] += w * p * p
            sums[3] += w * p * spread
            sums[4] += w * spread * spread
            sums[5] += w * r * p
            sums[6] += w * r * spread
            sums[7] += w * r * r
            n += 1
    return n


@njit("void(f4[:, ::1], f4[:, ::1], f4[:, ::1], i8, i8, f8, f8[:, ::1], i8)", cache=True, nogil=True)
def _fill_basis(
    value: np.ndarray,
    value_x: np.ndarray,
    value_y: np.ndarray,
    width: int,
    height: int,
    flux: float,
    basis: np.ndarray,
    first: int,
) -> None:
    """Derivatives of the model with respect to flux, x, y of a source as rows first .. first + 2 of `basis`."""
    for j in range(height):
        for i in range(width):
            k = j * width + i
            basis[first, k] = value[j, i]
            basis[first + 1, k] = flux * value_x[j, i]
            basis[first + 2, k] = flux * value_y[j, i]


@njit("void(f8[:, ::1], f8[::1], i8, i8, f8[:, ::1])", cache=True, nogil=True, fastmath=True)
def _fisher_matrix(basis: np.ndarray, weight: np.ndarray, size: int, n: int, fisher: np.ndarray) -> None:
    """fisher[a, b] = sum over n pixels of weight * basis[a] * basis[b]."""
    for a in range(size):
        for b in range(a + 1):
            total = 0.0
            for k in range(n):
                total += weight[k] * basis[a, k] * basis[b, k]
            fisher[a, b] = total
            fisher[b, a] = total


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
    diagonal, sums = np.empty(3), np.empty(8)
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
        n = _pixel_sums(
            data, residual, usable, value, own, x, y, f, skies[s], radius, gain, model_error, weight, sums
        )  # fmt: skip
        if n < 5 or sums[2] <= 0.0:
            continue
        _fill_basis(value, value_x, value_y, width, height, f, basis, 0)
        size, used = 3, 0
        count = _brightest(fluxes, neighbours, neighbour_start[s], neighbour_start[s + 1], chosen)
        for c in range(count):
            t = chosen[c]
            reach = max(
                max(abs(ix0 - xs[t]), abs(ix0 + width - 1 - xs[t])),
                max(abs(iy0 - ys[t]), abs(iy0 + height - 1 - ys[t])),
            )
            if reach > RADIUS + 0.5:
                continue
            local_psf(phased, xs[t], ys[t], nx, ny, reach, phi, local)
            render(local, xs[t], ys[t], ix0, iy0, width, height, value, value_x, value_y, rows, True)
            _fill_basis(value, value_x, value_y, width, height, fluxes[t], basis, size)
            chosen[used] = t
            used += 1
            size += 3
        _fisher_matrix(basis, weight, size, width * height, fisher)
        for c in range(used):
            # a neighbour is somewhere within its own pixel: keeps faint neighbours from making the matrix singular
            a = 3 * (c + 1)
            fisher[a, a] += 1.0 / (fluxes[chosen[c]] ** 2 + 1e-30)
            fisher[a + 1, a + 1] += 1.0
            fisher[a + 2, a + 2] += 1.0
        if not _inverse_diagonal(fisher, size, 3, diagonal, lower):
            continue
        out[s, 0], out[s, 1], out[s, 2] = np.sqrt(diagonal[0]), np.sqrt(diagonal[1]), np.sqrt(diagonal[2])
        out[s, 3] = np.sqrt(sums[7] / max(n - 3, 1))
        across = sums[4] - sums[3] * sums[3] / sums[2]
        if across > 0.0 and f > 0.0:
            out[s, 4] = (sums[6] - sums[5] * sums[3] / sums[2]) / (across * f)
        out[s, 5] = sums[0] / max(sums[1], 1e-30)


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
