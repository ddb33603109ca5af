"""Point-spread function on an oversampled cubic B-spline grid: evaluate, paint, fit, and solve for its coefficients.

A PSF is a sum of cubic B-splines with nodes every 1 / OVERSAMPLING pixel; its value at an offset (dx, dy) from the source is
the flux fraction that falls into a pixel whose centre lies there (an *effective* PSF, Anderson & King 2000, PASP 112, 1360).
Because the node spacing divides the pixel, all pixels of a stamp share one sub-node phase and hence one set of weights.

Layouts. Plain: (terms, NODES, NODES), node (CENTRE, CENTRE) on the source. Phased: (terms, OVERSAMPLING, NODES, NODES /
OVERSAMPLING), where [k, p, j, i] is plain [k, j, OVERSAMPLING * i + p]: neighbouring pixels are neighbours in memory.
The terms are the field polynomial 1, u, v, u^2, u v, v^2 with u = (x - cx) / (nx / 2), v = (y - cy) / (ny / 2).
"""

from __future__ import annotations

import numpy as np
from numba import njit

OVERSAMPLING = 2
RADIUS = 12  # pixels: stamps are 25 x 25
STAMP = 2 * RADIUS + 1
CENTRE = 27  # node of the source: OVERSAMPLING * (RADIUS + 0.5) + 2
NODES = 56
HALF_NODES = NODES // OVERSAMPLING
PAD = STAMP + 3  # side of work stamps: one pixel of margin
TILES = 96  # the PSF is constant over 1 / TILES of the image in each axis
CELL = 4  # pixels: side of the cells that remember where something changed
DISTURBING = 0.25  # a change of more sigmas makes a source and its neighbours due again
CONVERGED = 0.02  # a source that would change by fewer sigmas stays as it is


@njit("void(f8, f8[::1], f8[::1])", cache=True, nogil=True, inline="always")
def spline_weights(t: float, weight: np.ndarray, slope: np.ndarray) -> None:
    """Cubic B-spline weights of the nodes -1, 0, 1, 2 at 0 <= t < 1, and their derivatives with respect to t."""
    s = 1.0 - t
    weight[0] = s * s * s / 6.0
    weight[1] = 2.0 / 3.0 - t * t * (1.0 - 0.5 * t)
    weight[2] = 2.0 / 3.0 - s * s * (1.0 - 0.5 * s)
    weight[3] = t * t * t / 6.0
    slope[0] = -0.5 * s * s
    slope[1] = t * (1.5 * t - 2.0)
    slope[2] = s * (2.0 - 1.5 * s)
    slope[3] = 0.5 * t * t


@njit("void(f8, f8, i8, i8, f8[::1])", cache=True, nogil=True, inline="always")
def field_terms(x: float, y: float, nx: int, ny: int, phi: np.ndarray) -> None:
    """The six field-polynomial terms at pixel (x, y) of an image of nx x ny pixels."""
    u = (x - 0.5 * (nx - 1)) / (0.5 * nx)
    v = (y - 0.5 * (ny - 1)) / (0.5 * ny)
    phi[0], phi[1], phi[2] = 1.0, u, v
    phi[3], phi[4], phi[5] = u * u, u * v, v * v


