"""Quality of a reference image: some twenty-five metrics, and the verdict of the table of limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from ztfds.config.difference import ReferenceConfig
from ztfds.reference.catalogs import Catalogs
from ztfds.reference.coadd import Coadd
from ztfds.reference.grid import number
from ztfds.survey import bits
from ztfds.survey.camera import FULL_SHAPE
from ztfds.survey.limits import reference_limits

NAN = float("nan")
BLOCK = 4
"""Side of the blocks in which noise is measured, px: about the area that a star's light is weighed over."""
BOX = 128
"""Side of the boxes whose sky is compared, px."""

METRICS: dict[str, tuple[str, str]] = {
    "nframes": ("frames", "images in the co-add"),
    "jd_range": ("d", "time from the earliest to the latest input"),
    "median_coverage": ("frames", "median number of frames used in a pixel"),
    "coverage_p5": ("frames", "number of frames that 95 % of the pixels have at least"),
    "covered_fraction": ("", "share of pixels with at least min(5, inputs) frames"),
    "hole_fraction": ("", "share of pixels without any frame"),
    "npixnan": ("px", "pixels without any frame"),
    "npixsat": ("px", "pixels saturated in half of the frames"),
    "saturated_fraction": ("", "the same as a share of all pixels"),
    "fwhm_px": ("px", "FWHM of the PSF in the centre"),
    "fwhm_variation": ("", "largest minus smallest FWHM over the image, divided by their mean"),
    "fwhm_ratio": ("", "FWHM over the inputs' mean: misplaced inputs blur"),
    "elongation": ("", "ratio of the PSF's axes in the centre"),
    "seeing_min": ("px", "sharpest input"),
    "seeing_max": ("px", "bluntest input"),
    "median_uncertainty_dn": ("DN", "median of the uncertainty image"),
    "sky_sigma_dn": ("DN", "expected noise of an empty pixel"),
    "measured_sigma_dn": ("DN", "measured scatter of empty pixels (lowered by the resampling)"),
    "noise_ratio": ("", "scatter of empty blocks of 4 x 4 px over the expected: noise on the scale of the PSF"),
    "sky_residual": ("sigma", "scatter of the sky from box to box (128 px) over the noise of a pixel"),
    "rejected_fraction": ("", "share of all good samples that were rejected"),
    "rejected_worst": ("", "the same for the input that lost most"),
    "rejected_in_blocks": ("", "share rejected in whole blocks: trails, ghosts, moving sources"),
    "core_coverage": ("", "share of the frames kept in the cores of bright stars"),
    "spikes_per_mpx": ("per Mpx", "pixels beyond 10 sigma whose neighbours show nothing: outliers left"),
    "zeropoint_scatter_mag": ("mag", "scatter of the inputs' zero points, from the same stars in each"),
    "zeropoint_worst_mag": ("mag", "largest departure of one input from the middle of all"),
    "star_scatter_mag": ("mag", "scatter of stars within an input"),
    "astrometric_scatter_arcsec": ("arcsec", "scatter of the inputs' positions, per axis"),
    "astrometric_worst_arcsec": ("arcsec", "largest shift of one input from the middle of all"),
    "asymmetry": ("", "light of stars that is not symmetric, as a part of their flux"),
    "stars_compared": ("stars", "isolated stars behind these comparisons"),
    "scale_min": ("", "smallest flux scale of an input"),
    "scale_max": ("", "largest flux scale of an input"),
    "nsources": ("sources", "sources in the PSF catalog"),
    "source_ratio": ("", "peaks above 8 sigma over those in the sharpest input"),
    "maglimit": ("mag", "5-sigma limit of PSF photometry on empty sky"),
    "depth_gain_mag": ("mag", "limit minus the median limit of the inputs"),
    "completeness_mag": ("mag", "where the counts of sources fall to half of what brighter ones promise"),
    "psf_possible": ("", "1: a PSF could be made"),
}
"""Unit and meaning of every metric; limits are in ``survey/data/reference_limits.csv``."""


