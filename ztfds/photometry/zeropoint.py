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
from ztfds.survey.bits import CLOUDY_LIMITS, HARD_BAD
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
    max_spatial_mag : largest absolute value of it, NaN if none.
    hints : reasons to doubt the image, one line each; none of them is fatal by itself.
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
    hints: tuple[str, ...]
    source_index: IntArray
    ps1_index: IntArray
    residual_mag: FloatArray

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that INFOBITS 8 to 11 compare with their limits."""
        return {
            "photcal_possible": 1.0,
            "n_photcal_catalog": float(self.n_catalog),
            "n_photcal_matches": float(self.nmatches),
            "zp_rms_mag": self.magzprms,
        }

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
    """Matched calibrators: rows, m_PS1 - m_inst, its error, PS1 colour, contamination by neighbours. (n,) each."""

    source: IntArray
    ps1: IntArray
    difference: FloatArray
    sigma: FloatArray
    color: FloatArray
    crowding: FloatArray

    def __len__(self) -> int:
        return int(self.source.size)

    def take(self, rows: IntArray | BoolArray) -> _Calibrators:
        """A selection."""
        return _Calibrators(
            self.source[rows], self.ps1[rows], self.difference[rows], self.sigma[rows], self.color[rows],
            self.crowding[rows],
        )  # fmt: skip


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
    stars, n_catalog = _match(psfcat, ps1, filter_, expected, config)
    if len(stars) < config.min_matches:
        raise PhotometryFailed(
            f"{len(stars)} calibrators matched of {n_catalog} in the image, at least {config.min_matches} needed"
        )
    fitted = len(stars) >= config.min_for_color and float(stars.color.std()) >= config.min_color_spread_mag
    prior = None if fitted else (expected.nominal_color_coefficient, expected.color_coefficient_error)
    fit = fit_line(stars.color, stars.difference, stars.sigma, config.clip_sigma, prior)
    n_used = int(fit.kept.sum())
    if n_used < config.min_matches:
        raise PhotometryFailed(f"{n_used} of {len(stars)} calibrators agree, at least {config.min_matches} needed")
    if not fit.scatter <= config.max_scatter_mag:
        raise PhotometryFailed(f"calibrators scatter by {fit.scatter:.2f} mag, limit {config.max_scatter_mag}")
    spatial, spatial_error = _spatial(psfcat, stars, fit, shape, config)
    hints = _hints(fit, filter_, expected, spatial, spatial_error, airmass, exptime_s, config)
    result = _collect(stars, fit, fitted, n_catalog, filter_, spatial, hints)
    _log.info(
        "zero point %.4f +- %.4f, colour %.3f +- %.3f, scatter %.3f, %d of %d calibrators%s",
        result.magzp, result.magzpunc, result.clrcoeff, result.clrcounc, result.magzprms, n_used, n_catalog,
        "".join(f"; {hint}" for hint in hints),
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
) -> tuple[_Calibrators, int]:
    """Calibrators found in the image, and the number of PS1 stars inside the image's outline that could be ones.

    Sources and PS1 objects of every kind are matched one to one first, so that in a crowd a calibrator is not paired
    with a neighbour's detection; then both sides are selected.
    """
    blue, red = filter_.color_bands
    valid = np.flatnonzero(np.isfinite(psfcat["ra"]) & np.isfinite(psfcat["dec"]) & np.isfinite(psfcat["mag"]))
    objects = np.flatnonzero(_measured(ps1[filter_.band]))
    if valid.size == 0 or objects.size == 0:
        return _no_calibrators(), 0
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
    source, ps1_rows, crowded = source[use], ps1_rows[use], crowding[j][use]
    error = np.hypot(psfcat["sigmag"][source], _error(ps1, filter_.band, ps1_rows))
    stars = _Calibrators(
        source, ps1_rows,
        np.asarray(ps1[filter_.band][ps1_rows], np.float64) - psfcat["mag"][source],
        np.hypot(error, config.intrinsic_scatter_mag),
        np.asarray(ps1[blue][ps1_rows], np.float64) - ps1[red][ps1_rows], crowded,
    )  # fmt: skip
    return _select(stars, psfcat["snr"][source], config), int((good & outline).sum())


def _no_calibrators() -> _Calibrators:
    rows, values = np.zeros(0, np.int64), np.zeros(0)
    return _Calibrators(rows, rows, values, values, values, values)


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
    x: FloatArray, y: FloatArray, sigma: FloatArray, clip_sigma: float, slope_prior: tuple[float, float] | None = None
) -> LinearFit:
    """Robust weighted line y = zero + slope x.

    Starts from the median with the prior's (or no) slope, clips at `clip_sigma` robust sigma of the residuals, refits
    until nothing changes. The covariance (A^T W A)^-1 is scaled by the reduced chi-square where that exceeds 1.

    Parameters
    ----------
    x, y, sigma : (n,) float64.
    slope_prior : mean and 1 sigma of a Gaussian prior of the slope, or None.
    """
    mean, width = slope_prior if slope_prior is not None else (0.0, np.inf)
    terms = np.stack([np.ones_like(x), x], axis=-1)
    information = np.diag([0.0, 1.0 / width**2])
    residual = y - mean * x
    residual = residual - np.median(residual)
    # The unknown slope widens the first residuals; the clipping that counts follows.
    kept = np.abs(residual) <= 5.0 * max(1.4826 * float(np.median(np.abs(residual))), 1e-3)
    solution: FloatArray = np.array([np.median(y), mean])
    covariance: FloatArray = np.zeros((2, 2))
    for _ in range(12):
        weights = kept / sigma**2
        normal = (terms * weights[:, None]).T @ terms + information
        covariance = np.asarray(np.linalg.pinv(normal), np.float64)
        solution = covariance @ ((terms * weights[:, None]).T @ y + information @ np.array([0.0, mean]))
        residual = y - terms @ solution
        scatter = 1.4826 * float(np.median(np.abs(residual[kept])))
        before, kept = kept, np.abs(residual) <= clip_sigma * np.hypot(sigma, max(scatter, 1e-3))
        if np.array_equal(before, kept) or kept.sum() < 3:
            break
    free = max(1, int(kept.sum()) - 2)
    chi2 = float(((residual / sigma)[kept] ** 2).sum()) / free
    rms = float(np.sqrt((residual[kept] ** 2).sum() / free)) if kept.any() else np.nan
    return LinearFit(float(solution[0]), float(solution[1]), covariance * max(1.0, chi2), kept, residual, rms)


def _spatial(
    psfcat: NDArray[np.void],
    stars: _Calibrators,
    fit: LinearFit,
    shape: tuple[int, int] | None,
    config: ZeropointConfig,
) -> tuple[FloatArray, FloatArray]:
    """Median residuals in cells of the image and their errors, mag; NaN where fewer than 5 calibrators."""
    g = config.spatial_grid
    names = psfcat.dtype.names or ()
    if shape is None or "xpos" not in names:
        return np.full((g, g), np.nan), np.full((g, g), np.nan)
    rows = stars.source[fit.kept]
    cell = cell_index(psfcat["xpos"][rows], psfcat["ypos"][rows], shape, g)
    count = np.bincount(cell, minlength=g * g)
    median = np.where(count >= 5, cell_medians(cell, fit.residual[fit.kept], g * g), np.nan)
    # The median of n Gaussian values has 1.25 sigma / sqrt(n).
    error = 1.25 * fit.scatter / np.sqrt(np.maximum(count, 1))
    return median.reshape(g, g), error.reshape(g, g)


def _hints(
    fit: LinearFit, filter_: Filter, expected: FilterCalibration, spatial: FloatArray, spatial_error: FloatArray,
    airmass: float, exptime_s: float, config: ZeropointConfig,
) -> tuple[str, ...]:  # fmt: skip
    """Reasons to doubt the image, from the fit's numbers."""
    limits = CLOUDY_LIMITS[filter_.fid]
    clear = limits.zp_max - limits.slope * airmass + 2.5 * np.log10(max(exptime_s, 1e-3) / 30.0)
    low, high = expected.color_coefficient_range
    error = float(np.sqrt(fit.covariance[1, 1]))
    hints = []
    if fit.slope + 3 * error < low or fit.slope - 3 * error > high:
        hints.append(
            f"colour coefficient {fit.slope:.3f} outside {low} to {high}: is the filter really {filter_.name}?"
        )
    if fit.zero > clear:
        hints.append(f"zero point {fit.zero:.2f} above {clear:.2f}, the most a clear sky gives")
    if fit.zero < clear - config.max_extinction_mag:
        hints.append(f"zero point {fit.zero:.2f} is {clear - fit.zero:.2f} mag below {clear:.2f}: clouds")
    if fit.scatter > limits.rms_max:
        hints.append(f"scatter {fit.scatter:.3f} mag above {limits.rms_max}: clouds or wrong matches")
    worst = np.abs(spatial)
    doubtful = (worst > config.max_spatial_mag) & (worst > 4 * spatial_error)
    if doubtful.any():
        hints.append(
            f"zero point varies by {worst[doubtful].max():.3f} mag over the image: patchy clouds or a bad flat"
        )
    return tuple(hints)


