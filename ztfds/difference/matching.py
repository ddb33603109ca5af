"""Match the reference to the science image: stars, residual warp, flux scale, smooth sky, registration noise."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import cKDTree

from ztfds.config.difference import DifferenceConfig
from ztfds.difference.subtract import Tile, which_tile
from ztfds.kernels import zogy as kernels
from ztfds.kernels.scatter import fit_with_scatter

log = logging.getLogger(__name__)

ODD_FRACTION, MOVER_SHIFT_PX, VARIABLE_CHANGE = 0.1, 0.5, 0.3
"""Share of matching stars that may be odd, and how far, px, they move (proper motion, blends) or by how much they vary."""

FEW_STARS = 20
"""Fewer matching stars than this are pooled over both axes, and judged by each other."""

SCATTER_GRID = np.concatenate([[0.0], np.geomspace(0.002, 1.0, 41)])
"""Scatters that are tried, px or relative flux."""


@dataclass(frozen=True)
class StarMatch:
    """What matching stars say about science image against reference.

    Attributes
    ----------
    x, y : (n,) float64
        Stars, 0-based pixels.
    ratio : (n,) float64
        Science DN per reference DN.
    dx, dy : (n,) float64
        Shift of the science image against the reference, px.
    error : (n,) float64
        Expected 1-sigma error of each shift, one axis, from the noise of both images, px.
    ratio_error : (n,) float64
        Expected 1-sigma error of ratio.
    """

    x: np.ndarray
    y: np.ndarray
    ratio: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    error: np.ndarray
    ratio_error: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> StarMatch:
        return StarMatch(*(getattr(self, item.name)[keep] for item in fields(self)))

    @property
    def size(self) -> int:
        """Number of stars."""
        return self.x.size

    @property
    def gain(self) -> float:
        """Science DN per reference DN: mean log ratio, weighted, in spite of some stars that vary."""
        logs, errors = np.log(self.ratio)[:, None], self.ratio_error / self.ratio
        return float(np.exp(_fit_with_scatter(np.ones_like(logs), logs, errors, VARIABLE_CHANGE)[0][0, 0]))


def select_stars(
    psfcat: np.ndarray,
    peak: np.ndarray,
    bad: np.ndarray,
    saturate: float,
    magzp: float,
    config: DifferenceConfig,
) -> np.ndarray:
    """Rows of bright, clean, isolated stars, spread evenly over the image.

    Parameters
    ----------
    psfcat : structured array
        xpos, ypos (0-based), flux (DN), snr.
    peak : (ny, nx) float32, DN
        Science image, sky kept, against which saturation is judged.
    bad : (ny, nx) bool
        Unusable pixels of either image.
    saturate : float, DN
    magzp : float, mag
        Zero point of the science image; NaN switches the magnitude cuts off.
    config : DifferenceConfig

    Returns
    -------
    (n,) int64
        Row numbers, brightest first in each part of the image.
    """
    ny, nx = bad.shape
    x, y, flux = (np.asarray(psfcat[name], float) for name in ("xpos", "ypos", "flux"))
    edge = config.star_half_px + 2 + config.psf_size // 2 + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = magzp - 2.5 * np.log10(flux)
    good = (psfcat["snr"] >= config.star_snr) & (flux > 0)
    good &= (x > edge) & (y > edge) & (x < nx - 1 - edge) & (y < ny - 1 - edge)
    if np.isfinite(magzp):
        good &= (mag > config.star_bright_mag) & (mag < config.star_faint_mag)
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(-flux[rows])]
    rows = _spread(rows, x, y, (ny, nx), 4 * config.max_stars)
    rows = rows[_clean(peak, bad, y[rows], x[rows], saturate, config)]
    rows = rows[_isolated(rows, x, y, flux, config.star_isolation_px)]
    return _spread(rows, x, y, (ny, nx), config.max_stars)


def _spread(rows: np.ndarray, x: np.ndarray, y: np.ndarray, shape: tuple[int, int], most: int) -> np.ndarray:
    """At most `most` rows, the brightest of each cell of a 4 x 4 grid (rows come brightest first)."""
    if rows.size <= most:
        return rows
    cell = (4 * y[rows] / shape[0]).astype(int) * 4 + (4 * x[rows] / shape[1]).astype(int)
    rank = np.empty(rows.size, int)
    for c in np.unique(cell):
        inside = np.flatnonzero(cell == c)
        rank[inside] = np.arange(inside.size)
    return rows[np.sort(np.argsort(rank, kind="stable")[:most])]


def _clean(
    peak: np.ndarray, bad: np.ndarray, y: np.ndarray, x: np.ndarray, saturate: float, config: DifferenceConfig
) -> np.ndarray:
    """Whether each star's core has no bad pixel, its window few, and nothing is near saturation; (n,) bool."""
    out = np.empty(y.size, np.bool_)
    ys, xs = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    limit = min(config.saturation_margin * saturate, float(np.finfo(np.float32).max))
    kernels.clean_windows(peak, bad, ys, xs, config.star_half_px + 2, config.star_bad_fraction, limit, out)
    return out


