"""Quality of a difference image: the width of the score on blank sky, and the verdict."""

from __future__ import annotations

import numpy as np

from ztfds.config.difference import DifferenceConfig
from ztfds.difference.matching import StarMatch
from ztfds.difference.prepare import Prepared
from ztfds.difference.subtract import Subtraction
from ztfds.survey import bits

SAMPLE = np.s_[::2, ::3]
"""Pixels on which noise is measured: enough of them, and neighbours in x, which the score correlates, left out."""


PERCENTILES = (15.865, 50.0, 84.135)
"""One sigma below the median, the median, one sigma above."""


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
    clean &= ~(prepared.blocked[SAMPLE] | prepared.no_data[SAMPLE])
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
    """Measure the width of Scorr on blank sky, all over and in each tile; centre each tile and divide it by its own width.

    The medians differ from 0 by a few hundredths, by what the sky is not known better; that makes peaks of one sign more
    frequent. The widths differ from 1 by what gain, read noise and the resampled reference's correlated noise are not known to
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
        low, middle, high = (-overall, 0.0, overall) if values.size < 2000 else np.percentile(values, PERCENTILES)
        width = 0.5 * (high - low)
        width = float(width) if np.isfinite(width) and width > 0 else 1.0
        core = scorr[y0:y1, x0:x1]
        np.multiply(np.subtract(core, np.float32(middle), out=core), np.float32(1 / width), out=core)
        widths.append(width)
    return overall, widths


def star_residuals(
    subtraction: Subtraction, scorr: np.ndarray, variance: np.ndarray, match: StarMatch, config: DifferenceConfig
) -> dict[str, float]:
    """What the difference leaves of the stars that both images were matched on.

    Parameters
    ----------
    subtraction : Subtraction
    scorr : (ny, nx) float32
    variance : (ny, nx) float32, DN^2
        Of a pixel of the difference.
    match : StarMatch
    config : DifferenceConfig

    Returns
    -------
    dict of float
        star_chi: median over the stars of the root mean square of D over its pixel noise in 5 x 5 px.
        star_residual: the same in excess of the noise, over the star's peak in D's PSF, of the brightest third.
        star_width: width of Scorr at the stars' peaks.
        dipole_rate: share of the stars bright enough to tell that leave `dipole_part` of their light with either sign, each
        `dipole_sigma` times its error. NaN with fewer than 5 stars.
    """
    names = ("star_chi", "star_residual", "star_width", "dipole_rate")
    if match.size < 5:
        return dict.fromkeys(names, float("nan"))
    d, v = (_boxes(image, match, 2) for image in (subtraction.diff, variance))
    power = np.nanmean(d * d / v, axis=1)
    score, light = (_boxes(image, match, 3) for image in (subtraction.score, subtraction.score_ref))
    flux = np.nanmax(light, axis=1)
    peak = flux * np.median([psf.stamp.max() for psf in subtraction.psfs])
    brightest = np.argsort(-flux)[: max(5, match.size // 3)]
    excess = np.sqrt(np.maximum(np.nanmean(d * d - v, axis=1), 0)) / peak
    error = flux * match.ratio_error / match.ratio
    least = np.maximum(config.dipole_part * flux, config.dipole_sigma * error)
    telling = config.dipole_part * flux > config.dipole_sigma * error
    dipole = (np.nanmax(score, axis=1) > least) & (np.nanmin(score, axis=1) < -least)
    return {
        "star_chi": float(np.sqrt(np.median(power))),
        "star_residual": float(np.median(excess[brightest])),
        "star_width": robust_sigma(_boxes(scorr, match, 0)[:, 0]),
        "dipole_rate": float(np.mean(dipole[telling])) if np.count_nonzero(telling) >= 5 else float("nan"),
    }


def _boxes(image: np.ndarray, match: StarMatch, half: int) -> np.ndarray:
    """(n, (2 half + 1)^2) float64: pixels around the stars."""
    offset = np.arange(-half, half + 1)
    j = np.clip(np.rint(match.y).astype(int)[:, None, None] + offset[:, None], 0, image.shape[0] - 1)
    i = np.clip(np.rint(match.x).astype(int)[:, None, None] + offset, 0, image.shape[1] - 1)
    return np.asarray(image[j, i].reshape(match.size, -1), float)


def asymmetry(events: np.ndarray) -> tuple[float, float]:
    """(positive - negative) / all of the raw events, and its error.

    Events are not independent: the halo of one bright star makes hundreds of one sign beside each other. The error is therefore
    that of a ratio of sums over the cells, from their scatter, and at least that of independent events, 1 / sqrt(all). A
    few odd places have large errors; an asymmetry of the whole image has that of its number of events.

    Parameters
    ----------
    events : (rows, columns, 2) int
        Positive and negative events by cell.

    Returns
    -------
    (float, float)
        0 and 1 without any event.
    """
    excess, total = (events[..., 0] - events[..., 1]).ravel(), events.sum(axis=-1).ravel()
    n = int(total.sum())
    if not n:
        return 0.0, 1.0
    value = float(excess.sum() / n)
    scatter = np.sqrt(np.sum((excess - value * total) ** 2) * total.size / max(total.size - 1, 1)) / n
    return value, float(max(scatter, n**-0.5))


def verdict(qa: dict[str, float], config: DifferenceConfig) -> str:
    """Why the difference is bad, in one line, causes before their consequences; empty when it is good.

    What could not be measured for want of stars (NaN) breaks no rule.
    """
    gain_error = abs(2.5 * np.log10(qa["gain"] / qa["expected_gain"])) if qa["gain"] > 0 else np.inf
    matched = qa["n_matches"] / max(qa["n_tried"], 1)
    scatter = max(qa["dx_rms_px"], qa["dy_rms_px"])
    one_sided = abs(qa["asymmetry"]) - config.asymmetry_sigma * qa["asymmetry_error"]
    rules = (
        (not np.isfinite(qa["diffmaglim"]), "no zero point"),
        (not np.isfinite(qa["gain"]), "no flux scale: too few matching stars and no zero points"),
        (
            qa["n_tried"] >= config.judged_stars and matched < config.min_matched,
            f"not the same sky: {qa['n_matches']:.0f} of {qa['n_tried']:.0f} stars agree with the reference",
        ),
        (qa["warp_px"] > config.max_warp_px, f"misregistered by {qa['warp_px']:.2f} px"),
        (
            scatter > config.max_registration_px,
            f"registration scatter {qa['dx_rms_px']:.2f}, {qa['dy_rms_px']:.2f} px",
        ),
        (gain_error > config.gain_tolerance_mag, f"flux scale off the zero points' by {gain_error:.2f} mag"),
        (qa["bad_fraction"] > config.max_bad_fraction, f"{100 * qa['bad_fraction']:.0f} % of the pixels are unusable"),
        (
            qa["star_residual"] > config.max_star_residual,
            f"stars leave {100 * qa['star_residual']:.1f} % of their peaks: wrong PSF",
        ),
        (qa["star_width"] > config.max_star_width, f"width of the score on stars {qa['star_width']:.2f}"),
        (
            qa["dipole_rate"] > config.max_dipole_rate,
            f"{100 * qa['dipole_rate']:.0f} % of the bright stars are dipoles",
        ),
        (
            not config.min_scorr_width <= qa["scorr_width_raw"] <= config.max_scorr_width,
            f"width of the score on blank sky {qa['scorr_width_raw']:.2f}",
        ),
        (
            not config.min_noise_ratio <= qa["diff_sigma_ratio"] <= config.max_noise_ratio,
            f"noise {qa['diff_sigma_ratio']:.2f} of what is expected",
        ),
        (
            one_sided > config.max_asymmetry,
            f"{qa['n_raw_positive']:.0f} positive and {qa['n_raw_negative']:.0f} negative raw events",
        ),
        (qa["n_peaks_overflow"] > 0, "too many candidates"),
    )
    return "; ".join(text for broken, text in rules if broken)
