"""Settings of the closing of nights: how long is waited for files and for manifests before a night is reported without them."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import NON_CRITICAL, StepConfig


class ClosingConfig(StepConfig):
    """When a night is closed; none of it changes a product other than the report."""

    lost_s: float = Field(
        7200.0,
        gt=0,
        json_schema_extra=NON_CRITICAL,
        description="A file of the manifest that has not come so long after it counts as missing and the night is reported, s;"
        " a transfer that is tried again takes minutes.",
    )
    silent_s: float = Field(
        6 * 3600.0,
        gt=0,
        json_schema_extra=NON_CRITICAL,
        description="A night in which nothing moved for so long and whose manifest has not come is reported without it, s:"
        " longer than most breaks by weather, and the report is there before the next night.",
    )
    late_s: float = Field(
        1800.0,
        gt=0,
        json_schema_extra=NON_CRITICAL,
        description="A night that has changed since its report (files that came late, alerts that waited for the broker) is"
        " reported again when nothing more has happened for so long, s.",
    )
    look_s: float = Field(
        60.0, gt=0, json_schema_extra=NON_CRITICAL, description="How often such nights are looked for, s."
    )

    @classmethod
    def tiny(cls) -> ClosingConfig:
        """Values for the tiny camera."""
        return cls()
