"""Settings of alert packets."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import StepConfig


class AlertConfig(StepConfig):
    """What goes into an alert packet."""

    publisher: str = Field("ztfds", description="Text of the packet's publisher field: who made it.")
    association_radius_arcsec: float = Field(
        1.5, gt=0, le=10, description="Detections within this distance, arcsec, are of one object: the survey's radius."
    )
    history_days: float = Field(30.0, gt=0, description="Look-back of prv_candidates, days: the survey's value.")
    forced_history_days: float = Field(30.0, gt=0, description="Look-back of fp_hists, days.")
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
