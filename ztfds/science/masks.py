"""Artefacts of a science image put into its mask: radiation hits, tracks, ghosts and halos, edges."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from ztfds.config.detrend import GhostModel, MaskConfig
from ztfds.kernels import lines, masks
from ztfds.science.tracks import Track, find_tracks
from ztfds.survey import bits

logger = logging.getLogger(__name__)

_UNUSABLE = bits.LOW_RESPONSE | bits.NOISY | bits.DEAD | bits.NAN
_SAMPLES = 60_000
"""Pixels that tell the noise of the sky: half of them lie below its level and make it good to half a per cent."""
BRIGHT_STAR_DTYPE = np.dtype([("x", "f8"), ("y", "f8"), ("mag", "f8")])
"""Bright catalog stars: position in pixels of this quadrant (0-based, may lie outside the image) and magnitude."""


@dataclass(frozen=True)
class Artifacts:
    """What was found.

    Attributes
    ----------
    mask : (ny, nx) uint16
        The given mask with SPIKE, TRACK, GHOST, HALO (and LOW_RESPONSE along the edges if `edge_px` > 0) added.
    tracks : list of Track
        The most significant first.
    n_hit_pixels : int
        Pixels hit by radiation.
    """

    mask: np.ndarray
    tracks: list[Track]
    n_hit_pixels: int


def mask_artifacts(
    pixels: np.ndarray,
    mask: np.ndarray,
    background: np.ndarray | float,
    gain: float,
    readnoise: float,
    psf_fwhm: float,
    config: MaskConfig,
    bright_stars: np.ndarray | None = None,
    optical_axis: tuple[float, float] | None = None,
    pixel_scale_arcsec: float = 1.012,
) -> Artifacts:
    """Add the artefacts of a detrended image to its mask.

    Parameters
    ----------
    pixels : (ny, nx) float32
        Detrended image, DN, sky still in; NaN allowed where the mask says so.
    mask : (ny, nx) uint16
        Mask after detrending; not changed.
    background : (ny, nx) float32 or float
        Sky level, DN.
    gain : float
        e-/DN.
    readnoise : float
        e-.
    psf_fwhm : float
        FWHM of the stars as sampled, pixels.
    config : MaskConfig
    bright_stars : structured array of `BRIGHT_STAR_DTYPE` or (n, 3) float, optional
        Stars for ghosts and halos, also those beyond the borders within reach.
    optical_axis : (x, y), optional
        Where the optical axis pierces the focal plane in pixels of this quadrant; needed by ghosts that depend on the
        star's distance from it (without it those are left out).
    pixel_scale_arcsec : float
        Arcsec per pixel.

    Returns
    -------
    Artifacts
    """
    pixels, out = np.ascontiguousarray(pixels, np.float32), np.array(mask, np.uint16, order="C")
    level = _level_map(background, pixels.shape)
    state = _state(pixels, out, config)
    noise = sky_noise(pixels, level, state, gain, readnoise)
    sky = float(np.median(_thinned(level)))
    read_variance = noise**2 - max(sky, 0.0) / gain
    n_hits = find_hits(pixels, level, state, gain, read_variance, psf_fwhm, config)
    masks.mark_state(state, 1, bits.SPIKE, out)
    tracks = find_tracks(pixels, level, state, noise, config)
    paint_tracks(out, tracks)
    if bright_stars is not None:
        paint_ghosts(out, bright_stars, config.ghosts, optical_axis, pixel_scale_arcsec)
    paint_edges(out, config.edge_px)
    logger.info("masked %d pixels of radiation hits, %d tracks", n_hits, len(tracks))
    return Artifacts(out, tracks, n_hits)


def _level_map(background: np.ndarray | float, shape: tuple[int, ...]) -> np.ndarray:
    """Sky level as a contiguous float32 map."""
    if np.ndim(background) == 0:
        return np.full(shape, background, np.float32)
    return np.ascontiguousarray(background, np.float32)


def _thinned(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel of every n-th row, at least `_SAMPLES` where the image has so many."""
    step = max(1, int(math.sqrt(image.size / _SAMPLES)))
    return image[::step, ::step]


