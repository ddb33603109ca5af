"""Reference images (P7): which can be made, and the making of one from the best images of a field, channel and filter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from ztfds.formats.images import read_image
from ztfds.operations import storage
from ztfds.operations.context import Context
from ztfds.reference import run as reference
from ztfds.reference.products import ReferenceInput, ReferenceProducts
from ztfds.reference.select import select
from ztfds.registry import products, references
from ztfds.registry.database import Cursor, fetch_one
from ztfds.registry.products import Parent, Step, Subject
from ztfds.registry.runner import Outputs, Registered
from ztfds.survey import ids
from ztfds.survey.camera import ccd_qid
from ztfds.survey.errors import NoWork
from ztfds.survey.filters import by_fid

log = logging.getLogger(__name__)

STEP = Step("reference", "2")
MOST = 8000
"""References that one run makes: below the 8192 copies of a mapped task that the orchestrator allows."""
NIGHTS = 7
"""What one night's run leaves is left to the runs of the following nights."""


@dataclass(frozen=True)
class Built:
    """The outcome of the making of a reference.

    Attributes
    ----------
    rfid : int
        Number of the reference image.
    status : int
        1 usable, 0 not.
    reason : str
        Why not; empty for status 1.
    nframes : int
        Images in it.
    skipped : bool
        True when the very same one existed.
    """

    rfid: int
    status: int
    reason: str
    nframes: int
    skipped: bool


def wanted(context: Context, night: str | None = None) -> list[dict[str, int]]:
    """References that could be made: field, rcid and fid of enough good images without a usable reference, newest first.

    Parameters
    ----------
    context : Context
    night : str, optional
        UT date ``YYYYMMDD``: only what was observed in this night or in the few before it; None: everything.

    Returns
    -------
    list of dict
        ``field``, ``rcid``, ``fid``, for `build`; at most `MOST`, the rest is for the next run.
    """
    nid = ids.nid_of_date(night) if night else None
    found = references.wanted(context.dsn, context.config.reference.min_inputs, nid, NIGHTS)
    if len(found) > MOST:
        log.warning(
            "%d references can be made: %d now, %d are left for the next run", len(found), MOST, len(found) - MOST
        )
        found = found[:MOST]
    return [{key: int(row[key]) for key in ("field", "rcid", "fid")} for row in found]


def build(context: Context, field: int, rcid: int, fid: int, run_id: str | None = None, attempt: int = 1) -> Built:
    """Select, co-add and register the reference of one field, channel and filter.

    Raises
    ------
    NoWork
        Fewer than the smallest number of images pass the selection.
    RetryLater, ServiceDown
        Try again.
    """
    config = context.config.reference
    available = references.inputs(context.dsn, field, rcid, fid)
    selection = select(available, config)
    chosen = [available[k] for k in selection.chosen]
    if not chosen:
        references.note_try(context.dsn, field, rcid, fid, available, selection.reason)
        raise NoWork(f"field {field}, filter {fid}: {selection.reason}", rcid=rcid)
    ccdid, qid = ccd_qid(rcid)
    subject = Subject(f"ref/{field:06d}/{fid}/rcid{rcid:02d}", field=field, fid=fid, ccdid=ccdid, rcid=rcid)
    place = storage.reference_place(field, by_fid(fid).code, ccdid, qid)
    done = context.runner(run_id, attempt).execute(
        STEP,
        subject,
        [Parent(int(row["product_id"]), str(row["provenance_id"])) for row in chosen],
        config,
        lambda: reference.run(_Inputs(context, chosen), config),
        lambda made: Outputs(
            storage.reference_files(made, place),
            made.status,
            0,
            made.qa,
            {**storage.header_values(made.header), "reason": made.reason},
            lambda cursor, registered: _register(cursor, registered, subject, made, chosen),
        ),
    )
    row = fetch_one(context.dsn, "select * from references_ where provenance_id = %s", (done.provenance_id,))
    assert row is not None
    references.note_try(context.dsn, field, rcid, fid, available, row["reason"] or "")
    log.info("reference %d of %d images: status %d %s", row["rfid"], row["nframes"], row["status"], row["reason"] or "")
    return Built(int(row["rfid"]), int(row["status"]), row["reason"] or "", int(row["nframes"]), done.skipped)


class _Inputs(Sequence[ReferenceInput]):
    """The images of a reference, read when they are asked for, so that only one of them is in memory."""

    def __init__(self, context: Context, rows: list[dict[str, Any]]) -> None:
        self.context, self.rows = context, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, k: int) -> ReferenceInput: ...

    @overload
    def __getitem__(self, k: slice) -> list[ReferenceInput]: ...

    def __getitem__(self, k: int | slice) -> ReferenceInput | list[ReferenceInput]:
        if isinstance(k, slice):
            return [_read(self.context, row) for row in self.rows[k]]
        return _read(self.context, self.rows[k])


def _read(context: Context, row: dict[str, Any]) -> ReferenceInput:
    """One calibrated image with its mask."""
    best = products.best(context.dsn, row["dataset"])
    pixels, header = read_image(context.archive / best["sciimg"]["path"])
    mask, _ = read_image(context.archive / best["mskimg"]["path"])
    return ReferenceInput(pixels, mask.astype(np.uint16), header)


def _register(
    cursor: Cursor, registered: Registered, subject: Subject, made: ReferenceProducts, chosen: list[dict[str, Any]]
) -> None:
    """Rows of a reference and its members."""
    assert subject.field is not None and subject.fid is not None and subject.rcid is not None
    dates = [float(row["obsjd"]) for row in chosen]
    references.record(
        cursor,
        {
            "rfid": ids.rfid(subject.field, subject.fid, subject.rcid),
            "field": subject.field,
            "rcid": subject.rcid,
            "fid": subject.fid,
            "version": registered.version,
            "status": made.status,
            "reason": made.reason or None,
            "nframes": len(chosen),
            "jdstart": min(dates),
            "jdend": max(dates),
            "magzp": made.header.get("MAGZP"),
            "maglimit": made.header.get("MAGLIM"),
            "provenance_id": registered.provenance_id,
            "product_id": registered.products["refimg"]["product_id"],
        },
        chosen,
    )
