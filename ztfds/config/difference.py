"""Parameters of reference images (P7), of image differencing and of its candidates (P6)."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import StepConfig
from ztfds.config.photometry import PhotometryConfig


class ReferenceConfig(StepConfig):
    """Which images make a reference and how they are co-added."""

    min_inputs: int = Field(6, ge=1, description="Fewest input images: fewer leave outliers in the co-add.")
    max_inputs: int = Field(15, ge=1, description="Most input images, the sharpest: more make it deeper but blunter.")
    max_seeing_px: float = Field(4.0, gt=0, description="Widest FWHM of an input, px (of 1.012 arcsec).")
    min_maglim: float = Field(18.0, description="Brightest 5-sigma limit of an input, mag: cloud and twilight.")
    max_zeropoint_rms: float = Field(0.08, gt=0, description="Largest MAGZPRMS of an input, mag: patchy cloud.")
    max_zeropoint_deviation: float = Field(
        0.5, gt=0, description="Largest departure of MAGZP from the candidates' median, mag: cloud, wrong calibration."
    )
    max_colour_deviation: float = Field(
        0.15, gt=0, description="Largest departure of CLRCOEFF from the candidates' median, mag/mag: wrong calibration."
    )
    max_background_dn: float = Field(2000.0, gt=0, description="Brightest sky of an input, DN: moonlight, twilight.")
    max_noise_dn: float = Field(25.0, gt=0, description="Largest robust noise of a sky pixel of an input, DN.")
    max_astrometric_rms_arcsec: float = Field(0.3, gt=0, description="Largest ASTRRMS1/2 of an input, arcsec.")
    first_jd: float = Field(
        2458154.5, description="Inputs start at or after this JD (2018-02-05): earlier data differ."
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
    background_box_px: int = Field(128, ge=16, description="Box of the sky mesh removed from each input, px.")
    min_coverage_fraction: float = Field(
        0.5, ge=0, le=1, description="Share of pixels that at least min(5, inputs) frames must cover, else unusable."
    )
    photometry: PhotometryConfig = Field(default_factory=PhotometryConfig, description="Sources of the co-add.")
    max_fwhm_px: float = Field(4.0, gt=0, description="Widest PSF of a usable co-add, px.")
    min_sources: int = Field(50, ge=0, description="Fewest PSF sources of a usable full-size co-add.")

    @classmethod
    def tiny(cls) -> ReferenceConfig:
        """Values for the tiny camera's quadrants of about 256 pixels."""
        return cls(
            grid_step_px=32,
            background_box_px=64,
            photometry=PhotometryConfig.tiny(),
            min_sources=5,
            max_seeing_px=5.0,
            max_fwhm_px=5.0,
        )


class CandidateConfig(StepConfig):
    """Detection, measurement and alert triggers of candidates; `thres_*` are the published trigger criteria."""

    threshold: float = Field(
        5.1,
        gt=0,
        description="Detection threshold on the height of |Scorr| between pixels, sigmas: noise peaks as often as on pixels at 5.",
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
    grid_step_px: int = Field(64, ge=8, le=256, description="Nodes of the exact coordinate map; error below 1e-3 px.")
    fill_rings: int = Field(8, ge=1, description="Depth to which holes are bridged before convolutions, px.")
    mask_reach: int = Field(2, ge=1, le=3, description="A bad reference pixel spoils samples this near per axis, px.")
    mask_growth_px: int = Field(
        1, ge=0, description="Growth of radiation hits, tracks and missing pixels, px: their rims are not sharp."
    )
    saturated_growth_px: int = Field(
        6, ge=0, description="Growth of saturated pixels, px: what the difference kernels spread of their light."
    )
    tile_px: int = Field(
        440,
        ge=128,
        description="Largest side of a tile with one PSF, px: 7 x 7 in a full quadrant; with overlap and padding 512, a fast FFT.",
    )
    tile_margin_px: int = Field(24, ge=16, description="Overlap of tiles: more than the reach of all kernels, px.")
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
    max_warp_px: float = Field(1.5, gt=0, description="A larger warp means wrong astrometry: bad difference, px.")
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
        0.35, gt=0, description="Largest departure of the gain from the zero points', mag."
    )
    min_scorr_width: float = Field(0.85, gt=0, description="Smallest width of Scorr on blank sky of a good difference.")
    max_scorr_width: float = Field(1.25, gt=0, description="Largest width of Scorr on blank sky of a good difference.")
    max_bad_fraction: float = Field(
        0.5, gt=0, le=1, description="Largest share of unusable pixels of a good difference."
    )
    max_registration_px: float = Field(0.5, gt=0, description="Largest residual registration scatter, px.")

    @classmethod
    def tiny(cls) -> DifferenceConfig:
        """Values for the tiny camera: one tile, finer meshes, fewer matches."""
        return cls(
            candidates=CandidateConfig.tiny(),
            grid_step_px=32,
            background_box_px=64,
            min_matches=8,
            star_snr=20.0,
            star_faint_mag=20.5,
            star_isolation_px=5.0,
        )
