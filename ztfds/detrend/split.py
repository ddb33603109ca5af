"""From a raw quadrant to signal: overscan subtracted, linearized, saturation marked, quality measured."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from ztfds.config.detrend import SplitConfig
from ztfds.detrend.overscan import OverscanModel, model_overscan
from ztfds.formats.raw import RawQuadrant
from ztfds.kernels import detrend as kernels
from ztfds.survey import bits, detector
from ztfds.survey.camera import ccd_qid
from ztfds.survey.errors import MissingKeyword

logger = logging.getLogger(__name__)

MJD_ZERO_JD = 2400000.5
_QA_STEP = 8
_DEAD_SIGMAS = 12.0


@dataclass(frozen=True)
class SplitQuadrant:
    """One quadrant after overscan and linearity.

    Attributes
    ----------
    qid, rcid : int
        Quadrant 1..4 and readout channel 0..63.
    pixels : (ny, nx) float32
        Signal, DN; bias structure and dark signal still in.
    mask : (ny, nx) uint16
        `survey.bits.SATURATED` by raw level.
    header : fits.Header
        Header of the raw extension plus what was done.
    saturation_dn : float
        Saturation on the scale of `pixels`, DN.
    qa : dict of str to float
        Quality metrics.
    """

    qid: int
    rcid: int
    pixels: np.ndarray
    mask: np.ndarray
    header: fits.Header
    saturation_dn: float
    qa: dict[str, float]


def split(raw: RawQuadrant, header: fits.Header, config: SplitConfig) -> SplitQuadrant:
    """Subtract the overscan model, apply the linearity of the date, mark saturated pixels: one pass over the pixels.

    S = x / (A x^2 + B x + 1) with x = raw - overscan(row); A and B of the amplifier at the date of the exposure
    (camera team's tables). The order overscan first makes x the signal that the coefficients were measured with.

    Parameters
    ----------
    raw : RawQuadrant
        Raw DN as stored.
    header : fits.Header
        Primary header of the file; OBSJD (or OBSMJD) gives the date.
    config : SplitConfig

    Raises
    ------
    MissingKeyword
        No date in the header.
    WrongSize
        The overscan is too small for the model.
    """
    model = model_overscan(raw.overscan, raw.qid, config)
    a, b = linearity_of(raw.rcid, header, config)
    ceiling = saturation_raw_dn(raw.header, model, config)
    pixels, mask = np.empty(raw.pixels.shape, np.float32), np.empty(raw.pixels.shape, np.uint16)
    saturated = kernels.subtract_and_linearize(raw.pixels, model.level, a, b, ceiling, bits.SATURATED, pixels, mask)
    signal = ceiling - model.mean_dn
    qa = _quality(pixels, saturated, model)
    logger.info(
        "rcid %d split: overscan %.2f DN, median %.1f DN, %d saturated",
        raw.rcid,
        model.mean_dn,
        qa["median_dn"],
        saturated,
    )
    return SplitQuadrant(
        qid=raw.qid,
        rcid=raw.rcid,
        pixels=pixels,
        mask=mask,
        header=_header(raw.header, model, a, b, config),
        saturation_dn=float(signal / ((a * signal + b) * signal + 1.0)),
        qa=qa,
    )


def obsmjd(header: fits.Header) -> float:
    """Start of the exposure, MJD, from OBSJD or OBSMJD; raise `MissingKeyword` without either."""
    for keyword, zero in (("OBSJD", MJD_ZERO_JD), ("OBSMJD", 0.0)):
        value = header.get(keyword)
        if isinstance(value, int | float) and np.isfinite(value):
            return float(value) - zero
    raise MissingKeyword("the header has neither OBSJD nor OBSMJD")


def linearity_of(rcid: int, header: fits.Header, config: SplitConfig) -> tuple[float, float]:
    """Linearity coefficients (A in DN^-2, B in DN^-1) of a readout channel on the date of the header.

    (0, 0) if unwanted, or if the header says ``LINEAR = T``: counts that are proportional to the light already.
    """
    if not config.linearize or header.get("LINEAR") is True:
        return 0.0, 0.0
    ccdid, qid = ccd_qid(rcid)
    return detector.linearity(ccdid, qid, obsmjd(header))


def saturation_raw_dn(header: fits.Header, model: OverscanModel, config: SplitConfig) -> int:
    """Raw DN from which on a pixel is saturated: setting, else SATURATE of the quadrant, else nominal (both plus overscan)."""
    if config.saturation_raw_dn is not None:
        level = config.saturation_raw_dn
    else:
        stated = header.get("SATURATE")
        usable = isinstance(stated, int | float) and 0 < stated < detector.RAW_CEILING_DN
        level = model.mean_dn + (float(stated) if usable else detector.SATURATION_DN)
    # The converter's last value is saturated whatever the header says.
    return int(min(np.ceil(level), detector.RAW_CEILING_DN))


def _quality(pixels: np.ndarray, saturated: int, model: OverscanModel) -> dict[str, float]:
    """Metrics of one split quadrant; median, scatter and structure from every eighth pixel in both directions."""
    sample = pixels[_QA_STEP // 2 :: _QA_STEP, _QA_STEP // 2 :: _QA_STEP]
    median = float(np.median(sample))
    dead = kernels.count_below(pixels, dead_below(median, model))
    return {
        "overscan_mean_dn": model.mean_dn,
        "overscan_drift_dn": model.drift_dn,
        "overscan_residual_dn": model.residual_dn,
        "overscan_rejected_fraction": model.rejected_fraction,
        "overscan_worst_block_dn": model.worst_block_dn,
        "overscan_trail_dn": model.trail_dn,
        "overscan_bright_columns": float(model.bright_columns),
        "read_noise_dn": model.noise_dn,
        "median_dn": median,
        "scatter_dn": float(1.4826 * np.median(np.abs(sample - median))),
        "n_saturated": float(saturated),
        "saturated_percent": 100.0 * saturated / pixels.size,
        "n_dead": float(dead),
        "dead_percent": 100.0 * dead / pixels.size,
        **_structure(sample, median, model.noise_dn),
    }


def dead_below(median_dn: float, model: OverscanModel) -> float:
    """Signal below which a pixel is dead, DN: far below zero, or, where the sky is bright enough to tell, half of it.

    Sky noise is about sqrt(median / 6 + noise^2), so that half of a median above 20 times the read noise is 12 sigma away.
    """
    floor = -_DEAD_SIGMAS * model.noise_dn
    return max(floor, 0.5 * median_dn) if median_dn > 20.0 * model.noise_dn else floor


def _structure(sample: np.ndarray, median: float, noise: float) -> dict[str, float]:
    """Banding of rows, DN, and uneven large-scale signal, percent of the sky (at least of ten read noises).

    Row structure: robust scatter of the differences of neighbouring sampled rows' medians over root two. Large scales:
    half the range of the medians of 4 x 4 parts.
    """
    rows = np.median(sample, axis=1)
    parts = [
        float(np.median(part))
        for band in np.array_split(sample, min(4, sample.shape[0]), axis=0)
        for part in np.array_split(band, min(4, sample.shape[1]), axis=1)
    ]
    jumps = np.diff(rows) if rows.size > 1 else np.zeros(1)
    banding = 1.4826 * float(np.median(np.abs(jumps - np.median(jumps)))) / float(np.sqrt(2.0))
    return {
        "row_structure_dn": banding,
        "structure_percent": 50.0 * float(np.ptp(parts)) / max(median, 10.0 * noise, 1.0),
    }


def _header(header: fits.Header, model: OverscanModel, a: float, b: float, config: SplitConfig) -> fits.Header:
    """Header of the quadrant with what was done."""
    out = header.copy()
    out["OVSCMEAN"] = (round(model.mean_dn, 4), "[DN] mean overscan level subtracted")
    out["OVSCDRFT"] = (round(model.drift_dn, 4), "[DN] overscan, last minus first row read")
    out["OVSCRMS"] = (round(model.residual_dn, 4), "[DN] scatter of rows about overscan model")
    out["OVSCORD"] = (config.overscan_order, "order of the overscan model")
    out["LINCOEFA"] = (a, "[DN^-2] linearity: x / (A x^2 + B x + 1)")
    out["LINCOEFB"] = (b, "[DN^-1] linearity")
    return out
