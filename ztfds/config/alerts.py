"""Settings of alert packets."""

from __future__ import annotations

from pydantic import Field, model_validator

from ztfds.config.base import NON_CRITICAL, StepConfig


class ForcedConfig(StepConfig):
    """Forced photometry of a candidate's position on earlier difference images (``fp_hists``)."""

    enabled: bool = Field(
        True,
        description="False: packets carry no fp_hists (null). An operator's degraded mode when the archive's disk is slow.",
        json_schema_extra=NON_CRITICAL,
    )
    history_days: float = Field(30.0, gt=0, description="Look-back, days: the survey's value.")
    max_epochs: int = Field(
        300, ge=1, description="Latest images measured per quadrant: high-cadence fields have a thousand in a month."
    )
    box_half_px: int = Field(
        5, ge=2, le=12, description="Half size of the fitted box, px: 99 % of the weight up to 3.5 px FWHM."
    )
    sky_inner_px: float = Field(8.0, gt=0, description="Pixels farther than this give sky level and noise, px.")
    stamp_half_px: int = Field(
        15, ge=6, description="Half side of the stamp that is read, px: 760 sky pixels, 2 % noise."
    )
    min_sky_px: int = Field(100, ge=10, description="Fewest sky pixels with data, else status 54: 7 % noise.")
    max_bad_fraction: float = Field(
        0.5, ge=0, le=1, description="Largest share of the PSF's weight on bad pixels, else status 55 (heritage value)."
    )
    reference_reach_arcsec: float = Field(
        5.0,
        gt=0,
        description="The nearest reference source is listed if it is within this in RA and in Dec, arcsec: real packets do so.",
    )

    @model_validator(mode="after")
    def _sizes(self) -> ForcedConfig:
        """The sky lies outside the fitted box, and inside the stamp."""
        if not self.box_half_px < self.stamp_half_px or not self.sky_inner_px < self.stamp_half_px:
            raise ValueError("box_half_px and sky_inner_px must be less than stamp_half_px")
        return self


class AlertConfig(StepConfig):
    """What goes into an alert packet."""

    publisher: str = Field("ztfds", description="Text of the packet's publisher field: who made it.")
    association_radius_arcsec: float = Field(
        1.5, gt=0, le=10, description="Detections within this distance, arcsec, are of one object: the survey's radius."
    )
    history_days: float = Field(30.0, gt=0, description="Look-back of prv_candidates, days: the survey's value.")
    forced: ForcedConfig = Field(default_factory=ForcedConfig, description="Forced photometry: fp_hists.")
    same_detection_px: float = Field(
        1.5,
        gt=0,
        le=5,
        description="A candidate this near to one of an earlier version of its difference image, px, and of its sign, is the"
        " same detection and keeps its number: positions of faint ones move by less, other sources are farther.",
    )
    processing_version: int = Field(
        1,
        ge=1,
        le=99,
        description="Digit pair in candidate numbers; raise it when a published night is processed anew.",
    )

    @classmethod
    def tiny(cls) -> AlertConfig:
        """Values for the tiny camera: the same."""
        return cls()
