"""What goes into a difference image and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from astropy.io import fits

from ztfds.difference.streaks import StreakProducts
from ztfds.reference.products import Psf, ReferenceProducts


class Sky(Protocol):
    """Sky of a science image."""

    @property
    def level(self) -> np.ndarray:
        """(ny, nx) float32: sky level, DN."""

    @property
    def rms_dn(self) -> float:
        """Median noise of a sky pixel, DN."""


class CalibratedImage(Protocol):
    """What differencing reads of the products of a science image."""

    @property
    def pixels(self) -> np.ndarray:
        """(ny, nx) float32, DN, sky kept."""

    @property
    def mask(self) -> np.ndarray:
        """(ny, nx) uint16."""

    @property
    def header(self) -> fits.Header:
        """Header with WCS and photometric calibration."""

    @property
    def psfcat(self) -> np.ndarray | None:
        """PSF catalog, positions 0-based; None where there is no PSF."""

    @property
    def psf(self) -> Psf | None:
        """Point-spread function; None where there is none."""

    @property
    def background(self) -> Sky:
        """Sky map."""


@dataclass(frozen=True)
class DifferenceInputs:
    """A science image, the reference of its field, quadrant and filter, and the static catalogs around it.

    Attributes
    ----------
    science : CalibratedImage
        Products of the science step.
    reference : ReferenceProducts
    gaia : structured array
        Gaia sources: ra, dec (deg), gmag.
    ps1 : structured array
        PS1 sources: objid, ra, dec (deg), g, r, i, z (mag), sgscore.
    known : structured array or None
        Known Solar-System objects on the image at its middle: ra, dec (deg), mag, name; None where nobody looked.
    """

    science: CalibratedImage
    reference: ReferenceProducts
    gaia: np.ndarray
    ps1: np.ndarray
    known: np.ndarray | None = None


def without_reference_images(inputs: DifferenceInputs) -> DifferenceInputs:
    """The same inputs without the pixels of the reference, which nothing asks for once they are on the science grid."""
    none = np.empty((0, 0), np.float32)
    reference = replace(inputs.reference, pixels=none, coverage=none, uncertainty=none, mask=none.astype(np.uint16))
    return replace(inputs, reference=reference)


@dataclass(frozen=True)
class DifferenceProducts:
    """A difference image with its significance, candidates and quality.

    Attributes
    ----------
    pixels : (ny, nx) float32, DN of the science image
        Proper difference, science minus reference, white noise; NaN where either image has no data.
    mask : (ny, nx) uint16
        OR of the science mask and the resampled reference mask, bad pixels grown by what the kernels spread.
    scorr : (ny, nx) float32
        Significance of a point source at each pixel, sigmas; NaN without data.
    psf : (25, 25) float32
        Mean PSF of the difference, DN per pixel for unit total flux (light beyond the stamp included).
    header : fits.Header
    candidates : structured array
        One row per candidate (`candidates.DTYPE`): positions x, y 0-based, other names as in the alert packet; NaN is null.
    cutouts : dict
        tblid -> (science, template, difference), each (63, 63) float32, DN, NaN off the image; the difference is positive
        for candidates of either sign.
    qa : dict of float
    status : int
        1 good, 0 bad: a bad difference has no candidates.
    reason : str
        Why bad; empty for status 1.
    streaks : StreakProducts
        Trailed sources; none for status 0.
    """

    pixels: np.ndarray
    mask: np.ndarray
    scorr: np.ndarray
    psf: np.ndarray
    header: fits.Header
    candidates: np.ndarray
    cutouts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]
    qa: dict[str, float] = field(default_factory=dict)
    status: int = 1
    reason: str = ""
    streaks: StreakProducts = field(default_factory=StreakProducts)