def _collect(
    stars: _Calibrators, fit: LinearFit, fitted: bool, n_catalog: int, filter_: Filter, spatial: FloatArray,
    hints: tuple[str, ...],
) -> Zeropoint:  # fmt: skip
    """Everything the caller and the header get."""
    color, kept = stars.color[fit.kept], fit.kept
    return Zeropoint(
        magzp=fit.zero, magzpunc=float(np.sqrt(fit.covariance[0, 0])), magzprms=fit.scatter,
        clrcoeff=fit.slope, clrcounc=float(np.sqrt(fit.covariance[1, 1])), zpclrcov=float(fit.covariance[0, 1]),
        nmatches=int(kept.sum()), n_catalog=n_catalog, pcolor=filter_.pcolor,
        zpmed=float(np.median(stars.difference)), zpavg=float(stars.difference.mean()),
        zprmsall=float(stars.difference.std()),
        clrmed=float(np.median(color)), clravg=float(color.mean()), clrrms=float(color.std()),
        color_fitted=fitted, spatial_mag=spatial,
        max_spatial_mag=float(np.nanmax(np.abs(spatial))) if np.isfinite(spatial).any() else float("nan"),
        hints=hints, source_index=stars.source[kept], ps1_index=stars.ps1[kept], residual_mag=fit.residual[kept],
    )  # fmt: skip
