"""Settings of ingest, splitting, calibration frames and artefact masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ztfds.config.base import NON_CRITICAL, StepConfig


class IngestConfig(StepConfig):
    """What a raw file must fulfil before it is let in."""

    pointing_tolerance_deg: float = Field(
        default=0.15, gt=0, description="deg; real pointings are off by up to 0.06, neighbouring fields by more than 1"
    )
    date_tolerance_s: float = Field(
        default=60.0,
        gt=0,
        description="s between the date in the file name and OBSJD; the name is made seconds before the shutter opens",
    )
    exptime_range_s: tuple[float, float] = Field(
        default=(1.0, 600.0),
        description="s; exposures outside are not survey exposures (standard 30, deep drilling up to 300)",
    )
    airmass_tolerance: float = Field(
        default=0.001, ge=0, description="how far below 1 an airmass may be rounded by the observing system"
    )
    accept_substitutes: bool = Field(
        default=False,
        description="whether synonyms and defaults stand in for the real camera's keywords: no in the survey, whose "
        "camera writes them all, so that their absence is a fault; yes for files that somebody else made",
    )

    @classmethod
    def tiny(cls) -> IngestConfig:
        """Values for the tiny camera."""
        return cls()

    @classmethod
    def foreign(cls) -> IngestConfig:
        """Values for files that somebody else made: tolerances wide enough for other habits, too narrow for a wrong label."""
        return cls(
            pointing_tolerance_deg=1.0,
            date_tolerance_s=300.0,
            exptime_range_s=(0.01, 3600.0),
            accept_substitutes=True,
        )


class SplitConfig(StepConfig):
    """Overscan, linearity and saturation."""

    overscan_skip_first: int = Field(
        default=8,
        ge=0,
        description="columns; read right after the image, they hold charge left behind by bright pixels",
    )
    overscan_skip_last: int = Field(
        default=6,
        ge=0,
        description="columns; end-of-line transients. 16 of 30 columns leave 0.007 DN of noise in the model",
    )
    overscan_clip_sigma: float = Field(default=3.0, gt=0, description="sigma; rejection within a row and of rows")
    overscan_column_dn: float = Field(
        default=0.6,
        gt=0,
        description="DN; a column whose typical offset from the others is larger (and 6 sigma) is bright and not used",
    )
    overscan_order: int = Field(
        default=3,
        ge=0,
        le=9,
        description="order of the Chebyshev model along the rows; the published re-reduction uses 3",
    )
    overscan_blocks: int = Field(
        default=32,
        ge=4,
        description="blocks of rows whose medians start the fit: up to a third of them may be contaminated",
    )
    saturation_raw_dn: float | None = Field(
        default=None,
        description="raw DN at and above which a pixel is saturated; None: SATURATE of the header plus the overscan "
        "level, else the nominal level",
    )
    linearize: bool = Field(default=True, description="apply the linearity coefficients valid on the date")

    @classmethod
    def tiny(cls) -> SplitConfig:
        """Values for the tiny camera: fewer rows carry fewer blocks."""
        return cls(overscan_blocks=16)


class DetrendConfig(StepConfig):
    """Application of bias and flat."""

    flat_floor: float = Field(
        default=0.01, gt=0, description="response below which a pixel is dead and its value undefined"
    )
    bleed_fraction: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="of the saturation level; next to a saturated pixel in its column this is bleeding",
    )
    bleed_reach_px: int = Field(
        default=200, ge=0, description="px; longest unsaturated part of a bleed that is followed"
    )
    bleed_margin_px: int = Field(
        default=2, ge=0, description="px added around saturated pixels: blooming spoils neighbours"
    )

    @classmethod
    def tiny(cls) -> DetrendConfig:
        """Values for the tiny camera."""
        return cls()


class QualityRule(StepConfig):
    """One figure of a readout channel that is held against the channel's own history."""

    bit: int = Field(..., ge=0, le=30, description="position of the flag")
    name: str = Field(..., description="name of the flag, as it is stored and reported")
    metric: str = Field(..., description="key of the figure")
    floor: float = Field(
        ..., gt=0, description="unit of the figure; smaller departures are never flagged, however quiet the history"
    )
    relative: bool = Field(default=False, description="whether the floor is a fraction of the history's median")
    upwards: bool = Field(default=False, description="whether only larger values are suspicious (counts, scatters)")


