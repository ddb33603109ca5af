"""SExtractor, PSFEx and SCAMP: configuration files written here, programs run one after the other, results read back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from benchmarks.inputs import StepInputs
from benchmarks.measure import call

Settings = dict[str, Any]
SEXTRACTOR = next((name for name in ("source-extractor", "sex") if shutil.which(name)), "source-extractor")
_VIGNET = 35
THRESHOLD, MIN_AREA = 1.1, 1
"""Sky sigmas of a pixel of the filtered image: 4 sigma of the matched filter, whose noise is 0.28 of a pixel's; our own limit is
the same."""
_FOR_PSFEX = ("NUMBER", "X_IMAGE", "Y_IMAGE", "XWIN_IMAGE", "YWIN_IMAGE", "ERRAWIN_IMAGE", "ERRBWIN_IMAGE", "ERRTHETAWIN_IMAGE",
              "FLUX_AUTO", "FLUXERR_AUTO", "FLUX_APER(1)", "FLUXERR_APER(1)", "FLUX_RADIUS", "SNR_WIN", "ELONGATION", "FLAGS",
              f"VIGNET({_VIGNET},{_VIGNET})")  # fmt: skip
_DETECTION = ("X_IMAGE", "Y_IMAGE", "XWIN_IMAGE", "YWIN_IMAGE", "FLUX_AUTO", "FLUXERR_AUTO", "FLAGS")
_APERTURES = ("X_IMAGE", "Y_IMAGE", "XWIN_IMAGE", "YWIN_IMAGE", "FLUX_AUTO", "FLUXERR_AUTO", "FLUX_ISO", "KRON_RADIUS",
              "FLUX_RADIUS", "FWHM_IMAGE", "A_IMAGE", "B_IMAGE", "THETA_IMAGE", "ELONGATION", "X2_IMAGE", "Y2_IMAGE", "XY_IMAGE",
              "BACKGROUND", "ISOAREA_IMAGE", "FLAGS", "FLUX_APER(6)", "FLUXERR_APER(6)")  # fmt: skip
_PSF_FIT = ("X_IMAGE", "Y_IMAGE", "XPSF_IMAGE", "YPSF_IMAGE", "FLUX_PSF", "FLUXERR_PSF", "CHI2_PSF", "FLUX_AUTO", "FLUXERR_AUTO",
            "FLAGS")  # fmt: skip


def _configuration(path: Path, settings: Settings) -> Path:
    """Write a configuration file of the family's common form."""
    path.write_text("".join(f"{name:24s} {value}\n" for name, value in settings.items()))
    return path


def _gaussian_filter(path: Path, fwhm: float) -> Path:
    """Convolution mask of SExtractor: a Gaussian of the seeing, 5 x 5 pixels."""
    offset = np.arange(-2, 3)
    line = np.exp(-4 * np.log(2) * (offset / fwhm) ** 2)
    rows = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in np.outer(line, line))
    path.write_text(f"CONV NORM\n# Gaussian of FWHM {fwhm:.2f} pixels\n{rows}\n")
    return path


def sextractor(
    image: Path, facts: dict[str, Any], folder: Path, name: str, columns: tuple[str, ...], **more: Any
) -> Path:
    """Run SExtractor on image.fits and its weight.fits (same folder); returns the catalog."""
    parameters = folder / f"{name}.param"
    parameters.write_text("\n".join(columns) + "\n")
    catalog = folder / f"{name}.cat"
    settings = {
        "CATALOG_NAME": catalog, "CATALOG_TYPE": "FITS_LDAC", "PARAMETERS_NAME": parameters, "DETECT_TYPE": "CCD",
        "DETECT_MINAREA": MIN_AREA, "DETECT_THRESH": THRESHOLD, "ANALYSIS_THRESH": 1.5, "FILTER": "Y",
        "FILTER_NAME": _gaussian_filter(folder / "seeing.conv", facts["fwhm"]), "DEBLEND_NTHRESH": 32, "DEBLEND_MINCONT": 0.001,
        "CLEAN": "Y", "CLEAN_PARAM": 1.0, "WEIGHT_TYPE": "MAP_WEIGHT", "WEIGHT_IMAGE": image.with_name("weight.fits"),
        "WEIGHT_GAIN": "N", "PHOT_APERTURES": "10", "PHOT_AUTOPARAMS": "2.5,3.5", "SATUR_KEY": "SATURATE", "GAIN_KEY": "GAIN",
        "PIXEL_SCALE": 1.012, "SEEING_FWHM": f"{1.012 * facts['fwhm']:.3f}", "STARNNW_NAME": folder / "none.nnw",
        "BACK_SIZE": 128, "BACK_FILTERSIZE": 3, "BACKPHOTO_TYPE": "GLOBAL", "MEMORY_OBJSTACK": 20000,
        "MEMORY_PIXSTACK": 3000000, "MEMORY_BUFSIZE": 4096, "NTHREADS": 1, "VERBOSE_TYPE": "QUIET", "WRITE_XML": "N",
    }  # fmt: skip
    call([SEXTRACTOR, str(image), "-c", str(_configuration(folder / f"{name}.sex", settings | more))], folder)
    return catalog


