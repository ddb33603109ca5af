"""Pipeline 5, instrumental calibration: a split quadrant becomes a calibrated image with mask, catalogs and header."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.astrometry.solve import AstrometricSolution, solve
from ztfds.calibration.products import CalibrationImage
from ztfds.config.photometry import ScienceConfig
from ztfds.detrend.apply import detrend
from ztfds.detrend.split import SplitQuadrant
from ztfds.kernels import masks as mask_kernels
from ztfds.photometry import apertures, limits, measure, zeropoint
from ztfds.photometry.apertures import ApertureCorrections
from ztfds.photometry.background import Background
from ztfds.photometry.fit import PsfPhotometry
from ztfds.photometry.psf import PsfModel
from ztfds.photometry.zeropoint import Zeropoint
from ztfds.science import header as cards
from ztfds.science.masks import Artifacts, mask_artifacts
from ztfds.science.pointing import boresight, pointing
from ztfds.science.tracks import track_table
from ztfds.survey import bits, filters, ids
from ztfds.survey.camera import Camera, ccd_qid
from ztfds.survey.errors import AstrometryFailed, BadData, PhotometryFailed, PsfFailed
from ztfds.survey.fields import unit_vector

logger = logging.getLogger(__name__)

HEMISPHERE = 0.1
"""Cosine of the distance beyond which a gnomonic projection is not asked about a star."""


@dataclass(frozen=True)
class ScienceInputs:
    """What pipeline 5 needs of one quadrant.

    Attributes
    ----------
    split : SplitQuadrant
        Signal after overscan and linearity, with the header of its extension.
    primary : fits.Header
        Primary header of the raw file.
    bias, flat : CalibrationImage
        Valid for the readout channel (and filter).
    gaia, ps1 : structured arrays
        Static catalogs around the quadrant, cut generously (see `ztfds.formats.catalogs`); proper motions applied.
    camera : Camera
    """

    split: SplitQuadrant
    primary: fits.Header
    bias: CalibrationImage
    flat: CalibrationImage
    gaia: np.ndarray
    ps1: np.ndarray
    camera: Camera


@dataclass(frozen=True)
class ScienceProducts:
    """What pipeline 5 makes.

    Attributes
    ----------
    pixels : (ny, nx) float32
        Calibrated image, DN, sky kept; NaN where the mask says NAN.
    mask : (ny, nx) uint16
        `survey.bits`.
    header : fits.Header
    psfcat : structured array of formats.tables.PSFCAT_DTYPE or None
        PSF catalog, positions 0-based pixels; None when there is no PSF.
    sexcat : structured array of photometry.apertures.SEXCAT_DTYPE or None
    psf : PsfModel or None
    background : Background
    infobits, status : int
        Quality bits, with those that only the database keeps (`survey.bits.DATABASE_BITS`); 1 usable, 0 not.
    reasons : list of str
        Why bits are set, named failures first.
    qa : dict of str to float
    log : list of str
    tracks : structured array of science.tracks.TRACK_DTYPE or None
        Satellite and aircraft tracks with both their ends; None when not looked for.
    """

    pixels: np.ndarray
    mask: np.ndarray
    header: fits.Header
    psfcat: np.ndarray | None
    sexcat: np.ndarray | None
    psf: PsfModel | None
    background: Background
    infobits: int
    status: int
    reasons: list[str]
    qa: dict[str, float]
    log: list[str]
    tracks: np.ndarray | None = None


@dataclass
class _Notes:
    """What happened: named failures, measurements, and a line for each step."""

    failures: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)
        logger.info("%s", line)

    def fail(self, error: BadData) -> None:
        self.failures.append(f"{error.code}: {error.message}")
        self.say(f"{error.code}: {error.message}")


def run(inputs: ScienceInputs, config: ScienceConfig) -> ScienceProducts:
    """Calibrate one quadrant.

    Failures of astrometry, PSF or zero point do not raise: the products say so in STATUS, INFOBITS and reasons.

    Parameters
    ----------
    inputs : ScienceInputs
    config : ScienceConfig

    Returns
    -------
    ScienceProducts

    Raises
    ------
    MissingKeyword
        The headers lack what nothing can be done without (gain, read noise, time, pointing, filter, field).
    WrongSize
        Calibration images of another size.
    """
    notes = _Notes()
    who = _identity(inputs)
    band = filters.by_fid(who.fid)
    gain, readnoise = cards.number(inputs.split.header, "GAIN"), cards.number(inputs.split.header, "READNOI")
    saturate = inputs.split.saturation_dn
    guesses = pointing(inputs.primary, inputs.split.header, inputs.camera, who.ccdid, who.qid).guesses
    guess = guesses[0]

    pixels, mask = detrend(inputs.split, inputs.bias, inputs.flat, config.detrend)
    inputs = _without_pixels(inputs)
    scene = measure.prepare(pixels, mask, gain, readnoise, saturate, config.photometry)
    _note_scene(notes, scene)
    solution = _astrometry(inputs, scene, guesses, config, notes)
    artifacts = _mask(inputs, pixels, scene, readnoise, solution.wcs if solution else guess, config, notes)
    mask, tracks = artifacts.mask, track_table(artifacts.tracks, pixels.shape, solution.wcs if solution else None)
    scene = measure.with_mask(scene, mask)
    photometry, psf = _psf_photometry(scene, config, notes)
    sexcat, footprint = _apertures(scene, photometry, config, notes)
    psfcat = photometry.catalog if photometry else None
    _sky_positions(psfcat, sexcat, solution)
    zp = _zero_point(inputs, psfcat, band, solution, config, notes)
    corrections = _aperture_corrections(psfcat, sexcat, config, notes)
    background = photometry.background if photometry else scene.background
    _limits(psfcat, psf, background, gain, zp, config, notes)
    _check_limit(scene, photometry, psf, zp, config, notes)
    _mark_sources(mask, footprint, psfcat)

    notes.metrics |= inputs.split.qa
    _count_pixels(mask, notes)
    night, area = ids.night_iso(ids.nid(who.jd)), inputs.camera.area_fraction
    infobits, status, broken = bits.evaluate(notes.metrics, who.fid, area, night)
    flags, doubts = bits.flags(notes.metrics, who.fid, area, night)
    for doubt in doubts:
        notes.say(f"doubt: {doubt}")
    notes.say(f"status {status}, infobits {infobits}")
    header = _header(inputs, who, band, solution, guess, zp, corrections, saturate, notes.metrics, infobits, status)
    cards.set_reasons(header, broken, bits.rules_version(night))
    cards.set_spatial(header, zp, config.zeropoint.apply_spatial)
    qa = {name: float(value) for name, value in notes.metrics.items()}
    reasons = notes.failures + broken + doubts
    return ScienceProducts(
        pixels,
        mask,
        header,
        psfcat,
        sexcat,
        psf,
        background,
        infobits | flags,
        status,
        reasons,
        qa,
        notes.lines,
        tracks,
    )


def _without_pixels(inputs: ScienceInputs) -> ScienceInputs:
    """The inputs with images of zeros that take no memory: the pixels are not needed again, and are 200 MB of a full quadrant."""

    def hollow(image: np.ndarray) -> np.ndarray:
        return np.broadcast_to(image.dtype.type(0), image.shape)

    def drained(image: CalibrationImage) -> CalibrationImage:
        return replace(image, data=hollow(image.data), uncertainty=hollow(image.uncertainty), cmask=hollow(image.cmask))

    split = replace(inputs.split, pixels=hollow(inputs.split.pixels), mask=hollow(inputs.split.mask))
    return replace(inputs, split=split, bias=drained(inputs.bias), flat=drained(inputs.flat))


def _identity(inputs: ScienceInputs) -> cards.Identity:
    """Names and numbers of the quadrant."""
    ccdid, qid = ccd_qid(inputs.split.rcid)
    primary = inputs.primary
    return cards.Identity(
        ccdid=ccdid,
        qid=qid,
        rcid=inputs.split.rcid,
        fid=int(cards.number(primary, "FILTERID")),
        field=int(cards.number(primary, "FIELDID")),
        jd=cards.number(primary, "OBSJD"),
    )


def _note_scene(notes: _Notes, scene: measure.Scene) -> None:
    notes.metrics |= {
        "median_background_dn": scene.background.median_level,
        "pixel_noise_dn": scene.background.rms_dn,
        "noise_ratio": scene.background.rms_dn / max(scene.background.sigma_dn, 1e-9),
        "empty_background_boxes": float(scene.background.empty_boxes),
        "n_detections": float(len(scene.found)),
        "n_saturated_stars": float(len(scene.saturated)),
    }
    notes.say(
        f"sky {scene.background.median_level:.1f} DN, noise {scene.background.rms_dn:.2f} DN, {len(scene.found)} detections, "
        f"seeing {scene.fwhm_px:.2f} px"
    )


def _astrometry(
    inputs: ScienceInputs, scene: measure.Scene, guesses: Sequence[WCS], config: ScienceConfig, notes: _Notes
) -> AstrometricSolution | None:
    """Tie the bright detections to Gaia, starting from the first guess that leads there."""
    notes.metrics["astrom_possible"] = 0.0
    try:
        solution = _solve_any(inputs, scene, guesses, config, notes)
    except AstrometryFailed as error:
        notes.fail(error)
        return None
    notes.metrics |= solution.metrics
    notes.metrics |= {
        "astrom_rms_ra_mas": solution.rms_ra_mas,
        "astrom_rms_dec_mas": solution.rms_dec_mas,
        "astrom_shift_arcsec": solution.shift_arcsec,
        "astrom_rotation_deg": solution.rotation_deg,
        "astrom_order": float(solution.order),
        "pixel_scale_arcsec": solution.pixel_scale_arcsec,
    }
    notes.say(
        f"astrometry: {solution.n_matched} matches, rms {solution.rms_ra_mas:.0f} {solution.rms_dec_mas:.0f} mas, "
        f"shift {solution.shift_arcsec:.1f} arcsec"
    )
    return solution


def _solve_any(
    inputs: ScienceInputs, scene: measure.Scene, guesses: Sequence[WCS], config: ScienceConfig, notes: _Notes
) -> AstrometricSolution:
    """The solution of the first guess that has one; raise `AstrometryFailed`, the last one's, when none has."""
    shapes, found = scene.shapes, scene.found
    n = shapes.x.size
    usable = np.isfinite(shapes.fwhm) & (shapes.fwhm > 0.6 * scene.fwhm_px) & (shapes.fwhm < 2.0 * scene.fwhm_px)
    gaia = inputs.gaia[inputs.gaia["gmag"] < config.gaia_faint_mag]
    for guess in guesses:
        try:
            return solve(
                shapes.x, shapes.y, found.flux[:n], scene.data.shape, guess, gaia, config.astrometry,
                snr=found.snr[:n], fwhm_px=scene.fwhm_px, usable=usable,
            )  # fmt: skip
        except AstrometryFailed as error:
            failure = error
            notes.say(
                f"astrometry from the guess at CRVAL {guess.wcs.crval[0]:.4f} {guess.wcs.crval[1]:.4f}: {error.message}"
            )
    raise failure


