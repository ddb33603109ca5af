"""The base of all settings: frozen, strict, documented, and with a hash of what changes the result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

NON_CRITICAL: dict[str, Any] = {"critical": False}
"""Pass as ``json_schema_extra`` of a field that cannot change any product (speed, wording, limits of effort)."""


class StepConfig(BaseModel):
    """Settings of one step.

    Every field has a ``description`` with its unit and the reason of its value. Fields are critical, which means that
    another value makes another product version, unless marked ``json_schema_extra=NON_CRITICAL``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def critical_values(self) -> dict[str, Any]:
        """Values of the critical fields, in JSON types."""
        values = self.model_dump(mode="json")
        fields = type(self).model_fields.items()
        return {name: values[name] for name, info in fields if _critical(info.json_schema_extra)}

    def critical_hash(self) -> str:
        """SHA-256 (hex) of the critical fields' canonical JSON, with the class name."""
        content = {"step": type(self).__name__, "values": self.critical_values()}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _critical(extra: Any) -> bool:
    """Whether a field counts for the hash."""
    return not (isinstance(extra, dict) and extra.get("critical") is False)
