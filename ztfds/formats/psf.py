"""The PSF product: spline coefficients in a FITS cube with the recipe to evaluate them, an error map, and a PSFEx table."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from astropy.io import fits

from ztfds.formats.atomic import Written
from ztfds.formats.images import bare, read_image
from ztfds.formats.raw import write_hdus
from ztfds.survey.errors import UnreadableFile

RECIPE = (
    "Fraction of a star's flux in the pixel whose centre is (dx, dy) pixels from",
    "the star at 0-based image position (x, y):",
    "P = sum_k phi_k sum_ji C[k,j,i] B(PSFSAMP*dx+PSFCEN-i) B(PSFSAMP*dy+PSFCEN-j)",
    "C[k,j,i]: this cube (k the last FITS axis), i along x, j along y, 0-based",
    "phi = 1, u, v, u*u, u*v, v*v (as many as there are planes) with",
    "u = (x-(PSFNX-1)/2)/(PSFNX/2), v = (y-(PSFNY-1)/2)/(PSFNY/2)",
    "B: cubic B-spline, B(t) = 2/3-t*t+|t|^3/2 for |t|<1, (2-|t|)^3/6 for |t|<2",
    "Valid for |dx|, |dy| <= PSFRAD+0.5; the sum over a stamp of 2*PSFRAD+1 pixels",
    "is 1. Integration over the pixel is part of P. Beyond the stamp a star has",
    "WINGAMP*(r/(PSFRAD+0.5))^-WINGSLOP of that flux in a pixel at r pixels.",
)
_SCALARS = (
    ("PSFFWHM", "[pix] FWHM at image centre, pixel-integrated"),
    ("PSFERR", "relative error of the model in a pixel"),
    ("PSFFERR", "relative error of the normalisation"),
    ("PSFNSTAR", "stars that made the PSF"),
    ("PSFCHI", "median sqrt of reduced chi square of these"),
)
_WINGS = (
    ("WINGAMP", 0.0, "wings beyond the stamp: see the recipe"),
    ("WINGSLOP", 5.0, "their slope"),
)
"""Cards of the wings, with what holds for products that were written without them."""


ERROR_EXTNAME = "PSF_ERROR"
PSFEX_EXTNAME = "PSF_DATA"
_PSFEX_ORDER = (0, 1, 3, 2, 4, 5)  # PSFEx counts 1, u, u^2, v, u v, v^2


class PsfArrays(Protocol):
    """What can be written: anything that gives its arrays (`ztfds.photometry.psf.PsfModel` does)."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """coefficients (terms, n, n) float32; shape (2,) int, (ny, nx); scalars (5,) float64 as in the header cards; wings (2,)
        float64, their amplitude and slope.

        error_map (25, 25) float32, 1 sigma at the image centre; samples (terms, 51, 51) float32, the planes every half pixel.
        """


def write_psf(path: Path | str, model: PsfArrays, header: fits.Header | None = None) -> Written:
    """Write the PSF of an image (``sciimgdao.psf``: a FITS file whatever its name says).

    The primary HDU holds the spline coefficients and the recipe; extension PSF_ERROR the 1 sigma error of the stamp at the
    image centre; extension PSF_DATA the same PSF as a table that readers of PSFEx files understand.

    Parameters
    ----------
    path : Path or str
    model : the PSF
    header : fits.Header, optional
        Cards to keep.
    """
    arrays = model.to_arrays()
    cards = bare(header)
    n = arrays["coefficients"].shape[-1]
    cards["PSFSAMP"] = (2, "nodes per pixel")
    cards["PSFCEN"] = (n // 2 - 1, "node of the star, 0-based")
    cards["PSFRAD"] = (12, "[pix] half side of a stamp")
    cards["PSFNX"], cards["PSFNY"] = int(arrays["shape"][1]), int(arrays["shape"][0])
    for (key, comment), value in zip(_SCALARS, arrays["scalars"], strict=True):
        cards[key] = (float(value) if np.isfinite(value) else -999.0, comment)
    for (key, _, comment), value in zip(_WINGS, arrays["wings"], strict=True):
        cards[key] = (float(value), comment)
    for line in RECIPE:
        cards["COMMENT"] = line
    hdus = [fits.PrimaryHDU(np.ascontiguousarray(arrays["coefficients"], np.float32), cards)]
    hdus.append(fits.ImageHDU(arrays["error_map"], name=ERROR_EXTNAME))
    hdus.append(_psfex(arrays))
    return write_hdus(path, fits.HDUList(hdus))


def _psfex(arrays: dict[str, np.ndarray]) -> fits.BinTableHDU:
    """The PSF in the layout of PSFEx (Bertin 2011): planes every half pixel, polynomial of the 1-based pixel position."""
    samples = arrays["samples"]
    ny, nx = (int(value) for value in arrays["shape"])
    order = [k for k in _PSFEX_ORDER if k < len(samples)]
    # PSFEx's planes hold the light of a sample of PSF_SAMP x PSF_SAMP pixels
    planes = np.ascontiguousarray(samples[order]) * np.float32(0.25)
    column = fits.Column("PSF_MASK", f"{planes.size}E", dim=str(planes.shape[::-1]), array=planes[None])
    hdu = fits.BinTableHDU.from_columns([column], name=PSFEX_EXTNAME)
    fwhm, _, _, stars, chi = (float(value) for value in arrays["scalars"])
    cards = {
        "LOADED": int(stars), "ACCEPTED": int(stars), "CHI2": chi**2 if np.isfinite(chi) else 0.0, "POLNAXIS": 2,
        "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": 0.5 * (nx - 1) + 1.0, "POLSCAL1": 0.5 * nx,
        "POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": 0.5 * (ny - 1) + 1.0, "POLSCAL2": 0.5 * ny,
        "POLNGRP": 1, "POLDEG1": {1: 0, 3: 1, 6: 2}[len(planes)], "PSF_FWHM": fwhm, "PSF_SAMP": 0.5, "PSFNAXIS": 3,
        "PSFAXIS1": planes.shape[2], "PSFAXIS2": planes.shape[1], "PSFAXIS3": planes.shape[0],
    }  # fmt: skip
    hdu.header.update(cards)
    return hdu


def read_psf(path: Path | str) -> dict[str, np.ndarray]:
    """Read a PSF product as arrays for `ztfds.photometry.psf.PsfModel.from_arrays`.

    Raises
    ------
    UnreadableFile
        Not a PSF product.
    """
    pixels, header = read_image(path)
    try:
        shape = np.array([header["PSFNY"], header["PSFNX"]], np.int64)
        scalars = np.array([header[key] for key, _ in _SCALARS], np.float64)
    except KeyError as error:
        raise UnreadableFile(f"{Path(path).name} is no PSF product: {error}") from error
    scalars[scalars == -999.0] = np.nan
    error_map, _ = read_image(path, ERROR_EXTNAME)
    return {
        "coefficients": np.ascontiguousarray(pixels, np.float32),
        "shape": shape,
        "scalars": scalars,
        "wings": np.array([float(header.get(key, default)) for key, default, _ in _WINGS]),
        "error_map": np.ascontiguousarray(error_map, np.float32),
    }
