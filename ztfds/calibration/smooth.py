"""Smooth maps of a quadrant: the low-frequency flat that stars measure across dithered epochs, and the lamp correction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from astropy.io import fits
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import sparse
from scipy.interpolate import RectBivariateSpline

from ztfds.calibration.products import CalibrationImage
from ztfds.config.detrend import LowFrequencyConfig
from ztfds.survey.errors import CalibrationMissing, WrongSize

FloatArray = NDArray[np.float64]
_ROUNDS = 8
_GRID = 33
_MAG = 2.5 / math.log(10.0)


@dataclass(frozen=True)
class StarObservations:
    """Magnitudes of the same stars in many epochs of one readout channel and filter; all arrays (n,).

    Attributes
    ----------
    star, epoch : int64
        Numbers from 0.
    x, y : float64
        Pixels, 0-based.
    mag, sigma : float64
        Instrumental magnitude on images that the high-frequency flat has flattened, and its photon-noise error, mag.
    """

    star: NDArray[np.int64]
    epoch: NDArray[np.int64]
    x: FloatArray
    y: FloatArray
    mag: FloatArray
    sigma: FloatArray


@dataclass(frozen=True)
class CatalogMagnitudes:
    """Magnitudes of the stars in the instrumental system, up to one constant: (m,) each, NaN where unknown."""

    mag: FloatArray
    sigma: FloatArray


@dataclass(frozen=True)
class SmoothMap:
    """A Chebyshev polynomial over a quadrant, without its constant.

    Attributes
    ----------
    shape : (ny, nx)
    order : int
        Largest total degree.
    coefficients : (k,) float64
    covariance : (k, k) float64
    """

    shape: tuple[int, int]
    order: int
    coefficients: FloatArray
    covariance: FloatArray

    def at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Value at positions (pixels, 0-based)."""
        return basis(x, y, self.shape, self.order) @ self.coefficients

    def image(self) -> FloatArray:
        """(ny, nx) values."""
        ny, nx = self.shape
        along_x = chebyshev.chebvander(np.linspace(-1.0, 1.0, nx), self.order)
        along_y = chebyshev.chebvander(np.linspace(-1.0, 1.0, ny), self.order)
        square = np.zeros((self.order + 1, self.order + 1))
        for (i, j), value in zip(terms(self.order), self.coefficients, strict=True):
            square[j, i] = value
        return np.asarray((along_y @ square) @ along_x.T)

    def error_image(self) -> NDArray[np.float32]:
        """(ny, nx) float32 standard error of the value less its mean, interpolated between 33 x 33 points."""
        ny, nx = self.shape
        x, y = np.linspace(0, nx - 1, _GRID), np.linspace(0, ny - 1, _GRID)
        rows = basis(np.tile(x, _GRID), np.repeat(y, _GRID), self.shape, self.order)
        rows = rows - rows.mean(axis=0)
        error = np.sqrt(np.einsum("ij,jk,ik->i", rows, self.covariance, rows)).reshape(_GRID, _GRID)
        return RectBivariateSpline(y, x, error, kx=1, ky=1)(np.arange(ny), np.arange(nx)).astype(np.float32)


def terms(order: int) -> list[tuple[int, int]]:
    """Degrees (in x, in y) of all terms but the constant up to a total degree."""
    return [(i, total - i) for total in range(1, order + 1) for i in range(total, -1, -1)]


def basis(x: FloatArray, y: FloatArray, shape: tuple[int, int], order: int) -> FloatArray:
    """(n, k) products of Chebyshev polynomials at positions (pixels, 0-based), scaled to -1..1 over the quadrant."""
    ny, nx = shape
    u = chebyshev.chebvander(2.0 * np.asarray(x, float) / (nx - 1) - 1.0, order)
    v = chebyshev.chebvander(2.0 * np.asarray(y, float) / (ny - 1) - 1.0, order)
    return np.stack([u[:, i] * v[:, j] for i, j in terms(order)], axis=1)


