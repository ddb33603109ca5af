"""The alert schema, version 4.02, built from one table of fields; and what a missing value becomes in each field.

The table (``data/alert_fields.csv``) has one row per field: record, name, type, what a missing value is written as, meaning.
Types: ``float`` required; ``float?`` may be null and has the default null; ``float!`` may be null without a default.
Names, types and order are those of the survey's public schema, so that any reader of that schema reads these packets.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

SCHEMA_VERSION = "4.02"
CANDIDATE, PRV_CANDIDATE, FP_HIST = "candidate", "prv_candidate", "fp_hist"


@dataclass(frozen=True)
class AlertField:
    """One field of one record.

    Attributes
    ----------
    name : str
    kind : str
        ``int``, ``long``, ``float``, ``double`` or ``string``.
    nullable : bool
        Whether null is allowed.
    has_default : bool
        Whether the schema declares null as the default.
    missing : int or float or str or None
        What is written when the value is unknown; None means null (or an error where null is not allowed).
    doc : str
        Meaning and unit.
    """

    name: str
    kind: str
    nullable: bool
    has_default: bool
    missing: float | int | str | None
    doc: str

    def avro(self) -> dict[str, Any]:
        """The field as Avro writes it."""
        declared: dict[str, Any] = {"name": self.name, "type": ["null", self.kind] if self.nullable else self.kind}
        if self.has_default:
            declared["default"] = None
        if self.doc:
            declared["doc"] = self.doc
        return declared


def _field(row: dict[str, str]) -> AlertField:
    """One row of the table."""
    kind = row["type"].rstrip("?!")
    convert = {"int": int, "long": int, "float": float, "double": float, "string": str}[kind]
    missing = convert(row["missing"]) if row["missing"] else None
    return AlertField(row["name"], kind, row["type"] != kind, row["type"].endswith("?"), missing, row["doc"])


@lru_cache(maxsize=1)
def fields() -> dict[str, tuple[AlertField, ...]]:
    """Fields of the records ``candidate``, ``prv_candidate`` and ``fp_hist``, in order."""
    with resources.files("ztfds.formats").joinpath("data/alert_fields.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    records = (CANDIDATE, PRV_CANDIDATE, FP_HIST)
    return {record: tuple(_field(row) for row in rows if row["record"] == record) for record in records}


def _record(name: str, declared: list[dict[str, Any]], doc: str) -> dict[str, Any]:
    """One nested record."""
    return {
        "type": "record",
        "name": name,
        "namespace": "ztf.alert",
        "doc": doc,
        "version": SCHEMA_VERSION,
        "fields": declared,
    }


def _history(name: str, item: dict[str, Any]) -> dict[str, Any]:
    """An optional array of records."""
    return {"name": name, "type": ["null", {"type": "array", "items": item}], "default": None}


def schema_files() -> dict[str, dict[str, Any]]:
    """The schema as the survey publishes it: one document per record, by file name, in the order in which to parse them."""
    whole = alert_schema()
    nested: dict[str, dict[str, Any]] = {}

    def named(kind: Any) -> Any:
        if isinstance(kind, list):
            return [named(part) for part in kind]
        if isinstance(kind, dict) and kind["type"] == "array":
            return {**kind, "items": named(kind["items"])}
        if isinstance(kind, dict):
            nested[f"{kind['name']}.avsc"] = kind
            return f"{kind['namespace']}.{kind['name']}"
        return kind

    declared = [{**field, "type": named(field["type"])} for field in whole["fields"]]
    return {**nested, "alert.avsc": {**whole, "fields": declared}}


def alert_schema() -> dict[str, Any]:
    """The whole schema as one JSON-like document, nested records defined where they are first used."""
    table = {record: [field.avro() for field in declared] for record, declared in fields().items()}
    candidate = _record(CANDIDATE, table[CANDIDATE], "the detection that made this alert")
    earlier = _record(PRV_CANDIDATE, table[PRV_CANDIDATE], "an earlier detection or upper limit at this position")
    forced = _record(FP_HIST, table[FP_HIST], "forced photometry at this position on an earlier difference image")
    cutout_fields = [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes", "doc": "fits.gz"}]
    cutout = _record("cutout", cutout_fields, "image around the position")
    return {
        "type": "record",
        "name": "alert",
        "namespace": "ztf",
        "doc": "alert of a difference-image detection",
        "version": SCHEMA_VERSION,
        "fields": [
            {"name": "schemavsn", "type": "string", "doc": "version of this schema"},
            {"name": "publisher", "type": "string", "doc": "who made this packet"},
            {"name": "objectId", "type": "string", "doc": "name of the sky position"},
            {"name": "candid", "type": "long", "doc": "candidate number"},
            {"name": "candidate", "type": candidate},
            _history("prv_candidates", earlier),
            _history("fp_hists", forced),
            {"name": "cutoutScience", "type": ["null", cutout], "default": None},
            {"name": "cutoutTemplate", "type": ["null", "ztf.alert.cutout"], "default": None},
            {"name": "cutoutDifference", "type": ["null", "ztf.alert.cutout"], "default": None},
        ],
    }