def _mask(
    inputs: ScienceInputs,
    pixels: np.ndarray,
    scene: measure.Scene,
    readnoise: float,
    wcs: WCS,
    config: ScienceConfig,
    notes: _Notes,
) -> Artifacts:
    """Radiation hits, tracks, ghosts and halos."""
    stars = _bright_stars(inputs, wcs, config)
    who = ccd_qid(inputs.split.rcid)
    nominal = inputs.camera.approximate_wcs(*boresight(inputs.primary), *who)
    axis = nominal.world_to_pixel_values(*boresight(inputs.primary))
    found = mask_artifacts(
        pixels, scene.mask, scene.background.level, scene.gain, readnoise, scene.fwhm_px, config.masks, stars,
        (float(axis[0]), float(axis[1])), inputs.camera.pixel_scale_arcsec,
    )  # fmt: skip
    names = {"spike": bits.SPIKE, "track": bits.TRACK, "ghost": bits.GHOST, "halo": bits.HALO}
    for name, count in zip(names, _count_bits(found.mask, *names.values()), strict=True):
        notes.metrics[f"{name}_pixels"] = float(count)
    notes.metrics["n_tracks"] = float(len(found.tracks))
    notes.say(f"{found.n_hit_pixels} pixels hit by radiation, {notes.metrics['track_pixels']:.0f} in tracks")
    for track in found.tracks:
        notes.say(
            f"track from ({track.x0:.0f}, {track.y0:.0f}) to ({track.x1:.0f}, {track.y1:.0f}), {track.peak_dn:.1f} DN"
        )
    return found


