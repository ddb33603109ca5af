"""Parameters of reference images (P7), of image differencing and of its candidates (P6)."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import NON_CRITICAL, StepConfig
from ztfds.config.photometry import PhotometryConfig
from ztfds.config.streaks import StreakConfig
from ztfds.survey.limits import limits_digest, limits_version


class ReferenceConfig(StepConfig):
    """Which images make a reference and how they are co-added."""

    min_inputs: int = Field(6, ge=1, description="Fewest input images: fewer leave outliers in the co-add.")
    max_inputs: int = Field(15, ge=1, description="Most input images, the sharpest: more make it deeper but blunter.")
    limits_version: int = Field(
        default_factory=limits_version,
        ge=1,
        description="Version of the table survey/data/reference_limits.csv by which inputs and co-adds are judged.",
    )
    limits_digest: str = Field(
        default_factory=limits_digest, description="Digest of its rules: a table changed without a new version shows."
    )
    overrides: dict[str, float] = Field(
        default_factory=dict, description="Limits by metric that replace the table's: other cameras."
    )
    reference_zeropoint_mag: float = Field(
        26.275, description="Zero point of the co-add, mag: near that of good nights, so DN keep their usual meaning."
    )
    grid_step_px: int = Field(64, ge=8, le=256, description="Nodes of the exact coordinate map; error below 1e-3 px.")
    fill_rings: int = Field(6, ge=1, description="Depth to which holes are bridged before resampling, px.")
    mask_reach: int = Field(2, ge=1, le=3, description="A bad pixel spoils samples within this many pixels per axis.")
    clip_sigma: float = Field(4.0, gt=1, description="Outlier rejection about the pixel's median, sigmas.")
    clip_tolerance: float = Field(
        0.15,
        ge=0,
        description="Allowed frame-to-frame change as a fraction of the brightest neighbour: keeps star cores.",
    )
    block_px: int = Field(
        8,
        ge=0,
        le=64,
        description="Side of the blocks in which faint trails and ghosts are looked for, px; 0: not at all.",
    )
    block_sigma: float = Field(
        5.0, gt=1, description="Departure of a block of one frame from the others that takes it out, sigmas of a block."
    )
    block_chain: int = Field(
        4,
        ge=2,
        description="So many touching blocks beyond 3/5 of that, all to one side, go too: faint but long trails.",
    )
    block_grow_sigma: float = Field(2.5, gt=0, description="Departure from which its neighbours follow, sigmas.")
    background_box_px: int = Field(128, ge=16, description="Box of the sky mesh removed from each input, px.")
    photometry: PhotometryConfig = Field(default_factory=PhotometryConfig, description="Sources of the co-add.")
    better_by: float = Field(
        1.3,
        gt=1,
        description="A new version is worth it where it is this much sharper, or its noise this much lower.",
        json_schema_extra=NON_CRITICAL,
    )
    bad_differences: int = Field(
        3,
        ge=1,
        description="A reference is made anew after so many bad differences ...",
        json_schema_extra=NON_CRITICAL,
    )
    of_last: int = Field(5, ge=1, description="... of its last so many.", json_schema_extra=NON_CRITICAL)

    @classmethod
    def tiny(cls) -> ReferenceConfig:
        """Values for the tiny camera's quadrants of about 256 pixels."""
        return cls(
            grid_step_px=32,
            background_box_px=64,
            photometry=PhotometryConfig.tiny(),
            overrides={"seeing_px": 5.0, "fwhm_px": 5.0, "nsources": 5.0},
        )


