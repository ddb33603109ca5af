"""Fits of the trailed PSF to lines, and what tells a moving object from everything else that is long and thin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ztfds.config.streaks import StreakConfig
from ztfds.difference.candidates import MeasuredImages
from ztfds.difference.streaksearch import MERGE_PX, LineNoise, on_line
from ztfds.difference.subtract import OVERSAMPLING, TilePsf, which_tile
from ztfds.kernels import trails as kernels
from ztfds.survey import bits

LEAST_PX, BEYOND = 1.0, 1.5
"""Least length that a fit may take, pixels, and its largest over that of streaks: enough to know what is too long."""
LENGTH_OF_THRESHOLD = 20.0
"""Length, pixels, above which the least S/N grows."""
LOWER = [(i, j) for i in range(5) for j in range(i + 1)]

FIT = np.dtype(
    [
        *[(name, "f8") for name in ("x", "y", "angle", "length", "flux", "gain", "pixels", "blocked", "chi")],
        *[("cov", "f8", (5, 5)), ("bg", "f8"), ("bgerr", "f8"), ("point", "f8"), ("tile", "i8")],
    ]
)
"""A fitted line: middle (0-based pixels), direction (rad), length (pixels), flux (DN); drop of chi-square by it; pixels fitted;
bad pixels on it; chi-square; covariance of the first five; local sky and its error, DN; drop of chi-square by the best point
source on it; tile."""


def fit_lines(images: MeasuredImages, lines: np.ndarray, noise: LineNoise, config: StreakConfig) -> np.ndarray:
    """Fit every line; those that are worth it with a local sky of their own; each streak once, the strongest first (FIT)."""
    tiles = which_tile(images.tiles, lines["y"], lines["x"])
    found = []
    for line, tile in zip(lines, tiles, strict=True):
        start = np.array([line["x"], line["y"], line["angle"], line["length"]])
        point = _point_drop(images, start)
        fit = _fit(images, start, int(tile), 0.0, config.point_share * point, config)
        short = fit["length"] < 0.8 * config.min_length_px
        if not fit["gain"] >= config.sky_snr**2 or short or not _inside(fit, images.diff.shape):
            continue
        level, error = _local_sky(images, fit, config)
        fit = _fit(images, np.array([fit[n] for n in ("x", "y", "angle", "length")]), int(tile), level, 0.0, config)
        variance = noise.at(float(fit["length"])) ** 2
        fit["gain"], fit["cov"] = fit["gain"] / variance, fit["cov"] * variance
        if fit["gain"] >= config.sky_snr**2 and fit["flux"] > 0 and _inside(fit, images.diff.shape):
            fit["bg"], fit["bgerr"] = level, error
            fit["point"] = _point_drop(images, np.array([fit[n] for n in ("x", "y", "angle", "length")]))
            found.append(fit)
    fits = np.array(found, FIT)
    return _each_once(fits[np.argsort(-fits["gain"], kind="stable")])


def _fit(
    images: MeasuredImages, start: np.ndarray, tile: int, sky: float, point: float, config: StreakConfig
) -> np.ndarray:
    """One fit, a 0-d array of FIT; its gain is NaN where nothing could be fitted."""
    psf, out = images.psfs[tile], np.empty(kernels.FIT_COLUMNS)
    kernels.fit_streak(
        images.diff, images.variance, images.score, images.scorr, noise_scale(psf), images.blocked, psf.fine, OVERSAMPLING, start, sky,
        config.fit_reach_px, LEAST_PX, BEYOND * config.max_length_px, config.fit_iterations, point, config.refit_snr**2, out,
    )  # fmt: skip
    fit = np.zeros((), FIT)
    for k, name in enumerate(("x", "y", "angle", "length", "flux", "gain", "pixels", "blocked", "chi")):
        fit[name] = out[k]
    for (i, j), value in zip(LOWER, out[9:], strict=True):
        fit["cov"][i, j] = fit["cov"][j, i] = value
    fit["tile"] = tile
    return fit


def noise_scale(psf: TilePsf) -> float:
    """Noise of a pixel of the difference over the error of a point source's flux, blank sky."""
    return psf.noise / psf.limit


