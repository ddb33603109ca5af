"""Which detections make the PSF: bright, unsaturated, isolated, star-like, spread over the field."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from ztfds.config.photometry import PsfConfig
from ztfds.photometry.detection import Detections, Shapes, half_sample_mode

EDGE_PX = 6  # a star nearer to the edge misses too much of its core's surroundings
CELLS = 4  # stars are taken in turn from CELLS x CELLS parts of the image
LEAST_GROUP, GROUP_SHARE = 8, 0.15  # that many narrower candidates, absolutely and as a share, are the single stars
SATURATED_PX = 25.0  # no PSF star this near to a saturated one, pixels


def select_stars(
    data: np.ndarray,
    usable: np.ndarray,
    found: Detections,
    shapes: Shapes,
    peak_limit: np.ndarray,
    saturated_xy: np.ndarray,
    config: PsfConfig,
) -> np.ndarray:
    """Choose PSF stars.

    Parameters
    ----------
    data : (ny, nx) float32, DN, sky-subtracted;  usable : (ny, nx) bool
    found, shapes : detections, brightest first, and their moments (the brightest len(shapes.x) of them)
    peak_limit : (n,) float64, DN above sky, per shape: highest central pixel of a star that counts as unsaturated
    saturated_xy : (m, 2) positions of saturated stars, pixels

    Returns
    -------
    indices into `found`, at most config.max_stars; fewer (even none) where nothing fits
    """
    n = shapes.x.size
    sane = _inside(usable.shape, shapes) & _sane_core(data, usable, shapes, peak_limit)
    sane &= np.isfinite(shapes.fwhm) & _far_from(saturated_xy, shapes)
    chosen = np.empty(0, int)
    for snr, ratio in (
        (config.min_snr, config.isolation_flux_ratio),
        (config.min_snr, config.relaxed_flux_ratio),
        (config.relaxed_snr, config.relaxed_flux_ratio),
    ):
        candidates = np.flatnonzero(sane & (found.snr[:n] >= snr))
        candidates = candidates[_isolated(found, candidates, config.isolation_px, ratio)]
        chosen = candidates[_alike(shapes, candidates, config.width_clip)]
        if chosen.size >= config.wanted_stars:
            break
    return _spread(shapes, chosen, usable.shape, config.max_stars)


def _inside(shape: tuple[int, ...], shapes: Shapes) -> np.ndarray:
    ny, nx = shape
    return (shapes.x > EDGE_PX) & (shapes.y > EDGE_PX) & (shapes.x < nx - 1 - EDGE_PX) & (shapes.y < ny - 1 - EDGE_PX)


def _sane_core(data: np.ndarray, usable: np.ndarray, shapes: Shapes, peak_limit: np.ndarray) -> np.ndarray:
    """Nothing bad in the central 7 x 7 pixels, and the highest of the central 3 x 3 below the limit."""
    ny, nx = data.shape
    ix = np.clip(np.rint(np.nan_to_num(shapes.x)).astype(int), 3, nx - 4)
    iy = np.clip(np.rint(np.nan_to_num(shapes.y)).astype(int), 3, ny - 4)
    good = np.ones(ix.size, bool)
    peak = np.full(ix.size, -np.inf)
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            good &= usable[iy + dy, ix + dx]
            if abs(dy) <= 1 and abs(dx) <= 1:
                peak = np.maximum(peak, data[iy + dy, ix + dx])
    return good & (peak < peak_limit)


def _far_from(saturated_xy: np.ndarray, shapes: Shapes) -> np.ndarray:
    if len(saturated_xy) == 0:
        return np.ones(shapes.x.size, bool)
    distance, _ = cKDTree(saturated_xy).query(np.c_[np.nan_to_num(shapes.x), np.nan_to_num(shapes.y)])
    return np.asarray(distance > SATURATED_PX)


def _isolated(found: Detections, candidates: np.ndarray, radius: float, ratio: float) -> np.ndarray:
    """True where no other detection within `radius` pixels has more than `ratio` of the star's flux."""
    if candidates.size == 0:
        return np.empty(0, bool)
    tree = cKDTree(np.c_[found.x, found.y])
    near = tree.query_ball_point(np.c_[found.x[candidates], found.y[candidates]], radius)
    alone = [
        all(j == i or found.flux[j] <= ratio * found.flux[i] for j in others)
        for i, others in zip(candidates, near, strict=True)
    ]
    return np.array(alone, bool)


def _alike(shapes: Shapes, candidates: np.ndarray, clip: float) -> np.ndarray:
    """True where width and ellipticity are those of most candidates."""
    if candidates.size < 5:
        return np.ones(candidates.size, bool)
    width, flat = shapes.fwhm[candidates], shapes.ellipticity[candidates]
    usual = _usual_width(width, clip)
    # only the narrow side tells the stars' own scatter
    keep = np.abs(width - usual) < clip * _spread_about(width[width <= usual], usual, 0.01 * usual)
    middle = float(np.median(flat[keep])) if keep.any() else 0.0
    return np.asarray(keep & (np.abs(flat - middle) < clip * _spread_about(flat, middle, 0.005)))


def _usual_width(width: np.ndarray, clip: float) -> float:
    """Width of single stars: the mode of the widths, or of the narrower ones where these are a group of their own.

    Galaxies and blends are wider than stars, never narrower, and blends of one kind may be more common than single stars.
    """
    usual = half_sample_mode(np.sort(width))
    for _ in range(3):
        # the nearer half of a Gaussian sample has its median at 0.32 sigma
        core = np.sort(np.abs(width - usual))[: max(5, width.size // 2)]
        narrower = width[width < usual - clip * max(float(np.median(core)) / 0.32, 0.01 * usual)]
        if narrower.size < max(LEAST_GROUP, GROUP_SHARE * width.size):
            break
        usual = half_sample_mode(np.sort(narrower))
    return usual


def _spread_about(values: np.ndarray, middle: float, least: float) -> float:
    """Robust scatter of values about their middle, not below `least`; the far half does not count."""
    distance = np.sort(np.abs(values - middle))
    if distance.size == 0:
        return least
    return float(max(1.4826 * np.median(distance[: max(5, int(0.75 * distance.size))]), least))


def _spread(shapes: Shapes, chosen: np.ndarray, shape: tuple[int, ...], most: int) -> np.ndarray:
    """At most `most` stars, the brightest of each part of the image in turn."""
    if chosen.size <= most:
        return chosen
    ny, nx = shape
    cell = (shapes.y[chosen] * CELLS / ny).astype(int) * CELLS + (shapes.x[chosen] * CELLS / nx).astype(int)
    rank = np.empty(chosen.size, int)
    for c in np.unique(cell):
        members = np.flatnonzero(cell == c)
        rank[members] = np.arange(members.size)
    return np.sort(chosen[np.argsort(rank, kind="stable")[:most]])
