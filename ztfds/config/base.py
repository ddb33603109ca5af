"""The base of all settings: frozen, strict, documented, and with a hash of what changes the result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python

NON_CRITICAL: dict[str, Any] = {"critical": False}
"""Pass as ``json_schema_extra`` of a field that cannot change any product (speed, wording, limits of effort)."""


class StepConfig(BaseModel):
    """Settings of one step.

    Every field has a ``description`` with its unit and the reason of its value. Fields are critical, which means that
    another value makes another product version, unless marked ``json_schema_extra=NON_CRITICAL``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def critical_values(self) -> dict[str, Any]:
        """Values of the critical fields, in JSON types; settings inside settings are treated the same way."""
        fields = type(self).model_fields.items()
        return {name: _plain(getattr(self, name)) for name, info in fields if _critical(info.json_schema_extra)}

    def critical_hash(self) -> str:
        """SHA-256 (hex) of the critical fields' canonical JSON, with the class name."""
        content = {"step": type(self).__name__, "values": self.critical_values()}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value in JSON types, with only the critical fields of settings inside it."""
    if isinstance(value, StepConfig):
        return value.critical_values()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [_plain(item) for item in items]
    return to_jsonable_python(value)


def _critical(extra: Any) -> bool:
    """Whether a field counts for the hash."""
    return not (isinstance(extra, dict) and extra.get("critical") is False)
