"""Gnomonic projection between the sky and a tangent plane, and angles on the sky."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def to_plane(ra: ArrayLike, dec: ArrayLike, ra0: float, dec0: float) -> tuple[FloatArray, FloatArray]:
    """Project sky positions onto the plane that touches the sphere at (ra0, dec0).

    Parameters
    ----------
    ra, dec : (n,) deg.
    ra0, dec0 : tangent point, deg.

    Returns
    -------
    xi, eta : (n,) float64 deg, positive East and North; NaN for points 90 deg or more away.
        xi = cos d sin(a - a0) / D, eta = (cos d0 sin d - sin d0 cos d cos(a - a0)) / D with
        D = sin d sin d0 + cos d cos d0 cos(a - a0) (Calabretta & Greisen 2002, TAN).
    """
    delta_a = np.radians(np.asarray(ra, np.float64) - ra0)
    d, d0 = np.radians(np.asarray(dec, np.float64)), np.radians(dec0)
    sin_d, cos_d, cos_a = np.sin(d), np.cos(d), np.cos(delta_a)
    depth = sin_d * np.sin(d0) + cos_d * np.cos(d0) * cos_a
    depth = np.where(depth > 1e-6, depth, np.nan)
    xi = cos_d * np.sin(delta_a) / depth
    eta = (np.cos(d0) * sin_d - np.sin(d0) * cos_d * cos_a) / depth
    return np.degrees(xi), np.degrees(eta)


def to_sky(xi: ArrayLike, eta: ArrayLike, ra0: float, dec0: float) -> tuple[FloatArray, FloatArray]:
    """Inverse of `to_plane`: plane coordinates in deg to (ra in [0, 360), dec) in deg."""
    x, y = np.radians(np.asarray(xi, np.float64)), np.radians(np.asarray(eta, np.float64))
    d0 = np.radians(dec0)
    across = np.cos(d0) - y * np.sin(d0)
    ra = ra0 + np.degrees(np.arctan2(x, across))
    dec = np.degrees(np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, across)))
    return np.mod(ra, 360.0), dec


def separation_arcsec(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """Angle between two sky positions in deg, in arcsec (haversine: exact for small angles)."""
    a1, d1, a2, d2 = np.radians([ra1, dec1, ra2, dec2])
    h = np.sin((d2 - d1) / 2) ** 2 + np.cos(d1) * np.cos(d2) * np.sin((a2 - a1) / 2) ** 2
    return float(np.degrees(2 * np.arcsin(np.sqrt(min(1.0, h)))) * 3600)
