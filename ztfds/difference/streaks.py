"""Streaks of fast movers on a difference image: found, fitted, judged, and written as the survey's streak table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.config.streaks import StreakConfig
from ztfds.difference.candidates import MAG_PER_RELATIVE, MeasuredImages, psf_width
from ztfds.difference.streakfit import ends, features, fit_lines, least_snr, score
from ztfds.difference.streaksearch import find_lines
from ztfds.survey import ids

log = logging.getLogger(__name__)

FWHM_PER_SIGMA = 2.3548
FLAG_EDGE, FLAG_STAR, FLAG_BAD = 1, 2, 4
"""Bits of `flags`: an end is cut by the image's edge or by missing data; a bright star near; bad pixels on it."""
MJD_ZERO = 2400000.5
MAX_STREAKS_PER_IMAGE = 10_000

DTYPE = np.dtype(
    [
        ("strid", "i4"), ("streakid", "i8"), ("pid", "i8"), ("nid", "i4"), ("fid", "i4"), ("field", "i4"), ("rcid", "i4"),
        ("programid", "i4"), ("programpi", "U32"), ("jd", "f8"), ("exptime", "f4"), ("startmjd", "f8"), ("endmjd", "f8"),
        *[(name, "f8") for name in ("x", "y", "x1", "y1", "x2", "y2")],
        *[(name, "f8") for name in ("ra", "dec", "ra1", "dec1", "ra2", "dec2")],
        *[(name, "f4") for name in ("raerr", "decerr", "corr", "ra1err", "dec1err", "corr1", "ra2err", "dec2err", "corr2")],
        *[(name, "f4") for name in ("flux", "fluxerr", "bg", "bgerr", "length", "lengtherr", "sigma", "sigmaerr")],
        *[(name, "f4") for name in ("pa", "paerr", "rate", "snr", "fitmag", "fitmagerr", "apsnr", "apmag", "apmagerr")],
        *[(name, "f4") for name in ("dmag", "dmagerr", "chi2")], ("numfit", "i4"), ("prob", "f4"),
        ("diffmaglim", "f4"), ("flags", "i4"),
        *[(name, "f4") for name in ("pointdrop", "evenness", "blocked", "beyond", "sides")],
    ]
)  # fmt: skip
"""Columns of a streak table; names, where they agree, are those of the survey's depot table. strid: number on the image;
streakid = 10000 pid + strid. startmjd, endmjd: the exposure. x, y: middle, x1 .. y2: ends, 0-based pixels; ra .. dec2: the same,
deg (which end came first, one exposure cannot tell). ra1err ..: 1-sigma errors on the sky, arcsec (of right ascension times cos
dec), with their correlation. flux, fluxerr: DN; bg, bgerr: local sky, DN per pixel. length: pixels; sigma: Gaussian width
across, pixels. pa: position angle of the line north through east, 0 to 180 deg; rate: deg per day. snr: of the fit. fitmag: of
the flux; apsnr, apmag: in the aperture about the line; dmag = apmag - fitmag. chi2: reduced. numfit: pixels. prob: score, 0 to 1.
flags: `FLAG_EDGE` and others. pointdrop ..: features of the score (`streakfit.features`)."""

Triplet = tuple[np.ndarray, np.ndarray, np.ndarray]
Stamps = Callable[[float, float, int], Triplet]


def blank_table() -> np.ndarray:
    """A table without streaks."""
    return np.zeros(0, DTYPE)


@dataclass(frozen=True)
class StreakProducts:
    """What the search for streaks makes of one image.

    Attributes
    ----------
    table : structured array (DTYPE)
        The most significant first.
    cutouts : dict
        strid -> (science, template, difference), each (n, n) float32, DN, NaN off the image; n odd.
    tried : int
        Lines that were fitted.
    note : str
        Why there was no search; empty where there was.
    """

    table: np.ndarray = field(default_factory=blank_table)
    cutouts: dict[int, Triplet] = field(default_factory=dict)
    tried: int = 0
    note: str = ""


def find_streaks(
    images: MeasuredImages, mask: np.ndarray, header: fits.Header, wcs: WCS, gaia: np.ndarray, config: StreakConfig
) -> tuple[np.ndarray, int]:
    """Find trailed sources of either orientation, positive in science minus reference.

    Parameters
    ----------
    images : MeasuredImages
    mask : (ny, nx) uint16
        Mask of the difference.
    header : fits.Header
        Of the science image: what the table says about exposure and program.
    wcs : WCS
        Of the science image.
    gaia : structured array
        ra, dec (deg), gmag: bright stars have spikes.
    config : StreakConfig

    Returns
    -------
    table : structured array (DTYPE)
        The most significant first.
    tried : int
        Lines that were fitted.
    """
    lines, noise = find_lines(images, config)
    found = fit_lines(images, lines, noise, config)
    stars = bright_stars(gaia, wcs, config.star_mag)
    kept = []
    for fit in found:
        if np.sqrt(fit["gain"]) < least_snr(float(fit["length"]), config):
            continue
        values = features(images, mask, stars, fit, config)
        values["prob"] = score(values, float(fit["length"]), config)
        if values["prob"] >= config.min_score and _ends_cut(images, fit) < 2:  # else a trail across a corner
            kept.append((fit, values))
    table = np.zeros(min(len(kept), config.max_streaks), DTYPE)
    for k, (row, (fit, values)) in enumerate(zip(table, kept, strict=False)):
        row["strid"] = k
        _measure(row, images, fit, values, config)
        _locate(row, wcs, fit)
    _add_facts(table, header)
    log.info("streaks: %d of %d lines", len(table), len(lines))
    return table, len(lines)


