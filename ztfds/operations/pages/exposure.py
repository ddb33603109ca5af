"""The pages of one exposure and of one of its quadrants: states, reasons, pictures, candidates with their cutouts, work, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ztfds.formats.alerts import CUTOUTS, read_packets, unpack_cutout
from ztfds.formats.images import read_image
from ztfds.operations.pages.render import ROOT, binned, data_uri, page, png
from ztfds.operations.pages.tonight import focal_plane
from ztfds.registry import database
from ztfds.survey.bits import explain
from ztfds.survey.camera import Camera, ccd_qid
from ztfds.survey.errors import FilesMissing

MOST_CUTOUTS = 30
PICTURE_PX = 768
"""Longest side of a quick-look picture, pixels."""
PICTURES = {"science": "sciimg", "difference": "scimrefdiffimg"}

_EXPOSURE = "select * from exposures where exposure = %s"
_FILES = "select ccdid, filename, state, reason, run_id from ccdfiles where exposure = %s order by ccdid"
_IMAGES = """
    select rcid, kind, status, infobits, meta->>'reasons' as reasons from products
     where exposure = %s and kind in ('sciimg', 'scimrefdiffimg') and vbest > 0"""
_DIFFERENCES = "select rcid, status, reason, ncandidates, nalertpackets from diffimages where exposure = %s"
_JOBS = """
    select step, rcid, try, run_id, host, started, ended, cpu_s, wall_s, peak_mb, state, error_class, error_text from jobs
     where exposure = %s {quadrant} order by started desc limit 200"""
_PRODUCTS = """
    select product_id, kind, filename, path, bytes, sha256, version, vbest, status, infobits, swversion, config_hash, provenance_id,
           meta->>'reasons' as reasons, meta->>'doubts' as doubts
      from products where exposure = %s and rcid = %s order by kind, version desc"""
_PARENTS = """
    select distinct p.kind, p.filename, p.product_id, p.version from product_parents l join products p on p.product_id = l.parent_id
     where l.product_id = any(%s) order by p.kind, p.filename"""
_REFERENCE = """
    select r.reference_id, r.rfid, r.retired from diffimages d join references_ r using (reference_id)
     where d.exposure = %s and d.rcid = %s"""
_MARKS = """
    select distinct m.mark || ': ' || t.reason as mark from product_marks m join products p using (product_id)
      join reference_retirements t using (retirement_id) where p.exposure = %s and p.rcid = %s and p.vbest > 0"""
_MESSAGES = """
    select at, level, source, text, step, rcid from messages where exposure = %s {quadrant} order by message_id desc limit 100"""
_VERDICTS = """
    select * from verdicts where exposure = %s {quadrant} order by verdict_id desc"""
TROUBLED = ("bad", "failed", "quarantined", "missing")
"""States of a file that somebody should look at."""
_METRICS = "select step, name, value from qa_metrics where exposure = %s and rcid = %s order by step, name"
_CANDIDATES = """
    select c.*, o.state as outbox, o.packet, o.topic from (
        select candid, objectid, alerted, isdiffpos, ra, dec, magpsf, sigmapsf, scorr, rb from candidates
         where nid = %s and exposure = %s and rcid = %s order by alerted desc, scorr desc limit %s) c
      left join alert_outbox o using (candid) order by c.alerted desc, c.scorr desc"""


def exposure_page(dsn: str, camera: Camera, exposure: str, watch: bool = False) -> str:
    """The page of one exposure, which renews itself if it is to be watched.

    Raises
    ------
    FilesMissing
        There is no such exposure.
    """
    with database.transaction(dsn) as cursor:
        found = database.rows(cursor, _EXPOSURE, (exposure,))
        if not found:
            raise FilesMissing(f"no exposure {exposure}")
        files = database.rows(cursor, _FILES, (exposure,))
        images = database.rows(cursor, _IMAGES, (exposure,))
        differences = {row["rcid"]: row for row in database.rows(cursor, _DIFFERENCES, (exposure,))}
        jobs = database.rows(cursor, _JOBS.format(quadrant=""), (exposure,))
        said = database.rows(cursor, _MESSAGES.format(quadrant=""), (exposure,))
        verdicts = database.rows(cursor, _VERDICTS.format(quadrant=""), (exposure,))
    errors = {row["rcid"]: row["error_text"] for row in jobs[::-1] if row["state"] in ("error", "killed")}
    return page(
        "exposure",
        exposure=found[0],
        files=files,
        cells=_cells(exposure, camera, images, differences, {row["ccdid"]: row for row in files}, errors),
        jobs=[row for row in jobs if row["state"] not in ("done", "skipped")],
        n_jobs=len(jobs),
        runs=_runs(files) or [exposure],
        troubled=TROUBLED,
        messages=said,
        verdicts=verdicts,
        watch=watch,
    )


def _runs(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs of the files of an exposure, those of troubled files first."""
    ordered = sorted((row for row in files if row["run_id"]), key=lambda row: row["state"] not in TROUBLED)
    return list(dict.fromkeys(row["run_id"] for row in ordered))


