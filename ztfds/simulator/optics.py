"""Telescope and atmosphere: the point-spread function over a quadrant, and the true mapping of sky to pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from ztfds.simulator import kernels
from ztfds.simulator.config import OpticsConfig
from ztfds.simulator.sky import unit_vectors

F64 = NDArray[np.float64]
_CORE_ALPHA = 1.0 / (2.0 * np.sqrt(2.0 ** (1.0 / 3.0) - 1.0))  # alpha / FWHM of a Moffat with beta = 3
_WING_WIDTH = 1.8  # alpha of the wide part, in units of that of the core


@dataclass(frozen=True)
class Seeing:
    """What the atmosphere and the tracking do to one exposure: core FWHM (px), wing fraction, mean ellipticity, focus."""

    core_fwhm_px: float
    wing_fraction: float
    e1: float
    e2: float
    focus: float


class PsfField:
    """Point-spread function as a function of position: static optics of the quadrant times one exposure's seeing.

    A sum of two elliptical Moffats (beta 3 and 2.5); width, ellipticity and the displacement of the wide part
    (a coma-like skewness) are quadratic polynomials of position. Positions are 0-based pixels.
    """

    def __init__(self, seed: int, rcid: int, shape: tuple[int, int], seeing: Seeing, config: OpticsConfig) -> None:
        rng = np.random.default_rng([seed, 11, rcid])
        self.rcid, self.shape, self.seeing = rcid, shape, seeing
        self._width = rng.normal(0, [0.015, 0.015, 0.010])
        self._e = rng.normal(0, config.ellipticity * 0.4, (2, 5))
        self._coma = rng.normal(0, 0.12, (2, 3))

    def shapes(self, x: F64, y: F64) -> NDArray[np.float32]:
        """The ten numbers of `kernels` for each position; (n, 10) float32."""
        u, v = 2 * np.asarray(x) / (self.shape[1] - 1) - 1, 2 * np.asarray(y) / (self.shape[0] - 1) - 1
        u, v = np.clip(u, -1.2, 1.2), np.clip(v, -1.2, 1.2)
        s, r2 = self.seeing, u * u + v * v
        alpha = (
            s.core_fwhm_px
            * _CORE_ALPHA
            * (1 + self._width[0] * u + self._width[1] * v + (0.01 + self._width[2] + 0.02 * s.focus) * r2)
        )
        terms = np.stack([np.ones_like(u), u, v, u * v, u * u - v * v])
        e1, e2 = self._e @ terms + np.array([[s.e1], [s.e2]]) + s.focus * 0.01 * np.stack([u * u - v * v, 2 * u * v])
        dx, dy = self._coma @ terms[:3]
        det = np.sqrt(1 - e1 * e1 - e2 * e2)
        out = np.empty((u.size, 10), np.float32)
        wide, w = alpha * _WING_WIDTH, s.wing_fraction
        for start, size in ((0, alpha), (4, wide)):
            scale = 1.0 / (size * size * det)
            out[:, start], out[:, start + 1], out[:, start + 2] = (1 - e1) * scale, -e2 * scale, (1 + e1) * scale
        out[:, 3] = (1 - w) * 2.0 / (np.pi * alpha**2)
        out[:, 7] = w * 1.5 / (np.pi * wide**2)
        out[:, 8], out[:, 9] = dx, dy
        return out

    def radii(
        self, flux: NDArray[np.float32], shapes: NDArray[np.float32], faint_dn: float = 0.03, limit: int = 350
    ) -> NDArray[np.int64]:
        """Half-widths (px) of the squares outside which a source is below `faint_dn` in every pixel."""
        reach = np.sqrt(1.0 / shapes[:, 4]) * (np.maximum(flux, 0) * shapes[:, 7] / faint_dn) ** 0.2
        return np.clip(np.ceil(reach), 5, limit).astype(np.int64)

    def stamp(self, x: float, y: float, half: int = 25) -> NDArray[np.float32]:
        """The profile of a unit source at the sub-pixel place of (x, y); (2 half + 1) square, centred pixel nearest."""
        image = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
        shapes = self.shapes(np.array([x]), np.array([y]))
        kernels.paint_one(
            image, half + x - np.floor(x + 0.5), half + y - np.floor(y + 0.5), np.float32(1), half, shapes[0]
        )
        return image

    def noise_area(self, x: float, y: float) -> float:
        """Effective number of pixels, 1 / sum P^2."""
        return float(1.0 / np.sum(self.stamp(round(x), round(y)) ** 2))

    def fwhm(self, x: float, y: float) -> float:
        """Full width (px) at half maximum of the circularised delivered profile."""
        fine = np.linspace(0.0, 6.0, 601)
        s = self.shapes(np.array([x]), np.array([y]))[0].astype(float)
        mean_core, mean_wing = np.sqrt(s[0] * s[2] - s[1] ** 2), np.sqrt(s[4] * s[6] - s[5] ** 2)
        value = s[3] * (1 + mean_core * fine**2) ** -3 + s[7] * (1 + mean_wing * fine**2) ** -2.5
        return float(2 * np.interp(0.5 * value[0], value[::-1], fine[::-1]))


def gnomonic(ra: F64, dec: F64, ra0: float, dec0: float) -> tuple[F64, F64]:
    """Standard coordinates (degrees, east and north) of positions about a tangent point; NaN on the far side."""
    v, east, north, up = unit_vectors(ra, dec), *_frame(ra0, dec0)
    w = v @ up
    w = np.where(w > 0.05, w, np.nan)
    return np.degrees(v @ east / w), np.degrees(v @ north / w)


def sky_of_gnomonic(xi: F64 | float, eta: F64 | float, ra0: float, dec0: float) -> tuple[F64, F64]:
    """Inverse of `gnomonic`."""
    east, north, up = _frame(ra0, dec0)
    v = up + np.multiply.outer(np.radians(xi), east) + np.multiply.outer(np.radians(eta), north)
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    return np.degrees(np.arctan2(v[..., 1], v[..., 0])) % 360.0, np.degrees(np.arcsin(v[..., 2]))


def _frame(ra0: float, dec0: float) -> tuple[F64, F64, F64]:
    a, d = np.radians(ra0), np.radians(dec0)
    east = np.array([-np.sin(a), np.cos(a), 0.0])
    north = np.array([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
    return east, north, np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])


# TPV terms in order of PVi_k: (k, power of the axis' own coordinate, power of the other one); Shupe et al. 2012.
_TPV_TERMS = (
    (0, 0, 0),
    (1, 1, 0),
    (2, 0, 1),
    (4, 2, 0),
    (5, 1, 1),
    (6, 0, 2),
    (7, 3, 0),
    (8, 2, 1),
    (9, 1, 2),
    (10, 0, 3),
)


@lru_cache(maxsize=64)
def distortion(seed: int, rcid: int, quadratic: float, cubic: float) -> tuple[F64, F64]:
    """TPV coefficients of both axes of a quadrant in the order of `_TPV_TERMS`, degrees."""
    rng = np.random.default_rng([seed, 12, rcid])
    scales = np.array([0, 0, 0] + [quadratic] * 3 + [cubic] * 4)
    pv = rng.normal(0, 1, (2, 10)) * scales
    pv[:, 1] += 1.0
    return pv[0], pv[1]


def _tpv(pv: F64, own: F64, other: F64) -> F64:
    total = np.zeros_like(own)
    for coefficient, (_, p, q) in zip(pv, _TPV_TERMS, strict=True):
        if coefficient:
            total += coefficient * own**p * other**q
    return total


@dataclass(frozen=True)
class TrueWcs:
    """The true mapping of one exposure and quadrant: tangent plane, rotation, scale, cubic TPV distortion.

    Attributes
    ----------
    ra0, dec0 : float
        Sky position (degrees) of the reference pixel.
    crpix : (float, float)
        Reference pixel (x, y), 0-based.
    cd : (2, 2) float64
        Pixel offsets (x, y) to degrees east and north before distortion.
    pv1, pv2 : (10,) float64
        TPV coefficients.
    """

    ra0: float
    dec0: float
    crpix: tuple[float, float]
    cd: F64
    pv1: F64
    pv2: F64

    def to_sky(self, x: F64, y: F64) -> tuple[F64, F64]:
        """Right ascension and declination (degrees) of 0-based pixel positions."""
        dx, dy = np.asarray(x, float) - self.crpix[0], np.asarray(y, float) - self.crpix[1]
        u, v = self.cd[0, 0] * dx + self.cd[0, 1] * dy, self.cd[1, 0] * dx + self.cd[1, 1] * dy
        return sky_of_gnomonic(_tpv(self.pv1, u, v), _tpv(self.pv2, v, u), self.ra0, self.dec0)

    def to_pixel(self, ra: F64, dec: F64) -> tuple[F64, F64]:
        """0-based pixel positions; the distortion is inverted by fixed-point iteration (error below 1e-9 px).

        Positions many fields away have none: there the iteration runs off, to infinity or NaN.
        """
        xi, eta = gnomonic(np.asarray(ra, float), np.asarray(dec, float), self.ra0, self.dec0)
        u, v = xi.copy(), eta.copy()
        inverse = np.linalg.inv(self.cd)
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(6):
                u, v = u + xi - _tpv(self.pv1, u, v), v + eta - _tpv(self.pv2, v, u)
            return (
                self.crpix[0] + inverse[0, 0] * u + inverse[0, 1] * v,
                self.crpix[1] + inverse[1, 0] * u + inverse[1, 1] * v,
            )

    def header(self) -> fits.Header:
        """The same mapping as FITS TPV cards (1-based reference pixel)."""
        h = fits.Header()
        h["CTYPE1"], h["CTYPE2"], h["CUNIT1"], h["CUNIT2"] = "RA---TPV", "DEC--TPV", "deg", "deg"
        h["CRVAL1"], h["CRVAL2"], h["RADESYS"], h["EQUINOX"] = self.ra0, self.dec0, "ICRS", 2000.0
        h["CRPIX1"], h["CRPIX2"] = self.crpix[0] + 1.0, self.crpix[1] + 1.0
        for i in range(2):
            for j in range(2):
                h[f"CD{i + 1}_{j + 1}"] = float(self.cd[i, j])
        for axis, pv in ((1, self.pv1), (2, self.pv2)):
            for value, (k, _, _) in zip(pv, _TPV_TERMS, strict=True):
                h[f"PV{axis}_{k}"] = float(value)
        return h


def true_wcs(
    pointing: tuple[float, float],
    rotation_deg: float,
    scale_arcsec: float,
    centre: tuple[float, float],
    shape: tuple[int, int],
    pv: tuple[F64, F64],
) -> TrueWcs:
    """Mapping of a quadrant whose centre lies at (xi, eta) degrees of the focal plane pointed at `pointing`.

    The field rotation is that of the camera's vertical against the local meridian of the quadrant's centre (large near
    the pole) plus `rotation_deg`. Pixels grow to the west (+x) and south (+y).
    """
    a = np.radians(rotation_deg)
    xi = centre[0] * np.cos(a) - centre[1] * np.sin(a)
    eta = centre[0] * np.sin(a) + centre[1] * np.cos(a)
    ra0, dec0 = (float(q) for q in sky_of_gnomonic(xi, eta, *pointing))
    up = sky_of_gnomonic(xi - 1e-3 * np.sin(a), eta + 1e-3 * np.cos(a), *pointing)
    de, dn = gnomonic(np.array([up[0]]), np.array([up[1]]), ra0, dec0)
    angle = np.arctan2(float(de[0]), float(dn[0]))
    s, c, scale = np.sin(angle), np.cos(angle), scale_arcsec / 3600.0
    # focal east (u) and north (v) axes seen on the local sky: east = u c + v s, north = -u s + v c
    cd = np.array([[-c, -s], [s, -c]]) * scale
    return TrueWcs(ra0, dec0, ((shape[1] - 1) / 2.0, (shape[0] - 1) / 2.0), cd, pv[0], pv[1])
