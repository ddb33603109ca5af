"""The high-spatial-frequency flat of one quadrant and filter from dome flats."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits

from ztfds.calibration.bias import check_frames
from ztfds.calibration.products import CalibrationImage
from ztfds.calibration.stacking import Stack, noisy_pixels, stack_frames
from ztfds.calibration.transfer import photon_transfer
from ztfds.config.detrend import FlatConfig
from ztfds.detrend.overscan import OverscanModel, model_overscan
from ztfds.detrend.split import linearity_of, saturation_raw_dn
from ztfds.formats.raw import RawQuadrant
from ztfds.kernels import detrend as kernels
from ztfds.survey import bits
from ztfds.survey.errors import BadData, CalibrationMissing, WrongSize

logger = logging.getLogger(__name__)

_SAMPLE = (slice(None, None, 4), slice(None, None, 4))


@dataclass(frozen=True)
class _Frame:
    """What is needed to turn raw rows of one flat into normalised samples."""

    raw: RawQuadrant
    overscan: OverscanModel
    a: float
    b: float
    level_dn: float = 1.0

    def samples(self, bias: np.ndarray, rows: slice, out: np.ndarray) -> None:
        """Fill `out` with (linearized raw - bias) / level of some rows."""
        raw, level, of_bias = map(np.ascontiguousarray, (self.raw.pixels[rows], self.overscan.level[rows], bias[rows]))
        kernels.flat_samples(raw, level, self.a, self.b, of_bias, 1.0 / self.level_dn, out)


def stack_flat(
    raws: Sequence[RawQuadrant],
    bias: CalibrationImage,
    config: FlatConfig,
    lamp: np.ndarray | None = None,
    headers: Sequence[fits.Header] | None = None,
) -> CalibrationImage:
    """Make the flat of one readout channel and filter.

    Overscan, linearity and bias of each frame; normalisation to unit mean over good pixels; outlier-rejected stack;
    pixels noisier than `noisy_factor` times the median become NOISY; optional division by the lamp correction;
    renormalisation; dead pixels reset to 1 and marked; low and high responsivity marked. Gain and, where some frames are
    bright enough, saturation come from pairs of the same frames (`transfer.photon_transfer`).

    Parameters
    ----------
    raws : sequence of RawQuadrant
        Dome flats of one channel and filter.
    bias : CalibrationImage
        Bias of the channel; pixels bad in its cmask do not take part in the normalisation.
    config : FlatConfig
    lamp : (ny, nx) float32, optional
        Static illumination of the screen, by which the stack is divided.
    headers : sequence of fits.Header, optional
        Primary headers of the frames, for the date of the linearity; without them the quadrant headers are asked.

    Raises
    ------
    CalibrationMissing
        Fewer usable frames than `min_frames`.
    WrongSize
        Frames, bias or lamp of different shapes.
    """
    check_frames(raws, config.min_frames, "flat")
    for name, other in (("bias", bias.data), ("lamp", lamp)):
        if other is not None and other.shape != raws[0].pixels.shape:
            raise WrongSize(f"the {name} is {other.shape}, the flats are {raws[0].pixels.shape}")
    bias = replace(bias, data=np.ascontiguousarray(bias.data, np.float32))
    stated = headers or [raw.header for raw in raws]
    prepared = [_prepare(raw, header, bias, config) for raw, header in zip(raws, stated, strict=True)]
    frames = [frame for frame in prepared if _usable(frame, config)]
    if len(frames) < config.min_frames:
        raise CalibrationMissing(
            f"{len(frames)} usable flat frames of {len(raws)}, at least {config.min_frames} needed"
        )

    def fill(k: int, rows: slice, out: np.ndarray) -> None:
        frames[k].samples(bias.data, rows, out)

    read_noise = bias.qa.get("read_noise_dn", bias.qa.get("noise", float("nan")))
    transfer = photon_transfer(prepared, bias.data, bias.cmask == 0, read_noise, config)
    stack = stack_frames(len(frames), raws[0].pixels.shape, fill, config, 1e-6)
    return _finish(stack, frames, bias, config, lamp, transfer.metrics())


def _prepare(raw: RawQuadrant, header: fits.Header, bias: CalibrationImage, config: FlatConfig) -> _Frame:
    """Overscan, linearity and mean level of one frame."""
    overscan = model_overscan(raw.overscan, raw.qid, config.split)
    a, b = linearity_of(raw.rcid, header, config.split)
    level = _mean_level(_Frame(raw, overscan, a, b), bias, config)
    return _Frame(raw, overscan, a, b, level)


def _usable(frame: _Frame, config: FlatConfig) -> bool:
    """Whether the level of a frame is neither too dim nor too close to saturation; a word in the log if not."""
    raw = frame.raw
    full = saturation_raw_dn(raw.header, frame.overscan, config.split) - frame.overscan.mean_dn
    ceiling = min(config.max_level_dn, full)
    if config.min_level_dn <= frame.level_dn <= ceiling:
        return True
    logger.warning("rcid %d: flat frame left out, level %.1f DN not in %.0f-%.0f", raw.rcid, frame.level_dn,
                   config.min_level_dn, ceiling)  # fmt: skip
    return False


def _mean_level(frame: _Frame, bias: CalibrationImage, config: FlatConfig) -> float:
    """Clipped mean of the good pixels of a frame, DN, from every `normalise_row_step`-th row."""
    step = config.normalise_row_step
    rows = slice(step // 2, None, step)
    out = np.empty(bias.data[rows].shape, np.float32)
    frame.samples(bias.data, rows, out)
    return clipped_mean(out[bias.cmask[rows] == 0], config.normalise_clip_sigma)


def clipped_mean(values: np.ndarray, kappa: float, rounds: int = 5) -> float:
    """Mean of the values within kappa robust sigmas (then standard deviations) of the centre; NaN without values."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return float("nan")
    centre = float(np.median(values))
    sigma = float(1.4826 * np.median(np.abs(values - centre)))
    for _ in range(rounds):
        kept = values[np.abs(values - centre) <= kappa * sigma]
        if kept.size in (0, values.size):
            break
        values = kept
        centre, sigma = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return float(values.mean(dtype=np.float64))


