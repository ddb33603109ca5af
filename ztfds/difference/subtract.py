"""The proper image difference (ZOGY) in tiles with local PSFs: difference, score and its variance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

from ztfds.config.difference import DifferenceConfig
from ztfds.kernels import zogy as kernels

KERNEL_GRID = 64
"""Side of the grid, pixels, on which the small kernels and the difference's PSF are made."""
OVERSAMPLING = 5
"""Samples per pixel of the PSFs that are fitted."""
VARIANCE_TAPS = 15
"""Side, pixels, of the squared kernels that make the variance of the score: beyond, they hold less than 1e-3 of it."""
FIT_RADIUS = 12
"""Radius, pixels, to which the oversampled PSFs reach."""


@dataclass(frozen=True)
class Tile:
    """A part of the image: the core that it contributes and the block that it is computed from, and its PSFs.

    Attributes
    ----------
    core, block : (y0, y1, x0, x1)
        Pixel ranges; the block is the core with margins, inside the image.
    psf_new, psf_ref : (n, n) float32
        Local PSFs of science image and reference, sum 1.
    """

    core: tuple[int, int, int, int]
    block: tuple[int, int, int, int]
    psf_new: np.ndarray
    psf_ref: np.ndarray


@dataclass(frozen=True)
class TilePsf:
    """PSF of the difference in one tile.

    Attributes
    ----------
    stamp : (25, 25) float32
        PSF of the difference image, DN per pixel for unit flux.
    transform : (64, 64) complex
        Its Fourier transform.
    noise : float
        Background noise of the difference, DN.
    limit : float
        1-sigma error of the PSF flux of a point source on blank sky, DN.
    """

    stamp: np.ndarray
    transform: np.ndarray
    noise: float
    limit: float

    @cached_property
    def fine(self) -> np.ndarray:
        """(m, m) float32: the PSF oversampled, for fitting at any sub-pixel position; made where it is asked for."""
        return _oversampled(self.transform)


@dataclass(frozen=True)
class Subtraction:
    """Images of the whole quadrant.

    Attributes
    ----------
    diff : (ny, nx) float32, DN
        Proper difference.
    score, score_ref : (ny, nx) float32, DN
        Matched-filtered difference in flux units, and the reference's part of it.
    variance : (ny, nx) float32, DN^2
        Variance of the score from sky and photon noise.
    psfs : list of TilePsf
    """

    diff: np.ndarray
    score: np.ndarray
    score_ref: np.ndarray
    variance: np.ndarray
    psfs: list[TilePsf]


