"""Solving the astrometry of one quadrant: header pointing in, verified TPV world coordinate system out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from ztfds.astrometry.fit import Catalog, Detections, Solution, fit_distortion
from ztfds.astrometry.plane import separation_arcsec, to_plane, to_sky
from ztfds.astrometry.quality import brightness_trend, grid_residuals, robust_rms
from ztfds.astrometry.tpv import Distortion, design, least_squares, n_terms
from ztfds.astrometry.verify import Agreement, Overlap, full_agreement, linear_agreement, overlap
from ztfds.astrometry.vote import Affine, Stars, first_solutions
from ztfds.config.astrometry import AstrometryConfig
from ztfds.survey.errors import AstrometryFailed

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_log = logging.getLogger(__name__)

#: Linear solutions that agree this well at the corners are one: refused once, refused for good.
_SAME_ARCSEC = 3.0
#: What chance makes more often than this is not worth a word in the reason of a failure.
_NOTABLE_LOG10_CHANCE = -3.0


@dataclass(frozen=True)
class Pointing:
    """What the header says: the linear WCS at the image centre, and the distortion it carries, if any.

    x0, y0 : centre pixel, 0-based; ra0, dec0 : its position, deg; jacobian (2, 2) deg East and North per pixel;
    radius_arcsec : half-diagonal; nonlinear : function values of the distortion beyond the linear part, as polynomial
    coefficients (15, 2) in pixel offsets divided by `half_px`, deg, order >= 2 only.
    """

    x0: float
    y0: float
    ra0: float
    dec0: float
    jacobian: FloatArray
    radius_arcsec: float
    half_px: float
    nonlinear: FloatArray

    @property
    def scale_arcsec(self) -> float:
        """Mean pixel scale, arcsec per pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.jacobian))) * 3600)


@dataclass(frozen=True)
class AstrometricSolution:
    """A verified world coordinate system of one quadrant and how good it is.

    Attributes
    ----------
    wcs : astropy WCS, TPV; `all_pix2world(x, y, 0)` and `all_world2pix(ra, dec, 0)`.
    header : cards to put into the image header: the WCS, and ASTROMN, ASTCHI2, ASTRRMS1/2 (deg) as in the archive.
    order : polynomial order of the fitted correction; above it the distortion is the header's own.
    n_matched : Gaia stars matched at S/N >= `min_snr`; n_fitted : those in the fit after clipping.
    rms_ra_mas, rms_dec_mas : robust residual per axis of the fitted stars with S/N >= 50 (or of the brightest 30).
    rms_faint_ra_mas, rms_faint_dec_mas : the same of all matched stars.
    predicted_error_mas, predicted_corner_error_mas : 1 sigma per axis that the fit predicts, median over the image and
        at its worst place.
    shift_arcsec : distance of the image centre from where the header had it.
    rotation_deg : rotation from the header's axes, for solutions of the same parity (else of the mirrored header).
    flipped : whether the header had the wrong parity.
    scale : measured over header pixel scale; pixel_scale_arcsec : at the centre.
    chi2 : reduced chi-square of the fitted stars with the declared errors.
    match_fraction : matches over the smaller of bright detections and bright catalog stars in the image.
    confidence : -log10 of the probability that chance made the solution.
    detection_index, gaia_index : (n_matched,) indices into the arrays given.
    residual_ra_mas, residual_dec_mas : (n_matched,) measured minus catalog, East and North.
    metrics : the numbers that INFOBITS 12 to 21 compare with their limits, and others that are kept and trended; see
        `docs/science/astrometry.md`.
    distortion : the same transform as plain numbers.
    """

    wcs: WCS
    header: dict[str, float | int | str]
    order: int
    n_matched: int
    n_fitted: int
    rms_ra_mas: float
    rms_dec_mas: float
    rms_faint_ra_mas: float
    rms_faint_dec_mas: float
    predicted_error_mas: float
    predicted_corner_error_mas: float
    shift_arcsec: float
    rotation_deg: float
    flipped: bool
    scale: float
    pixel_scale_arcsec: float
    chi2: float
    match_fraction: float
    confidence: float
    detection_index: IntArray
    gaia_index: IntArray
    residual_ra_mas: FloatArray
    residual_dec_mas: FloatArray
    distortion: Distortion
    metrics: dict[str, float] = field(default_factory=dict)


