"""Fitting the distortion: ever deeper matching, weights from centroid errors, clipping, a prior for what few stars leave open."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ztfds.astrometry.plane import to_plane, to_sky
from ztfds.astrometry.tpv import Distortion, design, least_squares, leverage, n_terms
from ztfds.astrometry.vote import Stars, bin_size
from ztfds.config.astrometry import AstrometryConfig
from ztfds.kernels.match import contamination, match_mutual
from ztfds.survey.errors import AstrometryFailed

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: How much of the softening each fit of the robust start has.
_SOFTENING = (1.0, 1.0, 0.3, 0.1, 0.0)


@dataclass(frozen=True)
class Detections:
    """Detections of the image, brightest first.

    x, y 0-based pixels; flux; snr; sigma_px centroid error per axis, pixels; usable for the fit; index into the input.
    """

    x: FloatArray
    y: FloatArray
    flux: FloatArray
    snr: FloatArray
    sigma_px: FloatArray
    usable: BoolArray
    index: IntArray


@dataclass(frozen=True)
class Catalog:
    """Catalog stars that the image can contain, brightest first.

    ra, dec deg; mag; error_deg per axis; index into the input; plane: positions about the header's centre, arcsec.
    """

    ra: FloatArray
    dec: FloatArray
    mag: FloatArray
    error_deg: FloatArray
    index: IntArray
    plane: Stars


@dataclass(frozen=True)
class Solution:
    """Result of `fit_distortion`.

    detection, star : (n,) matched pairs; kept : (n,) bool, in the fit; spread : robust scatter of the kept stars' residuals
    over their errors; residual_arcsec : (n, 2) measured minus catalog, East and North; tried : detections of the last
    round; inside : indices of catalog stars in the image; inside_plane : their (n, 2) plane positions, deg;
    chi2, chi2_first : reduced chi-square of the kept stars with the last and with the first, bright-star polynomial;
    predicted_error_arcsec : 1 sigma error per axis that the fit's covariance gives: median and largest over the image, and
        largest at the detections.
    """

    distortion: Distortion
    order: int
    detection: IntArray
    star: IntArray
    kept: BoolArray
    spread: float
    residual_arcsec: FloatArray
    tried: IntArray
    inside: IntArray
    inside_plane: FloatArray
    chi2: float
    chi2_first: float
    predicted_error_arcsec: tuple[float, float, float]


def centroid_sigma(detections: Detections, model: Distortion, config: AstrometryConfig) -> FloatArray:
    """Error per axis of every detection, deg: centroid and floor in quadrature. (n,)"""
    scale = np.sqrt(abs(np.linalg.det(model.cd)))
    return np.hypot(detections.sigma_px * scale, config.error_floor_mas / 3.6e6)


def _reduced_chi2(residual: FloatArray, sigma: FloatArray, n_free: int) -> float:
    """Chi-square of two-dimensional residuals over degrees of freedom."""
    return float(((residual / sigma[:, None]) ** 2).sum() / max(1, residual.size - n_free))


def _scatter(normal: FloatArray) -> float:
    """Robust sigma of residuals in units of their errors, at least 0.1: zero residuals would clip everything."""
    return max(0.1, float(np.median(np.abs(normal))) / 0.6745)


def _allowed_order(n: int, config: AstrometryConfig) -> int:
    """Highest order for n stars, at least 1."""
    return max(1, min(config.max_order, sum(n >= needed for needed in config.stars_for_order)))


def _precision(prior: FloatArray, config: AstrometryConfig) -> FloatArray:
    """1 / sigma^2 for the 15 terms about the prior (15, 2); the constant and linear ones are free."""
    share = config.known_distortion_share if prior.any() else 1.0
    sigma = share * np.repeat(config.distortion_sigma, (3, 4, 5))
    return np.concatenate([np.zeros(3), 1.0 / sigma**2])


def fit_polynomial(
    u: FloatArray,
    v: FloatArray,
    target: FloatArray,
    sigma: FloatArray,
    prior: FloatArray,
    highest: int,
    config: AstrometryConfig,
) -> tuple[FloatArray, int, BoolArray, float]:
    """Weighted, clipped fit of target (n, 2) by a polynomial in (u, v), with a Gaussian prior about a known distortion.

    The order is lowered by the number of stars. The start is robust: the first fits soften the errors, so that no bright
    star that is blended or has moved pulls the polynomial towards itself, and weigh residuals down as a Cauchy
    distribution does. Then stars beyond `clip_sigma` leave until none does, measured by their studentised residuals
    r / (sigma sqrt(1 - h)): a star alone in a corner has leverage h near 1 and draws the polynomial through itself. Errors
    are scaled up by the scatter of the residuals before they are weighed against the prior. Returns coefficients (15, 2),
    order, kept (n,), that scatter. Raises LinAlgError when the stars do not determine the linear terms.
    """
    matrix, precision = design(u, v, 4), _precision(prior, config)
    rest = target - matrix @ prior
    order = min(highest, _allowed_order(len(u), config))
    keep, spread = _robust_start(matrix[:, : n_terms(order)], rest, sigma, precision[: n_terms(order)], config)
    for _ in range(5):
        order = min(highest, _allowed_order(int(keep.sum()), config))
        k = n_terms(order)
        weights = 1.0 / (spread * sigma) ** 2
        coefficients = least_squares(matrix[:, :k], rest, keep * weights, precision[:k])
        pull = leverage(matrix[:, :k], keep, weights, precision[:k])
        error = sigma * np.sqrt(np.where(keep, np.maximum(1.0 - pull, 0.01), 1.0 + pull))
        normal = np.abs(rest - matrix[:, :k] @ coefficients) / error[:, None]
        before, spread = keep, _scatter(normal[keep])
        keep = np.all(normal <= config.clip_sigma * spread, axis=1)
        if np.array_equal(before, keep):
            break
    total = prior.copy()
    total[:k] += coefficients
    return total, order, keep, spread


def _robust_start(
    terms: FloatArray, rest: FloatArray, sigma: FloatArray, precision: FloatArray, config: AstrometryConfig
) -> tuple[BoolArray, float]:
    """Stars near the softened fits, and the scatter of their residuals in units of their errors.

    Weights 1 / [(s sigma')^2 (1 + (r / 2.4 s sigma')^2)] with sigma'^2 = sigma^2 + soft^2 (Cauchy; 2.4 keeps 95 % of the
    efficiency for Gaussian errors), soft falling to nothing; s is the robust scatter of r / sigma'.
    """
    weights, spread = np.ones(len(rest)), 1.0
    for share in _SOFTENING:
        error = np.hypot(sigma, share * config.softening_arcsec / 3600)
        coefficients = least_squares(terms, rest, weights / (spread * error) ** 2, precision)
        normal = np.hypot(*(rest - terms @ coefficients).T) / error
        # The median length of a two-dimensional Gaussian residual is 1.18 sigma.
        spread = max(0.1, float(np.median(normal)) / 1.18)
        weights = 1.0 / (1.0 + (normal / (2.4 * spread)) ** 2)
    return np.asarray(normal <= config.clip_sigma * spread), spread


def _recentred(model: Distortion) -> Distortion:
    """The same transform with its constant and linear terms moved into the tangent point and the CD matrix.

    Exact in the linear terms; the higher ones are carried over to first order, which the next fit makes good.
    """
    ra0, dec0 = to_sky(model.coefficients[0, 0], model.coefficients[0, 1], model.ra0, model.dec0)
    linear = model.coefficients[1:3].T
    coefficients = model.coefficients.copy()
    coefficients[:3] = np.vstack([np.zeros(2), np.eye(2)])
    return replace(model, ra0=float(ra0), dec0=float(dec0), cd=linear @ model.cd, coefficients=coefficients)


@dataclass(frozen=True)
class _Pass:
    """One round of matching: these detections and stars (ranks, ascending), this radius, this highest order."""

    detections: IntArray
    stars: IntArray
    radius_arcsec: float
    highest: int


@dataclass(frozen=True)
class _Matched:
    """What a round gives: the new model and its order, pairs, those kept in the fit and the scatter of their residuals over
    their errors, stars inside and where (deg)."""

    model: Distortion
    order: int
    detection: IntArray
    star: IntArray
    keep: BoolArray
    spread: float
    inside: IntArray
    plane: FloatArray


def fit_distortion(
    start: Distortion, detections: Detections, catalog: Catalog, bright: tuple[IntArray, IntArray], prior: FloatArray,
    shape: tuple[int, int], config: AstrometryConfig,
) -> Solution:  # fmt: skip
    """Refine a linear solution to the full one.

    Two rounds with bright detections and catalog stars (few, hence unconfused even in the plane) give a
    polynomial good to a fraction of an arcsec; two rounds with all stars down to `min_snr` give the final one.

    Parameters
    ----------
    start : linear solution, good to a few arcsec.
    detections, catalog : brightest first; bright : ranks of the detections and stars for the first rounds.
    prior : (15, 2) distortion known beforehand, orders >= 2.
    shape : (ny, nx).
    """
    ny, nx = shape
    width = bin_size(3600 * np.sqrt(abs(np.linalg.det(start.cd))) * np.hypot(nx, ny) / 2)
    deep, every = np.flatnonzero(detections.snr >= config.min_snr), np.arange(len(catalog.ra))
    if len(deep) < config.few_stars:
        deep = np.union1d(deep, np.arange(min(len(detections.x), config.n_vote)))
    deep = deep[: config.max_fit_stars]
    last = config.match_radius_arcsec
    rounds = (
        _Pass(*bright, 0.8 * width, 2),
        _Pass(*bright, max(last, 0.3 * width), config.max_order),
        _Pass(deep, every, last, config.max_order),
        _Pass(deep, every, last, config.max_order),
    )
    model = replace(start, coefficients=prior + np.eye(n_terms(4), 2, k=-1))
    models = []
    for step in rounds:
        matched = _round(model, step, detections, catalog, prior, shape, config)
        models.append(matched.model)
        model = _recentred(matched.model)
    result = _result(matched, models[1], deep, detections, catalog, config)
    return replace(result, predicted_error_arcsec=_predicted_error(result, prior, detections, catalog, shape, config))


def _round(
    model: Distortion, step: _Pass, detections: Detections, catalog: Catalog, prior: FloatArray, shape: tuple[int, int],
    config: AstrometryConfig,
) -> _Matched:  # fmt: skip
    """Match with the model's positions and fit again; raise `AstrometryFailed` when too few stars are left."""
    inside, plane = _stars_inside(model, catalog, step.stars, shape)
    measured = model.plane(detections.x[step.detections], detections.y[step.detections])
    near, there, _ = match_mutual(measured[:, 0], measured[:, 1], plane[:, 0], plane[:, 1], step.radius_arcsec / 3600)
    i, j = step.detections[near], there.astype(np.int64)
    alone = _alone(plane, catalog.mag[inside], config)[j]
    fit = detections.usable[i] & alone
    if fit.sum() < max(config.min_matches, n_terms(1) + 2):
        fit = np.ones(len(i), bool)
    if len(i) < config.min_matches:
        raise AstrometryFailed(f"{len(i)} matches within {step.radius_arcsec:.1f} arcsec, {config.min_matches} needed")
    sigma = np.hypot(centroid_sigma(detections, model, config)[i], catalog.error_deg[inside[j]])
    u, v = model.intermediate(detections.x[i], detections.y[i])
    try:
        coefficients, order, kept, spread = fit_polynomial(
            u[fit], v[fit], plane[j[fit]], sigma[fit], prior, step.highest, config
        )
    except np.linalg.LinAlgError as error:
        raise AstrometryFailed(f"{int(fit.sum())} matched stars do not determine a linear solution") from error
    keep = np.zeros(len(i), bool)
    keep[np.flatnonzero(fit)[kept]] = True
    return _Matched(replace(model, coefficients=coefficients), order, i, inside[j], keep, spread, inside, plane)


