"""Settings of the search for streaks on a difference image."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import StepConfig


class StreakConfig(StepConfig):
    """Trailed sources: line sums on the significance image, fits of the trailed PSF, rules of the score."""

    enabled: bool = Field(True, description="Whether streaks are looked for at all.")
    clip_sigma: float = Field(
        4.0,
        gt=0,
        le=5.6,
        description="Clip of a pixel of Scorr in line sums, sigmas: a star of any brightness adds less than 7; 16-bit sums.",
    )
    coarse_threshold: float = Field(
        5.4, gt=0, description="Line sums to be fitted, sigmas: 98 % of streaks of S/N 8, 0.1 s of fits of noise."
    )
    short_directions: int = Field(12, ge=4, description="Directions per quarter turn for the shorter lengths: 7.5 deg.")
    short_lengths_px: tuple[float, float, float, float] = Field(
        (8.0, 11.0, 16.0, 22.0), description="Lengths summed, px: the best is within 8 % of the S/N of any between."
    )
    long_directions: int = Field(36, ge=8, description="Directions per quarter turn for the longer lengths: 2.5 deg.")
    long_lengths_px: tuple[float, float, float, float] = Field(
        (30.0, 42.0, 60.0, 90.0), description="Longer lengths summed, px; fits extend to any length."
    )
    cell_px: int = Field(16, ge=4, description="Cells of the image of which only the best line is kept, px.")
    max_fits: int = Field(
        600, ge=1, description="Most lines fitted, the most significant first: a crowded field has 500."
    )
    point_share: float = Field(
        0.8,
        ge=0,
        description="Lines that explain less than this part of what a point source there does are not fitted.",
    )
    fit_reach_px: float = Field(6.0, gt=2, description="Pixels fitted on each side of a streak: 3 FWHM.")
    fit_iterations: int = Field(12, ge=1, description="Most steps of a fit; 6 are usual.")
    refit_snr: float = Field(
        5.2, ge=0, description="Fits from this S/N on are tried again on the best part of their line."
    )
    sky_snr: float = Field(5.6, ge=0, description="Fits from this S/N on get their own local sky and are judged.")
    sky_inner_px: float = Field(
        8.0, gt=0, description="The local sky is measured from this distance of the streak, px."
    )
    sky_outer_px: float = Field(30.0, gt=0, description="To this distance, px.")
    threshold: float = Field(
        6.5, gt=0, description="Least S/N of the fit of a streak of 20 px or less: above what noise alone makes."
    )
    threshold_growth: float = Field(
        0.25,
        ge=0,
        description="Its growth with every doubling of the length: more long lines than short ones are independent.",
    )
    min_length_px: float = Field(6.0, gt=0, description="Shortest fitted length, px: 2.7 FWHM; shorter is a point.")
    max_length_px: float = Field(180.0, gt=0, description="Longest, px; longer is a satellite or an aircraft.")
    point_drop: float = Field(
        12.0, ge=0, description="A line must lower chi-square by this much more than a point source does."
    )
    point_drop_share: float = Field(
        0.35, ge=0, le=1, description="And by this part of its own drop: 0.6 for a streak of 8 px, 0 for a point."
    )
    max_blocked: float = Field(0.3, ge=0, le=1, description="Largest share of the streak on bad pixels.")
    max_evenness: float = Field(
        3.2, gt=0, description="Largest mean squared deviation of its pieces, in errors squared."
    )
    piece_tolerance: float = Field(0.15, ge=0, description="Deviation of a piece's brightness that is always allowed.")
    max_sides: float = Field(3.5, gt=0, description="Largest light beside the streak, sigmas: halos, dipoles, ghosts.")
    side_share: float = Field(0.1, ge=0, description="And of at least this part of the streak's brightness.")
    max_beyond: float = Field(4.0, gt=0, description="Largest light beyond the ends, sigmas: a longer line.")
    beyond_share: float = Field(0.35, ge=0, description="And of at least this part of the streak's brightness.")
    width_sigmas: float = Field(
        4.0, gt=0, description="A width off the PSF's by more than this many errors is not a streak's."
    )
    narrow_px2: float = Field(
        0.35, ge=0, description="And by this much squared Gaussian width, px^2, when narrower: hits."
    )
    wide_px2: float = Field(1.0, ge=0, description="And by this much when wider: satellites and aircraft out of focus.")
    max_chi2: float = Field(1.35, gt=0, description="Largest reduced chi-square of a faint streak.")
    chi2_snr: float = Field(
        0.03, ge=0, description="Its growth: plus the square of this times S/N, for errors of the PSF."
    )
    star_mag: float = Field(12.5, description="Stars brighter than this have spikes and bleed columns, G mag.")
    star_reach_px: float = Field(
        25.0, gt=0, description="Reach of the spikes of a star of that brightness, px; doubles with every 1.5 mag."
    )
    edge_px: float = Field(
        15.0, ge=0, description="A streak that stays this near to one edge is of the edge's making, px."
    )
    max_track: float = Field(0.3, ge=0, le=1, description="Largest share of a masked track within 10 px of the streak.")
    min_score: float = Field(0.5, ge=0, le=1, description="Streaks below this score are not kept.")
    max_streaks: int = Field(30, ge=1, description="Most streaks kept per quadrant; more are artefacts.")
    aperture_half_px: float = Field(5.0, gt=0, description="Half width of the aperture about the streak, px: 2.3 FWHM.")
    cutout_px: int = Field(63, ge=31, description="Least side of the cutouts, odd, px; longer streaks get larger ones.")

    @classmethod
    def tiny(cls) -> StreakConfig:
        """Values for the tiny camera: the same rules."""
        return cls()
