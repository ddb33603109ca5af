"""Make the PSF of an image from its stars: positions and spline coefficients in turn, by regularised least squares."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from ztfds.config.photometry import FitConfig, PsfConfig
from ztfds.kernels import psf as kernels
from ztfds.kernels import psf_solve
from ztfds.kernels.psf import STAMP
from ztfds.kernels.psf_errors import core_excess
from ztfds.photometry.background import Background
from ztfds.photometry.psf import TERMS, PsfModel, moffat, node_radius, normalised
from ztfds.survey.errors import PsfFailed

log = logging.getLogger(__name__)

CORE_FWHM = 1.2  # radius, in FWHM, within which the model's error is measured
FACTOR_STEP = 0.1  # prior 1 sigma of slope and curvature of the ring factors
SKY_PEDESTAL = 0.15  # prior 1 sigma of a star's local sky error, in sigmas of a sky pixel
WEIGHT_ERROR = 0.02  # fraction of the light added to its noise in the weights: no single bright star may make the PSF
SUM_NOISE = 2.0  # error of the PSF's normalisation over 1 / total S/N of its stars: the stamp's sum is no optimal flux
MOFFAT_STARS = 40  # brightest stars that the round start profile is fitted to
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


class _Penalty:
    """Prior on the coefficients' departure, in units of the round profile: small, and smooth from node to node.

    The seeing profile is smooth on the scale of a pixel; single nodes of a solution from few stars are noise.
    """

    def __init__(self, scale: np.ndarray, terms: int, config: PsfConfig) -> None:
        self.scale = scale
        amplitude = np.full(terms, config.prior_field)
        amplitude[0] = config.prior_shape
        self.amplitude = amplitude[:, None, None] ** -2
        self.rough = config.prior_roughness**-2

    def apply(self, coefficients: np.ndarray) -> np.ndarray:
        """Gradient of half the penalty at `coefficients` (terms, NODES, NODES)."""
        g = coefficients / self.scale
        return np.asarray((self.amplitude * g + self.rough * _bending(g)) / self.scale)

    def diagonal(self) -> np.ndarray:
        """Diagonal of the penalty's matrix (inner nodes), for the preconditioner."""
        return np.asarray((self.amplitude + 20.0 * self.rough) / self.scale**2)


def _bending(g: np.ndarray) -> np.ndarray:
    """Transpose times matrix of the second differences (xx, yy and twice xy) of every plane."""
    out = np.zeros_like(g)
    d = g[:, :, 2:] - 2.0 * g[:, :, 1:-1] + g[:, :, :-2]
    out[:, :, 2:] += d
    out[:, :, 1:-1] -= 2.0 * d
    out[:, :, :-2] += d
    d = g[:, 2:] - 2.0 * g[:, 1:-1] + g[:, :-2]
    out[:, 2:] += d
    out[:, 1:-1] -= 2.0 * d
    out[:, :-2] += d
    d = 2.0 * (g[:, 1:, 1:] - g[:, 1:, :-1] - g[:, :-1, 1:] + g[:, :-1, :-1])
    out[:, 1:, 1:] += d
    out[:, 1:, :-1] -= d
    out[:, :-1, 1:] -= d
    out[:, :-1, :-1] += d
    return out


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
        model = _solve(data, usable, model, stars, gain, config)
    stars, chi, residual = _refit(data, usable, model, stars, gain, fit, sweeps=2)
    if stars.x.size < config.min_stars:
        raise PsfFailed(f"only {stars.x.size} PSF stars survive the fit, {config.min_stars} needed")
    if not (np.isfinite(model.fwhm_px) and 0.8 < model.fwhm_px < 15.0):
        raise PsfFailed(f"the PSF has no sensible width: FWHM {model.fwhm_px:.2f} pixels")
    error = _model_error(residual, usable, model, stars, gain)
    log.info("PSF of %d stars: FWHM %.3f px, error %.2f %%", stars.x.size, model.fwhm_px, 100 * error)
    flux_error = SUM_NOISE / np.sqrt(np.sum(_star_snr(model, stars, gain) ** 2))
    return replace(
        model, error=error, flux_error=float(flux_error), n_stars=int(stars.x.size), chi=float(np.median(chi))
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


def _star_snr(model: PsfModel, stars: _Stars, gain: float) -> np.ndarray:
    """Signal to noise of each star in the weights of the solution, at most 1 / WEIGHT_ERROR * 3."""
    noise2 = model.noise_pixels() * stars.sky + stars.flux / gain + (WEIGHT_ERROR * stars.flux) ** 2 / 9.0
    return np.asarray(stars.flux / np.sqrt(noise2))


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
    data: np.ndarray, usable: np.ndarray, model: PsfModel, stars: _Stars, gain: float, config: PsfConfig
) -> PsfModel:
    """Coefficients by regularised, robust least squares over the stars' stamps, positions and fluxes held."""
    n = stars.x.size
    ny, nx = data.shape
    order = int(np.searchsorted(config.stars_for_terms, n, side="right"))
    stamps, good = np.empty((n, STAMP, STAMP), np.float32), np.empty((n, STAMP, STAMP), bool)
    psf_solve.cut_stamps(data, usable, stars.x, stars.y, stamps, good)
    stamps /= stars.flux[:, None, None].astype(np.float32)
    stamps -= _local_sky(model, stamps, good, stars, gain, (ny, nx))
    prior = _prior(model, stamps, good, stars, gain, (ny, nx))
    plain = np.zeros((TERMS[order], *prior.shape), np.float32)
    known = min(plain.shape[0], model.coefficients.shape[0])
    plain[:known] = model.coefficients[:known]
    predicted = np.empty_like(stamps)
    psf_solve.predict(plain, stars.x, stars.y, nx, ny, predicted)
    weight = _weights(stamps, predicted, good, stars, gain, config.outlier_sigma)
    penalty = _Penalty(np.maximum(prior, 1e-7 * prior.max()), plain.shape[0], config)
    target = np.zeros(plain.shape)
    target[0] = prior
    solved = _conjugate_gradient(plain, stamps, weight, stars, (ny, nx), penalty, target, config.iterations)
    return normalised(PsfModel(solved, (ny, nx), model.fwhm_px))


