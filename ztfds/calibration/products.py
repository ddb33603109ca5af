"""The calibration product, and the rule that decides whether a new one replaces the last good one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from astropy.io import fits

from ztfds.config.detrend import AcceptanceConfig
from ztfds.survey import bits
from ztfds.survey.errors import WrongSize

_BLOCKS = 8
_STEP = 4
"""Every fourth pixel in both directions is enough for the statistics of acceptance (600,000 of a full quadrant)."""


@dataclass(frozen=True)
class CalibrationImage:
    """A bias, flat, low-frequency flat or lamp correction of one quadrant.

    Attributes
    ----------
    data : (ny, nx) float32
        Bias: DN above the overscan level. Flat: relative response, mean 1.
    uncertainty : (ny, nx) float32
        Standard error of `data`, same unit.
    cmask : (ny, nx) uint16
        `survey.bits`: NOISY (16), DEAD; in flats also LOW_RESPONSE and HIGH_RESPONSE. 0 is a good pixel.
    qa : dict of str to float
        Quality metrics; `n_frames`, `mean`, `noise`, `bad_fraction` are always there.
    header : fits.Header
        What was done.
    """

    data: np.ndarray
    uncertainty: np.ndarray
    cmask: np.ndarray
    qa: dict[str, float]
    header: fits.Header = field(default_factory=fits.Header)


def with_low_frequency(flat: CalibrationImage, low: CalibrationImage) -> CalibrationImage:
    """The response of each pixel: high-frequency flat times low-frequency flat, with both masks; errors in quadrature.

    Raises
    ------
    WrongSize
        Their shapes differ.
    """
    if flat.data.shape != low.data.shape:
        raise WrongSize(f"the low-frequency flat is {low.data.shape}, the flat {flat.data.shape}")
    return replace(
        flat,
        data=flat.data * low.data,
        uncertainty=np.hypot(flat.uncertainty * low.data, flat.data * low.uncertainty),
        cmask=flat.cmask | low.cmask,
    )


def accept(
    new: CalibrationImage,
    previous: CalibrationImage | None,
    config: AcceptanceConfig,
    figures: Mapping[str, float] | None = None,
) -> tuple[bool, str]:
    """Whether a new calibration image may be used, judged by itself and against the last good one.

    Parameters
    ----------
    new : CalibrationImage
    previous : CalibrationImage or None
        The last one that was accepted for this channel (and filter); None if there is none or it cannot be read.
    config : AcceptanceConfig
        `BiasConfig`, `FlatConfig` or `LowFrequencyConfig` with the limits.
    figures : mapping of str to float, optional
        Quality metrics of the last good one; its own are used where this is None.

    Returns
    -------
    accepted : bool
    reason : str
        ``"accepted"``, or what is wrong with the numbers.
    """
    reason = _judge_alone(new, config)
    if not reason and (known := previous.qa if figures is None and previous is not None else figures):
        reason = _judge_figures(new.qa, known, config)
    if not reason and previous is not None:
        reason = _judge_pixels(new, previous, config)
    return not reason, reason or "accepted"


def _judge_alone(new: CalibrationImage, config: AcceptanceConfig) -> str:
    """What is wrong with an image by itself; empty if nothing."""
    if new.qa["n_frames"] < config.min_frames:
        return f"only {new.qa['n_frames']:.0f} of at least {config.min_frames} frames"
    if not np.isfinite(new.data).all():
        return "it has pixels that are not finite"
    if new.qa["bad_fraction"] > config.max_noisy_fraction:
        return (
            f"{100 * new.qa['bad_fraction']:.2f} % noisy or dead pixels, limit {100 * config.max_noisy_fraction:.2f} %"
        )
    return ""


def _judge_figures(new: Mapping[str, float], old: Mapping[str, float], config: AcceptanceConfig) -> str:
    """What is wrong with the figures of an image against those of the last good one; empty if nothing. Unknown ones do not count."""
    ratio = new["noise"] / max(old.get("noise", math.nan), 1e-9)
    if ratio > config.max_noise_ratio:
        return f"noise is {ratio:.2f} times that of the last good one, limit {config.max_noise_ratio:.2f}"
    change = new["mean"] - old.get("mean", math.nan)
    if abs(change) > config.max_level_change:
        return f"level changed by {change:.4g}, limit {config.max_level_change:.4g}"
    change = new["bad_fraction"] - old.get("bad_fraction", math.nan)
    if abs(change) > config.max_bad_change:
        return f"bad pixels changed by {100 * change:+.2f} % of all, limit {100 * config.max_bad_change:.2f} %"
    ratio = _pattern(new, config) / _pattern(old, config)
    if max(ratio, 1.0 / ratio) > config.max_structure_ratio:
        return f"structure is {ratio:.2f} times that of the last good one, limit {config.max_structure_ratio:.2f}"
    return ""


def _pattern(qa: Mapping[str, float], config: AcceptanceConfig) -> float:
    """Scatter of the pattern without that of its noise, at least the floor; NaN if unknown."""
    noise = qa.get("noise", math.nan) ** 2 / max(qa.get("n_frames", math.nan), 1.0)
    total = qa.get("structure", math.nan) ** 2 - noise
    return max(math.sqrt(max(total, 0.0)), config.structure_floor) if math.isfinite(total) else math.nan


def _judge_pixels(new: CalibrationImage, previous: CalibrationImage, config: AcceptanceConfig) -> str:
    """What is wrong with the pixels of an image against those of the last good one; empty if nothing."""
    if new.data.shape != previous.data.shape:
        return f"shape {new.data.shape} differs from {previous.data.shape} of the last good one"
    every = (slice(None, None, _STEP), slice(None, None, _STEP))
    good = ((new.cmask[every] | previous.cmask[every]) & (bits.NOISY | bits.DEAD)) == 0
    if not good.any():
        return "no pixel is good in both the new and the last good one"
    difference = np.where(good, new.data[every] - previous.data[every], np.nan)
    level = float(np.median(difference[good]))
    if abs(level) > config.max_level_change:
        return f"level changed by {level:.4g}, limit {config.max_level_change:.4g}"
    parts = _remove_parts(difference)
    largest = max(abs(part - level) for part in parts)
    # Another lamp correction changes the large scales on purpose.
    same_lamp = new.header.get("LAMPID", 0) == previous.header.get("LAMPID", 0)
    if same_lamp and largest > config.max_large_scale_change:
        return f"a part of the image changed by {largest:.4g}, limit {config.max_large_scale_change:.4g}"
    expected = np.hypot(new.uncertainty[every], previous.uncertainty[every])[good]
    pull = float(1.4826 * np.median(np.abs(difference[good]) / np.maximum(expected, 1e-9)))
    if pull > config.max_change:
        return f"structure changed by {pull:.2f} expected sigmas, limit {config.max_change:.2f}"
    return ""


def _remove_parts(difference: np.ndarray) -> list[float]:
    """Medians of 8 x 8 parts, without those that have no good pixel; each is subtracted in place."""
    medians = []
    for band in np.array_split(difference, min(_BLOCKS, difference.shape[0]), axis=0):
        for part in np.array_split(band, min(_BLOCKS, difference.shape[1]), axis=1):
            values = part[np.isfinite(part)]
            if values.size:
                medians.append(float(np.median(values)))
                part -= medians[-1]
    return medians