SPLIT_RULES = (
    QualityRule(bit=0, name="overscan_level", metric="overscan_mean_dn", floor=25.0),
    QualityRule(bit=1, name="overscan_drift", metric="overscan_drift_dn", floor=4.0),
    QualityRule(bit=2, name="overscan_jump", metric="overscan_worst_block_dn", floor=1.0, upwards=True),
    QualityRule(bit=3, name="overscan_rejected", metric="overscan_rejected_fraction", floor=0.2, upwards=True),
    QualityRule(bit=4, name="overscan_trail", metric="overscan_trail_dn", floor=0.5),
    QualityRule(bit=5, name="read_noise", metric="read_noise_dn", floor=0.06, relative=True),
    QualityRule(bit=6, name="saturated", metric="saturated_percent", floor=2.0, upwards=True),
    QualityRule(bit=7, name="dead", metric="dead_percent", floor=0.1, upwards=True),
    QualityRule(bit=8, name="banding", metric="row_structure_dn", floor=0.5, upwards=True),
    QualityRule(bit=9, name="structure", metric="structure_percent", floor=10.0, upwards=True),
)
"""What is asked of every split quadrant. Floors: offsets wander by some DN with temperature; a read noise that rises by 6 %
costs 3 % of depth on a dark night; a saturated star of magnitude 3 fills 1 % of a quadrant, a failing amplifier all of it."""

TREND_RULES = (
    QualityRule(bit=0, name="gain", metric="gain_e_per_dn", floor=0.01, relative=True),
    QualityRule(bit=1, name="read_noise", metric="read_noise_dn", floor=0.05, relative=True),
    QualityRule(bit=2, name="saturation", metric="saturation_dn", floor=0.03, relative=True),
    QualityRule(bit=3, name="bad_pixels", metric="bad_fraction", floor=5e-4, upwards=True),
    QualityRule(bit=4, name="bias_level", metric="mean", floor=1.0),
    QualityRule(bit=5, name="lamp_level", metric="level_dn", floor=0.3, relative=True),
)
"""What is asked of the figures that biases and flats yield: a gain that changes by 1 % is another amplifier setting."""


class QualityConfig(StepConfig):
    """When a readout channel departs from its history. Flags warn; they change no pixel."""

    history: int = Field(
        default=30,
        ge=5,
        description="good ones that make the history: an hour of one filter",
        json_schema_extra=NON_CRITICAL,
    )
    least: int = Field(
        default=8,
        ge=3,
        description="fewer good ones are no history and nothing is flagged",
        json_schema_extra=NON_CRITICAL,
    )
    max_age_d: float = Field(
        default=60.0,
        gt=0,
        description="d; older ones do not count, so that a channel that was changed for good gets a new history",
        json_schema_extra=NON_CRITICAL,
    )
    limit_sigma: float = Field(
        default=8.0, gt=0, description="robust sigmas of the history from its median", json_schema_extra=NON_CRITICAL
    )
    split_rules: tuple[QualityRule, ...] = Field(
        default=SPLIT_RULES, description="figures of split quadrants", json_schema_extra=NON_CRITICAL
    )
    trend_rules: tuple[QualityRule, ...] = Field(
        default=TREND_RULES, description="figures of biases and flats", json_schema_extra=NON_CRITICAL
    )

    @classmethod
    def tiny(cls) -> QualityConfig:
        """Values for the tiny camera."""
        return cls()


class AcceptanceConfig(StepConfig):
    """When a calibration image may be used, by itself and against the last good one."""

    min_frames: int = Field(default=5, ge=1, description="frames or epochs; fewer make none")
    max_noisy_fraction: float = Field(
        default=0.02, gt=0, description="fraction of noisy or dead pixels of an acceptable frame"
    )
    max_bad_change: float = Field(
        default=0.003, gt=0, description="largest change of the fraction of bad pixels: 28,000 pixels are three columns"
    )
    max_change: float = Field(
        default=3.0,
        gt=0,
        description="largest robust scatter of (new - last good), in its expected sigmas, before it is refused",
    )
    max_level_change: float = Field(
        default=5.0, gt=0, description="largest change of the mean (bias: DN; flat: relative)"
    )
    max_large_scale_change: float = Field(
        default=3.0, gt=0, description="largest change of any of 8 x 8 parts against the whole, same unit"
    )
    max_noise_ratio: float = Field(
        default=1.5, gt=1, description="largest ratio of median noise to that of the last good one"
    )
    max_structure_ratio: float = Field(
        default=2.0, gt=1, description="largest factor by which the scatter of the pattern may grow or shrink"
    )
    structure_floor: float = Field(
        default=0.5, gt=0, description="scatter of the pattern below which its ratio says nothing (bias: DN)"
    )