def _stars_inside(
    model: Distortion, catalog: Catalog, stars: IntArray, shape: tuple[int, int]
) -> tuple[IntArray, FloatArray]:
    """Among some stars (ascending), those that fall on the image: indices and plane positions (m, 2) deg."""
    xi, eta = to_plane(catalog.ra[stars], catalog.dec[stars], model.ra0, model.dec0)
    plane = np.stack([xi, eta], axis=-1)
    x, y = model.linear_pixels(plane)
    ny, nx = shape
    with np.errstate(invalid="ignore"):
        inside = np.flatnonzero((x > -1) & (x < nx) & (y > -1) & (y < ny))
    return stars[inside], plane[inside]


def _alone(plane: FloatArray, mag: FloatArray, config: AstrometryConfig) -> BoolArray:
    """Stars without a companion that would move their centroid."""
    if len(mag) == 0 or config.isolation_arcsec <= 0:
        return np.ones(len(mag), bool)
    flux = 10 ** (-0.4 * (mag - mag.min()))
    foreign = contamination(plane[:, 0], plane[:, 1], flux, config.isolation_arcsec / 3600)
    alone: BoolArray = foreign <= config.isolation_flux_ratio
    return alone


def _result(
    matched: _Matched, first: Distortion, tried: IntArray, detections: Detections, catalog: Catalog, config: AstrometryConfig
) -> Solution:  # fmt: skip
    """Residuals and chi-square of the final model, and of the first polynomial on the same stars."""
    model, i, j, keep = matched.model, matched.detection, matched.star, matched.keep
    target = matched.plane[np.searchsorted(matched.inside, j)]
    residual = model.plane(detections.x[i], detections.y[i]) - target
    sigma = np.hypot(centroid_sigma(detections, model, config)[i], catalog.error_deg[j])
    n_free = 2 * n_terms(matched.order)
    then = np.stack(to_plane(catalog.ra[j], catalog.dec[j], first.ra0, first.dec0), axis=-1)
    earlier = first.plane(detections.x[i], detections.y[i]) - then
    return Solution(
        trimmed(model), matched.order, i, j, keep, matched.spread, residual * 3600, tried, matched.inside, matched.plane,
        _reduced_chi2(residual[keep], sigma[keep], n_free), _reduced_chi2(earlier[keep], sigma[keep], n_free),
        (np.nan, np.nan, np.nan),
    )  # fmt: skip