def bright_stars(gaia: np.ndarray, wcs: WCS, faintest: float) -> np.ndarray:
    """Bright stars in pixels: x, y (0-based), mag."""
    bright = gaia[gaia["gmag"] < faintest]
    stars = np.zeros(len(bright), [("x", "f8"), ("y", "f8"), ("mag", "f8")])
    if len(bright):
        stars["x"], stars["y"] = wcs.all_world2pix(bright["ra"], bright["dec"], 0, quiet=True)
        stars["mag"] = bright["gmag"]
    return stars[np.isfinite(stars["x"]) & np.isfinite(stars["y"])]


def _measure(
    row: np.void, images: MeasuredImages, fit: np.void, values: dict[str, float], config: StreakConfig
) -> None:
    """Pixel quantities of one streak."""
    (row["x1"], row["y1"]), (row["x2"], row["y2"]) = ends(fit)
    for name in ("x", "y", "flux", "length", "bg", "bgerr"):
        row[name] = fit[name]
    row["fluxerr"], row["lengtherr"] = np.sqrt(fit["cov"][4, 4]), np.sqrt(fit["cov"][3, 3])
    row["snr"], row["chi2"], row["numfit"], row["prob"] = values["snr"], values["chi2"], fit["pixels"], values["prob"]
    width2 = (psf_width(images.psfs[int(fit["tile"])]) / FWHM_PER_SIGMA) ** 2
    row["sigma"] = np.sqrt(max(width2 + values["width_px2"], 0.01))
    row["sigmaerr"] = values["width_error"] / (2.0 * row["sigma"])
    row["fitmag"], row["fitmagerr"] = _magnitude(float(fit["flux"]), float(row["fluxerr"]), images.magzp)
    flux, error = aperture(images, fit, config.aperture_half_px)
    row["apsnr"] = flux / error if error > 0 else np.nan
    row["apmag"], row["apmagerr"] = _magnitude(flux, error, images.magzp)
    row["dmag"] = row["apmag"] - row["fitmag"]
    row["dmagerr"] = np.hypot(row["apmagerr"], row["fitmagerr"])
    row["diffmaglim"] = images.magzp - 2.5 * np.log10(5 * images.psfs[int(fit["tile"])].limit)
    row["flags"] = (
        FLAG_EDGE * (_ends_cut(images, fit) > 0)
        | FLAG_STAR * (values["spike"] > 0)
        | FLAG_BAD * (values["blocked"] > 0.05)
    )
    row["pointdrop"], row["evenness"], row["blocked"] = values["drop"], values["evenness"], values["blocked"]
    row["beyond"], row["sides"] = values["beyond"], values["sides"]


def _magnitude(flux: float, error: float, magzp: float) -> tuple[float, float]:
    """Magnitude and error; NaN where the flux is not positive."""
    if not flux > 0:
        return float("nan"), float("nan")
    return float(magzp - 2.5 * np.log10(flux)), float(MAG_PER_RELATIVE * error / flux)


def aperture(images: MeasuredImages, fit: np.void, half: float) -> tuple[float, float]:
    """Sum, DN, and its error within `half` pixels of the line of a streak; pixels without data count as sky."""
    reach = 0.5 * float(fit["length"]) + half + 1.0
    c, s = float(np.cos(fit["angle"])), float(np.sin(fit["angle"]))
    y0, y1 = max(0, int(fit["y"] - reach)), min(images.diff.shape[0], int(fit["y"] + reach) + 2)
    x0, x1 = max(0, int(fit["x"] - reach)), min(images.diff.shape[1], int(fit["x"] + reach) + 2)
    dx, dy = np.arange(x0, x1) - float(fit["x"]), np.arange(y0, y1)[:, None] - float(fit["y"])
    past = np.maximum(np.abs(dx * c + dy * s) - 0.5 * float(fit["length"]), 0.0)
    near = np.hypot(past, dy * c - dx * s) <= half
    box = np.s_[y0:y1, x0:x1]
    near &= np.isfinite(images.diff[box]) & ~images.blocked[box]
    noise = float(np.sum(images.variance[box][near])) + (float(fit["bgerr"]) * np.count_nonzero(near)) ** 2
    return float(np.sum(images.diff[box][near] - float(fit["bg"]))), float(np.sqrt(noise))


