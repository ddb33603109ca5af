"""The point-spread function of an image: a spline on an oversampled grid that varies over the field."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import spline_filter

from ztfds.kernels import psf as kernels
from ztfds.kernels.psf import CENTRE, HALF_NODES, NODES, OVERSAMPLING, PAD, RADIUS, STAMP
from ztfds.kernels.psf_solve import predict
from ztfds.photometry.wings import Wings

PIXEL_WIDTH = 0.87  # a pixel widens a seeing profile's FWHM by this much in quadrature, pixels
_GAUSS_X, _GAUSS_W = np.polynomial.legendre.leggauss(3)
NO_WINGS = Wings()
TERMS = {0: 1, 1: 3, 2: 6}  # order of the field polynomial -> number of terms


@dataclass(frozen=True)
class PsfModel:
    """Spatially varying effective PSF (pixel integration is part of it).

    The fraction of a star's flux in the pixel whose centre is (dx, dy) from the star at (x, y) is

        P(dx, dy; x, y) = sum_k phi_k(x, y) sum_ji c[k, j, i] B(2 dx + 27 - i) B(2 dy + 27 - j)

    with the cubic B-spline B (support |t| < 2) and the field terms phi = 1, u, v, u^2, u v, v^2 of u = (x - (nx - 1) / 2) /
    (nx / 2), v likewise. It is defined for |dx|, |dy| <= 12.5 pixels and normalised to 1 over a 25 x 25 pixel stamp.

    Attributes
    ----------
    coefficients : (terms, 56, 56) float32
    shape : (ny, nx)
        Shape of the image that the field terms refer to.
    fwhm_px : float
        Full width at half maximum at the image centre, pixels (of the pixel-integrated profile, azimuthal mean).
    error : float
        Measured error of the model in a pixel, fraction of the model.
    flux_error : float
        Error of the normalisation, common to all fluxes of the image, fraction.
    n_stars : int
        Stars that made it (0: analytic).
    chi : float
        Median square root of reduced chi square of these stars.
    error_map : (25, 25) float32 or None
        1 sigma of the PSF in the pixels of the stamp at the image centre (fraction of the flux); None for an analytic PSF.
    wings : Wings
        Light of a star beyond the stamp, which the fluxes of the catalog include and a fit of the stamp does not.
    """

    coefficients: np.ndarray
    shape: tuple[int, int]
    fwhm_px: float
    error: float = 0.0
    flux_error: float = 0.0
    n_stars: int = 0
    chi: float = float("nan")
    error_map: np.ndarray | None = None
    wings: Wings = NO_WINGS

    @property
    def outside(self) -> float:
        """Light beyond the stamp over that within it: total flux = (1 + outside) x flux of a fit of the stamp."""
        return self.wings.outside()

    @property
    def order(self) -> int:
        """Order of the field polynomial."""
        return {terms: order for order, terms in TERMS.items()}[self.coefficients.shape[0]]

    @property
    def phased(self) -> np.ndarray:
        """Coefficients in the layout of the kernels (see `ztfds.kernels.psf`)."""
        return phase(self.coefficients)

    def stamp(self, x: float, y: float, size: int = STAMP, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
        """PSF of a star at image position (x, y), drawn at the centre of a stamp.

        Parameters
        ----------
        x, y : image position that the field variation is evaluated at, pixels, 0-based
        size : side of the stamp, odd, pixels; beyond 25 the margin is zero
        dx, dy : sub-pixel offset of the star from the centre of the stamp's central pixel, pixels, within +-0.5

        Returns
        -------
        (size, size) float32 with sum 1
        """
        if size % 2 == 0 or size < 3:
            raise ValueError(f"a PSF stamp needs an odd size of at least 3, not {size}")
        if abs(dx) > 0.5 or abs(dy) > 0.5:
            raise ValueError(f"sub-pixel offsets must be within 0.5 pixel, not ({dx}, {dy})")
        local, rows, phi = _workspace()
        ny, nx = self.shape
        kernels.local_psf(self.phased, float(x), float(y), nx, ny, float(RADIUS), phi, local)
        value = np.empty(PAD * PAD, np.float32)
        inner = min(size, STAMP)
        first = -(inner // 2)
        kernels.render(local, float(dx), float(dy), first, first, inner, inner, value, value, value, rows, False)
        out = np.zeros((size, size), np.float32)
        margin = (size - inner) // 2
        out[margin : margin + inner, margin : margin + inner] = value[: inner * inner].reshape(inner, inner)
        return out / out.sum(dtype=np.float64).astype(np.float32)

    def centre_stamp(self, size: int = STAMP) -> np.ndarray:
        """PSF at the image centre, (size, size) float32 with sum 1."""
        return self.stamp(0.5 * (self.shape[1] - 1), 0.5 * (self.shape[0] - 1), size)

    def fwhm_at(self, x: float, y: float) -> float:
        """Full width at half maximum, pixels, at an image position."""
        return width_at_half_maximum(_collapsed(self.coefficients, self.shape, x, y))

    def radial_profile(self) -> np.ndarray:
        """(RADIUS + 1,) float64: azimuthal mean of the PSF at the image centre at 0, 1, 2 ... pixels from the star."""
        stamp = self.centre_stamp().astype(np.float64)
        offset = np.arange(-RADIUS, RADIUS + 1)
        ring = np.floor(np.hypot(offset[:, None], offset[None, :]) + 0.5).astype(int).ravel()
        mean = np.bincount(ring, stamp.ravel()) / np.bincount(ring)
        return np.asarray(mean[: RADIUS + 1])

    def edge_value(self) -> float:
        """Fraction of a star's flux in a pixel at the stamp's edge: mean over 11 to 12.5 pixels at the image centre."""
        stamp = self.centre_stamp().astype(np.float64)
        offset = np.arange(-RADIUS, RADIUS + 1)
        r = np.hypot(offset[:, None], offset[None, :])
        return float(stamp[(r > RADIUS - 1.0) & (r <= RADIUS + 0.5)].mean())

    def noise_pixels(self, x: float | None = None, y: float | None = None) -> float:
        """Effective number of sky pixels 1 / sum(P^2) of an optimal flux at (x, y), or at the image centre."""
        stamp = self.centre_stamp() if x is None or y is None else self.stamp(x, y)
        return float(1.0 / np.sum(stamp.astype(np.float64) ** 2))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for writing: see `from_arrays`."""
        error_map = np.zeros((STAMP, STAMP), np.float32) if self.error_map is None else self.error_map
        return {
            "coefficients": np.ascontiguousarray(self.coefficients, np.float32),
            "shape": np.array(self.shape, np.int64),
            "scalars": np.array([self.fwhm_px, self.error, self.flux_error, self.n_stars, self.chi], np.float64),
            "wings": np.array([self.wings.amplitude, self.wings.slope], np.float64),
            "error_map": error_map,
            "samples": self.samples(),
        }

    def samples(self) -> np.ndarray:
        """(terms, 51, 51) float32: each term's plane at every half pixel from -12.5 to 12.5, sum of the first about 4."""
        offset = np.arange(-OVERSAMPLING * RADIUS - 1, OVERSAMPLING * RADIUS + 2) / OVERSAMPLING
        dx, dy = (values.ravel() for values in np.meshgrid(offset, offset))
        planes = [evaluate(plane.astype(np.float64), dx, dy) for plane in self.coefficients]
        return np.array(planes, np.float32).reshape(-1, offset.size, offset.size)

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> PsfModel:
        """Inverse of `to_arrays`; ValueError when the grid is not that of this version."""
        coefficients = np.ascontiguousarray(arrays["coefficients"], np.float32)
        if coefficients.shape[1:] != (NODES, NODES) or coefficients.shape[0] not in TERMS.values():
            raise ValueError(f"PSF coefficients of shape {coefficients.shape}, not (1|3|6, {NODES}, {NODES})")
        fwhm, error, flux_error, n_stars, chi = (float(value) for value in arrays["scalars"])
        ny, nx = (int(value) for value in arrays["shape"])
        wings = Wings(*(float(value) for value in arrays["wings"])) if "wings" in arrays else NO_WINGS
        error_map = arrays.get("error_map")
        return cls(coefficients, (ny, nx), fwhm, error, flux_error, int(n_stars), chi, error_map, wings)