@njit("void(f4[:, :, :, ::1], f8, f8, i8, i8, f8, f8[::1], f4[:, :, ::1])", cache=True, nogil=True, fastmath=True)
def local_psf(
    phased: np.ndarray, x: float, y: float, nx: int, ny: int, reach: float, phi: np.ndarray, local: np.ndarray
) -> None:
    """Coefficients of the PSF at (x, y), phased without the term axis; only nodes within `reach` pixels are filled."""
    field_terms(x, y, nx, ny, phi)
    span = int(OVERSAMPLING * (reach + 1.5)) + 4
    j0, j1 = max(0, CENTRE - span), min(NODES, CENTRE + span + 1)
    terms = phased.shape[0]
    plane = OVERSAMPLING * NODES * HALF_NODES
    flat, out = phased.reshape((terms, plane)), local.reshape(plane)
    t1, t2, t3 = np.float32(phi[1]), np.float32(phi[2]), np.float32(phi[3])
    t4, t5 = np.float32(phi[4]), np.float32(phi[5])
    for p in range(OVERSAMPLING):
        # whole rows of nodes are one long run in memory
        begin, end = (p * NODES + j0) * HALF_NODES, (p * NODES + j1) * HALF_NODES
        target, c0 = out[begin:end], flat[0, begin:end]
        if terms == 6:
            c1, c2, c3 = flat[1, begin:end], flat[2, begin:end], flat[3, begin:end]
            c4, c5 = flat[4, begin:end], flat[5, begin:end]
            for i in range(target.size):
                target[i] = c0[i] + t1 * c1[i] + t2 * c2[i] + t3 * c3[i] + t4 * c4[i] + t5 * c5[i]
        elif terms == 3:
            c1, c2 = flat[1, begin:end], flat[2, begin:end]
            for i in range(target.size):
                target[i] = c0[i] + t1 * c1[i] + t2 * c2[i]
        else:
            for i in range(target.size):
                target[i] = c0[i]


@njit(
    "void(f4[:, :, ::1], f8, f8, i8, i8, i8, i8, f4[::1], f4[::1], f4[::1], f4[:, :, ::1], b1)",
    cache=True,
    nogil=True,
    fastmath=True,
)
def render(
    local: np.ndarray,
    x: float,
    y: float,
    ix0: int,
    iy0: int,
    width: int,
    height: int,
    value: np.ndarray,
    value_x: np.ndarray,
    value_y: np.ndarray,
    rows: np.ndarray,
    gradient: bool,
) -> None:
    """PSF of a unit source at (x, y) on the pixels ix0 .. ix0 + width - 1, iy0 .. iy0 + height - 1.

    value, value_x, value_y are filled row after row, `width` values each; the latter two are the derivatives with respect to
    the position of the source, filled when `gradient`. `rows` is work space of (2, NODES, PAD). The pixels must lie within
    RADIUS + 0.5 of the source in each axis.
    """
    wx, dx = np.empty(4), np.empty(4)
    wy, dy = np.empty(4), np.empty(4)
    fx = (ix0 - x) * OVERSAMPLING + CENTRE
    fy = (iy0 - y) * OVERSAMPLING + CENTRE
    bx, by = int(np.floor(fx)), int(np.floor(fy))
    spline_weights(fx - bx, wx, dx)
    spline_weights(fy - by, wy, dy)
    # row j of the work space belongs to node row by - 1 + j; nodes bx - 1 .. bx + 2 lie in both phases in turn
    n_rows = OVERSAMPLING * (height - 1) + 4
    n0, n1, n2, n3 = bx - 1, bx, bx + 1, bx + 2
    q0, q1, q2, q3 = n0 % OVERSAMPLING, n1 % OVERSAMPLING, n2 % OVERSAMPLING, n3 % OVERSAMPLING
    k0, k1, k2, k3 = n0 // OVERSAMPLING, n1 // OVERSAMPLING, n2 // OVERSAMPLING, n3 // OVERSAMPLING
    a0, a1, a2, a3 = np.float32(wx[0]), np.float32(wx[1]), np.float32(wx[2]), np.float32(wx[3])
    s = np.float32(-OVERSAMPLING)
    e0, e1, e2, e3 = s * np.float32(dx[0]), s * np.float32(dx[1]), s * np.float32(dx[2]), s * np.float32(dx[3])
    for j in range(n_rows):
        node = by - 1 + j
        c0, c1 = local[q0, node, k0 : k0 + width], local[q1, node, k1 : k1 + width]
        c2, c3 = local[q2, node, k2 : k2 + width], local[q3, node, k3 : k3 + width]
        r0 = rows[0, j, :width]
        for i in range(width):
            r0[i] = a0 * c0[i] + a1 * c1[i] + a2 * c2[i] + a3 * c3[i]
        if gradient:
            r1 = rows[1, j, :width]
            for i in range(width):
                r1[i] = e0 * c0[i] + e1 * c1[i] + e2 * c2[i] + e3 * c3[i]
    w0, w1, w2, w3 = np.float32(wy[0]), np.float32(wy[1]), np.float32(wy[2]), np.float32(wy[3])
    d0, d1, d2, d3 = s * np.float32(dy[0]), s * np.float32(dy[1]), s * np.float32(dy[2]), s * np.float32(dy[3])
    for j in range(height):
        r = OVERSAMPLING * j
        f0, f1, f2, f3 = rows[0, r, :width], rows[0, r + 1, :width], rows[0, r + 2, :width], rows[0, r + 3, :width]
        first = j * width
        v = value[first : first + width]
        for i in range(width):
            v[i] = w0 * f0[i] + w1 * f1[i] + w2 * f2[i] + w3 * f3[i]
        if gradient:
            g0, g1, g2, g3 = rows[1, r, :width], rows[1, r + 1, :width], rows[1, r + 2, :width], rows[1, r + 3, :width]
            vx, vy = value_x[first : first + width], value_y[first : first + width]
            for i in range(width):
                vx[i] = w0 * g0[i] + w1 * g1[i] + w2 * g2[i] + w3 * g3[i]
                vy[i] = d0 * f0[i] + d1 * f1[i] + d2 * f2[i] + d3 * f3[i]