def _bright_stars(inputs: ScienceInputs, wcs: WCS, config: ScienceConfig) -> np.ndarray:
    """(n, 3) float64: x, y (pixels), magnitude of catalog stars that may throw ghosts or halos into the image."""
    faintest = max((ghost.max_mag for ghost in config.masks.ghosts), default=-math.inf)
    stars = inputs.gaia[inputs.gaia["gmag"] <= faintest]
    if len(stars) == 0:
        return np.empty((0, 3))
    ny, nx = inputs.split.pixels.shape
    ra, dec = wcs.wcs_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
    stars = stars[unit_vector(stars["ra"], stars["dec"]) @ unit_vector(ra, dec) > HEMISPHERE]
    x, y = wcs.wcs_world2pix(stars["ra"], stars["dec"], 0)
    margin = config.bright_star_margin_px
    near = (x > -margin) & (y > -margin) & (x < nx + margin) & (y < ny + margin)
    return np.column_stack([x, y, stars["gmag"]])[near]


def _psf_photometry(
    scene: measure.Scene, config: ScienceConfig, notes: _Notes
) -> tuple[PsfPhotometry | None, PsfModel | None]:
    """PSF and the fit of all sources."""
    notes.metrics["psf_possible"] = 0.0
    notes.metrics["seeing_px"] = scene.fwhm_px
    try:
        psf = measure.model_psf(scene, config.photometry)
    except PsfFailed as error:
        notes.fail(error)
        return None, None
    photometry, psf = measure.fit_scene(scene, psf, config.photometry)
    notes.metrics |= {
        "psf_possible": 1.0,
        "seeing_px": psf.fwhm_px,
        "psf_stars": float(psf.n_stars),
        "psf_error": psf.error,
        "psf_flux_error": psf.flux_error,
        "n_psfcat": float(len(photometry.catalog)),
        "median_chi": float(np.median(photometry.catalog["chi"])) if len(photometry.catalog) else math.nan,
    }
    notes.say(
        f"PSF of {psf.n_stars} stars, FWHM {psf.fwhm_px:.3f} px, error {100 * psf.error:.2f} %; "
        f"{len(photometry.catalog)} sources fitted in {photometry.sweeps} sweeps"
    )
    return photometry, psf


