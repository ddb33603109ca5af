"""Outlier-rejected co-addition of calibrated images on one grid and at one zero point."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import binary_dilation, label
from scipy.stats import norm

from ztfds.config.difference import ReferenceConfig
from ztfds.config.photometry import BackgroundConfig
from ztfds.kernels import coadd as kernels
from ztfds.kernels import move
from ztfds.kernels.background import mesh_image
from ztfds.kernels.resample import fill_holes, lanczos_table
from ztfds.kernels.stack import sorting_network
from ztfds.photometry.background import estimate
from ztfds.reference.agreement import Agreement, compare_frames
from ztfds.reference.grid import coarse_grid, number, wcs_of
from ztfds.reference.products import ReferenceInput
from ztfds.survey import bits
from ztfds.survey.errors import MissingKeyword

log = logging.getLogger(__name__)

BAD = np.uint16(bits.HARD_BAD & ~bits.SATURATED)
FULL = np.uint16(bits.SATURATED)


@dataclass(frozen=True)
class Coadd:
    """Images of a co-add.

    Attributes
    ----------
    pixels, uncertainty : (ny, nx) float32, DN
        NaN without coverage.
    coverage : (ny, nx) float32
        Frames used.
    mask : (ny, nx) uint16
    gain : float
        Effective electrons per DN of a fully covered pixel.
    sky_variance : float, DN^2
        Variance of an empty, fully covered pixel.
    scales : tuple of float
        Factor that brought each input to the zero point.
    rejected : tuple of float
        Share of each input's good samples that the outlier rejection dropped.
    in_blocks : float
        Share of all good samples that were dropped with a whole block: trails, ghosts, what moved.
    agreement : Agreement
        How the stars of the inputs agree with those of the co-add.
    """

    pixels: np.ndarray
    uncertainty: np.ndarray
    coverage: np.ndarray
    mask: np.ndarray
    gain: float
    sky_variance: float
    scales: tuple[float, ...]
    rejected: tuple[float, ...]
    in_blocks: float
    agreement: Agreement

    @property
    def rejected_fraction(self) -> float:
        """Share of all good samples that the outlier rejection dropped."""
        return float(np.mean(self.rejected))


@dataclass(frozen=True)
class _Facts:
    """Numbers of one input: flux scale, variance of a sky pixel on the co-add's scale (DN^2), electrons per scaled DN."""

    scale: float
    sky_variance: float
    gain: float


@dataclass(frozen=True)
class Combined:
    """A clipped mean.

    Attributes
    ----------
    pixels, uncertainty, coverage : (ny, nx) float32
        DN, DN, frames; NaN, NaN, 0 without any.
    rejected : (n,) float64
        Share of each frame's samples that were dropped.
    in_blocks : float
        Share of all samples that were dropped with a whole block.
    """

    pixels: np.ndarray
    uncertainty: np.ndarray
    coverage: np.ndarray
    rejected: np.ndarray
    in_blocks: float


class _Buffers:
    """Arrays for one input image at a time, used again for the next one: fresh memory costs as much as the work in it."""

    def __init__(self, shape: tuple[int, int]) -> None:
        wide = (shape[0] + 2 * move.PAD, shape[1] + 2 * move.PAD)
        self.shape = shape
        self.hole, self.usable = np.empty(shape, np.bool_), np.empty(shape, np.bool_)
        self.image, self.wide = np.empty(shape, np.float32), np.empty(wide, np.float32)
        self.flags = np.empty(wide, np.uint8)


class _Canvas:
    """The arrays that all inputs are brought onto: one frame each, and what is saturated."""

    def __init__(self, n: int, wcs: WCS, shape: tuple[int, int]) -> None:
        self.wcs, self.shape = wcs, shape
        self.stack = np.empty((n, *shape), np.float32)
        self.plateau = np.zeros(shape, np.float32)
        self.saturated = np.zeros(shape, np.uint8)
        self.table = lanczos_table()
        self.kept: _Buffers | None = None

    def buffers(self, shape: tuple[int, int]) -> _Buffers:
        """Arrays for an input of a shape."""
        if self.kept is None or self.kept.shape != shape:
            self.kept = _Buffers(shape)
        return self.kept

    def place(self, k: int, held: _Buffers, mask: np.ndarray, header: fits.Header, scale: float,
              config: ReferenceConfig) -> None:  # fmt: skip
        """Resample the sky-subtracted image without holes in `held` to frame k."""
        move.padded(held.image, held.wide)
        move.spread_flags(mask, held.hole, FULL, config.mask_reach, held.flags)
        grid = coarse_grid(self.wcs, wcs_of(header), self.shape, config.grid_step_px)
        factor = np.ascontiguousarray(grid.area() * scale)
        move.move(
            held.wide,
            held.flags,
            grid.x,
            grid.y,
            factor,
            grid.step,
            self.table,
            self.stack[k],
            self.plateau,
            self.saturated,
        )