def psfex(catalog: Path, folder: Path, **more: Any) -> Path:
    """Run PSFEx with its default sampling and a quadratic variation over the image; returns the model.

    BASIS_TYPE PIXEL is what PIXEL_AUTO chooses for stars below 3 px of FWHM, where one scene is and the next is not.
    """
    settings = {
        "BASIS_TYPE": "PIXEL", "BASIS_NUMBER": 20, "PSF_SAMPLING": 0.0, "PSF_ACCURACY": 0.01, "PSF_SIZE": "25,25",
        "CENTER_KEYS": "X_IMAGE,Y_IMAGE", "PHOTFLUX_KEY": "FLUX_APER(1)", "PHOTFLUXERR_KEY": "FLUXERR_APER(1)",
        "PSFVAR_KEYS": "X_IMAGE,Y_IMAGE", "PSFVAR_GROUPS": "1,1", "PSFVAR_DEGREES": 2, "SAMPLE_AUTOSELECT": "Y",
        "SAMPLEVAR_TYPE": "SEEING", "SAMPLE_FWHMRANGE": "1.5,6.0", "SAMPLE_VARIABILITY": 0.2, "SAMPLE_MINSN": 20,
        "SAMPLE_MAXELLIP": 0.3, "CHECKPLOT_DEV": "NULL", "CHECKPLOT_TYPE": "NONE", "CHECKIMAGE_TYPE": "NONE",
        "PSF_DIR": folder, "PSF_SUFFIX": ".psf", "WRITE_XML": "N", "VERBOSE_TYPE": "QUIET", "NTHREADS": 1,
    }  # fmt: skip
    call(["psfex", str(catalog), "-c", str(_configuration(folder / "psfex.conf", settings | more))], folder)
    return folder / f"{catalog.stem}.psf"


def scamp(catalog: Path, gaia: np.ndarray, epoch: float, folder: Path) -> str:
    """Run SCAMP against a Gaia-like catalog; returns the header that it wrote, as text."""
    reference = _reference(folder / "reference.cat", gaia, epoch)
    settings = {
        "ASTREF_CATALOG": "FILE", "ASTREFCAT_NAME": reference, "ASTREFCENT_KEYS": "X_WORLD,Y_WORLD",
        "ASTREFERR_KEYS": "ERRA_WORLD,ERRB_WORLD,ERRTHETA_WORLD", "ASTREFMAG_KEY": "MAG", "ASTREFMAGERR_KEY": "MAGERR",
        "ASTREFOBSDATE_KEY": "OBSDATE", "ASTREFMAG_LIMITS": "12,19.5", "CROSSID_RADIUS": 2.0, "POSITION_MAXERR": 2.0,
        "POSANGLE_MAXERR": 1.0, "PIXSCALE_MAXERR": 1.02, "DISTORT_KEYS": "XWIN_IMAGE,YWIN_IMAGE", "DISTORT_GROUPS": "1,1",
        "DISTORT_DEGREES": 3, "CENTROID_KEYS": "XWIN_IMAGE,YWIN_IMAGE",
        "CENTROIDERR_KEYS": "ERRAWIN_IMAGE,ERRBWIN_IMAGE,ERRTHETAWIN_IMAGE", "MOSAIC_TYPE": "UNCHANGED", "SOLVE_PHOTOM": "N",
        "PHOTFLUX_KEY": "FLUX_AUTO", "PHOTFLUXERR_KEY": "FLUXERR_AUTO", "PROJECTION_TYPE": "TPV", "HEADER_TYPE": "NORMAL",
        "SN_THRESHOLDS": "10.0,100.0", "CHECKPLOT_DEV": "NULL", "CHECKPLOT_TYPE": "NONE", "WRITE_XML": "N",
        "VERBOSE_TYPE": "QUIET", "NTHREADS": 1,
    }  # fmt: skip
    call(["scamp", str(catalog), "-c", str(_configuration(folder / "scamp.conf", settings))], folder)
    return catalog.with_suffix(".head").read_text(encoding="latin-1")


def head_to_header(text: str) -> fits.Header:
    """The cards of SCAMP's .head file that say where the image lies."""
    header = fits.Header()
    for line in text.splitlines():
        if line[:8].strip() not in ("", "HISTORY", "COMMENT", "END"):
            header.append(fits.Card.fromstring(line))
    return header


