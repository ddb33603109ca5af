"""Compiled painting and detector loops of the simulator; it shares none of them with the pipelines it tests.

A point-spread function is ten float32 numbers per source, laid out as in `optics.PsfField.shapes`:
(a, b, c, norm) of the core 1/(1+u)^3 and (a, b, c, norm, dx, dy) of the wide part 1/(1+u)^2.5,
with u = a dx^2 + 2 b dx dy + c dy^2, pixels; both are the delivered profile, pixel included.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Number = float | np.floating[Any]

_GOLDEN = 2.399963229728653
_SHAPE = "float32[::1]"


@nb.njit(f"void(float32[:, ::1], float64, float64, float32, int64, {_SHAPE})", cache=True, nogil=True, fastmath=True)
def paint_one(image: F32, x: float, y: float, flux: Number, radius: int, s: F32) -> None:
    """Add one point source of `flux` (DN) at (x, y) inside a square of half-width `radius` pixels."""
    ny, nx = image.shape
    jx, jy = math.floor(x + 0.5), math.floor(y + 0.5)
    x0, x1 = max(0, jx - radius), min(nx, jx + radius + 1)
    y0, y1 = max(0, jy - radius), min(ny, jy + radius + 1)
    fx, one = np.float32(x0 - x), np.float32(1.0)
    core, wing = np.float32(flux * s[3]), np.float32(flux * s[7])
    for iy in range(y0, y1):
        dy = np.float32(iy - y)
        ey = dy - s[9]
        bc, bw = np.float32(2.0) * s[1] * dy, np.float32(2.0) * s[5] * ey
        cc, cw = one + s[2] * dy * dy, one + s[6] * ey * ey
        for ix in range(x0, x1):
            dx = fx + np.float32(ix - x0)
            ex = dx - s[8]
            t = cc + dx * (s[0] * dx + bc)
            w = cw + ex * (s[4] * ex + bw)
            image[iy, ix] += core / (t * t * t) + wing / (w * w * np.sqrt(w))


@nb.njit(
    "void(float32[:, ::1], float64[::1], float64[::1], float32[::1], int64[::1], float32[:, ::1])",
    cache=True,
    nogil=True,
    fastmath=True,
)
def paint_points(image: F32, x: F64, y: F64, flux: F32, radius: NDArray[np.int64], shapes: F32) -> None:
    """Add point sources; arrays of equal length, `shapes` (n, 10)."""
    for k in range(x.size):
        paint_one(image, x[k], y[k], flux[k], radius[k], shapes[k])


@nb.njit(
    "void(float32[:, ::1], float64[::1], float64[::1], float32[::1], float32[::1], float32[::1], float32[::1],"
    " uint8[::1], float32[:, ::1], float32[:, ::1], float64)",
    cache=True,
    nogil=True,
    fastmath=True,
)
def paint_galaxies(
    image: F32,
    x: F64,
    y: F64,
    flux: F32,
    re: F32,
    axis: F32,
    pa: F32,
    kind: NDArray[np.uint8],
    shapes: F32,
    profile: F32,
    faint_dn: float,
) -> None:
    """Add galaxies as spirals of equal points, each seen through the full point-spread function.

    `re` half-light radius in px along the major axis, `axis` ratio, `pa` angle (rad) of the major axis from +x to +y,
    `kind` row of `profile` (radius in re at enclosed fractions (j+0.5)/m). The pattern is fixed on the sky, so two
    exposures show the same galaxy under two different PSFs and nothing else.
    """
    m = profile.shape[1]
    ny, nx = image.shape
    for k in range(x.size):
        row = profile[kind[k]]
        if x[k] < -100 or y[k] < -100 or x[k] > nx + 100 or y[k] > ny + 100:
            continue
        n = min(3000, int(10 + 14 * re[k] * re[k]))
        part = np.float32(flux[k] / n)
        w, a2 = shapes[k, 7], shapes[k, 4]
        radius = int(max(4.0, min(25.0, (part * w / faint_dn) ** 0.2 / math.sqrt(a2))))
        ca, sa = math.cos(pa[k]), math.sin(pa[k])
        for j in range(n):
            r = row[int((j + 0.5) / n * m)] * re[k]
            t = j * _GOLDEN
            u, v = r * math.cos(t), r * math.sin(t) * axis[k]
            paint_one(image, x[k] + u * ca - v * sa, y[k] + u * sa + v * ca, part, radius, shapes[k])


@nb.njit("void(float32[:, ::1], float64, float64, float64, float64, float64)", cache=True, nogil=True)
def paint_ring(image: F32, x: float, y: float, inner: float, outer: float, total_dn: float) -> None:
    """Add an evenly lit ring (a disc where `inner` is 0) holding `total_dn`."""
    ny, nx = image.shape
    value = np.float32(total_dn / (math.pi * (outer * outer - inner * inner)))
    for iy in range(max(0, int(y - outer)), min(ny, int(y + outer) + 2)):
        for ix in range(max(0, int(x - outer)), min(nx, int(x + outer) + 2)):
            r2 = (ix - x) ** 2 + (iy - y) ** 2
            if inner * inner <= r2 <= outer * outer:
                image[iy, ix] += value


@nb.njit("void(float32[:, ::1], float64, float64, float64, float64, float64)", cache=True, nogil=True)
def shade_ring(response: F32, x: float, y: float, inner: float, outer: float, factor: float) -> None:
    """Multiply a ring by `factor`: the shadow of a dust grain."""
    ny, nx = response.shape
    for iy in range(max(0, int(y - outer)), min(ny, int(y + outer) + 2)):
        for ix in range(max(0, int(x - outer)), min(nx, int(x + outer) + 2)):
            r2 = (ix - x) ** 2 + (iy - y) ** 2
            if inner * inner <= r2 <= outer * outer:
                response[iy, ix] *= np.float32(factor)


@nb.njit("uint64(uint64, uint64)", cache=True, nogil=True, inline="always")
def _mix(key: np.uint64, index: np.uint64) -> np.uint64:
    """SplitMix64 of a counter: the same pixel always gets the same number, without storing a map."""
    z = key + index * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@nb.njit("float32(uint64)", cache=True, nogil=True, inline="always")
def _normal(z: np.uint64) -> np.float32:
    """Nearly normal deviate (mean 0, variance 1): sum of the four 16-bit parts of a random word."""
    low = np.uint64(0xFFFF)
    total = (z & low) + ((z >> np.uint64(16)) & low) + ((z >> np.uint64(32)) & low) + (z >> np.uint64(48))
    return (np.float32(np.int64(total)) - np.float32(131070.0)) * np.float32(2.642925e-05)


@nb.njit("void(float32[:, ::1], uint64, float32, float32[::1])", cache=True, nogil=True)
def apply_response(image: F32, key: np.uint64, rms: Number, smooth: F32) -> None:
    """Multiply by pixel-to-pixel scatter `rms` and by 1 + s0 x + s1 y + s2 x^2 + s3 xy + s4 y^2, x and y in -1..1."""
    ny, nx = image.shape
    step_x, step_y, one = np.float32(2.0 / (nx - 1)), np.float32(2.0 / (ny - 1)), np.float32(1.0)
    for iy in range(ny):
        y = iy * step_y - one
        c0 = one + y * (smooth[1] + y * smooth[4])
        c1 = smooth[0] + y * smooth[3]
        for ix in range(nx):
            x = ix * step_x - one
            pixel = one + rms * _normal(_mix(key, np.uint64(iy * nx + ix)))
            image[iy, ix] *= pixel * (c0 + x * (c1 + x * smooth[2]))


@nb.njit("void(float32[:, ::1], float32[:, ::1], float32, float32)", cache=True, nogil=True, fastmath=True)
def add_noise(image: F32, normal: F32, gain: Number, read_noise_dn: Number) -> None:
    """Add Poisson (as normal) and read noise in place; `normal` holds unit deviates, one per pixel."""
    ny, nx = image.shape
    inverse, floor = np.float32(1.0) / gain, read_noise_dn * read_noise_dn
    for iy in range(ny):
        for ix in range(nx):
            v = image[iy, ix]
            image[iy, ix] = v + normal[iy, ix] * np.sqrt(max(v, np.float32(0.0)) * inverse + floor)


@nb.njit("int64(float32[:, ::1], float32, float64)", cache=True, nogil=True)
def bleed(image: F32, well: Number, up: float) -> int:
    """Let charge above `well` flow along its column, the fraction `up` to higher rows; returns columns touched.

    Charge that reaches the first or last row is lost to the drains.
    """
    ny, nx = image.shape
    hot = np.zeros(nx, np.bool_)
    for iy in range(ny):
        for ix in range(nx):
            if image[iy, ix] > well:
                hot[ix] = True
    touched = 0
    excess = np.zeros(ny, np.float64)
    for ix in range(nx):
        if not hot[ix]:
            continue
        touched += 1
        carry = 0.0
        for iy in range(ny):
            over = max(0.0, image[iy, ix] - well)
            excess[iy] = over
            image[iy, ix] -= np.float32(over)
        for iy in range(ny):
            carry += up * excess[iy]
            take = min(carry, max(0.0, well - image[iy, ix]))
            image[iy, ix] += np.float32(take)
            carry -= take
        carry = 0.0
        for iy in range(ny - 1, -1, -1):
            carry += (1.0 - up) * excess[iy]
            take = min(carry, max(0.0, well - image[iy, ix]))
            image[iy, ix] += np.float32(take)
            carry -= take
    return touched


@nb.njit(
    "void(float32[:, ::1], uint16[:, ::1], float32[::1], uint64, float32, float32, boolean, boolean)",
    cache=True,
    nogil=True,
)
def digitise(
    image: F32, out: NDArray[np.uint16], level: F32, key: np.uint64, a: Number, b: Number, flip_x: bool, flip_y: bool
) -> None:
    """Signal in true DN to raw counts: non-linearity, bias pattern, offset of each row, rounding, 16-bit limits.

    The inverse of true = x / (a x^2 + b x + 1) is x = 2t / ((1 - bt) + sqrt((1 - bt)^2 - 4 a t^2)).
    `level` (ny) is the offset of each row; the bias pattern (start-up ramps of columns and rows, pixel scatter) is
    laid out from the amplifier, which sits at pixel (0, 0) after flipping x and y as told.
    """
    ny, nx = image.shape
    ramp = np.empty(nx, np.float32)
    for ix in range(nx):
        x = nx - 1 - ix if flip_x else ix
        column = _normal(_mix(key ^ np.uint64(0x5BD1E995), np.uint64(x)))
        ramp[ix] = np.float32(4.0 * math.exp(-x / 25.0)) + np.float32(0.25) * column
    one, half, two, four = np.float32(1.0), np.float32(0.5), np.float32(2.0), np.float32(4.0)
    for iy in range(ny):
        y = ny - 1 - iy if flip_y else iy
        base = level[iy] + np.float32(1.5 * math.exp(-y / 300.0)) + half
        for ix in range(nx):
            t = image[iy, ix]
            p = one - b * t
            x = two * t / (p + np.sqrt(p * p - four * a * t * t))
            v = base + ramp[ix] + np.float32(0.4) * _normal(_mix(key, np.uint64(iy * nx + ix))) + x
            out[iy, ix] = np.uint16(min(max(v, np.float32(0.0)), np.float32(65535.0)))
