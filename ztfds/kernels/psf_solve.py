"""Least squares for the spline coefficients of the PSF: the normal equations applied star by star, never stored."""

from __future__ import annotations

import numpy as np
from numba import njit

from .psf import CENTRE, NODES, OVERSAMPLING, RADIUS, STAMP, field_terms, spline_weights


@njit("void(f8, i8[::1], f8[::1])", cache=True, nogil=True, inline="always")
def _axis(position: float, place: np.ndarray, weight: np.ndarray) -> None:
    """First node and weights of the first pixel of a star's stamp along one axis; place[1] is the first pixel."""
    slope = np.empty(4)
    first = int(np.floor(position + 0.5)) - RADIUS
    f = (first - position) * OVERSAMPLING + CENTRE
    b = int(np.floor(f))
    spline_weights(f - b, weight, slope)
    place[0], place[1] = b - 1, first


@njit("void(f4[:, ::1], b1[:, ::1], f8[::1], f8[::1], f4[:, :, ::1], b1[:, :, ::1])", cache=True, nogil=True)
def cut_stamps(
    image: np.ndarray, usable: np.ndarray, xs: np.ndarray, ys: np.ndarray, stamps: np.ndarray, good: np.ndarray
) -> None:
    """Copy STAMP x STAMP pixels about each star; pixels outside the image are not good."""
    ny, nx = image.shape
    for s in range(xs.size):
        x0, y0 = int(np.floor(xs[s] + 0.5)) - RADIUS, int(np.floor(ys[s] + 0.5)) - RADIUS
        for j in range(STAMP):
            for i in range(STAMP):
                inside = y0 + j >= 0 and y0 + j < ny and x0 + i >= 0 and x0 + i < nx
                stamps[s, j, i] = image[y0 + j, x0 + i] if inside else np.float32(0.0)
                good[s, j, i] = inside and usable[y0 + j, x0 + i]


@njit("void(f4[:, :, ::1], f8[::1], f4[:, ::1])", cache=True, nogil=True, fastmath=True)
def _collapse(plain: np.ndarray, phi: np.ndarray, local: np.ndarray) -> None:
    """local = sum over terms of phi[k] * plain[k]."""
    for j in range(NODES):
        for i in range(NODES):
            local[j, i] = plain[0, j, i]
        for k in range(1, plain.shape[0]):
            term = np.float32(phi[k])
            for i in range(NODES):
                local[j, i] += term * plain[k, j, i]


@njit("void(f4[:, ::1], i8, i8, f8[::1], f8[::1], f4[:, ::1], f4[:, ::1])", cache=True, nogil=True, fastmath=True)
def _interpolate(
    local: np.ndarray, bx: int, by: int, wx: np.ndarray, wy: np.ndarray, rows: np.ndarray, out: np.ndarray
) -> None:
    """Spline values on the STAMP x STAMP pixels whose first nodes are (bx, by)."""
    a0, a1, a2, a3 = np.float32(wx[0]), np.float32(wx[1]), np.float32(wx[2]), np.float32(wx[3])
    for j in range(OVERSAMPLING * (STAMP - 1) + 4):
        for i in range(STAMP):
            c = bx + OVERSAMPLING * i
            g = local[by + j]
            rows[j, i] = a0 * g[c] + a1 * g[c + 1] + a2 * g[c + 2] + a3 * g[c + 3]
    b0, b1, b2, b3 = np.float32(wy[0]), np.float32(wy[1]), np.float32(wy[2]), np.float32(wy[3])
    for j in range(STAMP):
        r = OVERSAMPLING * j
        for i in range(STAMP):
            out[j, i] = b0 * rows[r, i] + b1 * rows[r + 1, i] + b2 * rows[r + 2, i] + b3 * rows[r + 3, i]