def phase(coefficients: np.ndarray) -> np.ndarray:
    """Plain coefficients (terms, NODES, NODES) -> phased (terms, OVERSAMPLING, NODES, HALF_NODES) float32."""
    split = coefficients.reshape(-1, NODES, HALF_NODES, OVERSAMPLING)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 2), np.float32)


def moffat(fwhm_px: float, shape: tuple[int, int], beta: float = 3.0) -> PsfModel:
    """Round analytic PSF, constant over the field: a Moffat profile integrated over pixels.

    Parameters
    ----------
    fwhm_px : full width at half maximum, pixels, *after* integration over a pixel, as it is measured on an image
    shape : (ny, nx) of the image
    beta : Moffat exponent, above 1
    """
    return normalised(PsfModel(moffat_plane(fwhm_px, beta)[None], shape, fwhm_px))


def moffat_plane(fwhm_px: float, beta: float, plus: float = 0.0, cross: float = 0.0) -> np.ndarray:
    """Spline coefficients (NODES, NODES) float32 of the profile of `moffat`, of peak about 1.

    `plus` stretches x and shrinks y by half that fraction each, `cross` does so along the diagonals (linear in small values).
    """
    sharp = np.sqrt(max(fwhm_px**2 - PIXEL_WIDTH**2, 0.25))
    alpha = sharp / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))
    offset = (np.arange(NODES) - CENTRE) / OVERSAMPLING
    fine = (offset[:, None] + 0.5 * _GAUSS_X).ravel()
    yy, xx = fine[:, None] ** 2, fine[None, :] ** 2
    radius2 = (1.0 - plus) * xx + (1.0 + plus) * yy - 2.0 * cross * fine[:, None] * fine[None, :]
    square = (1.0 + radius2 / alpha**2) ** -beta
    n = _GAUSS_X.size
    profile = np.einsum("jqip,q,p->ji", square.reshape(NODES, n, NODES, n), _GAUSS_W, _GAUSS_W)
    return _spline_of(profile)