def _apertures(
    scene: measure.Scene, photometry: PsfPhotometry | None, config: ScienceConfig, notes: _Notes
) -> tuple[np.ndarray, np.ndarray]:
    """Aperture catalog and the pixels of its detections."""
    background = photometry.background if photometry else scene.background
    settings = config.photometry
    catalog, footprint = apertures.aperture_catalog(
        scene.data, scene.usable, scene.mask, background, scene.gain, settings.apertures, settings.fit.edge_px
    )
    notes.metrics["n_sexcat"] = float(len(catalog))
    notes.say(f"{len(catalog)} sources in the aperture catalog")
    return catalog, footprint


def _sky_positions(psfcat: np.ndarray | None, sexcat: np.ndarray, solution: AstrometricSolution | None) -> None:
    """Right ascension and declination (deg) of the catalogs; they stay NaN without a solution."""
    if solution is None:
        return
    if psfcat is not None and len(psfcat):
        psfcat["ra"], psfcat["dec"] = solution.wcs.all_pix2world(psfcat["xpos"], psfcat["ypos"], 0)
    if len(sexcat):
        ra, dec = solution.wcs.all_pix2world(sexcat["XWIN_IMAGE"], sexcat["YWIN_IMAGE"], 0)
        sexcat["ALPHAWIN_J2000"], sexcat["DELTAWIN_J2000"] = ra, dec


def _positive(header: fits.Header, keyword: str, default: float) -> float:
    """A positive number of the header, or the default."""
    value = header.get(keyword)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else default


def _zero_point(
    inputs: ScienceInputs,
    psfcat: np.ndarray | None,
    band: filters.Filter,
    solution: AstrometricSolution | None,
    config: ScienceConfig,
    notes: _Notes,
) -> Zeropoint | None:
    """Tie the PSF magnitudes to PS1."""
    notes.metrics["photcal_possible"] = 0.0
    if psfcat is None or solution is None:
        return None
    try:
        zp = zeropoint.calibrate(
            psfcat, inputs.ps1, band, config.zeropoint, shape=inputs.split.pixels.shape,
            airmass=_positive(inputs.primary, "AIRMASS", 1.0), exptime_s=_positive(inputs.primary, "EXPTIME", 30.0),
        )  # fmt: skip
    except PhotometryFailed as error:
        notes.fail(error)
        return None
    notes.metrics |= zp.metrics | {
        "magzp": zp.magzp,
        "magzpunc": zp.magzpunc,
        "clrcoeff": zp.clrcoeff,
        "max_spatial_mag": zp.max_spatial_mag,
        "spatial_rms_mag": zp.spatial_rms_mag,
    }
    if config.zeropoint.apply_spatial:
        shape = inputs.split.pixels.shape
        psfcat["mag"] += zeropoint.spatial_surface(zp.spatial_terms, psfcat["xpos"], psfcat["ypos"], shape)
    notes.say(f"zero point {zp.magzp:.3f} mag, rms {zp.magzprms:.3f} mag, {zp.nmatches} calibrators")
    return zp


def _aperture_corrections(
    psfcat: np.ndarray | None, sexcat: np.ndarray, config: ScienceConfig, notes: _Notes
) -> ApertureCorrections:
    """PSF minus aperture magnitudes."""
    empty = np.empty(0) if psfcat is None else psfcat
    found = apertures.aperture_corrections(empty, sexcat, config.photometry.apertures)
    notes.metrics["aperture_correction_stars"] = float(found.n_stars)
    return found


