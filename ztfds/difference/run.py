"""The differencing step (P6): science products and reference in, difference image, candidates and verdict out."""

from __future__ import annotations

import logging

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from ztfds.config.difference import CandidateConfig, DifferenceConfig
from ztfds.difference import neighbours, quality
from ztfds.difference.candidates import MeasuredImages, Peaks, blank_table, cutout, detect, measure, psf_width
from ztfds.difference.matching import psf_error
from ztfds.difference.prepare import Prepared, prepare
from ztfds.difference.products import DifferenceInputs, DifferenceProducts, without_reference_images
from ztfds.difference.score import attach
from ztfds.difference.streaks import StreakProducts, Triplet, search_image
from ztfds.difference.subtract import Subtraction, subtract
from ztfds.kernels import zogy as kernels
from ztfds.reference.grid import number, wcs_of
from ztfds.survey import ids

log = logging.getLogger(__name__)


def run(inputs: DifferenceInputs, config: DifferenceConfig) -> DifferenceProducts:
    """Subtract the reference, find and measure candidates, judge the difference.

    Parameters
    ----------
    inputs : DifferenceInputs
    config : DifferenceConfig

    Returns
    -------
    DifferenceProducts
        With status 0, a reason and no candidates where the difference is bad.

    Raises
    ------
    BadDifference
        Science image or reference has no PSF, or they have no pixel in common.
    """
    prepared = prepare(inputs, config)
    inputs = without_reference_images(inputs)  # a tenth of a gigabyte, free where the caller holds nothing of it
    outside = inputs.science.psf.outside if inputs.science.psf else 0.0
    subtraction = subtract(prepared.new, prepared.ref, prepared.var_new, prepared.var_ref, prepared.tiles, outside)
    qa = _registration_qa(prepared)
    blank = quality.blank_sky(prepared, subtraction.score_ref, subtraction.variance)
    scorr = _corrected_score(prepared, subtraction, blank, qa, config)
    images = _measured_images(inputs, prepared, subtraction, scorr, blank)
    peaks = detect(scorr, images.blocked, config.candidates)
    _image_qa(qa, prepared, subtraction, images, peaks, blank)
    qa |= quality.star_residuals(subtraction, scorr, images.variance, prepared.match, config)
    qa["limits_version"] = float(config.limits_version)
    reason = quality.verdict(qa, config)
    wcs = wcs_of(inputs.science.header)
    table = blank_table(0) if reason else _candidates(inputs, images, peaks, wcs, qa, config.candidates)
    cutouts = _cutouts(inputs, prepared, subtraction.diff, table, config.candidates)
    attach(table, cutouts)
    streaks = StreakProducts() if reason else _streaks(inputs, prepared, images, wcs, config)
    qa["n_candidates"], qa["n_streaks"] = float(table.size), float(streaks.table.size)
    qa["streaks_failed"] = float(streaks.note != "")
    log.info("difference: %d candidates, scorr width %.3f, %s", table.size, qa["scorr_width"], reason or "good")
    return DifferenceProducts(
        pixels=subtraction.diff,
        mask=prepared.mask,
        scorr=scorr,
        psf=np.asarray(np.mean([psf.stamp for psf in subtraction.psfs], axis=0, dtype=np.float32)),
        header=_header(inputs, qa, reason, config),
        candidates=table,
        cutouts=cutouts,
        qa=qa,
        status=0 if reason else 1,
        reason=reason,
        streaks=streaks,
    )


def _registration_qa(prepared: Prepared) -> dict[str, float]:
    """How well the images match."""
    dx, dy = prepared.warp.scatter
    ratio = prepared.match.ratio
    return {
        "gain": prepared.gain,
        "expected_gain": prepared.expected_gain,
        "gain_rms": float(quality.robust_sigma(ratio) / np.median(ratio)) if ratio.size else float("nan"),
        "n_matches": float(prepared.match.size),
        "n_tried": float(prepared.n_tried),
        "warp_px": prepared.warp.size,
        "warp_significance": prepared.warp.significance,
        "dx_rms_px": float(dx),
        "dy_rms_px": float(dy),
        "dx_median_px": float(np.median(prepared.match.dx)) if ratio.size else float("nan"),
        "dy_median_px": float(np.median(prepared.match.dy)) if ratio.size else float("nan"),
    }


