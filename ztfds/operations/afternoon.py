"""The afternoon and the manifests: bias (P3) and flat (P4) of every quadrant of a CCD, and waiting for what was announced."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ztfds.calibration.bias import stack_bias
from ztfds.calibration.flat import stack_flat
from ztfds.calibration.products import CalibrationImage, accept
from ztfds.formats.atomic import Written, sha256_of
from ztfds.formats.images import read_image, write_image
from ztfds.formats.manifests import Manifest, read_manifest
from ztfds.formats.raw import RawCcd, RawQuadrant, read_raw
from ztfds.operations.context import Context
from ztfds.operations.receive import FIRST_NIGHT, exposure_values, identity, move
from ztfds.registry import calibrations, exposures, receipts
from ztfds.registry.calibrations import BIAS, FLAT
from ztfds.registry.database import Cursor, fetch_all, transaction
from ztfds.registry.products import Parent, Step, Subject
from ztfds.registry.runner import OutputFile, Outputs, Registered, Runner
from ztfds.survey import ids, names
from ztfds.survey.camera import rcid as rcid_of
from ztfds.survey.errors import BadData, BadName, CalibrationMissing, FilesMissing
from ztfds.survey.filters import by_fid
from ztfds.survey.names import RawName

log = logging.getLogger(__name__)

BIAS_STEP, FLAT_STEP = Step(BIAS, "1"), Step(FLAT, "1")
MEMORY_BYTES = 600_000_000
"""Raw frames held at once while stacking; more are read in several passes over the files."""


@dataclass(frozen=True)
class Made:
    """One calibration product of an afternoon, or why it was not made.

    Attributes
    ----------
    caltype : str
    rcid, fid : int
        Readout channel, filter (0 for a bias).
    accepted : bool
    reason : str
        ``accepted``, why it was refused, or why it could not be made.
    """

    caltype: str
    rcid: int
    fid: int
    accepted: bool
    reason: str


@dataclass(frozen=True)
class _Stacked:
    """A stacked calibration image with the decision about it."""

    image: CalibrationImage
    accepted: bool
    reason: str


def calibrate_ccd(context: Context, night: str, ccdid: int, run_id: str | None = None, attempt: int = 1) -> list[Made]:
    """Make the bias and then the flat of every filter, for the four quadrants of one CCD, from the night's ingested frames.

    Parameters
    ----------
    context : Context
    night : str
        UT date, ``YYYYMMDD``.
    ccdid : int
        CCD 1..16.
    run_id, attempt : str, int
        Of the orchestrator, for the record.

    Returns
    -------
    list of Made
        One per quadrant and calibration. Too few frames, or an image that is refused, is no error: the last accepted one is
        used however old it is.

    Raises
    ------
    ServiceDown
        Try again; what is made stays made.
    """
    nid, runner = ids.nid_of_date(night), context.runner(run_id, attempt)
    made = _stack_all(context, runner, nid, ccdid, BIAS, 0, calibrations.frames(context.dsn, nid, ccdid, "b"))
    flats = calibrations.frames(context.dsn, nid, ccdid, "f")
    for fid in sorted({row["fid"] for row in flats}):
        made += _stack_all(context, runner, nid, ccdid, FLAT, fid, [row for row in flats if row["fid"] == fid])
    for item in made:
        log.info("rcid %d %s filter %d: %s", item.rcid, item.caltype, item.fid, item.reason)
    return made


def _stack_all(
    context: Context, runner: Runner, nid: int, ccdid: int, caltype: str, fid: int, frames: Sequence[dict[str, Any]]
) -> list[Made]:
    """Calibrations of one type and filter of the four quadrants."""
    least = (context.config.bias if caltype == BIAS else context.config.flat).min_frames
    if len(frames) < least:
        reason = f"{len(frames)} frames, at least {least} are needed"
        return [Made(caltype, rcid_of(ccdid, qid), fid, False, reason) for qid in (1, 2, 3, 4)]
    made = []
    for qid, raws in _quadrants(context, frames):
        try:
            made.append(_stack_one(context, runner, nid, ccdid, caltype, fid, qid, frames, raws))
        except (BadData, CalibrationMissing) as error:
            made.append(Made(caltype, rcid_of(ccdid, qid), fid, False, f"{error.code}: {error.message}"))
    return made


def _quadrants(
    context: Context, frames: Sequence[dict[str, Any]]
) -> Iterator[tuple[int, list[tuple[RawCcd, RawQuadrant]]]]:
    """Raw frames quadrant by quadrant, as many quadrants per pass over the files as fit into memory."""
    ny, nx = context.camera.quadrant_shape
    at_once = max(1, min(4, MEMORY_BYTES // (len(frames) * ny * (nx + context.camera.overscan_columns) * 2)))
    for first in range(1, 5, at_once):
        chosen = list(range(first, min(first + at_once, 5)))
        held: dict[int, list[tuple[RawCcd, RawQuadrant]]] = {qid: [] for qid in chosen}
        for row in frames:
            ccd = read_raw(context.archive / row["path"], context.camera.quadrant_shape)
            empty = RawCcd(ccd.header, ccd.name, ())  # so that the other quadrants can be forgotten
            for qid in chosen:
                held[qid].append((empty, ccd.quadrants[qid - 1]))
        for qid in chosen:
            yield qid, held.pop(qid)


def _stack_one(
    context: Context,
    runner: Runner,
    nid: int,
    ccdid: int,
    caltype: str,
    fid: int,
    qid: int,
    frames: Sequence[dict[str, Any]],
    raws: Sequence[tuple[RawCcd, RawQuadrant]],
) -> Made:
    """Make and register one calibration image."""
    rcid, night_jd = rcid_of(ccdid, qid), ids.NID_ZERO_JD + nid
    parents = [Parent(int(row["product_id"]), row["provenance_id"]) for row in frames]
    bias: CalibrationImage | None = None
    if caltype == FLAT:
        bias_row = calibrations.valid(context.dsn, BIAS, rcid, 0, night_jd)
        parents.append(Parent.of(bias_row["data"]))
        bias = read_calibration(context, bias_row)

    def compute() -> _Stacked:
        before = calibrations.previous(context.dsn, caltype, rcid, fid, night_jd - 1e-6)
        former = read_calibration(context, before) if before else None
        quadrants, headers = [quadrant for _, quadrant in raws], [ccd.header for ccd, _ in raws]
        if bias is None:
            image = stack_bias(quadrants, context.config.bias)
            return _Stacked(image, *accept(image, former, context.config.bias))
        image = stack_flat(quadrants, bias, context.config.flat, headers=headers)
        return _Stacked(image, *accept(image, former, context.config.flat))

    subject = Subject(
        f"cal/{ids.night_date(nid)}/{caltype}/{fid}/rcid{rcid:02d}", nid=nid, fid=fid, ccdid=ccdid, rcid=rcid
    )
    done = runner.execute(
        BIAS_STEP if caltype == BIAS else FLAT_STEP,
        subject,
        parents,
        context.config.bias if caltype == BIAS else context.config.flat,
        compute,
        lambda stacked: _outputs(subject, caltype, qid, len(raws), stacked),
    )
    if done.value is not None:
        return Made(caltype, rcid, fid, done.value.accepted, done.value.reason)
    row = fetch_all(
        context.dsn, "select accepted, reason from calibrations where provenance_id = %s", (done.provenance_id,)
    )
    return Made(caltype, rcid, fid, row[0]["accepted"], row[0]["reason"])


def _outputs(subject: Subject, caltype: str, qid: int, nframes: int, stacked: _Stacked) -> Outputs:
    """Files and rows of one calibration image."""
    assert subject.nid is not None and subject.ccdid is not None and subject.rcid is not None
    date, code = ids.night_date(subject.nid), by_fid(subject.fid).code if subject.fid else "00"
    nid, ccdid, rcid, fid = subject.nid, subject.ccdid, subject.rcid, subject.fid or 0
    header = stacked.image.header.copy()
    header["NIGHTDAT"] = (date, "UT date of the frames")
    header["NID"] = (nid, "night number")
    header["CCDID"], header["QID"], header["RCID"] = ccdid, qid, rcid
    header["FILTERID"] = (fid, "filter, 0 without")
    header["CALID"] = (ids.calid(nid, rcid, ids.calibration_sequence(caltype, fid)), "calibration number")
    header["ACCEPTED"] = (stacked.accepted, "compared with the last good one")

    def place(suffix: str) -> Any:
        return lambda version: names.cal_path(date, caltype, code, ccdid, qid, suffix, version)

    def register(cursor: Cursor, made: Registered) -> None:
        calibrations.record(
            cursor,
            {
                "calid": ids.calid(nid, rcid, ids.calibration_sequence(caltype, fid)),
                "caltype": caltype,
                "nid": nid,
                "ccdid": ccdid,
                "rcid": rcid,
                "fid": fid,
                "valid_from_jd": ids.NID_ZERO_JD + nid,
                "provenance_id": made.provenance_id,
                "data_id": made.products[caltype]["product_id"],
                "unc_id": made.products[f"{caltype}unc"]["product_id"],
                "cmask_id": made.products[f"{caltype}cmask"]["product_id"],
                "accepted": stacked.accepted,
                "reason": stacked.reason,
                "nframes": nframes,
            },
        )

    image = stacked.image
    planes = ((caltype, image.data), (f"{caltype}unc", image.uncertainty), (f"{caltype}cmask", image.cmask))
    files = [OutputFile(kind, place(f"{kind}.fits"), partial(_write, pixels, header)) for kind, pixels in planes]
    return Outputs(files, int(stacked.accepted), 0, image.qa, {"reason": stacked.reason, "nframes": nframes}, register)


def _write(pixels: np.ndarray, header: fits.Header, path: Path) -> Written:
    """Write one plane of a calibration image."""
    return write_image(path, pixels, header)


def read_calibration(context: Context, row: dict[str, Any]) -> CalibrationImage:
    """The calibration image of a row of `calibrations.valid`, with its quality metrics.

    Raises
    ------
    FilesMissing
        A file of it is not in the archive.
    """
    data, header = read_image(context.archive / row["data"]["path"])
    uncertainty, _ = read_image(context.archive / row["unc"]["path"])
    cmask, _ = read_image(context.archive / row["cmask"]["path"])
    metrics = {name: float("nan") if value is None else float(value) for name, value in (row["qa"] or {}).items()}
    return CalibrationImage(data, uncertainty, cmask.astype("u2"), metrics, header)


# -- manifests ---------------------------------------------------------------------------------------------------------


def receive_manifest(context: Context, filename: str) -> int:
    """Register a manifest of the inbox and keep the file in the depot; repeating it changes nothing.

    Returns
    -------
    int
        Number of files it names.

    Raises
    ------
    FilesMissing
        It is neither in the inbox nor registered.
    BadData
        It cannot be read: it is in quarantine with a receipt.
    """
    path = context.inbox / filename
    date, part = names.parse_manifest_filename(filename)
    if not path.is_file():
        nid = ids.nid_of_date(date)
        if receipts.current_manifest(context.dsn, nid, part) is None:
            raise FilesMissing(f"manifest {filename} is neither in the inbox nor registered")
        return len(receipts.manifest_files(context.dsn, nid, part))
    checksum = sha256_of(path)
    try:
        manifest = _checked(read_manifest(path), date, part)
        files = [{"filename": identity(f.name), "bytes": f.bytes, "sha256": f.sha256} for f in manifest.files]
        receipts.store_manifest(context.dsn, manifest.nid, part, manifest.camera, filename, checksum, files)
    except BadData as error:
        _refuse_manifest(context, path, checksum, error)
        raise
    move(path, _depot_place(context, date, filename, checksum), checksum)
    log.info("manifest %s names %d files", filename, len(files))
    return len(files)


def _depot_place(context: Context, date: str, filename: str, checksum: str) -> Path:
    """Where a manifest is kept: under its name, or with its checksum where one with another content has that name."""
    place = context.archive / names.depot_path(date, filename)
    if not place.is_file() or sha256_of(place) == checksum:
        return place
    return place.with_name(f"{place.stem}_{checksum[:12]}{place.suffix}")


def _checked(manifest: Manifest, date: str, part: str) -> Manifest:
    """The manifest, if it says what its name says."""
    if (manifest.night, manifest.part) != (date, part):
        raise BadName(f"the manifest is of {manifest.night} ({manifest.part}), its name says {date} ({part})")
    if manifest.nid < FIRST_NIGHT:
        raise BadName(f"the manifest is of {date}, before the survey began ({ids.night_date(FIRST_NIGHT)})")
    return manifest


def _refuse_manifest(context: Context, path: Path, checksum: str, error: BadData) -> None:
    """Put an unusable manifest into quarantine, with a receipt."""
    info = path.stat()
    now = datetime.now(UTC)
    place = names.quarantine_path(path.name, now.strftime("%Y%m%d"), checksum)
    source = f"{info.st_dev}:{info.st_ino}:{info.st_mtime_ns}"
    with transaction(context.dsn) as cursor:
        if receipts.find(cursor, path.name, source, checksum) is None:
            values = {
                "filename": path.name,
                "bytes": info.st_size,
                "sha256": checksum,
                "source": source,
                "arrival": now,
            }
            why = {"verdict": "quarantined", "error_code": error.code, "reason": error.message, "path": place}
            receipts.record(cursor, {**values, **why})
    move(path, context.archive / place, checksum)


def settled(context: Context, night: str, patience_s: float, part: str = "night") -> bool:
    """Whether everything that the manifests of a night name has come to an end; after the patience, what never came is missing.

    The night waits for everything; the afternoon's calibrations for the files of their own manifest alone.

    Parameters
    ----------
    context : Context
    night : str
        UT date, ``YYYYMMDD``.
    patience_s : float
        Time after the (last) manifest's arrival at which waiting ends, s.
    part : {'night', 'calibration'}

    Returns
    -------
    bool
        True when every file is in a final state and, for the night, every exposure is closed and no alert waits (without a
        broker alerts wait for ever: they do not count); or when the patience is over.
    """
    about = {"nid": ids.nid_of_date(night), "part": part, "broker": bool(context.kafka)}
    open_files = fetch_all(context.dsn, _OPEN_FILES, about)
    open_exposures = fetch_all(context.dsn, _OPEN_EXPOSURES, about) if part == "night" else []
    if not open_files and not open_exposures:
        return True
    age = fetch_all(context.dsn, _MANIFEST_AGE, about)[0]["age"]
    if age is None or float(age) < patience_s:
        log.info("%s of %s: %d files and %d exposures open", part, night, len(open_files), len(open_exposures))
        return False
    lost = mark_missing(context, [row["filename"] for row in open_files if not row["came"]])
    log.warning("%s of %s: patience is over, %d files never came", part, night, lost)
    return True


_MANIFEST_AGE = """
    select extract(epoch from now() - max(arrival)) as age from manifests
    where nid = %(nid)s and not superseded and (%(part)s = 'night' or part = %(part)s)"""

_OPEN_FILES = """
    select m.filename, c.filename is not null or r.n > 0 as came
    from manifest_files m join manifests a on a.manifest_id = m.manifest_id and not a.superseded
    left join ccdfiles c on c.filename = m.filename left join exposures e using (exposure)
    left join lateral (select count(*) as n from receipts r where r.filename = m.filename) r on true
    where a.nid = %(nid)s and (%(part)s = 'night' or a.part = %(part)s)
        and not (coalesce(c.state, '') in ('processed', 'calibrated', 'bad', 'failed', 'quarantined', 'missing')
        or (coalesce(c.state, '') = 'ingested' and (e.imgtype <> 'o' or c.error_code is not null))
        or (c.filename is null and r.n > 0))"""

_OPEN_EXPOSURES = """
    select exposure from exposures e where nid = %(nid)s and imgtype = 'o'
        and (state in ('arriving', 'processing') or %(broker)s and exists (
            select 1 from alert_outbox o where o.exposure = e.exposure and o.state <> 'sent'))"""


def mark_missing(context: Context, filenames: Sequence[str]) -> int:
    """Register announced files that never came as missing; returns how many. Names that say nothing are left to the account."""
    files = []
    for filename in filenames:
        try:
            name = RawName.parse(filename)
        except BadName:
            continue
        if name.nid < FIRST_NIGHT:
            continue
        files.append({**exposure_values(context, name, None, None), "ccdid": name.ccdid, "filename": filename})
    return exposures.mark_missing(context.dsn, files) if files else 0