def _isolated(rows: np.ndarray, x: np.ndarray, y: np.ndarray, flux: np.ndarray, radius: float) -> np.ndarray:
    """Whether no neighbour spoils a star's window: none above 1/5 of its flux times max(1, (distance / radius)^4).

    The fourth power is a little less than the fall of a star's wings; neighbours are asked for to 4 radii.
    """
    known = np.flatnonzero(np.isfinite(flux) & np.isfinite(x) & np.isfinite(y))
    places = np.column_stack([x[known], y[known]])
    near = cKDTree(places).query_ball_point(np.column_stack([x[rows], y[rows]]).reshape(-1, 2), 4 * radius)
    star = np.repeat(np.arange(rows.size), [len(found) for found in near])
    others = known[np.array([k for found in near for k in found], np.int64)]
    star, others = star[others != rows[star]], others[others != rows[star]]
    distance = np.hypot(x[others] - x[rows[star]], y[others] - y[rows[star]]) / radius
    spoilt = flux[others] > 0.2 * flux[rows[star]] * np.maximum(1.0, distance**4)
    keep = np.ones(rows.size, bool)
    keep[star[spoilt]] = False
    return keep


def match_stars(
    new: np.ndarray,
    ref: np.ndarray,
    variances: tuple[np.ndarray, np.ndarray],
    psfcat: np.ndarray,
    rows: np.ndarray,
    tiles: list[Tile],
    config: DifferenceConfig,
) -> StarMatch:
    """Fit flux ratio and shift at each star and reject those that disagree (variables, galaxies, blends).

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
        Background-subtracted; ref on its own flux scale.
    variances : two of (ny, nx) float32, DN^2
        Pixel variances of new and ref.
    psfcat, rows
        Catalog and the rows of `select_stars`.
    tiles : list of Tile
        Give the local PSFs.
    config : DifferenceConfig

    Returns
    -------
    StarMatch
    """
    x, y = psfcat["xpos"][rows].astype(float), psfcat["ypos"][rows].astype(float)
    ys, xs = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    psfs_new = np.ascontiguousarray([tile.psf_new for tile in tiles], np.float32)
    psfs_ref = np.ascontiguousarray([tile.psf_ref for tile in tiles], np.float32)
    out = np.empty((rows.size, 7))
    which = which_tile(tiles, y, x)
    kernels.match_stars(new, ref, *variances, ys, xs, which, psfs_new, psfs_ref, config.star_half_px, out)
    error = np.sqrt(0.5 * (out[:, 5] ** 2 + out[:, 6] ** 2))
    match = StarMatch(x, y, out[:, 0], out[:, 1], out[:, 2], error, out[:, 4])
    return match[_agreeing(out[:, :4], error, out[:, 4])]


def _agreeing(fits: np.ndarray, error: np.ndarray, ratio_error: np.ndarray) -> np.ndarray:
    """Clip fits (ratio, dx, dy, residual) iteratively at 4 robust sigmas about their medians.

    Ratio and shifts may be off by 4 times their own errors: what a faint star says has little weight, but is no disagreement.
    """
    keep = np.isfinite(fits).all(axis=1) & np.isfinite(error)
    if not keep.any():
        return keep
    values = np.column_stack([np.log(np.where(keep, fits[:, 0], 1.0)), fits[:, 1:]])
    own = np.column_stack([ratio_error / np.where(keep, fits[:, 0], 1.0), error, error, np.zeros_like(error)])
    for _ in range(10):
        centre = np.median(values[keep], axis=0)
        sigma = np.maximum(1.4826 * np.median(np.abs(values[keep] - centre), axis=0), (2e-3, 5e-3, 5e-3, 5e-3))
        inside = keep & (np.abs(values - centre) <= 4.0 * np.maximum(sigma, own)).all(axis=1)
        if inside.sum() == keep.sum() or not inside.any():
            break
        keep = inside
    return keep


