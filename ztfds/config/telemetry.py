"""From which readings on telemetry departs, and how far a reading may be from an exposure: limits that operators can change."""

from __future__ import annotations

from pydantic import Field, model_validator

from ztfds.config.base import StepConfig


class QuantityLimits(StepConfig):
    """Limits of one quantity, in its own unit (table ``telemetry_quantities``)."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$", description="The quantity.")
    low: float | None = Field(None, allow_inf_nan=False, description="A reading below departs; none: no limit.")
    high: float | None = Field(None, allow_inf_nan=False, description="A reading above departs; none: no limit.")
    tolerance_s: float = Field(
        120.0, gt=0, le=3600, description="A reading belongs to an exposure if it is at most so far from its middle, s."
    )

    @model_validator(mode="after")
    def _low_is_below_high(self) -> QuantityLimits:
        """Something must be within."""
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"{self.name}: low {self.low:g} is not below high {self.high:g}")
        return self


class TelemetryLimits(StepConfig):
    """The limits of all quantities; those with which a survey begins are version 1 in the database."""

    limits: tuple[QuantityLimits, ...] = Field((), description="Limits; names are unique.")

    @model_validator(mode="after")
    def _names_differ(self) -> TelemetryLimits:
        """A quantity has one pair of limits."""
        names = [one.name for one in self.limits]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names must differ: {', '.join(twice)}")
        return self
