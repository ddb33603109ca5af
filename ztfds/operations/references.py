"""Reference images (P7): which can be made, and the making of one from the best images of a field, channel and filter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from psycopg2.extras import Json

from ztfds.formats.images import read_image
from ztfds.operations import storage
from ztfds.operations.context import Context
from ztfds.reference import run as reference
from ztfds.reference.products import ReferenceInput, ReferenceProducts
from ztfds.reference.select import Selection, select
from ztfds.registry import products, reference_queue, references
from ztfds.registry.database import Cursor, fetch_one, transaction
from ztfds.registry.products import Parent, Step, Subject
from ztfds.registry.reference_queue import Wish
from ztfds.registry.runner import Outputs, Registered
from ztfds.survey import ids
from ztfds.survey.camera import ccd_qid
from ztfds.survey.errors import NoWork, ZtfdsError
from ztfds.survey.filters import by_fid

log = logging.getLogger(__name__)

STEP = Step("reference", "4")
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
    version : int
    reference_id : int
    """

    rfid: int
    status: int
    reason: str
    nframes: int
    skipped: bool
    version: int = 1
    reference_id: int = 0


REFERENCE_REASONS = "|".join(
    ("misregistered", "registration scatter", "flux scale", "not the same sky", "wrong PSF", "score on stars", "dipoles",
     "blank sky", "of what is expected", "raw events", "unusable")
)  # fmt: skip
"""Reasons of a bad difference (see `ztfds.difference.quality.verdict`) that may lie in the reference, as an expression."""


def wanted(context: Context, night: str | None = None) -> list[dict[str, int]]:
    """References to be made: what the queue holds, then enough good images without a usable reference, newest first.

    Parameters
    ----------
    context : Context
    night : str, optional
        UT date ``YYYYMMDD``: of those that are not queued only what was observed in this night or in the few before it;
        None: everything.

    Returns
    -------
    list of dict
        ``field``, ``rcid``, ``fid``, for `build`; at most `MOST`, the rest is for the next run.
    """
    nid = ids.nid_of_date(night) if night else None
    queued = reference_queue.waiting(context.dsn)
    found = [*queued, *references.wanted(context.dsn, context.config.reference.min_inputs, nid, NIGHTS)]
    if len(found) > MOST:
        log.warning(
            "%d references can be made: %d now, %d are left for the next run", len(found), MOST, len(found) - MOST
        )
    keys = dict.fromkeys((int(row["field"]), int(row["rcid"]), int(row["fid"])) for row in found)
    return [{"field": field, "rcid": rcid, "fid": fid} for field, rcid, fid in list(keys)[:MOST]]


def fill_queue(context: Context, night: str | None = None) -> list[str]:
    """Queue what the rules ask for: repeated bad differences, failed ones with newer images, much better images.

    Parameters
    ----------
    context : Context
    night : str, optional
        UT date of the night whose new images may make a better reference; None: none are asked.

    Returns
    -------
    list of str
        One line for each reference that was queued.
    """
    config, wishes = context.config.reference, []
    for row in reference_queue.with_bad_differences(
        context.dsn, REFERENCE_REASONS, config.bad_differences, config.of_last
    ):
        reason = f"{row['bad']} of the last {row['n']} differences are bad: {row['reason']}"
        wishes.append((row, Wish("bad differences", reason, "end of night", 2, row["reference_id"])))
    for row in reference_queue.failed_with_newer_inputs(context.dsn):
        reason = f"failed ({row['reason']}), {row['newer']} newer images"
        wishes.append((row, Wish("failed quality", reason, "end of night", 1, row["reference_id"])))
    if night:
        for row in reference_queue.with_new_inputs(context.dsn, ids.nid_of_date(night)):
            if reason := worth(context, row):
                wishes.append((row, Wish("better inputs", reason, "end of night", 0, row["reference_id"])))
    with transaction(context.dsn) as cursor:
        for row, wish in wishes:
            reference_queue.enqueue(cursor, row["field"], row["rcid"], row["fid"], wish)
    return [f"field {row['field']} rcid {row['rcid']} filter {row['fid']}: {wish.reason}" for row, wish in wishes]


def worth(context: Context, row: dict[str, Any]) -> str:
    """Why the images that there are now would make a much better reference than the served one; empty when not.

    Sharper: median FWHM of the inputs. Deeper: noise of an average with the inputs' depths, 10^(-0.4 maglim) each.
    """
    config = context.config.reference
    available = references.inputs(context.dsn, row["field"], row["rcid"], row["fid"])
    chosen = [available[k] for k in select(available, config).chosen]
    members = reference_queue.members(context.dsn, row["reference_id"])
    if not chosen or {int(c["product_id"]) for c in chosen} == {int(m["product_id"]) for m in members}:
        return ""
    now, then = _promise(chosen), _promise(members)
    if then[0] / now[0] >= config.better_by:
        return f"sharper inputs: FWHM {then[0]:.2f} -> {now[0]:.2f} px"
    if now[1] / then[1] >= config.better_by:
        return f"deeper inputs: noise {now[1] / then[1]:.2f} times lower, {len(members)} -> {len(chosen)} images"
    return ""


