"""Kernels that fit trailed point-spread functions, and look at what is around them."""

from __future__ import annotations

import numpy as np
from numba import njit

CHI_CLIP = 16.0
"""Most that one pixel adds to chi-square, so that a star beside a streak does not spoil it."""
FIT_COLUMNS = 24


@njit("f8(f4[:, ::1], f8, f8)", cache=True, nogil=True)
def _lookup(table: np.ndarray, b: float, a: float) -> float:
    """Bilinear value of a table at row b, column a; the nearest edge value outside."""
    rows, columns = table.shape
    b, a = min(max(b, 0.0), rows - 1.001), min(max(a, 0.0), columns - 1.001)
    j, i = int(b), int(a)
    v, u = b - j, a - i
    low = (1 - u) * table[j, i] + u * table[j, i + 1]
    high = (1 - u) * table[j + 1, i] + u * table[j + 1, i + 1]
    return (1 - v) * low + v * high


@njit("void(f4[:, ::1], i8, f8, f4[:, :, ::1])", cache=True, nogil=True)
def turned_psf(fine: np.ndarray, over: int, angle: float, tables: np.ndarray) -> None:
    """A PSF in the frame of a streak, its integral along the streak, and that integral's slope across.

    Parameters
    ----------
    fine : (m, m) float32
        Oversampled PSF, DN per pixel for unit flux.
    over : int
        Its samples per pixel, and those of the tables.
    angle : float
        Direction of the streak from +x to +y, rad.
    tables : (3, m, m) float32
        Written; rows are positions along, columns across the streak: P, C = integral of P along the streak from far before,
        dC/du per pixel across.
    """
    m = fine.shape[0]
    half = m // 2
    c, s = np.cos(angle), np.sin(angle)
    for b in range(m):
        for a in range(m):
            t, u = b - half, a - half
            inside = t * t + u * u <= half * half
            tables[0, b, a] = _lookup(fine, half + t * s + u * c, half + t * c - u * s) if inside else 0.0
    for a in range(m):
        total = 0.0
        for b in range(m):
            total += 0.5 * tables[0, b, a]
            tables[1, b, a] = total / over
            total += 0.5 * tables[0, b, a]
    for b in range(m):
        for a in range(m):
            low, high = max(a - 1, 0), min(a + 1, m - 1)
            tables[2, b, a] = (tables[1, b, high] - tables[1, b, low]) * over / (high - low)


@njit("f8(f4, f4, f4, f8)", cache=True, nogil=True, error_model="numpy")
def _weight(variance: float, score: float, scorr: float, scale: float) -> float:
    """One over the variance of a pixel of the difference, 0 without data.

    Beside its photon and read noise this is what the score and its significance say about the errors of a point source there:
    they are larger near stars. Only significant pixels are asked, whose ratio small offsets do not matter to.
    """
    w = 1.0 / variance
    if abs(scorr) > 1.0:
        other = scorr / (score * scale)
        w = min(w, other * other)
    return w if 0.0 < w < 1e30 else 0.0