def _ends_cut(images: MeasuredImages, fit: np.void) -> int:
    """How many of the two ends lie within 3 px of the image's edge or of missing data."""
    ny, nx = images.diff.shape
    cut = 0
    for x, y in ends(fit):
        i, j = round(float(x)), round(float(y))
        inside = 3 <= i < nx - 3 and 3 <= j < ny - 3
        cut += not inside or not bool(np.isfinite(images.diff[j - 3 : j + 4, i - 3 : i + 4]).all())
    return cut


def _locate(row: np.void, wcs: WCS, fit: np.void) -> None:
    """Positions on the sky with their errors, position angle, rate (before division by the exposure time: deg)."""
    x = np.array([row["x"], row["x1"], row["x2"]], float)
    y = np.array([row["y"], row["y1"], row["y2"]], float)
    ra, dec = wcs.all_pix2world(x, y, 0)
    for k, end in enumerate(("", "1", "2")):
        row[f"ra{end}"], row[f"dec{end}"] = ra[k] % 360.0, dec[k]
    matrix = _sky_matrix(wcs, float(row["x"]), float(row["y"]))
    for end, side in (("", 0.0), ("1", -0.5), ("2", 0.5)):
        cov = matrix @ end_covariance(fit, side) @ matrix.T
        row[f"ra{end}err"], row[f"dec{end}err"] = np.sqrt(cov[0, 0]), np.sqrt(cov[1, 1])
        row[f"corr{end}"] = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])
    east, north = matrix @ np.array([np.cos(fit["angle"]), np.sin(fit["angle"])])
    row["pa"] = np.degrees(np.arctan2(east, north)) % 180.0
    row["paerr"] = np.degrees(np.sqrt(fit["cov"][2, 2]))
    row["rate"] = np.hypot(east, north) * float(fit["length"]) / 3600.0


def _sky_matrix(wcs: WCS, x: float, y: float) -> np.ndarray:
    """(2, 2): arcsec to the east and to the north per pixel in x and y, about a position."""
    px, py = np.array([x - 1, x + 1, x, x]), np.array([y, y, y - 1, y + 1])
    ra, dec = wcs.all_pix2world(px, py, 0)
    east = ((ra[1::2] - ra[::2] + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec.mean()))
    return 3600.0 * 0.5 * np.array([east, dec[1::2] - dec[::2]])


def end_covariance(fit: np.void, side: float) -> np.ndarray:
    """Covariance (2, 2), px^2, of x and y of a point of a fitted line: side -1/2 first end, 0 middle, 1/2 second end."""
    c, s, length = np.cos(fit["angle"]), np.sin(fit["angle"]), float(fit["length"])
    jacobian = np.zeros((2, 5))
    jacobian[0, 0] = jacobian[1, 1] = 1.0
    jacobian[:, 2] = -side * length * s, side * length * c
    jacobian[:, 3] = side * c, side * s
    return np.asarray(jacobian @ fit["cov"] @ jacobian.T)


def _add_facts(table: np.ndarray, header: fits.Header) -> None:
    """What the header knows of exposure and program; numbers of the streaks."""
    if not table.size:
        return
    facts = {"fid": "FILTERID", "field": "FIELDID", "rcid": "RCID", "programid": "PROGRMID", "programpi": "PROGRMPI"}
    for name, keyword in facts.items():
        if header.get(keyword) is not None:
            table[name] = header[keyword]
    jd, exptime = float(header.get("OBSJD", np.nan)), float(header.get("EXPTIME", np.nan))
    table["jd"], table["exptime"] = jd, exptime
    table["startmjd"], table["endmjd"] = jd - MJD_ZERO, jd - MJD_ZERO + exptime / 86400.0
    table["rate"] = table["rate"] / (exptime / 86400.0)
    if np.isfinite(jd):
        table["nid"], table["pid"] = ids.nid(jd), ids.pid(jd, int(table["rcid"][0]))
        table["streakid"] = table["pid"] * MAX_STREAKS_PER_IMAGE + table["strid"]


def search_image(
    images: MeasuredImages,
    mask: np.ndarray,
    header: fits.Header,
    wcs: WCS,
    gaia: np.ndarray,
    stamps: Stamps,
    config: StreakConfig,
) -> StreakProducts:
    """`find_streaks` with cutouts; whatever goes wrong is a note and costs the streaks, never the difference.

    Parameters
    ----------
    stamps : callable
        (y, x, side) -> stamps of science image, template and difference.
    images, mask, header, wcs, gaia, config
        See `find_streaks`.
    """
    if not config.enabled:
        return StreakProducts()
    try:
        table, tried = find_streaks(images, mask, header, wcs, gaia, config)
        cutouts = {int(row["strid"]): stamps(float(row["y"]), float(row["x"]), _side(row, config)) for row in table}
    except Exception as error:  # a search that breaks off must not cost the exposure its alerts
        log.exception("the search for streaks broke off")
        return StreakProducts(note=f"no search for streaks: {type(error).__name__}: {error}"[:200])
    return StreakProducts(table, cutouts, tried)


def _side(row: np.void, config: StreakConfig) -> int:
    """Side of a streak's cutouts, odd, pixels: the streak and 20 pixels around it."""
    return max(config.cutout_px, 2 * int(0.5 * float(row["length"]) + 20.0) + 1)
