"""Kernels that find and measure the candidates of a difference image: peaks, PSF fits, apertures, stamp metrics."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit("f8(f8, f8, f8)", cache=True, nogil=True)
def _log_rise(before: float, top: float, after: float) -> float:
    """ln of (maximum of the Gaussian through three equidistant samples / the middle one, the largest); at most 0.2.

    Samples below a tenth of the middle one, as noise makes them, and missing ones count as that.
    """
    a = np.log(before / top) if before > 0.1 * top else np.log(0.1)
    b = np.log(after / top) if after > 0.1 * top else np.log(0.1)
    curvature = -(a + b)
    return min((b - a) * (b - a) / (8 * curvature), 0.2) if curvature > 1e-6 else 0.0


@njit("i8(f4[:, ::1], b1[:, ::1], f4, f4, i8, f8[:, ::1], i8[:, :, ::1])", cache=True, nogil=True)
def find_peaks(
    score: np.ndarray,
    blocked: np.ndarray,
    threshold: float,
    low: float,
    border: int,
    peaks: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Local extrema of both signs of a score image, with their heights between the pixels.

    A source between pixels loses up to 15 % of its score at 2 px FWHM. The height of an extremum is therefore that of the
    product of two Gaussians, one through the three samples of each axis: the score of a point source is close to one.

    Parameters
    ----------
    score : (ny, nx) float32
        NaN is never a peak.
    blocked : (ny, nx) bool
        Pixels that cannot be a peak.
    threshold, low : float
        Extrema with |height| >= threshold are listed, those whose highest pixel has |score| >= low counted.
    border : int
        Pixels left out along each edge, at least 1.
    peaks : (n, 3) float64
        Written: row, column (of the highest pixel), height of the first n extrema.
    counts : (rows, columns, 2) int64
        Written: positive, negative extrema with |score| >= low, in each of the cells that the image is divided into.

    Returns
    -------
    int
        How many extrema reach the threshold (may exceed n).
    """
    ny, nx = score.shape
    counts[:] = 0
    found = 0
    least = min(low, np.float32(0.65) * threshold)  # exp(0.4) is the most that a height rises above its pixel
    for j in range(border, ny - border):
        for i in range(border, nx - border):
            value = score[j, i]
            size = abs(value)
            if not size >= least or blocked[j, i]:
                continue
            sign = np.float32(1) if value > 0 else np.float32(-1)
            top = True
            for b in range(-1, 2):
                for a in range(-1, 2):
                    other = sign * score[j + b, i + a]
                    # of two equal neighbours the later one wins, so that a plateau gives one peak
                    if other > size or (other == size and (b > 0 or (b == 0 and a > 0))):
                        top = False
            if not top:
                continue
            if size >= low:
                counts[j * counts.shape[0] // ny, i * counts.shape[1] // nx, 0 if value > 0 else 1] += 1
            rise = _log_rise(sign * score[j, i - 1], size, sign * score[j, i + 1])
            rise += _log_rise(sign * score[j - 1, i], size, sign * score[j + 1, i])
            height = size * np.exp(rise)
            if height >= threshold:
                if found < peaks.shape[0]:
                    peaks[found, 0], peaks[found, 1], peaks[found, 2] = j, i, sign * height
                found += 1
    return found


@njit("UniTuple(f8, 2)(f8)", cache=True, nogil=True, inline="always")
def _cubic_pair(t: float) -> tuple[float, float]:
    """Catmull-Rom weights of the two outer points left and right of the interval for fraction t."""
    return 0.5 * (-t + 2 * t * t - t * t * t), 0.5 * (-t * t + t * t * t)


@njit("f8(f4[:, ::1], f8, f8)", cache=True, nogil=True)
def _cubic(table: np.ndarray, y: float, x: float) -> float:
    """Catmull-Rom value of a table at (y, x); 0 outside."""
    ny, nx = table.shape
    iy, ix = int(np.floor(y)), int(np.floor(x))
    if iy < 1 or ix < 1 or iy > ny - 3 or ix > nx - 3:
        return 0.0
    ty, tx = y - iy, x - ix
    ax, dx = _cubic_pair(tx)
    ay, dy = _cubic_pair(ty)
    bx = 1 - 2.5 * tx * tx + 1.5 * tx**3
    by = 1 - 2.5 * ty * ty + 1.5 * ty**3
    wx = (ax, bx, 1 - ax - bx - dx, dx)
    wy = (ay, by, 1 - ay - by - dy, dy)
    total = 0.0
    for b in range(4):
        part = 0.0
        for a in range(4):
            part += wx[a] * table[iy - 1 + b, ix - 1 + a]
        total += wy[b] * part
    return total


@njit(
    "UniTuple(f8, 8)(f4[:, ::1], f4[:, ::1], f4[:, ::1], i8, f8, f8, f8, i8, f8, f8)",
    cache=True,
    nogil=True,
)
def _fit_sums(
    diff: np.ndarray,
    variance: np.ndarray,
    psf: np.ndarray,
    over: int,
    y: float,
    x: float,
    sky: float,
    half: int,
    before: float,
    per_dn: float,
) -> tuple[float, float, float, float, float, float, float, float]:
    """Flux, its variance, gradient and curvature in x and y, chi-square and pixels of a PSF placed at (y, x).

    The photon noise of the source itself is that of the model of flux `before`, not of its noisy pixels: weights that are small
    where the noise happens to be positive would make every flux too small. `variance` is that without the change of the source.
    """
    ny, nx = diff.shape
    centre = psf.shape[0] // 2
    cy, cx = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    size = 2 * half + 1
    model, mx, my = np.empty((size, size)), np.empty((size, size)), np.empty((size, size))
    noise = np.zeros((size, size))
    top = bottom = 0.0
    step = 0.5
    for b in range(size):
        for a in range(size):
            j, i = cy - half + b, cx - half + a
            if j < 0 or i < 0 or j >= ny or i >= nx:
                continue
            v, u = centre + (j - y) * over, centre + (i - x) * over
            model[b, a] = _cubic(psf, v, u)
            mx[b, a] = (_cubic(psf, v, u - step) - _cubic(psf, v, u + step)) * over / (2 * step)
            my[b, a] = (_cubic(psf, v - step, u) - _cubic(psf, v + step, u)) * over / (2 * step)
            d, w = diff[j, i], variance[j, i]
            if d == d and w > 0:
                w = max(w + per_dn * before * model[b, a], 0.2 * w)
                noise[b, a] = w
                top += model[b, a] * (d - sky) / w
                bottom += model[b, a] ** 2 / w
    if bottom <= 0:
        return np.nan, np.nan, 0.0, 0.0, 1.0, 1.0, np.nan, 0.0
    flux = top / bottom
    gx = gy = hx = hy = chi = n = 0.0
    for b in range(size):
        for a in range(size):
            j, i = cy - half + b, cx - half + a
            if j < 0 or i < 0 or j >= ny or i >= nx:
                continue
            w = noise[b, a]
            if w > 0:
                r = diff[j, i] - sky - flux * model[b, a]
                gx += r * flux * mx[b, a] / w
                gy += r * flux * my[b, a] / w
                hx += (flux * mx[b, a]) ** 2 / w
                hy += (flux * my[b, a]) ** 2 / w
                chi += r * r / w
                n += 1
    return flux, 1 / bottom, gx, gy, max(hx, 1e-30), max(hy, 1e-30), chi, n


@njit(
    "void(f4[:, ::1], f4[:, ::1], f8[::1], f8[::1], f8[::1], f4[:, :, ::1], i8[::1], i8, i8, i8, f8, f8, f8[:, ::1])",
    cache=True,
    nogil=True,
)
def fit_psf(
    diff: np.ndarray,
    variance: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    skies: np.ndarray,
    psfs: np.ndarray,
    which: np.ndarray,
    over: int,
    half: int,
    iterations: int,
    reach: float,
    per_dn: float,
    out: np.ndarray,
) -> None:
    """Variance-weighted PSF fits of flux and position (Gauss-Newton; iterations = 0: forced at the given position).

    Parameters
    ----------
    diff, variance : (ny, nx) float32, DN, DN^2
        Difference image (NaN is left out) and its pixel variances.
    ys, xs : (n,) float64
        Starting positions, 0-based pixels.
    skies : (n,) float64, DN
        Local sky, subtracted.
    psfs : (k, m, m) float32
        Oversampled PSFs in DN per pixel for unit flux, centred on element m // 2.
    which : (n,) int64
        Which PSF belongs to the candidate.
    over : int
        Oversampling of the PSFs.
    half : int
        Half size of the fitted box, pixels.
    iterations : int
    reach : float
        A fit that moves further than this (pixels) falls back to the starting position.
    per_dn : float
        Variance, DN^2, that a DN of the source's light adds (1 / gain) to `variance`.
    out : (n, 6) float64
        Written: flux DN, its 1-sigma DN, y, x, reduced chi-square, pixels used.
    """
    for s in range(ys.size):
        y, x, psf, sky = ys[s], xs[s], psfs[which[s]], skies[s]
        flux, _, _, _, _, _, _, _ = _fit_sums(diff, variance, psf, over, y, x, sky, half, 0.0, per_dn)
        for _ in range(iterations):
            flux, _, gx, gy, hx, hy, _, _ = _fit_sums(diff, variance, psf, over, y, x, sky, half, flux, per_dn)
            mx, my = min(max(gx / hx, -0.5), 0.5), min(max(gy / hy, -0.5), 0.5)
            x, y = x + mx, y + my
            if not (abs(x - xs[s]) <= reach and abs(y - ys[s]) <= reach):
                y, x = ys[s], xs[s]
                break
            if abs(mx) + abs(my) < 1e-3:
                break
        flux, var, _, _, _, _, chi, n = _fit_sums(diff, variance, psf, over, y, x, sky, half, flux, per_dn)
        out[s, 0], out[s, 1] = flux, np.sqrt(var)
        out[s, 2], out[s, 3] = y, x
        out[s, 4], out[s, 5] = chi / max(n - 3.0, 1.0), n


@njit(
    "void(f4[:, ::1], f4[:, ::1], i8[::1], i8[::1], f8[:, ::1], f8[::1], f4[:, :, ::1], f4[:, :, ::1], i8[::1], i8, i8,"
    " f8[:, ::1])",
    cache=True,
    nogil=True,
)
def compare_with_spike(
    diff: np.ndarray,
    variance: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    centres: np.ndarray,
    skies: np.ndarray,
    psfs: np.ndarray,
    spikes: np.ndarray,
    which: np.ndarray,
    over: int,
    half: int,
    out: np.ndarray,
) -> None:
    """Chi-squares of a point source and of light in a single pixel of the science image, on the same pixels.

    Parameters
    ----------
    diff, variance : (ny, nx) float32, DN, DN^2
    ys, xs : (n,) int64
        Peaks: the box is centred on them, and the single pixel is one of the nine around them.
    centres : (n, 2) float64
        Fitted y, x of the point source.
    skies : (n,) float64, DN
    psfs : (k, m, m) float32
        Oversampled PSFs of the difference.
    spikes : (k, s, s) float32
        What one DN in the central pixel of the science image makes in the difference; s at least 2 half + 3.
    which : (n,) int64
    over, half : int
    out : (n, 2) float64
        Written: chi-square of the point source, of the best single pixel.
    """
    ny, nx = diff.shape
    middle, centre = spikes.shape[1] // 2, psfs.shape[1] // 2
    for s in range(ys.size):
        psf, spike = psfs[which[s]], spikes[which[s]]
        best = np.inf
        for option in range(10):
            top = bottom = power = 0.0
            for j in range(max(ys[s] - half, 0), min(ys[s] + half + 1, ny)):
                for i in range(max(xs[s] - half, 0), min(xs[s] + half + 1, nx)):
                    d, w = diff[j, i], variance[j, i]
                    if not (d == d and w > 0):
                        continue
                    if option == 9:
                        m = _cubic(psf, centre + (j - centres[s, 0]) * over, centre + (i - centres[s, 1]) * over)
                    else:
                        m = spike[middle + j - ys[s] + 1 - option // 3, middle + i - xs[s] + 1 - option % 3]
                    v = d - skies[s]
                    top += m * v / w
                    bottom += m * m / w
                    power += v * v / w
            chi = power - (top * top / bottom if bottom > 0 else 0.0)
            if option == 9:
                out[s, 0] = chi
            else:
                best = min(best, chi)
        out[s, 1] = best


@njit("f8(f8, f8, f8, f8)", cache=True, nogil=True)
def _overlap(j: float, i: float, radius: float, reach: float) -> float:
    """Part of the pixel centred at offset (j, i) that lies inside a circle about the origin (10 x 10 sub-pixels)."""
    distance = np.hypot(j, i)
    if distance <= radius - reach:
        return 1.0
    if distance >= radius + reach:
        return 0.0
    inside = 0
    for b in range(10):
        for a in range(10):
            v, u = j - 0.45 + 0.1 * b, i - 0.45 + 0.1 * a
            if v * v + u * u <= radius * radius:
                inside += 1
    return 0.01 * inside


@njit("void(f4[:, ::1], f4[:, ::1], f8[::1], f8[::1], f8[::1], f8, f8[:, ::1])", cache=True, nogil=True)
def aperture_sums(
    diff: np.ndarray,
    variance: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    skies: np.ndarray,
    radius: float,
    out: np.ndarray,
) -> None:
    """Sky-subtracted sums in circular apertures; pixels without data count as sky.

    Parameters
    ----------
    diff, variance : (ny, nx) float32, DN, DN^2
    ys, xs : (n,) float64
        Centres, 0-based pixels.
    skies : (n,) float64, DN per pixel
    radius : float, pixels
    out : (n, 3) float64
        Written: sum DN, its variance DN^2, area with data px^2.
    """
    ny, nx = diff.shape
    span = int(np.ceil(radius)) + 1
    for s in range(ys.size):
        cy, cx = int(np.floor(ys[s] + 0.5)), int(np.floor(xs[s] + 0.5))
        total = noise = area = 0.0
        for j in range(max(0, cy - span), min(ny, cy + span + 1)):
            for i in range(max(0, cx - span), min(nx, cx + span + 1)):
                f = _overlap(j - ys[s], i - xs[s], radius, 0.75)
                d = diff[j, i]
                if f > 0 and d == d:
                    total += f * (d - skies[s])
                    noise += f * variance[j, i]
                    area += f
        out[s, 0], out[s, 1], out[s, 2] = total, noise, area


@njit("void(f4[:, ::1], f8[::1], f8[::1], f8, f8, f8[:, ::1])", cache=True, nogil=True)
def local_sky(diff: np.ndarray, ys: np.ndarray, xs: np.ndarray, inner: float, outer: float, out: np.ndarray) -> None:
    """Median and its standard error in an annulus around each position.

    Parameters
    ----------
    diff : (ny, nx) float32, DN
        NaN is left out.
    ys, xs : (n,) float64
    inner, outer : float, pixels
    out : (n, 2) float64, DN
        Written: median; 1.25 x (half the 16-84 percentile range) / sqrt(pixels); 0, NaN where fewer than 20 pixels.
    """
    ny, nx = diff.shape
    span = int(outer) + 1
    values = np.empty((2 * span + 1) ** 2, np.float32)
    for s in range(ys.size):
        cy, cx = int(np.floor(ys[s] + 0.5)), int(np.floor(xs[s] + 0.5))
        n = 0
        for j in range(max(0, cy - span), min(ny, cy + span + 1)):
            for i in range(max(0, cx - span), min(nx, cx + span + 1)):
                r = np.hypot(j - ys[s], i - xs[s])
                if inner <= r <= outer and diff[j, i] == diff[j, i]:
                    values[n] = diff[j, i]
                    n += 1
        if n < 20:
            out[s, 0], out[s, 1] = 0.0, np.nan
            continue
        part = np.sort(values[:n])
        out[s, 0] = 0.5 * (part[(n - 1) // 2] + part[n // 2])
        out[s, 1] = 1.25 * 0.5 * (part[int(0.84 * n)] - part[int(0.16 * n)]) / np.sqrt(n)


@njit("void(f4[:, ::1], b1[:, ::1], i8[::1], i8[::1], f8[::1], f8[:, ::1])", cache=True, nogil=True)
def stamp_counts(
    diff: np.ndarray, bad: np.ndarray, ys: np.ndarray, xs: np.ndarray, signs: np.ndarray, out: np.ndarray
) -> None:
    """Negative pixels, bad pixels and the sum ratio of the 5 x 5 stamp on each candidate.

    The sum ratio is sum(p) / sum(|p|) of the stamp after a 3 x 3 median filter with repeated edges: noise alone gives
    |ratio| below 0.25, a real source tends to 1.

    Parameters
    ----------
    diff : (ny, nx) float32, DN
        NaN counts as neither negative nor light.
    bad : (ny, nx) bool
    ys, xs : (n,) int64
        Central pixels.
    signs : (n,) float64
        +1 or -1: the sign that the candidate has in `diff`.
    out : (n, 3) float64
        Written: number negative, number bad (pixels off the image are bad), sum ratio.
    """
    ny, nx = diff.shape
    stamp = np.zeros((5, 5))
    window = np.empty(9)
    for s in range(ys.size):
        negative = flagged = 0
        for b in range(5):
            for a in range(5):
                j, i = ys[s] - 2 + b, xs[s] - 2 + a
                stamp[b, a] = 0.0
                if j < 0 or i < 0 or j >= ny or i >= nx:
                    flagged += 1
                    continue
                flagged += bad[j, i]
                value = signs[s] * diff[j, i]
                if value == value:
                    stamp[b, a] = value
                    negative += value < 0
        total = size = 0.0
        for b in range(5):
            for a in range(5):
                for k in range(9):
                    window[k] = stamp[min(max(b - 1 + k // 3, 0), 4), min(max(a - 1 + k % 3, 0), 4)]
                value = np.median(window)
                total += value
                size += abs(value)
        out[s, 0], out[s, 1] = negative, flagged
        out[s, 2] = total / size if size > 0 else 0.0


@njit("f8(f4[:, ::1], f8, f8)", cache=True, nogil=True)
def _bilinear(image: np.ndarray, y: float, x: float) -> float:
    """Bilinear value of an image inside its border; NaN outside."""
    ny, nx = image.shape
    if not (y >= 0 and x >= 0 and y <= ny - 1 and x <= nx - 1):
        return np.nan
    j, i = min(int(y), ny - 2), min(int(x), nx - 2)
    v, u = y - j, x - i
    low = (1 - u) * image[j, i] + u * image[j, i + 1]
    high = (1 - u) * image[j + 1, i] + u * image[j + 1, i + 1]
    return (1 - v) * low + v * high


@njit("f8(f4[:, ::1], f8, f8, f8, f8, f8)", cache=True, nogil=True)
def _half_maximum_width(image: np.ndarray, y: float, x: float, sky: float, sign: float, reach: float) -> float:
    """Diameter of the circle with the area of the connected region above half the peak (5 x oversampled)."""
    over, half = 5, int(np.ceil(5 * reach))
    size = 2 * half + 1
    values = np.empty((size, size))
    best, by, bx = -1e30, half, half
    for b in range(size):
        for a in range(size):
            v, u = (b - half) / over, (a - half) / over
            value = sign * (_bilinear(image, y + v, x + u) - sky)
            values[b, a] = value if value == value else -1e30
            if values[b, a] > best and v * v + u * u <= 1.5 * 1.5:
                best, by, bx = values[b, a], b, a
    if best <= 0:
        return np.nan
    seen = np.zeros((size, size), np.bool_)
    todo = np.empty((size * size, 2), np.int64)
    todo[0, 0], todo[0, 1] = by, bx
    seen[by, bx] = True
    n = area = 1
    while n > 0:
        n -= 1
        b, a = todo[n, 0], todo[n, 1]
        for k in range(4):
            d, c = b + (k == 0) - (k == 1), a + (k == 2) - (k == 3)
            if d < 0 or c < 0 or d >= size or c >= size or seen[d, c] or values[d, c] < 0.5 * best:
                continue
            seen[d, c] = True
            todo[n, 0], todo[n, 1] = d, c
            n += 1
            area += 1
    return 2.0 * np.sqrt(area / np.pi) / over


@njit("UniTuple(f8, 4)(f4[:, ::1], f8, f8, f8, f8, f8, b1)", cache=True, nogil=True)
def _window_moments(
    image: np.ndarray, y: float, x: float, sky: float, sign: float, sigma: float, positive: bool
) -> tuple[float, float, float, float]:
    """Sum and second moments (xx, yy, xy) under a Gaussian window."""
    ny, nx = image.shape
    span = int(np.ceil(3 * sigma))
    cy, cx = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    total = xx = yy = xy = 0.0
    for j in range(max(0, cy - span), min(ny, cy + span + 1)):
        for i in range(max(0, cx - span), min(nx, cx + span + 1)):
            v, u = j - y, i - x
            value = sign * (image[j, i] - sky)
            if value != value or (positive and value < 0) or v * v + u * u > 9 * sigma * sigma:
                continue
            w = value * np.exp(-0.5 * (v * v + u * u) / (sigma * sigma))
            total += w
            xx += w * u * u
            yy += w * v * v
            xy += w * u * v
    if total <= 0:
        return 0.0, 0.0, 0.0, 0.0
    return total, xx / total, yy / total, xy / total


@njit("void(f4[:, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8, f8[:, ::1])", cache=True, nogil=True)
def shapes(
    diff: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    skies: np.ndarray,
    signs: np.ndarray,
    fwhm: float,
    out: np.ndarray,
) -> None:
    """Windowed axes and the width at half maximum of each candidate.

    Moments are taken under a circular Gaussian window of the PSF's width, as SExtractor's AWIN and BWIN; a point
    source of Gaussian sigma then has axes of sigma / sqrt(2). Where noise makes them negative the positive pixels
    alone are used.

    Parameters
    ----------
    diff : (ny, nx) float32, DN
    ys, xs, skies, signs : (n,) float64
        Positions, local sky, sign of the candidate.
    fwhm : float, pixels
        Of the difference image's PSF.
    out : (n, 3) float64, pixels
        Written: major axis, minor axis (RMS), FWHM; NaN where not measurable.
    """
    sigma = fwhm / 2.3548
    for s in range(ys.size):
        out[s, :] = np.nan
        for attempt in range(2):
            total, xx, yy, xy = _window_moments(diff, ys[s], xs[s], skies[s], signs[s], sigma, attempt == 1)
            mean, spread = 0.5 * (xx + yy), np.sqrt(0.25 * (xx - yy) ** 2 + xy * xy)
            if total > 0 and mean - spread > 0.01:
                out[s, 0], out[s, 1] = np.sqrt(mean + spread), np.sqrt(mean - spread)
                break
        out[s, 2] = _half_maximum_width(diff, ys[s], xs[s], skies[s], signs[s], 1.8 * fwhm)
