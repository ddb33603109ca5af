"""Quality of a difference image: the width of the score on blank sky, and the verdict."""

from __future__ import annotations

import numpy as np

from ztfds.config.difference import DifferenceConfig
from ztfds.difference.prepare import Prepared
from ztfds.survey import bits

SAMPLE = np.s_[::2, ::3]
"""Pixels on which noise is measured: enough of them, and neighbours in x, which the score correlates, left out."""


def blank_sky(prepared: Prepared, score_ref: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Which of the sampled pixels have neither a source nor a defect in either image.

    Parameters
    ----------
    prepared : Prepared
    score_ref, variance : (ny, nx) float32
        Reference's part of the score and the variance of the score: sources too faint for the catalogs show there.

    Returns
    -------
    (ceil(ny / 2), ceil(nx / 3)) bool
        On `SAMPLE`.
    """
    clean = (prepared.mask[SAMPLE] & (bits.BAD_TEMPLATE | bits.SOURCE_TEMPLATE)) == 0
    clean &= ~prepared.blocked[SAMPLE] & ~prepared.no_data[SAMPLE]
    clean &= score_ref[SAMPLE] ** 2 < 9 * variance[SAMPLE]
    return clean


def robust_sigma(values: np.ndarray) -> float:
    """Half the distance of the 15.9 and 84.1 percentiles; NaN with fewer than 30 values (of many, 100,000 are used)."""
    if values.size < 30:
        return float("nan")
    values = values[:: max(1, values.size // 100_000)]
    low, high = np.percentile(values, [15.865, 84.135])
    return float(0.5 * (high - low))


def normalised(scorr: np.ndarray, blank: np.ndarray, prepared: Prepared) -> tuple[float, list[float]]:
    """Measure the width of Scorr on blank sky, all over and in each tile, and divide each tile by its own.

    The widths differ from 1 by what gain, read noise and the resampled reference's correlated noise are not known to
    better; dividing makes the threshold mean the same everywhere. Tiles with little blank sky take the overall width.

    Parameters
    ----------
    scorr : (ny, nx) float32
        Changed in place.
    blank : bool
        `blank_sky`.
    prepared : Prepared

    Returns
    -------
    (float, list of float)
        Overall width before the division, and the widths that the tiles were divided by.
    """
    sample = scorr[SAMPLE]
    overall = robust_sigma(sample[blank])
    widths = []
    for tile in prepared.tiles:
        y0, y1, x0, x1 = tile.core
        part = np.s_[-(-y0 // 2) : -(-y1 // 2), -(-x0 // 3) : -(-x1 // 3)]
        values = sample[part][blank[part]]
        width = robust_sigma(values) if values.size >= 2000 else overall
        width = width if np.isfinite(width) and width > 0 else 1.0
        scorr[y0:y1, x0:x1] /= np.float32(width)
        widths.append(width)
    return overall, widths


def verdict(qa: dict[str, float], config: DifferenceConfig) -> str:
    """Why the difference is bad; empty when it is good."""
    gain_error = abs(2.5 * np.log10(qa["gain"] / qa["expected_gain"])) if qa["gain"] > 0 else np.inf
    rules = (
        (not np.isfinite(qa["diffmaglim"]), "no zero point"),
        (not np.isfinite(qa["gain"]), "no flux scale: too few matching stars and no zero points"),
        (gain_error > config.gain_tolerance_mag, f"flux scale off the zero points' by {gain_error:.2f} mag"),
        (qa["bad_fraction"] > config.max_bad_fraction, f"{100 * qa['bad_fraction']:.0f} % of the pixels are unusable"),
        (qa["warp_px"] > config.max_warp_px, f"misregistered by {qa['warp_px']:.2f} px"),
        (
            max(qa["dx_rms_px"], qa["dy_rms_px"]) > config.max_registration_px,
            f"registration scatter {qa['dx_rms_px']:.2f}, {qa['dy_rms_px']:.2f} px",
        ),
        (
            not config.min_scorr_width <= qa["scorr_width_raw"] <= config.max_scorr_width,
            f"width of the score on blank sky {qa['scorr_width_raw']:.2f}",
        ),
        (qa["n_peaks_overflow"] > 0, "too many candidates"),
    )
    return "; ".join(text for broken, text in rules if broken)
