"""Solving the astrometry of one quadrant: header pointing in, verified TPV world coordinate system out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from ztfds.astrometry.fit import Catalog, Detections, Solution, fit_distortion
from ztfds.astrometry.plane import separation_arcsec, to_plane, to_sky
from ztfds.astrometry.quality import cell_index, contradicted_cell, grid_residuals, log10_chance, robust_rms
from ztfds.astrometry.tpv import Distortion, design, least_squares, n_terms
from ztfds.astrometry.vote import Affine, Stars, bin_size, first_solutions
from ztfds.config.astrometry import AstrometryConfig
from ztfds.kernels.match import match_mutual
from ztfds.survey.errors import AstrometryFailed

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_log = logging.getLogger(__name__)


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
    shift_arcsec : distance of the image centre from where the header had it.
    rotation_deg : rotation from the header's axes, for solutions of the same parity (else of the mirrored header).
    flipped : whether the header had the wrong parity.
    scale : measured over header pixel scale; pixel_scale_arcsec : at the centre.
    chi2 : reduced chi-square of the fitted stars with the declared errors.
    match_fraction : matches over the smaller of bright detections and bright catalog stars in the image.
    confidence : -log10 of the probability that chance made the solution.
    detection_index, gaia_index : (n_matched,) indices into the arrays given.
    residual_ra_mas, residual_dec_mas : (n_matched,) measured minus catalog, East and North.
    metrics : the numbers that INFOBITS 12 to 21 compare with their limits; see `docs/science/astrometry.md`.
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
        if count < config.min_matches:
            raise AstrometryFailed(f"{count} {name} in the image, at least {config.min_matches} needed")
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
    except Exception as error:  # wcslib raises many kinds, all of them say that the header is no use
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
    reason, best = "no shift, rotation or parity brings the detections onto the catalog", 0
    for affine in first_solutions(points, catalog.plane, depths, pointing.radius_arcsec, config):
        trouble = _doubt(affine, points, catalog, pointing, shape, depths[0], config)
        if trouble is None:
            try:
                return _finish(affine, detections, catalog, pointing, shape, depths[0], config)
            except AstrometryFailed as error:
                trouble = error.message
        if affine.n_matched > best:
            reason, best = trouble, affine.n_matched
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
    affine: Affine, points: Stars, catalog: Catalog, pointing: Pointing, shape: tuple[int, int], depth: int,
    config: AstrometryConfig,
) -> str | None:  # fmt: skip
    """Why a linear solution is not believed, or None."""
    singular = np.linalg.svd(affine.matrix, compute_uv=False)
    scale = float(np.sqrt(singular.prod()))
    if abs(scale - 1) > config.scale_range + 0.005:
        return f"pixel scale {scale:.4f} of the header's"
    if singular[0] / singular[1] - 1 > config.max_shear:
        return f"axes sheared by {singular[0] / singular[1] - 1:.4f}"
    n_voters = min(len(points), config.n_vote)
    references = np.stack([catalog.plane.x[:depth], catalog.plane.y[:depth]], axis=-1)
    back = (references - affine.shift) @ np.linalg.inv(affine.matrix).T
    n_stars = int(_inside(back, pointing, shape).sum())
    radius = 0.8 * bin_size(pointing.radius_arcsec)
    moved = affine.apply(points.x[:n_voters], points.y[:n_voters])
    matched = len(match_mutual(moved[:, 0], moved[:, 1], references[:, 0], references[:, 1], radius)[0])
    return _unlikely(matched, n_voters, n_stars, _area(shape, pointing), radius, affine.n_trials, config)


def _area(shape: tuple[int, int], pointing: Pointing) -> float:
    """Image area in square arcsec."""
    return shape[0] * shape[1] * pointing.scale_arcsec**2


def _unlikely(
    matched: int, n_points: int, n_stars: int, area: float, radius: float, n_trials: float, config: AstrometryConfig
) -> str | None:
    """Why so few matches are not believed, or None."""
    expected = max(1, min(n_points, n_stars))
    if matched < config.min_matches:
        return f"{matched} matches, at least {config.min_matches} needed"
    if matched < config.min_match_fraction * expected:
        return f"{matched} of {expected} bright stars matched"
    chance = log10_chance(matched, n_points, n_stars / area, radius, n_trials, 3)
    if chance > config.max_log10_chance:
        return f"{matched} of {expected} matches can be chance: probability 1e{chance:.1f}"
    return None


def _finish(
    affine: Affine, detections: Detections, catalog: Catalog, pointing: Pointing, shape: tuple[int, int], depth: int,
    config: AstrometryConfig,
) -> AstrometricSolution:  # fmt: skip
    """Fit the distortion and check the result; raise `AstrometryFailed` when it is suspicious."""
    start = _start(affine, pointing)
    fitted = fit_distortion(start, detections, catalog, depth, _prior(affine, pointing, start), shape, config)
    residual = fitted.residual_arcsec[fitted.kept]
    rms = robust_rms(residual.ravel())
    if not rms <= config.max_rms_arcsec:
        raise AstrometryFailed(f"residual {rms:.2f} arcsec per axis, limit {config.max_rms_arcsec}")
    statistics = _statistics(fitted, detections, catalog, shape, affine.n_trials, config)
    trouble = _unlikely(
        int(statistics["bright_matched"]), int(statistics["bright_detections"]), int(statistics["bright_stars"]),
        _area(shape, pointing), config.match_radius_arcsec, affine.n_trials, config,
    )  # fmt: skip
    if trouble is not None:
        raise AstrometryFailed(trouble)
    if statistics["contradicted"]:
        raise AstrometryFailed("a part of the image has bright detections and bright stars that do not match")
    return _solution(fitted, affine, pointing, statistics, detections, catalog, shape, config)


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


def _statistics(
    fitted: Solution, detections: Detections, catalog: Catalog, shape: tuple[int, int], n_trials: float,
    config: AstrometryConfig,
) -> dict[str, float]:  # fmt: skip
    """Counts of matches among those detections and stars that should find each other, and the chance of them.

    Bright detections have S/N >= `min_snr` and are brighter than the catalog's faint end; bright stars are inside the
    image and brighter than 95 % of the matched ones.
    """
    i, j = fitted.detection, fitted.star
    zero = float(np.median(catalog.mag[j] + 2.5 * np.log10(detections.flux[i])))
    catalog_limit = float(np.percentile(catalog.mag[fitted.inside], 99)) - 0.5
    expected_mag = zero - 2.5 * np.log10(detections.flux)
    bright = (detections.snr >= config.min_snr) & (
        expected_mag <= max(catalog_limit, float(np.median(expected_mag[i])))
    )
    star_limit = float(np.percentile(catalog.mag[j], 95))
    stars = fitted.inside[catalog.mag[fitted.inside] <= star_limit]
    detection_matched = np.isin(np.flatnonzero(bright), i)
    star_matched = np.isin(stars, j)
    xs, ys = fitted.star_pixels(stars)
    cells = config.qa_grid
    contradicted = contradicted_cell(
        cell_index(detections.x[bright], detections.y[bright], shape, cells), detection_matched,
        cell_index(xs, ys, shape, cells), star_matched, cells * cells,
    )  # fmt: skip
    area = shape[0] * shape[1] * abs(np.linalg.det(fitted.distortion.cd)) * 3600**2
    n_bright, n_stars, n_both = int(bright.sum()), len(stars), int(detection_matched.sum())
    chance = log10_chance(n_both, n_bright, n_stars / area, config.match_radius_arcsec, n_trials, 3)
    return {
        "bright_detections": n_bright, "bright_stars": n_stars, "bright_matched": n_both,
        "pct_detections": 100.0 * n_both / max(1, n_bright), "pct_stars": 100.0 * float(star_matched.mean()),
        "match_fraction": n_both / max(1, min(n_bright, n_stars)), "log10_chance": chance, "contradicted": float(contradicted),
    }  # fmt: skip


def _solution(
    fitted: Solution, affine: Affine, pointing: Pointing, statistics: dict[str, float], detections: Detections,
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
    metrics = {
        "astrometry_possible": 1.0,
        "astrom_pct_ref_matches": statistics["pct_stars"],
        "astrom_n_matches": float(len(i)),
        "astrom_min_grid_matches": float(grid.min_count),
        "astrom_scale_change_pct": 100.0 * (scale - 1.0),
        "astrom_chi2_change_pct": 100.0 * (fitted.chi2 / fitted.chi2_first - 1.0),
        "astrom_chi2": fitted.chi2,
        "astrom_max_grid_residual_arcsec": grid.max_median_arcsec,
        "astrom_pct_detected_matches": statistics["pct_detections"],
    }
    header = distortion.cards() | {
        "ASTROMN": len(i), "ASTCHI2": fitted.chi2, "ASTRRMS1": rms[0] / 3.6e6, "ASTRRMS2": rms[1] / 3.6e6,
        "ASTIRMS1": 0.0, "ASTIRMS2": 0.0, "ASTINST": 1,
    }  # fmt: skip
    ra0, dec0 = distortion.sky(pointing.x0, pointing.y0)
    return AstrometricSolution(
        wcs=distortion.wcs(), header=header, order=fitted.order, n_matched=len(i), n_fitted=int(kept.sum()),
        rms_ra_mas=rms[0], rms_dec_mas=rms[1], rms_faint_ra_mas=faint[0], rms_faint_dec_mas=faint[1],
        shift_arcsec=separation_arcsec(pointing.ra0, pointing.dec0, float(ra0), float(dec0)),
        rotation_deg=float(np.degrees(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))),
        flipped=flipped, scale=scale, pixel_scale_arcsec=pixel_scale, chi2=fitted.chi2,
        match_fraction=statistics["match_fraction"],
        confidence=-statistics["log10_chance"], detection_index=detections.index[i],
        gaia_index=catalog.index[fitted.star],
        residual_ra_mas=1e3 * residual[:, 0], residual_dec_mas=1e3 * residual[:, 1],
        distortion=distortion, metrics=metrics,
    )  # fmt: skip