def _limits(
    psfcat: np.ndarray | None,
    psf: PsfModel | None,
    background: Background,
    gain: float,
    zp: Zeropoint | None,
    config: ScienceConfig,
    notes: _Notes,
) -> None:
    """Seeing in arcsec and limiting magnitudes from catalog and formula."""
    scale = notes.metrics.get("pixel_scale_arcsec", 1.012)
    notes.metrics["seeing_arcsec"] = notes.metrics["seeing_px"] * scale
    if psf is None or psfcat is None or zp is None:
        return
    formula = limits.limiting_flux_formula(background, psf, gain, config.maglim_snr)
    catalog = limits.limiting_flux_catalog(psfcat, config.maglim_snr)
    notes.metrics["maglim_formula_mag"] = zp.magzp - 2.5 * math.log10(formula)
    if math.isfinite(catalog):
        notes.metrics["maglim_catalog_mag"] = zp.magzp - 2.5 * math.log10(catalog)
    notes.metrics["maglim_mag"] = notes.metrics.get("maglim_catalog_mag", notes.metrics["maglim_formula_mag"])
    notes.say(f"limiting magnitude {notes.metrics['maglim_mag']:.2f}")


def _check_limit(
    scene: measure.Scene,
    photometry: PsfPhotometry | None,
    psf: PsfModel | None,
    zp: Zeropoint | None,
    config: ScienceConfig,
    notes: _Notes,
) -> None:
    """Put stars of the limiting magnitude into the image and look for them."""
    if photometry is None or psf is None or zp is None:
        return
    limit = 10 ** (0.4 * (zp.magzp - notes.metrics["maglim_mag"]))
    found = limits.inject(
        photometry, scene.data, scene.usable, psf, scene.gain, limit, config.photometry.detection, config.injection
    )
    notes.metrics["n_injected"] = float(found.number.sum())
    if not found.number.all():
        return
    notes.metrics["injected_recovered_percent"] = 100.0 * found.fraction_at(limit)
    half = found.half_flux_dn
    if math.isfinite(half):
        notes.metrics["maglim_injected_mag"] = zp.magzp - 2.5 * math.log10(half)
    notes.say(
        f"of stars put in at the limiting magnitude {notes.metrics['injected_recovered_percent']:.0f} % are found, "
        f"half of those at {notes.metrics.get('maglim_injected_mag', math.nan):.2f}"
    )


def _mark_sources(mask: np.ndarray, footprint: np.ndarray, psfcat: np.ndarray | None) -> None:
    """Set the two source bits."""
    np.bitwise_or(mask, np.uint16(bits.SEXTRACTED), out=mask, where=footprint)
    if psfcat is not None and len(psfcat):
        ix = np.clip(np.rint(psfcat["xpos"]).astype(int), 0, mask.shape[1] - 1)
        iy = np.clip(np.rint(psfcat["ypos"]).astype(int), 0, mask.shape[0] - 1)
        mask[iy, ix] |= np.uint16(bits.PSF_SOURCE)


def _count_pixels(mask: np.ndarray, notes: _Notes) -> None:
    """Percentages of saturated and of bad pixels."""
    saturated, bad = _count_bits(mask, bits.SATURATED, bits.HARD_BAD)
    notes.metrics["saturated_percent"] = 100.0 * saturated / mask.size
    notes.metrics["bad_percent"] = 100.0 * bad / mask.size


def _count_bits(mask: np.ndarray, *patterns: int) -> np.ndarray:
    """Pixels that have any bit of each pattern."""
    counts = np.empty(len(patterns), np.int64)
    mask_kernels.count_bits(mask, np.array(patterns, np.uint16), counts)
    return counts


def _header(
    inputs: ScienceInputs,
    who: cards.Identity,
    band: filters.Filter,
    solution: AstrometricSolution | None,
    guess: WCS,
    zp: Zeropoint | None,
    corrections: ApertureCorrections,
    saturate: float,
    metrics: dict[str, float],
    infobits: int,
    status: int,
) -> fits.Header:
    """The complete header."""
    header = cards.start(inputs.primary, inputs.split.header)
    cards.set_photometry(header, zp, saturate, band.pcolor)
    cards.set_apertures(header, corrections)
    cards.set_identity(header, who)
    cards.set_calibration_ids(header, inputs.bias.header, inputs.flat.header)
    cards.set_quality(header, metrics, infobits, status)
    if solution is not None:
        cards.set_astrometry(header, solution.header)
    else:
        cards.set_nominal_wcs(header, guess)
    return header
