"""A whole artificial observation of one quadrant: split pixels, calibration images, headers and static catalogs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from ztfds.calibration.products import CalibrationImage
from ztfds.detrend.split import SplitQuadrant
from ztfds.formats.catalogs import GAIA_DTYPE, PS1_DTYPE
from ztfds.science.run import ScienceInputs
from ztfds.survey.camera import TINY, camera_for_shape, rcid

sys.path.insert(0, str(Path(__file__).parents[1] / "photometry"))
import moffat_scenes as scenes

CCDID, QID = 6, 1
ZEROPOINT, COLOR_COEFFICIENT = 26.2, 0.09
RA, DEC = 150.0, 32.0


@dataclass
class Truth:
    """Stars: pixel position (0-based), flux (DN), sky position (deg), PS1 r and g - r."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    r: np.ndarray
    color: np.ndarray


def sky_of(camera, x, y):
    """True sky positions: the nominal geometry, off by some arcsec and turned by a tenth of a degree."""
    wcs = camera.approximate_wcs(RA, DEC, CCDID, QID)
    cx, cy = camera.centre_pixel
    turn = np.radians(0.1)
    dx, dy = x - cx, y - cy
    return wcs.all_pix2world(
        cx + 11.0 + np.cos(turn) * dx - np.sin(turn) * dy, cy - 7.0 + np.sin(turn) * dx + np.cos(turn) * dy, 0
    )


def primary_header():
    header = fits.Header()
    for key, value in {
        "IMGTYPE": "object", "EXPTIME": 30.0, "FIELDID": 635, "FILTERID": 2, "FILTER": "ZTF_r", "OBSJD": 2458200.75, "OBSMJD": 58200.25,
        "RAD": RA, "DECD": DEC, "TELRAD": RA + 0.001, "TELDECD": DEC, "AIRMASS": 1.1, "PROGRMID": 1, "PROGRMPI": "Kulkarni",
        "SATURATE": 1.0,
    }.items():  # fmt: skip
        header[key] = value
    return header


def calibration(shape, value):
    data = np.full(shape, value, np.float32)
    return CalibrationImage(data, np.full(shape, 1e-3, np.float32), np.zeros(shape, np.uint16), {}, fits.Header())


def observe(rng, n=90, camera=TINY, faint=300.0, bright=60_000.0, slope=0.5, pixels=None, **scene):
    """Inputs of pipeline 5, and the truth. `pixels`: function that spoils the image (pixels, mask) in place."""
    shape = camera.quadrant_shape
    made = scenes.make(rng, shape=shape, n=n, faint=faint, bright=bright, slope=slope, **scene)
    if pixels is not None:
        pixels(made)
    color = rng.uniform(0.2, 1.3, made.x.size)
    r = ZEROPOINT + COLOR_COEFFICIENT * color - 2.5 * np.log10(made.flux)
    ra, dec = sky_of(camera, made.x, made.y)
    gaia, ps1 = np.zeros(made.x.size, GAIA_DTYPE), np.zeros(made.x.size, PS1_DTYPE)
    for table in (gaia, ps1):
        table["ra"], table["dec"] = ra, dec
    gaia["gmag"], gaia["ra_error"], gaia["dec_error"] = r, 0.1, 0.1
    ps1["r"], ps1["g"] = r, r + color
    ps1["i"], ps1["z"] = r - 0.3 * color, r - 0.4 * color
    for band in "griz":
        ps1[f"{band}_err"] = 0.005
    ps1["sgscore"] = 1.0
    extension = fits.Header(
        [("GAIN", scenes.GAIN), ("READNOI", scenes.READNOISE), ("CCD_ID", CCDID), ("AMP_ID", QID - 1)]
    )
    split = SplitQuadrant(
        QID,
        rcid(CCDID, QID),
        made.pixels + np.float32(5.0),
        made.mask,
        extension,
        scenes.SATURATE,
        {"overscan_mean_dn": 1000.0},
    )
    inputs = ScienceInputs(
        split, primary_header(), calibration(shape, 5.0), calibration(shape, 1.0), gaia, ps1, camera_for_shape(shape)
    )
    return inputs, Truth(made.x, made.y, made.flux, ra, dec, r, color)