@njit(
    "f8(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f8, b1[:, ::1], f4[:, :, ::1], i8, f8[::1], f8, f8, f8[:, ::1], f8[::1])",
    cache=True,
    nogil=True,
)
def _normal_equations(
    diff: np.ndarray,
    variance: np.ndarray,
    score: np.ndarray,
    scorr: np.ndarray,
    scale: float,
    blocked: np.ndarray,
    tables: np.ndarray,
    over: int,
    p: np.ndarray,
    sky: float,
    reach: float,
    matrix: np.ndarray,
    vector: np.ndarray,
) -> float:
    """Sums of a trailed-PSF fit at parameters p = x, y, angle, length, flux; returns the drop of chi-square by the model.

    With t, u along and across the streak, h = length / 2:  M = flux / length [C(t + h, u) - C(t - h, u)].
    `vector` receives the five gradients, the number of pixels, the blocked ones among the streak's, and chi-square.
    """
    ny, nx = diff.shape
    half = tables.shape[1] // 2
    x0, y0, angle, length, flux = p[0], p[1], p[2], p[3], p[4]
    c, s, h = np.cos(angle), np.sin(angle), 0.5 * length
    matrix[:], vector[:] = 0.0, 0.0
    g = np.empty(5)
    chi = gain = 0.0
    wide, high = (h + reach) * abs(c) + reach * abs(s), (h + reach) * abs(s) + reach * abs(c)
    for j in range(max(0, int(np.ceil(y0 - high))), min(ny - 1, int(y0 + high)) + 1):
        for i in range(max(0, int(np.ceil(x0 - wide))), min(nx - 1, int(x0 + wide)) + 1):
            dx, dy = i - x0, j - y0
            t, u = dx * c + dy * s, dy * c - dx * s
            if abs(u) > reach or abs(t) > h + reach:
                continue
            w = _weight(variance[j, i], score[j, i], scorr[j, i], scale)
            if blocked[j, i] or not w > 0:
                if abs(u) < 2.0 and abs(t) < h + 1.0:
                    vector[6] += 1
                continue
            a, b0, b1 = u * over + half, (t - h) * over + half, (t + h) * over + half
            span = (_lookup(tables[1], b1, a) - _lookup(tables[1], b0, a)) / length
            p0, p1 = _lookup(tables[0], b0, a), _lookup(tables[0], b1, a)
            across = (_lookup(tables[2], b1, a) - _lookup(tables[2], b0, a)) / length
            along = (p1 - p0) / length
            g[0] = flux * (-along * c + across * s)
            g[1] = flux * (-along * s - across * c)
            g[2] = flux * (along * u - across * t)
            g[3] = flux * (0.5 * (p0 + p1) - span) / length
            g[4] = span
            residual = diff[j, i] - sky - flux * span
            chi += min(w * residual * residual, CHI_CLIP)
            gain += w * ((diff[j, i] - sky) ** 2 - residual * residual)
            vector[5] += 1
            for m in range(5):
                vector[m] += w * g[m] * residual
                for n in range(m + 1):
                    matrix[m, n] += w * g[m] * g[n]
    for m in range(5):
        for n in range(m):
            matrix[n, m] = matrix[m, n]
    vector[7] = chi
    return gain


@njit("b1(f8[:, ::1], f8[::1], f8, f8[::1])", cache=True, nogil=True)
def _damped_step(matrix: np.ndarray, vector: np.ndarray, damping: float, step: np.ndarray) -> bool:
    """Solve (A + damping diag A) step = v for five unknowns by Cholesky's method; False where A is singular."""
    n = 5
    low = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j] * (1 + damping if i == j else 1.0)
            for k in range(j):
                total -= low[i, k] * low[j, k]
            if i == j:
                if not total > 1e-12 * matrix[i, i] or not matrix[i, i] > 0:
                    return False
                low[i, i] = np.sqrt(total)
            else:
                low[i, j] = total / low[j, j]
    for i in range(n):
        total = vector[i]
        for k in range(i):
            total -= low[i, k] * step[k]
        step[i] = total / low[i, i]
    for i in range(n - 1, -1, -1):
        total = step[i]
        for k in range(i + 1, n):
            total -= low[k, i] * step[k]
        step[i] = total / low[i, i]
    return True


