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
VARIANCE_TAPS = 11
"""Side, pixels, of the squared kernels that make the variance of the score; what they hold beyond is added to the rest."""
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
        PSF of the difference image, DN per pixel for unit total flux: its sum is less than 1 by the light of a star beyond the
        stamp, so that what is fitted with it is on the scale of the zero point.
    transform : (64, 33) complex
        Its (real) Fourier transform.
    spike_transform : (64, 33) complex
        Transform of what light in a single pixel of the science image becomes in the difference.
    noise : float
        Background noise of the difference, DN.
    limit : float
        1-sigma error of the PSF flux of a point source on blank sky, DN.
    """

    stamp: np.ndarray
    transform: np.ndarray
    spike_transform: np.ndarray
    noise: float
    limit: float

    def of_total(self, outside: float) -> TilePsf:
        """The same for unit total flux, where `outside` is a star's light beyond the stamp over that within it."""
        whole = 1.0 + outside
        stamp, transform = self.stamp / np.float32(whole), self.transform / whole
        return TilePsf(stamp, transform, self.spike_transform, self.noise, self.limit * whole)

    @cached_property
    def fine(self) -> np.ndarray:
        """(m, m) float32: the PSF oversampled, for fitting at any sub-pixel position; made where it is asked for."""
        return _oversampled(self.transform)

    @cached_property
    def spike(self) -> np.ndarray:
        """(25, 25) float32: one DN in a single pixel of the science image, as the difference shows it."""
        return _crop(fft.irfft2(self.spike_transform, (KERNEL_GRID, KERNEL_GRID)), self.stamp.shape[0]).astype(
            np.float32
        )


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
    new: np.ndarray, ref: np.ndarray, var_new: np.ndarray, var_ref: np.ndarray, tiles: list[Tile], outside: float = 0.0
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
    outside : float
        Light of a star of the science image beyond the stamp of its PSF over that within it.

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
        rims = y0 == 0, y1 == new.shape[0], x0 == 0, x1 == new.shape[1]
        images = new[block], ref[block], var_new[block], var_ref[block]
        parts = subtract_block(*images, tile.psf_new, tile.psf_ref, rims)
        c0, c1, d0, d1 = tile.core
        core, inner = np.s_[c0:c1, d0:d1], np.s_[c0 - y0 : c1 - y0, d0 - x0 : d1 - x0]
        for whole, part in zip((diff, score, score_ref, variance), parts[:4], strict=True):
            whole[core] = part[inner]
        psfs.append(parts[4].of_total(outside))
    return Subtraction(diff, score, score_ref, variance, psfs)


def subtract_block(
    new: np.ndarray,
    ref: np.ndarray,
    var_new: np.ndarray,
    var_ref: np.ndarray,
    psf_new: np.ndarray,
    psf_ref: np.ndarray,
    rims: tuple[bool, bool, bool, bool] = (True, True, True, True),
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, TilePsf]:
    """ZOGY of one block: difference, score, reference's score, variance of the score, PSF of the difference.

    Where the block ends with the image (`rims`: first row, last row, first column, last column) it is continued by its mirror
    image, so that a star whose light is cut off there differs less in the two images. Elsewhere its margin is thrown away,
    so that opposite edges may touch.
    """
    pad = psf_new.shape[0] // 2
    ends = [(sum(rims[:2]) * pad), (sum(rims[2:]) * pad)]
    shape = tuple(fft.next_fast_len(n + end, real=True) for n, end in zip(new.shape, ends, strict=True))
    sn2, sr2 = _middle(var_new), _middle(var_ref)
    small = _small_kernels(psf_new, psf_ref, sn2, sr2)
    n_hat, r_hat = _forward(new, shape, rims, pad), _forward(ref, shape, rims, pad)
    pn, pr = _small_transform(psf_new, shape), _small_transform(psf_ref, shape)
    d_hat, s_hat, sr_hat = np.empty_like(n_hat), np.empty_like(n_hat), np.empty_like(n_hat)
    norms = (float(np.sqrt(sn2 + sr2)), 1 / small.flux_norm)
    kernels.fourier_pass(n_hat, r_hat, pn, pr, sn2, sr2, *norms, d_hat, s_hat, sr_hat)
    images = [_backward(part, shape, new.shape) for part in (d_hat, s_hat, sr_hat)]
    variance = np.zeros(new.shape, np.float32)
    for pixels, level, factors in ((var_new, sn2, small.kn2), (var_ref, sr2, small.kr2)):
        kernels.add_separable(pixels, level, *factors, variance)
    return images[0], images[1], images[2], variance, small.psf


def _separated(kernel: np.ndarray, total: float) -> tuple[np.ndarray, np.ndarray]:
    """Column and row factor, each (n,) float32, of the product nearest to a kernel (n, n), scaled to the sum `total`."""
    row = kernel.sum(axis=0)
    for _ in range(3):  # power iteration: the first singular vectors of a kernel that is nearly a product
        column = kernel @ row
        row = kernel.T @ column
    return (column * (total / column.sum())).astype(np.float32), (row / row.sum()).astype(np.float32)


