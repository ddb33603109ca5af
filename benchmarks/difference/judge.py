"""Judging differences, resampled images and co-adds against truth: the same detector and the same definitions for every tool.

A *significance* image holds sigmas of a point source at each pixel: Scorr where a tool makes it; for tools that leave a difference
image only, that image through the matched filter of the science PSF over the noise so propagated, scaled to width 1 on blank sky.
Peaks of either sign above 5 are detections; those within 3 px of nothing that changes are false.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage, signal
from scipy.spatial import cKDTree

from benchmarks.difference.inputs import PairInputs

if TYPE_CHECKING:
    from benchmarks.difference.pairs import Pair

Result = dict[str, Any]
THRESHOLD, BORDER, MERGE_PX = 5.0, 30, 4.0
FOUND_PX, FALSE_PX = 2.0, 3.0
SNR_BINS = ((5.0, 7.0), (7.0, 10.0), (10.0, np.inf))
STAR_SNR, BRIGHT_SNR = 20.0, 200.0


def half_width(values: np.ndarray) -> float:
    """Half the distance of the 15.9 and 84.1 percentiles; NaN with fewer than 30 values."""
    values = values[np.isfinite(values)]
    if values.size < 30:
        return float("nan")
    low, high = np.percentile(values, [15.865, 84.135])
    return float(0.5 * (high - low))


def peaks(significance: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Local extrema above the threshold; (n, 3) float64: x, y, significance; the weaker of close pairs of one sign left out."""
    inner = np.zeros(usable.shape, bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = usable[BORDER:-BORDER, BORDER:-BORDER]
    strength = np.where(inner & np.isfinite(significance), np.abs(significance), 0.0).astype(np.float32)
    top = (strength > THRESHOLD) & (strength == ndimage.maximum_filter(strength, 3))
    y, x = np.nonzero(top)
    order = np.argsort(-strength[y, x], kind="stable")
    y, x = y[order], x[order]
    keep = np.ones(y.size, bool)
    positive = significance[y, x] > 0
    for sign in (True, False):
        which = np.flatnonzero(positive == sign)
        near = cKDTree(np.column_stack([x[which], y[which]]).reshape(-1, 2)).query_pairs(MERGE_PX)
        for a, b in sorted(near):
            if keep[which[a]]:
                keep[which[b]] = False
    return np.column_stack([x, y, significance[y, x]])[keep].astype(float)


def changing_places(truth: np.ndarray, movers: np.ndarray) -> np.ndarray:
    """(n, 2) float64: x, y of everything that changes or moves, and of what moved through the reference; lines every 2 px."""
    rows = truth[np.isin(truth["kind"], ("transient", "asteroid", "fast", "variable", "trail"))]
    places = [np.column_stack([rows["x"], rows["y"]]), movers]
    for row in rows[np.isin(rows["kind"], ("fast", "trail"))]:
        n = int(np.hypot(row["x2"] - row["x"], row["y2"] - row["y"]) / 2) + 2
        places.append(np.column_stack([np.linspace(row["x"], row["x2"], n), np.linspace(row["y"], row["y2"], n)]))
    return np.concatenate(places)


def usable_transients(pair: Pair, usable: np.ndarray) -> np.ndarray:
    """Injected transients away from borders, saturated stars and unusable pixels (truth rows)."""
    rows = pair.truth[(pair.truth["kind"] == "transient") & ~pair.truth["near_saturated"]]
    ny, nx = usable.shape
    inside = (rows["x"] > BORDER) & (rows["y"] > BORDER) & (rows["x"] < nx - 1 - BORDER) & (rows["y"] < ny - 1 - BORDER)
    rows = rows[inside]
    return rows[usable[np.rint(rows["y"]).astype(int), np.rint(rows["x"]).astype(int)]]


def recovery(pair: Pair, usable: np.ndarray, places: np.ndarray, fields: str = "") -> Result:
    """Shares of transients with a detection within 2 px, by S/N, and on galaxies.

    Parameters
    ----------
    pair : Pair
    usable : (ny, nx) bool
    places : (n, 2) float64
        x, y of detections.
    fields : str
        Prefix of the names.
    """
    rows = usable_transients(pair, usable)
    found = np.zeros(len(rows), bool)
    if len(places) and len(rows):
        found = cKDTree(places).query(np.column_stack([rows["x"], rows["y"]]))[0] < FOUND_PX
    out: Result = {f"{fields}n_usable": float(len(rows))}
    for low, high in SNR_BINS:
        inside = (rows["snr"] >= low) & (rows["snr"] < high)
        out[f"{fields}n_snr{low:.0f}"] = float(inside.sum())
        out[f"{fields}found_snr{low:.0f}"] = float(found[inside].mean()) if inside.any() else float("nan")
    hosted = rows["on_galaxy"] & (rows["snr"] >= SNR_BINS[0][0])
    out[f"{fields}found_on_galaxies"] = float(found[hosted].mean()) if hosted.any() else float("nan")
    return out


def false_ones(pair: Pair, places: np.ndarray) -> np.ndarray:
    """(n,) bool: detections that are nothing that changes."""
    if not len(places):
        return np.zeros(0, bool)
    return cKDTree(changing_places(pair.truth, pair.movers)).query(places)[0] > FALSE_PX


def candidate_numbers(inputs: PairInputs, made: Result) -> Result:
    """Candidates and alerts of P6: found, false, false after the packets' criteria and after a score cut at 99 % completeness.

    Parameters
    ----------
    inputs : PairInputs
    made : dict
        x, y, alerted, score of the candidates.
    """
    pair, usable = inputs.pair, ~inputs.array("blocked")
    places, alerted = np.column_stack([made["x"], made["y"]]).reshape(-1, 2), np.asarray(made["alerted"], bool)
    false = false_ones(pair, places)
    score = np.asarray(made["score"], float)
    rows = usable_transients(pair, usable)
    at = np.column_stack([rows["x"], rows["y"]])
    real = cKDTree(at).query(places)[0] < FOUND_PX if len(places) and len(rows) else np.zeros(len(places), bool)
    real &= alerted
    cut = float(np.quantile(score[real], 0.01)) if real.any() else float("nan")
    return recovery(pair, usable, places, "candidates_") | recovery(pair, usable, places[alerted], "alerts_") | {
        "n_candidates": float(len(places)),
        "n_alerts": float(alerted.sum()),
        "false_candidates": float(false.sum()),
        "false_alerts": float((false & alerted).sum()),
        "false_after_score": float((false & alerted & (score >= cut)).sum()),
        "score_cut": cut,
        "warp_px": float(made["warp_px"]),
        "width_raw": float(made["width_raw"]),
    }  # fmt: skip


def significance_numbers(inputs: PairInputs, significance: np.ndarray, part: list[int] | None = None) -> Result:
    """Everything about one significance image.

    Parameters
    ----------
    inputs : PairInputs
    significance : (ny, nx) float32
        Of the whole quadrant, or of a part.
    part : [y0, y1, x0, x1], optional
        The part of the quadrant that it covers; the counts are of that part.
    """
    pair, usable = inputs.pair, ~inputs.array("blocked")
    whole = significance
    if part is not None:
        whole = np.full(usable.shape, np.nan, np.float32)
        y0, y1, x0, x1 = part
        whole[y0:y1, x0:x1] = significance
        inside = np.zeros(usable.shape, bool)
        inside[y0 + BORDER : y1 - BORDER, x0 + BORDER : x1 - BORDER] = True
        usable &= inside
    found = peaks(whole, usable)
    false = false_ones(pair, found[:, :2])
    out = recovery(pair, usable, found[:, :2]) | {"false_peaks": float(false.sum()), "n_peaks": float(len(found))}
    return out | widths(pair, whole, usable)


def widths(pair: Pair, significance: np.ndarray, usable: np.ndarray) -> Result:
    """Width of the significance on blank sky, on stars of S/N > 20 and on bright ones."""
    blank = np.zeros_like(usable)
    blank[::2, ::3] = True  # neighbours in x are correlated
    out: Result = {"sky_width": half_width(significance[blank & pair.blank & usable])}
    stars = pair.truth[(pair.truth["kind"] == "star") & ~pair.truth["near_saturated"] & (pair.truth["snr"] > STAR_SNR)]
    x, y = np.rint(stars["x"]).astype(int), np.rint(stars["y"]).astype(int)
    ny, nx = usable.shape
    inside = (x > BORDER) & (y > BORDER) & (x < nx - 1 - BORDER) & (y < ny - 1 - BORDER)
    stars, x, y = stars[inside], x[inside], y[inside]
    values = np.where(usable[y, x], significance[y, x], np.nan)
    out["star_width"] = half_width(values)
    out["bright_width"] = half_width(values[stars["snr"] > BRIGHT_SNR])
    return out


def filtered_significance(
    diff: np.ndarray, noise: np.ndarray, psf: np.ndarray, blank: np.ndarray, usable: np.ndarray
) -> np.ndarray:
    """Significance of a plain difference image.

    Parameters
    ----------
    diff, noise : (ny, nx) float32, DN
    psf : (n, n) float32
        Of the science image.
    blank, usable : (ny, nx) bool

    Returns
    -------
    (ny, nx) float32
        sum(P D) / sqrt(sum(P^2 V)), scaled to width 1 on blank sky.
    """
    good = usable & np.isfinite(diff) & np.isfinite(noise) & (noise > 0)
    clean = np.where(good, diff, 0.0).astype(np.float32)
    variance = np.where(good, noise, np.median(noise[good])).astype(np.float32) ** 2
    top = signal.fftconvolve(clean, psf[::-1, ::-1], mode="same")
    bottom = signal.fftconvolve(variance, psf[::-1, ::-1] ** 2, mode="same")
    out = (top / np.sqrt(np.maximum(bottom, 1e-6))).astype(np.float32)
    return out / np.float32(half_width(out[blank & good][::3]))


# -- resampling and co-adds --------------------------------------------------------------------------------------------

APERTURE_PX, ANNULUS_PX = 7.0, (12.0, 18.0)
NOISE_FILTER_PX = (1.2, 3.6)
"""Sigmas of the two Gaussians whose difference the noise is measured with: scales that no resampling smooths much."""
BLANK_SIGMA = 0.1
"""Noise of co-adds is measured where the light of sources is less than this, in sigmas of a pixel of one epoch."""
CORE_PX = 3


def aperture_fluxes(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fluxes within 7 px, DN, over the mean of an annulus; NaN where a pixel of the aperture is not known."""
    import sep

    image = np.ascontiguousarray(image, np.float32)
    lost = ~np.isfinite(image)
    filled = np.where(lost, np.float32(0), image)
    flux, _, _ = sep.sum_circle(filled, x, y, APERTURE_PX, subpix=0)
    ring, _, _ = sep.sum_circann(filled, x, y, *ANNULUS_PX, mask=lost, subpix=0)
    holes, _, _ = sep.sum_circle(lost.astype(np.float32), x, y, APERTURE_PX)
    area = np.pi * (ANNULUS_PX[1] ** 2 - ANNULUS_PX[0] ** 2)
    return np.where(holes > 0, np.nan, flux - ring / area * np.pi * APERTURE_PX**2)


def bright_stars(pair: Pair, shape: tuple[int, ...], least_snr: float = 150.0) -> np.ndarray:
    """Bright unsaturated stars of the science image well inside it (truth rows)."""
    rows = pair.truth[(pair.truth["kind"] == "star") & ~pair.truth["near_saturated"] & (pair.truth["snr"] > least_snr)]
    edge = 60
    inside = (rows["x"] > edge) & (rows["y"] > edge) & (rows["x"] < shape[1] - edge) & (rows["y"] < shape[0] - edge)
    return rows[inside]


def resampling_numbers(pair: Pair, made: np.ndarray) -> Result:
    """Flux in resampled stars over that before, and what stars leave in science image minus scaled resampled reference.

    The residual is the norm over 7 x 7 px of what is left after the best scale, over that of the star, in per cent (median): it
    holds the difference of the two PSFs, the same for every tool.
    """
    from ztfds.reference.grid import wcs_of

    ref, science = pair.reference(), pair.science()
    stars = bright_stars(pair, made.shape)
    x, y = (np.asarray(stars[name], float) for name in ("x", "y"))
    old = wcs_of(ref.header).all_world2pix(*pair_sky(pair, x, y), 0)
    ratio = aperture_fluxes(made, x, y) / aperture_fluxes(ref.pixels, *old)
    sky = science.background.level
    left = [_residual(science.pixels - sky, made, round(a), round(b)) for a, b in zip(x, y, strict=True)]
    return {
        "flux_mmag": float(-2500 * np.log10(np.nanmedian(ratio))),
        "flux_scatter_mmag": 1086 * half_width(ratio),
        "star_residual_percent": float(100 * np.nanmedian(left)),
        "n_stars": float(np.isfinite(ratio).sum()),
    }


def pair_sky(pair: Pair, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sky of science pixels by the solution as P5 made it."""
    from ztfds.reference.grid import wcs_of

    ra, dec = wcs_of(pair.right_header()).all_pix2world(x, y, 0)
    return ra, dec


def _residual(new: np.ndarray, ref: np.ndarray, x: int, y: int) -> float:
    box = np.s_[y - CORE_PX : y + CORE_PX + 1, x - CORE_PX : x + CORE_PX + 1]
    a, b = new[box].astype(float), ref[box].astype(float)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    return float(np.linalg.norm(a - b * np.sum(a * b) / np.sum(b * b)) / np.linalg.norm(a))


def coadd_numbers(pair: Pair, pixels: np.ndarray) -> Result:
    """Noise of a co-add on blank sky over that of the ideal weighted mean, and the flux of stars against that in its inputs.

    Parameters
    ----------
    pair : Pair
    pixels : (ny, nx) float32, DN
        At the reference's zero point, on its grid.
    """
    return _coadd_noise(pair, pixels) | _coadd_flux(pair, pixels)


def _coadd_noise(pair: Pair, pixels: np.ndarray) -> Result:
    """Band-passed noise over sqrt(sum k^2 / sum 1/sigma_i^2), sigma_i from the true sky, gain and read noise of each epoch.

    The light of faint sources, known from the simulator, is taken out first: it is no noise.
    """
    from ztfds.reference.grid import coarse_grid, resample_image, wcs_of

    reference = pair.reference()
    shape = (reference.pixels.shape[0], reference.pixels.shape[1])
    grid = coarse_grid(wcs_of(reference.header), wcs_of(pair.right_header()), shape, 32)
    light, scale = resample_image(pair.steady, grid), _scale(pair, pair.right_header())
    known = np.isfinite(pixels) & np.isfinite(light)
    blank = known & (light < BLANK_SIGMA * _sky_sigma(pair)) & (reference.coverage == reference.coverage.max())
    image = np.where(known, pixels - np.float32(scale) * light, 0.0).astype(float)
    passed = ndimage.gaussian_filter(image, NOISE_FILTER_PX[0]) - ndimage.gaussian_filter(image, NOISE_FILTER_PX[1])
    values = passed[::5, ::5][blank[::5, ::5]]
    return {
        "noise_over_ideal": half_width(values) / (_ideal_noise(pair) * _filter_gain()),
        "blank_fraction": float(blank.mean()),
    }


def _ideal_noise(pair: Pair) -> float:
    """Noise of a sky pixel of the ideally weighted mean of the reference's inputs, DN at its zero point."""
    inputs, epochs = pair.inputs(), [pair.plan.exposures[k] for k in pair.facts["chosen"]]
    sigmas = [_scale(pair, inputs[k].header) * _sky_sigma(pair, epoch) for k, epoch in enumerate(epochs)]
    return float(1 / np.sqrt(np.sum(1 / np.square(sigmas))))


def _sky_sigma(pair: Pair, epoch: Any = None) -> float:
    from benchmarks.difference.pairs import sky_sigma

    return sky_sigma(pair, epoch)


def _scale(pair: Pair, header: Any) -> float:
    """Factor from DN of an image to the zero point of references."""
    return float(10 ** (-0.4 * (float(header["MAGZP"]) - pair.config.reference.reference_zeropoint_mag)))


def _filter_gain() -> float:
    """Noise of the band-passed image per unit noise of white pixels."""
    point = np.zeros((81, 81))
    point[40, 40] = 1.0
    kernel = ndimage.gaussian_filter(point, NOISE_FILTER_PX[0]) - ndimage.gaussian_filter(point, NOISE_FILTER_PX[1])
    return float(np.sqrt(np.sum(kernel**2)))


def _coadd_flux(pair: Pair, pixels: np.ndarray) -> Result:
    """Aperture fluxes of stars in the co-add over the mean of those in its inputs, scaled to its zero point, mmag."""
    from ztfds.reference.grid import wcs_of
    from ztfds.survey import bits

    stars = bright_stars(pair, pixels.shape, 300.0)
    stars = stars[:: max(1, len(stars) // 400)]
    ra, dec = pair_sky(pair, np.asarray(stars["x"], float), np.asarray(stars["y"], float))
    inputs, fluxes = pair.inputs(), []
    for k in range(len(inputs)):
        item = inputs[k]
        image = np.where((item.mask & bits.HARD_BAD) != 0, np.nan, item.pixels) * _scale(pair, item.header)
        fluxes.append(aperture_fluxes(image, *wcs_of(item.header).all_world2pix(ra, dec, 0)))
    before = np.where(np.isfinite(fluxes).sum(axis=0) >= 0.7 * len(fluxes), np.nanmean(fluxes, axis=0), np.nan)
    after = aperture_fluxes(pixels, *wcs_of(pair.reference().header).all_world2pix(ra, dec, 0))
    ratio = after / before
    good = np.isfinite(ratio) & (ratio > 0)
    return {
        "flux_mmag": float(-2500 * np.log10(np.median(ratio[good]))),
        "flux_scatter_mmag": 1086 * half_width(ratio[good]),
        "n_stars": float(good.sum()),
    }
