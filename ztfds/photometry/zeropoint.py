"""The photometric zero point of one quadrant: PSF magnitudes tied to Pan-STARRS1 with a linear colour term."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ztfds.astrometry.plane import to_plane
from ztfds.astrometry.quality import cell_index, cell_medians
from ztfds.config.astrometry import FilterCalibration, ZeropointConfig
from ztfds.kernels.match import contamination, match_mutual
from ztfds.survey.bits import EXTINCTION_PER_AIRMASS, HARD_BAD
from ztfds.survey.errors import PhotometryFailed
from ztfds.survey.filters import Filter

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Zeropoint:
    """m_PS1 = m_inst + magzp + clrcoeff * colour, and how well that holds.

    Attributes
    ----------
    magzp, magzpunc : zero point at colour 0 and its 1 sigma error, mag.
    magzprms : robust scatter of the calibrators about the fit, mag.
    clrcoeff, clrcounc : colour coefficient and its 1 sigma error, mag/mag; zpclrcov : their covariance, mag^2.
    nmatches : calibrators in the fit; n_catalog : PS1 stars in the image that could be calibrators.
    pcolor : the colour, as in headers.
    zpmed, zpavg, zprmsall : median, mean, scatter of m_PS1 - m_inst of all matches, without colour term, mag.
    clrmed, clravg, clrrms : median, mean, rms of the calibrators' colours, mag.
    color_fitted : False where the colour coefficient is held near its nominal value.
    spatial_mag : (g, g) median residuals in cells of the image, row 0 at y = 0, NaN where fewer than 5 calibrators;
        positive where stars come out too faint; all NaN if the image size was not given.
    max_spatial_mag : largest absolute value of it, NaN if none; patchy_mag : the same of cells that depart by more than
        4 sigma, 0 if none.
    spatial_terms, spatial_errors : (5,) coefficients, mag, of the residual surface and their 1 sigma errors
        (`spatial_surface`); zeros where it cannot be fitted. Reported, applied only if the configuration says so.
    zp_clear_mag : zero point for 30 s brought to the top of the atmosphere, mag.
    crowded_percent : share of the matched calibrators that have a neighbour.
    clrcoeff_doubt : the value within 3 sigma of the colour coefficient that is nearest to the nominal one.
    source_index, ps1_index : (nmatches,) rows of the catalogs given; residual_mag : (nmatches,) PS1 minus calibrated.
    """

    magzp: float
    magzpunc: float
    magzprms: float
    clrcoeff: float
    clrcounc: float
    zpclrcov: float
    nmatches: int
    n_catalog: int
    pcolor: str
    zpmed: float
    zpavg: float
    zprmsall: float
    clrmed: float
    clravg: float
    clrrms: float
    color_fitted: bool
    spatial_mag: FloatArray
    max_spatial_mag: float
    patchy_mag: float
    spatial_terms: FloatArray
    spatial_errors: FloatArray
    zp_clear_mag: float
    crowded_percent: float
    clrcoeff_doubt: float
    source_index: IntArray
    ps1_index: IntArray
    residual_mag: FloatArray

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that INFOBITS 8 to 11 and 25 to 28 compare with their limits."""
        return {
            "photcal_possible": 1.0,
            "n_photcal_catalog": float(self.n_catalog),
            "n_photcal_matches": float(self.nmatches),
            "zp_rms_mag": self.magzprms,
            "zp_clear_mag": self.zp_clear_mag,
            "clrcoeff_doubt": self.clrcoeff_doubt,
            "crowded_calibrators_percent": self.crowded_percent,
            "patchy_mag": self.patchy_mag,
        }

    @property
    def spatial_rms_mag(self) -> float:
        """Root mean square over the image of the residual surface, mag: 0 where it was not fitted."""
        return float(np.sqrt(np.mean((_surface(_GRID_U, _GRID_V) @ self.spatial_terms) ** 2)))

    def header(self) -> dict[str, tuple[float | int | str, str]]:
        """Header cards, keyword to (value, comment), in the archive's order."""
        return {
            "NMATCHES": (self.nmatches, "Number of photometric calibrators used"),
            "MAGZP": (self.magzp, "Magnitude zero point for PSF-photometry [mag]"),
            "MAGZPUNC": (self.magzpunc, "Magnitude zero point uncertainty [mag]"),
            "MAGZPRMS": (self.magzprms, "Magnitude zero point RMS deviation [mag]"),
            "CLRCOEFF": (self.clrcoeff, "Color coefficient from linear fit"),
            "CLRCOUNC": (self.clrcounc, "Color coefficient uncertainty from linear fit"),
            "ZPCLRCOV": (self.zpclrcov, "Covariance in MAGZP and CLRCOEFF [mag^2]"),
            "PCOLOR": (self.pcolor, "Calibrator color used for PSF-fit calibration"),
            "ZPMED": (self.zpmed, "Mag zero point from median of mag diffs [mag]"),
            "ZPAVG": (self.zpavg, "Mag zero point from average of mag diffs [mag]"),
            "ZPRMSALL": (self.zprmsall, "Mag zero point RMS from all mag diffs [mag]"),
            "CLRMED": (self.clrmed, "Median calibrator color [mag]"),
            "CLRAVG": (self.clravg, "Average calibrator color [mag]"),
            "CLRRMS": (self.clrrms, "RMS in calibrator color [mag]"),
        }


