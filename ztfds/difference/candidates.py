"""Candidates of a difference image: detection and everything that is measured on pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ztfds.config.difference import CandidateConfig
from ztfds.difference.subtract import OVERSAMPLING, Tile, TilePsf, which_tile
from ztfds.kernels import candidates as kernels

RAW_CELLS = 10
"""Cells along each axis in which raw events are counted."""

MAG_PER_RELATIVE = 2.5 / np.log(10)
"""Magnitudes per relative flux error."""

NEIGHBOURS = (1, 2, 3)
"""PS1 neighbours that a candidate lists."""

DTYPE = np.dtype(
    [
        ("tblid", "i4"),
        ("isdiffpos", "U1"),
        *[(name, "f8") for name in ("x", "y", "ra", "dec", "flux", "fluxunc")],
        *[(name, "f4") for name in ("diffmaglim", "magpsf", "sigmapsf", "chipsf", "magap", "sigmagap")],
        *[(name, "f4") for name in ("magapbig", "sigmagapbig", "magdiff", "magfromlim", "sky", "mindtoedge")],
        *[(name, "f4") for name in ("fwhm", "classtar", "seeratio", "aimage", "bimage", "aimagerat", "bimagerat")],
        *[("elong", "f4"), ("nneg", "i4"), ("nbad", "i4"), ("sumrat", "f4"), ("scorr", "f8")],
        *[(name, "f4") for name in ("dsnrms", "ssnrms", "dsdiff", "rb", "drb")],
        *[("rbversion", "U16"), ("drbversion", "U16")],
        *[(name, "f4") for name in ("distnr", "magnr", "sigmagnr", "chinr", "sharpnr")],
        *[("ranr", "f8"), ("decnr", "f8")],
        *[(name, "f4") for name in ("neargaia", "maggaia", "neargaiabright", "maggaiabright")],
        *[(f"objectidps{k}", "i8") for k in NEIGHBOURS],
        *[(f"{name}{k}", "f4") for k in NEIGHBOURS for name in ("sgmag", "srmag", "simag", "szmag")],
        *[(f"{name}{k}", "f4") for k in NEIGHBOURS for name in ("sgscore", "distpsnr")],
        ("nmtchps", "i4"),
        *[("ssdistnr", "f4"), ("ssmagnr", "f4"), ("ssnamenr", "U24")],
        *[("jd", "f8"), ("fid", "i4"), ("field", "i4"), ("rcid", "i4"), ("nid", "i4"), ("programid", "i4")],
        *[("programpi", "U32"), ("pid", "i8"), ("rfid", "i8"), ("exptime", "f4")],
        *[("jdstartref", "f8"), ("jdendref", "f8"), ("nframesref", "i4"), ("nmatches", "i4")],
        *[(name, "f4") for name in ("magzpsci", "magzpsciunc", "magzpscirms", "clrcoeff", "clrcounc", "zpclrcov")],
        *[(name, "f4") for name in ("zpmed", "clrmed", "clrrms")],
    ]
)
"""Columns of a candidate table. Names, types, units and meanings are those of the alert packet's `candidate` record, plus
x, y (0-based pixels) and flux, fluxunc (signed DN of the science image: negative for isdiffpos 'f'). NaN means null;
-999 means that there is no such neighbour."""


@dataclass(frozen=True)
class MeasuredImages:
    """What candidates are measured on.

    Attributes
    ----------
    diff : (ny, nx) float32, DN
        NaN without data.
    variance : (ny, nx) float32, DN^2
        Variance of a pixel of diff, without the light of what is new in it.
    score : (ny, nx) float32, DN
        Matched-filtered difference.
    scorr : (ny, nx) float32
    bad : (ny, nx) bool
        Pixels that are no measurement in either image, counted in nbad.
    blocked : (ny, nx) bool
        Pixels on which no candidate may peak.
    tiles : list of Tile
    psfs : list of TilePsf
    sigma_diff, sigma_score : float, DN
        Robust noise of diff and score on blank sky.
    magzp : float, mag
    gain : float, electrons per DN of the science image
    """

    diff: np.ndarray
    variance: np.ndarray
    score: np.ndarray
    scorr: np.ndarray
    bad: np.ndarray
    blocked: np.ndarray
    tiles: list[Tile]
    psfs: list[TilePsf]
    sigma_diff: float
    sigma_score: float
    magzp: float
    gain: float


@dataclass(frozen=True)
class Peaks:
    """Extrema of the score.

    Attributes
    ----------
    y, x : (n,) int64
    scorr : (n,) float64, signed
    overflow : bool
        Whether there were more than the limit.
    n_raw : (RAW_CELLS, RAW_CELLS, 2) int64
        Raw events above the low threshold, positive and negative, by cell of the image.
    """

    y: np.ndarray
    x: np.ndarray
    scorr: np.ndarray
    overflow: bool
    n_raw: np.ndarray


def detect(scorr: np.ndarray, blocked: np.ndarray, config: CandidateConfig) -> Peaks:
    """Local extrema of |Scorr| of both signs, strongest first, without the weaker of close pairs of one sign."""
    table, counts = np.empty((config.max_candidates, 3)), np.empty((RAW_CELLS, RAW_CELLS, 2), np.int64)
    threshold, low = config.threshold, min(config.raw_threshold, config.threshold)
    border = max(config.border_px, 1)
    found = kernels.find_peaks(scorr, blocked, threshold, low, border, table, counts)
    table = table[: min(found, config.max_candidates)]
    table = table[np.argsort(-np.abs(table[:, 2]), kind="stable")]
    table = table[_strongest(table, config.merge_px)]
    y, x = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    return Peaks(y, x, table[:, 2], found > config.max_candidates, counts)


def _strongest(table: np.ndarray, radius: float) -> np.ndarray:
    """Whether a peak has no stronger one of its sign within `radius` (rows come strongest first)."""
    keep = np.ones(len(table), bool)
    for k in range(1, len(table)):
        before = table[:k][keep[:k]]
        near = np.hypot(before[:, 0] - table[k, 0], before[:, 1] - table[k, 1]) <= radius
        keep[k] = not (near & (before[:, 2] * table[k, 2] > 0)).any()
    return keep


@dataclass(frozen=True)
class Dropped:
    """How many peaks are no candidates, and why.

    Attributes
    ----------
    sign : int
        The fitted flux has the other sign than the peak, or none.
    scatter : int
        The pixels scatter about the fitted PSF by more than their noise, so that the peak is not significant.
    spikes : int
        The light is in a single pixel of the science image: a radiation hit that the mask does not have.
    """

    sign: int = 0
    scatter: int = 0
    spikes: int = 0


def measure(images: MeasuredImages, peaks: Peaks, config: CandidateConfig) -> tuple[np.ndarray, Dropped]:
    """Measure every peak on the images, and drop those that are no point sources of the noise's own making.

    A peak stays if its fitted flux has its sign, if |Scorr| or the fit's S/N over the scatter of the pixels about the fit (square
    root of the reduced chi-square, at least 1) is at least `min_local_snr`, and if light in a single pixel of the science image does not
    explain it better, by `spike_chi` in chi-square, than a point source does.

    Returns
    -------
    structured array (`DTYPE`)
        Pixel measurements filled in, the rest null.
    Dropped
    """
    table = blank_table(peaks.y.size)
    if not table.size:
        return table, Dropped()
    sign = np.sign(peaks.scorr)
    y, x = peaks.y.astype(float), peaks.x.astype(float)
    sky = np.empty((y.size, 2))
    kernels.local_sky(images.diff, y, x, config.sky_inner_px, config.sky_outer_px, sky)
    level = np.ascontiguousarray(sky[:, 0])
    fits = fit_psf(images, y, x, level, config)
    fy, fx = np.ascontiguousarray(fits[:, 2]), np.ascontiguousarray(fits[:, 3])
    table["isdiffpos"] = np.where(sign > 0, "t", "f")
    table["x"], table["y"], table["flux"], table["fluxunc"] = fx, fy, fits[:, 0], fits[:, 1]
    table["scorr"], table["chipsf"], table["sky"] = np.abs(peaks.scorr), fits[:, 4], sign * level
    table["magpsf"], table["sigmapsf"] = _magnitude(sign * fits[:, 0], fits[:, 1], images.magzp)
    _measure_apertures(table, images, level, sky[:, 1], sign, config)
    _measure_shapes(table, images, level, sign)
    _measure_noise(table, images, peaks, sign)
    right = np.isfinite(table["flux"]) & (sign * table["flux"] > 0)
    snr = np.maximum(table["scorr"], np.abs(table["flux"]) / table["fluxunc"])
    calm = snr >= config.min_local_snr * np.sqrt(np.maximum(table["chipsf"], 1))
    spike = (sign > 0) & _spikes(images, peaks, fits, level, config)
    dropped = Dropped(*(int(np.count_nonzero(v)) for v in (~right, right & ~calm, right & calm & spike)))
    table = table[right & calm & ~spike]
    table["tblid"] = np.arange(table.size)
    return table, dropped


def _spikes(
    images: MeasuredImages, peaks: Peaks, fits: np.ndarray, level: np.ndarray, config: CandidateConfig
) -> np.ndarray:
    """Whether light in a single pixel of the science image explains each peak better than a point source; (n,) bool."""
    used, which = np.unique(which_tile(images.tiles, fits[:, 2], fits[:, 3]), return_inverse=True)
    fine = np.ascontiguousarray([images.psfs[k].fine for k in used], np.float32)
    spikes = np.ascontiguousarray([images.psfs[k].spike for k in used], np.float32)
    centres, chi = np.ascontiguousarray(fits[:, 2:4]), np.empty((peaks.y.size, 2))
    kernels.compare_with_spike(
        images.diff, images.variance, peaks.y, peaks.x, centres, level, fine, spikes, which, OVERSAMPLING,
        config.fit_half_px, chi,
    )  # fmt: skip
    return np.asarray(chi[:, 1] < chi[:, 0] - config.spike_chi)


def blank_table(n: int) -> np.ndarray:
    """Table of n rows with null values."""
    table = np.zeros(n, DTYPE)
    for name in DTYPE.names or ():
        if DTYPE[name].kind == "f":
            table[name] = np.nan
    table["rbversion"] = table["drbversion"] = "none"
    table["ssnamenr"] = "null"
    return table


def fit_psf(
    images: MeasuredImages, y: np.ndarray, x: np.ndarray, sky: np.ndarray, config: CandidateConfig, forced: bool = False
) -> np.ndarray:
    """Fit the local PSF of the difference.

    Parameters
    ----------
    images : MeasuredImages
    y, x : (n,) float64
        Positions, 0-based pixels.
    sky : (n,) float64, DN
    config : CandidateConfig
    forced : bool
        Keep the positions (forced photometry) instead of fitting them.

    Returns
    -------
    (n, 6) float64
        Flux DN, 1-sigma DN, y, x, reduced chi-square, pixels used.
    """
    out = np.empty((y.size, 6))
    steps = 0 if forced else config.fit_iterations
    used, which = np.unique(which_tile(images.tiles, y, x), return_inverse=True)
    fine = np.ascontiguousarray([images.psfs[k].fine for k in used], np.float32)
    kernels.fit_psf(
        images.diff, images.variance, y, x, sky, fine, which, OVERSAMPLING, config.fit_half_px, steps,
        config.fit_reach_px, 1 / images.gain, out,
    )  # fmt: skip
    return out


def psf_width(psf: TilePsf) -> float:
    """FWHM of a difference PSF, px: diameter of the circle with the area above half of its peak."""
    return float(2.0 * np.sqrt(np.count_nonzero(psf.fine > 0.5 * psf.fine.max()) / np.pi) / OVERSAMPLING)


def _magnitude(flux: np.ndarray, error: np.ndarray, magzp: float) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and error of a flux; NaN where it is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = magzp - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))
        return mag, MAG_PER_RELATIVE * error / np.where(flux > 0, flux, np.nan)


def _measure_apertures(
    table: np.ndarray,
    images: MeasuredImages,
    level: np.ndarray,
    level_error: np.ndarray,
    sign: np.ndarray,
    config: CandidateConfig,
) -> None:
    """magap, magapbig, their errors (noise of pixels, source and sky level), magdiff, diffmaglim, magfromlim."""
    y, x = np.ascontiguousarray(table["y"]), np.ascontiguousarray(table["x"])
    for suffix, diameter in (("", config.aperture_diameter_px), ("big", config.aperture_big_diameter_px)):
        sums = np.empty((y.size, 3))
        kernels.aperture_sums(images.diff, images.variance, y, x, level, diameter / 2, sums)
        own = np.maximum(sums[:, 0] / images.gain, -0.8 * sums[:, 1])
        error = np.sqrt(sums[:, 1] + own + (np.nan_to_num(level_error) * sums[:, 2]) ** 2)
        table[f"magap{suffix}"], table[f"sigmagap{suffix}"] = _magnitude(sign * sums[:, 0], error, images.magzp)
    limits = np.array([images.magzp - 2.5 * np.log10(5 * psf.limit) for psf in images.psfs])
    table["diffmaglim"] = limits[which_tile(images.tiles, y, x)]
    table["magdiff"] = table["magap"] - table["magpsf"]
    table["magfromlim"] = table["diffmaglim"] - table["magap"]


def edge_distance(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Distance to the nearest image edge, px: min(x, y, nx + 1/2 - x, ny + 1/2 - y) with 1-based x, y.

    Parameters
    ----------
    y, x : 0-based pixels
    shape : (ny, nx)
    """
    return np.minimum.reduce([x + 1, y + 1, shape[1] - 0.5 - x, shape[0] - 0.5 - y])


