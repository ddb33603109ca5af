"""The PSF product: spline coefficients in a FITS cube, with the recipe to evaluate them in its header."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from astropy.io import fits

from ztfds.formats.atomic import Written
from ztfds.formats.images import read_image, write_image
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
    "is 1. Integration over the pixel is part of P.",
)
_SCALARS = (
    ("PSFFWHM", "[pix] FWHM at image centre, pixel-integrated"),
    ("PSFERR", "relative error of the model in a pixel"),
    ("PSFFERR", "relative error of the normalisation"),
    ("PSFNSTAR", "stars that made the PSF"),
    ("PSFCHI", "median sqrt of reduced chi square of these"),
)


class PsfArrays(Protocol):
    """What can be written: anything that gives its arrays (`ztfds.photometry.psf.PsfModel` does)."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """coefficients (terms, n, n) float32; shape (2,) int, (ny, nx); scalars (5,) float64 as in the header cards."""


def write_psf(path: Path | str, model: PsfArrays, header: fits.Header | None = None) -> Written:
    """Write the PSF of an image (``sciimgdao.psf``: a FITS file whatever its name says).

    Parameters
    ----------
    path : Path or str
    model : the PSF
    header : fits.Header, optional
        Cards to keep.
    """
    arrays = model.to_arrays()
    cards = fits.Header() if header is None else header.copy()
    n = arrays["coefficients"].shape[-1]
    cards["PSFSAMP"] = (2, "nodes per pixel")
    cards["PSFCEN"] = (n // 2 - 1, "node of the star, 0-based")
    cards["PSFRAD"] = (12, "[pix] half side of a stamp")
    cards["PSFNX"], cards["PSFNY"] = int(arrays["shape"][1]), int(arrays["shape"][0])
    for (key, comment), value in zip(_SCALARS, arrays["scalars"], strict=True):
        cards[key] = (float(value) if np.isfinite(value) else -999.0, comment)
    for line in RECIPE:
        cards["COMMENT"] = line
    return write_image(path, np.ascontiguousarray(arrays["coefficients"], np.float32), cards, rice=False)


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
    return {"coefficients": np.ascontiguousarray(pixels, np.float32), "shape": shape, "scalars": scalars}
