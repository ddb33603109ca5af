"""The aperture catalog: isophotal detection, shapes, nested fixed apertures, and their corrections to PSF magnitudes."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import sep
from scipy.spatial import cKDTree

from ztfds.config.photometry import ApertureConfig
from ztfds.kernels import apertures as kernels
from ztfds.kernels.detect import adaptive_moments
from ztfds.photometry.background import Background
from ztfds.photometry.fit import source_flags

log = logging.getLogger(__name__)

MAG_PER_RELATIVE = 2.5 / np.log(10.0)
KERNEL = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)
PIXEL_STACK = 2_000_000
_SCALARS = [
    "X_IMAGE",
    "Y_IMAGE",
    "XWIN_IMAGE",
    "YWIN_IMAGE",
    "ALPHAWIN_J2000",
    "DELTAWIN_J2000",
    "FLUX_AUTO",
    "FLUXERR_AUTO",
    "MAG_AUTO",
    "MAGERR_AUTO",
    "FLUX_ISO",
    "FLUX_MAX",
    "KRON_RADIUS",
    "FLUX_RADIUS",
    "FWHM_IMAGE",
    "A_IMAGE",
    "B_IMAGE",
    "THETA_IMAGE",
    "ELONGATION",
    "ELLIPTICITY",
    "X2_IMAGE",
    "Y2_IMAGE",
    "XY_IMAGE",
    "BACKGROUND",
]
_VECTORS = ("FLUX_APER", "FLUXERR_APER", "MAG_APER", "MAGERR_APER")
SEXCAT_DTYPE = np.dtype(
    [("NUMBER", "i4")]
    + [
        (name, "f8" if name.split("_")[-1] in ("IMAGE", "J2000") and name[0] in "XYD" else "f4")
        for name in _SCALARS[:4]
    ]
    + [(name, "f8") for name in _SCALARS[4:6]]
    + [(name, "f4") for name in _SCALARS[6:]]
    + [(name, "f4", (6,)) for name in _VECTORS]
    + [("ISOAREA_IMAGE", "i4"), ("FLAGS", "i4"), ("IMAFLAGS", "i4")]
)
"""One row of the aperture catalog, names as SExtractor's. Positions: pixels, 0-based; fluxes: DN; magnitudes: instrumental,
NaN for fluxes not above 0; THETA_IMAGE: deg, from x towards y; FLAGS: those of sep; IMAFLAGS: mask bits over 5 x 5 pixels,
-1 near an edge; FLUX_RADIUS holds half of FLUX_AUTO; FWHM_IMAGE is that of the Gaussian of the same second moments."""


@dataclass(frozen=True)
class ApertureCorrections:
    """PSF magnitude minus aperture magnitude of stars.

    Attributes
    ----------
    diameters_px : aperture diameters, pixels
    values, errors : (6,) float64, mag, median and its 1 sigma; NaN where they could not be measured
    n_stars : stars used
    """

    diameters_px: tuple[float, ...]
    values: np.ndarray
    errors: np.ndarray
    n_stars: int


def aperture_catalog(
    data: np.ndarray,
    usable: np.ndarray,
    mask: np.ndarray,
    background: Background,
    gain: float,
    config: ApertureConfig,
    edge_px: int = 3,
) -> tuple[np.ndarray, np.ndarray]:
    """Detect on isophotes and measure shapes and apertures.

    Parameters
    ----------
    data : (ny, nx) float32, DN, sky-subtracted;  usable : (ny, nx) bool;  mask : (ny, nx) uint16
    background : sky of the image, for its noise
    gain : e-/DN

    Returns
    -------
    catalog : structured array of SEXCAT_DTYPE, brightest first
    footprint : (ny, nx) bool, pixels that belong to a detection
    """
    sep.set_extract_pixstack(PIXEL_STACK)
    sigma = background.sigma_dn
    bad = ~usable
    objects, segments = sep.extract(
        data, config.detect_sigma, err=sigma, mask=bad, minarea=config.min_area_px, filter_kernel=KERNEL,
        deblend_nthresh=config.deblend_levels, deblend_cont=config.deblend_contrast, clean=False, segmentation_map=True,
    )  # fmt: skip
    footprint = segments > 0
    del segments
    objects = objects[np.argsort(-objects["flux"], kind="stable")]
    catalog = np.zeros(objects.size, SEXCAT_DTYPE)
    if objects.size:
        _shapes(catalog, objects, background)
        _windowed(catalog, data, usable)
        _auto(catalog, objects, data, usable, sigma, gain, config)
        _fixed(catalog, data, usable, sigma, gain, config)
    catalog["NUMBER"] = np.arange(1, objects.size + 1)
    catalog["IMAFLAGS"] = source_flags(mask, catalog["X_IMAGE"], catalog["Y_IMAGE"], edge_px)
    log.info("%d sources in the aperture catalog", objects.size)
    return catalog, footprint


def _shapes(catalog: np.ndarray, objects: np.ndarray, background: Background) -> None:
    """Columns that come straight from the isophotal moments."""
    a, b = np.maximum(objects["a"], 1e-3), np.maximum(objects["b"], 1e-3)
    columns = {
        "X_IMAGE": objects["x"], "Y_IMAGE": objects["y"], "FLUX_ISO": objects["flux"], "FLUX_MAX": objects["peak"],
        "FWHM_IMAGE": 2.0 * np.sqrt(np.log(2.0) * (a * a + b * b)), "A_IMAGE": a, "B_IMAGE": b,
        "THETA_IMAGE": np.degrees(objects["theta"]), "ELONGATION": a / b, "ELLIPTICITY": 1.0 - b / a,
        "X2_IMAGE": objects["x2"], "Y2_IMAGE": objects["y2"], "XY_IMAGE": objects["xy"],
        "BACKGROUND": background.level_at(objects["x"], objects["y"]), "ISOAREA_IMAGE": objects["npix"],
        "FLAGS": objects["flag"],
    }  # fmt: skip
    for name, values in columns.items():
        catalog[name] = values
    catalog["ALPHAWIN_J2000"] = catalog["DELTAWIN_J2000"] = np.nan


def _windowed(catalog: np.ndarray, data: np.ndarray, usable: np.ndarray) -> None:
    """Positions with a Gaussian window of the source's own width; the barycentre where that does not converge."""
    x, y = catalog["X_IMAGE"].copy(), catalog["Y_IMAGE"].copy()
    flux, xx, yy, xy = (np.empty(x.size) for _ in range(4))
    adaptive_moments(data, usable, x, y, 1.0, flux, xx, yy, xy)
    catalog["XWIN_IMAGE"], catalog["YWIN_IMAGE"] = x, y


