"""A first picture of the PSF from few parameters: Moffat profile, rings, width and ellipticity over the field.

It is the prior of the free solution in `ztfds.photometry.psf_build`: what few stars cannot tell stays as smooth as seeing is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from ztfds.kernels import psf_solve
from ztfds.kernels.psf import RADIUS, STAMP
from ztfds.photometry.psf import moffat, moffat_plane, node_radius

log = logging.getLogger(__name__)

FACTOR_STEP = 0.1  # prior 1 sigma of slope and curvature of the ring factors
SKY_PEDESTAL = 0.15  # prior 1 sigma of a star's local sky error, in sigmas of a sky pixel
WEIGHT_ERROR = 0.02  # fraction of the light added to its noise in the weights: no single bright star may make the PSF
SHAPE_PRIOR = 0.2  # prior 1 sigma of width change and ellipticity, and of each of their field terms
BETA, BETA_PRIOR = 3.0, 0.4  # Moffat exponent of seeing, and prior 1 sigma of its logarithm
MOFFAT_STARS = 40  # brightest stars that the Moffat profile is fitted to


@dataclass(frozen=True)
class Stamps:
    """Stamps of the PSF stars in units of their fluxes.

    Attributes
    ----------
    values : (n, 25, 25) float32, fraction of the flux; good : (n, 25, 25) bool
    x, y : (n,) float64, pixels; flux : (n,) float64, DN; sky : (n,) float64, sky variance, DN^2
    gain : e-/DN; shape : (ny, nx) of the image
    """

    values: np.ndarray
    good: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    sky: np.ndarray
    gain: float
    shape: tuple[int, int]

    def brightest(self, n: int) -> Stamps:
        """The n brightest stars."""
        some = np.sort(np.argsort(-self.flux)[:n])
        columns = ("values", "good", "x", "y", "flux", "sky")
        return replace(self, **{name: getattr(self, name)[some] for name in columns})

    def predict(self, coefficients: np.ndarray) -> np.ndarray:
        """(n, 25, 25) float32: a PSF of plain coefficients ((terms,) NODES, NODES) at the stars."""
        plain = np.ascontiguousarray(coefficients, np.float32)
        plain = plain[None] if plain.ndim == 2 else plain
        out = np.empty(self.values.shape, np.float32)
        psf_solve.predict(plain, self.x, self.y, self.shape[1], self.shape[0], out)
        return out

    def weights(self, predicted: np.ndarray, outlier: float) -> np.ndarray:
        """Inverse variances given the model; Huber's weights beyond `outlier` sigmas; 0 where not good."""
        flux, sky = (values[:, None, None].astype(np.float32) for values in (self.flux, self.sky))
        light = np.maximum(predicted, 0.0)
        variance = (sky + flux * light / self.gain + (WEIGHT_ERROR * flux * light) ** 2) / flux**2
        distance = np.abs(self.values - predicted) / np.sqrt(variance)
        return np.asarray(self.good / variance * np.minimum(1.0, outlier / np.maximum(distance, 1e-6)), np.float32)

    def radius(self) -> np.ndarray:
        """(n, 25, 25) float64: distance of each pixel from its star, pixels."""
        grid = np.arange(-RADIUS, RADIUS + 1)
        dx = grid[None, None, :] + (np.floor(self.x + 0.5) - self.x)[:, None, None]
        dy = grid[None, :, None] + (np.floor(self.y + 0.5) - self.y)[:, None, None]
        return np.hypot(dx, dy)

    def field(self) -> np.ndarray:
        """(n, 6) float64: the field-polynomial terms at the stars."""
        ny, nx = self.shape
        u, v = (self.x - 0.5 * (nx - 1)) / (0.5 * nx), (self.y - 0.5 * (ny - 1)) / (0.5 * ny)
        return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)