def _predicted_error(
    result: Solution, prior: FloatArray, detections: Detections, catalog: Catalog, shape: tuple[int, int],
    config: AstrometryConfig,
) -> tuple[float, float, float]:  # fmt: skip
    """Predicted error per axis, arcsec: median and largest on a grid of 7 x 7 points to the corners, largest at detections.

    From the covariance (A^T W A + P)^-1 of all 15 terms, so that orders left out count with the prior's uncertainty;
    errors are scaled by the scatter of the residuals.
    """
    model, kept = result.distortion, result.kept
    i = result.detection[kept]
    sigma = np.hypot(centroid_sigma(detections, model, config)[i], catalog.error_deg[result.star[kept]])
    spread = max(1.0, result.spread)
    terms = design(*model.intermediate(detections.x[i], detections.y[i]), 4)
    normal = (terms / (spread * sigma[:, None]) ** 2).T @ terms + np.diag(_precision(prior, config))
    ny, nx = shape
    gx, gy = np.meshgrid(np.linspace(0, nx - 1, 7), np.linspace(0, ny - 1, 7))
    x, y = np.append(gx, detections.x[result.tried]), np.append(gy, detections.y[result.tried])
    place = design(*model.intermediate(x, y), 4)
    variance = (place * np.linalg.solve(normal, place.T).T).sum(axis=1)
    error = np.sqrt(np.maximum(variance, 0.0)) * 3600
    grid, seen = error[: gx.size], error[gx.size :]
    return float(np.median(grid)), float(grid.max()), float(seen.max())


def trimmed(model: Distortion) -> Distortion:
    """Drop the highest orders whose coefficients are all zero: no card says nothing."""
    order = max((o for o in (2, 3, 4) if model.coefficients[n_terms(o - 1) : n_terms(o)].any()), default=1)
    return replace(model, coefficients=model.coefficients[: n_terms(order)])
