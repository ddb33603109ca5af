"""The bias of one quadrant: an outlier-rejected stack of overscan-subtracted bias frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from astropy.io import fits

from ztfds.calibration.products import CalibrationImage
from ztfds.calibration.stacking import Stack, noisy_pixels, stack_frames
from ztfds.calibration.transfer import bias_pair_noise
from ztfds.config.detrend import BiasConfig
from ztfds.detrend.overscan import OverscanModel, model_overscan
from ztfds.formats.raw import RawQuadrant
from ztfds.kernels import detrend as kernels
from ztfds.survey import bits
from ztfds.survey.errors import CalibrationMissing, WrongSize

logger = logging.getLogger(__name__)

_SAMPLE = (slice(None, None, 4), slice(None, None, 4))


def stack_bias(raws: Sequence[RawQuadrant], config: BiasConfig) -> CalibrationImage:
    """Stack the bias frames of one readout channel.

    Each frame loses its own overscan model; samples beyond `clip_sigma` robust sigmas of the pixel's median are
    rejected; mean, standard error and cmask (NOISY, DEAD) remain. The frames stay unsigned 16-bit integers in memory.
    The read noise comes from the differences of pairs (`transfer.bias_pair_noise`).

    Parameters
    ----------
    raws : sequence of RawQuadrant
        Bias frames of the same channel and shape.
    config : BiasConfig

    Returns
    -------
    CalibrationImage
        Data in DN above the overscan level.

    Raises
    ------
    CalibrationMissing
        Fewer frames than `min_frames`.
    WrongSize
        Frames of different shape or channel.
    """
    check_frames(raws, config.min_frames, "bias")
    overscans = [model_overscan(raw.overscan, raw.qid, config.split) for raw in raws]

    def fill(k: int, rows: slice, out: np.ndarray) -> None:
        kernels.bias_samples(raws[k].pixels[rows], overscans[k].level[rows], out)

    stack = stack_frames(len(raws), raws[0].pixels.shape, fill, config, config.quantisation_dn)
    cmask = _cmask(stack, len(raws), config)
    noise, error = bias_pair_noise(raws, overscans, config)
    qa = _quality(stack, cmask, overscans) | {"read_noise_dn": noise, "read_noise_error_dn": error}
    logger.info(
        "rcid %d bias of %d frames: mean %.3f DN, read noise %.3f DN, %.4f %% bad",
        raws[0].rcid, len(raws), qa["mean"], qa["noise"], 100 * qa["bad_fraction"],
    )  # fmt: skip
    return CalibrationImage(stack.mean, stack.error, cmask, qa, _header(raws, qa, config))


def check_frames(raws: Sequence[RawQuadrant], least: int, kind: str) -> None:
    """Raise `CalibrationMissing` for too few frames and `WrongSize` for frames that do not belong together."""
    if len(raws) < least:
        raise CalibrationMissing(f"{len(raws)} {kind} frames, at least {least} are needed")
    for raw in raws:
        if raw.pixels.shape != raws[0].pixels.shape or raw.rcid != raws[0].rcid:
            raise WrongSize(
                f"{kind} frames of rcid {raw.rcid} {raw.pixels.shape} and rcid {raws[0].rcid} {raws[0].pixels.shape}"
            )


def _cmask(stack: Stack, n: int, config: BiasConfig) -> np.ndarray:
    """Noisy pixels by their scatter; stuck and hot ones by their level."""
    middle = float(np.median(stack.mean[_SAMPLE]))
    cmask = noisy_pixels(stack, n, config).astype(np.uint16) * np.uint16(bits.NOISY)
    stuck = (stack.mean > middle + config.hot_dn) | (stack.mean < middle - config.hot_dn)
    cmask |= stuck * np.uint16(bits.DEAD)
    return cmask


def _quality(stack: Stack, cmask: np.ndarray, overscans: Sequence[OverscanModel]) -> dict[str, float]:
    """Metrics of a bias."""
    good = cmask[_SAMPLE] == 0
    levels = [model.mean_dn for model in overscans]
    return {
        "n_frames": float(len(overscans)),
        "mean": float(stack.mean[_SAMPLE][good].mean()),
        "structure": float(stack.mean[_SAMPLE][good].std()),
        "noise": stack.noise,
        "bad_fraction": float(np.count_nonzero(cmask) / cmask.size),
        "n_noisy": float(np.count_nonzero(cmask & np.uint16(bits.NOISY))),
        "n_dead": float(np.count_nonzero(cmask & np.uint16(bits.DEAD))),
        "rejected_fraction": stack.rejected_fraction,
        "overscan_mean_dn": float(np.mean(levels)),
        "overscan_range_dn": float(np.ptp(levels)),
        "overscan_worst_block_dn": float(max(model.worst_block_dn for model in overscans)),
    }


def _header(raws: Sequence[RawQuadrant], qa: dict[str, float], config: BiasConfig) -> fits.Header:
    """Header of a bias product."""
    header = fits.Header()
    header["CALTYPE"] = ("bias", "kind of calibration image")
    header["BUNIT"] = ("DN", "above the overscan level")
    header["RCID"] = (raws[0].rcid, "readout channel 0..63")
    header["NFRAMES"] = (len(raws), "frames stacked")
    header["CLIPSIG"] = (config.clip_sigma, "rejection limit, sigma")
    header["READNOID"] = (round(qa["noise"], 4), "[DN] median noise of one frame")
    return header