def _cells(
    exposure: str,
    camera: Camera,
    images: Sequence[Mapping[str, Any]],
    differences: Mapping[int, Mapping[str, Any]],
    files: Mapping[int, Mapping[str, Any]],
    errors: Mapping[int, str],
) -> list[dict[str, Any]]:
    """The focal plane with the state of every quadrant: ``colour``, ``note``, number of alerts and link."""
    science = {row["rcid"]: row for row in images if row["kind"] == "sciimg"}
    cells = []
    for cell in focal_plane(camera, {}):
        made, difference, file = science.get(cell["rcid"]), differences.get(cell["rcid"]), files.get(cell["ccdid"])
        colour, note = _verdict(made, difference, file, errors.get(cell["rcid"]))
        text = difference["nalertpackets"] if difference else ""
        cells.append(
            {**cell, "colour": colour, "note": note, "text": text, "href": f"{ROOT}/exposure/{exposure}/{cell['rcid']}"}
        )
    return cells


def _verdict(
    made: Mapping[str, Any] | None,
    difference: Mapping[str, Any] | None,
    file: Mapping[str, Any] | None,
    error: str | None,
) -> tuple[str, str]:
    """Colour and words for a quadrant."""
    if file is None:
        return "none", "no file"
    if made is None:
        if file["state"] == "failed":
            return ("bad", f"failed: {error}") if error else ("none", "not made: its file failed before")
        return ("bad" if file["state"] in TROUBLED else "none"), file["state"]
    if made["status"] != 1:
        return "bad", f"not usable: {made['reasons'] or '; '.join(explain(made['infobits']))}"
    if difference is None:
        return "part", "calibrated, no difference image"
    return (
        ("good", "difference made")
        if difference["status"] == 1
        else ("part", f"bad difference: {difference['reason']}")
    )


def quadrant_page(dsn: str, exposure: str, rcid: int) -> str:
    """The page of one quadrant of an exposure.

    Raises
    ------
    FilesMissing
        There is no such exposure.
    """
    with database.transaction(dsn) as cursor:
        found = database.rows(cursor, _EXPOSURE, (exposure,))
        if not found:
            raise FilesMissing(f"no exposure {exposure}")
        products = database.rows(cursor, _PRODUCTS, (exposure, rcid))
        parents = database.rows(cursor, _PARENTS, ([row["product_id"] for row in products],))
        metrics = database.rows(cursor, _METRICS, (exposure, rcid))
        jobs = database.rows(cursor, _JOBS.format(quadrant="and rcid = %s"), (exposure, rcid))
        said = database.rows(cursor, _MESSAGES.format(quadrant="and rcid = %s"), (exposure, rcid))
        verdicts = database.rows(
            cursor,
            _VERDICTS.format(quadrant="and (rcid is null or rcid = %s) and withdrawn is null"),
            (exposure, rcid),
        )
        reference = database.rows(cursor, _REFERENCE, (exposure, rcid))
        marks = database.rows(cursor, _MARKS, (exposure, rcid))
        candidates = database.rows(cursor, _CANDIDATES, (found[0]["nid"], exposure, rcid, MOST_CUTOUTS))
    ccdid, qid = ccd_qid(rcid)
    values = {row["name"]: row["value"] for row in metrics if row["value"] is not None}
    return page(
        "quadrant",
        exposure=found[0],
        rcid=rcid,
        ccdid=ccdid,
        qid=qid,
        products=products,
        words=_words(products, values, found[0]["fid"]),
        parents=parents,
        metrics=metrics,
        jobs=jobs,
        messages=said,
        verdicts=verdicts,
        reference=reference[0] if reference else None,
        marks=[row["mark"] for row in marks],
        candidates=[{**row, "cutouts": _cutouts(row["packet"])} for row in candidates],
        pictures=[name for name, kind in PICTURES.items() if any(row["kind"] == kind for row in products)],
    )


def _words(products: Sequence[Mapping[str, Any]], metrics: Mapping[str, float], fid: int | None) -> list[str]:
    """What quality bits, named failures and the channel's history say of the served science and difference image."""
    lines = []
    for row in products:
        if row["vbest"] and row["kind"] in PICTURES.values():
            said = explain(row["infobits"], metrics, fid or 1) or [row["reasons"] or ""]
            doubts = [f"against the channel's history: {row['doubts']}"] if row["doubts"] else []
            lines += [f"{row['kind']}: {line}" for line in [*said, *doubts] if line]
    return lines


def _cutouts(packet: Any) -> list[str]:
    """The three cutouts of a packet as pictures; none when the packet is not kept."""
    if packet is None:
        return []
    record = read_packets(bytes(packet))[0]
    stamps = [unpack_cutout(record[name]["stampData"]) for name in CUTOUTS if record.get(name)]
    return [data_uri(png(stamp, 1, 99.5)) for stamp in stamps]


def picture(dsn: str, archive: Path, exposure: str, rcid: int, which: str) -> bytes:
    """Quick-look of the science or difference image of a quadrant as PNG, binned, first row below.

    Raises
    ------
    FilesMissing
        No such image is registered, or its file is away.
    """
    kind = PICTURES.get(which, "")
    query = "select path from products where exposure = %s and rcid = %s and kind = %s and vbest > 0"
    row = database.fetch_one(dsn, query, (exposure, rcid, kind))
    if row is None:
        raise FilesMissing(f"no {which} image of {exposure}, readout channel {rcid}")
    pixels, _ = read_image(Path(archive) / row["path"])
    return png(binned(np.asarray(pixels, np.float32), max(1, max(pixels.shape) // PICTURE_PX)))
