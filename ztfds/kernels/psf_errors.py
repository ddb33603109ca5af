"""What the PSF fit of a source is worth: errors with blended neighbours, chi, sharpness."""

from __future__ import annotations

import numpy as np
from numba import njit

from .psf import HALF_NODES, NODES, OVERSAMPLING, PAD, RADIUS, render, stamp_box, stamp_weights, tile_psf

NEIGHBOURS = 4  # nearest neighbours that enter the error matrix
SIZE = 3 * (NEIGHBOURS + 1)


@njit("b1(f8[:, ::1], i8, i8, f8[::1], f8[:, ::1], f8[::1])", cache=True, nogil=True)
def _inverse_diagonal(
    matrix: np.ndarray, n: int, wanted: int, out: np.ndarray, lower: np.ndarray, column: np.ndarray
) -> bool:
    """First `wanted` diagonal elements of the inverse of a positive definite n x n matrix (Cholesky); False if it is not.

    `lower` (n, n) and `column` (n,) are work space.
    """
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


@njit("i8(f8[::1], f8[::1], i8, i8[::1], i8, i8, i8[::1])", cache=True, nogil=True)
def _nearest(
    xs: np.ndarray, ys: np.ndarray, s: int, neighbours: np.ndarray, first: int, last: int, chosen: np.ndarray
) -> int:
    """Fill `chosen` with those of neighbours[first:last] that are nearest to source s; return how many there are."""
    count = 0
    for q in range(first, last):
        t = neighbours[q]
        d = (xs[t] - xs[s]) ** 2 + (ys[t] - ys[s]) ** 2
        k = min(count, chosen.size - 1)
        if count == chosen.size and d >= (xs[chosen[k]] - xs[s]) ** 2 + (ys[chosen[k]] - ys[s]) ** 2:
            continue
        while k > 0 and (xs[chosen[k - 1]] - xs[s]) ** 2 + (ys[chosen[k - 1]] - ys[s]) ** 2 > d:
            chosen[k] = chosen[k - 1]
            k -= 1
        chosen[k] = t
        count = min(count + 1, chosen.size)
    return count


@njit("void(f4[::1], f4[::1], f4[::1], f4[::1], i8, i8, f4[::1])", cache=True, nogil=True, fastmath=True)
def _fit_sums(
    value: np.ndarray, own: np.ndarray, weight: np.ndarray, rest: np.ndarray, width: int, height: int, sums: np.ndarray
) -> None:
    """Sums that chi and sharp need; `own` is the PSF with a margin of one pixel around `value`.

    sums: p^2 of pixels that count, p^2 of all, w p^2, w p l, w l^2, w r p, w r l, w r^2 with the PSF p, its broadening l, the
    residual r and the weight w.
    """
    zero, half, two = np.float32(0.0), np.float32(0.5), np.float32(2.0)
    counted = everything = pp = pl = ll = rp = rl = rr = zero
    for j in range(height):
        k, up, here, down = j * width, j * (width + 2), (j + 1) * (width + 2), (j + 2) * (width + 2)
        p, w, r = value[k : k + width], weight[k : k + width], rest[k : k + width]
        above, below = own[up + 1 : up + 1 + width], own[down + 1 : down + 1 + width]
        left, right = own[here : here + width], own[here + 2 : here + 2 + width]
        for i in range(width):
            q, wi = p[i], w[i]
            spread = half * (above[i] + below[i] + left[i] + right[i]) - two * q
            wp, wr = wi * q, wi * r[i]
            counted += q * q if wi > zero else zero
            everything += q * q
            pp += wp * q
            pl += wp * spread
            ll += wi * spread * spread
            rp += wr * q
            rl += wr * spread
            rr += wr * r[i]
    sums[0], sums[1], sums[2], sums[3] = counted, everything, pp, pl
    sums[4], sums[5], sums[6], sums[7] = ll, rp, rl, rr


@njit("void(f4[::1], f4[::1], f4[::1], f4[::1], i8, f4, f4[:, ::1], i8)", cache=True, nogil=True, fastmath=True)
def _fill_basis(
    value: np.ndarray,
    value_x: np.ndarray,
    value_y: np.ndarray,
    root: np.ndarray,
    n: int,
    flux: np.float32,
    basis: np.ndarray,
    first: int,
) -> None:
    """Derivatives of the model with respect to flux, x, y of a source over the noise: rows first .. first + 2 of `basis`."""
    by_flux, by_x, by_y = basis[first], basis[first + 1], basis[first + 2]
    for k in range(n):
        by_flux[k] = root[k] * value[k]
        by_x[k] = root[k] * flux * value_x[k]
        by_y[k] = root[k] * flux * value_y[k]


@njit("void(f4[:, ::1], i8, i8, f8[:, ::1])", cache=True, nogil=True, fastmath=True)
def _fisher_matrix(basis: np.ndarray, size: int, n: int, fisher: np.ndarray) -> None:
    """fisher[a, b] = sum over n pixels of basis[a] * basis[b]."""
    for a in range(size):
        for b in range(a + 1):
            one, other = basis[a], basis[b]
            total = np.float32(0.0)
            for k in range(n):
                total += one[k] * other[k]
            fisher[a, b] = fisher[b, a] = total


