"""Find sources in a sky-subtracted image: matched filter, seeing, positions and shapes before there is a PSF."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ztfds.config.photometry import DetectionConfig
from ztfds.kernels import detect as kernels
from ztfds.photometry.background import Background

log = logging.getLogger(__name__)

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
GAUSSIAN_TO_HALF_MAXIMUM = (
    0.90  # a seeing profile's wings widen its matched Gaussian: FWHM of a Moffat (beta 3) over it
)


@dataclass(frozen=True)
class Detections:
    """Positions of local maxima, brightest first.

    Attributes
    ----------
    x, y : (n,) float64, pixels, 0-based
    flux : (n,) float64, DN, rough flux from the height of the matched-filter peak
    snr : (n,) float64, signal to noise in the matched filter
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    snr: np.ndarray

    def __len__(self) -> int:
        return self.x.size

    def __getitem__(self, chosen: np.ndarray) -> Detections:
        return Detections(self.x[chosen], self.y[chosen], self.flux[chosen], self.snr[chosen])


@dataclass(frozen=True)
class Shapes:
    """Gaussian-weighted moments of detections (improved positions); NaN where they could not be measured.

    Attributes
    ----------
    x, y : (n,) float64, pixels
    flux : (n,) float64, DN, flux of the matched Gaussian (a constant fraction of the total for stars)
    fwhm : (n,) float64, pixels, of the matched round Gaussian
    ellipticity : (n,) float64, sqrt((xx - yy)^2 + 4 xy^2) / (xx + yy)
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    fwhm: np.ndarray
    ellipticity: np.ndarray


@dataclass(frozen=True)
class MatchedFilter:
    """A Gaussian of the seeing minus a box, with its noise gain and its response to a point source."""

    taps: np.ndarray
    half_box: int
    noise_gain: float
    response: float

    def apply(self, pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Filter a sky-subtracted (ny, nx) float32 image."""
        out = np.empty_like(pixels) if out is None else out
        kernels.lowered_filter(pixels, self.taps, self.half_box, out)
        return out