# -- low-frequency flat ------------------------------------------------------------------------------------------------


def low_frequency_flat(
    stars: StarObservations,
    shape: tuple[int, int],
    config: LowFrequencyConfig,
    catalog: CatalogMagnitudes | None = None,
) -> CalibrationImage:
    """Response that is left on large scales, from the magnitudes that the same stars show at different places.

    m = M(star) + Z(epoch) + f(x, y) is solved by iteratively re-weighted least squares (Tukey's bisquare) for all M, Z and
    the Chebyshev coefficients of f; the M are eliminated first, so that the equations are as many as epochs and terms
    (Manfroid 1995, A&AS 113, 587, has the method). Response = 10^(-0.4 f), normalised to mean 1. Dithers without rotation do
    not tell a gradient of f from zero points that follow the dithers; catalog magnitudes do, or the prior that zero points of
    steady nights scatter little. Whatever is unknown shows in the uncertainty.

    Parameters
    ----------
    stars : StarObservations
    shape : (ny, nx)
    config : LowFrequencyConfig
    catalog : CatalogMagnitudes, optional
        Then zero points are free, and stars seen once count too.

    Returns
    -------
    CalibrationImage
        Response to divide by, after the high-frequency flat; no pixel is bad.

    Raises
    ------
    CalibrationMissing
        Too few epochs or stars, or part of the quadrant without any.
    """
    bright = np.isfinite(stars.mag) & (stars.sigma < _MAG / config.min_snr)
    stars, catalog = _compact(stars, catalog, bright)
    _check_coverage(stars, shape, config)
    solution = _Equations(stars, shape, config, catalog).solve()
    return _low_frequency_image(solution, stars, config)


def _compact(
    stars: StarObservations, catalog: CatalogMagnitudes | None, chosen: NDArray[np.bool_]
) -> tuple[StarObservations, CatalogMagnitudes | None]:
    """Chosen observations of stars that say anything: seen twice, or in the catalog; numbers without gaps."""
    seen = np.bincount(stars.star[chosen], minlength=int(stars.star.max(initial=0)) + 1)
    useful = seen > 1
    if catalog is not None:
        useful |= np.isfinite(catalog.mag[: useful.size])
    rows = np.flatnonzero(chosen & useful[stars.star])
    numbers, star = np.unique(stars.star[rows], return_inverse=True)
    _, epoch = np.unique(stars.epoch[rows], return_inverse=True)
    left = StarObservations(star, epoch, stars.x[rows], stars.y[rows], stars.mag[rows], stars.sigma[rows])
    return left, None if catalog is None else CatalogMagnitudes(catalog.mag[numbers], catalog.sigma[numbers])


def _check_coverage(stars: StarObservations, shape: tuple[int, int], config: LowFrequencyConfig) -> None:
    """Raise `CalibrationMissing` unless epochs, stars and places suffice."""
    epochs, count = np.unique(stars.epoch).size, np.unique(stars.star).size
    if epochs < config.min_frames or count < config.min_stars:
        raise CalibrationMissing(
            f"{epochs} epochs with {count} stars, at least {config.min_frames} and {config.min_stars} are needed"
        )
    edges = [np.linspace(-0.5, n - 0.5, config.cells + 1) for n in shape]
    cells = np.histogram2d(stars.y, stars.x, bins=(edges[0], edges[1]))[0]
    if cells.min() < config.min_cell_observations:
        raise CalibrationMissing(
            f"a part of the quadrant has {cells.min():.0f} observations, at least {config.min_cell_observations} are needed"
        )


@dataclass(frozen=True)
class _Solution:
    """Map of f in mag, and what remains."""

    map: SmoothMap
    zeropoints: FloatArray
    scatter_mag: float
    rejected_fraction: float