def _auto(
    catalog: np.ndarray,
    objects: np.ndarray,
    data: np.ndarray,
    usable: np.ndarray,
    sigma: float,
    gain: float,
    config: ApertureConfig,
) -> None:
    """Kron magnitudes (Kron 1980) and half-light radii."""
    x, y, bad = objects["x"].copy(), objects["y"].copy(), ~usable
    a, b = np.maximum(objects["a"], 0.3), np.maximum(objects["b"], 0.3)
    theta = np.clip(objects["theta"], -np.pi / 2, np.pi / 2)
    kron, _ = sep.kron_radius(data, x, y, a, b, theta, 6.0, mask=bad)
    kron = np.nan_to_num(kron, nan=0.0)
    factor = np.maximum(config.kron_factor * kron, config.min_kron_radius)
    flux, error, flag = sep.sum_ellipse(data, x, y, a, b, theta, factor, err=sigma, gain=gain, mask=bad, subpix=1)
    catalog["KRON_RADIUS"] = kron
    catalog["FLUX_AUTO"], catalog["FLUXERR_AUTO"] = flux, error
    catalog["FLAGS"] |= flag
    catalog["MAG_AUTO"], catalog["MAGERR_AUTO"] = magnitudes(flux, error)
    half = np.empty(objects.size)
    kernels.growth_radii(data, usable, x, y, 6.0 * a, 0.5 * flux, half)
    catalog["FLUX_RADIUS"] = half


def _fixed(
    catalog: np.ndarray, data: np.ndarray, usable: np.ndarray, sigma: float, gain: float, config: ApertureConfig
) -> None:
    """Fixed circular apertures about the windowed position."""
    radii = 0.5 * np.sort(np.array(config.diameters_px))
    flux, error = np.empty((2, len(catalog), radii.size))
    flags = np.empty(len(catalog), np.int64)
    x, y = catalog["XWIN_IMAGE"].copy(), catalog["YWIN_IMAGE"].copy()
    kernels.circular_apertures(data, usable, x, y, radii, sigma, gain, flux, error, flags)
    place = np.searchsorted(radii, 0.5 * np.array(config.diameters_px))
    catalog["FLUX_APER"], catalog["FLUXERR_APER"] = flux[:, place], error[:, place]
    catalog["MAG_APER"], catalog["MAGERR_APER"] = magnitudes(flux[:, place], error[:, place])
    catalog["FLAGS"] |= flags.astype(np.int32)


def magnitudes(flux: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Instrumental magnitudes -2.5 log10(flux / DN) and their errors; NaN for fluxes not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        positive = flux > 0
        mag = np.where(positive, -2.5 * np.log10(np.where(positive, flux, 1.0)), np.nan)
        return mag, np.where(positive, MAG_PER_RELATIVE * error / np.where(positive, flux, 1.0), np.nan)


def aperture_corrections(psfcat: np.ndarray, sexcat: np.ndarray, config: ApertureConfig) -> ApertureCorrections:
    """Median of PSF minus aperture magnitude over bright, clean, isolated stars.

    Parameters
    ----------
    psfcat, sexcat : PSF and aperture catalogs of the same image

    Returns
    -------
    ApertureCorrections, with NaN where fewer than config.min_correction_stars stars were found
    """
    n = len(config.diameters_px)
    nothing = ApertureCorrections(config.diameters_px, np.full(n, np.nan), np.full(n, np.nan), 0)
    if len(psfcat) < 2 or len(sexcat) == 0:
        return nothing
    tree = cKDTree(np.c_[psfcat["xpos"], psfcat["ypos"]])
    to_next = tree.query(np.c_[psfcat["xpos"], psfcat["ypos"]], k=2)[0][:, 1]
    star = (psfcat["snr"] > config.correction_snr) & (psfcat["flags"] == 0) & (to_next > config.correction_isolation_px)
    near, which = cKDTree(np.c_[sexcat["X_IMAGE"], sexcat["Y_IMAGE"]]).query(np.c_[psfcat["xpos"], psfcat["ypos"]])
    star &= near < 1.0
    if star.sum() < config.min_correction_stars:
        return nothing
    difference = psfcat["mag"][star][:, None] - sexcat["MAG_APER"][which[star]]
    middle = np.nanmedian(difference, axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(difference - middle), axis=0)
    count = np.isfinite(difference).sum(axis=0)
    error = 1.2533 * spread / np.sqrt(np.maximum(count, 1))
    return ApertureCorrections(config.diameters_px, middle.astype(float), error.astype(float), int(star.sum()))