@njit(
    "void(f4[:, ::1], f4[:, ::1], b1[:, ::1], f4[:, :, :, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1], "
    "i8[::1], f8, f8, b1, f8[:, ::1])",
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
    errors: bool,
    out: np.ndarray,
) -> None:
    """Errors, chi and sharpness of every fitted source.

    The errors are the square roots of the diagonal of the inverse Fisher matrix of flux and position of the source and of its
    nearest neighbours, so that a blend carries its ambiguity. chi is the square root of the reduced chi square. sharp is the
    extra variance per axis (pixels^2) by which the source is broader than the PSF: the residual is projected on the change of
    the PSF under the three-pixel broadening (s/2, 1 - s, s/2) in x and y, made orthogonal to the PSF itself.

    Parameters as in `kernels.psf.fit_sweep`; neighbours of source s are neighbours[neighbour_start[s]:neighbour_start[s + 1]].
    errors : whether the errors are wanted, which cost most; NaN without.
    out : (n, 6) float64, filled: sigma of flux (DN), of x, of y (pixels), chi, sharp (pixels^2), fraction of the PSF's
        weight (sum of squares) in usable pixels. NaN where it cannot be had.
    """
    ny, nx = residual.shape
    local = np.zeros((OVERSAMPLING, NODES, HALF_NODES), np.float32)
    rows = np.empty((2, NODES, PAD), np.float32)
    value, value_x = np.empty(PAD * PAD, np.float32), np.empty(PAD * PAD, np.float32)
    value_y, weight = np.empty(PAD * PAD, np.float32), np.empty(PAD * PAD, np.float32)
    own, rest = np.empty(PAD * PAD, np.float32), np.empty(PAD * PAD, np.float32)
    basis = np.zeros((SIZE, PAD * PAD), np.float32)
    phi = np.empty(6)
    fisher, lower = np.empty((SIZE, SIZE)), np.empty((SIZE, SIZE))
    diagonal, column, sums = np.empty(3), np.empty(SIZE), np.empty(8, np.float32)
    chosen = np.empty(NEIGHBOURS, np.int64)
    tile = -1
    for s in range(xs.size):
        out[s, :] = np.nan
        x, y, f, radius = xs[s], ys[s], fluxes[s], min(fit_radii[s], 11.0)
        ix0, iy0, width, height = stamp_box(x, y, radius, nx, ny)
        if width < 3 or height < 3:
            continue
        area = width * height
        reach = radius + 1.0 if not errors or neighbour_start[s] == neighbour_start[s + 1] else 1.0 * RADIUS
        tile = tile_psf(phased, x, y, reach, nx, ny, tile, phi, local)
        # one pixel more on every side, for the broadening
        render(local, x, y, ix0 - 1, iy0 - 1, width + 2, height + 2, own, value_x, value_y, rows, False)
        render(local, x, y, ix0, iy0, width, height, value, value_x, value_y, rows, errors)
        n = stamp_weights(
            data, residual, usable, ix0, iy0, width, height, value, x, y, f, skies[s], radius, gain, model_error,
            weight, rest,
        )  # fmt: skip
        _fit_sums(value, own, weight, rest, width, height, sums)
        if n < 5 or sums[2] <= 0.0:
            continue
        out[s, 3] = np.sqrt(sums[7] / max(n - 3, 1))
        across = sums[4] - sums[3] * sums[3] / sums[2]
        if across > 0.0 and f > 0.0:
            out[s, 4] = (sums[6] - sums[5] * sums[3] / sums[2]) / (across * f)
        out[s, 5] = sums[0] / max(sums[1], np.float32(1e-30))
        if not errors:
            continue
        for k in range(area):
            weight[k] = np.sqrt(weight[k])
        _fill_basis(value, value_x, value_y, weight, area, np.float32(f), basis, 0)
        size, used = 3, 0
        count = _nearest(xs, ys, s, neighbours, neighbour_start[s], neighbour_start[s + 1], chosen)
        for c in range(count):
            t = chosen[c]
            reach = max(
                max(abs(ix0 - xs[t]), abs(ix0 + width - 1 - xs[t])),
                max(abs(iy0 - ys[t]), abs(iy0 + height - 1 - ys[t])),
            )
            if reach > RADIUS + 0.5:
                continue
            render(local, xs[t], ys[t], ix0, iy0, width, height, value, value_x, value_y, rows, True)
            _fill_basis(value, value_x, value_y, weight, area, np.float32(fluxes[t]), basis, size)
            chosen[used] = t
            used += 1
            size += 3
        _fisher_matrix(basis, size, area, fisher)
        for c in range(used):
            # a neighbour is somewhere within its own pixel: keeps faint neighbours from making the matrix singular
            a = 3 * (c + 1)
            fisher[a, a] += 1.0 / (fluxes[chosen[c]] ** 2 + 1e-30)
            fisher[a + 1, a + 1] += 1.0
            fisher[a + 2, a + 2] += 1.0
        if not _inverse_diagonal(fisher, size, 3, diagonal, lower, column):
            continue
        out[s, 0], out[s, 1], out[s, 2] = np.sqrt(diagonal[0]), np.sqrt(diagonal[1]), np.sqrt(diagonal[2])


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
    value = np.empty(PAD * PAD, np.float32)
    phi = np.empty(6)
    tile = -1
    for s in range(xs.size):
        x, y, f = xs[s], ys[s], fluxes[s]
        out[s, :] = 0.0
        ix0, iy0, width, height = stamp_box(x, y, radius, nx, ny)
        if width == 0 or height == 0:
            continue
        tile = tile_psf(phased, x, y, radius, nx, ny, tile, phi, local)
        render(local, x, y, ix0, iy0, width, height, value, value, value, rows, False)
        for j in range(height):
            for i in range(width):
                d2 = (iy0 + j - y) ** 2 + (ix0 + i - x) ** 2
                if d2 > radius * radius or not usable[iy0 + j, ix0 + i]:
                    continue
                m = f * float(value[j * width + i])
                r = float(residual[iy0 + j, ix0 + i])
                out[s, 0] += r * r - skies[s] - max(m, 0.0) / gain
                out[s, 1] += m * m
