"""Make the PSF of an image from its stars: positions and spline coefficients in turn, by regularised least squares."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from ztfds.config.photometry import FitConfig, PsfConfig
from ztfds.kernels import psf as kernels
from ztfds.kernels import psf_solve
from ztfds.kernels.psf_errors import core_excess
from ztfds.photometry import psf_profile as profiles
from ztfds.photometry.background import Background
from ztfds.photometry.psf import TERMS, PsfModel, moffat, normalised
from ztfds.survey.errors import PsfFailed

log = logging.getLogger(__name__)

CORE_FWHM = 1.2  # radius, in FWHM, within which the model's error is measured
SUM_NOISE = 2.0  # error of the PSF's normalisation over 1 / total S/N of its stars: the stamp's sum is no optimal flux
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
    chi, residual = np.empty(0), data.copy()
    departure: np.ndarray | None = None
    for turn in range(config.rounds):
        stars, chi = _refit(data, residual, usable, model, stars, gain, fit, sweeps=3 if turn == 0 else 2)
        _paint(residual, model, stars, 1.0)
        if turn > 0:
            good = chi < CHI_CLIP * np.median(chi) if chi.size > 4 else np.ones(chi.size, bool)
            stars, chi = stars.keep(good), chi[good]
        if stars.x.size < config.min_stars:
            raise PsfFailed(f"only {stars.x.size} PSF stars survive the fit, {config.min_stars} needed")
        model, departure = _solve(data, usable, model, stars, gain, config, departure)
    stars, chi = _refit(data, residual, usable, model, stars, gain, fit, sweeps=2)
    if stars.x.size < config.min_stars:
        raise PsfFailed(f"only {stars.x.size} PSF stars survive the fit, {config.min_stars} needed")
    if not (np.isfinite(model.fwhm_px) and 0.8 < model.fwhm_px < 15.0):
        raise PsfFailed(f"the PSF has no sensible width: FWHM {model.fwhm_px:.2f} pixels")
    error = _model_error(residual, usable, model, stars, gain)
    log.info("PSF of %d stars: FWHM %.3f px, error %.2f %%", stars.x.size, model.fwhm_px, 100 * error)
    flux_error = SUM_NOISE / np.sqrt(np.sum(_star_snr(model, stars, gain) ** 2))
    return replace(
        model,
        error=error,
        flux_error=float(flux_error),
        n_stars=int(stars.x.size),
        chi=float(np.median(chi)),
        error_map=_error_map(data, usable, model, stars, gain, error, config),
    )


def fit_radius(fwhm_px: float, config: FitConfig) -> float:
    """Radius of the pixels used in a fit, pixels."""
    return float(min(max(config.min_fit_radius_px, config.fit_fwhm * fwhm_px), 10.0))


def _paint(image: np.ndarray, model: PsfModel, stars: _Stars, sign: float) -> None:
    """image += sign * the models of all stars, out to the edge of the PSF."""
    n = stars.x.size
    radii, everyone = np.full(n, float(kernels.RADIUS)), np.ones(n, bool)
    kernels.paint(image, model.phased, stars.x, stars.y, stars.flux, radii, everyone, sign)


def _refit(
    data: np.ndarray,
    residual: np.ndarray,
    usable: np.ndarray,
    model: PsfModel,
    stars: _Stars,
    gain: float,
    fit: FitConfig,
    sweeps: int,
) -> tuple[_Stars, np.ndarray]:
    """New positions and fluxes of the stars, and chi of each; `residual`, the image, loses their models.

    Stars that run away are left out, and stay in the image.
    """
    phased, n = model.phased, stars.x.size
    x, y, flux = stars.x.copy(), stars.y.copy(), stars.flux.copy()
    reach = fit_radius(model.fwhm_px, fit)
    errors, radii, alive = np.zeros(n), np.full(n, float(kernels.RADIUS)), np.ones(n, bool)
    _paint(residual, model, stars, -1.0)
    cells = (-(-data.shape[0] // kernels.CELL), -(-data.shape[1] // kernels.CELL))
    due, spare = np.ones(cells, np.uint8), np.empty(cells, np.uint8)
    for _ in range(sweeps):
        kernels.fit_sweep(
            data, residual, usable, phased, x, y, flux, errors, stars.sky, np.full(n, reach), radii, alive, due, spare,
            gain, fit.model_error_floor, 3.0, float(kernels.RADIUS), fit.paint_scale,
        )  # fmt: skip
    strayed = alive & (np.hypot(x - stars.x, y - stars.y) >= 1.5)
    kernels.paint(residual, phased, x, y, flux, radii, strayed, 1.0)
    fitted = _Stars(x, y, flux, stars.sky).keep(alive & ~strayed)
    return fitted, _chi(residual, usable, model, fitted, gain)


def _chi(residual: np.ndarray, usable: np.ndarray, model: PsfModel, stars: _Stars, gain: float) -> np.ndarray:
    """Square root of the mean squared residual over its variance, core of each star (PSF errors count)."""
    out = np.zeros((stars.x.size, 2))
    core_excess(residual, usable, model.phased, stars.x, stars.y, stars.flux, stars.sky, gain, 3.0, out)
    return np.sqrt(np.maximum(out[:, 0], 0.0) / np.maximum(out[:, 1], 1e-30) + 1e-4)


def _star_snr(model: PsfModel, stars: _Stars, gain: float) -> np.ndarray:
    """Signal to noise of each star in the weights of the solution, at most 1 / profiles.WEIGHT_ERROR * 3."""
    noise2 = model.noise_pixels() * stars.sky + stars.flux / gain + (profiles.WEIGHT_ERROR * stars.flux) ** 2 / 9.0
    return np.asarray(stars.flux / np.sqrt(noise2))


def _model_error(residual: np.ndarray, usable: np.ndarray, model: PsfModel, stars: _Stars, gain: float) -> float:
    """Error of the model in a pixel as a fraction of the model: residual power beyond noise, weighted to bright stars."""
    out = np.zeros((stars.x.size, 2))
    radius = min(max(2.0, CORE_FWHM * model.fwhm_px), 8.0)
    core_excess(residual, usable, model.phased, stars.x, stars.y, stars.flux, stars.sky, gain, radius, out)
    ratio = out[:, 0] / np.maximum(out[:, 1], 1e-30)
    bright = np.argsort(-stars.flux)[: max(3, stars.x.size // 2)]
    freedom = stars.x.size / max(stars.x.size - TERMS[model.order], 1)
    return float(np.sqrt(max(np.median(ratio[bright]) * freedom, 0.0)))


def _error_map(
    data: np.ndarray,
    usable: np.ndarray,
    model: PsfModel,
    stars: _Stars,
    gain: float,
    error: float,
    config: PsfConfig,
) -> np.ndarray:
    """(25, 25) float32: 1 sigma of the PSF in each pixel of the stamp at the image centre.

    Noise of the weighted mean of the stars' pixels there, and the relative error of the model in quadrature.
    """
    stamps = profiles.cut(data, usable, stars.x, stars.y, stars.flux, stars.sky, gain)
    weight = stamps.weights(stamps.predict(model.coefficients), config.outlier_sigma).sum(axis=0, dtype=np.float64)
    relative = error * model.centre_stamp()
    return np.asarray(np.sqrt(1.0 / np.maximum(weight, 1e-30) + relative**2), np.float32)


def _solve(
    data: np.ndarray,
    usable: np.ndarray,
    model: PsfModel,
    stars: _Stars,
    gain: float,
    config: PsfConfig,
    departure: np.ndarray | None,
) -> tuple[PsfModel, np.ndarray]:
    """Coefficients by regularised, robust least squares over the stars' stamps, positions and fluxes held.

    `departure` is that of the round before, to begin with; the new one is returned with the model.
    """
    order = int(np.searchsorted(config.stars_for_terms, stars.x.size, side="right"))
    terms = TERMS[order]
    stamps = profiles.cut(data, usable, stars.x, stars.y, stars.flux, stars.sky, gain)
    moffat_profile = profiles.best_moffat(stamps, model.coefficients, model.fwhm_px)
    stamps = profiles.without_local_sky(stamps, moffat_profile)
    profile = profiles.ring_corrected(stamps, moffat_profile)
    target = profiles.shaped(stamps, profile, model.fwhm_px, terms)
    weight = stamps.weights(stamps.predict(target), config.outlier_sigma)
    penalty = _Penalty(np.maximum(profile, 1e-7 * profile.max()), terms, config)
    first = departure is None or departure.shape != target.shape
    if departure is None or first:
        departure = np.zeros(target.shape)
    steps = config.iterations if first else config.later_iterations
    _conjugate_gradient(stamps, weight, penalty, target, departure, steps)
    solved = np.asarray(target + departure, np.float32)
    return normalised(PsfModel(solved, stamps.shape, model.fwhm_px)), departure


def _conjugate_gradient(
    stamps: profiles.Stamps,
    weight: np.ndarray,
    penalty: _Penalty,
    target: np.ndarray,
    departure: np.ndarray,
    iterations: int,
) -> None:
    """Minimise sum w (stamp - P(target + d))^2 + penalty of d over the departure d, in place (preconditioned CG)."""
    x, y, (ny, nx) = stamps.x, stamps.y, stamps.shape
    pulled = np.empty(target.shape)

    def normal(direction: np.ndarray) -> np.ndarray:
        psf_solve.gather(weight * stamps.predict(direction), x, y, nx, ny, pulled)
        return pulled + penalty.apply(direction)

    psf_solve.gather(weight * (stamps.values - stamps.predict(target)), x, y, nx, ny, pulled)
    remainder = pulled.copy()
    diagonal = np.empty(target.shape)
    psf_solve.curvature(weight, x, y, nx, ny, diagonal)
    diagonal += penalty.diagonal()
    whole = float((remainder**2 / diagonal).sum())
    if departure.any():
        remainder -= normal(departure)
    shaped = remainder / diagonal
    direction = shaped.copy()
    product = float((remainder * shaped).sum())
    for _ in range(iterations):
        if product <= 1e-5 * whole:
            break
        image = normal(direction)
        step = product / float((direction * image).sum())
        departure += step * direction
        remainder -= step * image
        shaped = remainder / diagonal
        new = float((remainder * shaped).sum())
        direction = shaped + (new / product) * direction
        product = new
