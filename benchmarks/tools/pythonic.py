"""Tools in Python: astropy, ccdproc, astroscrappy, sep, photutils and plain numpy, used as their documentation shows.

Every function takes inputs in memory and returns the arrays that `benchmarks.accuracy` judges. Libraries are imported inside, so
that a process loads only what its row needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from benchmarks.inputs import StepInputs
from ztfds.survey import bits

Result = dict[str, Any]


def read_all(path: Path) -> list[np.ndarray]:
    """astropy: the pixels of all extensions of a Rice-compressed raw file: four quadrants, four overscans."""
    with fits.open(path, memmap=False) as hdus:
        return [hdu.data for hdu in hdus[1:]]


def read_raw(path: Path) -> Result:
    """astropy as a row of its own."""
    return {"pixels": read_all(path)[0]}


def detrend(raw: np.ndarray, overscan: np.ndarray, bias: np.ndarray, flat: np.ndarray) -> Result:
    """ccdproc: overscan as a line per row fitted by astropy, bias, flat (no linearity: it has none)."""
    import ccdproc
    from astropy import units as u
    from astropy.modeling.models import Polynomial1D
    from astropy.nddata import CCDData

    frame = CCDData(raw.astype(np.float32), unit=u.adu)
    strip = CCDData(overscan.astype(np.float32), unit=u.adu)
    frame = ccdproc.subtract_overscan(frame, overscan=strip, overscan_axis=1, median=True, model=Polynomial1D(3))
    frame = ccdproc.subtract_bias(frame, CCDData(bias, unit=u.adu))
    frame = ccdproc.flat_correct(frame, CCDData(flat, unit=u.dimensionless_unscaled), norm_value=1.0)
    return {"pixels": np.asarray(frame.data, np.float32)}


def simple_mask(pixels: np.ndarray, cmask: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """Bad pixels of the calibration products and pixels above 0.95 of saturation, as mask bits; (ny, nx) uint16."""
    mask = cmask.copy()
    mask[pixels > 0.95 * facts["saturate"]] |= np.uint16(bits.SATURATED)
    return mask


def lacosmic(
    pixels: np.ndarray, mask: np.ndarray, facts: dict[str, Any], iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """astroscrappy (L.A.Cosmic, McCully et al. 2018) with its defaults for a detector of this gain; mask and cleaned image (DN)."""
    import astroscrappy

    image = np.where(np.isfinite(pixels), pixels, np.float32(facts["sky"]))
    unusable = (mask & np.uint16(bits.HARD_BAD)) != 0
    found, cleaned = astroscrappy.detect_cosmics(
        image, inmask=unusable, gain=facts["gain"], readnoise=facts["readnoise"], satlevel=0.95 * facts["saturate"] * facts["gain"],
        sigclip=4.5, sigfrac=0.3, objlim=5.0, niter=iterations, cleantype="meanmask",
    )  # fmt: skip
    return found, cleaned


def cosmic_rays(inputs: StepInputs, iterations: int) -> Result:
    """astroscrappy as a row of its own."""
    return {"flagged": lacosmic(inputs.pixels, inputs.mask, inputs.facts, iterations)[0]}


def cosmic_rays_ccdproc(inputs: StepInputs) -> Result:
    """ccdproc.cosmicray_lacosmic with the same numbers (it calls astroscrappy), 4 iterations, image in electrons."""
    import ccdproc
    from astropy import units as u
    from astropy.nddata import CCDData

    facts = inputs.facts
    image = np.where(np.isfinite(inputs.pixels), inputs.pixels, np.float32(facts["sky"])) * np.float32(facts["gain"])
    unusable = (inputs.mask & np.uint16(bits.HARD_BAD)) != 0
    cleaned = ccdproc.cosmicray_lacosmic(
        CCDData(image, unit=u.electron, mask=unusable), readnoise=facts["readnoise"], satlevel=0.95 * facts["saturate"] * facts["gain"],
        sigclip=4.5, sigfrac=0.3, objlim=5.0, niter=4,
    )  # fmt: skip
    return {"flagged": cleaned.mask & ~unusable}


def background_sep(inputs: StepInputs) -> Result:
    """sep.Background, boxes of 128 pixels."""
    import sep

    sky = sep.Background(np.nan_to_num(inputs.pixels), mask=inputs.bad, bw=128, bh=128)
    return {"level": sky.back()}


def background_photutils(inputs: StepInputs) -> Result:
    """photutils.Background2D with the SExtractor estimator and sigma clipping, boxes of 128 pixels."""
    from astropy.stats import SigmaClip
    from photutils.background import Background2D, SExtractorBackground

    sky = Background2D(
        inputs.pixels,
        128,
        mask=inputs.bad,
        filter_size=3,
        sigma_clip=SigmaClip(3.0),
        bkg_estimator=SExtractorBackground(),
    )
    return {"level": np.asarray(sky.background, np.float32)}


def detection_sep(inputs: StepInputs) -> Result:
    """sep: background and extraction with the seeing's filter."""
    import sep

    sep.set_extract_pixstack(5_000_000)
    sep.set_sub_object_limit(4096)
    pixels = np.nan_to_num(inputs.pixels)
    sky = sep.Background(pixels, mask=inputs.bad, bw=128, bh=128)
    offset = np.arange(-2, 3)
    line = np.exp(-4 * np.log(2) * (offset / inputs.facts["fwhm"]) ** 2)
    found = sep.extract(
        pixels - sky.back(), 1.1, err=sky.globalrms, mask=inputs.bad, minarea=1, filter_kernel=np.outer(line, line),
        deblend_nthresh=32, deblend_cont=0.001,
    )  # fmt: skip
    return {"x": found["x"], "y": found["y"], "flux": found["flux"]}


