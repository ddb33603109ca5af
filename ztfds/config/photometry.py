"""Parameters of background, detection, PSF, photometry and of the whole instrumental calibration (P5)."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.astrometry import AstrometryConfig, ZeropointConfig
from ztfds.config.base import StepConfig
from ztfds.config.detrend import DetrendConfig, MaskConfig


class BackgroundConfig(StepConfig):
    """Sky level and noise on a mesh."""

    box_px: int = Field(128, ge=16, description="Side of a mesh box, pixels: many seeing discs, less than vignetting.")
    filter_boxes: int = Field(
        3, ge=1, description="Side of the median filter over boxes: one bright galaxy is voted out."
    )
    clip_sigma: float = Field(3.0, gt=1.5, description="Clipping limit of the box histogram, sigmas.")
    min_usable_fraction: float = Field(0.05, gt=0, lt=1, description="Fewer usable pixels make a box interpolated.")


class DetectionConfig(StepConfig):
    """Matched filter and local maxima."""

    limit_snr: float = Field(4.0, gt=2, description="Threshold, sigmas of the matched filter, of the first list.")
    bright_snr: float = Field(
        10.0, gt=3, description="Threshold, sigmas, of the list given to the astrometric solution."
    )
    start_fwhm_px: float = Field(2.2, gt=0.5, description="Seeing, pixels, assumed before it is measured.")
    box_fwhm: float = Field(
        3.0, gt=1, description="Half side, in FWHM, of the box whose mean is taken out: zero-sum filter."
    )
    filter_fwhm: float = Field(
        1.15,
        gt=0.5,
        description="Width of the filter's Gaussian over the seeing: the wings of stars widen the best one.",
    )
    residual_snr: float = Field(
        3.3, gt=2, description="Threshold, sigmas, where sources are subtracted: nine of ten stars of S/N 5 pass."
    )
    residual_box_fwhm: float = Field(6.0, gt=1, description="Half side, in FWHM, of the box there.")
    residual_damping: float = Field(
        0.04, ge=0, description="A source found on a residual must exceed this fraction of the model there: PSF errors."
    )
    max_sources: int = Field(400_000, ge=1000, description="More detections than this are not kept (brightest stay).")
    fwhm_stars: int = Field(300, ge=10, description="Brightest unsaturated detections that measure the seeing.")


class PsfConfig(StepConfig):
    """Selection of PSF stars and the least-squares solution for the PSF."""

    min_snr: float = Field(40.0, gt=5, description="Faintest PSF star, S/N of the matched filter.")
    relaxed_snr: float = Field(
        12.0, gt=3, description="Faintest PSF star where `min_snr` leaves fewer than `wanted_stars`."
    )
    saturation_margin: float = Field(
        0.75, gt=0, le=1, description="Brightest pixel of a PSF star over SATURATE: the last part is not linear."
    )
    max_stars: int = Field(
        160, ge=10, description="PSF stars used at most: beyond, the model's errors are not statistical."
    )
    wanted_stars: int = Field(25, ge=3, description="With fewer isolated stars the limits are relaxed.")
    min_stars: int = Field(3, ge=1, description="With fewer stars there is no PSF.")
    isolation_px: float = Field(9.0, gt=0, description="Radius, pixels, without a neighbour that matters.")
    isolation_flux_ratio: float = Field(0.04, gt=0, description="Neighbour's flux over the star's that matters.")
    relaxed_flux_ratio: float = Field(0.30, gt=0, description="The same when relaxed: neighbours are subtracted later.")
    width_clip: float = Field(4.0, gt=1, description="Robust sigmas about the median width that a star may differ.")
    stars_for_terms: tuple[int, int] = Field(
        (20, 90), description="Stars needed for a field variation of order 1 and of order 2."
    )
    prior_shape: float = Field(
        0.30, gt=0, description="1 sigma of the PSF's departure from its round profile, fraction of the profile."
    )
    prior_field: float = Field(0.10, gt=0, description="1 sigma of each field term, fraction of the profile.")
    prior_roughness: float = Field(
        0.02,
        gt=0,
        description="1 sigma of the second difference, node to node, of departure over profile: seeing is smooth.",
    )
    rounds: int = Field(3, ge=1, description="Alternations of star positions and PSF coefficients.")
    iterations: int = Field(15, ge=1, description="Conjugate-gradient steps of the first round.")
    later_iterations: int = Field(
        8, ge=1, description="The same of later rounds, which begin where the last one ended."
    )
    outlier_sigma: float = Field(6.0, gt=2, description="Pixels further off than this lose weight (Huber).")
    pair_fwhm: float = Field(
        1.7,
        gt=0,
        description="A neighbour found nearer than this, in FWHM, rules a star out when the PSF is made again.",
    )
    rebuild_error: float = Field(
        0.02, gt=0, description="Relative error above which the PSF is made again: its stars were not all single."
    )
    rebuild_density: float = Field(
        6e-4, ge=0, description="Sources per pixel above which the PSF is made again with neighbours subtracted."
    )


class FitConfig(StepConfig):
    """Simultaneous PSF fit."""

    fit_fwhm: float = Field(
        1.5, gt=0.5, description="Radius of the fitted pixels, in FWHM: beyond, neighbours dominate."
    )
    min_fit_radius_px: float = Field(3.0, gt=1, description="Least radius of the fitted pixels.")
    paint_scale: float = Field(
        0.9,
        gt=0,
        description="Radius painted over sqrt(flux / sky sigma), pixels: the model falls below 0.3 sigma there.",
    )
    sweeps: int = Field(15, ge=1, description="Most sweeps over all sources after each detection round.")
    rounds: int = Field(2, ge=0, description="Detection rounds on the residual image.")
    keep_snr: float = Field(1.0, ge=0, description="Sources fainter than this many sigmas die in the fit.")
    catalog_snr: float = Field(3.0, ge=0, description="Faintest catalog entry, S/N of the PSF flux.")
    merge_fwhm: float = Field(0.45, gt=0, description="Two sources nearer than this, in FWHM, are one.")
    model_error_floor: float = Field(
        0.003, ge=0, description="Error of the PSF model in a pixel, fraction; the measured one is used where larger."
    )
    flux_error_floor: float = Field(
        0.0006,
        ge=0,
        description="Error of a flux that no averaging removes (PSF interpolation over the field), fraction.",
    )
    saturated_fit_px: float = Field(5.0, gt=0, description="Width of the ring of wings fitted around a saturated core.")
    edge_px: int = Field(3, ge=2, description="Sources nearer than this to the image's edge carry flags = -1.")


class ApertureConfig(StepConfig):
    """The aperture catalog."""

    diameters_px: tuple[float, float, float, float, float, float] = Field(
        (2.0, 3.0, 4.0, 6.0, 10.0, 14.0), description="Fixed aperture diameters, pixels (keyword FIXAPERS)."
    )
    detect_sigma: float = Field(1.5, gt=0.5, description="Isophote, sigmas of the sky in a pixel.")
    min_area_px: int = Field(5, ge=1, description="Connected pixels above the isophote.")
    deblend_levels: int = Field(16, ge=1, description="Deblending thresholds.")
    deblend_contrast: float = Field(0.005, ge=0, description="Deblending contrast.")
    kron_factor: float = Field(2.5, gt=0, description="MAG_AUTO aperture in Kron radii.")
    min_kron_radius: float = Field(3.5, gt=0, description="Least MAG_AUTO radius in object sigmas.")
    correction_snr: float = Field(30.0, gt=5, description="Faintest star of the aperture corrections, S/N.")
    correction_isolation_px: float = Field(12.0, gt=0, description="Radius without neighbour of such a star.")
    min_correction_stars: int = Field(5, ge=2, description="Fewer stars: no aperture corrections (cards are left out).")


class InjectionConfig(StepConfig):
    """Artificial stars that check the limiting magnitude."""

    levels: tuple[float, ...] = Field(
        (0.5, 0.7, 1.0, 1.4, 2.0),
        description="Their fluxes over the limiting flux, ascending: from lost to always found.",
    )
    number: int = Field(40, ge=5, description="Stars of each flux: fractions are good to 8 %.")
    radius_fwhm: float = Field(0.7, gt=0, description="A detection this near, in FWHM, is the star.")


class PhotometryConfig(StepConfig):
    """All of photometry: background, detection, PSF, fit, apertures."""

    background: BackgroundConfig = Field(default_factory=BackgroundConfig, description="Sky mesh.")
    detection: DetectionConfig = Field(default_factory=DetectionConfig, description="Detection.")
    psf: PsfConfig = Field(default_factory=PsfConfig, description="PSF model.")
    fit: FitConfig = Field(default_factory=FitConfig, description="PSF fit.")
    apertures: ApertureConfig = Field(default_factory=ApertureConfig, description="Aperture catalog.")

    @classmethod
    def tiny(cls) -> PhotometryConfig:
        """Values for the tiny camera: 264 x 256 pixels, 60 to 100 stars, about 30 of them bright."""
        return cls(background=BackgroundConfig(box_px=64), psf=PsfConfig(stars_for_terms=(30, 120), wanted_stars=20))


class ScienceConfig(StepConfig):
    """Pipeline 5, from a split quadrant to a calibrated image with catalogs."""

    detrend: DetrendConfig = Field(default_factory=DetrendConfig, description="Applying bias and flat.")
    photometry: PhotometryConfig = Field(default_factory=PhotometryConfig, description="Sources and their fluxes.")
    masks: MaskConfig = Field(default_factory=MaskConfig, description="Artefact masks.")
    astrometry: AstrometryConfig = Field(default_factory=AstrometryConfig, description="Astrometric solution.")
    zeropoint: ZeropointConfig = Field(default_factory=ZeropointConfig, description="Photometric zero point.")
    bright_star_margin_px: float = Field(
        400.0,
        ge=0,
        description="Catalog stars this far outside the image still throw ghosts and halos into it, pixels.",
    )
    gaia_faint_mag: float = Field(20.5, description="Faintest Gaia star handed to the astrometric solution, mag.")
    maglim_snr: float = Field(5.0, gt=0, description="S/N of the limiting magnitude MAGLIM.")
    injection: InjectionConfig = Field(default_factory=InjectionConfig, description="Check of the limiting magnitude.")

    @classmethod
    def tiny(cls) -> ScienceConfig:
        """Values for the tiny camera."""
        return cls(
            detrend=DetrendConfig.tiny(),
            photometry=PhotometryConfig.tiny(),
            masks=MaskConfig.tiny(),
            astrometry=AstrometryConfig.tiny(),
            zeropoint=ZeropointConfig.tiny(),
            bright_star_margin_px=100.0,
        )