@dataclass(frozen=True)
class Warp:
    """Smooth residual shift of the science image against the resampled reference.

    Attributes
    ----------
    coefficients : (terms, 2) float64, px
        For dx and dy: 1, u, v, u^2, u v, v^2 with u = 2 x / nx - 1, v = 2 y / ny - 1.
    size : float
        RMS shift over the image, px.
    significance : float
        Size over its error.
    scatter : (2,) float64
        Scatter of the stars about the fit beyond their errors, x and y, px.
    """

    coefficients: np.ndarray
    size: float
    significance: float
    scatter: np.ndarray

    def at(self, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Shift (dx, dy) at pixel positions."""
        terms = _terms(np.asarray(x, float), np.asarray(y, float), shape, self.coefficients.shape[0])
        both = terms @ self.coefficients
        return both[..., 0], both[..., 1]


def _terms(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], n: int) -> np.ndarray:
    u, v = 2 * x / shape[1] - 1, 2 * y / shape[0] - 1
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v][:n], axis=-1)


def without_movers(match: StarMatch) -> StarMatch:
    """Leave out the stars that moved on their own, judged by the other stars.

    With fewer than 20 stars a star that moved widens the scatter that it is judged by, and of four stars none can be far off.
    Every star whose shift is known better than 2 scatters and that is more than a sigma off is therefore held against the fit
    to the others (its deleted residual) and left out beyond 4 of its sigmas, the worst first, down to 3 stars.

    Parameters
    ----------
    match : StarMatch

    Returns
    -------
    StarMatch
    """
    while 4 <= match.size < FEW_STARS:
        _, scatter, own = _deleted(match, np.ones(match.size, bool))
        deleted = np.zeros(match.size)
        for k in np.flatnonzero((own > 1) & (match.error < 2 * scatter)):
            deleted[k] = _deleted(match, np.arange(match.size) != k)[2][k]
        worst = int(np.argmax(deleted))
        if deleted[worst] <= 4:
            break
        match = match[np.arange(match.size) != worst]
    return match


def _deleted(match: StarMatch, used: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Mean shift (2,) and scatter of the used stars, and how many of their sigmas off every star is."""
    shifts = np.column_stack([match.dx, match.dy])
    mean, scatter, variance = _fit_with_scatter(
        np.ones((used.sum(), 1)), shifts[used], match.error[used], MOVER_SHIFT_PX
    )
    distance = np.hypot(*(shifts - mean).T)
    return mean[0], scatter, distance / np.sqrt(match.error**2 + scatter**2 + variance)


def fit_warp(match: StarMatch, shape: tuple[int, int], config: DifferenceConfig) -> Warp:
    """Fit the shifts of the stars by a polynomial of the order that their number allows.

    Order 2 from 60 stars on, 1 from 20, 0 from 3; with fewer stars the warp is zero and the scatter the default. With fewer
    than 20 stars the scatter is taken to be the same in x and y: a handful of stars cannot tell two apart.
    """
    n = match.size
    terms = 6 if n >= 60 else 3 if n >= FEW_STARS else 1
    if n < 3:
        return Warp(np.zeros((1, 2)), 0.0, 0.0, np.full(2, config.default_registration_px))
    design = _terms(match.x, match.y, shape, terms)
    both = np.column_stack([match.dx, match.dy])
    groups = [both] if n < FEW_STARS else [both[:, :1], both[:, 1:]]
    fits = [_fit_with_scatter(design, part, match.error, MOVER_SHIFT_PX) for part in groups]
    coefficients = np.hstack([fit[0] for fit in fits])
    gx, gy = np.meshgrid(np.linspace(0, shape[1], 9), np.linspace(0, shape[0], 9))
    field = _terms(gx, gy, shape, terms) @ coefficients
    size = float(np.sqrt(np.mean(np.sum(field**2, axis=-1))))
    variance = 2 * float(np.mean([fit[2] for fit in fits]))
    scatter = np.array([fits[0][1], fits[-1][1]])
    return Warp(coefficients, size, size / float(np.sqrt(terms * variance)), scatter)


def _fit_with_scatter(
    design: np.ndarray, values: np.ndarray, error: np.ndarray, odd: float
) -> tuple[np.ndarray, float, float]:
    """Coefficients (terms, k), scatter (0 where nothing exceeds the errors) and variance of the mean: `fit_with_scatter`."""
    from_the_median = np.sum((values - np.median(values, axis=0)) ** 2, axis=1)
    terms, data, errors = (np.ascontiguousarray(a, np.float64) for a in (design, values, error))
    coefficients, scatter, variance = fit_with_scatter(
        terms, data, errors, from_the_median, odd, ODD_FRACTION, SCATTER_GRID
    )
    return coefficients, float(scatter), float(variance)


def residual_sky(
    new: np.ndarray, ref: np.ndarray, gain: float, bad: np.ndarray, config: DifferenceConfig
) -> np.ndarray:
    """Smooth sky that new has more than gain x ref: stars cancel in the difference, so that crowding does not bias it.

    Returns
    -------
    (ny / box, nx / box, rounded up) float32, DN
        Clipped median of each box of `background_box_px`; empty boxes take the median of all.
    """
    box = config.background_box_px
    mesh = np.empty((-(-new.shape[0] // box), -(-new.shape[1] // box)), np.float32)
    kernels.sky_mesh(new, ref, bad, gain, box, max(1, box // 64), mesh)
    known = mesh[np.isfinite(mesh)]
    return np.where(np.isfinite(mesh), mesh, np.median(known) if known.size else 0).astype(np.float32)


def psf_error(
    score: np.ndarray, score_ref: np.ndarray, variance: np.ndarray, match: StarMatch, config: DifferenceConfig
) -> float:
    """Relative error of PSFs and flux scale: what the difference leaves around the brightest matched stars.

    It is the e for which the median of S'^2 / (V + e^2 S_R^2) at the peaks of the brightest third of the stars, at least 5, is
    that of the square of a normal variate. S' is the score without what a shift of the star explains (the best sum of the
    two derivatives of S_R within `psf_error_reach_px`): misregistration has a term of its own.

    Parameters
    ----------
    score, score_ref, variance : (ny, nx) float32
        Of the subtraction, DN and DN^2.
    match : StarMatch
    config : DifferenceConfig

    Returns
    -------
    float
        Between `min_psf_error` and `max_psf_error`; the geometric mean of these with fewer than 5 stars.
    """
    low, high, reach = config.min_psf_error, config.max_psf_error, config.psf_error_reach_px
    if match.size < 5:
        return float(np.sqrt(low * high))
    offset = np.arange(-reach, reach + 1)
    j = np.clip(np.rint(match.y).astype(int)[:, None, None] + offset[:, None], 1, score.shape[0] - 2)
    i = np.clip(np.rint(match.x).astype(int)[:, None, None] + offset, 1, score.shape[1] - 2)
    chosen = np.argsort(-score_ref[j, i].max(axis=(1, 2)))[: max(5, match.size // 3)]
    j, i = j[chosen], i[chosen]
    light = score_ref[j, i]
    gx, gy = score_ref[j, i + 1] - score_ref[j, i - 1], score_ref[j + 1, i] - score_ref[j - 1, i]
    peak = np.argmax(light.reshape(chosen.size, -1), axis=1)[:, None]
    at = [np.take_along_axis(a.reshape(chosen.size, -1), peak, 1)[:, 0].astype(float) ** n
          for a, n in ((_without_shift(score[j, i], gx, gy), 2), (variance[j, i], 1), (light, 2))]  # fmt: skip
    return float(np.clip(_extra(*at), low, high))


def _extra(squares: np.ndarray, variance: np.ndarray, light: np.ndarray) -> float:
    """The e for which the median of squares / (variance + e^2 light) is 0.455, that of chi-square with one degree of freedom."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if np.median(squares / (variance + middle**2 * light)) > 0.455:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _without_shift(stamps: np.ndarray, gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """Stamps (n, k, k) less their least-squares parts in the derivatives gx and gy."""
    xx, yy, xy = (np.sum(a * b, axis=(1, 2), dtype=float) for a, b in ((gx, gx), (gy, gy), (gx, gy)))
    sx, sy = (np.sum(stamps * g, axis=(1, 2), dtype=float) for g in (gx, gy))
    determinant = np.maximum(xx * yy - xy * xy, 1e-30)
    a, b = (sx * yy - sy * xy) / determinant, (sy * xx - sx * xy) / determinant
    return np.asarray(stamps - a[:, None, None] * gx - b[:, None, None] * gy)
