"""PSF and catalogs of a co-add, by the same photometry as a science image's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from ztfds.config.photometry import PhotometryConfig
from ztfds.photometry import apertures, measure
from ztfds.reference.coadd import Coadd
from ztfds.reference.products import Psf
from ztfds.survey import bits


@dataclass(frozen=True)
class Catalogs:
    """PSF and sources of a co-add.

    Attributes
    ----------
    psf : Psf
    psfcat, sexcat : structured arrays
    mask : (ny, nx) uint16
        The co-add's mask with the bits of the sources.
    rms_dn : float
        Median measured noise of an empty pixel, DN.
    """

    psf: Psf
    psfcat: np.ndarray
    sexcat: np.ndarray
    mask: np.ndarray
    rms_dn: float


def measure_coadd(coadd: Coadd, wcs: WCS, saturate: float, config: PhotometryConfig) -> Catalogs:
    """Sky, PSF, PSF photometry and aperture catalog of a co-add.

    Parameters
    ----------
    coadd : Coadd
    wcs : WCS
    saturate : float
        Saturation level of the co-add, DN.
    config : PhotometryConfig

    Returns
    -------
    Catalogs

    Raises
    ------
    PsfFailed
        Too few stars for a PSF.
    """
    pixels = np.nan_to_num(coadd.pixels, nan=0.0)
    scene = measure.prepare(pixels, coadd.mask, coadd.gain, None, saturate, config)
    rms = scene.background.rms_dn
    photometry, psf = measure.fit_scene(scene, measure.model_psf(scene, config), config)
    psfcat = photometry.catalog
    sexcat, footprint = apertures.aperture_catalog(
        scene.data, scene.usable, coadd.mask, photometry.background, coadd.gain, config.apertures, config.fit.edge_px
    )
    if len(psfcat):
        psfcat["ra"], psfcat["dec"] = wcs.all_pix2world(psfcat["xpos"], psfcat["ypos"], 0)
    if len(sexcat):
        ra, dec = wcs.all_pix2world(sexcat["XWIN_IMAGE"], sexcat["YWIN_IMAGE"], 0)
        sexcat["ALPHAWIN_J2000"], sexcat["DELTAWIN_J2000"] = ra, dec
    return Catalogs(psf, psfcat, sexcat, mark_sources(coadd.mask, psfcat, footprint), rms)


def mark_sources(mask: np.ndarray, psfcat: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """A copy of the mask with PSF_SOURCE on the pixel of each PSF source and SEXTRACTED on the aperture footprints."""
    out = mask | np.where(footprint, np.uint16(bits.SEXTRACTED), np.uint16(0))
    y = np.clip(np.rint(psfcat["ypos"]).astype(int), 0, mask.shape[0] - 1)
    x = np.clip(np.rint(psfcat["xpos"]).astype(int), 0, mask.shape[1] - 1)
    out[y, x] |= np.uint16(bits.PSF_SOURCE)
    return out
