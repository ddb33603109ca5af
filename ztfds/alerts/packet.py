"""Putting an alert packet together: from measured rows of any kind to a complete record and its bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ztfds.alerts.history import visible
from ztfds.config.alerts import AlertConfig
from ztfds.formats.alerts import EncodedPacket, encode_packet, pack_cutout
from ztfds.formats.alertschema import CANDIDATE, FP_HIST, PRV_CANDIDATE, SCHEMA_VERSION, AlertField, fields
from ztfds.survey import ids
from ztfds.survey.errors import BugOrConfiguration
from ztfds.survey.names import topic_name

Stamps = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Packet:
    """An alert packet ready for the outbox.

    Attributes
    ----------
    candid : int
    objectid : str
    programid : int
    topic : str
        Kafka topic it goes to.
    record : dict
        Every field of schema 4.02.
    encoded : EncodedPacket
        The same, encoded for any name of the object.
    """

    candid: int
    objectid: str
    programid: int
    topic: str
    record: dict[str, Any]
    encoded: EncodedPacket

    @property
    def content(self) -> bytes:
        """The Avro container."""
        return self.encoded.named(self.objectid)


def identify(jd: float, rcid: int, positive: bool, tblid: int, version: int = 1) -> tuple[int, int]:
    """Processing number and candidate number of a detection; the same detection always gets the same ones."""
    pid = ids.pid(jd, rcid)
    return pid, ids.candid(pid, positive, tblid, version)


def as_mapping(row: Mapping[str, Any] | np.void) -> Mapping[str, Any]:
    """A row of a structured array as a mapping of Python values; 0-based ``x, y`` become 1-based ``xpos, ypos``."""
    if isinstance(row, np.void):
        row = dict(zip(row.dtype.names or (), row.tolist(), strict=True))
    if "x" in row and "y" in row:
        return {**row, "xpos": float(row["x"]) + 1.0, "ypos": float(row["y"]) + 1.0}
    return row


Cleaner = Callable[[Any], Any]


def _cleaner(field: AlertField) -> Cleaner:
    """A function that turns any value of one field into the type that the schema wants, and unknown ones into `missing`."""
    convert = _CONVERT[field.kind]
    missing, required = field.missing, field.missing is None and not field.nullable

    def clean(value: Any) -> Any:
        if value is not None:
            value = convert(value)
        if value is None:
            if required:
                raise BugOrConfiguration(f"alert field {field.name} has no value and may not be null")
            return missing
        return value

    def clean_integer(value: Any) -> Any:
        return clean(None if value is not None and not math.isfinite(value) else value)

    return clean_integer if field.kind in ("int", "long") else clean


def _finite(value: Any) -> float | None:
    """A Python float, None if it is NaN or infinite."""
    value = float(value)
    return value if math.isfinite(value) else None


def _text(value: Any) -> str:
    """Text; booleans become t and f."""
    if isinstance(value, bytes):
        return value.decode()
    return ("f", "t")[bool(value)] if isinstance(value, (bool, np.bool_)) else str(value)


_CONVERT: dict[str, Cleaner] = {"float": _finite, "double": _finite, "int": int, "long": int, "string": _text}


@lru_cache(maxsize=1)
def _cleaners() -> dict[str, list[tuple[str, Cleaner]]]:
    """Field names and cleaners of each record."""
    return {record: [(field.name, _cleaner(field)) for field in declared] for record, declared in fields().items()}


def complete(record: str, row: Mapping[str, Any] | np.void) -> dict[str, Any]:
    """All fields of one record (``candidate``, ``prv_candidate``, ``fp_hist``) from what a row has; other keys are ignored.

    Raises
    ------
    BugOrConfiguration
        A field that may not be null has no value.
    """
    get = as_mapping(row).get
    return {name: clean(get(name)) for name, clean in _cleaners()[record]}


def cutout_names(candid: int, pid: int, positive: bool) -> tuple[str, str, str]:
    """File names of the science, template and difference cutouts."""
    sign = "scimref" if positive else "refmsci"
    stem = f"candid{candid}_pid{pid}_targ"
    return f"{stem}_sci.fits.gz", f"candid{candid}_ref.fits.gz", f"{stem}_{sign}.fits.gz"


def build_packet(
    candidate: Mapping[str, Any] | np.void,
    facts: Mapping[str, Any],
    *,
    objectid: str,
    prv_candidates: Iterable[Mapping[str, Any]] | None,
    fp_hists: Iterable[Mapping[str, Any]] | None,
    cutouts: Stamps | None,
    config: AlertConfig | None = None,
) -> Packet:
    """Make a packet.

    Parameters
    ----------
    candidate : mapping or row of a structured array
        What was measured, under the packet's names; positions either 0-based ``x, y`` or 1-based ``xpos, ypos``.
    facts : mapping
        What is known besides: at least ``candid pid jd fid programid nid rcid field rfid jdstartref jdendref nframesref
        ndethist ncovhist``, and whatever else of the ``candidate`` record; it wins over `candidate`.
    objectid : str
        Name of the object.
    prv_candidates : iterable of mapping, or None
        History (`ztfds.alerts.history.select_history`), positions 1-based. None is written as null: no history.
    fp_hists : iterable of mapping, or None
        Forced photometry on earlier difference images.
    cutouts : tuple of three ndarrays, or None
        Science, template, difference (already turned positive for negative candidates), DN, NaN off the image.
    config : AlertConfig, optional

    Returns
    -------
    Packet

    Notes
    -----
    History rows that the audience of the packet's program may not see are dropped here once more, whoever chose them.

    Raises
    ------
    BugOrConfiguration
        A required value is not there, or a number contradicts another.
    """
    config = config or AlertConfig()
    values = complete(CANDIDATE, {**as_mapping(candidate), **facts})
    if values["candid"] // 1_000_000 != values["pid"]:
        raise BugOrConfiguration(f"candid {values['candid']} does not belong to pid {values['pid']}")
    record: dict[str, Any] = {
        "schemavsn": SCHEMA_VERSION,
        "publisher": config.publisher,
        "objectId": objectid,
        "candid": values["candid"],
        "candidate": values,
        "prv_candidates": _history(PRV_CANDIDATE, prv_candidates, values["programid"]),
        "fp_hists": _history(FP_HIST, fp_hists, values["programid"]),
        **_cutouts(values, cutouts),
    }
    topic = topic_name(ids.night_date(ids.nid(values["jd"])), values["programid"])
    return Packet(values["candid"], objectid, values["programid"], topic, record, encode_packet(record))


def _history(record: str, rows: Iterable[Mapping[str, Any]] | None, programid: int) -> list[dict[str, Any]] | None:
    """Complete history rows that the audience may see."""
    return None if rows is None else [complete(record, row) for row in visible(rows, programid)]


def _cutouts(values: Mapping[str, Any], cutouts: Stamps | None) -> dict[str, Any]:
    """The three cutout records, or nulls."""
    keys = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
    if cutouts is None:
        return dict.fromkeys(keys)
    names: Sequence[str] = cutout_names(values["candid"], values["pid"], values["isdiffpos"] in ("t", "1"))
    stamps = zip(keys, names, cutouts, strict=True)
    return {key: {"fileName": name, "stampData": pack_cutout(pixels)} for key, name, pixels in stamps}