def _inside(fit: np.ndarray | np.void, shape: tuple[int, ...]) -> bool:
    """Whether the middle of a streak is on the image."""
    return bool(-0.5 <= fit["x"] <= shape[1] - 0.5 and -0.5 <= fit["y"] <= shape[0] - 0.5)


def _point_drop(images: MeasuredImages, line: np.ndarray) -> float:
    """Drop of chi-square by the best point source on a line (x, y, angle, length): the largest Scorr between pixels, squared."""
    reach = 0.5 * line[3] + 2.0
    t = np.linspace(-reach, reach, max(int(2 * reach), 3))
    x, y = np.rint(line[0] + t * np.cos(line[2])).astype(int), np.rint(line[1] + t * np.sin(line[2])).astype(int)
    ny, nx = images.scorr.shape
    on = (x >= 1) & (y >= 1) & (x < nx - 1) & (y < ny - 1)
    if not on.any():
        return 0.0
    x, y = x[on], y[on]
    around = [(j, i) for j in (-1, 0, 1) for i in (-1, 0, 1)]
    values = np.nan_to_num(np.stack([images.scorr[y + j, x + i] for j, i in around]))
    k, n = np.unravel_index(int(np.argmax(values)), values.shape)
    best = _between(images.scorr, int(y[n]) + around[k][0], int(x[n]) + around[k][1])
    return best * best


def _between(score: np.ndarray, y: int, x: int) -> float:
    """Height between the pixels of a peak of the score: a Gaussian through three samples along each axis; at least 0."""
    top = float(score[y, x])
    if not top > 0:
        return 0.0
    height = np.log(top)
    for j, i in ((1, 0), (0, 1)):
        if not (0 < y < score.shape[0] - 1 and 0 < x < score.shape[1] - 1):
            continue
        a, b = (np.log(max(float(np.nan_to_num(score[y + s * j, x + s * i])) / top, 0.1)) for s in (-1, 1))
        if a + b < -1e-6:
            height += min((b - a) ** 2 / (-8.0 * (a + b)), 0.2)
    return float(np.exp(height))