class StackConfig(AcceptanceConfig):
    """What the stacks of biases and flats have in common."""

    min_frames: int = Field(default=5, ge=5, description="frames; the outlier rejection needs five")
    clip_sigma: float = Field(
        default=3.5,
        gt=0,
        description="sigma; costs 0.5 % of noise. The 2.5 of the real stacker costs 5 %: it rejects 1 % of good samples",
    )
    noisy_factor: float = Field(
        default=1.85,
        gt=1,
        description="a pixel is noisy above this times the median standard deviation (real flat pipeline)",
    )
    noisy_false_rate: float = Field(
        default=2.5e-4,
        gt=0,
        lt=1,
        description="the factor is raised when few frames would make more good pixels noisy than this fraction",
    )
    noise_rows: int = Field(
        default=24, ge=1, description="rows that tell the noise of a typical pixel: 70,000 pixels fix it to 0.1 %"
    )
    pair_pixels: int = Field(
        default=300_000,
        gt=0,
        description="pixels of a pair of frames whose difference measures noise or gain: 0.3 % each",
    )
    pair_clip_sigma: float = Field(default=4.0, gt=0, description="sigma; rejection of radiation in such differences")
    block_rows: int = Field(
        default=4,
        ge=1,
        description="rows stacked at a time: 20 frames stay in the cache",
        json_schema_extra=NON_CRITICAL,
    )


class BiasConfig(StackConfig):
    """Stack of bias frames."""

    split: SplitConfig = Field(
        default=SplitConfig(), description="overscan model of each frame (linearity is not applied)"
    )
    hot_dn: float = Field(
        default=400.0,
        gt=0,
        description="DN above or below the median of the bias: a stuck or hot pixel, counted as dead",
    )
    quantisation_dn: float = Field(
        default=0.29, gt=0, description="DN, 1/sqrt(12): no pixel's noise is believed to be smaller"
    )

    @classmethod
    def tiny(cls) -> BiasConfig:
        """Values for the tiny camera."""
        return cls(split=SplitConfig.tiny())


class FlatConfig(StackConfig):
    """Stack of dome flats."""

    split: SplitConfig = Field(default=SplitConfig(), description="overscan model and linearity of each frame")
    normalise_clip_sigma: float = Field(
        default=3.0, gt=0, description="sigma; clipping of the mean that normalises a frame"
    )
    normalise_row_step: int = Field(
        default=32,
        ge=1,
        description="every so many rows enter the normalisation: 300,000 pixels fix the mean to 1e-5",
    )
    min_level_dn: float = Field(default=2000.0, gt=0, description="DN; a dimmer flat carries more noise than signal")
    max_level_dn: float = Field(default=40000.0, gt=0, description="DN; a brighter flat is close to saturation")
    low_response: float = Field(
        default=0.7, gt=0, lt=1, description="response below which a pixel has low responsivity"
    )
    high_response: float = Field(default=1.3, gt=1, description="response above which a pixel has high responsivity")
    dead_response: float = Field(
        default=0.01,
        gt=0,
        description="response below which a pixel is dead; its flat value is reset to 1 (the real -r 0.01)",
    )
    pair_level_tolerance: float = Field(
        default=0.1, gt=0, description="largest relative difference of level within a pair of flats for photon transfer"
    )
    turnover: float = Field(
        default=0.7,
        gt=0,
        lt=1,
        description="variance over that of photon transfer below which a pair is saturated: full wells clip the noise",
    )
    max_level_change: float = Field(
        default=0.02, gt=0, description="largest change of the typical pixel against the last good one, relative"
    )
    max_large_scale_change: float = Field(
        default=0.02, gt=0, description="largest change of any of 8 x 8 parts against the whole, relative"
    )
    structure_floor: float = Field(
        default=0.002, gt=0, description="scatter of the response below which its ratio is moot"
    )

    @classmethod
    def tiny(cls) -> FlatConfig:
        """Values for the tiny camera."""
        return cls(split=SplitConfig.tiny(), normalise_row_step=1)