def coadd(inputs: Sequence[ReferenceInput], wcs: WCS, shape: tuple[int, int], config: ReferenceConfig) -> Coadd:
    """Resample every input to (wcs, shape) and average what agrees.

    Each input is read once, so that the sequence may load its items as they are asked for; the stack of resampled
    frames, 4 bytes per pixel and input, is all that is kept.

    Parameters
    ----------
    inputs : sequence of ReferenceInput
    wcs, shape
        Output grid.
    config : ReferenceConfig

    Returns
    -------
    Coadd

    Raises
    ------
    MissingKeyword
        An input without MAGZP.
    """
    canvas = _Canvas(len(inputs), wcs, shape)
    facts = [_place(canvas, k, inputs[k], config) for k in range(len(inputs))]
    scales, variances, gains = (
        np.array([getattr(f, name) for f in facts]) for name in ("scale", "sky_variance", "gain")
    )
    made = combine(canvas.stack, variances, gains, config)
    agreement = compare_frames(canvas.stack, made.pixels, float(1 / np.sum(1 / variances)), variances)
    mask = _mark(made, canvas, variances, gains)
    weights = 1 / variances
    return Coadd(
        pixels=made.pixels,
        uncertainty=made.uncertainty,
        coverage=made.coverage,
        mask=mask,
        gain=float(weights.sum() ** 2 / np.sum(weights**2 / gains)),
        sky_variance=float(1 / weights.sum()),
        scales=tuple(map(float, scales)),
        rejected=tuple(map(float, made.rejected)),
        in_blocks=made.in_blocks,
        agreement=agreement,
    )


def _place(canvas: _Canvas, k: int, item: ReferenceInput, config: ReferenceConfig) -> _Facts:
    """Sky out, holes bridged, resampled, scaled."""
    header = item.header
    magzp = number(header, "MAGZP", np.nan)
    if not np.isfinite(magzp):
        raise MissingKeyword(f"{header.get('FILENAME', 'an input image')} has no MAGZP")
    pixels, mask = np.ascontiguousarray(item.pixels, np.float32), np.ascontiguousarray(item.mask, np.uint16)
    held = canvas.buffers((pixels.shape[0], pixels.shape[1]))
    move.classify(pixels, mask, BAD, FULL, held.hole, held.usable)
    sky = estimate(pixels, held.usable, BackgroundConfig(box_px=config.background_box_px))
    mesh_image(sky.mesh_level, sky.box, held.image)
    np.subtract(pixels, held.image, out=held.image)
    fill_holes(held.image, held.hole, config.fill_rings)
    scale = float(10 ** (-0.4 * (magzp - config.reference_zeropoint_mag)))
    canvas.place(k, held, mask, header, scale, config)
    variance = _sky_variance(sky.median_level, sky.rms_dn, header) * scale**2
    return _Facts(scale, variance, number(header, "GAIN", 6.2) / scale)


