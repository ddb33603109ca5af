"""Where a quadrant may lie on the sky before it is measured: by the world coordinates in its header, and by the camera's geometry."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.science.header import number
from ztfds.survey.camera import Camera
from ztfds.survey.fields import separation_deg

POINTING_DISAGREEMENT_DEG = 0.2
"""A telescope readback further than this from the request is not believed."""
SAME_ARCSEC = 60.0
"""Guesses that agree this well everywhere are one: the astrometric search covers more."""
ONE_CONE_DEG = 0.3
"""Guesses that lie this near each other share one cone of catalog stars."""
_SCALES_ARCSEC = (0.1, 20.0)

Query = Callable[[float, float, float], np.ndarray]
"""A cone search: right ascension, declination, radius (all deg) to rows whose first column identifies them."""


@dataclass(frozen=True)
class Pointing:
    """The guesses of one quadrant, the most trusted first.

    Attributes
    ----------
    guesses : tuple of WCS
        World coordinates to try; at least one.
    centres : tuple of (float, float)
        Sky position of the quadrant's centre by each, deg.
    radius_deg : float
        Radius of the circle that holds the quadrant by the first, deg.
    """

    guesses: tuple[WCS, ...]
    centres: tuple[tuple[float, float], ...]
    radius_deg: float

    def catalog(self, query: Query, margin_deg: float) -> np.ndarray:
        """Catalog rows around every place where the quadrant may lie.

        Parameters
        ----------
        query : callable
            Cone search.
        margin_deg : float
            How far beyond the quadrant, deg.
        """
        spread = max(separation_deg(*self.centres[0], *centre) for centre in self.centres)
        radius = self.radius_deg + margin_deg
        if spread <= ONE_CONE_DEG:
            return query(*self.centres[0], radius + spread)
        rows = np.concatenate([query(*centre, radius) for centre in self.centres])
        _, first = np.unique(np.asarray(rows[next(iter(rows.dtype.fields or {}))]), return_index=True)
        return rows[np.sort(first)]


def pointing(primary: fits.Header, extension: fits.Header, camera: Camera, ccdid: int, qid: int) -> Pointing:
    """Collect what headers and geometry say about where a quadrant lies.

    Parameters
    ----------
    primary, extension : fits.Header
        Headers of the raw file and of the quadrant.
    camera : Camera
    ccdid, qid : int
        CCD 1..16 and quadrant 1..4.

    Returns
    -------
    Pointing
        First the world coordinates of the extension if there are usable ones, then those that the camera's layout gives
        about the boresight if they are different.

    Raises
    ------
    MissingKeyword
        No usable RAD and DECD (or OBJRAD and OBJDECD).
    """
    shape = camera.quadrant_shape
    guesses = [camera.approximate_wcs(*boresight(primary), ccdid, qid)]
    own = header_wcs(extension, shape)
    if own is not None:
        guesses = [own] if _agree(own, guesses[0], shape) else [own, guesses[0]]
    marks = [_marks(guess, shape) for guess in guesses]
    centres = tuple((float(m[0, 0]), float(m[0, 1])) for m in marks)
    radius = max(separation_deg(*marks[0][0], *corner) for corner in marks[0][1:])
    return Pointing(tuple(guesses), centres, radius)


def boresight(primary: fits.Header) -> tuple[float, float]:
    """Pointing (deg): the telescope's readback if it agrees with the request, else the request."""
    ra, dec = number(primary, "RAD", "OBJRAD"), number(primary, "DECD", "OBJDECD")
    tel_ra, tel_dec = primary.get("TELRAD"), primary.get("TELDECD")
    if not isinstance(tel_ra, int | float) or not isinstance(tel_dec, int | float):
        return ra, dec
    off = math.hypot(((tel_ra - ra + 180.0) % 360.0 - 180.0) * math.cos(math.radians(dec)), tel_dec - dec)
    return (float(tel_ra), float(tel_dec)) if off < POINTING_DISAGREEMENT_DEG else (ra, dec)


def header_wcs(header: fits.Header, shape: tuple[int, int]) -> WCS | None:
    """Celestial world coordinates of a header; None where there are none, or they put the image nowhere sensible."""
    if any(keyword not in header for keyword in ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(header, naxis=2)
            marks = _marks(wcs, shape) if wcs.has_celestial else np.full((5, 2), np.nan)
    except MemoryError:
        raise  # says nothing about the header
    except Exception:  # wcslib and astropy raise many classes for headers that contradict themselves
        return None
    if not np.isfinite(marks).all() or np.abs(marks[:, 1]).max() > 90.0:
        return None
    pixels = math.hypot(*shape) / 2
    scales = [separation_deg(*marks[0], *corner) * 3600.0 / pixels for corner in marks[1:]]
    return wcs if _SCALES_ARCSEC[0] < min(scales) and max(scales) < _SCALES_ARCSEC[1] else None


def centre_of(header: fits.Header, shape: tuple[int, int]) -> tuple[float, float]:
    """Sky position (deg) of the centre of an image with solved world coordinates in its header."""
    ra, dec = WCS(header, naxis=2).all_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0)
    return float(ra), float(dec)


def _marks(wcs: WCS, shape: tuple[int, int]) -> np.ndarray:
    """Sky positions (deg) of the centre and the four corners, shape (5, 2)."""
    ny, nx = shape
    x = np.array([(nx - 1) / 2, -0.5, nx - 0.5, nx - 0.5, -0.5])
    y = np.array([(ny - 1) / 2, -0.5, -0.5, ny - 0.5, ny - 0.5])
    return np.column_stack(wcs.all_pix2world(x, y, 0))


def _agree(one: WCS, other: WCS, shape: tuple[int, int]) -> bool:
    """Whether two guesses put the centre and all corners at the same places."""
    pairs = zip(_marks(one, shape), _marks(other, shape), strict=True)
    return all(separation_deg(*a, *b) * 3600.0 < SAME_ARCSEC for a, b in pairs)
