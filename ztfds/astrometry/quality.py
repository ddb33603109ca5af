"""Residuals of a solution in cells of the image."""

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
        """Length of the largest median residual among cells with 3 stars or more (1 or more if there is no such)."""
        length = np.hypot(self.median_ra_arcsec, self.median_dec_arcsec)
        enough = self.count >= min(3, int(self.count.max()))
        return float(np.nanmax(length[enough]))


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


def brightness_trend(residual: FloatArray, brightest_first: IntArray) -> float:
    """Length of the difference between the median residuals (n, 2) of the brightest and of the faintest third.

    Same unit as the residuals; NaN below 9 stars. Colour (refraction), saturation and charge transfer move bright and faint
    stars apart; a good solution of a good image has no trend beyond the medians' errors.
    """
    third = len(brightest_first) // 3
    if third < 3:
        return float("nan")
    bright, faint = residual[brightest_first[:third]], residual[brightest_first[-third:]]
    return float(np.hypot(*(np.median(bright, axis=0) - np.median(faint, axis=0))))


def robust_rms(values: FloatArray) -> float:
    """Scatter about zero from the 68.3 percentile of absolute values; NaN for none."""
    return float(np.percentile(np.abs(values), 68.27)) if values.size else float("nan")