def _local_sky(
    model: PsfModel, stamps: np.ndarray, good: np.ndarray, stars: _Stars, gain: float, shape: tuple[int, int]
) -> np.ndarray:
    """(n, 1, 1) float32: what is left of the sky in each flux-normalised stamp, from the pixels outside the core.

    Faint neighbours and the sky map's errors are a pedestal of about a tenth of the sky noise; a stamp has so many pixels
    that it would go into the wings and hence into all fluxes.
    """
    ny, nx = shape
    predicted = np.empty_like(stamps)
    psf_solve.predict(model.coefficients, stars.x, stars.y, nx, ny, predicted)
    grid = np.arange(STAMP) - STAMP // 2
    outside = np.hypot(grid[:, None], grid[None, :]) > max(4.0, 2.0 * model.fwhm_px)
    weight = _weights(stamps, predicted, good & outside, stars, gain, 2.0)
    prior = stars.flux**2 / (SKY_PEDESTAL**2 * stars.sky)
    offset = (weight * (stamps - predicted)).sum(axis=(1, 2)) / (weight.sum(axis=(1, 2)) + prior)
    return np.asarray(offset[:, None, None], np.float32)


def _prior(
    model: PsfModel, stamps: np.ndarray, good: np.ndarray, stars: _Stars, gain: float, shape: tuple[int, int]
) -> np.ndarray:
    """Round profile of the PSF (NODES, NODES): the best Moffat profile, its rings rescaled to the light in the stars' rings."""
    ny, nx = shape
    ring = _best_moffat(model, stamps, good, stars, gain, shape)
    predicted = np.empty_like(stamps)
    psf_solve.predict(ring[None].astype(np.float32), stars.x, stars.y, nx, ny, predicted)
    weight = _weights(stamps, predicted, good, stars, gain, 4.0).astype(np.float64)
    grid = np.arange(STAMP) - STAMP // 2
    dx = grid[None, None, :] + np.floor(stars.x + 0.5)[:, None, None] - stars.x[:, None, None]
    dy = grid[None, :, None] + np.floor(stars.y + 0.5)[:, None, None] - stars.y[:, None, None]
    bins = np.minimum(np.hypot(dx, dy), 12.49).astype(int).ravel()
    up = np.bincount(bins, (weight * predicted * stamps).ravel(), minlength=13)
    down = np.bincount(bins, (weight * predicted * predicted).ravel(), minlength=13)
    factor = _smooth_factor(up, down)
    return ring * np.interp(node_radius(), np.arange(13) + 0.5, factor)


