"""Settings: frozen, strict, documented, hashed by what matters."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from ztfds.config.base import NON_CRITICAL, StepConfig
from ztfds.config.sets import ConfigSet, named_set, set_for_camera
from ztfds.survey.camera import CCD, TINY, ZTF, camera_for_shape
from ztfds.survey.errors import ConfigurationError


class Inner(StepConfig):
    a: float = Field(1.5, description="x")
    speed: int = Field(1, description="x", json_schema_extra=NON_CRITICAL)


class Outer(StepConfig):
    inner: Inner = Field(default_factory=Inner, description="x")
    many: dict[str, Inner] = Field(default_factory=dict, description="x")
    pair: tuple[float, float] = Field((1.0, 2.0), description="x")
    note: str = Field("", description="x", json_schema_extra=NON_CRITICAL)


def test_frozen_and_strict() -> None:
    config = Inner()
    with pytest.raises(ValidationError):
        config.a = 2.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Inner(b=1)  # type: ignore[call-arg]


def test_the_hash_follows_what_is_critical_only() -> None:
    base = Outer().critical_hash()
    assert len(base) == 64
    assert Outer(note="other").critical_hash() == base
    assert Outer(inner=Inner(speed=9)).critical_hash() == base
    assert Outer(inner=Inner(a=1.6)).critical_hash() != base
    assert Outer(pair=(1.0, 2.5)).critical_hash() != base
    assert Outer(many={"x": Inner()}).critical_hash() == Outer(many={"x": Inner(speed=7)}).critical_hash() != base
    assert Inner().critical_hash() != type("Other", (Inner,), {})().critical_hash()


def test_the_hash_is_stable_across_processes() -> None:
    assert Inner().critical_hash() == "9b251130b0802f0dd3b8ab4b738c256c80e68c76bf2992c98d82ad87751c0f12"


def test_sets_are_found() -> None:
    assert named_set("ztf") == ConfigSet()
    assert named_set("TINY").name == "tiny"
    assert named_set("tiny").critical_hash() != named_set("ztf").critical_hash()
    assert named_set("ccd").critical_hash() == named_set("ztf").critical_hash()
    assert [set_for_camera(c).name for c in (ZTF, CCD, TINY, camera_for_shape((512, 512)))] == [
        "ztf",
        "ztf",
        "tiny",
        "tiny",
    ]
    with pytest.raises(ConfigurationError, match="known are"):
        named_set("hubble")


def all_configs(kind: Any) -> set[type[StepConfig]]:
    found = {kind}
    for info in kind.model_fields.values():
        if isinstance(info.annotation, type) and issubclass(info.annotation, StepConfig):
            found |= all_configs(info.annotation)
    return found


@pytest.mark.parametrize("kind", sorted(all_configs(ConfigSet), key=lambda k: k.__name__), ids=lambda k: k.__name__)
def test_every_setting_says_what_it_is(kind: type[StepConfig]) -> None:
    assert kind.__doc__
    for name, info in kind.model_fields.items():
        assert info.description, f"{kind.__name__}.{name} has no description"
