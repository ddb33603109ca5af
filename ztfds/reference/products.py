"""What goes into a reference image and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from astropy.io import fits


class Psf(Protocol):
    """A spatially varying point-spread function."""

    @property
    def fwhm_px(self) -> float:
        """Full width at half maximum at the image centre, pixels."""

    @property
    def outside(self) -> float:
        """Light of a star beyond the stamp of 25 x 25 px over that within it."""

    def stamp(self, x: float, y: float, size: int = 25, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
        """(size, size) float32 of sum 1: the PSF at image position (x, y), off the stamp's centre by (dx, dy) px."""


@dataclass(frozen=True)
class ReferenceInput:
    """One calibrated science image of the field, quadrant and filter.

    Attributes
    ----------
    pixels : (ny, nx) float32, DN
        Calibrated image, sky in or out.
    mask : (ny, nx) uint16
        Pixel mask (`survey.bits`).
    header : fits.Header
        With WCS, MAGZP, GAIN, READNOI, SATURATE, OBSJD, EXPTIME.
    """

    pixels: np.ndarray
    mask: np.ndarray
    header: fits.Header


@dataclass(frozen=True)
class ReferenceProducts:
    """A reference image with everything that differencing and light curves need.

    Attributes
    ----------
    pixels : (ny, nx) float32, DN
        Co-add, sky removed, at the zero point of the header; NaN without coverage.
    coverage : (ny, nx) float32
        Number of frames used in each pixel.
    uncertainty : (ny, nx) float32, DN
        1-sigma noise of a pixel, as if its neighbours were independent; NaN without coverage.
    mask : (ny, nx) uint16
        NAN without coverage, SATURATED where half of the frames are, source bits.
    header : fits.Header
    psf : Psf or None
        Point-spread function of the co-add; None where it could not be made (status 0).
    psfcat, sexcat : structured arrays
        PSF and aperture catalogs as of a science image (positions 0-based).
    qa : dict of float
    status : int
        1 usable, 0 not.
    reason : str
        Why not; empty for status 1.
    infobits : int
        Bits of the limits it broke (``survey/data/reference_limits.csv``).
    reasons : tuple of str
        Each of these in words, also those that are not fatal.
    """

    pixels: np.ndarray
    coverage: np.ndarray
    uncertainty: np.ndarray
    mask: np.ndarray
    header: fits.Header
    psf: Psf | None
    psfcat: np.ndarray
    sexcat: np.ndarray
    qa: dict[str, float] = field(default_factory=dict)
    status: int = 1
    reason: str = ""
    infobits: int = 0
    reasons: tuple[str, ...] = ()