@njit("void(f4[:, :, ::1], f8[::1], f8[::1], i8, i8, f4[:, :, ::1])", cache=True, nogil=True, fastmath=True)
def predict(plain: np.ndarray, xs: np.ndarray, ys: np.ndarray, nx: int, ny: int, out: np.ndarray) -> None:
    """PSF stamps (n, STAMP, STAMP) of the stars from plain coefficients (terms, NODES, NODES)."""
    local = np.empty((NODES, NODES), np.float32)
    rows = np.empty((NODES, STAMP), np.float32)
    phi, wx, wy = np.empty(6), np.empty(4), np.empty(4)
    px, py = np.empty(2, np.int64), np.empty(2, np.int64)
    for s in range(xs.size):
        field_terms(xs[s], ys[s], nx, ny, phi)
        _axis(xs[s], px, wx)
        _axis(ys[s], py, wy)
        _collapse(plain, phi, local)
        _interpolate(local, px[0], py[0], wx, wy, rows, out[s])


@njit("void(f4[:, ::1], i8, i8, f8[::1], f8[::1], f4[:, ::1], f4[:, ::1])", cache=True, nogil=True, fastmath=True)
def _spread(
    values: np.ndarray, bx: int, by: int, wx: np.ndarray, wy: np.ndarray, rows: np.ndarray, local: np.ndarray
) -> None:
    """Transpose of `_interpolate`: distribute pixel values on the nodes of `local` (overwritten)."""
    local[:] = np.float32(0.0)
    rows[:] = np.float32(0.0)
    for j in range(STAMP):
        for q in range(4):
            w = np.float32(wy[q])
            r = OVERSAMPLING * j + q
            for i in range(STAMP):
                rows[r, i] += w * values[j, i]
    a0, a1, a2, a3 = np.float32(wx[0]), np.float32(wx[1]), np.float32(wx[2]), np.float32(wx[3])
    for j in range(OVERSAMPLING * (STAMP - 1) + 4):
        g = local[by + j]
        for i in range(STAMP):
            c = bx + OVERSAMPLING * i
            v = rows[j, i]
            g[c] += a0 * v
            g[c + 1] += a1 * v
            g[c + 2] += a2 * v
            g[c + 3] += a3 * v


@njit("void(f4[:, :, ::1], f8[::1], f8[::1], i8, i8, f8[:, :, ::1])", cache=True, nogil=True, fastmath=True)
def gather(values: np.ndarray, xs: np.ndarray, ys: np.ndarray, nx: int, ny: int, out: np.ndarray) -> None:
    """Transpose of `predict`: sum over stars of stamps distributed on coefficients (terms, NODES, NODES), overwritten."""
    local = np.empty((NODES, NODES), np.float32)
    rows = np.empty((NODES, STAMP), np.float32)
    phi, wx, wy = np.empty(6), np.empty(4), np.empty(4)
    px, py = np.empty(2, np.int64), np.empty(2, np.int64)
    out[:] = 0.0
    for s in range(xs.size):
        field_terms(xs[s], ys[s], nx, ny, phi)
        _axis(xs[s], px, wx)
        _axis(ys[s], py, wy)
        _spread(values[s], px[0], py[0], wx, wy, rows, local)
        for k in range(out.shape[0]):
            term = phi[k]
            for j in range(NODES):
                for i in range(NODES):
                    out[k, j, i] += term * local[j, i]


@njit("void(f4[:, :, ::1], f8[::1], f8[::1], i8, i8, f8[:, :, ::1])", cache=True, nogil=True, fastmath=True)
def curvature(weights: np.ndarray, xs: np.ndarray, ys: np.ndarray, nx: int, ny: int, out: np.ndarray) -> None:
    """Diagonal of the normal matrix: as `gather`, with squared spline weights and squared field terms."""
    local = np.empty((NODES, NODES), np.float32)
    rows = np.empty((NODES, STAMP), np.float32)
    phi, wx, wy = np.empty(6), np.empty(4), np.empty(4)
    px, py = np.empty(2, np.int64), np.empty(2, np.int64)
    out[:] = 0.0
    for s in range(xs.size):
        field_terms(xs[s], ys[s], nx, ny, phi)
        _axis(xs[s], px, wx)
        _axis(ys[s], py, wy)
        _spread(weights[s], px[0], py[0], wx * wx, wy * wy, rows, local)
        for k in range(out.shape[0]):
            term = phi[k] * phi[k]
            for j in range(NODES):
                for i in range(NODES):
                    out[k, j, i] += term * local[j, i]