@njit(
    "f8(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f8, b1[:, ::1], f4[:, :, ::1], i8, f8[::1], f8, f8, f8, f8, i8, f8,"
    " f8[:, ::1], f8[::1])",
    cache=True,
    nogil=True,
)
def _converge(
    diff: np.ndarray,
    variance: np.ndarray,
    score: np.ndarray,
    scorr: np.ndarray,
    scale: float,
    blocked: np.ndarray,
    tables: np.ndarray,
    over: int,
    p: np.ndarray,
    sky: float,
    reach: float,
    least: float,
    most: float,
    iterations: int,
    point: float,
    matrix: np.ndarray,
    vector: np.ndarray,
) -> float:
    """Levenberg-Marquardt from p, which is moved; `matrix`, `vector` are those of its end. The drop of chi-square, or -1.

    Gives up at once (-1) where a line of the first length, or of 0.6 and 1.5 times that, does no better than `point`.
    """
    step, q = np.empty(5), np.empty(5)
    trial_matrix, trial_vector = np.empty((5, 5)), np.empty(8)
    gain, first = -1.0, p[3]
    for factor in (1.0, 0.6, 1.5):
        q[:] = p
        q[3], q[4] = min(max(first * factor, least), most), 1.0
        _normal_equations(
            diff, variance, score, scorr, scale, blocked, tables, over, q, sky, reach, trial_matrix, trial_vector
        )
        if trial_matrix[4, 4] > 0:
            q[4] = 1.0 + trial_vector[4] / trial_matrix[4, 4]
            value = _normal_equations(
                diff, variance, score, scorr, scale, blocked, tables, over, q, sky, reach, trial_matrix, trial_vector
            )
            if value > gain and q[4] > 0:
                gain = value
                p[3:], matrix[:], vector[:] = q[3:], trial_matrix, trial_vector
    if not gain > point:
        return -1.0
    damping = 1e-2
    for _ in range(iterations):
        if not _damped_step(matrix, vector, damping, step):
            break
        reduce = max(abs(step[0]) / 3.0, abs(step[1]) / 3.0, abs(step[2]) * p[3] / 4.0)
        reduce = max(reduce, abs(step[3]) / (2.0 + 0.4 * p[3]), 1.0)
        for k in range(5):
            q[k] = p[k] + step[k] / reduce
        q[3] = min(max(q[3], least), most)
        value = _normal_equations(
            diff, variance, score, scorr, scale, blocked, tables, over, q, sky, reach, trial_matrix, trial_vector
        )
        rise = value - gain
        if rise > 0:
            gain = value
            p[:], matrix[:], vector[:] = q, trial_matrix, trial_vector
            damping *= 0.2
            if rise < 0.01 and reduce == 1.0:
                break
        else:
            damping = damping * 8.0
            if damping > 1e4:
                break
    return gain


@njit(
    "b1(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f8, b1[:, ::1], f4[:, :, ::1], i8, f8[::1], f8, f8, f8)",
    cache=True,
    nogil=True,
)
def _best_interval(
    diff: np.ndarray,
    variance: np.ndarray,
    score: np.ndarray,
    scorr: np.ndarray,
    scale: float,
    blocked: np.ndarray,
    tables: np.ndarray,
    over: int,
    p: np.ndarray,
    sky: float,
    reach: float,
    most: float,
) -> bool:
    """Move centre and length of p to the part of its line, of at most `most` pixels, that stands out best from the noise.

    The image is projected on the profile across the line in steps of a pixel along it; of all intervals the one with the
    largest (sum of products)^2 / (sum of norms) is taken. Whether one was found that differs.
    """
    ny, nx = diff.shape
    half, rows = tables.shape[1] // 2, tables.shape[1]
    c, s = np.cos(p[2]), np.sin(p[2])
    extent = min(1.5 * p[3] + 15.0, 0.5 * p[3] + most)
    n = 2 * int(extent) + 1
    product, norm = np.zeros(n + 1), np.zeros(n + 1)
    wide, high = extent * abs(c) + reach * abs(s), extent * abs(s) + reach * abs(c)
    for j in range(max(0, int(np.ceil(p[1] - high))), min(ny - 1, int(p[1] + high)) + 1):
        for i in range(max(0, int(np.ceil(p[0] - wide))), min(nx - 1, int(p[0] + wide)) + 1):
            t, u = (i - p[0]) * c + (j - p[1]) * s, (j - p[1]) * c - (i - p[0]) * s
            k = int(np.floor(t + 0.5)) + n // 2
            if abs(u) > 3.0 or k < 0 or k >= n:
                continue
            w = _weight(variance[j, i], score[j, i], scorr[j, i], scale)
            if blocked[j, i] or not w > 0:
                continue
            m = _lookup(tables[1], rows - 1.0, u * over + half)
            product[k + 1] += w * m * (diff[j, i] - sky)
            norm[k + 1] += w * m * m
    for k in range(n):
        product[k + 1] += product[k]
        norm[k + 1] += norm[k]
    best, first, last = 0.0, 0, 0
    for a in range(n):
        for b in range(a + 3, min(n, a + int(most)) + 1):
            total = product[b] - product[a]
            weight = norm[b] - norm[a]
            if total > 0 and total * total > best * weight:
                best, first, last = total * total / weight, a, b
    if last == 0:
        return False
    middle, length = 0.5 * (first + last - 1) - n // 2, float(last - first)
    differs = abs(middle) > 2.0 or abs(length - p[3]) > 3.0
    p[0] += middle * c
    p[1] += middle * s
    p[3] = length
    return differs