def _finish(
    stack: Stack,
    frames: Sequence[_Frame],
    bias: CalibrationImage,
    config: FlatConfig,
    lamp: np.ndarray | None,
    transfer: dict[str, float],
) -> CalibrationImage:
    """From the stack of normalised frames to the product."""
    response, uncertainty = stack.mean, stack.error
    noisy = noisy_pixels(stack, len(frames), config)
    if lamp is not None:
        usable = np.isfinite(lamp) & (lamp > config.dead_response)
        response = np.divide(response, lamp, out=np.zeros_like(response), where=usable)
        uncertainty = np.divide(uncertainty, lamp, out=uncertainty, where=usable)
    bad = noisy | (bias.cmask != 0)
    scale = clipped_mean(response[_SAMPLE][~bad[_SAMPLE]], config.normalise_clip_sigma)
    if not np.isfinite(scale) or scale <= 0:
        raise BadData(f"the flats of rcid {frames[0].raw.rcid} have no good pixel to be normalised by")
    response /= np.float32(scale)
    uncertainty /= np.float32(scale)
    cmask = _cmask(response, noisy, config)
    response[(cmask & np.uint16(bits.DEAD)) != 0] = 1.0
    qa = _quality(response, stack, cmask, frames) | transfer
    logger.info(
        "rcid %d flat of %d frames: level %.0f DN, pixel noise %.4f, %.4f %% bad, gain %.3f",
        frames[0].raw.rcid, len(frames), qa["level_dn"], qa["noise"], 100 * qa["bad_fraction"], qa["gain_e_per_dn"],
    )  # fmt: skip
    return CalibrationImage(response, uncertainty, cmask, qa, _header(frames, qa, config, lamp is not None))


def _cmask(response: np.ndarray, noisy: np.ndarray, config: FlatConfig) -> np.ndarray:
    """Mask of a flat: noisy, dead, low and high responsivity."""
    cmask = np.where(noisy, np.uint16(bits.NOISY), np.uint16(0))
    alive = response > config.dead_response
    cmask[~alive] |= np.uint16(bits.DEAD)
    cmask[alive & (response < config.low_response)] |= np.uint16(bits.LOW_RESPONSE)
    cmask[response > config.high_response] |= np.uint16(bits.HIGH_RESPONSE)
    return cmask


def _quality(response: np.ndarray, stack: Stack, cmask: np.ndarray, frames: Sequence[_Frame]) -> dict[str, float]:
    """Metrics of a flat; the gain follows from shot noise: variance of a normalised frame = 1 / (gain * level)."""
    levels = np.array([frame.level_dn for frame in frames])
    good = response[_SAMPLE][cmask[_SAMPLE] == 0]
    bad = (cmask & np.uint16(bits.NOISY | bits.DEAD)) != 0
    return {
        "n_frames": float(len(frames)),
        "mean": float(good.mean()),
        "structure": float(good.std()),
        "noise": stack.noise,
        "bad_fraction": float(np.count_nonzero(bad) / bad.size),
        "n_noisy": float(np.count_nonzero(cmask & np.uint16(bits.NOISY))),
        "n_dead": float(np.count_nonzero(cmask & np.uint16(bits.DEAD))),
        "n_low_response": float(np.count_nonzero(cmask & np.uint16(bits.LOW_RESPONSE))),
        "n_high_response": float(np.count_nonzero(cmask & np.uint16(bits.HIGH_RESPONSE))),
        "rejected_fraction": stack.rejected_fraction,
        "level_dn": float(levels.mean()),
        "level_range": float(np.ptp(levels) / levels.mean()),
        "shot_gain_e_per_dn": float(np.mean(1.0 / levels) / max(stack.noise, 1e-9) ** 2),
    }


def _header(frames: Sequence[_Frame], qa: dict[str, float], config: FlatConfig, lamp: bool) -> fits.Header:
    """Header of a flat product."""
    header = fits.Header()
    header["CALTYPE"] = ("hifreqflat", "kind of calibration image")
    header["BUNIT"] = ("", "response relative to the mean")
    header["RCID"] = (frames[0].raw.rcid, "readout channel 0..63")
    header["NFRAMES"] = (len(frames), "frames stacked")
    header["CLIPSIG"] = (config.clip_sigma, "rejection limit, sigma")
    header["FLATLEV"] = (round(qa["level_dn"], 2), "[DN] mean level of the frames")
    header["LAMPCORR"] = (lamp, "divided by the lamp correction")
    return header