def detection_photutils(inputs: StepInputs) -> Result:
    """photutils: Background2D and DAOStarFinder at 3.5 sigma of the filtered image."""
    data = inputs.pixels - background_photutils(inputs)["level"]
    found = _find_stars(data, inputs)
    return {"x": np.array(found["x_centroid"]), "y": np.array(found["y_centroid"]), "flux": np.array(found["flux"])}


def _find_stars(data: np.ndarray, inputs: StepInputs) -> Any:
    """DAOStarFinder on a sky-subtracted image."""
    from photutils.detection import DAOStarFinder

    # It scales the threshold by the noise of its own filter; at 4 sigma it misses half of what has S/N 10, at 3 most is noise.
    finder = DAOStarFinder(threshold=3.5 * inputs.facts["sigma"], fwhm=inputs.facts["fwhm"], exclude_border=True)
    return finder(data, mask=inputs.bad)


def psf_model_photutils(inputs: StepInputs) -> Result:
    """photutils: EPSFBuilder on 150 isolated bright stars, twofold oversampled."""
    data = inputs.sky_subtracted
    model = _epsf(data, _psf_stars(inputs, _find_stars(data, inputs)), inputs)
    return {"stamp": np.asarray(model.data, np.float32)}


def _psf_stars(inputs: StepInputs, found: Any) -> np.ndarray:
    """(150, 2) positions of bright, unsaturated stars without a detected neighbour."""
    from scipy.spatial import cKDTree

    places = np.column_stack([found["x_centroid"], found["y_centroid"]])
    peak = np.asarray(found["peak"])
    ny, nx = inputs.pixels.shape
    inside = (places.min(axis=1) > 20) & (places[:, 0] < nx - 20) & (places[:, 1] < ny - 20)
    good = inside & (peak < 0.5 * inputs.facts["saturate"]) & (peak > 30 * inputs.facts["sigma"])
    reach = cKDTree(places).query(places, k=2)[0][:, 1]
    alone = np.flatnonzero(good & (reach > (12 if good.sum() < 5000 else 6)))
    return places[alone[np.argsort(-peak[alone])][:150]]


def _epsf(data: np.ndarray, places: np.ndarray, inputs: StepInputs) -> Any:
    """The effective PSF of some stars."""
    from astropy.nddata import NDData
    from astropy.table import Table
    from photutils.psf import EPSFBuilder, extract_stars

    table = Table({"x": places[:, 0], "y": places[:, 1]})
    stars = extract_stars(NDData(data, mask=inputs.bad), table, size=25)
    return EPSFBuilder(oversampling=2, maxiters=5, progress_bar=False)(stars)[0]