@njit("void(f8[:, ::1], f8[::1])", cache=True, nogil=True)
def _covariance(matrix: np.ndarray, lower: np.ndarray) -> None:
    """The 15 lower elements, row by row, of the inverse of five normal equations; unchanged where singular."""
    inverse, unit, step = np.empty((5, 5)), np.empty(5), np.empty(5)
    for k in range(5):
        unit[:] = 0.0
        unit[k] = 1.0
        if not _damped_step(matrix, unit, 0.0, step):
            return
        inverse[k] = step
    n = 0
    for i in range(5):
        for j in range(i + 1):
            lower[n] = inverse[i, j]
            n += 1


@njit(
    "void(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f8, b1[:, ::1], f4[:, ::1], i8, f8[::1], f8, f8, f8, f8, i8, f8, f8,"
    " f8[::1])",
    cache=True,
    nogil=True,
)
def fit_streak(
    diff: np.ndarray,
    variance: np.ndarray,
    score: np.ndarray,
    scorr: np.ndarray,
    scale: float,
    blocked: np.ndarray,
    fine: np.ndarray,
    over: int,
    start: np.ndarray,
    sky: float,
    reach: float,
    least: float,
    most: float,
    iterations: int,
    point: float,
    worth: float,
    out: np.ndarray,
) -> None:
    """Fit a trailed PSF: centre, direction, length and flux (Levenberg-Marquardt, from two starting lengths).

    Parameters
    ----------
    diff : (ny, nx) float32, DN
        Difference image, whose noise is white.
    variance : (ny, nx) float32, DN^2
        Photon and read noise of its pixels.
    score, scorr : (ny, nx) float32, DN, sigmas
        Matched-filtered difference and its significance: their ratio is the error of a point source there, with what
        registration and PSF errors add to it near stars.
    scale : float
        Noise of a pixel over that of a point source's flux on blank sky.
    blocked : (ny, nx) bool
    fine : (m, m) float32
        Oversampled PSF, `over` samples per pixel.
    start : (4,) float64
        x, y (0-based pixels), direction (rad, from +x to +y), length (pixels).
    sky : float, DN
    reach : float
        Pixels to this distance from the streak are fitted, pixels.
    least, most : float
        Range of the length, pixels.
    iterations : int
    point : float
        Drop of chi-square that a line at the start must exceed to be fitted: about that of a point source there.
    worth : float
        Drop of chi-square from which on the fit is tried again on the best part of its line.
    out : (FIT_COLUMNS,) float64
        Written: x, y, direction, length, flux DN; drop of chi-square; pixels; blocked pixels on the streak; chi-square;
        the 15 lower elements of the parameters' covariance row by row (NaN where singular). All NaN without a fit.
    """
    tables = np.empty((3, fine.shape[0], fine.shape[1]), np.float32)
    turned_psf(fine, over, start[2], tables)
    matrix, vector, p = np.empty((5, 5)), np.empty(8), np.empty(5)
    out[:] = np.nan
    p[:4], p[4] = start, 1.0
    gain = _converge(
        diff,
        variance,
        score,
        scorr,
        scale,
        blocked,
        tables,
        over,
        p,
        sky,
        reach,
        least,
        most,
        iterations,
        point,
        matrix,
        vector,
    )
    if not gain > 0:
        return
    if gain > worth:
        q, other_matrix, other_vector = p.copy(), np.empty((5, 5)), np.empty(8)
        if _best_interval(diff, variance, score, scorr, scale, blocked, tables, over, q, sky, reach, most):
            other = _converge(
                diff, variance, score, scorr, scale, blocked, tables, over, q, sky, reach, least, most, iterations, 0.8 * gain,
                other_matrix, other_vector,
            )  # fmt: skip
            if other > gain:
                gain = other
                p[:], matrix[:], vector[:] = q, other_matrix, other_vector
    out[:5], out[5], out[6], out[7], out[8] = p, gain, vector[5], vector[6], vector[7]
    _covariance(matrix, out[9:])