def _measure_shapes(table: np.ndarray, images: MeasuredImages, level: np.ndarray, sign: np.ndarray) -> None:
    """Axes, FWHM and what follows from them, and the 5 x 5 stamp metrics."""
    y, x = np.ascontiguousarray(table["y"]), np.ascontiguousarray(table["x"])
    used, which = np.unique(which_tile(images.tiles, y, x), return_inverse=True)
    widths = np.array([psf_width(images.psfs[k]) for k in used])
    out = np.empty((y.size, 3))
    kernels.shapes(images.diff, y, x, level, sign, psf_width(images.psfs[len(images.psfs) // 2]), out)
    width = widths[which]
    fwhm = out[:, 2]
    table["aimage"], table["bimage"], table["fwhm"] = out[:, 0], out[:, 1], fwhm
    with np.errstate(invalid="ignore", divide="ignore"):
        table["elong"] = out[:, 0] / out[:, 1]
        table["aimagerat"], table["bimagerat"] = out[:, 0] / fwhm, out[:, 1] / fwhm
        table["seeratio"] = width / fwhm
        table["classtar"] = 1 / (1 + np.exp(4 * (np.log(fwhm / width) - 0.7)))
    stamps = np.empty((y.size, 3))
    rows, columns = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    kernels.stamp_counts(images.diff, images.bad, rows, columns, sign, stamps)
    table["nneg"], table["nbad"], table["sumrat"] = stamps[:, 0], stamps[:, 1], stamps[:, 2]
    table["mindtoedge"] = edge_distance(y, x, (images.diff.shape[0], images.diff.shape[1]))


def _measure_noise(table: np.ndarray, images: MeasuredImages, peaks: Peaks, sign: np.ndarray) -> None:
    """D and S at the peak over their robust noise."""
    at = (peaks.y, peaks.x)
    table["dsnrms"] = sign * images.diff[at] / images.sigma_diff
    table["ssnrms"] = sign * images.score[at] / images.sigma_score
    table["dsdiff"] = table["dsnrms"] - table["ssnrms"]


def passes_trigger(row: np.void, config: CandidateConfig) -> bool:
    """Whether a candidate becomes an alert: all of the published criteria hold (a null value fails, but for a null rb with
    thres_rb 0: the score is attached, not applied).

    Parameters
    ----------
    row : one row of a candidate table
    config : CandidateConfig
        Thresholds `thres_*`.
    """
    return bool(
        abs(row["flux"]) >= config.thres_snr * row["fluxunc"]
        and row["magpsf"] <= config.thres_magpsf
        and row["nbad"] <= config.thres_nbad
        and row["fwhm"] <= config.thres_fwhm
        and row["elong"] <= config.thres_elong
        and config.thres_magdiff_min <= row["magdiff"] <= config.thres_magdiff_max
        and (config.thres_rb <= 0 or row["rb"] >= config.thres_rb)
    )


def cutout(image: np.ndarray, y: float, x: float, size: int) -> np.ndarray:
    """Square stamp centred on the pixel nearest to (y, x); NaN off the image.

    Parameters
    ----------
    image : (ny, nx) float32 or bool
    y, x : 0-based pixels
    size : odd side, pixels

    Returns
    -------
    (size, size) float32
    """
    out = np.full((size, size), np.nan, np.float32)
    half = size // 2
    j, i = round(float(y)) - half, round(float(x)) - half
    y0, y1 = max(j, 0), min(j + size, image.shape[0])
    x0, x1 = max(i, 0), min(i + size, image.shape[1])
    if y0 < y1 and x0 < x1:
        out[y0 - j : y1 - j, x0 - i : x1 - i] = image[y0:y1, x0:x1]
    return out
