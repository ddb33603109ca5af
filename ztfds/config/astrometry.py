"""Parameters of the astrometric solution and of the photometric zero point."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import StepConfig


class AstrometryConfig(StepConfig):
    """How a quadrant's detections are tied to the static Gaia catalog."""

    search_radius_arcsec: float = Field(
        default=180.0,
        gt=0,
        description="Largest pointing error per axis, arcsec, tried first: the mount is good to 2 arcmin.",
    )
    wide_radius_arcsec: float = Field(
        default=480.0,
        gt=0,
        description="Largest pointing error per axis, arcsec, tried when the first search finds nothing.",
    )
    rotation_range_deg: float = Field(
        default=1.5,
        ge=0,
        description="Rotation, deg, tried either side of the header's; instrument flexure stays below 1.",
    )
    scale_range: float = Field(
        default=0.02, ge=0, lt=0.2, description="Relative error of the header's pixel scale that is tried and accepted."
    )
    search_all_orientations: bool = Field(
        default=True,
        description="Try every rotation and both parities when the header's orientation gives no solution.",
    )
    n_vote: int = Field(
        default=300,
        ge=20,
        description="Number of brightest detections that vote: enough in the emptiest field, fast in the plane.",
    )
    catalog_depths: tuple[float, ...] = Field(
        default=(1.5, 0.7, 4.0, 20.0),
        description="Catalog density over detection density in the vote, in the order tried: the detections' faint limit "
        "and their share of false ones are not known beforehand, and thousands of saturated stars may be missing.",
    )
    skipped_voters: tuple[int, ...] = Field(
        default=(1, 3, 8),
        description="When the brightest detections give nothing, so many times `n_vote` of them are skipped: artefacts, or "
        "saturated stars that the catalog lacks.",
    )
    min_snr: float = Field(
        default=10.0, gt=0, description="Faintest detection used in the fit and in the metrics, S/N."
    )
    few_stars: int = Field(
        default=50,
        ge=0,
        description="With fewer detections above `min_snr` than this, fainter ones are fitted too.",
    )
    max_fit_stars: int = Field(
        default=6000,
        ge=100,
        description="Most stars in the fit, brightest first: fainter ones add no information, only time.",
    )
    max_order: int = Field(
        default=4, ge=1, le=4, description="Highest polynomial order of the distortion; the archive's headers carry 4."
    )
    stars_for_order: tuple[int, int, int, int] = Field(
        default=(6, 10, 15, 20),
        description="Fewest matched stars for orders 1 to 4; fewer lower the order. Low, for the prior below steadies them.",
    )
    distortion_sigma: tuple[float, float, float] = Field(
        default=(6e-4, 6e-4, 1e-3),
        description="Expected size (1 sigma) of the coefficients of orders 2, 3, 4 in deg^-1, deg^-2, deg^-3, about the "
        "header's own distortion: what the archive's headers show. It steadies the corners when stars are few and says "
        "nothing when they are many.",
    )
    known_distortion_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Factor on `distortion_sigma` where the header carries a distortion of its own: it changes less than "
        "it is.",
    )
    match_radius_arcsec: float = Field(
        default=1.0, gt=0, description="Radius of the last matching, arcsec: half a seeing disc."
    )
    isolation_arcsec: float = Field(
        default=3.0,
        ge=0,
        description="Catalog stars with a companion inside this radius, arcsec, are not fitted: blends.",
    )
    isolation_flux_ratio: float = Field(
        default=0.05,
        gt=0,
        description="Companions' flux over the star's that makes a blend: 0.05 x 1 arcsec is 50 mas.",
    )
    default_fwhm_px: float = Field(
        default=2.2, gt=0, description="Seeing, pixels, for centroid errors when none is given."
    )
    error_floor_mas: float = Field(
        default=15.0,
        gt=0,
        description="Error per axis, mas, added in quadrature: atmosphere in 30 s and PSF model at infinite S/N.",
    )
    softening_arcsec: float = Field(
        default=0.2,
        gt=0,
        description="Error, arcsec, added in quadrature in the first fits, so that bright stars that are blended or have "
        "moved show instead of bending the polynomial.",
    )
    clip_sigma: float = Field(default=4.0, gt=2, description="Residuals beyond this many robust sigma leave the fit.")
    min_matches: int = Field(default=8, ge=5, description="Fewest pairs with which the search goes on.")
    min_final_matches: int = Field(
        default=22,
        ge=5,
        description="Fewest matched stars of an acceptable solution: below, corners can be off by more than an arcsec.",
    )
    min_match_fraction: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Fewest matches over the smaller of detections and catalog stars expected in the image.",
    )
    max_log10_chance: float = Field(
        default=-10.0,
        lt=0,
        description="log10 of the probability that chance makes so many matches, all hypotheses tried counted.",
    )
    max_rms_arcsec: float = Field(
        default=0.4, gt=0, description="Largest robust residual per axis of the fitted stars, arcsec."
    )
    max_predicted_error_arcsec: float = Field(
        default=0.6,
        gt=0,
        description="Largest error, 1 sigma per axis, arcsec, that the fit itself predicts at any detection: stars that "
        "crowd in one corner say nothing about the others.",
    )
    max_error_unseen_arcsec: float = Field(
        default=1.5,
        gt=0,
        description="The same anywhere in the image, for parts without detections (dead, or behind a cloud).",
    )
    min_concentration: float = Field(
        default=0.6,
        gt=0.25,
        lt=1,
        description="Fewest of the matches that lie within half the radius: chance matches fill the disc evenly (0.25).",
    )
    max_shear: float = Field(
        default=0.01,
        gt=0,
        description="Largest relative difference of the two axes' scales or departure from a right angle.",
    )
    qa_grid: int = Field(
        default=3, ge=1, description="Cells per axis in which counts and median residuals are reported."
    )

    @classmethod
    def tiny(cls) -> AstrometryConfig:
        """Values for the tiny camera: 4.4 arcmin quadrants with 30 to 100 stars."""
        return cls(qa_grid=2, max_order=3, min_final_matches=8, few_stars=16)