class CandidateConfig(StepConfig):
    """Detection, measurement and alert triggers of candidates; `thres_*` are the published trigger criteria."""

    threshold: float = Field(
        5.1,
        gt=0,
        description="Detection threshold on the height of |Scorr| between pixels, sigmas: noise peaks as often as on pixels at 5.",
    )
    min_local_snr: float = Field(
        3.0,
        ge=0,
        description="Least |Scorr| or S/N over the scatter about the PSF fit (root of reduced chi-square): residuals of bright stars.",
    )
    spike_chi: float = Field(
        10.0,
        ge=0,
        description="Light in a single pixel must fit better than a star by so much in chi-square to be a hit.",
    )
    raw_threshold: float = Field(3.0, gt=0, description="Raw events down to this |Scorr| are counted, sigmas.")
    border_px: int = Field(4, ge=1, description="No candidates this close to an edge, px: the PSF fit needs pixels.")
    merge_px: float = Field(2.5, ge=0, description="A weaker peak of the same sign within this radius is dropped, px.")
    max_candidates: int = Field(
        2000, ge=1, description="More peaks than this on a full quadrant make it a bad difference."
    )
    fit_half_px: int = Field(
        4, ge=2, le=10, description="Half size of the PSF-fitting box, px: holds 99 % at 2.2 px FWHM."
    )
    fit_iterations: int = Field(8, ge=0, description="Gauss-Newton steps of a PSF fit.")
    fit_reach_px: float = Field(2.0, gt=0, description="Farthest a fit may move from its peak, px.")
    aperture_diameter_px: float = Field(14.0, gt=0, description="Diameter of magap, px.")
    aperture_big_diameter_px: float = Field(18.0, gt=0, description="Diameter of magapbig, px.")
    sky_inner_px: float = Field(
        15.0,
        gt=0,
        description="Inner radius of the local-sky annulus, px: beyond hosts and wings (checked on real alerts).",
    )
    sky_outer_px: float = Field(30.0, gt=0, description="Outer radius of the local-sky annulus, px.")
    cutout_px: int = Field(63, ge=11, description="Side of the cutouts, odd, px.")
    gaia_radius_arcsec: float = Field(90.0, gt=0, description="Search radius for the nearest Gaia sources, arcsec.")
    gaia_bright_mag: float = Field(14.0, description="Faint limit of 'bright' Gaia sources, G mag.")
    ps1_radius_arcsec: float = Field(30.0, gt=0, description="Search radius for PS1 sources, arcsec.")
    known_radius_arcsec: float = Field(
        30.0, gt=0, description="Search radius for known Solar-System objects, arcsec: that of the real packets."
    )
    thres_snr: float = Field(5.0, ge=0, description="Smallest PSF-fit flux / error.")
    thres_magpsf: float = Field(23.5, description="Faintest magpsf, mag.")
    thres_nbad: int = Field(4, ge=0, description="Most bad pixels in the 5 x 5 stamp.")
    thres_fwhm: float = Field(7.0, gt=0, description="Widest FWHM, px.")
    thres_elong: float = Field(1.6, ge=1, description="Largest elongation.")
    thres_magdiff_min: float = Field(-0.4, description="Smallest magap - magpsf, mag.")
    thres_magdiff_max: float = Field(0.75, description="Largest magap - magpsf, mag.")
    thres_rb: float = Field(0.0, description="Smallest rb: 0 means that the score is attached, not applied.")

    @classmethod
    def tiny(cls) -> CandidateConfig:
        """Values for the tiny camera: the same cuts, a candidate limit that suits 1/140 of the area."""
        return cls(max_candidates=400)