class LowFrequencyConfig(AcceptanceConfig):
    """Low-frequency flats from stars, and lamp corrections: smooth maps of a quadrant."""

    min_frames: int = Field(
        default=5, ge=2, description="epochs; fewer dithers do not part the stars from the detector"
    )
    min_stars: int = Field(
        default=100, ge=10, description="stars seen in two epochs or more, or with a catalog magnitude"
    )
    order: int = Field(default=4, ge=1, le=8, description="largest total degree of the Chebyshev polynomial in x and y")
    coefficient_sigma_mag: float = Field(
        default=0.1,
        gt=0,
        description="mag; prior of each coefficient: far wider than any real map, it only quietens directions without data",
    )
    zeropoint_sigma_mag: float = Field(
        default=0.01,
        gt=0,
        description="mag; prior scatter of the epochs' zero points about their mean. A gradient over the quadrant and a drift of "
        "zero points with the dithers look alike: without catalog magnitudes only steady nights can tell them apart",
    )
    scatter_mag: float = Field(
        default=0.008, gt=0, description="mag; error of bright stars beyond the photon noise (flat, PSF, scintillation)"
    )
    min_snr: float = Field(default=30.0, gt=0, description="stars fainter than this only add numbers")
    clip_sigma: float = Field(
        default=4.685, gt=0, description="Tukey's bisquare, 95 % efficient: variables lose weight"
    )
    cells: int = Field(default=4, ge=1, description="the quadrant is divided into this many cells either way ...")
    min_cell_observations: int = Field(default=20, ge=1, description="... and each needs so many observations")
    lamp_blocks: int = Field(
        default=32, ge=8, description="blocks either way whose medians a lamp correction is fitted to"
    )
    max_uncertainty: float = Field(
        default=0.01, gt=0, description="largest median standard error of the map, relative: what it corrects is 1-3 %"
    )
    max_change: float = Field(default=8.0, gt=0, description="as for flats; errors of a smooth map are all correlated")
    max_level_change: float = Field(default=0.02, gt=0, description="largest change of the typical pixel, relative")
    max_large_scale_change: float = Field(
        default=0.03, gt=0, description="largest change of any of 8 x 8 parts, relative"
    )
    structure_floor: float = Field(default=0.005, gt=0, description="scatter of the map below which its ratio is moot")

    @classmethod
    def tiny(cls) -> LowFrequencyConfig:
        """Values for the tiny camera: a smaller field has fewer stars and less structure."""
        return cls(order=2, min_stars=30, cells=2, min_cell_observations=10)


class GhostModel(StepConfig):
    """One family of reflections of bright stars: where the light comes back, and how large.

    A star at distance r (deg) from the optical axis has its reflection on the same radius at `radial_scale` * r. The radii
    are those of a star of magnitude `max_mag` on the axis; they are multiplied by
    10 ** (0.4 * `growth` * (`max_mag` - mag)) * (1 + `size_per_deg` * r).
    """

    kind: Literal["ghost", "halo"] = Field(default="ghost", description="which mask bit it sets")
    radial_scale: float = Field(
        default=1.0, description="1: around the star itself; negative: on the far side of the axis"
    )
    inner_radius_arcsec: float = Field(default=0.0, ge=0, description="arcsec; 0 for a disc")
    radius_arcsec: float = Field(..., gt=0, description="arcsec")
    growth: float = Field(
        default=0.0,
        ge=0,
        description="radius in powers of the star's light: 0 for out-of-focus images of the pupil, whose size the optics "
        "fix; 1/3 to 1/2 for an aureole of scattered light masked down to one surface brightness",
    )
    size_per_deg: float = Field(default=0.0, description="relative change of the radii per deg from the axis")
    max_mag: float = Field(..., description="mag (Gaia G); only stars this bright or brighter make one")

    def radii_arcsec(self, mag: float, axis_distance_deg: float) -> tuple[float, float]:
        """Inner and outer radius, arcsec, for a star of magnitude `mag` at a distance from the axis."""
        factor = 10.0 ** (0.4 * self.growth * (self.max_mag - mag)) * (1.0 + self.size_per_deg * axis_distance_deg)
        return self.inner_radius_arcsec * factor, self.radius_arcsec * factor


