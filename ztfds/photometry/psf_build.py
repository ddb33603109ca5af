"""Make the PSF of an image from its stars: positions and spline coefficients in turn, by regularised least squares."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ztfds.config.photometry import FitConfig, PsfConfig
from ztfds.kernels import psf as kernels
from ztfds.kernels import psf_solve
from ztfds.kernels.psf import STAMP
from ztfds.kernels.psf_errors import core_excess
from ztfds.photometry.background import Background
from ztfds.photometry.psf import TERMS, PsfModel, moffat, node_radius, normalised, ring_profile
from ztfds.survey.errors import PsfFailed

log = logging.getLogger(__name__)

CORE_FWHM = 1.2  # radius, in FWHM, within which the model's error is measured
FACTOR_STEP = 0.1  # prior 1 sigma of slope and curvature of the ring factors
CHI_CLIP = 3.0  # stars with chi above this multiple of the median are not point sources


@dataclass
class _Stars:
    """PSF stars: positions (pixels), fluxes (DN), sky variance (DN^2)."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    sky: np.ndarray

    def keep(self, chosen: np.ndarray) -> _Stars:
        return _Stars(self.x[chosen], self.y[chosen], self.flux[chosen], self.sky[chosen])


def build_psf(
    data: np.ndarray,
    usable: np.ndarray,
    background: Background,
    gain: float,
    stars_xyf: tuple[np.ndarray, np.ndarray, np.ndarray],
    fwhm_px: float,
    config: PsfConfig,
    fit: FitConfig,
    start: PsfModel | None = None,
) -> PsfModel:
    """Solve for the PSF of an image.

    Parameters
    ----------
    data : (ny, nx) float32, DN, sky-subtracted (other sources may be subtracted too)
    usable : (ny, nx) bool
    gain : e-/DN
    stars_xyf : positions (pixels) and fluxes (DN) of the PSF stars
    fwhm_px : seeing, pixels, of the analytic start
    start : PSF to begin with instead

    Returns
    -------
    PsfModel

    Raises
    ------
    PsfFailed
        With fewer than config.min_stars usable stars, or when the solution is not a PSF.
    """
    x, y, flux = (np.array(values, float) for values in stars_xyf)
    stars = _Stars(x, y, flux, background.variance_at(x, y))
    if x.size < config.min_stars:
        raise PsfFailed(f"only {x.size} stars usable for the PSF, {config.min_stars} needed")
    model = start if start is not None else moffat(fwhm_px, background.shape)
    chi = np.empty(0)
    for turn in range(config.rounds):
        stars, chi, residual = _refit(data, usable, model, stars, gain, fit, sweeps=3 if turn == 0 else 2)
        if turn > 0:
            good = chi < CHI_CLIP * np.median(chi) if chi.size > 4 else np.ones(chi.size, bool)
            stars, chi = stars.keep(good), chi[good]
        if stars.x.size < config.min_stars:
            raise PsfFailed(f"only {stars.x.size} PSF stars survive the fit, {config.min_stars} needed")
        model = _solve(data, usable, model, stars, gain, config, fit)
    stars, chi, residual = _refit(data, usable, model, stars, gain, fit, sweeps=2)
    if stars.x.size < config.min_stars:
        raise PsfFailed(f"only {stars.x.size} PSF stars survive the fit, {config.min_stars} needed")
    if not (np.isfinite(model.fwhm_px) and 0.8 < model.fwhm_px < 15.0):
        raise PsfFailed(f"the PSF has no sensible width: FWHM {model.fwhm_px:.2f} pixels")
    error = _model_error(residual, usable, model, stars, gain)
    log.info("PSF of %d stars: FWHM %.3f px, error %.2f %%", stars.x.size, model.fwhm_px, 100 * error)
    return PsfModel(
        model.coefficients, model.shape, model.fwhm_px, error, int(stars.x.size), float(np.median(chi))
    )


def fit_radius(fwhm_px: float, config: FitConfig) -> float:
    """Radius of the pixels used in a fit, pixels."""
    return float(min(max(config.min_fit_radius_px, config.fit_fwhm * fwhm_px), 10.0))


