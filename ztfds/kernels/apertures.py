"""Kernels of aperture photometry: nested circular apertures in one pass, and growth of light with radius."""

from __future__ import annotations

import numpy as np
from numba import njit

SAMPLES = 5  # sub-pixels per side that decide how much of a pixel on the rim belongs to an aperture
RINGS = 64  # rings in which the growth of light is followed
TRUNCATED, MASKED = 0x10, 0x20  # flags of `sep`: an aperture leaves the image, or has bad pixels in it
_HALF_DIAGONAL = 0.7072


@njit("f8(f8, f8, f8)", cache=True, nogil=True, fastmath=True)
def _overlap(dx: float, dy: float, radius2: float) -> float:
    """Part of the pixel centred at (dx, dy) that lies within a circle about the origin, by 5 x 5 samples."""
    inside = 0
    for q in range(SAMPLES):
        v = dy + (q - 0.5 * (SAMPLES - 1)) / SAMPLES
        rest = radius2 - v * v
        for p in range(SAMPLES):
            u = dx + (p - 0.5 * (SAMPLES - 1)) / SAMPLES
            inside += 1 if u * u < rest else 0
    return inside / (SAMPLES * SAMPLES)


@njit("UniTuple(i8, 5)(f8, f8, f8, i8, i8)", cache=True, nogil=True)
def _box(x: float, y: float, radius: float, nx: int, ny: int) -> tuple[int, int, int, int, int]:
    """First and last + 1 column, first and last + 1 row of the pixels that a circle touches inside the image; a flag."""
    x0, x1 = int(x - radius + 0.5), int(x + radius + 1.4999999)
    y0, y1 = int(y - radius + 0.5), int(y + radius + 1.4999999)
    cut = x0 < 0 or y0 < 0 or x1 > nx or y1 > ny
    return max(0, x0), min(nx, x1), max(0, y0), min(ny, y1), TRUNCATED if cut else 0


@njit(
    "void(f4[:, ::1], b1[:, ::1], f8[::1], f8[::1], f8[::1], f8, f8, f8[:, ::1], f8[:, ::1], i8[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def circular_apertures(
    data: np.ndarray,
    usable: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    radii: np.ndarray,
    sigma: float,
    gain: float,
    fluxes: np.ndarray,
    errors: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Light within circles of several radii about each source, as `sep.sum_circle` with five sub-pixels measures it.

    What bad pixels hide is replaced by the mean of the good ones in the aperture. The variance is that of the sky pixels
    and of the photons.

    Parameters
    ----------
    data : (ny, nx) float32, DN, sky-subtracted;  usable : (ny, nx) bool
    xs, ys : (n,) float64, pixels
    radii : (m,) float64, pixels, ascending
    sigma : noise of a sky pixel, DN;  gain : e-/DN
    fluxes, errors : (n, m) float64, DN, filled here; NaN where an aperture has no good pixel
    flags : (n,) int64, filled here: OR over the apertures
    """
    ny, nx = data.shape
    m = radii.size
    light, area, hidden = np.empty(m), np.empty(m), np.empty(m)
    for s in range(xs.size):
        x, y = xs[s], ys[s]
        x0, x1, y0, y1, flags[s] = _box(x, y, radii[m - 1], nx, ny)
        light[:] = area[:] = hidden[:] = 0.0
        for j in range(y0, y1):
            for i in range(x0, x1):
                dx, dy = i - x, j - y
                r = np.sqrt(dx * dx + dy * dy)
                value = float(data[j, i]) if usable[j, i] else 0.0
                for k in range(m - 1, -1, -1):
                    if r > radii[k] + _HALF_DIAGONAL:
                        break
                    part = 1.0 if r < radii[k] - _HALF_DIAGONAL else _overlap(dx, dy, radii[k] * radii[k])
                    area[k] += part
                    light[k] += part * value
                    hidden[k] += 0.0 if usable[j, i] else part
                    flags[s] |= 0 if usable[j, i] else MASKED
        for k in range(m):
            whole = area[k] / (area[k] - hidden[k]) if area[k] > hidden[k] else np.nan
            fluxes[s, k] = light[k] * whole
            variance = sigma * sigma * area[k] + max(fluxes[s, k], 0.0) / gain
            errors[s, k] = np.sqrt(variance) if whole == whole else np.nan


@njit(
    "void(f4[:, ::1], b1[:, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def growth_radii(
    data: np.ndarray,
    usable: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    reach: np.ndarray,
    target: np.ndarray,
    radii: np.ndarray,
) -> None:
    """Radius that holds a given flux, for each source, from the light in RINGS rings of pixels (by their centres).

    As `sep.flux_radius` with one sub-pixel: bad pixels take the mean of their ring; between rings the growth is linear.

    Parameters
    ----------
    data : (ny, nx) float32, DN, sky-subtracted;  usable : (ny, nx) bool
    xs, ys, reach : (n,) float64, pixels; `reach` is the outermost radius
    target : (n,) float64, DN
    radii : (n,) float64, pixels, filled here; `reach` where the target is not attained, 0 where it is not above 0
    """
    ny, nx = data.shape
    light, area, hidden = np.empty(RINGS), np.empty(RINGS), np.empty(RINGS)
    for s in range(xs.size):
        x, y = xs[s], ys[s]
        x0, x1, y0, y1, _ = _box(x, y, reach[s], nx, ny)
        light[:] = area[:] = hidden[:] = 0.0
        per_step, step = RINGS / reach[s], reach[s] / RINGS
        for j in range(y0, y1):
            for i in range(x0, x1):
                k = int(np.sqrt((i - x) * (i - x) + (j - y) * (j - y)) * per_step)
                if k < RINGS:
                    area[k] += 1.0
                    if usable[j, i]:
                        light[k] += data[j, i]
                    else:
                        hidden[k] += 1.0
        radii[s] = reach[s] if target[s] > 0.0 else 0.0
        inside = 0.0
        for k in range(RINGS if target[s] > 0.0 else 0):
            ring = light[k] * area[k] / (area[k] - hidden[k]) if area[k] > hidden[k] else 0.0
            if inside + ring >= target[s]:
                radii[s] = step * (k + (target[s] - inside) / ring) if ring > 0.0 else step * k
                break
            inside += ring