def normalised(model: PsfModel) -> PsfModel:
    """Scale so that a stamp has sum 1, averaged over sub-pixel phases, with field terms that carry no flux."""
    coefficients = model.coefficients.astype(np.float64)
    norms = np.array([_phase_mean_sum(plane) for plane in coefficients])
    coefficients[1:] -= (norms[1:] / norms[0])[:, None, None] * coefficients[0]
    coefficients /= norms[0]
    result = coefficients.astype(np.float32)
    return replace(model, coefficients=result, fwhm_px=width_at_half_maximum(result[0]))


def node_radius() -> np.ndarray:
    """(NODES, NODES) float64: distance of each node from the source, pixels."""
    offset = (np.arange(NODES) - CENTRE) / OVERSAMPLING
    return np.hypot(offset[:, None], offset[None, :])


def width_at_half_maximum(plane: np.ndarray) -> float:
    """FWHM in pixels of the azimuthally averaged spline of one plane of coefficients."""
    radii = np.arange(0.0, 10.0, 0.05)
    angles = np.arange(16) * (2 * np.pi / 16)
    dx, dy = radii[:, None] * np.cos(angles), radii[:, None] * np.sin(angles)
    profile = evaluate(plane, dx.ravel(), dy.ravel()).reshape(dx.shape).mean(axis=1)
    below = np.flatnonzero(profile < 0.5 * profile[0])
    if below.size == 0 or profile[0] <= 0:
        return float("nan")
    k = int(below[0])
    fraction = (profile[k - 1] - 0.5 * profile[0]) / (profile[k - 1] - profile[k])
    return float(2.0 * (radii[k - 1] + fraction * 0.05))


def evaluate(plane: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Spline of one (NODES, NODES) plane at offsets (pixels) from the source; any number of points."""
    u, v = OVERSAMPLING * dx + CENTRE, OVERSAMPLING * dy + CENTRE
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    wx, wy = _weights(u - i), _weights(v - j)
    total = np.zeros(u.shape)
    for q in range(4):
        for p in range(4):
            total += wy[q] * wx[p] * plane[np.clip(j - 1 + q, 0, NODES - 1), np.clip(i - 1 + p, 0, NODES - 1)]
    return total


def _weights(t: np.ndarray) -> tuple[np.ndarray, ...]:
    s = 1.0 - t
    return s**3 / 6, 2 / 3 - t * t * (1 - 0.5 * t), 2 / 3 - s * s * (1 - 0.5 * s), t**3 / 6


def _spline_of(samples: np.ndarray) -> np.ndarray:
    """Coefficients of the cubic spline through samples at the nodes."""
    return spline_filter(samples, order=3, mode="constant").astype(np.float32)


def _phase_mean_sum(plane: np.ndarray) -> float:
    """Sum over a STAMP x STAMP stamp, averaged over sub-pixel phases."""
    phases = np.arange(-0.375, 0.5, 0.25)
    x, y = (values.ravel() + RADIUS for values in np.meshgrid(phases, phases))
    stamps = np.empty((x.size, STAMP, STAMP), np.float32)
    predict(np.ascontiguousarray(plane[None], np.float32), x, y, STAMP, STAMP, stamps)
    return float(stamps.sum(dtype=np.float64) / x.size)


def _collapsed(coefficients: np.ndarray, shape: tuple[int, int], x: float, y: float) -> np.ndarray:
    phi = np.empty(6)
    kernels.field_terms(float(x), float(y), shape[1], shape[0], phi)
    return np.tensordot(phi[: coefficients.shape[0]], coefficients.astype(np.float64), axes=1)


def _workspace() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((OVERSAMPLING, NODES, HALF_NODES), np.float32), np.empty((2, NODES, PAD), np.float32), np.empty(6)