@dataclass(frozen=True)
class _SmallKernels:
    """Squared score kernels (in flux units; column and row), the norm F_S and the PSF of the difference."""

    kn2: tuple[np.ndarray, np.ndarray]
    kr2: tuple[np.ndarray, np.ndarray]
    flux_norm: float
    psf: TilePsf


def _small_kernels(psf_new: np.ndarray, psf_ref: np.ndarray, sn2: float, sr2: float) -> _SmallKernels:
    """Kernels of the score and PSF of the difference on a small grid (float64).

    kn = IFFT(conj(Pn) |Pr|^2 / Q), kr = IFFT(conj(Pr) |Pn|^2 / Q), F_S = mean(|Pn|^2 |Pr|^2 / Q),
    P_D = IFFT(Pn Pr / (F_D sqrt(Q))) with F_D = 1 / sqrt(sn2 + sr2) (Zackay et al. 2016, eqs 15, 28, 29).
    """
    n, size = KERNEL_GRID, psf_new.shape[0]
    pn, pr = fft.rfft2(_centred(psf_new, n)), fft.rfft2(_centred(psf_ref, n))
    n2, r2 = np.abs(pn) ** 2, np.abs(pr) ** 2
    q = sn2 * r2 + sr2 * n2 + float(kernels.TINY)
    both = n2 * r2 / q
    flux_norm = float((2 * both.sum() - both[:, 0].sum() - both[:, -1].sum()) / n**2)  # the mean over the whole plane
    kn, kr = fft.irfft2(np.stack([np.conj(pn) * r2, np.conj(pr) * n2]) / (q * flux_norm), (n, n)) ** 2
    spike = pr * np.sqrt((sn2 + sr2) / q)
    pd = pn * spike
    stamp = _crop(fft.irfft2(pd, (n, n)), size)
    noise = float(np.sqrt(sn2 + sr2))
    psf = TilePsf(stamp.astype(np.float32), pd, spike, noise, noise / float(np.sqrt(np.sum(stamp**2))))
    squared = [_separated(_crop(k, VARIANCE_TAPS), float(k.sum())) for k in (kn, kr)]
    return _SmallKernels(squared[0], squared[1], flux_norm, psf)


def _oversampled(transform: np.ndarray) -> np.ndarray:
    """Band-limited oversampling of a PSF from its transform; values stay those of whole pixels."""
    n, fine = transform.shape[0], transform.shape[0] * OVERSAMPLING
    big = np.zeros((fine, fine // 2 + 1), complex)
    half = n // 2  # the Nyquist row and column have no partner of opposite sign and are left out
    big[:half, :half], big[1 - half :, :half] = transform[:half, :half], transform[half + 1 :, :half]
    image = fft.irfft2(big, (fine, fine)) * OVERSAMPLING**2
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
    return float(np.median(variance[::11, ::9]))


def _forward(image: np.ndarray, shape: tuple[int, ...], rims: tuple[bool, ...], pad: int) -> np.ndarray:
    """Real FFT of an image continued over the edges `rims` by its mirror image, `pad` pixels deep, and by zeros."""
    ny, nx = image.shape
    padded = np.zeros(shape, np.float32)
    padded[:ny, :nx] = image
    if rims[0]:
        padded[-pad:, :nx] = image[pad - 1 :: -1]
    if rims[1]:
        padded[ny : ny + pad, :nx] = image[: -pad - 1 : -1]
    if rims[2]:
        padded[:, -pad:] = padded[:, pad - 1 :: -1]
    if rims[3]:
        padded[:, nx : nx + pad] = padded[:, nx - 1 : nx - pad - 1 : -1]
    return fft.rfft2(padded, workers=1, overwrite_x=True)


def _backward(transform: np.ndarray, shape: tuple[int, ...], kept: tuple[int, ...]) -> np.ndarray:
    """Inverse real FFT, cropped (a view)."""
    return fft.irfft2(transform, s=shape, workers=1, overwrite_x=True)[: kept[0], : kept[1]]


def _small_transform(stamp: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Real FFT of a small centred stamp, padded to `shape` with its centre at pixel (0, 0); its empty rows are not transformed."""
    size, half = stamp.shape[0], stamp.shape[0] // 2
    rows = np.zeros((size, shape[1]), np.float32)
    rows[:, : half + 1], rows[:, -half:] = stamp[:, half:], stamp[:, :half]
    along_x = fft.rfft(rows, axis=1)
    whole = np.zeros((shape[0], along_x.shape[1]), np.complex64)
    whole[: half + 1], whole[-half:] = along_x[half:], along_x[:half]
    return fft.fft(whole, axis=0, overwrite_x=True)
