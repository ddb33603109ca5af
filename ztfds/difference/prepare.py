"""Bring science image and reference onto one grid, flux scale and sky, without holes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import fft

from ztfds.config.difference import DifferenceConfig
from ztfds.difference.bright import bright_stars, mend, remove_halos
from ztfds.difference.matching import (
    StarMatch,
    Warp,
    fit_warp,
    match_stars,
    residual_sky,
    select_stars,
    without_movers,
)
from ztfds.difference.products import DifferenceInputs
from ztfds.difference.subtract import Tile, tile_cores, with_margin
from ztfds.kernels import resample as resample_kernels
from ztfds.kernels import zogy as kernels
from ztfds.reference.grid import (
    CoarseGrid,
    coarse_grid,
    number,
    resample_image,
    resample_mask,
    resample_nearest,
    wcs_of,
)
from ztfds.reference.products import Psf
from ztfds.survey import bits
from ztfds.survey.errors import BadDifference

log = logging.getLogger(__name__)

_PSF_GRID, _FADE = 64, (5.0, 10.0)
_PAD_PX = 8
"""Pixels of the reference around a star's window: more than the reach of the resampling and of the masks."""
_QUARTERS = ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25))

MOST_SOURCES = 0.8
"""Share of source pixels above which the sky is measured on sources as well (they cancel, but for their wings)."""


@dataclass(frozen=True)
class Prepared:
    """Aligned images and what was learnt while aligning them.

    Attributes
    ----------
    new, ref : (ny, nx) float32, DN
        Science and reference, sky removed, science flux scale, finite.
    sky : (ny, nx) float32, DN
        Sky level of the science image.
    var_new, var_ref : (ny, nx) float32, DN^2
        Pixel variances, finite and positive.
    mask : (ny, nx) uint16
        OR of the masks, bad pixels grown.
    flagged : (ny, nx) bool
        Pixels of either image that are no measurement, not grown: ghosts and halos are extra light under a good one.
    blocked : (ny, nx) bool
        Bad in either image, grown.
    no_data : (ny, nx) bool
        Outside the reference or without a number in either image.
    tiles : list of Tile
    match : StarMatch
    n_tried : int
        Stars that were compared; those of `match` agree.
    warp : Warp
    gain : float
        Science DN per reference DN.
    expected_gain : float
        The same from the zero points; NaN where they are not known.
    """

    new: np.ndarray
    ref: np.ndarray
    sky: np.ndarray
    var_new: np.ndarray
    var_ref: np.ndarray
    mask: np.ndarray
    flagged: np.ndarray
    blocked: np.ndarray
    no_data: np.ndarray
    tiles: list[Tile]
    match: StarMatch
    n_tried: int
    warp: Warp
    gain: float
    expected_gain: float


@dataclass(frozen=True)
class _OnGrid:
    """The reference on the science grid, on its own flux scale; 0 where it is missing."""

    pixels: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    missing: np.ndarray
    bad: np.ndarray


@dataclass(frozen=True)
class _Science:
    """The science image without its sky, bad pixels bridged."""

    new: np.ndarray
    sky: np.ndarray
    variance: np.ndarray
    bad: np.ndarray


def prepare(inputs: DifferenceInputs, config: DifferenceConfig) -> Prepared:
    """Resample, align, scale and patch.

    The reference is resampled through the two WCS; star stamps give the residual warp, which is applied when it is
    significant; then the flux ratio (median over the stars, or the zero points' where there are too few), the smooth
    sky, and the patches of bad pixels.
    """
    science = _start(inputs)
    shape = (science.new.shape[0], science.new.shape[1])
    grid = coarse_grid(wcs_of(inputs.science.header), wcs_of(inputs.reference.header), shape, config.grid_step_px)
    tiles = make_tiles(inputs, grid, config)
    images = (*_filled(inputs, config), np.ascontiguousarray(inputs.reference.uncertainty, np.float32))
    match, tried = _match(inputs, science, _around_stars(inputs, science, images, grid, config), tiles, config)
    warp = fit_warp(match, shape, config)
    crooked = warp.significance >= config.warp_significance and config.warp_min_px <= warp.size <= config.max_warp_px
    if crooked:
        log.info("residual warp of %.3f px (%.0f sigma) applied", warp.size, warp.significance)
        grid = _warped(grid, warp)
        tiles = make_tiles(inputs, grid, config, tiles)  # the resampling has other sub-pixel phases now
    ref = _on_grid(images[0], images[1], images[2], grid, config)
    if crooked:
        match, tried = _match(inputs, science, ref, tiles, config)
        warp = replace(fit_warp(match, shape, config), size=warp.size, significance=warp.significance)
    expected = _expected_gain(inputs)
    enough = match.size >= config.min_matches or (match.size >= 3 and not np.isfinite(expected))
    gain = match.gain if enough else expected
    return _join(inputs, science, ref, tiles, (match, tried), warp, (gain, expected), config)