def _promise(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Median FWHM (px) and depth (inverse noise) that inputs promise; NaN where their figures are not known."""
    seeing = [float(row["SEEING"]) for row in rows if row.get("SEEING") is not None]
    depth = [10 ** (0.8 * (float(row["MAGLIM"]) - 20.0)) for row in rows if row.get("MAGLIM") is not None]
    return float(np.median(seeing)) if seeing else np.nan, float(np.sqrt(np.sum(depth))) if depth else np.nan


def build(context: Context, field: int, rcid: int, fid: int, run_id: str | None = None, attempt: int = 1) -> Built:
    """Select, co-add and register the reference of one field, channel and filter; its entry in the queue gets an outcome.

    Raises
    ------
    NoWork
        Fewer than the smallest number of images pass the selection, or the same images made a retired reference.
    RetryLater, ServiceDown
        Try again.
    """
    entry = reference_queue.start(context.dsn, field, rcid, fid)
    try:
        built = _build(context, field, rcid, fid, run_id, attempt)
    except ZtfdsError as error:
        if entry is not None and not error.retry:
            state = "refused" if isinstance(error, NoWork) else "failed"
            reference_queue.finish(context.dsn, entry, state, error.message)
        raise
    if entry is not None:
        reference_queue.finish(context.dsn, entry, *_outcome(built), built.reference_id)
    return built


def _outcome(built: Built) -> tuple[str, str]:
    """State and line of a queue entry."""
    if built.skipped:
        return (
            "refused",
            f"the same {built.nframes} images give version {built.version} again: nothing new to make it from",
        )
    if built.status == 1:
        return "done", f"version {built.version} of {built.nframes} images"
    return "failed", f"version {built.version} of {built.nframes} images is not usable: {built.reason}"


def _build(context: Context, field: int, rcid: int, fid: int, run_id: str | None, attempt: int) -> Built:
    """The work of `build`."""
    config = context.config.reference
    available = references.inputs(context.dsn, field, rcid, fid)
    selection = select(available, config)
    chosen, rejected = [available[k] for k in selection.chosen], _left_out(available, selection)
    if not chosen:
        references.note_try(context.dsn, field, rcid, fid, available, selection.reason, rejected)
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
            made.infobits,
            made.qa,
            {**storage.header_values(made.header), "reason": made.reason},
            lambda cursor, registered: _register(cursor, registered, subject, made, chosen, rejected),
        ),
    )
    row = fetch_one(context.dsn, "select * from references_ where provenance_id = %s", (done.provenance_id,))
    assert row is not None
    references.note_try(context.dsn, field, rcid, fid, available, row["reason"] or "", rejected)
    if row["retired"]:
        raise NoWork(f"the same {row['nframes']} images made version {row['version']}, which is retired", rcid=rcid)
    again = done.skipped and references.serve_again(context.dsn, row["reference_id"])
    log.info("reference %d of %d images: status %d %s", row["rfid"], row["nframes"], row["status"], row["reason"] or "")
    return Built(
        rfid=int(row["rfid"]),
        status=int(row["status"]),
        reason=row["reason"] or "",
        nframes=int(row["nframes"]),
        skipped=done.skipped and not again,
        version=int(row["version"]),
        reference_id=int(row["reference_id"]),
    )


def _left_out(available: Sequence[dict[str, Any]], selection: Selection) -> list[dict[str, Any]]:
    """Images that were not chosen, each with its reason."""
    return [
        {"product_id": int(available[k]["product_id"]), "exposure": available[k]["exposure"], "reason": reason}
        for k, reason in sorted(selection.rejected.items())
    ]


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
    cursor: Cursor,
    registered: Registered,
    subject: Subject,
    made: ReferenceProducts,
    chosen: list[dict[str, Any]],
    rejected: list[dict[str, Any]],
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
            "fwhm_px": made.header.get("SEEING"),
            "infobits": made.infobits,
            "limits_version": made.header.get("REFLIMV"),
            "remarks": "; ".join(made.reasons) or None,
            "rejected": Json(rejected),
            "provenance_id": registered.provenance_id,
            "product_id": registered.products["refimg"]["product_id"],
        },
        chosen,
    )
