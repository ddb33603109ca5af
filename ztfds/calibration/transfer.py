"""Photon transfer: gain, read noise and saturation of a readout channel from pairs of biases and pairs of flats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats

from ztfds.config.detrend import FlatConfig, StackConfig
from ztfds.detrend.overscan import OverscanModel
from ztfds.formats.raw import RawQuadrant

ROUNDING_DN2 = 1.0 / 12.0
"""Variance that rounding to whole DN adds, DN^2."""
_GAIN_SPREAD = 0.05
"""Pairs whose gain is further from the median of all than this fraction do not count (a lamp that flickers)."""
_START_STEP = 16


class FlatFrame(Protocol):
    """What is needed of one flat frame."""

    @property
    def level_dn(self) -> float:
        """Mean signal of its good pixels, DN."""

    def samples(self, bias: np.ndarray, rows: slice, out: np.ndarray) -> None:
        """Fill `out` with the linearized, bias-subtracted signal of some rows over `level_dn`."""


@dataclass(frozen=True)
class PairPoint:
    """One point of the photon-transfer curve.

    Attributes
    ----------
    level_dn : float
        Signal, DN.
    variance_dn2 : float
        Variance of one frame at that signal, DN^2.
    error_dn2 : float
        Its standard error, DN^2.
    """

    level_dn: float
    variance_dn2: float
    error_dn2: float


@dataclass(frozen=True)
class Transfer:
    """Figures of a channel; NaN is what the frames do not tell.

    Attributes
    ----------
    gain_e_per_dn, gain_error : float
        Electrons per DN of linearized signal, and its standard error.
    read_noise_e : float
        Read noise, electrons.
    saturation_dn : float
        Linearized signal at which full wells clip the noise, DN: NaN unless some flats are that bright.
    unsaturated_to_dn : float
        Brightest signal that obeys the curve, DN.
    points : tuple of PairPoint
        In order of signal.
    """

    gain_e_per_dn: float
    gain_error: float
    read_noise_e: float
    saturation_dn: float
    unsaturated_to_dn: float
    points: tuple[PairPoint, ...] = ()

    def metrics(self) -> dict[str, float]:
        """The figures as quality metrics."""
        return {
            "gain_e_per_dn": self.gain_e_per_dn,
            "gain_error_e_per_dn": self.gain_error,
            "read_noise_e": self.read_noise_e,
            "saturation_dn": self.saturation_dn,
            "unsaturated_to_dn": self.unsaturated_to_dn,
            "n_pairs": float(len(self.points)),
        }


def clipped_variance(values: np.ndarray, kappa: float) -> float:
    """Variance of normal numbers among outliers: those beyond kappa sigmas are left out and what that takes off is undone.

    The variance of unit normal numbers within kappa is 1 - 2 kappa phi(kappa) / (2 Phi(kappa) - 1).
    """
    response = 1.0 - 2.0 * kappa * stats.norm.pdf(kappa) / (2.0 * stats.norm.cdf(kappa) - 1.0)
    start = values[::_START_STEP] if values.size > 100 * _START_STEP else values
    centre = float(np.median(start))
    sigma = 1.4826 * float(np.median(np.abs(start - centre)))
    for _ in range(6):
        kept = values[np.abs(values - centre) <= kappa * sigma]
        if kept.size < 2:
            return float("nan")
        before, centre = sigma, float(kept.mean(dtype=np.float64))
        sigma = math.sqrt(float(kept.var(dtype=np.float64)) / response)
        if abs(sigma - before) < 1e-5 * before:
            break
    return sigma**2


def sampled_rows(shape: tuple[int, int], pixels: int) -> slice:
    """Evenly spaced rows that hold about so many pixels."""
    step = max(1, shape[0] * shape[1] // pixels)
    return slice(step // 2, None, step)


def bias_pair_noise(
    raws: Sequence[RawQuadrant], overscans: Sequence[OverscanModel], config: StackConfig
) -> tuple[float, float]:
    """Read noise of a channel and its standard error, DN, without that of rounding: half the variance of the difference of pairs.

    The median of the pairs counts, so that single disturbed frames do not. NaN without a pair.
    """
    rows = sampled_rows(raws[0].pixels.shape, config.pair_pixels)
    variances, pixels = [], 0
    for first in range(0, len(raws) - 1, 2):
        a, b = (raws[k].pixels[rows] - overscans[k].level[rows, None].astype(np.float32) for k in (first, first + 1))
        variances.append(0.5 * clipped_variance((a - b).ravel(), config.pair_clip_sigma))
        pixels = a.size
    if not variances:
        return float("nan"), float("nan")
    total = float(np.median(variances))
    noise = math.sqrt(max(total - ROUNDING_DN2, 0.0))
    spread = math.sqrt(2.0 / pixels) * (1.0 if len(variances) < 3 else math.sqrt(0.5 * math.pi))
    error = total * spread / math.sqrt(len(variances))
    return noise, error / (2.0 * max(noise, 1e-3))


def photon_transfer(
    frames: Sequence[FlatFrame], bias: np.ndarray, good: np.ndarray, read_noise_dn: float, config: FlatConfig
) -> Transfer:
    """Gain, read noise in electrons and saturation of a channel.

    The difference of two frames that are normalised by their levels L1 and L2 has no structure, and the variance
    m (1/L1 + 1/L2) / g + s^2 (1/L1^2 + 1/L2^2), with m the mean response, s the read noise (DN) and g the gain (e-/DN)
    (Janesick, Photon Transfer, SPIE 2007, ch. 4-5). The gain is the weighted mean over pairs; saturation is the lowest level
    of pairs whose variance falls below `turnover` of that. Charge that neighbours repel (brighter-fatter effect) makes the
    gain at 17,000 DN too high by the sum of the pixels' correlations, which is not measured here.

    Parameters
    ----------
    frames : sequence of FlatFrame
        At any levels, saturated ones too; pairs are made of neighbours in level.
    bias : (ny, nx) float32
        DN.
    good : (ny, nx) bool
        Pixels that take part.
    read_noise_dn : float
        Of one frame, DN.
    config : FlatConfig
    """
    points = _points(frames, bias, good, config)
    read = read_noise_dn if math.isfinite(read_noise_dn) else 0.0
    usable = [p for p in points if p.level_dn <= config.max_level_dn and p.variance_dn2 > read**2]
    gain, error = _gain(usable, read)
    if not math.isfinite(gain):
        return Transfer(math.nan, math.nan, math.nan, math.nan, math.nan, tuple(points))
    obeys = [p.variance_dn2 >= config.turnover * (p.level_dn / gain + read**2) for p in points]
    full = [p.level_dn for p, fine in zip(points, obeys, strict=True) if not fine and p.level_dn > config.min_level_dn]
    saturation = min(full, default=math.nan)
    below = [p.level_dn for p, fine in zip(points, obeys, strict=True) if fine and not p.level_dn > saturation]
    return Transfer(gain, error, read_noise_dn * gain, saturation, max(below, default=math.nan), tuple(points))


def _points(frames: Sequence[FlatFrame], bias: np.ndarray, good: np.ndarray, config: FlatConfig) -> list[PairPoint]:
    """Points of the curve from neighbours in level, in order of level."""
    ordered = sorted((f for f in frames if f.level_dn > 0), key=lambda frame: frame.level_dn)
    rows = sampled_rows(bias.shape, config.pair_pixels)
    chosen = good[rows]
    points, k = [], 0
    while k + 1 < len(ordered):
        first, second = ordered[k], ordered[k + 1]
        alike = second.level_dn <= (1.0 + config.pair_level_tolerance) * first.level_dn
        if alike:
            points.append(_point(first, second, rows, bias, chosen, config.pair_clip_sigma))
        k += 2 if alike else 1
    return points


def _point(
    first: FlatFrame, second: FlatFrame, rows: slice, bias: np.ndarray, good: np.ndarray, kappa: float
) -> PairPoint:
    """One pair as a point at the signal M with variance V of a single frame: V = M / g + s^2."""
    a, b = np.empty(good.shape, np.float32), np.empty(good.shape, np.float32)
    first.samples(bias, rows, a)
    second.samples(bias, rows, b)
    difference = (a - b)[good]
    response = a[good]
    mean = float(response[np.abs(response - 1.0) < 0.5].mean(dtype=np.float64))
    inverse = 1.0 / first.level_dn + 1.0 / second.level_dn
    squares = 1.0 / first.level_dn**2 + 1.0 / second.level_dn**2
    variance = clipped_variance(difference, kappa) / squares
    return PairPoint(mean * inverse / squares, variance, variance * math.sqrt(2.0 / difference.size))


def _gain(points: Sequence[PairPoint], read_noise_dn: float) -> tuple[float, float]:
    """Weighted mean of M / (V - s^2) and its standard error; NaN without a usable pair."""
    if not points:
        return math.nan, math.nan
    net = np.array([p.variance_dn2 - read_noise_dn**2 for p in points])
    gains = np.array([p.level_dn for p in points]) / net
    errors = gains * np.array([p.error_dn2 for p in points]) / net
    kept = np.abs(gains / np.median(gains) - 1.0) < _GAIN_SPREAD
    if not kept.any():
        return math.nan, math.nan
    weight = errors[kept] ** -2
    return float(np.average(gains[kept], weights=weight)), float(weight.sum() ** -0.5)