def _start(inputs: DifferenceInputs) -> _Science:
    """Take the sky out of the science image, flag its bad pixels, make its variances."""
    source = inputs.science
    pixels, mask = np.ascontiguousarray(source.pixels, np.float32), np.ascontiguousarray(source.mask, np.uint16)
    sky = np.ascontiguousarray(source.background.level, np.float32)
    per_dn, read_variance = _noise_of(inputs)
    out = _Science(np.empty_like(pixels), sky, np.empty_like(pixels), np.empty(pixels.shape, np.bool_))
    kernels.start_science(pixels, sky, mask, bits.HARD_BAD, 1 / per_dn, read_variance, out.new, out.bad, out.variance)
    resample_kernels.fill_holes(out.new, out.bad, 2)  # for the star stamps; patched from the reference later
    return out


def _noise_of(inputs: DifferenceInputs) -> tuple[float, float]:
    """DN per electron and the variance of the read noise, DN^2, of the science image."""
    header = inputs.science.header
    gain, noise = number(header, "GAIN", 6.2), number(header, "READNOI", 10.0)
    return 1 / gain, (noise / gain) ** 2


def _filled(inputs: DifferenceInputs, config: DifferenceConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and mask of the reference; what is no number is bridged and masked."""
    reference = inputs.reference
    pixels = np.ascontiguousarray(reference.pixels, np.float32)
    mask = np.ascontiguousarray(reference.mask, np.uint16)
    holes = ~np.isfinite(pixels)
    if holes.any():
        pixels, mask = pixels.copy(), mask.copy()
        kernels.flag_pixels(mask, holes, 0, bits.NAN)
        resample_kernels.fill_holes(pixels, holes, config.fill_rings)
    return pixels, mask


def _on_grid(
    pixels: np.ndarray, mask: np.ndarray, uncertainty: np.ndarray, grid: CoarseGrid, config: DifferenceConfig
) -> _OnGrid:
    """Resample pixels, mask and uncertainty of the reference."""
    out = resample_image(pixels, grid)
    noise = resample_nearest(uncertainty, grid)
    noise *= np.float32(np.median(grid.area()))
    variance = np.multiply(noise, noise, out=noise)
    flags = resample_mask(mask, grid, config.mask_reach, bits.NAN)
    missing, bad = np.empty(out.shape, np.bool_), np.empty(out.shape, np.bool_)
    kernels.start_reference(out, flags, bits.HARD_BAD, missing, bad)
    return _OnGrid(out, variance, flags, missing, bad)


def _around_stars(
    inputs: DifferenceInputs,
    science: _Science,
    images: Sequence[np.ndarray],
    grid: CoarseGrid,
    config: DifferenceConfig,
) -> _OnGrid:
    """The same around the matching stars alone, all else bad: enough to measure the warp, at a small part of the cost."""
    shape, psfcat = grid.shape, inputs.science.psfcat
    out = _OnGrid(
        pixels=np.empty(shape, np.float32),
        variance=np.empty(shape, np.float32),
        mask=np.empty(shape, np.uint16),
        missing=np.empty(shape, np.bool_),
        bad=np.ones(shape, np.bool_),
    )
    if psfcat is None:
        return out
    half = config.star_half_px + config.psf_size // 2 + 3
    side = 2 * half + 1
    offset = np.array([-half, half + 1.0])  # one cell: its second node lies beyond the window
    for k in _stars(inputs, science.bad, config):
        y, x = round(float(psfcat["ypos"][k])), round(float(psfcat["xpos"][k]))
        part = np.s_[y - half : y + half + 1, x - half : x + half + 1]
        u, v = grid.at(*np.meshgrid(x + offset, y + offset))
        i, j = max(int(u.min()) - _PAD_PX, 0), max(int(v.min()) - _PAD_PX, 0)
        cut = np.s_[j : max(int(v.max()) + _PAD_PX, j + 1), i : max(int(u.max()) + _PAD_PX, i + 1)]
        pieces = [np.ascontiguousarray(image[cut]) for image in images]
        if not pieces[0].size:
            continue
        window = CoarseGrid(u - i, v - j, side, (side, side))
        made = _on_grid(pieces[0], pieces[1], pieces[2], window, config)
        for whole, piece in zip(vars(out).values(), vars(made).values(), strict=True):
            whole[part] = piece
    return out


def _warped(grid: CoarseGrid, warp: Warp) -> CoarseGrid:
    """Grid that reads the reference where the science image's stars are: at x - shift instead of x."""
    x, y = grid.nodes()
    dx, dy = warp.at(x, y, grid.shape)
    moved = grid.at(x - dx, y - dy)
    return CoarseGrid(moved[0], moved[1], grid.step, grid.shape).shifted(np.zeros(1), np.zeros(1))


def make_tiles(
    inputs: DifferenceInputs, grid: CoarseGrid, config: DifferenceConfig, before: Sequence[Tile] = ()
) -> list[Tile]:
    """Tiles with the two local PSFs at their centres; those of the science image from earlier tiles where there are any."""
    science, reference = inputs.science, inputs.reference
    if reference.psf is None or science.psf is None:
        raise BadDifference("science image and reference both need a PSF to be subtracted")
    tiles = []
    for k, core in enumerate(tile_cores(grid.shape, config)):
        y, x = 0.5 * (core[0] + core[1] - 1), 0.5 * (core[2] + core[3] - 1)
        rx, ry = (float(v) for v in grid.at(np.array(x), np.array(y)))
        rx, ry = min(max(rx, 0.0), reference.pixels.shape[1] - 1.0), min(max(ry, 0.0), reference.pixels.shape[0] - 1.0)
        phase = tuple(float(v) % 1.0 for v in grid.at(np.array(round(x)), np.array(round(y))))
        new = before[k].psf_new if before else _normalised(effective_psf(science.psf, x, y, config.psf_size))
        ref = _normalised(effective_psf(reference.psf, rx, ry, config.psf_size, phase))
        tiles.append(Tile(core, with_margin(core, grid.shape, config.tile_margin_px), new, ref))
    return tiles


def effective_psf(psf: Psf, x: float, y: float, size: int, phase: tuple[float, ...] | None = None) -> np.ndarray:
    """The PSF as the convolutions of the difference need it.

    *Free of folded light.* In an undersampled stamp light from beyond the Nyquist frequency adds up in the central pixel, as
    it does for a star in the centre of a pixel and for no other. Stamps of stars a quarter of a pixel off the centre to all
    four sides are shifted back in Fourier space and averaged: the folded part turns with the position in the pixel and
    cancels, the rest stays.

    *As resampled.* Lanczos-3 weights of the sub-pixel phase p dampen what is near Nyquist: their transform,
    sum_k w(k - p) exp(2 pi i f (k - p)), multiplies that of the PSF.

    Both are band-limited changes, which ring; they are faded out between `_FADE` pixels from the centre.

    Parameters
    ----------
    psf : Psf
    x, y : float
        Image position, pixels.
    size : int
        Odd.
    phase : (x, y), optional
        Sub-pixel phase of the resampling in [0, 1); None for an image that was not resampled.

    Returns
    -------
    (size, size) float64
    """
    back, fade, (fx, fy) = _psf_grid(size)
    stamps = np.stack([psf.stamp(x, y, size, dx, dy) for dx, dy in _QUARTERS])
    total = np.sum(fft.rfft2(stamps, (_PSF_GRID, _PSF_GRID)) * back, axis=0)
    if phase is not None:
        total *= _lanczos_response(phase[0], fx)[None, :] * _lanczos_response(phase[1], fy)[:, None]
    plain = psf.stamp(x, y, size).astype(float)
    return np.asarray(plain + fade * (fft.irfft2(total, (_PSF_GRID, _PSF_GRID))[:size, :size] - plain))


@lru_cache(maxsize=4)
def _psf_grid(size: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Phases that shift the four stamps back, with the 1/4 of their mean; the fading weights; the frequencies."""
    fx, fy = np.fft.rfftfreq(_PSF_GRID), np.fft.fftfreq(_PSF_GRID)
    back = np.stack([0.25 * np.exp(2j * np.pi * (fx[None, :] * dx + fy[:, None] * dy)) for dx, dy in _QUARTERS])
    offset = np.arange(size) - size // 2
    distance = np.hypot(offset[:, None], offset[None, :])
    fade = 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - _FADE[0]) / (_FADE[1] - _FADE[0]), 0.0, 1.0))
    return back.astype(np.complex64), fade, (fx, fy)


@lru_cache(maxsize=1)
def _lanczos_table() -> np.ndarray:
    return resample_kernels.lanczos_table()


def _lanczos_response(phase: float, frequency: np.ndarray) -> np.ndarray:
    """Transform of the Lanczos-3 weights of one phase at frequencies in cycles per pixel; same shape, complex."""
    table = _lanczos_table()
    weights = table[:, round(phase * (table.shape[1] - 1))].astype(float)
    at = np.arange(resample_kernels.TAPS) - 2 - phase
    return np.asarray(np.exp(2j * np.pi * frequency[:, None] * at) @ weights)


def _normalised(stamp: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(stamp / stamp.sum(), np.float32)


def _match(
    inputs: DifferenceInputs, science: _Science, ref: _OnGrid, tiles: list[Tile], config: DifferenceConfig
) -> tuple[StarMatch, int]:
    """Matching stars of the two images, and how many were tried."""
    psfcat = inputs.science.psfcat
    if psfcat is None:
        raise BadDifference("the science image has no PSF catalog")
    rows = _stars(inputs, science.bad | ref.bad, config)
    variances = science.variance, ref.variance
    match = match_stars(science.new, ref.pixels, variances, psfcat, rows, tiles, config)
    return without_movers(match), rows.size


def _stars(inputs: DifferenceInputs, bad: np.ndarray, config: DifferenceConfig) -> np.ndarray:
    """Rows of the PSF catalog to match."""
    source = inputs.science
    saturate, magzp = number(source.header, "SATURATE", np.inf), number(source.header, "MAGZP", np.nan)
    assert source.psfcat is not None  # asked for before
    return select_stars(source.psfcat, source.pixels, bad, saturate, magzp, config)


def _expected_gain(inputs: DifferenceInputs) -> float:
    """Science DN per reference DN from the zero points."""
    new, ref = (number(h, "MAGZP", np.nan) for h in (inputs.science.header, inputs.reference.header))
    return float(10 ** (0.4 * (new - ref)))


def _join(
    inputs: DifferenceInputs,
    science: _Science,
    ref: _OnGrid,
    tiles: list[Tile],
    matched: tuple[StarMatch, int],
    warp: Warp,
    gains: tuple[float, float],
    config: DifferenceConfig,
) -> Prepared:
    """Scale, sky, patches, variances, masks."""
    gain = gains[0] if np.isfinite(gains[0]) else 1.0
    bad = science.bad | ref.bad
    mask = inputs.science.mask | ref.mask
    mesh = residual_sky(science.new, ref.pixels, gain, _not_sky(mask, bad), config)
    both = np.empty(bad.shape, np.bool_)
    per_dn, read_variance = _noise_of(inputs)
    kernels.match_and_patch(
        science.new, ref.pixels, science.bad, ref.bad, mesh, config.background_box_px, gain, both, science.sky, per_dn,
        read_variance, science.variance,
    )  # fmt: skip
    var_ref = np.multiply(ref.variance, np.float32(gain * gain), out=ref.variance)
    variances = _clean_variance(science.variance, science.bad), _clean_variance(var_ref, ref.bad)
    _mend_stars(inputs, science, ref, tiles, both, variances, config)
    resample_kernels.fill_holes(science.new, both, config.fill_rings)
    resample_kernels.fill_holes(ref.pixels, both, config.fill_rings)
    flagged = bad.copy()
    blocked = grown_bad(mask, bad, config)
    kernels.flag_pixels(mask, blocked, bits.HARD_BAD, bits.NAN)
    return Prepared(
        new=science.new,
        ref=ref.pixels,
        sky=science.sky,
        var_new=variances[0],
        var_ref=variances[1],
        mask=mask,
        flagged=flagged,
        blocked=blocked,
        no_data=ref.missing | ~np.isfinite(inputs.science.pixels),
        tiles=tiles,
        match=matched[0],
        n_tried=matched[1],
        warp=warp,
        gain=gains[0],
        expected_gain=gains[1],
    )


def _mend_stars(
    inputs: DifferenceInputs,
    science: _Science,
    ref: _OnGrid,
    tiles: list[Tile],
    both: np.ndarray,
    variances: tuple[np.ndarray, np.ndarray],
    config: DifferenceConfig,
) -> None:
    """Bad pixels of bright stars, the light of the brightest beyond the PSF stamps, and the errors of patches; in place."""
    psfcat, psf = inputs.science.psfcat, inputs.science.psf
    assert psfcat is not None and psf is not None  # asked for before
    images = science.new, ref.pixels
    stars = bright_stars(psfcat, psf.outside, config.mend_star_dn, both.shape)
    mend(*images, science.bad, ref.bad, both, stars, tiles, config)
    sigma = float(np.sqrt(sum(np.median(v[::7, ::5]) for v in variances)))
    brightest = bright_stars(psfcat, psf.outside, config.halo_star_dn, both.shape)
    remove_halos(*images, science.bad | ref.bad, brightest, sigma, config)
    for variance, bad, pixels in zip(variances, (science.bad, ref.bad), images, strict=True):
        rows = np.flatnonzero(bad)
        variance.ravel()[rows] += (np.float32(config.patch_error) * np.maximum(pixels.ravel()[rows], 0)) ** 2


def _not_sky(mask: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Bad pixels and those of sources; in fields so crowded that little else is left, the bad ones alone."""
    sources = bad | ((mask & bits.SOURCE_TEMPLATE) != 0)
    return sources if np.count_nonzero(sources) < MOST_SOURCES * sources.size else bad


def grown_bad(mask: np.ndarray, bad: np.ndarray, config: DifferenceConfig) -> np.ndarray:
    """Bad pixels, grown where their rims are not sharp: by little around hits and gaps, farther around saturated ones.

    Sharp detector defects are not grown: they are patched from the other image and leave nothing around them.

    Parameters
    ----------
    mask : (ny, nx) uint16
    bad : (ny, nx) bool
    config : DifferenceConfig

    Returns
    -------
    (ny, nx) bool
    """
    grown = (mask & (bits.SPIKE | bits.TRACK | bits.NAN)) != 0
    resample_kernels.grow(grown, config.mask_growth_px)
    grown |= bad
    saturated = (mask & bits.SATURATED) != 0
    if saturated.any():
        resample_kernels.grow(saturated, config.saturated_growth_px)
        grown |= saturated
    return grown


def _clean_variance(variance: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Variance with the median of the good pixels at bad ones, in place; never below a thousandth of it."""
    sample, good = variance[::5, ::3], ~bad[::5, ::3]
    sample = sample[good & np.isfinite(sample)]
    middle = float(np.median(sample)) if sample.size else 1.0
    variance.ravel()[np.flatnonzero(bad)] = middle
    return np.maximum(variance, np.float32(max(1e-3 * middle, 1e-12)), out=variance)