@njit(
    "UniTuple(f8, 2)(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f8, b1[:, ::1], f4[:, :, ::1], i8, f8[::1], f8, f8, f8, f8, f8)",
    cache=True,
    nogil=True,
)
def _piece(
    diff: np.ndarray,
    variance: np.ndarray,
    score: np.ndarray,
    scorr: np.ndarray,
    scale: float,
    blocked: np.ndarray,
    tables: np.ndarray,
    over: int,
    p: np.ndarray,
    sky: float,
    reach: float,
    t0: float,
    t1: float,
    aside: float,
) -> tuple[float, float]:
    """Projection of what the fitted streak leaves of the image on a piece of line; and the error of that.

    The piece lies from t0 to t1 along and `aside` across the streak, with the streak's own light per pixel as its unit: a
    projection of 1 means as bright as the streak, or, on the streak, twice as bright as the rest of it.
    """
    ny, nx = diff.shape
    half = tables.shape[1] // 2
    x0, y0, angle, length, flux = p[0], p[1], p[2], p[3], p[4]
    c, s, h = np.cos(angle), np.sin(angle), 0.5 * length
    xm, ym = x0 + 0.5 * (t0 + t1) * c - aside * s, y0 + 0.5 * (t0 + t1) * s + aside * c
    span = 0.5 * (t1 - t0) + reach
    wide, high = span * abs(c) + reach * abs(s), span * abs(s) + reach * abs(c)
    product = norm = 0.0
    unit = flux / length
    for j in range(max(0, int(np.ceil(ym - high))), min(ny - 1, int(ym + high)) + 1):
        for i in range(max(0, int(np.ceil(xm - wide))), min(nx - 1, int(xm + wide)) + 1):
            w = _weight(variance[j, i], score[j, i], scorr[j, i], scale)
            if blocked[j, i] or not w > 0:
                continue
            dx, dy = i - x0, j - y0
            t, u = dx * c + dy * s, dy * c - dx * s
            if abs(u - aside) > reach or t < t0 - reach or t > t1 + reach:
                continue
            a = (u - aside) * over + half
            m = unit * (_lookup(tables[1], (t - t0) * over + half, a) - _lookup(tables[1], (t - t1) * over + half, a))
            a = u * over + half
            light = _lookup(tables[1], (t + h) * over + half, a) - _lookup(tables[1], (t - h) * over + half, a)
            value = diff[j, i] - sky - unit * light
            product += w * m * value
            norm += w * m * m
    if not norm > 0:
        return 0.0, np.inf
    return product / norm, 1.0 / np.sqrt(norm)