@njit("i8(f4[:, :, :, ::1], f8, f8, f8, i8, i8, i8, f8[::1], f4[:, :, ::1])", cache=True, nogil=True)
def tile_psf(
    phased: np.ndarray,
    x: float,
    y: float,
    reach: float,
    nx: int,
    ny: int,
    have: int,
    phi: np.ndarray,
    local: np.ndarray,
) -> int:
    """Bring `local` to the PSF of the tile that holds (x, y), out to `reach` pixels, unless it is there already (`have`).

    The PSF counts as constant over 1 / TILES of the image in each axis, where it changes by less than a thousandth; sources
    in the order of `tile_order`, the brightest and widest of a tile first, share its evaluation. Returns what is there now:
    the tile and the reach in one number.
    """
    a = min(TILES - 1, max(0, int(x * TILES / nx)))
    b = min(TILES - 1, max(0, int(y * TILES / ny)))
    tile, least = b * TILES + a, min(RADIUS, int(np.ceil(reach)))
    if have >= 0 and have // (RADIUS + 1) == tile and have % (RADIUS + 1) >= least:
        return have
    local_psf(phased, (a + 0.5) * nx / TILES - 0.5, (b + 0.5) * ny / TILES - 0.5, nx, ny, 1.0 * least, phi, local)
    return tile * (RADIUS + 1) + least


@njit("UniTuple(i8, 4)(f8, f8, f8, i8, i8)", cache=True, nogil=True, inline="always")
def stamp_box(x: float, y: float, radius: float, nx: int, ny: int) -> tuple[int, int, int, int]:
    """First column, first row, width, height of the pixels within `radius` of (x, y) that lie inside the image."""
    x0, x1 = max(0, int(np.floor(x - radius + 0.5))), min(nx - 1, int(np.floor(x + radius + 0.5)))
    y0, y1 = max(0, int(np.floor(y - radius + 0.5))), min(ny - 1, int(np.floor(y + radius + 0.5)))
    return x0, y0, max(0, x1 - x0 + 1), max(0, y1 - y0 + 1)


@njit("void(f4[:, ::1], i8, i8, i8, i8, f4[::1], f4)", cache=True, nogil=True, fastmath=True)
def add_stamp(
    image: np.ndarray, ix0: int, iy0: int, width: int, height: int, value: np.ndarray, amount: np.float32
) -> None:
    """image += amount * value on a stamp of width x height pixels, `value` row after row."""
    for j in range(height):
        target, source = image[iy0 + j, ix0 : ix0 + width], value[j * width : (j + 1) * width]
        for i in range(width):
            target[i] += amount * source[i]