def _best_moffat(
    model: PsfModel, stamps: np.ndarray, good: np.ndarray, stars: _Stars, gain: float, shape: tuple[int, int]
) -> np.ndarray:
    """Coefficients (NODES, NODES) of the Moffat profile that fits the brightest stars (Gauss-Newton in log width, log beta).

    The flux of each star is free (projected out), so that a wrong first model does not keep itself.
    """
    ny, nx = shape
    some = np.argsort(-stars.flux)[:MOFFAT_STARS]
    x, y, t = stars.x[some], stars.y[some], stamps[some].astype(np.float64)
    first = np.empty(t.shape, np.float32)
    psf_solve.predict(model.coefficients, x, y, nx, ny, first)
    weight = _weights(stamps[some], first, good[some], stars.keep(some), gain, 4.0).astype(np.float64)

    def plane(log_width: float, log_beta: float) -> np.ndarray:
        return moffat(float(np.exp(log_width)), shape, float(np.exp(log_beta))).coefficients

    def stamps_of(log_width: float, log_beta: float) -> np.ndarray:
        out = np.empty(t.shape, np.float32)
        psf_solve.predict(plane(log_width, log_beta), x, y, nx, ny, out)
        return out.astype(np.float64)

    p = np.log([model.fwhm_px, 3.0])
    low, high = np.log([0.6 * model.fwhm_px, 1.6]), np.log([1.7 * model.fwhm_px, 8.0])
    for _ in range(4):
        m = stamps_of(*p)
        slopes = [(stamps_of(p[0] + 0.02, p[1]) - m) / 0.02, (stamps_of(p[0], p[1] + 0.05) - m) / 0.05]
        mm = np.maximum((weight * m * m).sum(axis=(1, 2)), 1e-30)
        scale = (weight * t * m).sum(axis=(1, 2)) / mm
        flat = [d - m * ((weight * m * d).sum(axis=(1, 2)) / mm)[:, None, None] for d in slopes]
        remainder = t - scale[:, None, None] * m
        flat = [scale[:, None, None] * d for d in flat]
        normal = np.array([[(weight * a * b).sum() for a in flat] for b in flat])
        # beta is 3 within a factor 1.5 a priori: few stars say nothing about it
        normal += np.diag([1e-6, 1.0 / 0.4**2])
        right = np.array([(weight * a * remainder).sum() for a in flat]) + [0.0, (np.log(3.0) - p[1]) / 0.4**2]
        p = np.clip(p + np.clip(np.linalg.solve(normal, right), -0.3, 0.3), low, high)
    log.debug('moffat %s', np.exp(p))
    return plane(*p)[0].astype(np.float64)


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
    stamps: np.ndarray, predicted: np.ndarray, good: np.ndarray, stars: _Stars, gain: float, outlier: float
) -> np.ndarray:
    """Inverse variances of flux-normalised stamps; Huber's weights for outliers; 0 where not good."""
    flux = stars.flux[:, None, None].astype(np.float32)
    sky = stars.sky[:, None, None].astype(np.float32)
    light = np.maximum(predicted, 0.0)
    variance = (sky + flux * light / gain + (WEIGHT_ERROR * flux * light) ** 2) / flux**2
    distance = np.abs(stamps - predicted) / np.sqrt(variance)
    return np.asarray(good / variance * np.minimum(1.0, outlier / np.maximum(distance, 1e-6)), np.float32)


def _conjugate_gradient(
    start: np.ndarray,
    stamps: np.ndarray,
    weight: np.ndarray,
    stars: _Stars,
    shape: tuple[int, int],
    penalty: _Penalty,
    target: np.ndarray,
    iterations: int,
) -> np.ndarray:
    """Minimise sum w (stamp - predicted)^2 + the penalty of c - target over the coefficients (preconditioned CG)."""
    ny, nx = shape
    predicted, pulled = np.empty_like(stamps), np.empty(start.shape)

    def normal(direction: np.ndarray) -> np.ndarray:
        psf_solve.predict(direction.astype(np.float32), stars.x, stars.y, nx, ny, predicted)
        psf_solve.gather(weight * predicted, stars.x, stars.y, nx, ny, pulled)
        return pulled + penalty.apply(direction)

    psf_solve.gather(weight * stamps, stars.x, stars.y, nx, ny, pulled)
    solution = start.astype(np.float64)
    remainder = pulled + penalty.apply(target)
    remainder = remainder - normal(solution)
    diagonal = np.empty(start.shape)
    psf_solve.curvature(weight, stars.x, stars.y, nx, ny, diagonal)
    diagonal += penalty.diagonal()
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