class _Equations:
    """Normal equations of all epochs' zero points and the map, the stars' magnitudes eliminated."""

    def __init__(
        self,
        stars: StarObservations,
        shape: tuple[int, int],
        config: LowFrequencyConfig,
        catalog: CatalogMagnitudes | None,
    ) -> None:
        self.stars, self.shape, self.config = stars, shape, config
        self.n_epochs, self.n_stars = int(stars.epoch.max()) + 1, int(stars.star.max()) + 1
        self.design = basis(stars.x, stars.y, shape, config.order)
        self.inverse = 1.0 / (stars.sigma**2 + config.scatter_mag**2)
        known = np.zeros(self.n_stars, bool) if catalog is None else np.isfinite(catalog.mag)
        self.prior = np.zeros(self.n_stars)
        self.target = np.zeros(self.n_stars)
        if catalog is not None:
            self.prior[known] = 1.0 / (catalog.sigma[known] ** 2 + config.scatter_mag**2)
            self.target[known] = catalog.mag[known]
        self.start = self._start(known)

    def _start(self, known: NDArray[np.bool_]) -> FloatArray:
        """Zero points to begin with: against the catalog, or against the stars' medians, in turn."""
        stars = self.stars
        mags = np.where(known, self.target, np.nan)
        if not known.any():
            mags = _group_medians(stars.star, stars.mag, self.n_stars)
        zero = _group_medians(stars.epoch, stars.mag - mags[stars.star], self.n_epochs)
        return np.where(np.isfinite(zero), zero, np.nanmedian(zero))

    def solve(self) -> _Solution:
        """Iterate weights and solution."""
        stars, values = self.stars, self.stars.mag - self.start[self.stars.epoch]
        weight = self.inverse.copy()
        for _ in range(_ROUNDS):
            normal, right, means = self._normal(weight, values)
            solution = np.linalg.solve(normal, right)
            zero, c = solution[: self.n_epochs], solution[self.n_epochs :]
            model = zero[stars.epoch] + self.design @ c
            star = means(values - model)
            residual = values - model - star[stars.star]
            pull = residual * np.sqrt(self.inverse)
            scale = max(1.4826 * float(np.median(np.abs(pull))), 1e-6)
            weight = self.inverse * np.clip(1.0 - (pull / (self.config.clip_sigma * scale)) ** 2, 0.0, None) ** 2
        covariance = np.linalg.inv(normal)[self.n_epochs :, self.n_epochs :] * max(scale, 1.0) ** 2
        smooth = SmoothMap(self.shape, self.config.order, c, covariance)
        scatter = 1.4826 * float(np.median(np.abs(residual)))
        return _Solution(smooth, zero + self.start, scatter, float(np.mean(weight <= 0)))

    def _normal(self, weight: FloatArray, values: FloatArray):  # type: ignore[no-untyped-def]
        """Normal matrix, right side, and the function from residuals to the stars' weighted means."""
        s, e, n = self.stars.star, self.stars.epoch, self.n_epochs
        per_star = sparse.csr_matrix((weight, (s, np.arange(s.size))), (self.n_stars, s.size))
        total = np.asarray(per_star.sum(axis=1)).ravel() + self.prior
        inverse = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
        weighted = self.design * weight[:, None]
        to_epoch = sparse.csr_matrix((weight, (s, e)), (self.n_stars, n))
        to_map = per_star @ self.design
        sums = per_star @ values + self.prior * self.target
        k = self.design.shape[1]
        normal = np.zeros((n + k, n + k))
        normal[:n, :n] = (
            np.diag(np.bincount(e, weight, n)) - (to_epoch.T @ to_epoch.multiply(inverse[:, None])).toarray()
        )
        by_epoch = sparse.csr_matrix((np.ones(e.size), (e, np.arange(e.size))), (n, e.size))
        normal[:n, n:] = by_epoch @ weighted - to_epoch.T @ (to_map * inverse[:, None])
        normal[n:, :n] = normal[:n, n:].T
        normal[n:, n:] = self.design.T @ weighted - to_map.T @ (to_map * inverse[:, None])
        right = np.concatenate(
            [
                np.bincount(e, weight * values, n) - to_epoch.T @ (sums * inverse),
                weighted.T @ values - to_map.T @ (sums * inverse),
            ]
        )
        self._add_priors(normal)

        def means(residual: FloatArray) -> FloatArray:
            return np.asarray((per_star @ residual + self.prior * self.target) * inverse)

        return normal, right, means

    def _add_priors(self, normal: FloatArray) -> None:
        """Zero points scatter about their mean (free with a catalog, up to a trace that keeps the matrix regular); coefficients about 0."""
        n = self.n_epochs
        sigma = 1.0 if self.prior.any() else self.config.zeropoint_sigma_mag
        normal[:n, :n] += (np.eye(n) - 1.0 / n) / sigma**2 + 1.0 / n
        normal[range(n, len(normal)), range(n, len(normal))] += self.config.coefficient_sigma_mag**-2


