"""Kernels of the proper image difference: the fused Fourier pass, the corrected score, star stamps."""

from __future__ import annotations

import numpy as np
from numba import njit

TINY = np.float32(1e-20)


@njit(
    "void(c8[:, ::1], c8[:, ::1], c8[:, ::1], c8[:, ::1], f4, f4, f4, f4, c8[:, ::1], c8[:, ::1], c8[:, ::1])",
    cache=True,
    nogil=True,
    fastmath=True,
)
def fourier_pass(
    new: np.ndarray,
    ref: np.ndarray,
    psf_new: np.ndarray,
    psf_ref: np.ndarray,
    var_new: float,
    var_ref: float,
    scale_diff: float,
    scale_score: float,
    diff: np.ndarray,
    score: np.ndarray,
    score_ref: np.ndarray,
) -> None:
    """Difference, score and the reference's part of the score, all transforms, in one pass.

    With images on one flux scale (F_n = F_r = 1) and Q = sn^2 |Pr|^2 + sr^2 |Pn|^2 (Zackay, Ofek & Gal-Yam 2016,
    ApJ 830, 27, eqs 13, 14, 17; conj is the complex conjugate):

        D   = (Pr N - Pn R) / sqrt(Q) / F_D
        S   = conj(Pn) |Pr|^2 / Q N - conj(Pr) |Pn|^2 / Q R,   S_R = the second term

    Parameters
    ----------
    new, ref : (ny, nx // 2 + 1) complex64
        Transforms of the science image N and the reference R.
    psf_new, psf_ref : same shape
        Transforms of their point-spread functions (sum 1).
    var_new, var_ref : float
        Background variances sn^2, sr^2, DN^2.
    scale_diff, scale_score : float
        1 / F_D and 1 / F_S: D in science DN, S in DN of a point source.
    diff, score, score_ref : same shape
        Written.
    """
    for j in range(new.shape[0]):
        for i in range(new.shape[1]):
            pn, pr = psf_new[j, i], psf_ref[j, i]
            n2 = pn.real * pn.real + pn.imag * pn.imag
            r2 = pr.real * pr.real + pr.imag * pr.imag
            q = np.float32(1) / (var_new * r2 + var_ref * n2 + TINY)
            vn, vr = new[j, i], ref[j, i]
            diff[j, i] = (pr * vn - pn * vr) * (np.sqrt(q) * scale_diff)
            part = np.conj(pr) * vr * (n2 * q * scale_score)
            score_ref[j, i] = part
            score[j, i] = np.conj(pn) * vn * (r2 * q * scale_score) - part


