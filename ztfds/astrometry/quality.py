"""Judging a solution: chance, residuals in cells of the image, and the numbers behind INFOBITS 12 to 21."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class GridResiduals:
    """Residuals (measured minus catalog) in equal cells of the image, row 0 at y = 0.

    count (g, g); median_ra_arcsec, median_dec_arcsec (g, g) along East and North, NaN in cells with no star.
    """

    count: IntArray
    median_ra_arcsec: FloatArray
    median_dec_arcsec: FloatArray

    @property
    def min_count(self) -> int:
        """Stars in the emptiest cell."""
        return int(self.count.min())

    @property
    def max_median_arcsec(self) -> float:
        """Length of the largest median residual; cells with fewer than 3 stars say nothing; NaN if all are such."""
        length = np.hypot(self.median_ra_arcsec, self.median_dec_arcsec)[self.count >= 3]
        return float(length.max()) if length.size else float("nan")


def cell_index(x: ArrayLike, y: ArrayLike, shape: tuple[int, int], cells: int) -> IntArray:
    """Cell of each 0-based pixel position in a grid of cells x cells over an image of shape (ny, nx); row major."""
    ny, nx = shape
    column = np.clip(((np.asarray(x) + 0.5) * cells / nx).astype(np.int64), 0, cells - 1)
    row = np.clip(((np.asarray(y) + 0.5) * cells / ny).astype(np.int64), 0, cells - 1)
    result: IntArray = row * cells + column
    return result


def cell_medians(cell: IntArray, values: FloatArray, n_cells: int) -> FloatArray:
    """Median of the values of each cell (n_cells,), NaN where it is empty."""
    order = np.argsort(cell, kind="stable")
    edges = np.searchsorted(cell[order], np.arange(n_cells + 1))
    groups = (values[order[a:b]] for a, b in pairwise(edges))
    return np.array([np.median(group) if group.size else np.nan for group in groups])


def grid_residuals(
    x: ArrayLike, y: ArrayLike, east: FloatArray, north: FloatArray, shape: tuple[int, int], cells: int
) -> GridResiduals:
    """Medians of residuals east, north (n,) arcsec of stars at 0-based pixels x, y in cells x cells."""
    cell = cell_index(x, y, shape, cells)
    size = (cells, cells)
    return GridResiduals(
        np.bincount(cell, minlength=cells * cells).reshape(size),
        cell_medians(cell, east, cells * cells).reshape(size),
        cell_medians(cell, north, cells * cells).reshape(size),
    )


def residuals(
    wcs: WCS, x: ArrayLike, y: ArrayLike, ra: ArrayLike, dec: ArrayLike, shape: tuple[int, int], cells: int = 3
) -> GridResiduals:
    """Residuals of any WCS: 0-based pixels x, y of stars whose true positions are ra, dec in deg; rows paired."""
    measured_ra, measured_dec = wcs.all_pix2world(np.asarray(x), np.asarray(y), 0)
    turn = (measured_ra - np.asarray(ra) + 180.0) % 360.0 - 180.0
    east = turn * np.cos(np.radians(np.asarray(dec))) * 3600.0
    north = (measured_dec - np.asarray(dec)) * 3600.0
    return grid_residuals(x, y, east, north, shape, cells)


def log10_chance(n_matched: int, n_tried: int, density: float, radius: float, n_trials: float, n_free: int) -> float:
    """log10 of an upper bound of the probability that a wrong solution matches so many points.

    Each of `n_tried` points falls within `radius` of a random point of `density` with
    p = 1 - exp(-pi density radius^2);
    at least m successes have probability <= exp(-n KL(m / n, p)) (Chernoff), with KL(a, p) = a ln(a / p) +
    (1 - a) ln((1 - a) / (1 - p)); times the number of hypotheses. `n_free` pairs are discounted: the fit made them.
    """
    p = float(np.clip(-np.expm1(-np.pi * density * radius**2), 1e-12, 1 - 1e-12))
    a = max(0, n_matched - n_free) / max(1, n_tried)
    if a <= p:
        return 0.0
    tail = (1 - a) * np.log((1 - a) / (1 - p)) if a < 1 else 0.0
    return float(-n_tried * (a * np.log(a / p) + tail) / np.log(10) + np.log10(max(1.0, n_trials)))


def robust_rms(values: FloatArray) -> float:
    """Scatter about zero from the 68.3 percentile of absolute values; NaN for none."""
    return float(np.percentile(np.abs(values), 68.27)) if values.size else float("nan")


def contradicted_cell(
    detection_cell: IntArray,
    detection_matched: NDArray[np.bool_],
    star_cell: IntArray,
    star_matched: NDArray[np.bool_],
    n_cells: int,
) -> bool:
    """Whether some cell has bright detections and bright catalog stars in number, and neither find each other.

    A solution that is right in one part of the image and wrong in another shows so. One side alone does not count: a
    dead or clouded part has no detections, an artefact no stars. Cells need 8 of both; poor is a quarter of the mean.
    """

    def fractions(cell: IntArray, matched: NDArray[np.bool_]) -> tuple[IntArray, FloatArray]:
        n = np.bincount(cell, minlength=n_cells)
        good = np.bincount(cell, weights=matched, minlength=n_cells)
        return n, good / np.maximum(n, 1)

    n_detected, detected = fractions(detection_cell, detection_matched)
    n_stars, stars = fractions(star_cell, star_matched)
    poor = (n_detected >= 8) & (detected < 0.25 * detection_matched.mean())
    poor &= (n_stars >= 8) & (stars < 0.25 * star_matched.mean())
    return bool(poor.any())