@dataclass(frozen=True)
class _Calibrators:
    """Matched calibrators: rows, m_PS1 - m_inst, its error, PS1 colour, its variance, their covariance, contamination by
    neighbours. (n,) each."""

    source: IntArray
    ps1: IntArray
    difference: FloatArray
    sigma: FloatArray
    color: FloatArray
    color_variance: FloatArray
    covariance: FloatArray
    crowding: FloatArray

    def __len__(self) -> int:
        return int(self.source.size)

    def take(self, rows: IntArray | BoolArray) -> _Calibrators:
        """A selection."""
        return _Calibrators(*(values[rows] for values in vars(self).values()))


@dataclass(frozen=True)
class LinearFit:
    """Robust line: zero, slope, (2, 2) covariance, kept (n,) bool, residuals (n,), robust scatter of the kept ones."""

    zero: float
    slope: float
    covariance: FloatArray
    kept: BoolArray
    residual: FloatArray
    scatter: float


def calibrate(
    psfcat: NDArray[np.void],
    ps1: NDArray[np.void],
    filter_: Filter,
    config: ZeropointConfig,
    *,
    shape: tuple[int, int] | None = None,
    airmass: float = 1.0,
    exptime_s: float = 30.0,
) -> Zeropoint:
    """Tie instrumental magnitudes to PS1.

    Parameters
    ----------
    psfcat : PSF catalog: ra, dec (deg, calibrated), mag (-2.5 log10 of DN), sigmag, snr, flags; xpos, ypos (0-based) for
        the map of residuals.
    ps1 : ra, dec, g, r, i, z, g_err ... z_err, sgscore; NaN or values outside 5..30 mag mean not measured.
    filter_ : filter of the exposure.
    config : see `ZeropointConfig`.
    shape : (ny, nx) of the image, for the map of residuals.
    airmass, exptime_s : of the exposure, for judging the zero point (limits hold for 30 s).

    Returns
    -------
    Zeropoint

    Raises
    ------
    PhotometryFailed
        Too few calibrators, or a scatter that says they are not the stars they are taken for.
    """
    expected = _expectations(filter_, config)
    stars, n_catalog, crowded = _match(psfcat, ps1, filter_, expected, config)
    if len(stars) < config.min_matches:
        raise PhotometryFailed(
            f"{len(stars)} calibrators matched of {n_catalog} in the image, at least {config.min_matches} needed"
        )
    fitted = len(stars) >= config.min_for_color and float(stars.color.std()) >= config.min_color_spread_mag
    prior = None if fitted else (expected.nominal_color_coefficient, expected.color_coefficient_error)
    fit = fit_line(
        stars.color, stars.difference, stars.sigma, config.clip_sigma, prior, stars.color_variance, stars.covariance
    )
    n_used = int(fit.kept.sum())
    if n_used < config.min_matches:
        raise PhotometryFailed(f"{n_used} of {len(stars)} calibrators agree, at least {config.min_matches} needed")
    if not fit.scatter <= config.max_scatter_mag:
        raise PhotometryFailed(f"calibrators scatter by {fit.scatter:.2f} mag, limit {config.max_scatter_mag}")
    clear = fit.zero + EXTINCTION_PER_AIRMASS[filter_.fid] * airmass - 2.5 * np.log10(max(exptime_s, 1e-3) / 30.0)
    spatial = _spatial(psfcat, stars, fit, shape, config)
    result = _collect(stars, fit, fitted, n_catalog, filter_, expected, spatial, float(clear), crowded)
    _log.info(
        "zero point %.4f +- %.4f, colour %.3f +- %.3f, scatter %.3f, %d of %d calibrators",
        result.magzp, result.magzpunc, result.clrcoeff, result.clrcounc, result.magzprms, n_used, n_catalog,
    )  # fmt: skip
    return result