def tile_cores(shape: tuple[int, int], config: DifferenceConfig) -> list[tuple[int, int, int, int]]:
    """Split an image into the fewest equal tiles of at most `tile_px` a side."""

    def edges(n: int) -> list[int]:
        parts = -(-n // config.tile_px)
        return [round(k * n / parts) for k in range(parts + 1)]

    rows, columns = edges(shape[0]), edges(shape[1])
    return [
        (rows[j], rows[j + 1], columns[i], columns[i + 1])
        for j in range(len(rows) - 1)
        for i in range(len(columns) - 1)
    ]


def with_margin(core: tuple[int, int, int, int], shape: tuple[int, int], margin: int) -> tuple[int, int, int, int]:
    """The core's block: the core with a margin, inside the image."""
    y0, y1, x0, x1 = core
    return max(0, y0 - margin), min(shape[0], y1 + margin), max(0, x0 - margin), min(shape[1], x1 + margin)


def which_tile(tiles: list[Tile], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Number of the tile whose core holds each position; int64."""
    out = np.zeros(np.shape(y), np.int64)
    for k, tile in enumerate(tiles):
        y0, y1, x0, x1 = tile.core
        inside = (y >= y0 - 0.5) & (y < y1 - 0.5) & (x >= x0 - 0.5) & (x < x1 - 0.5)
        out[inside] = k
    return out


def subtract(
    new: np.ndarray, ref: np.ndarray, var_new: np.ndarray, var_ref: np.ndarray, tiles: list[Tile]
) -> Subtraction:
    """Proper difference of two images on one grid, flux scale and sky.

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
        Background-subtracted, holes filled.
    var_new, var_ref : (ny, nx) float32, DN^2
        Variance of each pixel; finite and positive.
    tiles : list of Tile
        Cores cover the image.

    Returns
    -------
    Subtraction
    """
    diff, score = np.empty_like(new), np.empty_like(new)
    score_ref, variance = np.empty_like(new), np.empty_like(new)
    psfs = []
    for tile in tiles:
        y0, y1, x0, x1 = tile.block
        block = np.s_[y0:y1, x0:x1]
        parts = subtract_block(new[block], ref[block], var_new[block], var_ref[block], tile.psf_new, tile.psf_ref)
        c0, c1, d0, d1 = tile.core
        core, inner = np.s_[c0:c1, d0:d1], np.s_[c0 - y0 : c1 - y0, d0 - x0 : d1 - x0]
        for whole, part in zip((diff, score, score_ref, variance), parts[:4], strict=True):
            whole[core] = part[inner]
        psfs.append(parts[4])
    return Subtraction(diff, score, score_ref, variance, psfs)


def subtract_block(
    new: np.ndarray,
    ref: np.ndarray,
    var_new: np.ndarray,
    var_ref: np.ndarray,
    psf_new: np.ndarray,
    psf_ref: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, TilePsf]:
    """ZOGY of one block: difference, score, reference's score, variance of the score, PSF of the difference.

    The block is zero-padded so that opposite edges do not touch.
    """
    pad = psf_new.shape[0] - 1
    shape = tuple(fft.next_fast_len(n + pad, real=True) for n in new.shape)
    sn2, sr2 = _middle(var_new), _middle(var_ref)
    small = _small_kernels(psf_new, psf_ref, sn2, sr2)
    n_hat, r_hat = _forward(new, shape), _forward(ref, shape)
    pn, pr = _small_transform(psf_new, shape), _small_transform(psf_ref, shape)
    d_hat, s_hat, sr_hat = np.empty_like(n_hat), np.empty_like(n_hat), np.empty_like(n_hat)
    norms = (float(np.sqrt(sn2 + sr2)), 1 / small.flux_norm)
    kernels.fourier_pass(n_hat, r_hat, pn, pr, sn2, sr2, *norms, d_hat, s_hat, sr_hat)
    images = [_backward(part, shape, new.shape) for part in (d_hat, s_hat, sr_hat)]
    variance = np.zeros(new.shape, np.float32)
    for pixels, level, kernel in ((var_new, sn2, small.kn2), (var_ref, sr2, small.kr2)):
        kernels.add_separable(np.ascontiguousarray(pixels), level, *_separated(kernel), variance)
    return images[0], images[1], images[2], variance, small.psf


def _separated(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row factor, each (n,) float32, of the product nearest to a kernel (n, n), with the kernel's sum."""
    left, _, right = np.linalg.svd(kernel.astype(float))
    column, row = left[:, 0] / left[:, 0].sum(), right[0] / right[0].sum()
    return (column * float(kernel.sum(dtype=float))).astype(np.float32), row.astype(np.float32)


@dataclass(frozen=True)
class _SmallKernels:
    """Squared score kernels (in flux units), the norm F_S and the PSF of the difference."""

    kn2: np.ndarray
    kr2: np.ndarray
    flux_norm: float
    psf: TilePsf


def _small_kernels(psf_new: np.ndarray, psf_ref: np.ndarray, sn2: float, sr2: float) -> _SmallKernels:
    """Kernels of the score and PSF of the difference on a small grid (float64).

    kn = IFFT(conj(Pn) |Pr|^2 / Q), kr = IFFT(conj(Pr) |Pn|^2 / Q), F_S = mean(|Pn|^2 |Pr|^2 / Q),
    P_D = IFFT(Pn Pr / (F_D sqrt(Q))) with F_D = 1 / sqrt(sn2 + sr2) (Zackay et al. 2016, eqs 15, 28, 29).
    """
    n, size = KERNEL_GRID, psf_new.shape[0]
    pn, pr = np.fft.fft2(_centred(psf_new, n)), np.fft.fft2(_centred(psf_ref, n))
    n2, r2 = np.abs(pn) ** 2, np.abs(pr) ** 2
    q = sn2 * r2 + sr2 * n2 + float(kernels.TINY)
    flux_norm = float(np.mean(n2 * r2 / q))
    kn = _crop(np.fft.ifft2(np.conj(pn) * r2 / q).real / flux_norm, VARIANCE_TAPS)
    kr = _crop(np.fft.ifft2(np.conj(pr) * n2 / q).real / flux_norm, VARIANCE_TAPS)
    pd = pn * pr * np.sqrt((sn2 + sr2) / q)
    stamp = _crop(np.fft.ifft2(pd).real, size)
    noise = float(np.sqrt(sn2 + sr2))
    psf = TilePsf(stamp.astype(np.float32), pd, noise, noise / float(np.sqrt(np.sum(stamp**2))))
    return _SmallKernels((kn**2).astype(np.float32), (kr**2).astype(np.float32), flux_norm, psf)


def _oversampled(transform: np.ndarray) -> np.ndarray:
    """Band-limited oversampling of a PSF from its transform; values stay those of whole pixels."""
    n, fine = transform.shape[0], transform.shape[0] * OVERSAMPLING
    big = np.zeros((fine, fine), complex)
    start = (fine - n) // 2
    shifted = np.fft.fftshift(transform)
    shifted[0, :], shifted[:, 0] = 0, 0  # the Nyquist rows have no partner of opposite sign
    big[start : start + n, start : start + n] = shifted
    image = np.fft.ifft2(np.fft.ifftshift(big)).real * OVERSAMPLING**2
    half = OVERSAMPLING * FIT_RADIUS
    return np.roll(image, (half, half), (0, 1))[: 2 * half + 1, : 2 * half + 1].astype(np.float32)


def _centred(stamp: np.ndarray, n: int) -> np.ndarray:
    """Zero-pad an odd stamp to n x n with its centre at pixel (0, 0)."""
    size = stamp.shape[0]
    out = np.zeros((n, n))
    out[:size, :size] = stamp
    return np.roll(out, (-(size // 2), -(size // 2)), (0, 1))


def _crop(kernel: np.ndarray, size: int) -> np.ndarray:
    """Central size x size of a kernel whose centre is at pixel (0, 0)."""
    half = size // 2
    return np.ascontiguousarray(np.roll(kernel, (half, half), (0, 1))[:size, :size])


def _middle(variance: np.ndarray) -> float:
    """Median variance of a block from a sample of its pixels."""
    return float(np.median(variance[::7, ::5]))


def _forward(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Real FFT of an image padded with zeros."""
    padded = np.zeros(shape, np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    return fft.rfft2(padded, workers=1, overwrite_x=True)


def _backward(transform: np.ndarray, shape: tuple[int, ...], kept: tuple[int, ...]) -> np.ndarray:
    """Inverse real FFT, cropped (a view)."""
    return fft.irfft2(transform, s=shape, workers=1, overwrite_x=True)[: kept[0], : kept[1]]


def _small_transform(stamp: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Real FFT of a small centred stamp, padded to `shape` with its centre at pixel (0, 0)."""
    half = stamp.shape[0] // 2
    padded = np.zeros(shape, np.float32)
    padded[: half + 1, : half + 1], padded[-half:, : half + 1] = stamp[half:, half:], stamp[:half, half:]
    padded[: half + 1, -half:], padded[-half:, -half:] = stamp[half:, :half], stamp[:half, :half]
    return fft.rfft2(padded, workers=1, overwrite_x=True)