@njit(
    "void(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f8, b1[:, ::1], f4[:, ::1], i8, f8[::1], f8, f8, f8[:, ::1], f8[:, ::1])",
    cache=True,
    nogil=True,
)
def inspect_streak(
    diff: np.ndarray,
    variance: np.ndarray,
    score: np.ndarray,
    scorr: np.ndarray,
    scale: float,
    blocked: np.ndarray,
    fine: np.ndarray,
    over: int,
    p: np.ndarray,
    sky: float,
    reach: float,
    pieces: np.ndarray,
    around: np.ndarray,
) -> None:
    """Look at a fitted streak piece by piece, and at the lines around it.

    Parameters
    ----------
    diff, variance, score, scorr, scale, blocked, fine, over, sky, reach
        As of `fit_streak`.
    p : (5,) float64
        x, y, direction, length, flux.
    pieces : (n, 2) float64
        Written: brightness of n equal pieces beyond that of the streak, and its error (infinite without pixels).
    around : (6, 2) float64
        Written, in the same unit: before and after the streak (half its length, at least 8 pixels, beyond 3 pixels from its
        end); 4 and 7 pixels to its right and left.
    """
    tables = np.empty((3, fine.shape[0], fine.shape[1]), np.float32)
    turned_psf(fine, over, p[2], tables)
    h = 0.5 * p[3]
    n = pieces.shape[0]
    for k in range(n):
        t0 = -h + p[3] * k / n
        pieces[k] = _piece(
            diff, variance, score, scorr, scale, blocked, tables, over, p, sky, reach, t0, t0 + p[3] / n, 0.0
        )
    more = max(h, 8.0)
    around[0] = _piece(
        diff, variance, score, scorr, scale, blocked, tables, over, p, sky, reach, -h - 3.0 - more, -h - 3.0, 0.0
    )
    around[1] = _piece(
        diff, variance, score, scorr, scale, blocked, tables, over, p, sky, reach, h + 3.0, h + 3.0 + more, 0.0
    )
    asides = (-4.0, 4.0, -7.0, 7.0)
    for k in range(4):
        around[2 + k] = _piece(
            diff, variance, score, scorr, scale, blocked, tables, over, p, sky, reach, -h, h, asides[k]
        )


@njit(
    "UniTuple(f8, 2)(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f8, b1[:, ::1], f4[:, ::1], i8, f8[::1], f8, f8)",
    cache=True,
    nogil=True,
)
def broadening(
    diff: np.ndarray,
    variance: np.ndarray,
    score: np.ndarray,
    scorr: np.ndarray,
    scale: float,
    blocked: np.ndarray,
    fine: np.ndarray,
    over: int,
    p: np.ndarray,
    sky: float,
    reach: float,
) -> tuple[float, float]:
    """Squared Gaussian width, px^2, to be added across the streak to fit it best, and its error; negative: narrower.

    M + d f dM/df + d v (1/2) d2M/du2 to first order, flux and width together.
    """
    ny, nx = diff.shape
    tables = np.empty((3, fine.shape[0], fine.shape[1]), np.float32)
    turned_psf(fine, over, p[2], tables)
    half = tables.shape[1] // 2
    c, s, h = np.cos(p[2]), np.sin(p[2]), 0.5 * p[3]
    wide, high = (h + reach) * abs(c) + reach * abs(s), (h + reach) * abs(s) + reach * abs(c)
    ff = fv = vv = rf = rv = 0.0
    for j in range(max(0, int(np.ceil(p[1] - high))), min(ny - 1, int(p[1] + high)) + 1):
        for i in range(max(0, int(np.ceil(p[0] - wide))), min(nx - 1, int(p[0] + wide)) + 1):
            w = _weight(variance[j, i], score[j, i], scorr[j, i], scale)
            if blocked[j, i] or not w > 0:
                continue
            t, u = (i - p[0]) * c + (j - p[1]) * s, (j - p[1]) * c - (i - p[0]) * s
            if abs(u) > reach or abs(t) > h + reach:
                continue
            b0, b1, a = (t - h) * over + half, (t + h) * over + half, u * over + half
            m = p[4] / p[3] * (_lookup(tables[1], b1, a) - _lookup(tables[1], b0, a))
            high_a, low_a = a + 0.5 * over, a - 0.5 * over
            bend = _lookup(tables[2], b1, high_a) - _lookup(tables[2], b1, low_a)
            bend -= _lookup(tables[2], b0, high_a) - _lookup(tables[2], b0, low_a)
            v = 0.5 * p[4] / p[3] * bend
            r = diff[j, i] - sky - m
            ff += w * m * m
            fv += w * m * v
            vv += w * v * v
            rf += w * m * r
            rv += w * v * r
    determinant = ff * vv - fv * fv
    if not determinant > 0:
        return 0.0, np.inf
    return (ff * rv - fv * rf) / determinant, np.sqrt(ff / determinant)
