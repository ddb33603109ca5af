"""The camera's geometry: CCDs, quadrants, readout channels, and where each quadrant lies on the sky.

Seen on the sky with north up and east left, CCD 1 is the south-east corner of the focal plane, numbers grow westward
and then northward; in each CCD quadrant 1 is north-east, 2 north-west, 3 south-west, 4 south-east. In every stored
quadrant +x is west and +y is south.
"""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from astropy.wcs import WCS

from ztfds.survey.errors import ConfigurationError

FULL_SHAPE = (3080, 3072)
"""Rows and columns of a full quadrant, pixels."""
ALL_CCDS = tuple(range(1, 17))


def rcid(ccdid: int, qid: int) -> int:
    """Readout channel 0..63 of a CCD (1..16) and quadrant (1..4)."""
    if not (1 <= ccdid <= 16 and 1 <= qid <= 4):
        raise ConfigurationError(f"there is no CCD {ccdid} quadrant {qid}")
    return 4 * (ccdid - 1) + qid - 1


def ccd_qid(rcid: int) -> tuple[int, int]:
    """CCD (1..16) and quadrant (1..4) of a readout channel 0..63."""
    if not 0 <= rcid < 64:
        raise ConfigurationError(f"there is no readout channel {rcid}")
    return rcid // 4 + 1, rcid % 4 + 1


@lru_cache(maxsize=1)
def _layout() -> dict[int, tuple[float, float]]:
    """Quadrant centres by rcid: longitude (east) and latitude (north) about the boresight, deg, of the full camera."""
    with resources.files("ztfds.survey").joinpath("data/quadrants.csv").open(encoding="utf-8") as table:
        return {int(r["rcid"]): (float(r["ew_deg"]), float(r["ns_deg"])) for r in csv.DictReader(table)}