def matched_filter(fwhm_px: float, config: DetectionConfig, flat: bool = False) -> MatchedFilter:
    """Build the filter for a seeing of `fwhm_px` pixels.

    With `flat` the image holds no bright stars any more: a wider box takes less of a source's light out.
    """
    sigma = config.filter_fwhm * max(fwhm_px, 1.0) / FWHM_PER_SIGMA
    half = int(np.ceil(2.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    taps /= taps.sum()
    half_box = max(half + 1, round((config.residual_box_fwhm if flat else config.box_fwhm) * fwhm_px))
    side = 2 * half_box + 1
    kernel = np.full((side, side), -1.0 / side**2)
    inner = slice(half_box - half, half_box + half + 1)
    kernel[inner, inner] += np.outer(taps, taps)
    offsets = np.arange(-half_box, half_box + 1)
    sigma = max(fwhm_px, 1.0) / FWHM_PER_SIGMA
    star = np.exp(-0.5 * (offsets / sigma) ** 2)
    star /= star.sum()
    response = float((kernel * np.outer(star, star)).sum())
    return MatchedFilter(taps.astype(np.float32), half_box, float(np.sqrt((kernel**2).sum())), response)


def find_sources(
    residual: np.ndarray,
    data: np.ndarray,
    usable: np.ndarray,
    background: Background,
    gain: float,
    fwhm_px: float,
    config: DetectionConfig,
    limit: float,
    flat: bool = False,
) -> Detections:
    """Local maxima of the matched filter above `limit` sigmas.

    Parameters
    ----------
    residual, data : (ny, nx) float32, DN, sky-subtracted, with and without models subtracted (the same array at first)
    usable : (ny, nx) bool
    gain : e-/DN
    fwhm_px : seeing, pixels
    flat : whether `residual` holds no bright stars any more (see `matched_filter`)

    Returns
    -------
    Detections, brightest first, at most config.max_sources
    """
    filt = matched_filter(fwhm_px, config, flat)
    filtered = filt.apply(residual)
    room = min(config.max_sources, residual.size // 4 + 1)
    x, y, flux, snr = np.empty((4, room))
    floor = limit * filt.noise_gain * float(np.sqrt(background.mesh_variance.min()))
    n = kernels.find_peaks(
        filtered, data, residual, usable, background.mesh_variance, background.box, limit, filt.noise_gain,
        filt.response, gain, config.residual_damping, floor, x, y, flux, snr,
    )  # fmt: skip
    order = np.argsort(-flux[:n], kind="stable")
    return Detections(x[order], y[order], flux[order], snr[order])


def measure_shapes(
    data: np.ndarray, usable: np.ndarray, found: Detections, fwhm_px: float, refine: bool = True
) -> Shapes:
    """Adaptive Gaussian moments of detections; positions stay those of the peaks where the iteration fails."""
    x, y = found.x.copy(), found.y.copy()
    flux, xx, yy, xy = np.empty((4, x.size))
    kernels.adaptive_moments(data, usable, x, y, fwhm_px / FWHM_PER_SIGMA, flux, xx, yy, xy)
    if not refine:
        x, y = found.x, found.y
    with np.errstate(invalid="ignore"):
        fwhm = FWHM_PER_SIGMA * np.sqrt(0.5 * (xx + yy))
        ellipticity = np.hypot(xx - yy, 2.0 * xy) / (xx + yy)
    return Shapes(x, y, flux, fwhm, ellipticity)


def measure_fwhm(data: np.ndarray, usable: np.ndarray, found: Detections, config: DetectionConfig) -> tuple[float, int]:
    """Seeing of an image from its brightest clean detections.

    Galaxies are wider and cosmic rays narrower than stars: the estimate is the half-sample mode of the widths, the densest
    place of their distribution.

    Returns
    -------
    FWHM in pixels (config.start_fwhm_px when nothing can be measured), number of detections used
    """
    clean = found[_clean_cores(usable, found)]
    bright = clean[np.arange(min(config.fwhm_stars, len(clean)))]
    if len(bright) == 0:
        return config.start_fwhm_px, 0
    shapes = measure_shapes(data, usable, bright, config.start_fwhm_px)
    width = np.sort(shapes.fwhm[np.isfinite(shapes.fwhm) & (shapes.ellipticity < 0.3) & (shapes.fwhm > 1.0)])
    if width.size == 0:
        return config.start_fwhm_px, 0
    return GAUSSIAN_TO_HALF_MAXIMUM * half_sample_mode(width), int(width.size)


def half_sample_mode(ordered: np.ndarray) -> float:
    """Mode of ordered values by repeatedly taking their densest half (Bickel & Fruehwirth 2006)."""
    values = ordered
    while values.size > 8:
        half = values.size // 2
        start = int(np.argmin(values[half:] - values[: values.size - half]))
        values = values[start : start + half]
    return float(np.median(values))


def _clean_cores(usable: np.ndarray, found: Detections, half: int = 2) -> np.ndarray:
    """True for detections whose (2 half + 1)^2 central pixels are inside the image and usable."""
    ny, nx = usable.shape
    ix, iy = np.rint(found.x).astype(int), np.rint(found.y).astype(int)
    inside = (ix >= half) & (iy >= half) & (ix < nx - half) & (iy < ny - half)
    clean = inside.copy()
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            clean[inside] &= usable[iy[inside] + dy, ix[inside] + dx]
    return clean


def saturated_cores(saturated: np.ndarray, least_px: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres and radii of connected groups of saturated pixels: stars whose peak cannot be found.

    Parameters
    ----------
    saturated : (ny, nx) bool
    least_px : smallest group

    Returns
    -------
    x, y : (n,) float64, pixels; radius : (n,) float64, pixels, of the disc of the same area, or of the group's shorter side
        where charge has bled
    """
    rows, columns = np.nonzero(saturated)
    if rows.size == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    pairs = cKDTree(np.c_[columns, rows]).query_pairs(1.5, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(rows.size, rows.size))
    n, group = connected_components(graph, directed=False)
    sizes = np.bincount(group, minlength=n)
    order = np.argsort(group, kind="stable")
    xs, ys, radii = [], [], []
    for members in np.split(order, np.cumsum(sizes)[:-1]):
        if members.size < least_px:
            continue
        # bleeding runs along a column or row: the star sits where the group is widest
        x, y = _widest(columns[members] - columns[members].min(), rows[members] - rows[members].min())
        xs.append(columns[members].min() + x)
        ys.append(rows[members].min() + y)
        side = min(np.ptp(columns[members]), np.ptp(rows[members])) + 1
        radii.append(min(np.sqrt(members.size / np.pi), 0.75 * side))
    return np.array(xs, float), np.array(ys, float), np.array(radii, float)


def _widest(columns: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Centre of a group weighted by how wide it is there, so that thin trails do not pull."""
    per_row = np.bincount(rows)[rows].astype(float)
    per_column = np.bincount(columns)[columns].astype(float)
    weight = (per_row * per_column) ** 2
    return float(np.average(columns, weights=weight)), float(np.average(rows, weights=weight))