def _reference(path: Path, gaia: np.ndarray, epoch: float) -> Path:
    """A FITS_LDAC reference catalog."""
    degrees = gaia["ra_error"] / 3.6e6
    columns = [
        ("X_WORLD", gaia["ra"], "D", "deg"), ("Y_WORLD", gaia["dec"], "D", "deg"), ("ERRA_WORLD", degrees, "E", "deg"),
        ("ERRB_WORLD", gaia["dec_error"] / 3.6e6, "E", "deg"), ("ERRTHETA_WORLD", 0 * degrees, "E", "deg"),
        ("MAG", gaia["gmag"], "E", "mag"), ("MAGERR", 0 * degrees + 0.01, "E", "mag"),
        ("OBSDATE", 0.0 * degrees + epoch, "D", "yr"),
    ]  # fmt: skip
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, form, unit=unit, array=values) for name, values, form, unit in columns], name="LDAC_OBJECTS"
    )
    text = fits.Header().tostring(sep="", endcard=True, padding=False).ljust(80)
    head = fits.Column("Field Header Card", f"{len(text)}A", array=np.array([text]))
    fits.HDUList(
        [fits.PrimaryHDU(), fits.BinTableHDU.from_columns([head], name="LDAC_IMHEAD"), table]
    ).writeto(path, overwrite=True)  # fmt: skip
    return path


def read_catalog(path: Path) -> np.ndarray:
    """The objects of a FITS_LDAC catalog."""
    with fits.open(path) as hdus:
        return np.array(hdus["LDAC_OBJECTS"].data)


def psf_chain(image: Path, facts: dict[str, Any], folder: Path, **psfex_more: Any) -> tuple[Path, np.ndarray]:
    """SExtractor, PSFEx, SExtractor with the model; returns the first catalog's path and the rows of the second."""
    first = sextractor(image, facts, folder, "first", _FOR_PSFEX)
    model = psfex(first, folder, **psfex_more)
    return first, read_catalog(sextractor(image, facts, folder, "second", _PSF_FIT, PSF_NAME=model))


def psf_fluxes(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Positions (0-based) and PSF fluxes of the second SExtractor catalog; FLUX_AUTO and the isophotal place where the fit gave up."""
    fitted = (rows["FLUX_PSF"] > 0) & np.isfinite(rows["FLUXERR_PSF"]) & (rows["XPSF_IMAGE"] > 0)
    pairs = {"x": ("XPSF_IMAGE", "X_IMAGE", 1.0), "y": ("YPSF_IMAGE", "Y_IMAGE", 1.0), "flux": ("FLUX_PSF", "FLUX_AUTO", 0.0),
             "error": ("FLUXERR_PSF", "FLUXERR_AUTO", 0.0)}  # fmt: skip
    made = {name: np.where(fitted, rows[one], rows[other]) - by for name, (one, other, by) in pairs.items()}
    keep = (made["flux"] > 0) & np.isfinite(made["error"]) & (made["error"] > 0)
    return {name: values[keep] for name, values in made.items()}


# -- rows --------------------------------------------------------------------------------------------------------------


def detection(inputs: StepInputs, folder: Path) -> dict[str, np.ndarray]:
    """Detection and isophotal shapes only."""
    rows = read_catalog(sextractor(inputs.folder / "image.fits", inputs.facts, folder, "detect", _DETECTION))
    return {"x": rows["XWIN_IMAGE"] - 1.0, "y": rows["YWIN_IMAGE"] - 1.0, "flux": rows["FLUX_AUTO"]}


def apertures(inputs: StepInputs, folder: Path) -> dict[str, np.ndarray]:
    """The aperture catalog: six apertures, Kron magnitudes, shapes."""
    path = sextractor(
        inputs.folder / "image.fits", inputs.facts, folder, "apertures", _APERTURES, DETECT_THRESH=1.5, DETECT_MINAREA=5,
        DEBLEND_NTHRESH=16, DEBLEND_MINCONT=0.005, PHOT_APERTURES="2,3,4,6,10,14",
    )  # fmt: skip
    rows = read_catalog(path)
    return {
        "x": rows["XWIN_IMAGE"] - 1.0,
        "y": rows["YWIN_IMAGE"] - 1.0,
        "flux": rows["FLUX_APER"][:, 4],
        "error": rows["FLUXERR_APER"][:, 4],
    }


def psf_input(inputs: StepInputs, folder: Path) -> Path:
    """The catalog that PSFEx and SCAMP read."""
    return sextractor(inputs.folder / "image.fits", inputs.facts, folder, "first", _FOR_PSFEX)


def psf_photometry(inputs: StepInputs, folder: Path, **psfex_more: Any) -> dict[str, np.ndarray]:
    """Detection, PSF model and PSF fit of everything."""
    return psf_fluxes(psf_chain(inputs.folder / "image.fits", inputs.facts, folder, **psfex_more)[1])