def psf_photometry_photutils(inputs: StepInputs) -> Result:
    """photutils: Background2D, DAOStarFinder, EPSFBuilder and PSFPhotometry of every detection, ungrouped.

    Of astropy's fitters the fastest here: 3 ms a source, where the default takes 17.
    """
    from astropy.modeling.fitting import LevMarLSQFitter
    from astropy.table import Table
    from photutils.psf import PSFPhotometry

    data = np.nan_to_num(inputs.pixels - background_photutils(inputs)["level"])
    found = _find_stars(data, inputs)
    model = _epsf(data, _psf_stars(inputs, found), inputs)
    gain = inputs.facts["gain"]
    error = np.sqrt(inputs.facts["sigma"] ** 2 + np.maximum(data, 0) / gain)
    fitter = PSFPhotometry(model, (5, 5), aperture_radius=4.0, fitter=LevMarLSQFitter())
    start = Table({"x_init": found["x_centroid"], "y_init": found["y_centroid"]})
    rows = fitter(data, error=error, mask=inputs.bad, init_params=start)
    good = np.isfinite(rows["flux_fit"]) & (rows["flux_fit"] > 0)
    columns = {"x": "x_fit", "y": "y_fit", "flux": "flux_fit", "error": "flux_err"}
    return {name: np.array(rows[column][good], float) for name, column in columns.items()}


def fit_sip(x: np.ndarray, y: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> Result:
    """astropy: a third-order SIP solution of stars that are matched already."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import fit_wcs_from_points

    solution = fit_wcs_from_points((x, y), SkyCoord(ra * u.deg, dec * u.deg), sip_degree=3)
    return {"header": np.array(solution.to_header(relax=True).tostring(sep="\n"))}


def combine_ccdproc(frames: Sequence[np.ndarray]) -> Result:
    """ccdproc.combine: average with 3-sigma clipping about the median, as its guide recommends for biases."""
    import ccdproc
    from astropy import units as u
    from astropy.nddata import CCDData
    from astropy.stats import mad_std

    made = ccdproc.combine(
        [CCDData(frame, unit=u.adu) for frame in frames], method="average", sigma_clip=True, sigma_clip_low_thresh=5,
        sigma_clip_high_thresh=5, sigma_clip_func=np.ma.median, sigma_clip_dev_func=mad_std, mem_limit=2e9, dtype=np.float32,
    )  # fmt: skip
    return {"image": np.asarray(made.data, np.float32)}


def combine_median(frames: Sequence[np.ndarray]) -> Result:
    """numpy.median over the stack."""
    return {"image": np.median(np.stack(frames), axis=0).astype(np.float32)}


def straight_line_zeropoint(
    flux: np.ndarray, ra: np.ndarray, dec: np.ndarray, ps1: np.ndarray, error: np.ndarray
) -> Result:
    """Zero point and colour term by a clipped straight line through matched PS1 stars (numpy and astropy, as teams write it)."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    stars = ps1[
        (ps1["sgscore"] > 0.8) & np.isfinite(ps1["r"]) & np.isfinite(ps1["g"]) & (ps1["r"] > 14) & (ps1["r"] < 19)
    ]
    index, apart, _ = SkyCoord(ra * u.deg, dec * u.deg).match_to_catalog_sky(
        SkyCoord(stars["ra"] * u.deg, stars["dec"] * u.deg)
    )
    use = (apart.arcsec < 1.0) & (error < 0.03 * flux)
    matched = stars[index[use]]
    difference = matched["r"] + 2.5 * np.log10(flux[use])
    colour = (matched["g"] - matched["r"]).astype(float)
    keep = np.abs(difference - np.median(difference)) < 0.3
    for _ in range(5):
        line = np.polyfit(colour[keep], difference[keep], 1)
        off = difference - np.polyval(line, colour)
        keep = np.abs(off) < 3 * 1.4826 * np.median(np.abs(off[keep]))
    return {"magzp": float(line[1]), "clrcoeff": float(line[0])}