def _expectations(filter_: Filter, config: ZeropointConfig) -> FilterCalibration:
    """What is declared for the filter; raise `PhotometryFailed` if nothing is."""
    if filter_.code not in config.filters:
        raise PhotometryFailed(f"no calibration is declared for filter {filter_.code}")
    return config.filters[filter_.code]


def _measured(mag: NDArray[np.generic]) -> BoolArray:
    """Whether a catalog magnitude is one (catalogs write NaN, 0, -999 or 99 for none)."""
    value = np.asarray(mag, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray((value > 5.0) & (value < 30.0), bool)


def _match(
    psfcat: NDArray[np.void],
    ps1: NDArray[np.void],
    filter_: Filter,
    expected: FilterCalibration,
    config: ZeropointConfig,
) -> tuple[_Calibrators, int, float]:
    """Calibrators found in the image, the number of PS1 stars inside its outline that could be ones, and the percentage of
    the matched ones that have a neighbour.

    Sources and PS1 objects of every kind are matched one to one first, so that in a crowd a calibrator is not paired
    with a neighbour's detection; then both sides are selected.
    """
    blue, red = filter_.color_bands
    valid = np.flatnonzero(np.isfinite(psfcat["ra"]) & np.isfinite(psfcat["dec"]) & np.isfinite(psfcat["mag"]))
    objects = np.flatnonzero(_measured(ps1[filter_.band]))
    if valid.size == 0 or objects.size == 0:
        return _no_calibrators(), 0, 0.0
    ra0, dec0 = _center(psfcat["ra"][valid], psfcat["dec"][valid])
    x, y = to_plane(psfcat["ra"][valid], psfcat["dec"][valid], ra0, dec0)
    rx, ry = to_plane(ps1["ra"][objects], ps1["dec"][objects], ra0, dec0)
    margin = 2 * config.isolation_arcsec / 3600
    with np.errstate(invalid="ignore"):
        near = (rx > x.min() - margin) & (rx < x.max() + margin) & (ry > y.min() - margin) & (ry < y.max() + margin)
    objects, rx, ry = objects[near], rx[near], ry[near]
    good = _eligible(ps1[objects], filter_, expected, config)
    outline = (rx >= x.min()) & (rx <= x.max()) & (ry >= y.min()) & (ry <= y.max())
    i, j, _ = match_mutual(x, y, rx, ry, config.match_radius_arcsec / 3600)
    flux = 10 ** (-0.4 * (np.asarray(ps1[filter_.band][objects], np.float64) - 15.0))
    crowding = contamination(rx, ry, flux, config.isolation_arcsec / 3600) if len(objects) else flux
    source, ps1_rows = valid[i], objects[j]
    flags = psfcat["flags"][source]
    use = good[j] & (flags >= 0) & ((flags & HARD_BAD) == 0)
    source, ps1_rows, contaminated = source[use], ps1_rows[use], crowding[j][use]
    band, error = np.asarray(ps1[filter_.band], np.float64), _error(ps1, filter_.band, ps1_rows)
    variance = {name: _error(ps1, name, ps1_rows) ** 2 for name in (blue, red)}
    # The colour shares its error with the calibrated band: + where that is the blue one of the pair, - where the red one.
    covariance = (float(blue == filter_.band) - float(red == filter_.band)) * error**2
    stars = _Calibrators(
        source, ps1_rows, band[ps1_rows] - psfcat["mag"][source],
        np.hypot(np.hypot(psfcat["sigmag"][source], error), config.intrinsic_scatter_mag),
        np.asarray(ps1[blue][ps1_rows], np.float64) - ps1[red][ps1_rows],
        variance[blue] + variance[red], covariance, contaminated,
    )  # fmt: skip
    crowded = 100.0 * float(np.mean(contaminated > config.isolation_flux_ratio)) if len(stars) else 0.0
    return _select(stars, psfcat["snr"][source], config), int((good & outline).sum()), crowded


def _no_calibrators() -> _Calibrators:
    rows, values = np.zeros(0, np.int64), np.zeros(0)
    return _Calibrators(rows, rows, *(values for _ in range(6)))


def _center(ra: NDArray[np.generic], dec: NDArray[np.generic]) -> tuple[float, float]:
    """Mean direction of positions, deg."""
    a, d = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    x, y, z = (np.cos(d) * np.cos(a)).mean(), (np.cos(d) * np.sin(a)).mean(), np.sin(d).mean()
    return float(np.degrees(np.arctan2(y, x))), float(np.degrees(np.arctan2(z, np.hypot(x, y))))


def _error(ps1: NDArray[np.void], band: str, rows: IntArray) -> FloatArray:
    """Catalog error of a band, mag; 0.02 where none is given."""
    name = f"{band}_err"
    if name not in (ps1.dtype.names or ()):
        return np.full(len(rows), 0.02)
    value = np.asarray(ps1[name][rows], np.float64)
    return np.where(np.isfinite(value) & (value >= 0) & (value < 5), value, 0.02)


def _eligible(
    ps1: NDArray[np.void], filter_: Filter, expected: FilterCalibration, config: ZeropointConfig
) -> BoolArray:
    """PS1 objects that can be calibrators: stars of measured colour in the range of magnitudes and colours."""
    blue, red = filter_.color_bands
    band = np.asarray(ps1[filter_.band], np.float64)
    color = np.asarray(ps1[blue], np.float64) - np.asarray(ps1[red], np.float64)
    low, high = expected.color_range
    with np.errstate(invalid="ignore"):
        star = np.asarray(ps1["sgscore"], np.float64) > config.min_sgscore
        return np.asarray(
            star
            & _measured(ps1[blue]) & _measured(ps1[red])
            & (band >= config.bright_mag) & (band <= config.faint_mag)
            & (color >= low) & (color <= high), bool,
        )  # fmt: skip


def _select(stars: _Calibrators, snr: FloatArray, config: ZeropointConfig) -> _Calibrators:
    """Calibrators of enough S/N; of these the isolated ones, filled up with the least crowded if they are too few."""
    strong = snr >= config.min_snr
    if strong.sum() < config.min_for_color:
        strong = snr >= config.relaxed_snr
    stars = stars.take(strong)
    n_isolated = int((stars.crowding <= config.isolation_flux_ratio).sum())
    order = np.argsort(stars.crowding, kind="stable")
    return stars.take(order[: max(n_isolated, config.min_isolated)])


def fit_line(
    x: FloatArray,
    y: FloatArray,
    sigma: FloatArray,
    clip_sigma: float,
    slope_prior: tuple[float, float] | None = None,
    x_variance: FloatArray | None = None,
    covariance: FloatArray | None = None,
) -> LinearFit:
    """Robust line y = zero + slope x through points with errors in both, which may be correlated.

    Starts from the median with the prior's (or no) slope, clips at `clip_sigma` robust sigma of the residuals, refits
    until nothing changes. Errors in x would flatten the slope of an ordinary fit, and here they share the error of the
    catalog magnitude with y: hence the least-squares cubic (York et al. 2004, American Journal of Physics 72, 367) with
    W = 1 / (sigma^2 + slope^2 var_x - 2 slope cov). The covariance is scaled by the reduced chi-square where that exceeds 1.

    Parameters
    ----------
    x, y, sigma : (n,) float64.
    slope_prior : mean and 1 sigma of a Gaussian prior of the slope, or None.
    x_variance, covariance : (n,) float64, variance of x and covariance of x and y; None: x is exact.
    """
    mean, width = slope_prior if slope_prior is not None else (0.0, np.inf)
    var_x = np.zeros_like(x) if x_variance is None else x_variance
    shared = np.zeros_like(x) if covariance is None else covariance
    residual = y - mean * x
    residual = residual - np.median(residual)
    # The unknown slope widens the first residuals; the clipping that counts follows.
    kept = np.abs(residual) <= 5.0 * max(1.4826 * float(np.median(np.abs(residual))), 1e-3)
    zero, slope, errors = float(np.median(y)), mean, np.zeros((2, 2))
    expected = sigma
    for _ in range(12):
        for _ in range(3):
            zero, slope, errors = _york(x, y, sigma**2, var_x, shared, kept, slope, mean, width)
        residual = y - zero - slope * x
        expected = np.sqrt(np.maximum(sigma**2 + slope**2 * var_x - 2 * slope * shared, 1e-12))
        scatter = 1.4826 * float(np.median(np.abs(residual[kept])))
        before, kept = kept, np.abs(residual) <= clip_sigma * np.hypot(expected, max(scatter, 1e-3))
        if np.array_equal(before, kept) or kept.sum() < 3:
            break
    free = max(1, int(kept.sum()) - 2)
    chi2 = float(((residual / expected)[kept] ** 2).sum()) / free
    rms = float(np.sqrt((residual[kept] ** 2).sum() / free)) if kept.any() else np.nan
    return LinearFit(zero, slope, errors * max(1.0, chi2), kept, residual, rms)


def _york(
    x: FloatArray, y: FloatArray, var_y: FloatArray, var_x: FloatArray, shared: FloatArray, kept: BoolArray,
    slope: float, mean: float, width: float,
) -> tuple[float, float, FloatArray]:  # fmt: skip
    """One iteration of the line: zero, slope and their (2, 2) covariance, from the last slope and a prior of it."""
    weight = kept / np.maximum(var_y + slope**2 * var_x - 2 * slope * shared, 1e-12)
    total = max(float(weight.sum()), 1e-300)
    x_mean, y_mean = float((weight * x).sum()) / total, float((weight * y).sum()) / total
    u, v = x - x_mean, y - y_mean
    # Where each point most probably is along the line, given both its errors.
    adjusted = weight * (u * var_y + slope * v * var_x - (slope * u + v) * shared)
    bottom = float((weight * adjusted * u).sum()) + 1.0 / width**2
    new = (float((weight * adjusted * v).sum()) + mean / width**2) / bottom if bottom > 0 else mean
    middle = x_mean + float((weight * adjusted).sum()) / total
    information = float((weight * (x_mean + adjusted - middle) ** 2).sum()) + 1.0 / width**2
    variance = 1.0 / information if information > 0 else 0.0
    errors = np.array([[1.0 / total + middle**2 * variance, -middle * variance], [-middle * variance, variance]])
    return y_mean - new * x_mean, new, errors


@dataclass(frozen=True)
class _Spatial:
    """Residuals over the image: see the attributes of `Zeropoint` of the same names."""

    spatial_mag: FloatArray
    max_spatial_mag: float
    patchy_mag: float
    spatial_terms: FloatArray
    spatial_errors: FloatArray


def _spatial(
    psfcat: NDArray[np.void],
    stars: _Calibrators,
    fit: LinearFit,
    shape: tuple[int, int] | None,
    config: ZeropointConfig,
) -> _Spatial:
    """Median residuals in cells of the image, and the surface through the residuals."""
    g, none = config.spatial_grid, np.zeros(5)
    if shape is None or "xpos" not in (psfcat.dtype.names or ()):
        return _Spatial(np.full((g, g), np.nan), float("nan"), 0.0, none, none)
    rows = stars.source[fit.kept]
    x, y, residual = psfcat["xpos"][rows], psfcat["ypos"][rows], fit.residual[fit.kept]
    cell = cell_index(x, y, shape, g)
    count = np.bincount(cell, minlength=g * g)
    median = np.where(count >= 5, cell_medians(cell, residual, g * g), np.nan)
    # The median of n Gaussian values has 1.25 sigma / sqrt(n).
    error = 1.25 * fit.scatter / np.sqrt(np.maximum(count, 1))
    worst = np.abs(median)
    with np.errstate(invalid="ignore"):
        patchy = float(np.max(worst, where=worst > 4 * error, initial=0.0))
    largest = float(np.nanmax(worst)) if np.isfinite(worst).any() else float("nan")
    terms, errors = _fit_surface(x, y, residual, stars.sigma[fit.kept], shape, config)
    return _Spatial(median.reshape(g, g), largest, patchy, terms, errors)


def _fit_surface(
    x: FloatArray,
    y: FloatArray,
    residual: FloatArray,
    sigma: FloatArray,
    shape: tuple[int, int],
    config: ZeropointConfig,
) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares for the five terms of the surface and a constant, with errors; zeros if stars are too few.

    A Gaussian prior of `spatial_prior_mag` on each term keeps corners without stars at rest.
    """
    if residual.size < config.min_for_surface:
        return np.zeros(5), np.zeros(5)
    terms = np.column_stack([np.ones(residual.size), _surface(*_unit_square(x, y, shape))])
    weighted = terms / sigma[:, None] ** 2
    normal = weighted.T @ terms + np.diag([0.0, *[config.spatial_prior_mag**-2] * 5])
    covariance = np.linalg.inv(normal)
    solution = covariance @ (weighted.T @ residual)
    chi2 = float((((residual - terms @ solution) / sigma) ** 2).sum()) / max(1, residual.size - 6)
    return solution[1:], np.sqrt(np.diag(covariance)[1:] * max(1.0, chi2))


def _unit_square(x: FloatArray, y: FloatArray, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Pixel positions as coordinates that run from -1 to 1 over the image."""
    ny, nx = shape
    return (np.asarray(x, np.float64) - (nx - 1) / 2) / (nx / 2), (np.asarray(y, np.float64) - (ny - 1) / 2) / (ny / 2)


def _surface(u: FloatArray, v: FloatArray) -> FloatArray:
    """The five terms of the residual surface, (n, 5), each with mean 0 over the image."""
    return np.column_stack([u, v, u * u - 1 / 3, u * v, v * v - 1 / 3])


_GRID_U, _GRID_V = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.95, 0.95, 20), np.linspace(-0.95, 0.95, 20)))