@dataclass(frozen=True)
class Verdict:
    """What the limits say of a co-add.

    Attributes
    ----------
    infobits : int
        Bits of the rules it broke.
    status : int
        1 usable, 0 if one of these is fatal.
    reasons : tuple of str
        One line for each broken rule; the fatal ones first.
    reason : str
        The fatal ones in one line; empty for status 1.
    """

    infobits: int
    status: int
    reasons: tuple[str, ...]
    reason: str


def judge(qa: dict[str, float], shape: tuple[int, int], config: ReferenceConfig) -> Verdict:
    """Hold the metrics against the table of limits; a metric that is not known breaks nothing."""
    area = shape[0] * shape[1] / (FULL_SHAPE[0] * FULL_SHAPE[1])
    rules = reference_limits("quality", config.limits_version, config.overrides, min(area, 1.0))
    broken = [(rule, rule.explained(qa[rule.name])) for rule in rules if rule.broken(qa.get(rule.name, NAN))]
    broken.sort(key=lambda pair: not pair[0].fatal)
    infobits = 0
    for rule, _ in broken:
        infobits |= 1 << rule.bit
    fatal = [text for rule, text in broken if rule.fatal]
    return Verdict(infobits, 0 if fatal else 1, tuple(text for _, text in broken), "; ".join(fatal))


def metrics(
    headers: Sequence[fits.Header], images: Coadd, catalogs: Catalogs | None, limit: float | None, magzp: float
) -> dict[str, float]:
    """All of `METRICS`; NaN where one could not be measured.

    Parameters
    ----------
    headers : sequence of fits.Header
        Of the inputs.
    images : Coadd
    catalogs : Catalogs or None
        None where no PSF could be made.
    limit : float or None
        5-sigma limit of the co-add, mag.
    magzp : float
        Zero point of the co-add, mag.
    """
    out = dict.fromkeys(METRICS, NAN)
    out |= _of_inputs(headers, images) | _of_images(headers, images) | _of_agreement(headers, images)
    out["psf_possible"] = float(catalogs is not None)
    out["nsources"] = float(len(catalogs.psfcat)) if catalogs else 0.0
    if catalogs is not None:
        out |= _of_psf(catalogs, images.pixels.shape) | _of_sources(headers, images, catalogs, limit, magzp)
        out["fwhm_ratio"] = out["fwhm_px"] / float(np.mean([out["seeing_min"], out["seeing_max"]]))
    return out


def _values(headers: Sequence[fits.Header], keyword: str) -> np.ndarray:
    """Finite values of a keyword in the headers that have it."""
    values = np.array([number(h, keyword, np.nan) for h in headers])
    return values[np.isfinite(values)]


def _of_inputs(headers: Sequence[fits.Header], images: Coadd) -> dict[str, float]:
    """What the headers of the inputs say."""
    seeing, dates, scales = _values(headers, "SEEING"), _values(headers, "OBSJD"), np.array(images.scales)
    return {
        "nframes": float(len(headers)),
        "jd_range": float(np.ptp(dates)) if dates.size else NAN,
        "seeing_min": float(seeing.min()) if seeing.size else NAN,
        "seeing_max": float(seeing.max()) if seeing.size else NAN,
        "scale_min": float(scales.min()),
        "scale_max": float(scales.max()),
    }


def _of_images(headers: Sequence[fits.Header], images: Coadd) -> dict[str, float]:
    """Coverage, masks, noise and what the rejection did."""
    sample = images.coverage[::3, ::3]
    covered = sample > 0
    size = images.mask.size
    nan, saturated = (np.count_nonzero(images.mask & np.uint16(bit)) for bit in (bits.NAN, bits.SATURATED))
    return {
        "median_coverage": float(np.median(sample)),
        "coverage_p5": float(np.percentile(sample, 5)),
        "covered_fraction": float(np.mean(images.coverage >= min(5, len(headers)))),
        "hole_fraction": float(nan / size),
        "npixnan": float(nan),
        "npixsat": float(saturated),
        "saturated_fraction": float(saturated / size),
        "median_uncertainty_dn": float(np.median(images.uncertainty[::3, ::3][covered])) if covered.any() else NAN,
        "sky_sigma_dn": math.sqrt(images.sky_variance),
        "rejected_fraction": images.rejected_fraction,
        "rejected_worst": max(images.rejected),
        "rejected_in_blocks": images.in_blocks,
        "spikes_per_mpx": 1e6 * spikes(images.pixels, math.sqrt(images.sky_variance), images.mask) / size,
    }