def _corrected_score(
    prepared: Prepared, subtraction: Subtraction, blank: np.ndarray, qa: dict[str, float], config: DifferenceConfig
) -> np.ndarray:
    """Scorr with source noise, registration and PSF terms, normalised on blank sky (made in place)."""
    score, score_ref, variance = subtraction.score, subtraction.score_ref, subtraction.variance
    error = psf_error(score, score_ref, variance, prepared.match, config)
    dx, dy = prepared.warp.scatter
    kernels.corrected_score(score, score_ref, float(dx * dx), float(dy * dy), error * error, variance)
    scorr = variance
    qa["psf_error"] = error
    qa["scorr_width_raw"], widths = quality.normalised(scorr, blank, prepared)
    qa["scorr_width_min"], qa["scorr_width_max"] = min(widths), max(widths)
    qa["scorr_width"] = quality.robust_sigma(scorr[quality.SAMPLE][blank])
    scorr[prepared.no_data] = np.nan
    subtraction.diff[prepared.no_data] = np.nan
    return scorr


def _measured_images(
    inputs: DifferenceInputs, prepared: Prepared, subtraction: Subtraction, scorr: np.ndarray, blank: np.ndarray
) -> MeasuredImages:
    """Images for the measurements; the pixel variance of the difference is the sum of the two."""
    prepared.var_new.__iadd__(prepared.var_ref)
    return MeasuredImages(
        diff=subtraction.diff,
        variance=prepared.var_new,
        score=subtraction.score,
        scorr=scorr,
        bad=prepared.flagged,
        blocked=prepared.blocked | prepared.no_data,
        tiles=prepared.tiles,
        psfs=subtraction.psfs,
        sigma_diff=quality.robust_sigma(subtraction.diff[quality.SAMPLE][blank]),
        sigma_score=quality.robust_sigma(subtraction.score[quality.SAMPLE][blank]),
        magzp=number(inputs.science.header, "MAGZP", np.nan),
        gain=number(inputs.science.header, "GAIN", 6.2),
    )


