"""Light of bright stars beyond the stamp of the PSF: a round power law, measured on the image and subtracted from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ztfds.kernels.psf import RADIUS, add_wings

EDGE_PX = RADIUS + 0.5  # where the stamp ends and the wings begin, pixels
FARTHEST_PX = 120.0
RINGS_PX = (13.5, 17.0, 22.0, 29.0, 38.0)  # borders of the rings that the law is measured in
SKY_PX = (38.0, 50.0)  # the ring that says how high the sky is around a star
STARS = 80  # brightest stars that the law is measured on
SLOPE, SLOPE_PRIOR = 5.0, 1.0  # a Moffat profile of exponent 2.5 falls as r^-5
AMPLITUDE_PRIOR = 0.3  # error of what the PSF's own edge says about the amplitude, fraction
STEP_PX = 0.25  # of the tabulated profile


@dataclass(frozen=True)
class Wings:
    """Fraction of a star's flux per pixel at r pixels, outside the PSF's stamp: amplitude (r / 12.5)^-slope.

    Attributes
    ----------
    amplitude : float, fraction of the flux (that within the stamp) in a pixel at 12.5 pixels
    slope : float
    """

    amplitude: float = 0.0
    slope: float = SLOPE

    def at(self, r: np.ndarray) -> np.ndarray:
        """Fraction of the flux in a pixel at r pixels (any shape)."""
        return np.asarray(self.amplitude * (np.maximum(r, 1.0) / EDGE_PX) ** -self.slope)

    def outside(self) -> float:
        """Light beyond the stamp over that within it: the sum over pixels to `FARTHEST_PX`, and the integral from there on."""
        offset = np.arange(-int(FARTHEST_PX), int(FARTHEST_PX) + 1)
        r = np.hypot(offset[:, None], offset[None, :])
        beyond = np.maximum(np.abs(offset)[:, None], np.abs(offset)[None, :]) > RADIUS
        near = self.at(r[beyond & (r <= FARTHEST_PX)]).sum()
        far = 2.0 * np.pi * FARTHEST_PX**2 / (self.slope - 2.0) * self.at(np.array(FARTHEST_PX))
        return float(near + far)

    def reach(self, flux: np.ndarray, faint_dn: float) -> np.ndarray:
        """Radius, pixels, where the wings of stars of these fluxes (DN) fall to `faint_dn` in a pixel."""
        with np.errstate(divide="ignore"):
            radius = EDGE_PX * (flux * self.amplitude / faint_dn) ** (1.0 / self.slope)
        return np.asarray(np.minimum(radius, FARTHEST_PX))

    def paint(
        self, image: np.ndarray, x: np.ndarray, y: np.ndarray, flux: np.ndarray, sign: float, faint_dn: float
    ) -> None:
        """Add `sign` times the wings of stars (positions in pixels, fluxes in DN) to an image."""
        table = self.at(np.arange(0.0, FARTHEST_PX + 2.0, STEP_PX)).astype(np.float32)
        add_wings(image, x, y, sign * flux, self.reach(flux, faint_dn), table, STEP_PX)


def first_guess(edge_value: float) -> Wings:
    """The law before it is measured: the PSF's mean value at its edge, and the slope that seeing has."""
    return Wings(max(edge_value, 0.0), SLOPE)


def measure_wings(
    image: np.ndarray,
    usable: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    sigma_dn: float,
    guess: Wings,
) -> Wings:
    """Fit the law to the light in rings around the brightest stars.

    The median of each ring minus that of the sky ring, stacked over the stars with weights flux^2 / noise^2 (a fraction of the
    signal counts as noise, so that no single star decides), against A (r^-n - r_sky^-n): A by linear least squares for each n
    of a grid, with priors on A (the PSF's edge) and n.

    Parameters
    ----------
    image : (ny, nx) float32, DN, without sky and the models of all sources, but with the wings
    usable : (ny, nx) bool
    x, y, flux : (n,) float64, stars, pixels and DN
    sigma_dn : noise of a sky pixel, DN
    guess : the law before
    """
    bright = np.argsort(-flux, kind="stable")[:STARS]
    bright = bright[guess.reach(flux[bright], 0.3 * sigma_dn) > RINGS_PX[1]]
    if bright.size == 0 or guess.amplitude <= 0:
        return guess
    levels, counts = ring_levels(image, usable, x[bright], y[bright])
    light = flux[bright, None]
    middle = np.sqrt(np.multiply(RINGS_PX[1:], RINGS_PX[:-1]))
    noise2 = 1.57 * sigma_dn**2 * (1.0 / counts[:, :-1] + 1.0 / counts[:, -1:]) + (0.2 * light * guess.at(middle)) ** 2
    good = (counts[:, :-1] > 30) & (counts[:, -1:] > 30)
    difference = np.where(good, levels[:, :-1] - levels[:, -1:], 0.0)
    weight = np.where(good, 1.0 / noise2, 0.0)
    return _fit(difference, weight, light, middle, guess)


def _fit(difference: np.ndarray, weight: np.ndarray, light: np.ndarray, middle: np.ndarray, guess: Wings) -> Wings:
    """Amplitude and slope of the smallest chi square plus priors."""
    best = (np.inf, guess)
    far = np.sqrt(SKY_PX[0] * SKY_PX[1])
    prior = (AMPLITUDE_PRIOR * guess.amplitude) ** -2
    for slope in np.arange(3.0, 8.01, 0.1):
        shape = light * ((middle / EDGE_PX) ** -slope - (far / EDGE_PX) ** -slope)
        top = (weight * shape * difference).sum() + prior * guess.amplitude
        amplitude = max(top / ((weight * shape**2).sum() + prior), 0.0)
        chi2 = (weight * (difference - amplitude * shape) ** 2).sum() + prior * (amplitude - guess.amplitude) ** 2
        chi2 += ((slope - SLOPE) / SLOPE_PRIOR) ** 2
        if chi2 < best[0]:
            best = (chi2, Wings(float(amplitude), float(slope)))
    return best[1]


def ring_levels(image: np.ndarray, usable: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians (DN) of the usable pixels in the rings and the sky ring of stars, and how many there are; (n, rings + 1)."""
    ny, nx = image.shape
    borders = np.array([*RINGS_PX, SKY_PX[1]])
    levels, counts = np.zeros((x.size, borders.size - 1)), np.zeros((x.size, borders.size - 1))
    half = int(borders[-1]) + 1
    for k in range(x.size):
        ix, iy = int(np.rint(x[k])), int(np.rint(y[k]))
        rows = slice(max(0, iy - half), min(ny, iy + half + 1))
        columns = slice(max(0, ix - half), min(nx, ix + half + 1))
        dy, dx = np.arange(ny)[rows] - y[k], np.arange(nx)[columns] - x[k]
        ring = np.searchsorted(borders, np.hypot(dy[:, None], dx[None, :])) - 1
        ring[~usable[rows, columns]] = -1
        part = image[rows, columns]
        for q in range(borders.size - 1):
            inside = part[ring == q]
            counts[k, q] = inside.size
            levels[k, q] = np.median(inside) if inside.size else 0.0
    return levels, np.maximum(counts, 1e-3)