class MaskConfig(StepConfig):
    """Artefacts of a science image."""

    hit_fwhm_factor: float = Field(
        default=0.87,
        gt=0,
        le=1,
        description="the sharpest plausible PSF is this times the measured FWHM: leaves room for its variation over "
        "the quadrant and for its shape",
    )
    hit_min_fwhm_px: float = Field(
        default=1.25,
        gt=0,
        description="px, pixel included; below this nothing is looked for: a star cannot be told from a hit",
    )
    hit_candidate_sigma: float = Field(default=3.0, gt=0, description="sky sigmas of a pixel that is looked at closely")
    hit_excess_sigma: float = Field(
        default=6.0, gt=0, description="sigma above its outer pair: nothing fainter is a hit"
    )
    hit_sharp_sigma: float = Field(
        default=4.0, gt=0, description="sigma by which the limit on sharpness must be broken"
    )
    hit_grow_excess_sigma: float = Field(default=3.0, gt=0, description="sigma, the same for neighbours of hits")
    hit_grow_sharp_sigma: float = Field(default=3.0, gt=0, description="sigma, the same for neighbours of hits")
    hit_grow_rounds: int = Field(default=4, ge=0, description="rounds of growth: a track of 5 px width is filled")
    saturated_margin_px: int = Field(
        default=2, ge=0, description="px around saturated pixels in which hits and tracks are not looked for"
    )

    track_cell_px: int = Field(
        default=4, ge=1, description="px; about the width of a track, so that its light stays together"
    )
    track_clip_sigma: float = Field(default=4.0, gt=0, description="sigma; no pixel weighs more: a star is not a line")
    track_smooth_cells: int = Field(default=31, ge=3, description="cells; structure larger than this is no track")
    track_min_sigma: float = Field(
        default=7.0, gt=0, description="sigma of the whole line; the best of some million random lines reaches 5.5"
    )
    track_min_length_px: int = Field(
        default=400, gt=0, description="px, 6.7 arcmin: satellites cross the quadrant, asteroids in 30 s do not"
    )
    track_segment_px: int = Field(default=48, gt=4, description="px; pieces of the line that are judged one by one")
    track_segment_sigma: float = Field(default=2.0, gt=0, description="sigma of a piece that shows the line")
    track_filled_fraction: float = Field(
        default=0.6, gt=0, le=1, description="of the pieces must show it: a line, not stars"
    )
    track_whole_fraction: float = Field(
        default=0.6, gt=0, le=1, description="of the chord; from there the whole chord is masked"
    )
    track_max: int = Field(default=6, ge=0, description="tracks looked for in one image")
    track_max_half_width_px: float = Field(default=20.0, gt=0, description="px; widest track (aircraft)")
    track_left_sigma: float = Field(
        default=0.25,
        gt=0,
        description="sky sigmas per pixel; light of a track that may stay unmasked beside it, as faint as unmasked ghosts",
    )
    track_margin_px: float = Field(default=1.5, ge=0, description="px added to the measured half-width")
    track_axis_px: float = Field(
        default=2.0,
        ge=0,
        description="px; a line one or two px wide that drifts less than this along a row or column is a "
        "defect of the detector",
    )

    ghosts: tuple[GhostModel, ...] = Field(
        default=(
            GhostModel(kind="halo", radius_arcsec=368.5, max_mag=7.6),
            GhostModel(radial_scale=1.012, inner_radius_arcsec=54.0, radius_arcsec=134.0, max_mag=8.7),
        ),
        description="Constants of this camera, measured on images (docs/science/masks.md). Halo: masks of the real survey "
        "have the same radius, 367-368 arcsec, around stars of V <= 6.5. Ghost: out-of-focus image of the pupil. Magnitudes: "
        "where the light exceeds a quarter of a dark sky's noise per pixel; 0.3 % of the sky lies in such ghosts, as published",
    )
    edge_px: int = Field(
        default=0, ge=0, description="px along the borders marked as low responsivity; the real mask has none"
    )

    @classmethod
    def tiny(cls) -> MaskConfig:
        """Values for the tiny camera: shorter tracks, and halos that do not cover a whole quadrant."""
        return cls(
            track_min_length_px=110,
            track_segment_px=16,
            ghosts=(
                GhostModel(kind="halo", radius_arcsec=30.0, max_mag=6.5),
                GhostModel(kind="ghost", radius_arcsec=12.0, max_mag=7.5),
            ),
        )
