"""The calibration product, and the rule that decides whether a new one replaces the last good one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits

from ztfds.config.detrend import StackConfig
from ztfds.survey import bits

_STEP = 4
"""Every fourth pixel in both directions is enough for the statistics of acceptance (600,000 of a full quadrant)."""


@dataclass(frozen=True)
class CalibrationImage:
    """A bias or flat of one quadrant.

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


def accept(new: CalibrationImage, previous: CalibrationImage | None, config: StackConfig) -> tuple[bool, str]:
    """Whether a new calibration image may be used, judged by itself and against the last good one.

    Parameters
    ----------
    new : CalibrationImage
    previous : CalibrationImage or None
        The last one that was accepted for this channel (and filter); None if there is none.
    config : StackConfig
        `BiasConfig` or `FlatConfig` with the limits.

    Returns
    -------
    accepted : bool
    reason : str
        ``"accepted"``, or what is wrong with the numbers.
    """
    reason = _judge_alone(new, config) or (_judge_change(new, previous, config) if previous is not None else "")
    return not reason, reason or "accepted"


def _judge_alone(new: CalibrationImage, config: StackConfig) -> str:
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


def _judge_change(new: CalibrationImage, previous: CalibrationImage, config: StackConfig) -> str:
    """What is wrong with an image compared with the last good one; empty if nothing."""
    if new.data.shape != previous.data.shape:
        return f"shape {new.data.shape} differs from {previous.data.shape} of the last good one"
    ratio = new.qa["noise"] / max(previous.qa["noise"], 1e-9)
    if ratio > config.max_noise_ratio:
        return f"noise is {ratio:.2f} times that of the last good one, limit {config.max_noise_ratio:.2f}"
    every = (slice(None, None, _STEP), slice(None, None, _STEP))
    good = ((new.cmask[every] | previous.cmask[every]) & (bits.NOISY | bits.DEAD)) == 0
    if not good.any():
        return "no pixel is good in both the new and the last good one"
    difference = (new.data[every] - previous.data[every])[good]
    level = float(np.median(difference))
    if abs(level) > config.max_level_change:
        return f"level changed by {level:.4g}, limit {config.max_level_change:.4g}"
    expected = np.hypot(new.uncertainty[every], previous.uncertainty[every])[good]
    pull = float(1.4826 * np.median(np.abs(difference - level) / np.maximum(expected, 1e-9)))
    if pull > config.max_change:
        return f"structure changed by {pull:.2f} expected sigmas, limit {config.max_change:.2f}"
    return ""