def _group_medians(group: NDArray[np.int64], values: FloatArray, count: int) -> FloatArray:
    """Median of the finite values of each group; NaN without any."""
    finite = np.isfinite(values)
    order = np.lexsort((values[finite], group[finite]))
    ordered, groups = values[finite][order], group[finite][order]
    first = np.searchsorted(groups, np.arange(count))
    number = np.bincount(groups, minlength=count)
    medians = np.full(count, np.nan)
    some = number > 0
    low, high = first[some] + (number[some] - 1) // 2, first[some] + number[some] // 2
    medians[some] = 0.5 * (ordered[low] + ordered[high])
    return medians


def _low_frequency_image(solution: _Solution, stars: StarObservations, config: LowFrequencyConfig) -> CalibrationImage:
    """The product of a solution."""
    response = 10.0 ** (-0.4 * solution.map.image())
    response /= response.mean()
    uncertainty = (solution.map.error_image() / _MAG).astype(np.float32)
    epochs = int(stars.epoch.max()) + 1
    qa = _map_quality(response, uncertainty, epochs) | {
        "n_stars": float(stars.star.max() + 1),
        "n_observations": float(stars.star.size),
        "scatter_mag": solution.scatter_mag,
        "rejected_fraction": solution.rejected_fraction,
        "zeropoint_range_mag": float(np.ptp(solution.zeropoints)),
    }
    cmask = np.zeros(response.shape, np.uint16)
    return CalibrationImage(response.astype(np.float32), uncertainty, cmask, qa, _header("lownuflat", qa, config))


def _map_quality(response: FloatArray, uncertainty: NDArray[np.float32], frames: int) -> dict[str, float]:
    """Metrics of a smooth map; its noise per frame is what makes its typical standard error."""
    error = float(np.median(uncertainty[::8, ::8]))
    return {
        "n_frames": float(frames),
        "mean": float(response.mean()),
        "structure": float(response.std()),
        "noise": error * math.sqrt(frames),
        "uncertainty": error,
        "bad_fraction": 0.0,
        "range": float(np.ptp(response)),
    }


def _header(caltype: str, qa: dict[str, float], config: LowFrequencyConfig) -> fits.Header:
    """Header of a smooth map."""
    header = fits.Header()
    header["CALTYPE"] = (caltype, "kind of calibration image")
    header["BUNIT"] = ("", "response relative to the mean")
    header["NFRAMES"] = (int(qa["n_frames"]), "epochs or frames behind it")
    header["MAPORDER"] = (config.order, "total degree of the Chebyshev polynomial")
    header["MAPERR"] = (round(qa["uncertainty"], 6), "typical standard error")
    return header