def _mark(made: Combined, canvas: _Canvas, variances: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Mask of the co-add; pixels that every frame has saturated get the mean of the saturated values."""
    mask = np.zeros(canvas.shape, np.uint16)
    mask[made.coverage == 0] = bits.NAN
    at = np.flatnonzero(canvas.saturated)
    count, total = canvas.saturated.ravel()[at], canvas.plateau.ravel()[at]
    mask.ravel()[at[count >= 0.5 * len(variances)]] |= bits.SATURATED
    only = made.coverage.ravel()[at] == 0
    at, value = at[only], total[only] / count[only]
    made.pixels.ravel()[at] = value
    made.uncertainty.ravel()[at] = np.sqrt(np.maximum(value, 0) / gains.sum() + 1 / np.sum(1 / variances))
    mask.ravel()[at] = bits.SATURATED
    return mask


def _sky_variance(level: float, measured: float, header: fits.Header) -> float:
    """Variance of a sky pixel: measured, but not more than twice nor less than half of what level and read noise say.

    Where the sky was already taken out of the input, its level says nothing and the measured noise is used.
    """
    gain, noise = number(header, "GAIN", 6.2), number(header, "READNOI", 10.0)
    expected = max(level, 0.0) / gain + (noise / gain) ** 2
    if not np.isfinite(measured) or measured <= 0:
        return expected
    return float(measured**2) if level < 10.0 else float(np.clip(measured**2, 0.5 * expected, 2.0 * expected))


def combine(stack: np.ndarray, variances: np.ndarray, gains: np.ndarray, config: ReferenceConfig) -> Combined:
    """Clipped inverse-variance weighted mean of aligned frames.

    Blocks of a frame that depart as a whole are left out first (they become NaN in `stack`), then single samples.

    Parameters
    ----------
    stack : (n, ny, nx) float32, DN
        NaN where a frame has nothing.
    variances : (n,) float, DN^2
        Variance of an empty pixel of each frame.
    gains : (n,) float
        Electrons per DN of each frame.
    config : ReferenceConfig

    Returns
    -------
    Combined
    """
    n, shape = stack.shape[0], stack.shape[1:]
    flat = stack.reshape(n, -1)
    median, spread, count = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    kernels.median_and_spread(flat, sorting_network(n), spread_scales(n), median.ravel(), spread.ravel(), count.ravel())
    brightest = np.empty(shape, np.float32)
    kernels.maximum_3x3(median, brightest)
    v, g = variances.astype(np.float32), gains.astype(np.float32)
    lost = np.zeros(n)
    if config.block_px:
        flagged = odd_blocks(stack, v, g, median, brightest, config)
        lost = np.array([kernels.erase_blocks(stack[k : k + 1], flagged[k : k + 1], config.block_px) for k in range(n)])
    pixels, uncertainty, coverage = (np.empty(shape, np.float32) for _ in range(3))
    kept = np.empty(n, np.int64)
    kernels.clipped_weighted_mean(
        flat, v, g, median.ravel(), spread.ravel(), brightest.ravel(), config.clip_sigma, config.clip_tolerance,
        pixels.ravel(), uncertainty.ravel(), coverage.ravel(), kept,
    )  # fmt: skip
    total = float(count.sum(dtype=np.float64))
    known = np.array([np.count_nonzero(frame == frame) for frame in flat]) + lost
    rejected = 1 - kept / np.maximum(known, 1)
    return Combined(pixels, uncertainty, coverage, rejected, float(lost.sum()) / total if total else 0.0)


def odd_blocks(
    stack: np.ndarray,
    variances: np.ndarray,
    gains: np.ndarray,
    median: np.ndarray,
    brightest: np.ndarray,
    config: ReferenceConfig,
) -> np.ndarray:
    """Which blocks of which frames show something that the others do not: trails, ghosts, moving sources.

    A block is odd where it departs from the middle of all frames' by more than `block_sigma` times its own noise or the
    frames' spread there, whichever is larger (stars that change with the seeing spread in all frames), or belongs to
    `block_chain` neighbours that all depart by 3/5 of that to the same side; neighbours follow from `block_grow_sigma` on.
    Where more than a third of the frames would go, the sky itself varies: all stay.

    Parameters
    ----------
    stack : (n, ny, nx) float32
    variances, gains : (n,) float32
    median, brightest : (ny, nx) float32
    config : ReferenceConfig

    Returns
    -------
    (n, ceil(ny / block), ceil(nx / block)) bool
    """
    n, block = len(stack), config.block_px
    shape = (-(-stack.shape[1] // block), -(-stack.shape[2] // block))
    departure = np.empty((n, *shape), np.float32)
    kernels.block_departures(
        stack, variances, gains, median, brightest, config.clip_tolerance, config.clip_sigma, block, departure
    )
    middle, width, count = (np.empty(shape, np.float32) for _ in range(3))
    kernels.median_and_spread(
        departure.reshape(n, -1), sorting_network(n), spread_scales(n), middle.ravel(), width.ravel(), count.ravel()
    )
    departure -= middle
    departure /= np.maximum(width, 1)
    odd = _chains(departure, 0.6 * config.block_sigma, config.block_chain)
    odd |= np.abs(departure, out=departure) > config.block_sigma
    if odd.any():
        near = departure > config.block_grow_sigma
        around = np.ones((1, 3, 3), bool)
        for _ in range(2):
            odd |= binary_dilation(odd, around) & near
    odd[:, odd.sum(axis=0) > max(1, n // 3)] = False
    return odd


def _chains(departure: np.ndarray, least: float, length: int) -> np.ndarray:
    """Blocks beyond `least`, to one side, that touch at least so many others that are so too: what is faint but long.

    A trail along the edge of two blocks shows in their mean; such pairs must make chains twice as long, as each block is in
    four of them.
    """
    out = np.zeros(departure.shape, bool)
    for frame, found in zip(departure, out, strict=True):
        for sign in (1, -1):
            side = frame * sign
            found |= _long(side > least, length)
            found |= _long(_pairs(side, least), 2 * length)
    return out


def _pairs(side: np.ndarray, least: float) -> np.ndarray:
    """Blocks that are beyond `least` together with one of their four neighbours."""
    out = np.zeros(side.shape, bool)
    root = least * np.sqrt(2)
    upright, level = side[1:] + side[:-1] > root, side[:, 1:] + side[:, :-1] > root
    out[1:] |= upright
    out[:-1] |= upright
    out[:, 1:] |= level
    out[:, :-1] |= level
    return out


def _long(flags: np.ndarray, length: int) -> np.ndarray:
    """Flags that hang together, corners included, with at least `length`."""
    groups, count = label(flags, np.ones((3, 3), int))
    if not count:
        return flags
    long = np.bincount(groups.ravel()) >= length
    long[0] = False
    return np.asarray(long[groups])


def spread_scales(n: int) -> np.ndarray:
    """Factor from the distance of order statistics c // 6 and c - 1 - c // 6 to sigma, for counts c = 0..n.

    Expected positions of normal order statistics by Blom's formula, Phi^-1((k - 0.375) / (c + 0.25)), k from 1.
    """
    scales = np.zeros(n + 1, np.float32)
    for c in range(2, n + 1):
        low = norm.ppf((c // 6 + 1 - 0.375) / (c + 0.25))
        scales[c] = 1 / (-2 * low) if low < 0 else 0.0
    return scales
