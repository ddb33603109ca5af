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


class StackConfig(StepConfig):
    """What the stacks of biases and flats have in common, and when one is accepted."""

    min_frames: int = Field(default=5, ge=5, description="frames; the outlier rejection needs five")
    clip_sigma: float = Field(default=2.5, gt=0, description="sigma; the rejection of the real flat pipeline's stacker")
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
    block_rows: int = Field(
        default=16, ge=1, description="rows stacked at a time: fits the cache", json_schema_extra=NON_CRITICAL
    )
    max_noisy_fraction: float = Field(
        default=0.02, gt=0, description="fraction of noisy or dead pixels of an acceptable frame"
    )
    max_change: float = Field(
        default=3.0,
        gt=0,
        description="largest robust scatter of (new - last good), in its expected sigmas, before it is refused",
    )
    max_level_change: float = Field(
        default=5.0, gt=0, description="largest change of the mean (bias: DN; flat: relative)"
    )
    max_noise_ratio: float = Field(
        default=1.5, gt=1, description="largest ratio of median noise to that of the last good one"
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
    max_level_change: float = Field(
        default=0.02, gt=0, description="largest robust change of large-scale response, relative"
    )

    @classmethod
    def tiny(cls) -> FlatConfig:
        """Values for the tiny camera."""
        return cls(split=SplitConfig.tiny(), normalise_row_step=1)


class GhostModel(StepConfig):
    """One family of ghosts: where the light of a bright star comes back, and how large.

    The ghost of a star at distance r from the optical axis lies on the same radius at `radial_scale` * r.
    """

    kind: Literal["ghost", "halo"] = Field(default="ghost", description="which mask bit it sets")
    radial_scale: float = Field(
        default=1.0, description="1: around the star itself; negative: on the far side of the axis"
    )
    inner_radius_arcsec: float = Field(default=0.0, ge=0, description="arcsec; 0 for a disc")
    radius_arcsec: float = Field(..., gt=0, description="arcsec")
    max_mag: float = Field(..., description="mag; only stars this bright or brighter make one")


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
        default=1.6, gt=0, description="px; below this a star cannot be told from a hit and only faint neighbours help"
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
        default=3, ge=0, description="px around saturated pixels in which hits and tracks are not looked for"
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
    track_margin_px: float = Field(default=1.5, ge=0, description="px added to the measured half-width")
    track_axis_px: float = Field(
        default=2.0,
        ge=0,
        description="px; a line one or two px wide that drifts less than this along a row or column is a "
        "defect of the detector",
    )

    ghosts: tuple[GhostModel, ...] = Field(
        default=(
            GhostModel(kind="halo", radius_arcsec=367.5, max_mag=6.5),
            GhostModel(kind="ghost", radius_arcsec=150.0, max_mag=7.5),
        ),
        description="Halo: radius and limit measured on real masks (V <= 6.5). Ghost: the real geometry is unpublished; "
        "this disc masks the published 0.2-0.3 % of the area and is to be replaced by measured families",
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