def solve(
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    shape: tuple[int, int],
    guess: WCS,
    gaia: NDArray[np.void],
    config: AstrometryConfig,
    *,
    snr: ArrayLike | None = None,
    fwhm_px: float | None = None,
    usable: ArrayLike | None = None,
) -> AstrometricSolution:
    """Tie the detections of one image to Gaia.

    Parameters
    ----------
    x, y : (n,) 0-based pixel positions; NaN rows are ignored.
    flux : (n,) any linear unit; rows with flux <= 0 are ignored.
    shape : (ny, nx) of the image.
    guess : the header's WCS, any celestial kind; wrong by up to `config.wide_radius_arcsec`, and in rotation or parity.
    gaia : structured array with ra, dec (deg, ICRS, proper motions applied), gmag; ra_error, dec_error (mas) if there.
        It should reach beyond the image by the pointing error.
    config : see `AstrometryConfig`.
    snr : (n,) signal-to-noise ratios; without them the faintest detections are taken for 5 sigma, sky-limited.
    fwhm_px : seeing in pixels: centroid errors are 0.60 FWHM / (S/N) (Gaussian profile, sky-limited).
    usable : (n,) bool, False for detections that vote but are not fitted (saturated, blended).

    Returns
    -------
    AstrometricSolution

    Raises
    ------
    AstrometryFailed
        No solution that passes all checks: match fraction, significance against chance, scale, shear, residuals, and no
        part of the image that contradicts it.
    """
    detections = _detections(x, y, flux, snr, fwhm_px, usable, shape, config)
    pointing = _pointing(guess, shape)
    catalog = _catalog(gaia, pointing, config)
    for name, count in (("detections", len(detections.x)), ("catalog stars", len(catalog.ra))):
        if count < config.min_final_matches:
            raise AstrometryFailed(f"{count} {name} in the image, at least {config.min_final_matches} needed")
    solution = _search(detections, catalog, pointing, shape, config)
    _log.info(
        "astrometry: %d matches, order %d, rms %.0f %.0f mas, shift %.1f arcsec, rotation %.3f deg, chance 1e-%.0f",
        solution.n_matched, solution.order, solution.rms_ra_mas, solution.rms_dec_mas, solution.shift_arcsec,
        solution.rotation_deg, solution.confidence,
    )  # fmt: skip
    return solution


def _detections(
    x: ArrayLike, y: ArrayLike, flux: ArrayLike, snr: ArrayLike | None, fwhm_px: float | None, usable: ArrayLike | None,
    shape: tuple[int, int], config: AstrometryConfig,
) -> Detections:  # fmt: skip
    """Valid detections, brightest first."""
    x, y, flux = (np.asarray(a, np.float64) for a in (x, y, flux))
    ny, nx = shape
    with np.errstate(invalid="ignore"):
        valid = (flux > 0) & np.isfinite(flux) & (x > -1) & (x < nx) & (y > -1) & (y < ny)
    index = np.flatnonzero(valid)
    index = index[np.argsort(-flux[index], kind="stable")]
    if snr is None:
        noise = np.percentile(flux[index], 2) / 5.0 if index.size else 1.0
        ratio = flux[index] / noise
    else:
        ratio = np.nan_to_num(np.asarray(snr, np.float64)[index], nan=0.0)
    fwhm = fwhm_px if fwhm_px is not None and np.isfinite(fwhm_px) and fwhm_px > 0 else config.default_fwhm_px
    good = np.ones(index.size, bool) if usable is None else np.asarray(usable, bool)[index]
    sigma_px = 0.6 * fwhm / np.maximum(ratio, 1e-3)
    return Detections(x[index], y[index], flux[index], ratio, sigma_px, good, index)


def _pointing(guess: WCS, shape: tuple[int, int]) -> Pointing:
    """Linearise the header's WCS at the image centre; raise `AstrometryFailed` if it maps to no sky."""
    ny, nx = shape
    x0, y0 = (nx - 1) / 2.0, (ny - 1) / 2.0
    half = max(nx, ny) / 2.0
    steps = np.linspace(-1.0, 1.0, 9)
    gx, gy = (g.ravel() for g in np.meshgrid(steps, steps))
    try:
        ra, dec = guess.all_pix2world(np.append(gx * half + x0, x0), np.append(gy * half + y0, y0), 0)
    except (ValueError, ArithmeticError) as error:  # wcslib's errors are ValueErrors
        raise AstrometryFailed(f"the header's WCS cannot be evaluated: {error}".splitlines()[0]) from error
    if not (np.isfinite(ra).all() and np.isfinite(dec).all() and np.abs(dec).max() <= 90.0):
        raise AstrometryFailed("the header's WCS gives no position for parts of the image")
    plane = np.stack(to_plane(ra[:-1], dec[:-1], ra[-1], dec[-1]), axis=-1)
    if not np.isfinite(plane).all():
        raise AstrometryFailed("the header's WCS spreads the image over more than a hemisphere")
    coefficients = least_squares(design(gx, gy, 4), plane, np.ones(len(plane)))
    jacobian = coefficients[1:3].T / half
    if abs(np.linalg.det(jacobian)) < 1e-12:
        raise AstrometryFailed("the header's WCS is degenerate: its matrix has no inverse")
    corners = np.array([[sx * nx / 2, sy * ny / 2] for sx in (-1, 1) for sy in (-1, 1)]) @ jacobian.T * 3600
    coefficients[:3] = 0.0
    if np.abs(design(gx, gy, 4) @ coefficients).max() * 3.6e6 < 1.0:
        coefficients[:] = 0.0
    return Pointing(
        x0, y0, float(ra[-1]), float(dec[-1]), jacobian, float(np.hypot(*corners.T).max()), half, coefficients
    )