def _image_qa(
    qa: dict[str, float],
    prepared: Prepared,
    subtraction: Subtraction,
    images: MeasuredImages,
    peaks: Peaks,
    blank: np.ndarray,
) -> None:
    """Noise, limits, bad pixels and event counts of the difference."""
    psf = subtraction.psfs[len(subtraction.psfs) // 2]
    noise = float(np.median([p.noise for p in subtraction.psfs]))
    qa["diff_sigma_dn"] = images.sigma_diff
    qa["diff_sigma_ratio"] = images.sigma_diff / noise
    qa["diff_fwhm_px"] = psf_width(psf)
    limit = float(np.median([p.limit for p in subtraction.psfs]))
    qa["diffmaglim"] = float(images.magzp - 2.5 * np.log10(5 * limit))
    qa["bad_fraction"] = float(np.count_nonzero(images.blocked) / images.blocked.size)
    qa["blank_fraction"] = float(np.count_nonzero(blank) / blank.size)
    qa["n_raw_positive"], qa["n_raw_negative"] = (float(n) for n in peaks.n_raw.sum(axis=(0, 1)))
    qa["asymmetry"], qa["asymmetry_error"] = quality.asymmetry(peaks.n_raw)
    qa["n_positive"] = float(np.count_nonzero(peaks.scorr > 0))
    qa["n_negative"] = float(np.count_nonzero(peaks.scorr < 0))
    qa["n_peaks_overflow"] = float(peaks.overflow)


def _candidates(
    inputs: DifferenceInputs,
    images: MeasuredImages,
    peaks: Peaks,
    wcs: WCS,
    qa: dict[str, float],
    config: CandidateConfig,
) -> np.ndarray:
    """Measured candidates with sky positions, neighbours and the facts of the two images."""
    table, dropped = measure(images, peaks, config)
    qa |= {f"n_dropped_{name}": float(count) for name, count in vars(dropped).items()}
    if not table.size:
        return table
    table["ra"], table["dec"] = wcs.all_pix2world(table["x"], table["y"], 0)
    reference = inputs.reference
    magzp = number(reference.header, "MAGZP", np.nan)
    neighbours.add_reference(table, reference.psfcat, magzp, pixel_scale_arcsec(wcs))
    neighbours.add_gaia(table, inputs.gaia, config)
    neighbours.add_ps1(table, inputs.ps1, config)
    neighbours.add_known(table, inputs.known, config)
    _add_facts(table, inputs)
    return table


def pixel_scale_arcsec(wcs: WCS) -> float:
    """Mean pixel scale at the reference point, arcsec."""
    return float(3600 * np.sqrt(np.prod(proj_plane_pixel_scales(wcs.celestial))))


_FROM_SCIENCE = {
    "jd": "OBSJD",
    "fid": "FILTERID",
    "field": "FIELDID",
    "rcid": "RCID",
    "programid": "PROGRMID",
    "programpi": "PROGRMPI",
    "exptime": "EXPTIME",
    "magzpsci": "MAGZP",
    "magzpsciunc": "MAGZPUNC",
    "magzpscirms": "MAGZPRMS",
    "nmatches": "NMATCHES",
    "clrcoeff": "CLRCOEFF",
    "clrcounc": "CLRCOUNC",
    "zpclrcov": "ZPCLRCOV",
    "zpmed": "ZPMED",
    "clrmed": "CLRMED",
    "clrrms": "CLRRMS",
}
_FROM_REFERENCE = {"jdstartref": "JDSTART", "jdendref": "JDEND", "nframesref": "NFRAMES"}


def _add_facts(table: np.ndarray, inputs: DifferenceInputs) -> None:
    """Copy what the two headers know, and the numbers derived from it."""
    for names, header in ((_FROM_SCIENCE, inputs.science.header), (_FROM_REFERENCE, inputs.reference.header)):
        for name, keyword in names.items():
            if header.get(keyword) is not None:
                table[name] = header[keyword]
    jd = float(table["jd"][0])
    if np.isfinite(jd):
        table["nid"], table["pid"] = ids.nid(jd), ids.pid(jd, int(table["rcid"][0]))
    table["rfid"] = ids.rfid(int(table["field"][0]), int(table["fid"][0]), int(table["rcid"][0]))


def _cutouts(
    inputs: DifferenceInputs, prepared: Prepared, diff: np.ndarray, table: np.ndarray, config: CandidateConfig
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Science, template (on the science grid, scale and sky) and difference stamps of each candidate."""
    out = {}
    for row in table:
        y, x, size = row["y"], row["x"], config.cutout_px
        template = cutout(prepared.ref, y, x, size) + cutout(prepared.sky, y, x, size)
        template[cutout(prepared.no_data, y, x, size) != 0] = np.nan
        sign = np.float32(1 if row["isdiffpos"] == "t" else -1)
        stamps = (cutout(inputs.science.pixels, y, x, size), template, sign * cutout(diff, y, x, size))
        out[int(row["tblid"])] = stamps
    return out


def _streaks(
    inputs: DifferenceInputs, prepared: Prepared, images: MeasuredImages, wcs: WCS, config: DifferenceConfig
) -> StreakProducts:
    """Trailed sources with their stamps: science, template on the science grid, scale and sky, and difference."""

    def stamps(y: float, x: float, size: int) -> Triplet:
        template = cutout(prepared.ref, y, x, size) + cutout(prepared.sky, y, x, size)
        template[cutout(prepared.no_data, y, x, size) != 0] = np.nan
        return cutout(inputs.science.pixels, y, x, size), template, cutout(images.diff, y, x, size)

    return search_image(images, prepared.mask, inputs.science.header, wcs, inputs.gaia, stamps, config.streaks)


def _header(inputs: DifferenceInputs, qa: dict[str, float], reason: str, config: DifferenceConfig) -> fits.Header:
    """Science header with the cards of the difference."""
    header = inputs.science.header.copy()
    cards = (
        ("DIFMAGLM", qa["diffmaglim"], "5-sigma limit of the difference [mag]"),
        ("DIFSIGPX", qa["diff_sigma_dn"], "robust noise of a pixel [DN]"),
        ("DIFFWHM", qa["diff_fwhm_px"], "FWHM of the difference PSF [pixels]"),
        ("REFSCALE", qa["gain"], "science DN per reference DN"),
        ("NREFMTCH", int(qa["n_matches"]), "stars that match science and reference"),
        ("REGRMSX", qa["dx_rms_px"], "residual registration noise in x [pixels]"),
        ("REGRMSY", qa["dy_rms_px"], "residual registration noise in y [pixels]"),
        ("WARPPX", qa["warp_px"], "residual warp measured from stars [pixels]"),
        ("PSFERR", qa["psf_error"], "relative error of PSFs and flux scale"),
        ("SCORWID", qa["scorr_width_raw"], "width of Scorr on blank sky, before scaling"),
        ("NFRAMES", int(number(inputs.reference.header, "NFRAMES", 0)), "frames in the reference"),
        ("DIFSTAT", 0 if reason else 1, "difference usable: 0 = bad; 1 = good"),
        ("DIFREASN", reason[:60], "why bad"),
        ("DIFLIMV", config.limits_version, "version of the limits that say so"),
    )
    for keyword, value, comment in cards:
        known = not isinstance(value, float) or np.isfinite(value)
        header[keyword] = (value if known else None, comment)
    return header