@njit("void(f4[:, ::1], f4[:, :, :, ::1], f8[::1], f8[::1], f8[::1], f8[::1], b1[::1], f8)", cache=True, nogil=True)
def paint(
    image: np.ndarray,
    phased: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    fluxes: np.ndarray,
    radii: np.ndarray,
    chosen: np.ndarray,
    sign: float,
) -> None:
    """image += sign * flux * PSF for every chosen source, each out to its own radius (pixels)."""
    local = np.zeros((OVERSAMPLING, NODES, HALF_NODES), np.float32)
    rows = np.empty((2, NODES, PAD), np.float32)
    value = np.empty(PAD * PAD, np.float32)
    phi = np.empty(6)
    ny, nx = image.shape
    tile = -1
    for s in range(xs.size):
        if not chosen[s]:
            continue
        x, y = xs[s], ys[s]
        ix0, iy0, width, height = stamp_box(x, y, radii[s], nx, ny)
        if width > 0 and height > 0:
            tile = tile_psf(phased, x, y, radii[s], nx, ny, tile, phi, local)
            render(local, x, y, ix0, iy0, width, height, value, value, value, rows, False)
            add_stamp(image, ix0, iy0, width, height, value, np.float32(sign * fluxes[s]))


@njit("void(f4[:, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f4[::1], f8)", cache=True, nogil=True, fastmath=True)
def add_wings(
    image: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    fluxes: np.ndarray,
    radii: np.ndarray,
    profile: np.ndarray,
    step: float,
) -> None:
    """image += flux * profile(r) for every source, on the pixels outside its PSF stamp and within its radius (pixels).

    profile : (n,) float32, fraction of the flux in a pixel at 0, step, 2 step ... pixels; linear in between
    """
    ny, nx = image.shape
    inverse = np.float32(1.0 / step)
    for s in range(xs.size):
        x, y, flux = xs[s], ys[s], np.float32(fluxes[s])
        reach = min(radii[s], (profile.size - 2) * step)
        px, py = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        x0, y0, width, height = stamp_box(x, y, reach, nx, ny)
        for j in range(y0, y0 + height):
            row = abs(j - py)
            for i in range(x0, x0 + width):
                if row <= RADIUS and abs(i - px) <= RADIUS:
                    continue
                r = np.float32(np.sqrt((j - y) * (j - y) + (i - x) * (i - x)))
                if r <= reach:
                    k = int(r * inverse)
                    t = r * inverse - np.float32(k)
                    image[j, i] += flux * (profile[k] + t * (profile[k + 1] - profile[k]))


@njit("f8(f8, f8, f8, f8)", cache=True, nogil=True, inline="always")
def paint_radius(flux: float, sigma: float, least: float, scale: float) -> float:
    """Radius (pixels) beyond which a source is fainter than the noise: grows with the square root of flux / sky sigma."""
    return min(max(least, np.floor(scale * np.sqrt(max(flux, 0.0) / sigma))), 1.0 * RADIUS)


@njit(
    "i8(f4[:, ::1], f4[:, ::1], b1[:, ::1], i8, i8, i8, i8, f4[::1], f8, f8, f8, f8, f8, f8, f8, f4[::1], f4[::1])",
    cache=True,
    nogil=True,
    fastmath=True,
)
def stamp_weights(
    data: np.ndarray,
    residual: np.ndarray,
    usable: np.ndarray,
    ix0: int,
    iy0: int,
    width: int,
    height: int,
    value: np.ndarray,
    x: float,
    y: float,
    f: float,
    sky: float,
    radius: float,
    gain: float,
    model_error: float,
    weight: np.ndarray,
    rest: np.ndarray,
) -> int:
    """Inverse variances (0 where unusable or farther than `radius`) and residuals of a stamp, row after row.

    The variance of a pixel is sky + light / gain + (model_error f P)^2, where light is that of all models there.

    Returns
    -------
    number of pixels that count
    """
    used = np.float32(0.0)
    fx, fy, r2 = np.float32(ix0 - x), np.float32(iy0 - y), np.float32(radius * radius)
    per_electron, floor, share = np.float32(1.0 / gain), np.float32(sky), np.float32(model_error * f)
    for j in range(height):
        dy2 = (fy + np.float32(j)) * (fy + np.float32(j))
        d, r = data[iy0 + j, ix0 : ix0 + width], residual[iy0 + j, ix0 : ix0 + width]
        good = usable[iy0 + j, ix0 : ix0 + width]
        first = j * width
        p, w, out = value[first : first + width], weight[first : first + width], rest[first : first + width]
        for i in range(width):
            dx = fx + np.float32(i)
            bias = share * p[i]
            variance = floor + per_electron * max(d[i] - r[i], np.float32(0.0)) + bias * bias
            counts = np.float32(1.0) if good[i] and dx * dx + dy2 <= r2 else np.float32(0.0)
            w[i] = counts / variance
            out[i] = r[i]
            used += counts
    return int(used)