def _catalog(gaia: NDArray[np.void], pointing: Pointing, config: AstrometryConfig) -> Catalog:
    """Stars that the image can contain, brightest first."""
    reach = (pointing.radius_arcsec + np.sqrt(2.0) * config.wide_radius_arcsec) / 3600
    ra, dec = np.asarray(gaia["ra"], np.float64), np.asarray(gaia["dec"], np.float64)
    band = np.flatnonzero(np.abs(dec - pointing.dec0) <= reach)
    xi, eta = to_plane(ra[band], dec[band], pointing.ra0, pointing.dec0)
    mag = np.asarray(gaia["gmag"], np.float64)[band]
    with np.errstate(invalid="ignore"):
        near = np.flatnonzero((np.hypot(xi, eta) <= reach) & np.isfinite(mag))
    near = near[np.argsort(mag[near], kind="stable")]
    index = band[near]
    names = gaia.dtype.names or ()
    errors = [np.nan_to_num(np.asarray(gaia[n], np.float64)[index]) for n in ("ra_error", "dec_error") if n in names]
    error = np.hypot(*errors) / np.sqrt(2.0) if len(errors) == 2 else np.zeros(index.size)
    plane = Stars(xi[near] * 3600, eta[near] * 3600)
    return Catalog(ra[index], dec[index], mag[near], error / 3.6e6, index, plane)


def _search(
    detections: Detections, catalog: Catalog, pointing: Pointing, shape: tuple[int, int], config: AstrometryConfig
) -> AstrometricSolution:
    """Try candidate solutions until one passes every check."""
    offset = np.stack([detections.x - pointing.x0, detections.y - pointing.y0], axis=-1) @ pointing.jacobian.T * 3600
    points = Stars(offset[:, 0], offset[:, 1])
    depths = _depths(min(len(points), config.n_vote), catalog, pointing, shape, config)
    reason, least = "no shift, rotation or parity brings the detections onto the catalog", _NOTABLE_LOG10_CHANCE
    refused: list[FloatArray] = []
    for affine in first_solutions(points, catalog.plane, depths, pointing.radius_arcsec, config):
        common = overlap(affine, detections, catalog, config)
        trouble, chance = _doubt(affine, common, points, catalog, pointing, shape, config)
        corners = affine.corners(pointing.radius_arcsec)
        if trouble is None and not any(np.abs(corners - other).max() < _SAME_ARCSEC for other in refused):
            try:
                return _finish(affine, common, detections, catalog, pointing, shape, config)
            except AstrometryFailed as error:
                trouble = error.message
                refused.append(corners)
        if trouble is not None and chance < least:
            reason, least = trouble, chance
    raise AstrometryFailed(f"{reason} ({len(detections.x)} detections, {len(catalog.ra)} catalog stars)")


def _depths(
    n_voters: int, catalog: Catalog, pointing: Pointing, shape: tuple[int, int], config: AstrometryConfig
) -> list[int]:
    """Numbers of brightest catalog stars that make `catalog_depths` times the voters inside the header's footprint."""
    inside = _inside(np.stack([catalog.plane.x, catalog.plane.y], axis=-1), pointing, shape)
    cumulative = np.cumsum(inside)
    wanted = [int(np.searchsorted(cumulative, depth * n_voters)) + 1 for depth in config.catalog_depths]
    return list(dict.fromkeys(min(max(n, config.min_matches), len(catalog.ra)) for n in wanted))