class _Nuisance:
    """Flux and local sky of each star, fitted and projected out, given a profile and weights.

    Faint neighbours and errors of the sky map are a pedestal of about a tenth of the sky noise under a star; a stamp has so
    many pixels that it would go into the wings and hence into all fluxes.
    """

    def __init__(self, stamps: Stamps, light: np.ndarray, weight: np.ndarray) -> None:
        self.light, self.weight = light.astype(np.float64), weight.astype(np.float64)
        n = len(stamps.flux)
        self.normal = np.empty((n, 2, 2))
        self.normal[:, 0, 0] = self._sum(self.light**2) + 1e-20
        self.normal[:, 0, 1] = self.normal[:, 1, 0] = self._sum(self.light)
        self.normal[:, 1, 1] = self._sum(np.ones_like(self.light)) + stamps.flux**2 / (SKY_PEDESTAL**2 * stamps.sky)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((self.weight * values).sum(axis=(1, 2)))

    def solve(self, values: np.ndarray) -> np.ndarray:
        """(n, 2): amount of profile and pedestal in stamps of values."""
        right = np.stack([self._sum(values * self.light), self._sum(values)], axis=1)
        return np.asarray(np.linalg.solve(self.normal, right[:, :, None])[:, :, 0])

    def without(self, values: np.ndarray) -> np.ndarray:
        """Stamps of values minus their share of profile and pedestal."""
        amount = self.solve(values)
        return np.asarray(values - amount[:, 0, None, None] * self.light - amount[:, 1, None, None])


def best_moffat(stamps: Stamps, start: np.ndarray, fwhm_px: float) -> np.ndarray:
    """Moffat profile of the brightest stars: Gauss-Newton in log width and log beta, fluxes and local sky free.

    Parameters
    ----------
    stamps : PSF stars
    start : coefficients of the present model, for the weights
    fwhm_px : width of the present model, pixels

    Returns
    -------
    (NODES, NODES) float64, normalised coefficients
    """
    some = stamps.brightest(MOFFAT_STARS)
    weight = some.weights(some.predict(start), 4.0)
    p = np.log([fwhm_px, BETA])
    low, high = np.log([0.6 * fwhm_px, 1.6]), np.log([1.7 * fwhm_px, 8.0])
    for _ in range(5):
        here, wider, steeper = (
            some.predict(moffat_plane(*np.exp(p + step))).astype(np.float64) for step in ((0, 0), (0.02, 0), (0, 0.05))
        )
        nuisance = _Nuisance(some, here, weight)
        amount = nuisance.solve(some.values)[:, 0, None, None]
        slopes = [amount * nuisance.without(d) for d in ((wider - here) / 0.02, (steeper - here) / 0.05)]
        rest = nuisance.without(some.values)
        normal = np.array([[(weight * a * b).sum() for a in slopes] for b in slopes])
        normal += np.diag([1e-6, BETA_PRIOR**-2])
        right = np.array([(weight * a * rest).sum() for a in slopes])
        right[1] += (np.log(BETA) - p[1]) / BETA_PRIOR**2
        step = np.clip(np.linalg.solve(normal, right), -0.3, 0.3)
        p = np.clip(p + step, low, high)
        if np.abs(step).max() < 1e-3:
            break
    log.debug("Moffat profile: FWHM %.3f px, beta %.2f", *np.exp(p))
    return moffat(float(np.exp(p[0])), stamps.shape, float(np.exp(p[1]))).coefficients[0].astype(np.float64)


def without_local_sky(stamps: Stamps, profile: np.ndarray) -> Stamps:
    """The stamps minus the pedestal that a fit of flux and sky finds under each star."""
    light = stamps.predict(profile)
    pedestal = _Nuisance(stamps, light, stamps.weights(light, 3.0)).solve(stamps.values)[:, 1]
    return replace(stamps, values=stamps.values - pedestal[:, None, None].astype(np.float32))