class DifferenceConfig(StepConfig):
    """From a science image and a reference to difference, score and candidates."""

    candidates: CandidateConfig = Field(default_factory=CandidateConfig, description="Detection and measurement.")
    streaks: StreakConfig = Field(default_factory=StreakConfig, description="Trailed sources.")
    grid_step_px: int = Field(64, ge=8, le=256, description="Nodes of the exact coordinate map; error below 1e-3 px.")
    fill_rings: int = Field(8, ge=1, description="Depth to which holes are bridged before convolutions, px.")
    mask_reach: int = Field(2, ge=1, le=3, description="A bad reference pixel spoils samples this near per axis, px.")
    mask_growth_px: int = Field(
        1, ge=0, description="Growth of radiation hits, tracks and missing pixels, px: their rims are not sharp."
    )
    saturated_growth_px: int = Field(
        6, ge=0, description="Growth of saturated pixels, px: what the difference kernels spread of their light."
    )
    mend_least_dn: float = Field(
        30.0,
        gt=0,
        description="Faintest model that fills a pixel without any measurement, DN: several sigmas of the sky.",
    )
    mend_star_dn: float = Field(
        3000.0,
        gt=0,
        description="Faintest star whose bad pixels get what its PSF says, DN: about mag 17.5, cheap enough.",
    )
    mend_reach_px: int = Field(6, ge=1, le=12, description="How near to a star a bad pixel needs that, px.")
    patch_error: float = Field(
        0.15, ge=0, description="Error of a pixel taken from the other image, fraction of its light: other PSF."
    )
    halo_star_dn: float = Field(
        1e5, gt=0, description="Faintest star whose light beyond the PSF stamp is looked at, DN: mag 13.8."
    )
    halo_stars: int = Field(60, ge=5, description="Most stars that the light beyond the stamps is measured on: 20 ms.")
    tile_px: int = Field(
        440,
        ge=128,
        description="Largest side of a tile with one PSF, px: 7 x 7 in a full quadrant; with overlap 480, a fast FFT.",
    )
    tile_margin_px: int = Field(20, ge=16, description="Overlap of tiles: more than the reach of all kernels, px.")
    psf_size: int = Field(25, ge=11, description="Side of the PSF stamps, odd, px.")
    star_snr: float = Field(30.0, gt=0, description="Faintest star used for matching, S/N.")
    star_bright_mag: float = Field(14.0, description="Brightest matching star, mag: near saturation beyond.")
    star_faint_mag: float = Field(19.5, description="Faintest matching star, mag.")
    star_isolation_px: float = Field(7.0, gt=0, description="No neighbour above 1/5 of the flux this near, px.")
    star_bad_fraction: float = Field(
        0.1, ge=0, le=1, description="Largest share of bad (bridged) pixels around a matching star; none in its core."
    )
    star_half_px: int = Field(5, ge=2, description="Half size of the fitted window of a matching star, px.")
    max_stars: int = Field(160, ge=5, description="Most matching stars, spread over the image: 0.1 s.")
    min_matches: int = Field(20, ge=1, description="Fewest stars for a measured gain, else the zero points give it.")
    saturation_margin: float = Field(
        0.7, gt=0, le=1, description="Stars peaking above this part of SATURATE are left out."
    )
    warp_significance: float = Field(
        4.0, gt=0, description="A residual warp is applied above this significance, sigmas."
    )
    warp_min_px: float = Field(0.01, ge=0, description="Smaller warps are left alone, px.")
    limits_version: int = Field(
        3, ge=1, description="Version of the limits of a good difference below; raised whenever one of them changes."
    )
    max_warp_px: float = Field(
        0.7, gt=0, description="A larger warp means wrong astrometry: bad difference (alerts would be misplaced), px."
    )
    default_registration_px: float = Field(0.25, ge=0, description="Registration error assumed without stars, px.")
    min_psf_error: float = Field(
        0.0015, gt=0, description="Least relative error of PSFs and flux scale put into Scorr: PSF interpolation."
    )
    max_psf_error: float = Field(
        0.05, gt=0, description="Largest relative error of PSFs and flux scale put into Scorr."
    )
    psf_error_reach_px: int = Field(
        4, ge=2, description="Half size of the window in which a star's shift is told from its PSF error, px."
    )
    background_box_px: int = Field(256, ge=32, description="Box of the residual background mesh, px.")
    gain_tolerance_mag: float = Field(
        0.2, gt=0, description="Largest departure of the gain from the zero points', mag."
    )
    min_scorr_width: float = Field(0.85, gt=0, description="Smallest width of Scorr on blank sky of a good difference.")
    max_scorr_width: float = Field(1.25, gt=0, description="Largest width of Scorr on blank sky of a good difference.")
    max_bad_fraction: float = Field(
        0.5, gt=0, le=1, description="Largest share of unusable pixels of a good difference."
    )
    max_registration_px: float = Field(0.5, gt=0, description="Largest residual registration scatter, px.")
    judged_stars: int = Field(20, ge=5, description="Fewest stars that were tried, to judge how many of them agree.")
    min_matched: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Least share of the tried stars that agree with the reference; good ones: above 0.9.",
    )
    max_star_residual: float = Field(
        0.03,
        gt=0,
        description="Most that bright stars leave in the difference, fraction of their peak; good ones: 0.01.",
    )
    max_star_width: float = Field(
        1.6, gt=0, description="Largest width of Scorr on matched stars; good ones: 0.9 to 1.1."
    )
    dipole_part: float = Field(0.03, gt=0, lt=1, description="A dipole leaves this part of a star with either sign.")
    dipole_sigma: float = Field(4.0, gt=0, description="Either side of a dipole exceeds this many errors of the flux.")
    max_dipole_rate: float = Field(
        0.3, gt=0, le=1, description="Largest share of bright matched stars that are dipoles."
    )
    min_noise_ratio: float = Field(
        0.6,
        gt=0,
        description="Least noise of the difference on blank sky over the expected; crowded references overstate theirs.",
    )
    max_noise_ratio: float = Field(
        1.25, gt=0, description="Largest noise of the difference on blank sky over the expected."
    )
    max_asymmetry: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Largest |positive - negative| over all raw events above `raw_threshold`; good: 0.03.",
    )
    asymmetry_sigma: float = Field(
        4.0,
        ge=0,
        description="It must be exceeded by so many errors: a few events and a few odd places decide nothing.",
    )

    @classmethod
    def tiny(cls) -> DifferenceConfig:
        """Values for the tiny camera: one tile, finer meshes, fewer matches."""
        return cls(
            candidates=CandidateConfig.tiny(),
            streaks=StreakConfig.tiny(),
            grid_step_px=32,
            background_box_px=64,
            min_matches=8,
            star_snr=20.0,
            star_faint_mag=20.5,
            star_isolation_px=5.0,
        )