def _inside(plane_arcsec: FloatArray, pointing: Pointing, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which positions (n, 2) in the header's tangent plane the header's linear WCS puts inside the image."""
    pixel = plane_arcsec / 3600 @ np.linalg.inv(pointing.jacobian).T
    ny, nx = shape
    return (np.abs(pixel[:, 0]) <= nx / 2) & (np.abs(pixel[:, 1]) <= ny / 2)


def _doubt(
    affine: Affine, common: Overlap, points: Stars, catalog: Catalog, pointing: Pointing, shape: tuple[int, int],
    config: AstrometryConfig,
) -> tuple[str | None, float]:  # fmt: skip
    """Why a linear solution is not believed, or None; and log10 of the probability that chance made it."""
    singular = np.linalg.svd(affine.matrix, compute_uv=False)
    scale = float(np.sqrt(singular.prod()))
    if abs(scale - 1) > config.scale_range + 0.005:
        return f"pixel scale {scale:.4f} of the header's", 0.0
    if singular[0] / singular[1] - 1 > config.max_shear:
        return f"axes sheared by {singular[0] / singular[1] - 1:.4f}", 0.0
    x, y = catalog.plane.x[common.stars], catalog.plane.y[common.stars]
    back = (np.stack([x, y], axis=-1) - affine.shift) @ np.linalg.inv(affine.matrix).T
    inside = _inside(back, pointing, shape)
    moved = affine.apply(points.x[common.detections], points.y[common.detections])
    stars = Stars(x[inside], y[inside])
    agreement = linear_agreement(moved, stars, pointing.radius_arcsec, affine.n_trials)
    return agreement.doubt(config), agreement.log10_chance


def _finish(
    affine: Affine, common: Overlap, detections: Detections, catalog: Catalog, pointing: Pointing,
    shape: tuple[int, int], config: AstrometryConfig,
) -> AstrometricSolution:  # fmt: skip
    """Fit the distortion and check the result; raise `AstrometryFailed` when it is suspicious."""
    start = _start(affine, pointing)
    fitted = fit_distortion(
        start, detections, catalog, (common.detections, common.stars), _prior(affine, pointing, start), shape, config
    )
    if len(fitted.detection) < config.min_final_matches:
        raise AstrometryFailed(f"{len(fitted.detection)} stars matched, at least {config.min_final_matches} needed")
    residual = fitted.residual_arcsec[fitted.kept]
    rms = robust_rms(residual.ravel())
    if not rms <= config.max_rms_arcsec:
        raise AstrometryFailed(f"residual {rms:.2f} arcsec per axis, limit {config.max_rms_arcsec}")
    _, anywhere, where_seen = fitted.predicted_error_arcsec
    if where_seen > config.max_predicted_error_arcsec or anywhere > config.max_error_unseen_arcsec:
        raise AstrometryFailed(
            f"{int(fitted.kept.sum())} stars leave an error of {where_seen:.2f} arcsec among the detections and of "
            f"{anywhere:.2f} arcsec elsewhere"
        )
    distance = np.hypot(*fitted.residual_arcsec.T)
    concentration = float((distance <= 0.5 * config.match_radius_arcsec).mean())
    if concentration < config.min_concentration:
        raise AstrometryFailed(f"only {concentration:.2f} of the matches within half the matching radius: chance")
    agreement = full_agreement(fitted, detections, catalog, shape, affine.n_trials, config)
    trouble = agreement.doubt(config)
    if trouble is not None:
        raise AstrometryFailed(trouble)
    return _solution(fitted, affine, pointing, agreement, detections, catalog, shape, config)


def _start(affine: Affine, pointing: Pointing) -> Distortion:
    """Linear WCS of the corrected header, its tangent point moved to the image centre."""
    ra, dec = to_sky(affine.shift[0] / 3600, affine.shift[1] / 3600, pointing.ra0, pointing.dec0)
    ra0, dec0 = float(ra), float(dec)
    # Around the new tangent point North is turned: carry the axes over by finite differences of one arcmin.
    step = 1.0 / 60.0 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) / (pointing.scale_arcsec / 3600)
    plane = step @ pointing.jacobian.T @ affine.matrix.T + affine.shift / 3600
    new = np.stack(to_plane(*to_sky(plane[:, 0], plane[:, 1], pointing.ra0, pointing.dec0), ra0, dec0), axis=-1)
    cd = ((new[1:] - new[0]) / step[1, 0]).T
    return Distortion(pointing.x0, pointing.y0, ra0, dec0, cd, np.vstack([np.zeros(2), np.eye(2)]))


def _prior(affine: Affine, pointing: Pointing, start: Distortion) -> FloatArray:
    """The header's own distortion, orders 2 to 4, as coefficients (15, 2) in the (u, v) of the start."""
    if not pointing.nonlinear.any():
        return np.zeros((n_terms(4), 2))
    steps = np.linspace(-1.0, 1.0, 9)
    gx, gy = (g.ravel() for g in np.meshgrid(steps, steps))
    values = design(gx, gy, 4) @ pointing.nonlinear @ affine.matrix.T
    u, v = start.intermediate(gx * pointing.half_px + pointing.x0, gy * pointing.half_px + pointing.y0)
    prior = least_squares(design(u, v, 4), values, np.ones(len(values)))
    prior[:3] = 0.0
    return prior


def _solution(
    fitted: Solution, affine: Affine, pointing: Pointing, agreement: Agreement, detections: Detections,
    catalog: Catalog, shape: tuple[int, int], config: AstrometryConfig,
) -> AstrometricSolution:  # fmt: skip
    """Collect what the caller and the header get."""
    distortion, residual = fitted.distortion, fitted.residual_arcsec
    i, kept = fitted.detection, fitted.kept
    precise = kept & (detections.snr[i] >= 50.0)
    if precise.sum() < 30:
        precise = kept & (np.cumsum(kept) <= 30)
    rms = [1e3 * robust_rms(residual[precise, axis]) for axis in (0, 1)]
    faint = [1e3 * robust_rms(residual[:, axis]) for axis in (0, 1)]
    grid = grid_residuals(detections.x[i], detections.y[i], residual[:, 0], residual[:, 1], shape, config.qa_grid)
    flipped = bool(np.linalg.det(affine.matrix) < 0)
    turn = affine.matrix @ np.diag([-1.0, 1.0]) if flipped else affine.matrix
    pixel_scale = float(np.sqrt(abs(np.linalg.det(distortion.cd))) * 3600)
    scale = pixel_scale / pointing.scale_arcsec
    change = 100.0 * (fitted.chi2 / max(fitted.chi2_first, 1e-9) - 1.0)
    metrics = {
        "astrom_possible": 1.0,
        "astrom_catalog_percent": 100.0 * agreement.star_fraction,
        "n_astrom_matches": float(len(i)),
        "n_astrom_ingrid_min": float(grid.min_count),
        "pixel_scale_change_percent": 100.0 * (scale - 1.0),
        # The prior can cost the last fit a trifle on the very stars of the first: less than 1 % is no change.
        "astrom_chi2_change_percent": 0.0 if 0.0 < change < 1.0 else change,
        "astrom_chi2": fitted.chi2,
        "astrom_ingrid_resid_arcsec": grid.max_median_arcsec,
        "astrom_detected_percent": 100.0 * agreement.point_fraction,
        "astrom_predicted_mas": 1e3 * fitted.predicted_error_arcsec[0],
        "astrom_predicted_worst_mas": 1e3 * fitted.predicted_error_arcsec[1],
        # Detections come brightest first, hence pairs too.
        "astrom_trend_mas": 1e3 * brightness_trend(residual, np.flatnonzero(kept)),
    }
    header = distortion.cards() | {
        "ASTROMN": len(i), "ASTCHI2": fitted.chi2, "ASTRRMS1": rms[0] / 3.6e6, "ASTRRMS2": rms[1] / 3.6e6,
        "ASTIRMS1": 0.0, "ASTIRMS2": 0.0, "ASTINST": 1,
    }  # fmt: skip
    ra0, dec0 = distortion.sky(pointing.x0, pointing.y0)
    return AstrometricSolution(
        wcs=distortion.wcs(), header=header, order=fitted.order, n_matched=len(i), n_fitted=int(kept.sum()),
        rms_ra_mas=rms[0], rms_dec_mas=rms[1], rms_faint_ra_mas=faint[0], rms_faint_dec_mas=faint[1],
        predicted_error_mas=1e3 * fitted.predicted_error_arcsec[0],
        predicted_corner_error_mas=1e3 * fitted.predicted_error_arcsec[1],
        shift_arcsec=separation_arcsec(pointing.ra0, pointing.dec0, float(ra0), float(dec0)),
        rotation_deg=float(np.degrees(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))),
        flipped=flipped, scale=scale, pixel_scale_arcsec=pixel_scale, chi2=fitted.chi2,
        match_fraction=agreement.match_fraction,
        confidence=-agreement.log10_chance, detection_index=detections.index[i],
        gaia_index=catalog.index[fitted.star],
        residual_ra_mas=1e3 * residual[:, 0], residual_dec_mas=1e3 * residual[:, 1],
        distortion=distortion, metrics=metrics,
    )  # fmt: skip
