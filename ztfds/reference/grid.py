"""Exact pixel-to-pixel coordinate maps between two images, on a coarse grid, and resampling through them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from ztfds.kernels import resample as kernels

_AXES = ("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CDELT", "NAXIS")
_WCS_CARDS = (
    "WCSAXES", "NAXIS", *(f"{name}{i}" for name in _AXES for i in (1, 2)),
    *(f"{name}{i}_{j}" for name in ("CD", "PC") for i in (1, 2) for j in (1, 2)),
    *(f"PV{i}_{j}" for i in (1, 2) for j in range(40)), "LONPOLE", "LATPOLE", "RADESYS", "EQUINOX",
)  # fmt: skip


def wcs_of(header: fits.Header) -> WCS:
    """WCS of an image header, without astropy's remarks about harmless cards.

    Of a plain tangential or TPV header only the cards of the WCS are read: parsing the hundreds of others takes ten times
    as long.
    """
    plain = str(header.get("CTYPE1", ""))[5:] in ("TAN", "-TAN", "TPV", "-TPV") and "A_ORDER" not in header
    if plain:
        header = fits.Header([(name, header[name]) for name in _WCS_CARDS if name in header])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header)


def number(header: Mapping[str, Any], keyword: str, default: float) -> float:
    """A numeric card, or the default where it is absent or undefined."""
    value = header.get(keyword)
    return float(value) if isinstance(value, Real) else default


@dataclass(frozen=True)
class CoarseGrid:
    """Input pixel of every `step`-th output pixel; bilinear in between.

    Attributes
    ----------
    x, y : (gy, gx) float64
        Input position, 0-based pixels, of output pixel (row, column) = (j step, i step).
    step : int
    shape : (ny, nx)
        Output shape that the grid covers: every pixel lies before the last node of its axis.

    Raises
    ------
    ValueError
        The nodes do not reach beyond the last pixel; the kernels, which look at both nodes of a cell, would read past them.
    """

    x: np.ndarray
    y: np.ndarray
    step: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if any((nodes - 1) * self.step < pixels for nodes, pixels in zip(self.x.shape, self.shape, strict=True)):
            raise ValueError(f"{self.x.shape} nodes, one in {self.step} pixels, do not cover an image of {self.shape}")

    def shifted(self, dx: np.ndarray, dy: np.ndarray) -> CoarseGrid:
        """The same grid with input positions moved by (dx, dy) at each node."""
        return CoarseGrid(_plain(self.x + dx), _plain(self.y + dy), self.step, self.shape)

    def nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Output positions (x, y) of the nodes, each (gy, gx)."""
        return _nodes(self.shape, self.step)

    def area(self) -> np.ndarray:
        """(gy, gx): area of an output pixel in input pixels, |d(x_in, y_in) / d(x_out, y_out)|."""
        dxdv, dxdu = np.gradient(self.x, self.step)
        dydv, dydu = np.gradient(self.y, self.step)
        return np.abs(dxdu * dydv - dxdv * dydu)

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Input position of any output positions (x, y)."""
        u, v = np.asarray(x, float) / self.step, np.asarray(y, float) / self.step
        i = np.clip(u.astype(int), 0, self.x.shape[1] - 2)
        j = np.clip(v.astype(int), 0, self.x.shape[0] - 2)
        a, b = u - i, v - j

        def mix(grid: np.ndarray) -> np.ndarray:
            low = (1 - a) * grid[j, i] + a * grid[j, i + 1]
            return (1 - b) * low + b * ((1 - a) * grid[j + 1, i] + a * grid[j + 1, i + 1])

        return mix(self.x), mix(self.y)


def _plain(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float64)


def _nodes(shape: tuple[int, int], step: int) -> tuple[np.ndarray, np.ndarray]:
    ny, nx = shape
    y, x = np.mgrid[0 : ny + step : step, 0 : nx + step : step].astype(np.float64)
    return x, y


def coarse_grid(out_wcs: WCS, in_wcs: WCS, shape: tuple[int, int], step: int) -> CoarseGrid:
    """Map output pixels through the sky into input pixels, exactly at the nodes.

    Parameters
    ----------
    out_wcs, in_wcs : WCS
        Of the image to be made and of the image to be read.
    shape : (ny, nx)
        Output shape.
    step : int
        Pixels between nodes. With TPV distortions of ZTF's size the bilinear error at step 64 is below 1e-3 px.

    Returns
    -------
    CoarseGrid
    """
    x, y = _nodes(shape, step)
    ra, dec = out_wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    px, py = in_wcs.all_world2pix(ra, dec, 0, quiet=True)
    return CoarseGrid(_plain(px.reshape(x.shape)), _plain(py.reshape(x.shape)), step, shape)


def resample_image(image: np.ndarray, grid: CoarseGrid, factor: float = 1.0) -> np.ndarray:
    """Lanczos-3 resampling that conserves flux.

    Parameters
    ----------
    image : (my, mx) float32
        Finite everywhere.
    grid : CoarseGrid
    factor : float
        Multiplies the result (flux scale).

    Returns
    -------
    (ny, nx) float32
        NaN outside the input.
    """
    out = np.empty(grid.shape, np.float32)
    table = kernels.lanczos_table()
    scale = np.ascontiguousarray(grid.area() * factor)
    kernels.resample(np.ascontiguousarray(image, np.float32), grid.x, grid.y, scale, grid.step, table, out)
    return out


def resample_mask(mask: np.ndarray, grid: CoarseGrid, reach: int, outside: int) -> np.ndarray:
    """Mask of the resampled image: OR of the bits of the input pixels within `reach` of each sample.

    Parameters
    ----------
    mask : (my, mx) uint16
    grid : CoarseGrid
    reach : int
        Input pixels per side and axis.
    outside : int
        Bits for output pixels without input.

    Returns
    -------
    (ny, nx) uint16
    """
    mask = np.ascontiguousarray(mask, np.uint16)
    spread = np.empty_like(mask)
    kernels.spread_mask(mask, reach, spread)
    out = np.empty(grid.shape, np.uint16)
    kernels.gather_mask(spread, grid.x, grid.y, grid.step, outside, out)
    return out


def resample_nearest(image: np.ndarray, grid: CoarseGrid) -> np.ndarray:
    """Nearest-pixel resampling, for uncertainties; NaN outside."""
    out = np.empty(grid.shape, np.float32)
    kernels.gather_nearest(np.ascontiguousarray(image, np.float32), grid.x, grid.y, grid.step, out)
    return out