def spatial_surface(terms: FloatArray, x: FloatArray, y: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """The residual surface at pixel positions, mag: add it to calibrated magnitudes to take it out.

    s = t1 u + t2 v + t3 (u^2 - 1/3) + t4 u v + t5 (v^2 - 1/3) with u = (x - (nx-1)/2) / (nx/2), v likewise, 0-based pixels.
    """
    return np.asarray(_surface(*_unit_square(x, y, shape)) @ terms, np.float64)


def _collect(
    stars: _Calibrators, fit: LinearFit, fitted: bool, n_catalog: int, filter_: Filter, expected: FilterCalibration,
    spatial: _Spatial, zp_clear_mag: float, crowded: float,
) -> Zeropoint:  # fmt: skip
    """Everything the caller and the header get."""
    color, kept = stars.color[fit.kept], fit.kept
    slope_error, away = float(np.sqrt(fit.covariance[1, 1])), fit.slope - expected.nominal_color_coefficient
    doubt = float(np.sign(away) * max(abs(away) - 3 * slope_error, 0.0))
    return Zeropoint(
        magzp=fit.zero, magzpunc=float(np.sqrt(fit.covariance[0, 0])), magzprms=fit.scatter,
        clrcoeff=fit.slope, clrcounc=slope_error, zpclrcov=float(fit.covariance[0, 1]),
        nmatches=int(kept.sum()), n_catalog=n_catalog, pcolor=filter_.pcolor,
        zpmed=float(np.median(stars.difference)), zpavg=float(stars.difference.mean()),
        zprmsall=float(stars.difference.std()),
        clrmed=float(np.median(color)), clravg=float(color.mean()), clrrms=float(color.std()),
        color_fitted=fitted, **vars(spatial), zp_clear_mag=zp_clear_mag, crowded_percent=crowded,
        clrcoeff_doubt=expected.nominal_color_coefficient + doubt,
        source_index=stars.source[kept], ps1_index=stars.ps1[kept], residual_mag=fit.residual[kept],
    )  # fmt: skip