def _of_agreement(headers: Sequence[fits.Header], images: Coadd) -> dict[str, float]:
    """Brightness and position of the inputs' stars against the co-add's."""
    found = images.agreement
    if not np.isfinite(found.magnitudes).any():
        return {"stars_compared": float(found.stars)}
    magnitudes = found.magnitudes[np.isfinite(found.magnitudes)]
    magnitudes = magnitudes - np.median(
        magnitudes
    )  # of all: one wrong input moves the co-add, and all others against it
    shifts = found.shifts_px[np.isfinite(found.shifts_px).all(axis=1)] * number(headers[0], "PIXSCALE", 1.012)
    shifts = shifts - np.median(shifts, axis=0)
    return {
        "stars_compared": float(found.stars),
        "zeropoint_scatter_mag": float(np.std(magnitudes)),
        "zeropoint_worst_mag": float(np.abs(magnitudes).max()),
        "star_scatter_mag": found.star_scatter_mag,
        "astrometric_scatter_arcsec": float(np.sqrt(np.mean(np.var(shifts, axis=0)))),
        "astrometric_worst_arcsec": float(np.hypot(*shifts.T).max()),
        "asymmetry": found.asymmetry,
        "source_ratio": found.source_ratio,
    }


def spikes(pixels: np.ndarray, sigma: float, mask: np.ndarray | None = None) -> int:
    """Pixels beyond 10 sigma, of either sign, whose four neighbours have less than 15 % of it: no star is that sharp.

    Within 4 px of a masked pixel (`mask`, any bit) nothing counts: the rims of saturated stars are sharp by themselves.
    """
    ny, nx = pixels.shape
    with np.errstate(invalid="ignore"):
        at = np.flatnonzero(np.abs(pixels.ravel()) > 10 * sigma)
    y, x = np.divmod(at, nx)
    inside = (y > 0) & (x > 0) & (y < ny - 1) & (x < nx - 1)
    y, x = y[inside], x[inside]
    around = (pixels[y - 1, x] + pixels[y + 1, x] + pixels[y, x - 1] + pixels[y, x + 1]) / 4
    sharp = around / pixels[y, x] < 0.15
    if mask is None:
        return int(np.count_nonzero(sharp))
    near = ((max(j - 4, 0), j + 5, max(i - 4, 0), i + 5) for j, i in zip(y[sharp], x[sharp], strict=True))
    return sum(not mask[j0:j1, i0:i1].any() for j0, j1, i0, i1 in near)


def _of_psf(catalogs: Catalogs, shape: tuple[int, ...]) -> dict[str, float]:
    """Width of the PSF over the image, and its elongation."""
    areas = [
        1 / np.sum(catalogs.psf.stamp(fx * (shape[1] - 1), fy * (shape[0] - 1)).astype(float) ** 2)
        for fx in (0.1, 0.5, 0.9) for fy in (0.1, 0.5, 0.9)
    ]  # fmt: skip
    widths = np.sqrt(areas)
    stamp = catalogs.psf.stamp(0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1)).astype(float)
    side = np.arange(stamp.shape[0]) - stamp.shape[0] // 2
    light = stamp * np.exp(-(side[None, :] ** 2 + side[:, None] ** 2) / 8.0)
    xx, yy, xy = (
        light * m / light.sum() for m in (side[None, :] ** 2, side[:, None] ** 2, side[None, :] * side[:, None])
    )
    a, b, c = float(xx.sum()), float(yy.sum()), float(xy.sum())
    root = math.hypot(a - b, 2 * c)
    return {
        "fwhm_px": catalogs.psf.fwhm_px,
        "fwhm_variation": float(np.ptp(widths) / widths.mean()),
        "elongation": math.sqrt((a + b + root) / max(a + b - root, 1e-9)),
    }