def _window(
    images: MeasuredImages, fit: np.ndarray | np.void, margin: float
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Box about a streak with a margin, and the positions along and across the streak of its pixels."""
    c, s, h = float(np.cos(fit["angle"])), float(np.sin(fit["angle"])), 0.5 * float(fit["length"])
    wide, high = h * abs(c) + margin, h * abs(s) + margin
    y0, y1 = max(0, int(fit["y"] - high)), min(images.diff.shape[0], int(fit["y"] + high) + 2)
    x0, x1 = max(0, int(fit["x"] - wide)), min(images.diff.shape[1], int(fit["x"] + wide) + 2)
    dx = np.arange(x0, max(x1, x0)) - float(fit["x"])
    dy = np.arange(y0, max(y1, y0))[:, None] - float(fit["y"])
    return (slice(y0, y1), slice(x0, x1)), dx * c + dy * s, dy * c - dx * s


def _local_sky(images: MeasuredImages, fit: np.ndarray | np.void, config: StreakConfig) -> tuple[float, float]:
    """Median and its error, DN, of the good pixels on both sides of a streak; 0 and the noise where they are few."""
    box, t, u = _window(images, fit, config.sky_outer_px)
    far = (np.abs(u) > config.sky_inner_px) & (np.abs(u) < config.sky_outer_px)
    values = images.diff[box][far & (np.abs(t) < 0.5 * fit["length"] + 15.0) & ~images.blocked[box]]
    values = values[np.isfinite(values)]
    if values.size < 200:
        return 0.0, images.sigma_diff
    low, middle, high = np.percentile(values, [15.865, 50.0, 84.135])
    return float(middle), float(1.25 * 0.5 * (high - low) / np.sqrt(values.size))


def _each_once(fits: np.ndarray) -> np.ndarray:
    """Fits, strongest first, without those whose middle lies on a stronger one, or on which a stronger one's does."""
    keep = np.ones(len(fits), bool)
    for k in range(1, len(fits)):
        before = fits[:k][keep[:k]]
        keep[k] = not (
            on_line(before, fits[k], MERGE_PX).any() or any(on_line(fits[k : k + 1], b, MERGE_PX)[0] for b in before)
        )
    return fits[keep]


def features(
    images: MeasuredImages, mask: np.ndarray, stars: np.ndarray, fit: np.void, config: StreakConfig
) -> dict[str, float]:
    """What the score of a streak is made from.

    Parameters
    ----------
    images : MeasuredImages
    mask : (ny, nx) uint16
    stars : structured array
        Bright stars: x, y (0-based pixels), mag.
    fit : row of FIT
    config : StreakConfig

    Returns
    -------
    dict of float
        snr; drop (of chi-square beyond a point source's); blocked (share of the streak); chi2 (reduced); evenness (mean
        squared deviation of pieces, in errors squared); sides and side_share, beyond and beyond_share (significance and
        brightness, relative to the streak, of the light beside it and beyond its ends); width_sigmas, width_px2 (excess of
        the squared Gaussian width); track (share of masked tracks around); spike (1 on the
        spikes or in the halo of a bright star); edge (1 along an edge).
    """
    psf = images.psfs[int(fit["tile"])]
    p = np.array([fit[name] for name in ("x", "y", "angle", "length", "flux")])
    common = (
        images.diff, images.variance, images.score, images.scorr, noise_scale(psf), images.blocked, psf.fine, OVERSAMPLING, p,
        float(fit["bg"]), config.fit_reach_px,
    )  # fmt: skip
    pieces = np.empty((int(np.clip(fit["length"] / 5.0, 3, 12)), 2))
    around = np.empty((6, 2))
    kernels.inspect_streak(*common, pieces, around)
    excess, excess_error = kernels.broadening(*common)
    middle = np.argsort(around[2:, 0])[1:3] + 2  # of four: a star on one side is no reason
    sides, beyond = _mean(around[middle]), _mean(around[:2])
    area = max(4.0 * (fit["length"] + 2.0), 1.0)
    return {
        "snr": float(np.sqrt(fit["gain"])),
        "drop": float(fit["gain"] - fit["point"]),
        "blocked": float(min(fit["blocked"] / area, 1.0)),
        "chi2": float(fit["chi"] / max(fit["pixels"] - 5.0, 1.0)),
        "evenness": _evenness(pieces, config.piece_tolerance),
        "sides": abs(sides[0]) / sides[1],
        "side_share": abs(sides[0]),
        "beyond": beyond[0] / beyond[1],
        "beyond_share": beyond[0],
        "width_sigmas": excess / excess_error,
        "width_px2": excess,
        "width_error": excess_error,
        "track": _track_share(images, mask, fit),
        "spike": float(_by_star(fit, stars, config)),
        "edge": float(_along_edge(fit, images.diff.shape, config.edge_px)),
    }


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Weighted mean and error of rows (value, error); errors may be infinite."""
    weights = 1.0 / values[:, 1] ** 2
    total = float(weights.sum())
    return (float((weights * values[:, 0]).sum()) / total, total**-0.5) if total > 0 else (0.0, 1.0)


def _evenness(pieces: np.ndarray, tolerance: float) -> float:
    """Mean squared deviation of the pieces' brightness from the streak's in errors; pieces without pixels are left out."""
    seen = np.isfinite(pieces[:, 1])
    error2 = pieces[seen, 1] ** 2 + tolerance**2
    return float(np.mean(pieces[seen, 0] ** 2 / error2)) if seen.any() else np.inf


def _track_share(images: MeasuredImages, mask: np.ndarray, fit: np.void) -> float:
    """Share of the pixels within 10 px of a streak that are masked as a satellite or aircraft track."""
    box, t, u = _window(images, fit, 10.0)
    near = (np.abs(u) < 10.0) & (np.abs(t) < 0.5 * fit["length"])
    return float(np.mean((mask[box][near] & bits.TRACK) != 0)) if near.any() else 0.0


def _by_star(fit: np.void, stars: np.ndarray, config: StreakConfig) -> bool:
    """Whether the line through a streak meets a bright star whose spikes reach it, or the streak lies in its halo."""
    if not len(stars):
        return False
    dx, dy = stars["x"] - fit["x"], stars["y"] - fit["y"]
    c, s = np.cos(fit["angle"]), np.sin(fit["angle"])
    gap, off = np.maximum(np.abs(dx * c + dy * s) - 0.5 * fit["length"], 0.0), np.abs(dy * c - dx * s)
    reach = config.star_reach_px * 2.0 ** ((config.star_mag - stars["mag"]) / 1.5)
    near = ((off < 5.0) & (gap < reach)) | (np.hypot(off, gap) < 0.5 * reach)
    return bool(np.any(near & (stars["mag"] < config.star_mag)))


def _along_edge(fit: np.void, shape: tuple[int, ...], margin: float) -> bool:
    """Whether both ends of a streak lie within `margin` pixels of the same edge."""
    (x1, y1), (x2, y2) = ends(fit)
    return bool(
        max(x1, x2) < margin
        or max(y1, y2) < margin
        or min(x1, x2) > shape[1] - 1 - margin
        or min(y1, y2) > shape[0] - 1 - margin
    )


def ends(fit: np.ndarray | np.void) -> tuple[tuple[float, float], tuple[float, float]]:
    """Both ends of a fitted line, (x1, y1) and (x2, y2), 0-based pixels; the direction points from the first to the second."""
    dx, dy = 0.5 * fit["length"] * np.cos(fit["angle"]), 0.5 * fit["length"] * np.sin(fit["angle"])
    return (float(fit["x"] - dx), float(fit["y"] - dy)), (float(fit["x"] + dx), float(fit["y"] + dy))


def least_snr(length: float, config: StreakConfig) -> float:
    """The S/N that the fit of a streak of some length (pixels) must reach."""
    return float(config.threshold + config.threshold_growth * np.log2(max(length / LENGTH_OF_THRESHOLD, 1.0)))


def score(found: Mapping[str, float], length: float, config: StreakConfig) -> float:
    """Product of soft rules, 0 to 1, each 1/2 at its limit.

    Parameters
    ----------
    found : mapping
        `features`.
    length : float
        Pixels.
    config : StreakConfig
    """
    grown = config.max_chi2 + (config.chi2_snr * found["snr"]) ** 2
    off = config.wide_px2 if found["width_px2"] > 0 else config.narrow_px2
    rules = (
        _soft((found["drop"] - max(config.point_drop, config.point_drop_share * found["snr"] ** 2)) / 3.0),
        _soft((length - config.min_length_px) / 0.5),
        _soft((config.max_length_px - length) / 5.0),
        _soft((config.max_blocked - found["blocked"]) / 0.03),
        _soft((grown - found["chi2"]) / 0.05),
        _soft((config.max_evenness - found["evenness"]) / 0.3),
        _soft((config.max_track - found["track"]) / 0.03),
        _soft(2.0 * (config.max_sides - found["sides"])) if found["side_share"] > config.side_share else 1.0,
        _soft(2.0 * (config.max_beyond - found["beyond"])) if found["beyond_share"] > config.beyond_share else 1.0,
        _soft(2.0 * (config.width_sigmas - abs(found["width_sigmas"]))) if abs(found["width_px2"]) > off else 1.0,
        0.2 if found["spike"] or found["edge"] else 1.0,
    )
    return float(np.prod(rules))


def _soft(value: float) -> float:
    """Logistic function."""
    return float(1.0 / (1.0 + np.exp(-np.clip(value, -50.0, 50.0))))