def ring_corrected(stamps: Stamps, profile: np.ndarray) -> np.ndarray:
    """(NODES, NODES) float64: a round profile whose 1-pixel rings are rescaled smoothly to the light in the stars' rings."""
    light = stamps.predict(profile)
    weight = stamps.weights(light, 4.0).astype(np.float64)
    bins = np.minimum(stamps.radius(), 12.49).astype(int).ravel()
    up = np.bincount(bins, (weight * light * stamps.values).ravel(), minlength=13)
    down = np.bincount(bins, (weight * light * light).ravel(), minlength=13)
    return np.asarray(profile * np.interp(node_radius(), np.arange(13) + 0.5, _smooth_factor(up, down)))


def _smooth_factor(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Smooth ring factors: least squares of down * (factor - up / down)^2 with a prior on slope and curvature.

    The wings of few stars are noise, and all of a stamp's sum depends on them: a factor may change by FACTOR_STEP a ring,
    and its slope by as much, where nothing is known.
    """
    n = up.size
    matrix = np.diag(down + 1.0)
    curvature, slope = np.diff(np.eye(n), 2, axis=0), np.diff(np.eye(n), 1, axis=0)
    matrix += (curvature.T @ curvature + slope.T @ slope) / FACTOR_STEP**2
    return np.clip(np.linalg.solve(matrix, up + 1.0), 0.2, 5.0)


def shaped(stamps: Stamps, profile: np.ndarray, fwhm_px: float, terms: int) -> np.ndarray:
    """(terms, NODES, NODES) float64: a round profile with the width and ellipticity that the stars have over the field.

    Width and the two ellipticities are what seeing, focus and guiding change; each gets a field polynomial by linear least
    squares, so that the free coefficients have little left to explain. The field terms carry no flux.
    """
    planes = _shape_changes(profile, fwhm_px)
    light = stamps.predict(profile)
    weight = stamps.weights(light, 6.0).astype(np.float64)
    nuisance = _Nuisance(stamps, light, weight)
    slopes = np.array([nuisance.without(stamps.predict(plane)) for plane in planes])
    rest = nuisance.without(stamps.values)
    gram = np.einsum("sji,asji,bsji->sab", weight, slopes, slopes, optimize=True)
    right = np.einsum("sji,asji,sji->sa", weight, slopes, rest, optimize=True)
    phi = stamps.field()[:, :terms]
    normal = np.einsum("sk,sl,sab->kalb", phi, phi, gram, optimize=True).reshape(3 * terms, 3 * terms)
    normal += np.eye(3 * terms) / SHAPE_PRIOR**2
    amounts = np.linalg.solve(normal, np.einsum("sk,sa->ka", phi, right).ravel()).reshape(terms, 3)
    target = np.einsum("ka,aji->kji", amounts, planes)
    target[0] += profile
    return target


def _shape_changes(profile: np.ndarray, fwhm_px: float, step: float = 0.04) -> np.ndarray:
    """(3, NODES, NODES): change of a round profile per unit of log width and of the two ellipticities, without flux."""
    base = moffat_plane(fwhm_px, BETA).astype(np.float64)
    ratio = profile / np.maximum(base, 1e-9)
    changed = (
        moffat_plane(fwhm_px * (1.0 + step), BETA),
        moffat_plane(fwhm_px, BETA, step),
        moffat_plane(fwhm_px, BETA, 0.0, step),
    )
    planes = np.array([ratio * (plane - base) / step for plane in changed])
    share = planes.sum(axis=(1, 2)) / profile.sum()
    return np.asarray(planes - share[:, None, None] * profile)


def cut(
    data: np.ndarray, usable: np.ndarray, x: np.ndarray, y: np.ndarray, flux: np.ndarray, sky: np.ndarray, gain: float
) -> Stamps:
    """Stamps of stars at x, y (pixels) with flux (DN) and sky variance (DN^2) from a sky-subtracted image."""
    values, good = np.empty((x.size, STAMP, STAMP), np.float32), np.empty((x.size, STAMP, STAMP), bool)
    psf_solve.cut_stamps(data, usable, x, y, values, good)
    values /= flux[:, None, None].astype(np.float32)
    return Stamps(values, good, x, y, flux, sky, gain, (data.shape[0], data.shape[1]))