def _of_sources(
    headers: Sequence[fits.Header], images: Coadd, catalogs: Catalogs, limit: float | None, magzp: float
) -> dict[str, float]:
    """Depth, numbers of sources, empty sky, and the cores of bright stars."""
    limits = _values(headers, "MAGLIM")
    ratio, residual = empty_sky(images, catalogs.mask)
    cat = catalogs.psfcat
    bright = cat["flux"][cat["flux"] > 0] if len(cat) else np.zeros(0)
    deepest = NAN if limit is None else limit
    return {
        "measured_sigma_dn": catalogs.rms_dn,
        "noise_ratio": ratio,
        "sky_residual": residual,
        "core_coverage": _core_coverage(images, cat),
        "maglimit": deepest,
        "depth_gain_mag": deepest - float(np.median(limits)) if limits.size else NAN,
        "completeness_mag": completeness(magzp - 2.5 * np.log10(bright)),
    }


def _core_coverage(images: Coadd, cat: np.ndarray) -> float:
    """Median share of the frames used in the central pixels of bright, unsaturated stars, against that around them."""
    bright = cat[(cat["snr"] > 200)] if len(cat) else cat
    if not len(bright):
        return NAN
    ny, nx = images.coverage.shape
    y = np.clip(np.rint(bright["ypos"]).astype(int), 0, ny - 1)
    x = np.clip(np.rint(bright["xpos"]).astype(int), 0, nx - 1)
    good = (images.mask[y, x] & np.uint16(bits.SATURATED | bits.NAN)) == 0
    whole = np.maximum(np.median(images.coverage[::3, ::3]), 1)
    return float(np.mean(images.coverage[y[good], x[good]]) / whole) if good.any() else NAN


def empty_sky(images: Coadd, mask: np.ndarray) -> tuple[float, float]:
    """Scatter of empty, fully covered blocks over that expected, and of the sky from box to box in sigmas of a pixel.

    Parameters
    ----------
    images : Coadd
    mask : (ny, nx) uint16
        With the bits of the sources.
    """
    ny, nx = (side // BLOCK * BLOCK for side in images.pixels.shape)
    shape = (ny // BLOCK, BLOCK, nx // BLOCK, BLOCK)
    sums = images.pixels[:ny, :nx].reshape(shape).sum(axis=(1, 3))
    busy = (mask[:ny, :nx] != 0).reshape(shape).any(axis=(1, 3))
    thin = (images.coverage[:ny, :nx] < np.median(images.coverage[::3, ::3])).reshape(shape).any(axis=(1, 3))
    sigma = math.sqrt(images.sky_variance)
    sums = np.where(busy | thin | ~np.isfinite(sums), np.nan, sums / (BLOCK**2 * sigma))
    values = sums[np.isfinite(sums)]
    if values.size < 100:
        return NAN, NAN
    low, high = np.percentile(values, [15.865, 84.135])
    side = BOX // BLOCK
    boxes = [
        part[np.isfinite(part)]
        for j in range(0, sums.shape[0], side) for i in range(0, sums.shape[1], side)
        for part in (sums[j : j + side, i : i + side],)
    ]  # fmt: skip
    levels = np.array([np.median(box) for box in boxes if box.size >= 50])
    return float(0.5 * (high - low) * BLOCK), float(np.std(levels)) if levels.size > 1 else NAN


def completeness(magnitudes: np.ndarray, width: float = 0.25) -> float:
    """Magnitude at which counts fall to half of the line through brighter ones.

    log N(m) of bins from 3 to 1 mag brighter than the peak of the counts gives the line.
    """
    if magnitudes.size < 200:
        return NAN
    edges = np.arange(np.floor(magnitudes.min()), magnitudes.max() + width, width)
    counts, _ = np.histogram(magnitudes, edges)
    centre = edges[:-1] + 0.5 * width
    peak = int(np.argmax(counts))
    fitted = (centre > centre[peak] - 3) & (centre < centre[peak] - 1) & (counts > 0)
    if fitted.sum() < 3:
        return NAN
    line = np.polyfit(centre[fitted], np.log10(counts[fitted]), 1, w=np.sqrt(counts[fitted]))
    below = [k for k in range(peak, counts.size) if counts[k] < 0.5 * 10 ** np.polyval(line, centre[k])]
    return float(centre[below[0]]) if below else float(centre[-1])