def judge_map(image: CalibrationImage, config: LowFrequencyConfig) -> str:
    """What is wrong with a smooth map by itself, besides what `products.accept` asks; empty if nothing."""
    if image.qa["uncertainty"] > config.max_uncertainty:
        return f"standard error {image.qa['uncertainty']:.4f}, limit {config.max_uncertainty:.4f}"
    return ""


# -- lamp correction ---------------------------------------------------------------------------------------------------


def lamp_correction(dome: CalibrationImage, response: CalibrationImage, config: LowFrequencyConfig) -> CalibrationImage:
    """Illumination of the flat screen across the quadrant: what a dome flat has and the response to the sky has not.

    Medians of the ratio dome / response in blocks are fitted with a Chebyshev polynomial (bisquare weights); dome flats
    divided by the result show the response to the sky. Only large scales: dust and pixels are alike in both.

    Parameters
    ----------
    dome : CalibrationImage
        Flat that was not divided by any lamp correction.
    response : CalibrationImage
        Response to the sky: that flat times its low-frequency flat, or a flat of the twilight sky.
    config : LowFrequencyConfig

    Raises
    ------
    WrongSize
        Their shapes differ.
    CalibrationMissing
        Less than half of the quadrant has pixels good in both.
    """
    if dome.data.shape != response.data.shape:
        raise WrongSize(f"the dome flat is {dome.data.shape}, the response {response.data.shape}")
    x, y, values = _block_ratios(dome, response, config.lamp_blocks)
    if values.size < config.lamp_blocks**2 // 2:
        raise CalibrationMissing(
            f"only {values.size} of {config.lamp_blocks**2} parts of the quadrant are good in both flats"
        )
    smooth = _fit_map(x, y, values, dome.data.shape, config)
    lamp = 1.0 + smooth.image()
    lamp /= lamp.mean()
    frames = min(dome.qa["n_frames"], response.qa["n_frames"])
    error = np.hypot(smooth.error_image(), np.float32(response.qa.get("uncertainty", 0.0)))
    qa = _map_quality(lamp, error, int(frames)) | {"n_blocks": float(values.size)}
    cmask = np.zeros(lamp.shape, np.uint16)
    return CalibrationImage(lamp.astype(np.float32), error, cmask, qa, _header("lampcorr", qa, config))


def _block_ratios(
    dome: CalibrationImage, response: CalibrationImage, blocks: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Centres (x, y) of blocks and the median ratio there."""
    ratio = np.divide(
        dome.data, response.data, out=np.full(dome.data.shape, np.nan, np.float32), where=response.data > 0
    )
    ratio[(dome.cmask | response.cmask) != 0] = np.nan
    rows, columns = (np.linspace(0, n, min(blocks, n) + 1).astype(int) for n in ratio.shape)
    found = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            part = ratio[top:bottom, left:right]
            good = part[np.isfinite(part)]
            if good.size > part.size // 2:
                found.append((0.5 * (left + right - 1), 0.5 * (top + bottom - 1), float(np.median(good))))
    x, y, values = np.array(found).reshape(-1, 3).T
    return x, y, values


def _fit_map(
    x: FloatArray, y: FloatArray, values: FloatArray, shape: tuple[int, int], config: LowFrequencyConfig
) -> SmoothMap:
    """Robust Chebyshev fit of relative deviations from the mean level."""
    design = np.column_stack([np.ones(x.size), basis(x, y, shape, config.order)])
    weight = np.ones(x.size)
    for _ in range(_ROUNDS):
        normal = design.T @ (design * weight[:, None])
        c = np.linalg.solve(normal, design.T @ (weight * values))
        residual = values - design @ c
        scale = max(1.4826 * float(np.median(np.abs(residual))), 1e-9)
        weight = np.clip(1.0 - (residual / (config.clip_sigma * scale)) ** 2, 0.0, None) ** 2
    covariance = np.linalg.inv(normal)[1:, 1:] * scale**2 / c[0] ** 2
    return SmoothMap(shape, config.order, c[1:] / c[0], covariance)