@njit("UniTuple(f8, 4)(f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], i8, f8)", cache=True, nogil=True, fastmath=True)
def _correction(
    value: np.ndarray,
    value_x: np.ndarray,
    value_y: np.ndarray,
    weight: np.ndarray,
    rest: np.ndarray,
    n: int,
    f: float,
) -> tuple[float, float, float, float]:
    """One weighted least-squares step for flux, x, y of a source of flux f from its residuals: changes, error of the flux.

    The error is 0 where nothing can be fitted.
    """
    zero = np.float32(0.0)
    s00 = s01 = s02 = s11 = s12 = s22 = t0 = t1 = t2 = zero
    for k in range(n):
        p, px, py, r = value[k], value_x[k], value_y[k], rest[k]
        wp, wx, wy = weight[k] * p, weight[k] * px, weight[k] * py
        s00 += wp * p
        s01 += wp * px
        s02 += wp * py
        s11 += wx * px
        s12 += wx * py
        s22 += wy * py
        t0 += wp * r
        t1 += wx * r
        t2 += wy * r
    a00, a01, a02, b0 = float(s00), f * float(s01), f * float(s02), float(t0)
    # a step in position of half a pixel costs one sigma: hopeless blends stay put
    a11, a12, a22 = f * f * float(s11) + 4.0, f * f * float(s12), f * f * float(s22) + 4.0
    b1, b2 = f * float(t1), f * float(t2)
    d0 = a11 * a22 - a12 * a12
    det = a00 * d0 - a01 * (a01 * a22 - a12 * a02) + a02 * (a01 * a12 - a11 * a02)
    if det <= 0.0 or a00 <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    i00 = d0 / det
    i01 = (a02 * a12 - a01 * a22) / det
    i02 = (a01 * a12 - a02 * a11) / det
    i11 = (a00 * a22 - a02 * a02) / det
    i12 = (a01 * a02 - a00 * a12) / det
    i22 = (a00 * a11 - a01 * a01) / det
    dx = min(0.4, max(-0.4, i01 * b0 + i11 * b1 + i12 * b2))
    dy = min(0.4, max(-0.4, i02 * b0 + i12 * b1 + i22 * b2))
    return i00 * b0 + i01 * b1 + i02 * b2, dx, dy, np.sqrt(i00)


@njit("void(u1[:, ::1], f8, f8, f8)", cache=True, nogil=True, inline="always")
def _wake(due: np.ndarray, x: float, y: float, change: float) -> None:
    """Mark the cells around a source whose flux moved `change` times the noise of a faint source: the more, the wider."""
    reach = 1 if change < 1.0 else (2 if change < 10.0 else 4)
    cy, cx = int(y) // CELL, int(x) // CELL
    for b in range(max(0, cy - reach), min(due.shape[0], cy + reach + 1)):
        for a in range(max(0, cx - reach), min(due.shape[1], cx + reach + 1)):
            due[b, a] = 1


