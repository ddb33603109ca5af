"""Kernels of the artefact masks: radiation hits, satellite tracks, discs and annuli."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.optimize import brentq
from scipy.special import erf

SHARPNESS_TESTS = np.array(
    [
        # vy, vx, ly, lx, wide: neighbours at -v and +v of a line of pixels along l; wide lines are two pixels across.
        (0, 1, 1, 0, 0),
        (0, 1, 1, 0, 1),
        (0, 1, 1, 1, 0),
        (0, 1, 1, 1, 1),
        (0, 1, 1, -1, 0),
        (0, 1, 1, -1, 1),
        (1, 0, 0, 1, 0),
        (1, 0, 0, 1, 1),
        (1, 0, 1, 1, 0),
        (1, 0, 1, 1, 1),
        (1, 0, 1, -1, 0),
        (1, 0, 1, -1, 1),
        (1, 1, 1, -1, 0),
        (1, -1, 1, 1, 0),
    ],
    np.int64,
)
"""Tests for sharpness: step across, step along, and whether the line is one or two pixels wide."""

_REACH = 2
"""Lines reach two pixels to both sides of their middle: lengths 1, 3 and 5."""
_HALF = 4
_SIDE = 9
"""The tests of one pixel look at most this far: two pixels along a line and two across it."""


def sharpness_ratios(fwhm: float) -> np.ndarray:
    """Smallest possible (outer pair) / (inner line) of any scene seen through a Gaussian PSF and square pixels, for each test.

    A point source at distance d from the middle of the line has, with v the step across it and p the profile, the ratio
    (p(d - v) + p(d + v)) / 2 p(d), and about a line two pixels wide the ratio of the pixels outside to those inside. For
    Gaussians of width s these are exp(-v^2 / 2 s^2) cosh(d v / s^2) >= exp(-v^2 / 2 s^2) and at least exp(-v^2 / s^2). A
    Gaussian averaged over pixels falls off faster than the Gaussian of the same width at half maximum, which matters below
    two pixels: its ratios are minimised over sources within a pixel of the line, and the smaller bound is taken. The bounds
    are linear in the scene: they hold for blends, galaxies, a sky level and sums along lines alike.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum of the sharpest plausible PSF as sampled by the pixels, pixels; at least 1.02 is taken,
        near that of the pixel itself.

    Returns
    -------
    (n_tests,) float32
    """
    fwhm = max(fwhm, 1.02)
    s = brentq(lambda s: float(_pixel_profile(0.5 * fwhm, s) - 0.5 * _pixel_profile(0.0, s)), 1e-3, fwhm)
    d = np.linspace(-1.0, 1.0, 41)
    before, here, after = (_pixel_profile(d + step, s) for step in (-1.0, 0.0, 1.0))
    outside = _pixel_profile(d - 1.5, s) + _pixel_profile(d + 1.5, s)
    inside = _pixel_profile(d - 0.5, s) + _pixel_profile(d + 0.5, s)
    gauss = math.exp(-4.0 * math.log(2.0) / fwhm**2)
    narrow = min(gauss, float(np.min((before + after) / (2.0 * here))))
    wide = min(gauss**2, float(np.min(outside / inside)))
    both = np.outer(before, before) + np.outer(after, after)
    diagonal = min(gauss**2, float(np.min(both / (2.0 * np.outer(here, here)))))
    slanted = np.abs(SHARPNESS_TESTS[:, :2]).sum(axis=1) == 2
    return np.where(slanted, diagonal, np.where(SHARPNESS_TESTS[:, 4] == 1, wide, narrow)).astype(np.float32)


def _pixel_profile(x: np.ndarray | float, sigma: float) -> np.ndarray:
    """A Gaussian of width `sigma` averaged over the pixel at x."""
    scale = sigma * math.sqrt(2.0)
    return 0.5 * (erf((x + 0.5) / scale) - erf((x - 0.5) / scale))


@njit("float32(float32[::1], int64)", cache=True, nogil=True, error_model="numpy")
def _median(values: np.ndarray, n: int) -> np.float32:
    """Sort the first `n` of `values` in place (n is small) and return the upper median; NaN when n is 0."""
    if n == 0:
        return np.float32(np.nan)
    for i in range(1, n):
        v = values[i]
        k = i
        while k > 0 and values[k - 1] > v:
            values[k] = values[k - 1]
            k -= 1
        values[k] = v
    return values[n // 2]


@njit("void(float32[:, ::1], float32, uint8[:, ::1], int64, int64, float32[::1], float32[::1])", cache=True, nogil=True)
def _cut_window(
    pixels: np.ndarray, sky: float, state: np.ndarray, y: int, x: int, window: np.ndarray, buffer: np.ndarray
) -> None:
    """Copy the 9 x 9 surroundings of (y, x), less the sky, into `window` (81,).

    Pixels outside the image or not to be used become NaN; hits become the median of the good pixels of their 5 x 5.
    """
    ny, nx = pixels.shape
    for j in range(-_HALF, _HALF + 1):
        for i in range(-_HALF, _HALF + 1):
            v = np.float32(np.nan)
            if 0 <= y + j < ny and 0 <= x + i < nx:
                here = state[y + j, x + i]
                if here == 0:
                    v = pixels[y + j, x + i]
                elif here == 1:
                    n = 0
                    for b in range(max(0, y + j - 2), min(ny, y + j + 3)):
                        for a in range(max(0, x + i - 2), min(nx, x + i + 3)):
                            if state[b, a] == 0:
                                buffer[n] = pixels[b, a]
                                n += 1
                    v = _median(buffer, n)
            window[(j + _HALF) * _SIDE + i + _HALF] = v - sky


@njit(
    "Tuple((float32, int64, int64))(float32[::1], float32, int64[:, ::1], float32[::1], float32, float32)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _sharpest(
    window: np.ndarray, sky_variance: float, tests: np.ndarray, ratios: np.ndarray, gain: float, excess_sigmas: float
) -> tuple[np.floating, int, int]:
    """Significance of the most significant test in the middle of a window, its number and its reach along the line."""
    zero = np.float32(0)
    half = np.float32(0.5)
    per_electron = np.float32(1) / gain
    limit = excess_sigmas * excess_sigmas
    best = zero
    best_test = 0
    best_reach = 0
    middle = _HALF * _SIDE + _HALF
    for k in range(tests.shape[0]):
        across = tests[k, 0] * _SIDE + tests[k, 1]
        along = tests[k, 2] * _SIDE + tests[k, 3]
        wide = tests[k, 4]
        weight = half if wide else np.float32(1)
        inner = zero
        outer = zero
        poisson_inner = zero
        poisson_outer = zero
        for reach in range(_REACH + 1):
            for side in range(-1, min(2, 2 * reach), 2):
                at = middle + side * reach * along
                # A one-pixel line is averaged with itself: the same arithmetic serves both widths.
                c = half * (window[at] + window[at + wide * across])
                pair = half * (window[at - across] + window[at + (1 + wide) * across])
                inner += c
                outer += pair
                poisson_inner += max(c, zero)
                poisson_outer += max(pair, zero)
            floor = np.float32(2 * reach + 1) * sky_variance
            lack = ratios[k] * inner - outer
            outer_variance = poisson_outer * per_electron + floor
            # Bad pixels are NaN, for which both comparisons are false.
            if lack > zero and (inner - outer) ** 2 > limit * (weight + half) * outer_variance:
                inner_variance = weight * (poisson_inner * per_electron + floor)
                sharp = lack / np.sqrt(ratios[k] * ratios[k] * inner_variance + half * outer_variance)
                if sharp > best:
                    best = sharp
                    best_test = k
                    best_reach = reach
    return best, best_test, best_reach


@njit(
    "int64(float32[:, ::1], uint8[:, ::1], int64, int64, int64[::1], int64, float32, int32[:, ::1], int64)",
    cache=True,
    nogil=True,
)
def _collect_line(
    pixels: np.ndarray,
    state: np.ndarray,
    y: int,
    x: int,
    test: np.ndarray,
    reach: int,
    floor: float,
    found: np.ndarray,
    n: int,
) -> int:
    """Append the pixels of a sharp line that exceed `floor` (and its middle) to `found` (m, 2); the new count."""
    for step in range(-reach, reach + 1):
        for across in range(test[4] + 1):
            j = y + step * test[2] + across * test[0]
            i = x + step * test[3] + across * test[1]
            if state[j, i] == 0 and ((step == 0 and across == 0) or pixels[j, i] > floor):
                found[n, 0] = j
                found[n, 1] = i
                n += 1
    return n


@njit(
    "int64(float32[:, ::1], float32[:, ::1], uint8[:, ::1], float32[::1], float32, float32, float32, int32[:, ::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _candidates(
    pixels: np.ndarray,
    level: np.ndarray,
    state: np.ndarray,
    ratios: np.ndarray,
    gain: float,
    read_variance: float,
    sigmas: float,
    found: np.ndarray,
) -> int:
    """Cheap pass over all pixels: those above the sky that violate one of the noiseless bounds; returns their number.

    At most ``len(found)`` are written; a larger return value says that `found` (m, 2) is too small.
    """
    ny, nx = pixels.shape
    half = np.float32(0.5)
    zero = np.float32(0)
    maybe = np.zeros(nx, np.bool_)
    n = 0
    for y in range(ny):
        edge = y == 0 or y >= ny - 2
        row = pixels[y]
        up = row if edge else pixels[y - 1]
        down = row if edge else pixels[y + 1]
        down2 = row if edge else pixels[y + 2]
        sky = level[y]
        noise = np.sqrt(max(sky[nx // 2], zero) / gain + read_variance)
        for x in range(1, nx - 2):
            s = sky[x]
            c = row[x] - s
            narrow = min(row[x - 1] + row[x + 1], up[x] + down[x]) * half - s - ratios[0] * c
            diagonal = min(up[x - 1] + down[x + 1], up[x + 1] + down[x - 1]) * half - s - ratios[12] * c
            wide_x = (row[x - 1] + row[x + 2]) * half - s - ratios[1] * half * (c + row[x + 1] - s)
            wide_y = (up[x] + down2[x]) * half - s - ratios[1] * half * (c + down[x] - s)
            maybe[x] = (c > sigmas * noise) & (min(min(narrow, diagonal), min(wide_x, wide_y)) < zero)
        maybe[0] = row[0] - sky[0] > sigmas * noise
        for x in range(nx - 2, nx):
            maybe[x] = row[x] - sky[x] > sigmas * noise
        for x in range(nx):
            if maybe[x] and state[y, x] == 0:
                if n < found.shape[0]:
                    found[n, 0] = y
                    found[n, 1] = x
                n += 1
    return n


@njit("int64(uint8[:, ::1], int32[:, ::1], int64, int64)", cache=True, nogil=True)
def _mark(state: np.ndarray, found: np.ndarray, first: int, last: int) -> int:
    """Set `state` to 1 for entries `first`..`last` of `found`, drop repeated ones, return the new count."""
    n = first
    for k in range(first, last):
        if state[found[k, 0], found[k, 1]] == 0:
            state[found[k, 0], found[k, 1]] = 1
            found[n, 0] = found[k, 0]
            found[n, 1] = found[k, 1]
            n += 1
    return n


@njit(
    "int64(float32[:, ::1], float32[:, ::1], uint8[:, ::1], int64[:, ::1], float32[::1], float32, float32, float32,"
    " float32, float32, float32, float32, int64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def radiation_hits(
    pixels: np.ndarray,
    level: np.ndarray,
    state: np.ndarray,
    tests: np.ndarray,
    ratios: np.ndarray,
    gain: float,
    read_variance: float,
    candidate_sigmas: float,
    excess_sigmas: float,
    sharp_sigmas: float,
    grow_excess_sigmas: float,
    grow_sharp_sigmas: float,
    iterations: int,
) -> int:
    """Find pixels that are sharper than the point-spread function allows.

    A scene seen through the optics obeys the bounds of `sharpness_ratios`; a radiation hit, which never saw the
    optics, does not. A cheap vectorised pass finds the few pixels worth a test; these are tested with their noise in
    lines of 1, 3 and 5 pixels, one or two pixels wide, in four directions. Then neighbours of hits are tried again
    with the hits replaced by the median of their surroundings, which follows wide tracks inwards and faint ends
    outwards.

    Parameters
    ----------
    pixels, level : (ny, nx) float32
        Image and its sky level, DN; finite where `state` is 0.
    state : (ny, nx) uint8
        0 to be tested, 2 not to be tested nor used (bad, saturated, NaN). Written: 1 where hit.
    tests : (n_tests, 5) int64
        `SHARPNESS_TESTS`.
    ratios : (n_tests,) float32
        `sharpness_ratios`.
    gain : float
        e-/DN.
    read_variance : float
        Variance of the read noise, DN^2.
    candidate_sigmas : float
        Pixels below this many sky sigmas are not tested as the middle of a line.
    excess_sigmas, sharp_sigmas : float
        A line exceeds its outer pair by the first and the allowed ratio by the second, in sigmas.
    grow_excess_sigmas, grow_sharp_sigmas : float
        The same for neighbours of hits.
    iterations : int
        Rounds of growth.

    Returns
    -------
    int
        Number of hit pixels.
    """
    ny, nx = pixels.shape
    candidates = np.empty((1 + ny * nx // 64, 2), np.int32)
    m = _candidates(pixels, level, state, ratios, gain, read_variance, candidate_sigmas, candidates)
    if m > candidates.shape[0]:
        candidates = np.empty((m, 2), np.int32)
        m = _candidates(pixels, level, state, ratios, gain, read_variance, candidate_sigmas, candidates)
    window = np.empty(_SIDE * _SIDE, np.float32)
    buffer = np.empty(25, np.float32)
    found = np.empty((4096, 2), np.int32)
    n = 0
    for k in range(m):
        if n + 10 > found.shape[0]:
            found = np.concatenate((found, np.empty_like(found)))
        y, x = candidates[k, 0], candidates[k, 1]
        sky = level[y, x]
        variance = max(sky, np.float32(0)) / gain + read_variance
        _cut_window(pixels, sky, state, y, x, window, buffer)
        sharp, test, reach = _sharpest(window, variance, tests, ratios, gain, excess_sigmas)
        if sharp > sharp_sigmas:
            floor = sky + candidate_sigmas * np.sqrt(variance)
            n = _collect_line(pixels, state, y, x, tests[test], reach, floor, found, n)
    # The first round must not depend on the order of pixels: hits are marked when all have been judged.
    n = _mark(state, found, 0, n)
    first = 0
    for _ in range(iterations):
        last = n
        for k in range(first, last):
            for y in range(max(0, found[k, 0] - 1), min(ny, found[k, 0] + 2)):
                for x in range(max(0, found[k, 1] - 1), min(nx, found[k, 1] + 2)):
                    if state[y, x] != 0:
                        continue
                    if n + 10 > found.shape[0]:
                        found = np.concatenate((found, np.empty_like(found)))
                    sky = level[y, x]
                    variance = max(sky, np.float32(0)) / gain + read_variance
                    _cut_window(pixels, sky, state, y, x, window, buffer)
                    sharp, test, reach = _sharpest(window, variance, tests, ratios, gain, grow_excess_sigmas)
                    if sharp > grow_sharp_sigmas:
                        floor = sky + candidate_sigmas * np.sqrt(variance)
                        n = _collect_line(pixels, state, y, x, tests[test], reach, floor, found, n)
        n = _mark(state, found, last, n)
        first = last
    return n


@njit(
    "int64(float32[:, ::1], uint16[:, ::1], uint16, uint16, int64, uint8[:, ::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def unusable_pixels(
    pixels: np.ndarray, mask: np.ndarray, bad_bits: int, saturated_bit: int, margin: int, state: np.ndarray
) -> int:
    """Mark pixels that the searches must not use.

    Parameters
    ----------
    pixels : (ny, nx) float32
        Image; NaN is unusable.
    mask : (ny, nx) uint16
        Its mask.
    bad_bits : int
        Bits of unusable pixels.
    saturated_bit : int
        Bit of saturated pixels, around which `margin` pixels in all directions are unusable as well.
    margin : int
        Pixels.
    state : (ny, nx) uint8
        Written: 2 where unusable, else 0.

    Returns
    -------
    int
        Number of saturated pixels.
    """
    ny, nx = pixels.shape
    count = 0
    touched = np.zeros(ny, np.bool_)
    for y in range(ny):
        combined = np.uint16(0)
        for x in range(nx):
            m = mask[y, x]
            combined |= m
            v = pixels[y, x]
            state[y, x] = np.uint8(2) if (m & bad_bits) != 0 or v - v != np.float32(0) else np.uint8(0)
        touched[y] = (combined & saturated_bit) != 0
    for y in range(ny):
        if not touched[y]:
            continue
        for x in range(nx):
            if mask[y, x] & saturated_bit:
                count += 1
                for j in range(max(0, y - margin), min(ny, y + margin + 1)):
                    for i in range(max(0, x - margin), min(nx, x + margin + 1)):
                        state[j, i] = 2
    return count


@njit("void(float32[:, ::1], uint16[:, ::1], uint16, boolean[:, ::1])", cache=True, nogil=True, error_model="numpy")
def good_pixels(pixels: np.ndarray, mask: np.ndarray, bad_bits: int, good: np.ndarray) -> None:
    """good = the pixel is finite and its mask has none of `bad_bits`; all arrays (ny, nx)."""
    for y in range(pixels.shape[0]):
        row, bits, out = pixels[y], mask[y], good[y]
        for x in range(row.size):
            out[x] = (bits[x] & bad_bits) == 0 and row[x] - row[x] == np.float32(0)


@njit("void(uint16[:, ::1], uint16, boolean[:, ::1], float32[:, ::1])", cache=True, nogil=True)
def exclude(mask: np.ndarray, bad_bits: int, good: np.ndarray, pixels: np.ndarray) -> None:
    """Pixels that are `good` but have one of `bad_bits` in their mask are good no more and become 0. All (ny, nx)."""
    for y in range(mask.shape[0]):
        bits, kept, row = mask[y], good[y], pixels[y]
        lost = False
        for x in range(bits.size):
            lost |= kept[x] & ((bits[x] & bad_bits) != 0)
        if not lost:
            continue
        for x in range(bits.size):
            if kept[x] and (bits[x] & bad_bits) != 0:
                kept[x] = False
                row[x] = np.float32(0)


@njit("void(uint16[:, ::1], uint16[::1], int64[::1])", cache=True, nogil=True)
def count_bits(mask: np.ndarray, patterns: np.ndarray, counts: np.ndarray) -> None:
    """counts[k] = pixels of `mask` (ny, nx < 65536) that have any bit of patterns[k], in one pass over the image."""
    counts[:] = 0
    for y in range(mask.shape[0]):
        row = mask[y]
        every = np.uint16(0)
        for x in range(row.size):
            every |= row[x]
        for k in range(patterns.size):
            pattern = patterns[k]
            if every & pattern == 0:
                continue
            n = np.uint16(0)  # counts of a row fit, and the wider the counter, the fewer are added at once
            for x in range(row.size):
                n += np.uint16(1) if (row[x] & pattern) != 0 else np.uint16(0)
            counts[k] += np.int64(n)


@njit("void(uint8[:, ::1], uint8, uint16, uint16[:, ::1])", cache=True, nogil=True)
def mark_state(state: np.ndarray, which: int, bit: int, mask: np.ndarray) -> None:
    """Set `bit` in `mask` where `state` is `which`; both (ny, nx)."""
    for y in range(state.shape[0]):
        here, out = state[y], mask[y]
        for x in range(here.size):
            out[x] |= bit if here[x] == which else np.uint16(0)