def _sky(lon: np.ndarray, lat: np.ndarray, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn boresight longitude (east) and latitude (north) into sky positions; all in deg."""
    l, b, d0 = np.radians(lon), np.radians(lat), np.radians(dec0)
    x, y, z = np.cos(b) * np.cos(l), np.cos(b) * np.sin(l), np.sin(b)
    ahead, up = x * np.cos(d0) - z * np.sin(d0), x * np.sin(d0) + z * np.cos(d0)
    return (ra0 + np.degrees(np.arctan2(y, ahead))) % 360.0, np.degrees(np.arcsin(np.clip(up, -1.0, 1.0)))


@dataclass(frozen=True)
class Camera:
    """One camera: the real one, or a small one of the same geometry for tests.

    Attributes
    ----------
    name : str
        Name for settings and manifests.
    ccdids : tuple of int
        The CCDs it has.
    quadrant_shape : tuple of int
        Rows and columns of one quadrant, pixels.
    overscan_columns : int
        Columns of the overscan strip of one quadrant, pixels.
    pixel_scale_arcsec : float
        Size of a pixel, arcsec.
    """

    name: str
    ccdids: tuple[int, ...] = ALL_CCDS
    quadrant_shape: tuple[int, int] = FULL_SHAPE
    overscan_columns: int = 30
    pixel_scale_arcsec: float = 1.012

    @property
    def rcids(self) -> tuple[int, ...]:
        """Readout channels, in order of CCD and quadrant."""
        return tuple(rcid(ccdid, qid) for ccdid in self.ccdids for qid in (1, 2, 3, 4))

    @property
    def area_fraction(self) -> float:
        """Area of one quadrant over that of a full 3080 x 3072 one."""
        return self.quadrant_shape[0] * self.quadrant_shape[1] / (FULL_SHAPE[0] * FULL_SHAPE[1])

    @property
    def centre_pixel(self) -> tuple[float, float]:
        """(x, y) of a quadrant's centre, 0-based pixels."""
        return (self.quadrant_shape[1] - 1) / 2, (self.quadrant_shape[0] - 1) / 2

    def _lonlat(self, ccdid: int, qid: int) -> tuple[float, float]:
        """Longitude (east) and latitude (north) of a quadrant's centre about the boresight, deg.

        A camera with smaller quadrants is the real one shrunk, gaps included, so that its CCDs stay whole.
        """
        lon, lat = _layout()[rcid(ccdid, qid)]
        return lon * self.quadrant_shape[1] / FULL_SHAPE[1], lat * self.quadrant_shape[0] / FULL_SHAPE[0]

    def quadrant_centre_deg(self, ccdid: int, qid: int) -> tuple[float, float]:
        """Centre of a quadrant in the tangent plane at the boresight.

        Returns
        -------
        xi_east, eta_north : float
            Gnomonic coordinates, deg.
        """
        lon, lat = np.radians(self._lonlat(ccdid, qid))
        return float(np.degrees(np.tan(lon))), float(np.degrees(np.tan(lat) / np.cos(lon)))

    def quadrant_centre_sky(self, ra: float, dec: float, ccdid: int, qid: int) -> tuple[float, float]:
        """Sky position (deg) of a quadrant's centre when the boresight points at (`ra`, `dec`) deg."""
        lon, lat = self._lonlat(ccdid, qid)
        found = _sky(np.array([lon]), np.array([lat]), ra, dec)
        return float(found[0][0]), float(found[1][0])

    def approximate_wcs(self, ra: float, dec: float, ccdid: int, qid: int) -> WCS:
        """Nominal world coordinates of a quadrant: gnomonic (TAN), good to about one arcmin plus the pointing error.

        Parameters
        ----------
        ra, dec : float
            Boresight, deg.
        ccdid, qid : int
            CCD and quadrant.

        Returns
        -------
        astropy.wcs.WCS
            CRVAL is the quadrant's centre; +x is west, +y is south, turned by the convergence of the meridians.
        """
        lon, lat = self._lonlat(ccdid, qid)
        step = 0.05
        lons, lats = np.array([lon, lon, lon]), np.array([lat, lat + step, lat - step])
        ras, decs = _sky(lons, lats, ra, dec)
        north = _gnomonic(ras[1:], decs[1:], ras[0], decs[0])
        angle = np.arctan2(north[0][0] - north[0][1], north[1][0] - north[1][1])
        scale = self.pixel_scale_arcsec / 3600.0
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = [ras[0], decs[0]]
        wcs.wcs.crpix = [self.centre_pixel[0] + 1, self.centre_pixel[1] + 1]
        wcs.wcs.cd = -scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        wcs.wcs.radesys = "ICRS"
        wcs.array_shape = self.quadrant_shape
        wcs.wcs.set()
        return wcs

    def corners(self, ra: float, dec: float, ccdid: int, qid: int) -> np.ndarray:
        """Sky positions of the outer corners of a quadrant's corner pixels.

        Returns
        -------
        ndarray, shape (4, 2)
            (ra, dec) deg of pixel corners (-0.5, -0.5), (nx-0.5, -0.5), (nx-0.5, ny-0.5), (-0.5, ny-0.5).
        """
        ny, nx = self.quadrant_shape
        x, y = np.array([0, nx, nx, 0]) - 0.5, np.array([0, 0, ny, ny]) - 0.5
        return np.column_stack(self.approximate_wcs(ra, dec, ccdid, qid).pixel_to_world_values(x, y))

    def radius_deg(self) -> float:
        """Radius (deg) of the circle about a quadrant's centre that holds it all."""
        return float(np.hypot(*self.quadrant_shape) / 2 * self.pixel_scale_arcsec / 3600.0)


def _gnomonic(ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    """Gnomonic coordinates (xi east, eta north, rad) of sky positions (deg) about a tangent point (deg)."""
    a, d, d0 = np.radians(ra - ra0), np.radians(dec), np.radians(dec0)
    down = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / down
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / down
    return xi, eta


ZTF = Camera("ztf")
"""The real camera."""
CCD = Camera("ccd", ccdids=(6,))
"""One CCD of the real camera, in full size."""
TINY = Camera("tiny", ccdids=(6, 7), quadrant_shape=(264, 256))
"""Two CCDs of quadrants of 4.4 arcmin: a whole night of it runs in a minute."""
CAMERAS = {camera.name: camera for camera in (ZTF, CCD, TINY)}


def get_camera(name: str) -> Camera:
    """Find a camera by name (``ztf``, ``ccd``, ``tiny``; case does not matter); raise `ConfigurationError`."""
    try:
        return CAMERAS[name.lower()]
    except KeyError:
        raise ConfigurationError(f"no camera is called {name!r}: known are {', '.join(CAMERAS)}") from None


def camera_for_shape(shape: tuple[int, int]) -> Camera:
    """The camera whose quadrants have this shape (rows, columns); of an unknown shape, the real one resized."""
    for camera in (ZTF, TINY):
        if camera.quadrant_shape == tuple(shape):
            return camera
    ny, nx = int(shape[0]), int(shape[1])
    return dataclasses.replace(ZTF, name=f"ztf-{ny}x{nx}", quadrant_shape=(ny, nx))