@njit(
    "i8(f4[:, ::1], f4[:, ::1], b1[:, ::1], f4[:, :, :, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], "
    "b1[::1], u1[:, ::1], u1[:, ::1], f8, f8, f8, f8, f8)",
    cache=True,
    nogil=True,
    fastmath=True,
)
def fit_sweep(
    data: np.ndarray,
    residual: np.ndarray,
    usable: np.ndarray,
    phased: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    fluxes: np.ndarray,
    errors: np.ndarray,
    skies: np.ndarray,
    fit_radii: np.ndarray,
    radii: np.ndarray,
    alive: np.ndarray,
    due: np.ndarray,
    next_due: np.ndarray,
    gain: float,
    model_error: float,
    keep: float,
    least_radius: float,
    radius_scale: float,
) -> int:
    """Refit every source (flux, x, y) in turn against a residual image that is kept up to date (block Gauss-Seidel).

    The residual seen by a source lacks the models of all others and of itself, so one linear least-squares step gives its
    correction; the image is then repainted at once. Sources whose surroundings did not change in the last sweep are skipped.

    Parameters
    ----------
    data, residual : (ny, nx) float32, DN: sky-subtracted image, and the same minus all models (updated)
    usable : (ny, nx) bool
    phased : PSF coefficients
    xs, ys : pixels; fluxes, errors : DN (updated); skies : sky variance at the source, DN^2
    fit_radii : pixels, radius of the pixels used, at most `radii`; radii : pixels, radius painted (updated)
    alive : bool, sources that exist (updated: a source fainter than `keep` sigmas is taken out)
    due, next_due : (ceil(ny / CELL), ceil(nx / CELL)) uint8: cells to be refitted now, and filled with those of the next sweep
    gain : e-/DN;  model_error : error of the PSF as a fraction of its value in a pixel

    Returns
    -------
    number of sources refitted
    """
    ny, nx = residual.shape
    local = np.zeros((OVERSAMPLING, NODES, HALF_NODES), np.float32)
    rows = np.empty((2, NODES, PAD), np.float32)
    value, value_x = np.empty(PAD * PAD, np.float32), np.empty(PAD * PAD, np.float32)
    value_y, weight = np.empty(PAD * PAD, np.float32), np.empty(PAD * PAD, np.float32)
    rest = np.empty(PAD * PAD, np.float32)
    phi = np.empty(6)
    worked, tile = 0, -1
    next_due[:] = 0
    for s in range(xs.size):
        x, y, f = xs[s], ys[s], fluxes[s]
        cy, cx = min(due.shape[0] - 1, max(0, int(y) // CELL)), min(due.shape[1] - 1, max(0, int(x) // CELL))
        if not alive[s] or due[cy, cx] == 0:
            continue
        worked += 1
        ix0, iy0, width, height = stamp_box(x, y, radii[s], nx, ny)
        new_flux, dx, dy = -1.0, 0.0, 0.0
        if width > 0 and height > 0:
            tile = tile_psf(phased, x, y, radii[s], nx, ny, tile, phi, local)
            render(local, x, y, ix0, iy0, width, height, value, value_x, value_y, rows, True)
            used = stamp_weights(
                data, residual, usable, ix0, iy0, width, height, value, x, y, f, skies[s], fit_radii[s], gain,
                model_error, weight, rest,
            )  # fmt: skip
            df, dx, dy, error = _correction(value, value_x, value_y, weight, rest, width * height, f)
            if error > 0.0 and used >= 5:
                new_flux, errors[s] = f + df, error
        inside = x + dx > -0.5 and y + dy > -0.5 and x + dx < nx - 0.5 and y + dy < ny - 0.5
        lives = new_flux > keep * errors[s] and inside
        change, move = abs(new_flux - f), (abs(dx) + abs(dy)) * new_flux
        if lives and change < CONVERGED * errors[s] and move < 2.0 * CONVERGED * errors[s]:
            continue
        add_stamp(residual, ix0, iy0, width, height, value, np.float32(f))
        if not lives:
            alive[s] = False
            _wake(next_due, x, y, f / (4.0 * np.sqrt(skies[s])))
            continue
        sigma = np.sqrt(skies[s])
        x, y = x + dx, y + dy
        xs[s], ys[s], fluxes[s] = x, y, new_flux
        radii[s] = max(paint_radius(new_flux, sigma, least_radius, radius_scale), min(fit_radii[s], 1.0 * RADIUS))
        ix0, iy0, width, height = stamp_box(x, y, radii[s], nx, ny)
        tile = tile_psf(phased, x, y, radii[s], nx, ny, tile, phi, local)
        render(local, x, y, ix0, iy0, width, height, value, value_x, value_y, rows, False)
        add_stamp(residual, ix0, iy0, width, height, value, np.float32(-new_flux))
        if change > DISTURBING * errors[s] or move > 2.0 * DISTURBING * errors[s]:
            _wake(next_due, x, y, max(change, move) / (4.0 * sigma))
    return worked