class FilterCalibration(StepConfig):
    """What the photometric calibration of one filter should give (limits of its quality: ``survey/data/quality_limits.csv``)."""

    nominal_color_coefficient: float = Field(
        description="Colour coefficient, mag/mag, where stars are too few to fit it."
    )
    color_coefficient_error: float = Field(
        default=0.05, gt=0, description="1 sigma of the nominal coefficient, mag/mag."
    )
    color_range: tuple[float, float] = Field(
        description="Calibrators' colours, mag: wide enough for stars behind the dust of the plane (g - r from 1.1 to 2.5), where "
        "a range of unreddened stars would leave no lever for the colour coefficient."
    )


def _filters() -> dict[str, FilterCalibration]:
    return {
        "zg": FilterCalibration(nominal_color_coefficient=-0.06, color_range=(0.0, 2.4)),
        "zr": FilterCalibration(nominal_color_coefficient=0.10, color_range=(0.0, 2.4)),
        "zi": FilterCalibration(nominal_color_coefficient=0.0, color_range=(-0.1, 1.4)),
    }


class ZeropointConfig(StepConfig):
    """How instrumental PSF magnitudes are tied to PS1."""

    filters: dict[str, FilterCalibration] = Field(
        default_factory=_filters, description="Expectations per filter code (zg, zr, zi)."
    )
    match_radius_arcsec: float = Field(
        default=1.0, gt=0, description="Matching radius, arcsec, after the astrometric solution."
    )
    isolation_arcsec: float = Field(
        default=5.0, ge=0, description="Calibrators with PS1 companions inside this radius, arcsec, are left out."
    )
    isolation_flux_ratio: float = Field(
        default=0.02, gt=0, description="Companions' flux over the star's that excludes it: 0.02 is a 20 mmag error."
    )
    min_isolated: int = Field(
        default=60,
        ge=0,
        description="With fewer isolated calibrators the least crowded ones fill up to this number: the fit is robust "
        "against some blends, not against lack of stars.",
    )
    min_sgscore: float = Field(default=0.5, ge=0, le=1, description="Score above which a PS1 object is a star.")
    bright_mag: float = Field(default=13.5, description="Brightest PS1 magnitude used: saturation, here and in PS1.")
    faint_mag: float = Field(default=19.5, description="Faintest PS1 magnitude used: the catalog's errors grow beyond.")
    min_snr: float = Field(default=20.0, gt=0, description="Lowest S/N of a calibrator's PSF flux.")
    relaxed_snr: float = Field(
        default=7.0, gt=0, description="Lowest S/N when `min_snr` leaves fewer than `min_for_color` calibrators."
    )
    intrinsic_scatter_mag: float = Field(
        default=0.01, gt=0, description="Scatter of stars about a linear colour term, mag, added to each star's error."
    )
    clip_sigma: float = Field(default=3.0, gt=1.5, description="Residuals beyond this many robust sigma leave the fit.")
    min_matches: int = Field(default=5, ge=2, description="Fewer calibrators than this: no photometric calibration.")
    min_for_color: int = Field(
        default=15,
        ge=3,
        description="Fewer calibrators than this: the colour coefficient is held near its nominal value.",
    )
    min_color_spread_mag: float = Field(
        default=0.10, ge=0, description="Colour rms, mag, below which the coefficient is held near its nominal value."
    )
    max_scatter_mag: float = Field(default=0.5, gt=0, description="Scatter, mag, above which no calibration is served.")
    spatial_grid: int = Field(default=4, ge=1, description="Cells per axis of the map of median residuals.")
    min_for_surface: int = Field(
        default=60, ge=6, description="Fewer calibrators than this: no surface is fitted through their residuals."
    )
    spatial_prior_mag: float = Field(
        default=0.02,
        gt=0,
        description="1 sigma, mag, of each term of that surface before the stars speak: flats are this good.",
    )
    apply_spatial: bool = Field(
        default=False,
        description="Take the surface out of the magnitudes of the PSF catalog (header ZPSPAPP): off, as in the real survey.",
    )

    @classmethod
    def tiny(cls) -> ZeropointConfig:
        """Values for the tiny camera: some tens of calibrators."""
        return cls(spatial_grid=2, min_isolated=20, min_for_color=8)