def sky_noise(pixels: np.ndarray, level: np.ndarray, state: np.ndarray, gain: float, readnoise: float) -> float:
    """Noise of a sky pixel, DN: from gain and read noise, or as measured on pixels below the sky level if that is more.

    Arguments as for `mask_artifacts`; `state` is 0 for usable pixels. With too small a noise the search would eat the sky.
    """
    expected = math.sqrt(max(float(np.median(_thinned(level))), 0.0) / gain + (readnoise / gain) ** 2)
    below = (_thinned(level) - _thinned(pixels))[_thinned(state) == 0]
    below = below[below > 0]
    measured = 1.4826 * float(np.median(below)) if below.size > 100 else 0.0
    return max(expected, measured)


def _state(pixels: np.ndarray, mask: np.ndarray, config: MaskConfig) -> np.ndarray:
    """Which pixels may be looked at (0) and which not (2): bad ones, and saturated ones with a margin."""
    state = np.empty(pixels.shape, np.uint8)
    masks.unusable_pixels(pixels, mask, _UNUSABLE, bits.SATURATED, config.saturated_margin_px, state)
    return state


def find_hits(
    pixels: np.ndarray,
    level: np.ndarray,
    state: np.ndarray,
    gain: float,
    read_variance: float,
    psf_fwhm: float,
    config: MaskConfig,
) -> int:
    """Mark pixels hit by radiation in `state` (0 to 1); returns how many. See `kernels.masks.radiation_hits`.

    `pixels`, `level` (ny, nx) float32 DN; `state` (ny, nx) uint8, 2 where nothing is to be found; `read_variance` DN^2;
    `psf_fwhm` pixels. Without a believable FWHM nothing is marked: rather a hit in the catalog than a star in the mask.
    """
    if not psf_fwhm >= config.hit_min_fwhm_px:
        logger.warning("no radiation hits looked for: the FWHM is %.2f px", psf_fwhm)
        return 0
    return masks.radiation_hits(
        pixels, level, state, masks.SHARPNESS_TESTS, masks.sharpness_ratios(psf_fwhm * config.hit_fwhm_factor),
        gain, read_variance, config.hit_candidate_sigma, config.hit_excess_sigma, config.hit_sharp_sigma,
        config.hit_grow_excess_sigma, config.hit_grow_sharp_sigma, config.hit_grow_rounds,
    )  # fmt: skip


def paint_tracks(mask: np.ndarray, tracks: list[Track]) -> None:
    """Set TRACK in `mask` (ny, nx) uint16 along each track."""
    for track in tracks:
        n = lines.paint_line(mask, bits.TRACK, track.x0, track.y0, track.x1, track.y1, track.half_width)
        logger.info("track (%.0f, %.0f)-(%.0f, %.0f): %.1f sigma, %.1f DN, half-width %.1f px, %d pixels",
                    track.x0, track.y0, track.x1, track.y1, track.sigma, track.peak_dn, track.half_width, n)  # fmt: skip


def paint_ghosts(
    mask: np.ndarray,
    stars: np.ndarray,
    models: tuple[GhostModel, ...],
    optical_axis: tuple[float, float] | None,
    pixel_scale_arcsec: float,
) -> None:
    """Set GHOST and HALO in `mask` (ny, nx) uint16 around (or opposite) each star bright enough for a model.

    Geometry: `GhostModel`; `stars` as for `mask_artifacts`.
    """
    for x, y, mag in _rows(stars):
        for model in models:
            needs_axis = model.radial_scale != 1.0 or model.size_per_deg != 0.0
            if not mag <= model.max_mag or (optical_axis is None and needs_axis):
                continue
            ax, ay = optical_axis or (x, y)
            cx, cy = ax + model.radial_scale * (x - ax), ay + model.radial_scale * (y - ay)
            radii = model.radii_arcsec(mag, math.hypot(x - ax, y - ay) * pixel_scale_arcsec / 3600.0)
            bit = bits.HALO if model.kind == "halo" else bits.GHOST
            lines.paint_annulus(mask, bit, cx, cy, *(radius / pixel_scale_arcsec for radius in radii))


def _rows(stars: np.ndarray) -> np.ndarray:
    """Stars as (n, 3) float64: x, y, mag."""
    if stars.dtype.names:
        return np.column_stack([np.asarray(stars[name], np.float64) for name in ("x", "y", "mag")])
    return np.asarray(stars, np.float64).reshape(-1, 3)


def paint_edges(mask: np.ndarray, width: int) -> None:
    """Set LOW_RESPONSE in the outermost `width` rows and columns of `mask`."""
    if width > 0:
        bit = np.uint16(bits.LOW_RESPONSE)
        for border in (mask[:width], mask[-width:], mask[:, :width], mask[:, -width:]):
            border |= bit
