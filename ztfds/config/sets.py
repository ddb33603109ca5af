"""Named sets of settings: one for the real camera, one for the small one that tests run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ztfds.config.alerts import AlertConfig
from ztfds.config.base import NON_CRITICAL, StepConfig
from ztfds.config.closing import ClosingConfig
from ztfds.config.detrend import BiasConfig, FlatConfig, IngestConfig, LowFrequencyConfig, QualityConfig, SplitConfig
from ztfds.config.difference import DifferenceConfig, ReferenceConfig
from ztfds.config.photometry import ScienceConfig
from ztfds.config.solarsystem import SolarSystemConfig
from ztfds.survey.camera import Camera
from ztfds.survey.errors import ConfigurationError


class ConfigSet(StepConfig):
    """The settings of every step."""

    name: str = Field("ztf", description="Name of the set.", json_schema_extra={"critical": False})
    ingest: IngestConfig = Field(default_factory=IngestConfig, description="Verification of raw files.")
    split: SplitConfig = Field(default_factory=SplitConfig, description="Overscan and linearity.")
    bias: BiasConfig = Field(default_factory=BiasConfig, description="Bias stacks.")
    flat: FlatConfig = Field(default_factory=FlatConfig, description="Flat stacks.")
    lowfrequency: LowFrequencyConfig = Field(
        default_factory=LowFrequencyConfig, description="Low-frequency flats and lamp corrections."
    )
    quality: QualityConfig = Field(default_factory=QualityConfig, description="Channels against their history.")
    science: ScienceConfig = Field(
        default_factory=ScienceConfig, description="Instrumental calibration: masks, astrometry, sources, zero point."
    )
    reference: ReferenceConfig = Field(default_factory=ReferenceConfig, description="Reference images.")
    difference: DifferenceConfig = Field(default_factory=DifferenceConfig, description="Differences and candidates.")
    alerts: AlertConfig = Field(default_factory=AlertConfig, description="Alert packets.")
    solarsystem: SolarSystemConfig = Field(default_factory=SolarSystemConfig, description="Known Solar-System objects.")
    closing: ClosingConfig = Field(
        default_factory=ClosingConfig, description="When nights are closed.", json_schema_extra=NON_CRITICAL
    )


def ztf() -> ConfigSet:
    """Settings of the real camera: the default of every step."""
    return ConfigSet()


def tiny() -> ConfigSet:
    """Settings of the small camera: what each step says fits quadrants of 256 pixels."""
    steps: dict[str, Any] = {
        name: info.annotation.tiny()  # type: ignore[union-attr]
        for name, info in ConfigSet.model_fields.items()
        if name != "name"
    }
    return ConfigSet(name="tiny", **steps)


_SETS = {"ztf": ztf, "ccd": ztf, "tiny": tiny}


def named_set(name: str) -> ConfigSet:
    """Find a set of settings by name (that of its camera); raise `ConfigurationError` for an unknown one."""
    try:
        return _SETS[name.lower()]()
    except KeyError:
        raise ConfigurationError(f"no set of settings is called {name!r}: known are {', '.join(_SETS)}") from None


def changed_set(base: ConfigSet, changes: Mapping[str, Any]) -> ConfigSet:
    """A set of settings with some differences.

    Parameters
    ----------
    base : ConfigSet
    changes : mapping
        Nested, e.g. ``{"difference": {"candidates": {"threshold": 6.0}}}``.

    Raises
    ------
    ConfigurationError
        A name does not exist, or a value is not allowed.
    """
    try:
        return ConfigSet.model_validate(_merged(base.model_dump(), changes))
    except ValueError as error:
        raise ConfigurationError(f"these settings are not allowed: {error}") from error


def _merged(old: Any, new: Any) -> Any:
    """Nested values with some replaced."""
    if not isinstance(old, dict) or not isinstance(new, Mapping):
        return new
    if unknown := set(new) - set(old):
        raise ConfigurationError(f"no such setting: {', '.join(sorted(map(str, unknown)))}")
    return {key: _merged(value, new[key]) if key in new else value for key, value in old.items()}


def without_forced_photometry(config: ConfigSet) -> ConfigSet:
    """The same settings with alerts that carry no forced photometry: an operator's degraded mode."""
    forced = config.alerts.forced.model_copy(update={"enabled": False})
    return config.model_copy(update={"alerts": config.alerts.model_copy(update={"forced": forced})})


def set_for_camera(camera: Camera) -> ConfigSet:
    """The set that fits a camera: its own, or by the size of its quadrants for an unnamed camera."""
    return (
        named_set(camera.name) if camera.name in _SETS else named_set("tiny" if camera.area_fraction < 0.05 else "ztf")
    )