@njit("void(f4[:, :], f4, f4[::1], f4[::1], f4[:, ::1])", cache=True, nogil=True, fastmath=True)
def add_separable(image: np.ndarray, level: float, column: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
    """out += image convolved with column x row; `level` beyond the edges.

    Parameters
    ----------
    image : (ny, nx) float32
    level : float
    column, row : (n,) float32
        n odd.
    out : (ny, nx) float32
        Changed in place.
    """
    ny, nx = image.shape
    n = row.size
    r = n // 2
    lines = np.empty((n, nx), np.float32)  # the last n rows after the pass along x, row j in place j % n
    padded = np.empty(nx + 2 * r, np.float32)
    beyond = level * row.sum()
    for j in range(-r, ny + r):
        line = lines[(j + n) % n]
        if j < 0 or j >= ny:
            line[:] = beyond
        else:
            padded[:r] = level
            padded[r : r + nx] = image[j]
            padded[r + nx :] = level
            line[:] = 0
            for k in range(n):
                w = row[n - 1 - k]
                for i in range(nx):
                    line[i] += w * padded[i + k]
        if j >= r:
            target = out[j - r]
            for k in range(n):
                w, source = column[n - 1 - k], lines[(j - 2 * r + k + n) % n]
                for i in range(nx):
                    target[i] += w * source[i]


@njit("void(f4[:, ::1], f4[:, ::1], f4, f4, f4, f4[:, ::1])", cache=True, nogil=True)
def corrected_score(
    score: np.ndarray, score_ref: np.ndarray, var_x: float, var_y: float, var_psf: float, variance: np.ndarray
) -> None:
    """Scorr = S / sqrt(V + V_ast + V_psf), written over the variance V (eqs 25, 30 of Zackay et al. 2016).

    V_ast = var_x (dS_R/dx)^2 + var_y (dS_R/dy)^2 with central differences: what a wrong registration by sqrt(var_x),
    sqrt(var_y) pixels makes of the reference's sources. Only the *relative* registration matters for a difference,
    so the term is applied once, to the reference's part: a new source loses no significance by it.
    V_psf = var_psf S_R^2: what errors of the PSF models and of the flux scale, and the light that undersampling folds
    about, leave of a star. Measured on stars the residual falls off with their distance as S_R itself.

    Parameters
    ----------
    score, score_ref : (ny, nx) float32, DN
    var_x, var_y : float, px^2
    var_psf : float, dimensionless
    variance : (ny, nx) float32, DN^2
        Replaced by Scorr (dimensionless); NaN stays NaN.
    """
    ny, nx = score.shape
    half = np.float32(0.5)
    for j in range(ny):
        up, down = score_ref[max(j - 1, 0)], score_ref[min(j + 1, ny - 1)]
        row = score_ref[j]
        for i in range(nx):
            gx = half * (row[min(i + 1, nx - 1)] - row[max(i - 1, 0)])
            gy = half * (down[i] - up[i])
            v = variance[j, i] + var_x * gx * gx + var_y * gy * gy + var_psf * row[i] * row[i]
            variance[j, i] = score[j, i] / np.sqrt(max(v, TINY)) if v == v else v


@njit(
    "void(f4[:, ::1], f4[:, ::1], u2[:, ::1], u2, f4, f4, f4[:, ::1], b1[:, ::1], f4[:, ::1])", cache=True, nogil=True
)
def start_science(
    pixels: np.ndarray,
    sky: np.ndarray,
    mask: np.ndarray,
    hard: int,
    gain: float,
    read_variance: float,
    new: np.ndarray,
    bad: np.ndarray,
    variance: np.ndarray,
) -> None:
    """Sky-subtracted science image, its bad pixels and its pixel variances max(p, 0) / gain + read variance.

    Parameters
    ----------
    pixels, sky : (ny, nx) float32, DN
    mask : (ny, nx) uint16
    hard : int
        Mask bits that make a pixel bad.
    gain, read_variance : float
        e-/DN, DN^2.
    new : (ny, nx) float32, DN
        Written; 0 at bad pixels.
    bad : (ny, nx) bool
        Written.
    variance : (ny, nx) float32, DN^2
        Written; NaN where the pixel is not a number.
    """
    zero = np.float32(0)
    for j in range(pixels.shape[0]):
        for i in range(pixels.shape[1]):
            p = pixels[j, i]
            v = p - sky[j, i]
            flag = (mask[j, i] & hard) != 0 or not np.isfinite(v)
            bad[j, i] = flag
            new[j, i] = zero if flag else v
            variance[j, i] = (p if p > zero or p != p else zero) / gain + read_variance


@njit("void(f4[:, ::1], u2[:, ::1], u2, b1[:, ::1], b1[:, ::1])", cache=True, nogil=True)
def start_reference(ref: np.ndarray, mask: np.ndarray, hard: int, missing: np.ndarray, bad: np.ndarray) -> None:
    """Pixels of the resampled reference that are missing (not a number, set to 0 here) and those that are bad."""
    for j in range(ref.shape[0]):
        for i in range(ref.shape[1]):
            gone = not np.isfinite(ref[j, i])
            missing[j, i] = gone
            bad[j, i] = gone or (mask[j, i] & hard) != 0
            if gone:
                ref[j, i] = 0


@njit("void(u2[:, ::1], b1[:, ::1], u2, u2)", cache=True, nogil=True)
def flag_pixels(mask: np.ndarray, which: np.ndarray, unless: int, bit: int) -> None:
    """Set a bit in the mask, in place, on the chosen pixels that have none of the bits `unless`."""
    for j in range(mask.shape[0]):
        for i in range(mask.shape[1]):
            if which[j, i] and (mask[j, i] & unless) == 0:
                mask[j, i] |= bit


@njit("void(f4[:, ::1], f4[:, ::1], b1[:, ::1], f4, i8, i8, f4[:, ::1])", cache=True, nogil=True)
def sky_mesh(
    new: np.ndarray, ref: np.ndarray, bad: np.ndarray, gain: float, box: int, stride: int, mesh: np.ndarray
) -> None:
    """Clipped median of new - gain ref in each box: values within 3 robust sigmas of the median, then their median.

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
    bad : (ny, nx) bool
        Pixels left out.
    gain : float
    box, stride : int
        Side of a box, pixels; every `stride`-th pixel per axis is used.
    mesh : (ny / box, nx / box, rounded up) float32, DN
        Written; NaN where fewer than 100 pixels are good.
    """
    ny, nx = new.shape
    values = np.empty((box // stride + 1) ** 2, np.float32)
    for b in range(mesh.shape[0]):
        for a in range(mesh.shape[1]):
            n = 0
            for j in range(b * box, min(ny, (b + 1) * box), stride):
                for i in range(a * box, min(nx, (a + 1) * box), stride):
                    if not bad[j, i]:
                        values[n] = new[j, i] - gain * ref[j, i]
                        n += 1
            if n < 100:
                mesh[b, a] = np.nan
                continue
            part = np.sort(values[:n])
            reach = 1.5 * (part[int(0.841 * n)] - part[int(0.159 * n)])
            first = np.searchsorted(part, part[n // 2] - reach)
            last = max(np.searchsorted(part, part[n // 2] + reach), first + 1)
            mesh[b, a] = np.float32(0.5) * (part[(first + last - 1) // 2] + part[min((first + last) // 2, n - 1)])


@njit("void(f4[::1], f4[::1], b1[::1], b1[::1], f4[::1], f4, b1[::1])", cache=True, nogil=True)
def _match_row(
    new: np.ndarray,
    ref: np.ndarray,
    bad_new: np.ndarray,
    bad_ref: np.ndarray,
    sky: np.ndarray,
    gain: float,
    both: np.ndarray,
) -> None:
    """One row of `match_and_patch`; `sky`, the residual sky, is replaced by the scaled reference with it."""
    zero = np.float32(0)
    for i in range(new.size):
        n, r = new[i], gain * ref[i] + sky[i]
        sky[i] = r
        new[i] = (zero if bad_ref[i] else r) if bad_new[i] else n
        ref[i] = (zero if bad_new[i] else n) if bad_ref[i] else r
        both[i] = bad_new[i] & bad_ref[i]


@njit("void(f4[::1], f4[::1], f4, f4, f4[::1])", cache=True, nogil=True)
def _expected_variance(sky: np.ndarray, light: np.ndarray, per_dn: float, read: float, out: np.ndarray) -> None:
    """Variance of the light to be expected in a row: max(sky + light, 0) per_dn + read."""
    for i in range(out.size):
        out[i] = max(sky[i] + light[i], np.float32(0)) * per_dn + read


@njit(
    "void(f4[:, ::1], f4[:, ::1], b1[:, ::1], b1[:, ::1], f4[:, ::1], i8, f4, b1[:, ::1], f4[:, ::1], f4, f4, f4[:, ::1])",
    cache=True,
    nogil=True,
)
def match_and_patch(
    new: np.ndarray,
    ref: np.ndarray,
    bad_new: np.ndarray,
    bad_ref: np.ndarray,
    mesh: np.ndarray,
    box: int,
    gain: float,
    both: np.ndarray,
    sky: np.ndarray,
    per_dn: float,
    read_variance: float,
    variance: np.ndarray,
) -> None:
    """Bring the reference to the science flux scale and sky, in place, and patch holes of either from the other.

    ref = gain ref + mesh(x, y); a pixel bad in one image takes the other's value; `both` flags the pixels bad in both
    (set to 0 here, to be filled from their rim). Patching from the other image makes a hole vanish in the difference.

    The variance of the science image is that of the light the reference tells to expect, max(sky + ref, 0) per_dn + read
    variance: taken from the noisy pixels themselves it would be small where the noise happens to be negative, and negative
    peaks would be more significant than positive ones.

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
        Background-subtracted; changed in place.
    bad_new, bad_ref : (ny, nx) bool
    mesh : (gy, gx) float32, DN
        Smooth background to add to the scaled reference, at the centres of boxes of `box` pixels.
    box : int
    gain : float
        Science DN per reference DN.
    both : (ny, nx) bool
        Written.
    sky : (ny, nx) float32, DN
        Of the science image.
    per_dn, read_variance : float
        1 / (electrons per DN); DN^2.
    variance : (ny, nx) float32, DN^2
        Written.
    """
    ny, nx = new.shape
    gy, gx = mesh.shape
    row, nodes = np.empty(nx, np.float32), np.empty(gx + 1, np.float32)
    left, part = np.empty(nx, np.int32), np.empty(nx, np.float32)
    for i in range(nx):
        u = min(max((i + 0.5) / box - 0.5, 0.0), gx - 1.0)
        left[i], part[i] = int(u), u - int(u)
    for j in range(ny):
        v = min(max((j + 0.5) / box - 0.5, 0.0), gy - 1.0)
        b = int(v)
        fv = np.float32(v - b)
        for a in range(gx):
            nodes[a] = mesh[b, a] + fv * (mesh[min(b + 1, gy - 1), a] - mesh[b, a])
        nodes[gx] = nodes[gx - 1]
        for i in range(nx):
            low = nodes[left[i]]
            row[i] = low + part[i] * (nodes[left[i] + 1] - low)
        _match_row(new[j], ref[j], bad_new[j], bad_ref[j], row, gain, both[j])
        _expected_variance(sky[j], row, per_dn, read_variance, variance[j])


@njit("b1[::1](b1[:, ::1], b1[:, ::1], i8[::1], i8[::1], i8)", cache=True, nogil=True)
def near_bad(bad_new: np.ndarray, bad_ref: np.ndarray, ys: np.ndarray, xs: np.ndarray, reach: int) -> np.ndarray:
    """Whether a pixel within `reach` (per axis) of each position is bad in either image; (n,) bool."""
    ny, nx = bad_new.shape
    out = np.zeros(ys.size, np.bool_)
    for s in range(ys.size):
        for j in range(max(ys[s] - reach, 0), min(ys[s] + reach + 1, ny)):
            for i in range(max(xs[s] - reach, 0), min(xs[s] + reach + 1, nx)):
                if bad_new[j, i] or bad_ref[j, i]:
                    out[s] = True
    return out


@njit(
    "void(f4[:, ::1], f4[:, ::1], b1[:, ::1], b1[:, ::1], i8[::1], i8[::1], f4[::1], f4[:, :, ::1], f4[:, :, ::1])",
    cache=True,
    nogil=True,
)
def mend(
    new: np.ndarray,
    ref: np.ndarray,
    bad_new: np.ndarray,
    bad_ref: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    fluxes: np.ndarray,
    stamps_new: np.ndarray,
    stamps_ref: np.ndarray,
) -> None:
    """Add to bad pixels, in place, what the stars' models say: the models where both are bad, else their difference.

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
        A pixel bad in one has the other's value, a pixel bad in both 0.
    bad_new, bad_ref : (ny, nx) bool
    ys, xs : (n,) int64
        Central pixels of the stars.
    fluxes : (n,) float32, DN
    stamps_new, stamps_ref : (n, m, m) float32
        PSFs of the two images at the stars, m odd.
    """
    ny, nx = new.shape
    half = stamps_new.shape[1] // 2
    for s in range(ys.size):
        for j in range(max(ys[s] - half, 0), min(ys[s] + half + 1, ny)):
            for i in range(max(xs[s] - half, 0), min(xs[s] + half + 1, nx)):
                hole_n, hole_r = bad_new[j, i], bad_ref[j, i]
                if not (hole_n or hole_r):
                    continue
                n = fluxes[s] * stamps_new[s, j - ys[s] + half, i - xs[s] + half]
                r = fluxes[s] * stamps_ref[s, j - ys[s] + half, i - xs[s] + half]
                if hole_n and hole_r:
                    new[j, i] += n
                    ref[j, i] += r
                elif hole_n:
                    new[j, i] += n - r
                else:
                    ref[j, i] -= n - r


@njit("void(f4[:, ::1], f4[:, ::1], b1[:, ::1], f8[::1], f8[::1], f8[::1], f8[:, :, ::1])", cache=True, nogil=True)
def ring_levels(
    new: np.ndarray,
    ref: np.ndarray,
    bad: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    borders: np.ndarray,
    out: np.ndarray,
) -> None:
    """Median of new - ref in rings around stars, outside the square of 25 x 25 px, and the pixels that it is from.

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
    bad : (ny, nx) bool
        Pixels left out.
    ys, xs : (n,) float64
    borders : (k + 1,) float64
        Radii, pixels, increasing.
    out : (n, k, 2) float64
        Written: median DN (0 without pixels), number of pixels.
    """
    ny, nx = new.shape
    rings = borders.size - 1
    half = int(borders[rings]) + 1
    values = np.empty((rings, 4 * half * half + 4 * half + 1), np.float32)
    for s in range(ys.size):
        count = np.zeros(rings, np.int64)
        cy, cx = int(np.floor(ys[s] + 0.5)), int(np.floor(xs[s] + 0.5))
        for j in range(max(0, cy - half), min(ny, cy + half + 1)):
            for i in range(max(0, cx - half), min(nx, cx + half + 1)):
                if bad[j, i] or (abs(j - cy) <= 12 and abs(i - cx) <= 12):
                    continue
                r = np.hypot(j - ys[s], i - xs[s])
                if r < borders[0] or r >= borders[rings]:
                    continue
                k = 0
                while r >= borders[k + 1]:
                    k += 1
                values[k, count[k]] = new[j, i] - ref[j, i]
                count[k] += 1
        for k in range(rings):
            n = count[k]
            out[s, k, 0] = np.median(values[k, :n]) if n else 0.0
            out[s, k, 1] = n


@njit("void(f4[:, ::1], b1[:, ::1], i8[::1], i8[::1], i8, f8, f8, b1[::1])", cache=True, nogil=True)
def clean_windows(
    peak: np.ndarray,
    bad: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    half: int,
    fraction: float,
    limit: float,
    out: np.ndarray,
) -> None:
    """Whether windows of (2 half + 1)^2 px have at most a fraction of bad pixels, none in the middle 5 x 5, all below a limit.

    Parameters
    ----------
    peak : (ny, nx) float32
        NaN is below any limit.
    bad : (ny, nx) bool
    ys, xs : (n,) int64
        Middles, at least `half` from the edges.
    half : int
    fraction, limit : float
    out : (n,) bool
        Written.
    """
    for s in range(ys.size):
        count, clean = 0, True
        for j in range(ys[s] - half, ys[s] + half + 1):
            for i in range(xs[s] - half, xs[s] + half + 1):
                count += bad[j, i]
                middle = abs(j - ys[s]) <= 2 and abs(i - xs[s]) <= 2
                if (middle and bad[j, i]) or peak[j, i] >= limit:
                    clean = False
        out[s] = clean and count <= fraction * (2 * half + 1) ** 2


@njit("void(f4[::1], f4[::1], f4, i8)", cache=True, nogil=True, fastmath=True)
def _add_scaled(out: np.ndarray, values: np.ndarray, factor: np.float32, count: int) -> None:
    """out += factor values; a loop of its own, which the compiler turns into vector instructions."""
    for t in range(count):
        out[t] += factor * values[t]


@njit("void(f4[:, ::1], i8, i8, f4[:, ::1], i8, f8[:, ::1])", cache=True, nogil=True)
def _convolve_stamp(image: np.ndarray, y: int, x: int, psf: np.ndarray, half: int, out: np.ndarray) -> None:
    """out[b, a] = (image convolved with psf) at (y - half + b, x - half + a), |b|, |a| <= 2 half.

    The window is laid out in one row, so that every pixel of the PSF is one long scaled addition.
    """
    size, side = psf.shape[0], 2 * half + 1
    r = size // 2
    wide = side + 2 * r
    window, total = np.empty(wide * wide, np.float32), np.zeros(side * wide, np.float32)
    for j in range(wide):
        for i in range(wide):
            window[j * wide + i] = image[y - half - r + j, x - half - r + i]
    count = (side - 1) * wide + side
    for k in range(size):
        for m in range(size):
            _add_scaled(total, window[(size - 1 - k) * wide + m :], psf[k, size - 1 - m], count)
    for b in range(side):
        for a in range(side):
            out[b, a] = total[b * wide + a]


@njit("b1(f8[:, ::1], f8[::1], i8)", cache=True, nogil=True)
def _solve(matrix: np.ndarray, vector: np.ndarray, n: int) -> bool:
    """Solve a small symmetric system in place by Gaussian elimination with pivoting; False where it is singular."""
    for k in range(n):
        p = k
        for r in range(k + 1, n):
            if abs(matrix[r, k]) > abs(matrix[p, k]):
                p = r
        if abs(matrix[p, k]) < 1e-30:
            return False
        for c in range(n):
            matrix[k, c], matrix[p, c] = matrix[p, c], matrix[k, c]
        vector[k], vector[p] = vector[p], vector[k]
        for r in range(k + 1, n):
            f = matrix[r, k] / matrix[k, k]
            for c in range(k, n):
                matrix[r, c] -= f * matrix[k, c]
            vector[r] -= f * vector[k]
    for k in range(n - 1, -1, -1):
        for c in range(k + 1, n):
            vector[k] -= matrix[k, c] * vector[c]
        vector[k] /= matrix[k, k]
    return True


@njit("f8(f8[:, ::1], f4[:, ::1], i8, i8, f4[:, ::1])", cache=True, nogil=True)
def _weighted_noise(weights: np.ndarray, variance: np.ndarray, y: int, x: int, psf: np.ndarray) -> float:
    """Variance of sum_j w(j) (noise convolved with psf)(j) for white noise: sum_p variance(p) (sum_j w(j) psf(j - p))^2.

    Pixels farther than 2 px outside the window of the weights are left out: the weights vanish towards its rim.
    """
    n, size = weights.shape[0], psf.shape[0]
    r, side = size // 2, n + 4
    pad = max(n + 1 - r, 0)  # zeros around the PSF, so that every weight sees all pixels
    wide = size + 2 * pad
    turned, part = np.zeros(wide * wide, np.float32), np.zeros(side * wide, np.float32)
    for j in range(size):
        for i in range(size):
            turned[(pad + size - 1 - j) * wide + pad + size - 1 - i] = psf[j, i]
    count = (side - 1) * wide + side
    for j in range(n):
        for i in range(n):
            first = (pad + r - 2 - j) * wide + pad + r - 2 - i
            _add_scaled(part, turned[first:], np.float32(weights[j, i]), count)
    total = 0.0
    for b in range(side):
        row = variance[y - n // 2 - 2 + b]
        for a in range(side):
            value = float(part[b * wide + a])
            total += float(row[x - n // 2 - 2 + a]) * value * value
    return total


@njit(
    "void(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], i8[::1], i8[::1], i8[::1], f4[:, :, ::1], f4[:, :, ::1], i8,"
    " f8[:, ::1])",
    cache=True,
    nogil=True,
)
def match_stars(
    new: np.ndarray,
    ref: np.ndarray,
    var_new: np.ndarray,
    var_ref: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    which: np.ndarray,
    psfs_new: np.ndarray,
    psfs_ref: np.ndarray,
    half: int,
    out: np.ndarray,
) -> None:
    """Flux ratio and shift between the two images at each star, after convolving each with the other's PSF.

    A = Pr * N and B = Pn * R have the same shape where the PSFs are right; the fit
    A = ratio (B - dx dB/dx - dy dB/dy) + constant over (2 half + 1)^2 pixels gives what the difference needs, with
    whatever centring convention the PSF models have and whatever neighbours the star has. Derivatives are central
    differences of fourth order (of second order they would be 10 % too small at this sampling). Ratio and
    shifts are linear in A - ratio B: their errors follow from the pixel variances of both images through the two PSFs.

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
        Background-subtracted, on one grid.
    var_new, var_ref : (ny, nx) float32, DN^2
        Pixel variances.
    ys, xs : (n,) int64
        Star pixels, at least half + 2 + size // 2 from the edges.
    which : (n,) int64
        Which of the PSFs belongs to the star.
    psfs_new, psfs_ref : (k, size, size) float32
        Point-spread functions, sum 1, size odd.
    half : int
        Half size of the fitted window, pixels.
    out : (n, 7) float64
        Written: ratio N / R, dx, dy (where N is, relative to R, px), relative RMS residual, 1-sigma errors of the first three;
        NaN where the fit fails.
    """
    wide, side = half + 2, 2 * half + 1
    a = np.empty((2 * wide + 1, 2 * wide + 1))
    b = np.empty((2 * wide + 1, 2 * wide + 1))
    normal, right = np.empty((4, 4)), np.empty(4)
    base, weights = np.empty((4, side, side)), np.empty((side, side))
    for s in range(ys.size):
        pn, pr = psfs_new[which[s]], psfs_ref[which[s]]
        _convolve_stamp(new, ys[s], xs[s], pr, wide, a)
        _convolve_stamp(ref, ys[s], xs[s], pn, wide, b)
        normal[:], right[:] = 0.0, 0.0
        power = 0.0
        for v in range(side):
            for u in range(side):
                j, i = v + 2, u + 2
                base[0, v, u] = b[j, i]
                base[1, v, u] = (b[j, i + 2] - b[j, i - 2] - 8 * (b[j, i + 1] - b[j, i - 1])) / 12
                base[2, v, u] = (b[j + 2, i] - b[j - 2, i] - 8 * (b[j + 1, i] - b[j - 1, i])) / 12
                base[3, v, u] = 1.0
                power += a[j, i] * a[j, i]
                for p in range(4):
                    right[p] += base[p, v, u] * a[j, i]
                    for q in range(4):
                        normal[p, q] += base[p, v, u] * base[q, v, u]
        copy, fit = right.copy(), right.copy()
        if not _solve(normal.copy(), fit, 4) or fit[0] <= 0.0:
            out[s, :] = np.nan
            continue
        explained = 0.0
        for p in range(4):
            explained += fit[p] * copy[p]
        out[s, 3] = np.sqrt(max(power - explained, 0.0) / max(power, 1e-30))
        for k in range(3):
            shift = fit[k] / fit[0] if k else 0.0
            right[:] = 0.0
            right[0] = -shift / fit[0] if k else 1.0
            if k:
                right[k] = 1.0 / fit[0]
            _solve(normal.copy(), right, 4)  # row of the inverse that makes this number of the data
            for v in range(side):
                for u in range(side):
                    weights[v, u] = 0.0
                    for p in range(4):
                        weights[v, u] += right[p] * base[p, v, u]
            noise = _weighted_noise(weights, var_new, ys[s], xs[s], pr)
            noise += fit[0] * fit[0] * _weighted_noise(weights, var_ref, ys[s], xs[s], pn)
            out[s, k] = shift if k else fit[0]
            out[s, 4 + k] = np.sqrt(noise)