def _refit(
    data: np.ndarray, usable: np.ndarray, model: PsfModel, stars: _Stars, gain: float, fit: FitConfig, sweeps: int
) -> tuple[_Stars, np.ndarray, np.ndarray]:
    """New positions and fluxes of the stars; chi of each; the image without them."""
    phased, n = model.phased, stars.x.size
    x, y, flux = stars.x.copy(), stars.y.copy(), stars.flux.copy()
    reach = fit_radius(model.fwhm_px, fit)
    errors, radii, alive = np.zeros(n), np.full(n, float(kernels.RADIUS)), np.ones(n, bool)
    residual = data.copy()
    kernels.paint(residual, phased, x, y, flux, radii, alive, -1.0)
    cells = (-(-data.shape[0] // 8), -(-data.shape[1] // 8))
    due, spare = np.ones(cells, np.uint8), np.empty(cells, np.uint8)
    for _ in range(sweeps):
        kernels.fit_sweep(
            data, residual, usable, phased, x, y, flux, errors, stars.sky, np.full(n, reach), radii, alive, due, spare,
            gain, fit.model_error_floor, 3.0, float(kernels.RADIUS), fit.paint_scale,
        )  # fmt: skip
    moved = np.hypot(x - stars.x, y - stars.y)
    alive &= moved < 1.5
    fitted = _Stars(x, y, flux, stars.sky).keep(alive)
    return fitted, _chi(residual, usable, model, fitted, gain), residual


def _chi(residual: np.ndarray, usable: np.ndarray, model: PsfModel, stars: _Stars, gain: float) -> np.ndarray:
    """Square root of the mean squared residual over its variance, core of each star (PSF errors count)."""
    out = np.zeros((stars.x.size, 2))
    core_excess(residual, usable, model.phased, stars.x, stars.y, stars.flux, stars.sky, gain, 3.0, out)
    return np.sqrt(np.maximum(out[:, 0], 0.0) / np.maximum(out[:, 1], 1e-30) + 1e-4)


def _model_error(
    residual: np.ndarray, usable: np.ndarray, model: PsfModel, stars: _Stars, gain: float
) -> float:
    """Error of the model in a pixel as a fraction of the model: residual power beyond noise, weighted to bright stars."""
    out = np.zeros((stars.x.size, 2))
    radius = min(max(2.0, CORE_FWHM * model.fwhm_px), 8.0)
    core_excess(residual, usable, model.phased, stars.x, stars.y, stars.flux, stars.sky, gain, radius, out)
    ratio = out[:, 0] / np.maximum(out[:, 1], 1e-30)
    bright = np.argsort(-stars.flux)[: max(3, stars.x.size // 2)]
    freedom = stars.x.size / max(stars.x.size - TERMS[model.order], 1)
    return float(np.sqrt(max(np.median(ratio[bright]) * freedom, 0.0)))


def _solve(
    data: np.ndarray, usable: np.ndarray, model: PsfModel, stars: _Stars, gain: float, config: PsfConfig, fit: FitConfig
) -> PsfModel:
    """Coefficients by regularised, robust least squares over the stars' stamps, positions and fluxes held."""
    n = stars.x.size
    ny, nx = data.shape
    order = int(np.searchsorted(config.stars_for_terms, n, side="right"))
    stamps, good = np.empty((n, STAMP, STAMP), np.float32), np.empty((n, STAMP, STAMP), bool)
    psf_solve.cut_stamps(data, usable, stars.x, stars.y, stamps, good)
    stamps /= stars.flux[:, None, None].astype(np.float32)
    prior = _prior(model, stamps, good, stars, gain, (ny, nx), fit)
    plain = np.zeros((TERMS[order], *prior.shape), np.float32)
    known = min(plain.shape[0], model.coefficients.shape[0])
    plain[:known] = model.coefficients[:known]
    predicted = np.empty_like(stamps)
    psf_solve.predict(plain, stars.x, stars.y, nx, ny, predicted)
    weight = _weights(stamps, predicted, good, stars, gain, fit, config.outlier_sigma)
    scale = np.maximum(prior, 1e-7 * prior.max())
    stiffness = np.empty(plain.shape)
    stiffness[0] = (config.prior_shape * scale) ** -2
    stiffness[1:] = (config.prior_field * scale) ** -2
    target = np.zeros(plain.shape)
    target[0] = prior
    solved = _conjugate_gradient(plain, stamps, weight, stars, (ny, nx), stiffness, target, config.iterations)
    return normalised(PsfModel(solved, (ny, nx), model.fwhm_px))


def _prior(
    model: PsfModel, stamps: np.ndarray, good: np.ndarray, stars: _Stars, gain: float, shape: tuple[int, int], fit: FitConfig
) -> np.ndarray:
    """Round profile of the PSF (NODES, NODES): the model's own, its rings rescaled to the light in the stars' rings."""
    ny, nx = shape
    ring = ring_profile(model.coefficients[0].astype(np.float64))
    ring = np.maximum(ring, 1e-9 * ring.max())
    predicted = np.empty_like(stamps)
    psf_solve.predict(ring[None].astype(np.float32), stars.x, stars.y, nx, ny, predicted)
    weight = _weights(stamps, predicted, good, stars, gain, fit, 4.0).astype(np.float64)
    grid = np.arange(STAMP) - STAMP // 2
    dx = grid[None, None, :] + np.floor(stars.x + 0.5)[:, None, None] - stars.x[:, None, None]
    dy = grid[None, :, None] + np.floor(stars.y + 0.5)[:, None, None] - stars.y[:, None, None]
    bins = np.minimum(np.hypot(dx, dy), 12.49).astype(int).ravel()
    up = np.bincount(bins, (weight * predicted * stamps).ravel(), minlength=13)
    down = np.bincount(bins, (weight * predicted * predicted).ravel(), minlength=13)
    factor = _smooth_factor(up, down)
    return ring * np.interp(node_radius(), np.arange(13) + 0.5, factor)


def _smooth_factor(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Smooth ring factors: least squares of down * (factor - up / down)^2 with a prior on slope and curvature.

    Rings are 1 pixel wide. The wings of few stars are noise, and all of a stamp's sum depends on them: a factor may change
    its slope by 0.1 a ring, and its value by 0.1 a ring where nothing is known.
    """
    n = up.size
    matrix = np.diag(down + 1.0)
    curvature, slope = np.diff(np.eye(n), 2, axis=0), np.diff(np.eye(n), 1, axis=0)
    matrix += (curvature.T @ curvature + slope.T @ slope) / FACTOR_STEP**2
    return np.clip(np.linalg.solve(matrix, up + 1.0), 0.2, 5.0)


def _weights(
    stamps: np.ndarray, predicted: np.ndarray, good: np.ndarray, stars: _Stars, gain: float, fit: FitConfig, outlier: float
) -> np.ndarray:
    """Inverse variances of flux-normalised stamps; Huber's weights for outliers; 0 where not good."""
    flux = stars.flux[:, None, None].astype(np.float32)
    sky = stars.sky[:, None, None].astype(np.float32)
    light = np.maximum(predicted, 0.0)
    variance = (sky + flux * light / gain + (2.0 * fit.model_error_floor * flux * light) ** 2) / flux**2
    distance = np.abs(stamps - predicted) / np.sqrt(variance)
    return np.asarray(good / variance * np.minimum(1.0, outlier / np.maximum(distance, 1e-6)), np.float32)


def _conjugate_gradient(
    start: np.ndarray,
    stamps: np.ndarray,
    weight: np.ndarray,
    stars: _Stars,
    shape: tuple[int, int],
    stiffness: np.ndarray,
    target: np.ndarray,
    iterations: int,
) -> np.ndarray:
    """Minimise sum w (stamp - predicted)^2 + sum stiffness (c - target)^2 over the coefficients (preconditioned CG)."""
    ny, nx = shape
    predicted, pulled = np.empty_like(stamps), np.empty(start.shape)

    def normal(direction: np.ndarray) -> np.ndarray:
        psf_solve.predict(direction.astype(np.float32), stars.x, stars.y, nx, ny, predicted)
        psf_solve.gather(weight * predicted, stars.x, stars.y, nx, ny, pulled)
        return pulled + stiffness * direction

    psf_solve.gather(weight * stamps, stars.x, stars.y, nx, ny, pulled)
    solution = start.astype(np.float64)
    remainder = pulled + stiffness * target
    remainder = remainder - normal(solution)
    diagonal = np.empty(start.shape)
    psf_solve.curvature(weight, stars.x, stars.y, nx, ny, diagonal)
    diagonal += stiffness
    shaped = remainder / diagonal
    direction = shaped.copy()
    product = float((remainder * shaped).sum())
    first = product
    for _ in range(iterations):
        if product <= 1e-8 * first:
            break
        image = normal(direction)
        step = product / float((direction * image).sum())
        solution += step * direction
        remainder -= step * image
        shaped = remainder / diagonal
        new = float((remainder * shaped).sum())
        direction = shaped + (new / product) * direction
        product = new
    return solution.astype(np.float32)
