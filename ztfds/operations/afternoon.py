"""The afternoon and the manifests: bias (P3) and flat (P4) of every quadrant of a CCD, and waiting for what was announced."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ztfds.calibration.bias import stack_bias
from ztfds.calibration.flat import stack_flat
from ztfds.calibration.products import CalibrationImage, accept, with_low_frequency
from ztfds.config.detrend import AcceptanceConfig
from ztfds.detrend.history import Departure, flags, judge
from ztfds.formats.atomic import Written, sha256_of
from ztfds.formats.images import read_image, write_image
from ztfds.formats.manifests import Manifest, read_manifest
from ztfds.formats.raw import RawQuadrant, read_raw
from ztfds.operations import telemetry
from ztfds.operations.context import Context
from ztfds.operations.receive import FIRST_NIGHT, exposure_values, identity, move
from ztfds.registry import calibrations, exposures, receipts
from ztfds.registry.calibrations import BIAS, FLAT, LAMP
from ztfds.registry.database import Cursor, fetch_all, session, transaction
from ztfds.registry.products import Parent, Step, Subject
from ztfds.registry.runner import OutputFile, Outputs, Registered, Runner
from ztfds.survey import ids, names
from ztfds.survey.camera import rcid as rcid_of
from ztfds.survey.errors import BadData, BadName, CalibrationMissing, FilesMissing, ZtfdsError
from ztfds.survey.filters import by_fid
from ztfds.survey.names import RawName

log = logging.getLogger(__name__)

BIAS_STEP, FLAT_STEP = Step(BIAS, "2"), Step(FLAT, "2")
MEMORY_BYTES = 600_000_000
"""Raw frames held at once while stacking; more are read in several passes over the files."""
UNUSABLE = (BadData, CalibrationMissing, FilesMissing)
"""What keeps one quadrant from a calibration and says nothing against the others: a reason, no error."""


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
class Channel:
    """A calibration of one readout channel and night: type, night number, CCD, quadrant, filter (0 for a bias)."""

    caltype: str
    nid: int
    ccdid: int
    qid: int
    fid: int

    @property
    def rcid(self) -> int:
        """Readout channel 0..63."""
        return rcid_of(self.ccdid, self.qid)

    @property
    def jd(self) -> float:
        """From when it is valid: the start of the night."""
        return ids.NID_ZERO_JD + self.nid

    @property
    def calid(self) -> int:
        """Calibration number."""
        return ids.calid(self.nid, self.rcid, ids.calibration_sequence(self.caltype, self.fid))

    @property
    def subject(self) -> Subject:
        """What an execution that makes it is about."""
        dataset = f"cal/{ids.night_date(self.nid)}/{self.caltype}/{self.fid}/rcid{self.rcid:02d}"
        return Subject(dataset, nid=self.nid, fid=self.fid, ccdid=self.ccdid, rcid=self.rcid)

    def not_made(self, error: ZtfdsError) -> Made:
        """The result where there is none."""
        return Made(self.caltype, self.rcid, self.fid, False, f"{error.code}: {error.message}")


@dataclass(frozen=True)
class _Frame:
    """A raw frame in memory: its row, primary header and one quadrant."""

    row: Mapping[str, Any]
    header: fits.Header
    quadrant: RawQuadrant


@dataclass(frozen=True)
class Stacked:
    """A calibration image with the decision about it, and what of its figures departs from the channel's history."""

    image: CalibrationImage
    accepted: bool
    reason: str
    departures: Sequence[Departure] = ()


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
        One per quadrant and calibration. Too few frames, an image that is refused, or an earlier calibration that cannot be
        read is no error: the last accepted one is used however old it is.

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
    context: Context, runner: Runner, nid: int, ccdid: int, caltype: str, fid: int, rows: Sequence[dict[str, Any]]
) -> list[Made]:
    """Calibrations of one type and filter of the four quadrants."""
    least = (context.config.bias if caltype == BIAS else context.config.flat).min_frames
    if len(rows) < least:
        reason = f"{len(rows)} frames, at least {least} are needed"
        return [Made(caltype, rcid_of(ccdid, qid), fid, False, reason) for qid in (1, 2, 3, 4)]
    made = []
    for qid, frames in _quadrants(context, rows):
        channel = Channel(caltype, nid, ccdid, qid, fid)
        try:
            made.append(_stack_one(context, runner, channel, frames))
        except UNUSABLE as error:
            made.append(channel.not_made(error))
    return made


def _quadrants(context: Context, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, list[_Frame]]]:
    """Raw frames quadrant by quadrant, as many quadrants per pass over the files as fit into memory."""
    ny, nx = context.camera.quadrant_shape
    at_once = max(1, min(4, MEMORY_BYTES // (len(rows) * ny * (nx + context.camera.overscan_columns) * 2)))
    for first in range(1, 5, at_once):
        chosen = list(range(first, min(first + at_once, 5)))
        held: dict[int, list[_Frame]] = {qid: [] for qid in chosen}
        for row in rows:
            try:
                ccd = read_raw(context.archive / row["path"], context.camera.quadrant_shape)
            except (BadData, FilesMissing) as error:
                log.warning("%s is left out of the calibrations: %s: %s", row["filename"], error.code, error.message)
                continue
            for qid in chosen:
                held[qid].append(_Frame(row, ccd.header, ccd.quadrants[qid - 1]))
        for qid in chosen:
            yield qid, held.pop(qid)


def _stack_one(context: Context, runner: Runner, channel: Channel, frames: Sequence[_Frame]) -> Made:
    """Make and register one bias or flat; a flat is divided by the lamp correction where one is valid."""
    settings = context.config.bias if channel.caltype == BIAS else context.config.flat
    if len(frames) < settings.min_frames:
        raise CalibrationMissing(f"{len(frames)} frames can be read, at least {settings.min_frames} are needed")
    parents = [Parent(int(frame.row["product_id"]), frame.row["provenance_id"]) for frame in frames]
    bias_row = lamp_row = None
    if channel.caltype == FLAT:
        with session(context.dsn):
            bias_row = calibrations.valid(context.dsn, BIAS, channel.rcid, 0, channel.jd)
            lamp_row = calibrations.find(context.dsn, LAMP, channel.rcid, channel.fid, channel.jd)
        parents += [Parent.of(row["data"]) for row in (bias_row, lamp_row) if row]

    def compute() -> Stacked:
        quadrants = [frame.quadrant for frame in frames]
        if bias_row is None:
            return judged(context, channel, stack_bias(quadrants, context.config.bias), settings)
        bias, lamp = readable(context, bias_row), readable(context, lamp_row) if lamp_row else None
        headers = [frame.header for frame in frames]
        image = stack_flat(quadrants, bias, context.config.flat, lamp.data if lamp else None, headers)
        image.header["LAMPID"] = (lamp_row["calid"] if lamp_row else 0, "lamp correction, 0 without")
        return judged(context, channel, image, settings)

    step = BIAS_STEP if channel.caltype == BIAS else FLAT_STEP
    meta = {"lampid": lamp_row["calid"] if lamp_row else 0}
    return register_map(context, runner, step, channel, parents, settings, compute, meta)


def register_map(
    context: Context,
    runner: Runner,
    step: Step,
    channel: Channel,
    parents: Sequence[Parent],
    settings: AcceptanceConfig,
    compute: Callable[[], Stacked],
    meta: Mapping[str, Any],
) -> Made:
    """Compute a calibration image unless it exists, register it with its figures, and say what became of it."""
    outputs = partial(_outputs, channel, meta, len(parents))
    done = runner.execute(step, channel.subject, parents, settings, compute, outputs)
    if done.value is not None:
        return Made(channel.caltype, channel.rcid, channel.fid, done.value.accepted, done.value.reason)
    row = fetch_all(
        context.dsn, "select accepted, reason from calibrations where provenance_id = %s", (done.provenance_id,)
    )
    return Made(channel.caltype, channel.rcid, channel.fid, row[0]["accepted"], row[0]["reason"])


def judged(context: Context, channel: Channel, image: CalibrationImage, settings: AcceptanceConfig) -> Stacked:
    """Hold a new image against the last good one, and its figures against the channel's history.

    A last good one that cannot be read is compared by the figures that the registry has of it.
    """
    before = calibrations.find(context.dsn, channel.caltype, channel.rcid, channel.fid, channel.jd - 1e-6)
    former, note = None, ""
    if before:
        try:
            former = readable(context, before)
        except FilesMissing as error:
            note = f"; compared by figures only: {error.message}"
            log.warning("rcid %d %s: %s", channel.rcid, channel.caltype, error.message)
    accepted, reason = accept(image, former, settings, metrics_of(before) if before else None)
    quality = context.config.quality
    rows = calibrations.trend(
        context.dsn, channel.caltype, channel.rcid, channel.fid, channel.jd - 1e-6, quality.history, good=True
    )
    departures = judge(image.qa, [row["metrics"] for row in rows], quality.trend_rules, quality)
    return Stacked(image, accepted, reason + note, departures)


def _outputs(channel: Channel, meta: Mapping[str, Any], nparents: int, stacked: Stacked) -> Outputs:
    """Files and rows of one calibration image."""
    date, code = ids.night_date(channel.nid), by_fid(channel.fid).code if channel.fid else "00"
    caltype, image, bits_set = channel.caltype, stacked.image, flags(stacked.departures)
    header = image.header.copy()
    header["NIGHTDAT"] = (date, "UT date of the frames")
    header["NID"] = (channel.nid, "night number")
    header["CCDID"], header["QID"], header["RCID"] = channel.ccdid, channel.qid, channel.rcid
    header["FILTERID"] = (channel.fid, "filter, 0 without")
    header["CALID"] = (channel.calid, "calibration number")
    header["ACCEPTED"] = (stacked.accepted, "compared with the last good one")
    header["QAFLAGS"] = (bits_set, "figures that depart from the channel's history")

    def place(suffix: str) -> Any:
        return lambda version: names.cal_path(date, caltype, code, channel.ccdid, channel.qid, suffix, version)

    planes = ((caltype, image.data), (f"{caltype}unc", image.uncertainty), (f"{caltype}cmask", image.cmask))
    files = [OutputFile(kind, place(f"{kind}.fits"), partial(_write, pixels, header)) for kind, pixels in planes]
    about = {"reason": stacked.reason, "nframes": int(image.qa["n_frames"]), "nparents": nparents, **meta}
    doubts = "; ".join(map(str, stacked.departures))
    return Outputs(
        files,
        int(stacked.accepted),
        0,
        {**image.qa, "flags": float(bits_set)},
        {**about, "doubts": doubts} if doubts else about,
        partial(_register, channel, stacked),
    )


def _register(channel: Channel, stacked: Stacked, cursor: Cursor, made: Registered) -> None:
    """Rows of a calibration and of its figures, in the registering transaction."""
    caltype, image = channel.caltype, stacked.image
    identity = {"caltype": caltype, "nid": channel.nid, "rcid": channel.rcid, "fid": channel.fid}
    calibration = {
        "calid": channel.calid,
        "ccdid": channel.ccdid,
        "valid_from_jd": channel.jd,
        "provenance_id": made.provenance_id,
        "version": made.version,
        "data_id": made.products[caltype]["product_id"],
        "unc_id": made.products[f"{caltype}unc"]["product_id"],
        "cmask_id": made.products[f"{caltype}cmask"]["product_id"],
        "accepted": stacked.accepted,
        "reason": stacked.reason,
        "nframes": int(image.qa["n_frames"]),
    }
    calibrations.record(cursor, {**identity, **calibration})
    figures = {
        "provenance_id": made.provenance_id,
        "jd": channel.jd,
        "metrics": image.qa,
        "accepted": stacked.accepted,
        "flags": flags(stacked.departures),
        "reasons": "; ".join(map(str, stacked.departures)) or None,
    }
    calibrations.record_trend(cursor, {**identity, **figures})


def _write(pixels: np.ndarray, header: fits.Header, path: Path) -> Written:
    """Write one plane of a calibration image."""
    return write_image(path, pixels, header)


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Quality metrics of a row of `calibrations.valid`; NaN where nothing was measured."""
    return {name: float("nan") if value is None else float(value) for name, value in (row["qa"] or {}).items()}


def read_calibration(
    context: Context, row: Mapping[str, Any], *, verify: bool = False, errors: bool = True
) -> CalibrationImage:
    """The calibration image of a row of `calibrations.valid`, with its quality metrics.

    Parameters
    ----------
    context : Context
    row : mapping
    verify : bool
        Whether its checksums are tested.
    errors : bool
        Whether the uncertainty is read; detrending does not need it. Without, it is NaN and takes no memory.

    Raises
    ------
    FilesMissing
        A file of it is not in the archive.
    """

    def read(plane: str) -> tuple[np.ndarray, fits.Header]:
        return read_image(context.archive / row[plane]["path"], verify=verify)

    (data, header), (cmask, _) = read("data"), read("cmask")
    uncertainty = read("unc")[0] if errors else np.broadcast_to(np.float32(np.nan), data.shape)
    return CalibrationImage(data, uncertainty, cmask.astype("u2", copy=False), metrics_of(row), header)


def readable(context: Context, row: Mapping[str, Any]) -> CalibrationImage:
    """The verified calibration image of a row; raise `FilesMissing` with the reason if it is damaged or absent."""
    try:
        return read_calibration(context, row, verify=True)
    except (BadData, FilesMissing) as error:
        what = f"{row['caltype']} {row['calid']} (version {row['version']})"
        raise FilesMissing(f"{what} cannot be read: {error.code}: {error.message}", rcid=int(row["rcid"])) from error


def read_flat(context: Context, flat_row: Mapping[str, Any], low_row: Mapping[str, Any] | None) -> CalibrationImage:
    """The response to divide by: a flat, times the low-frequency flat that goes with it where there is one."""
    flat = read_calibration(context, flat_row, errors=False)
    if low_row is None:
        return flat
    whole = with_low_frequency(flat, read_calibration(context, low_row, errors=False))
    whole.header["LOWFLAT"] = (low_row["calid"], "low-frequency flat multiplied in")
    return whole


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


def settled(
    context: Context, night: str, patience_s: float, part: str = "night", since: datetime | str | None = None
) -> bool:
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
    since : datetime or ISO 8601 str, optional
        When waiting began, if that was later, or if no manifest has come.

    Returns
    -------
    bool
        True when every file is in a final state and, for the night, every exposure is closed and no alert waits (without a
        broker alerts wait for ever: they do not count); or when the patience is over.
    """
    about = {"nid": ids.nid_of_date(night), "part": part, "broker": bool(context.kafka), "since": since}
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
    select extract(epoch from now() - greatest(max(arrival), %(since)s::timestamptz)) as age from manifests
    where nid = %(nid)s and not superseded and (%(part)s = 'night' or part = %(part)s)"""

_OPEN_FILES = """
    select m.filename, c.filename is not null or r.n > 0 as came
    from manifest_files m join manifests a on a.manifest_id = m.manifest_id and not a.superseded
    left join ccdfiles c on c.filename = m.filename left join exposures e using (exposure)
    left join telemetry_files t on t.filename = m.filename
    left join lateral (select count(*) as n from receipts r where r.filename = m.filename) r on true
    where a.nid = %(nid)s and (%(part)s = 'night' or a.part = %(part)s)
        and not (coalesce(c.state, '') in ('processed', 'calibrated', 'bad', 'failed', 'quarantined', 'missing')
        or (coalesce(c.state, '') = 'ingested' and (e.imgtype <> 'o' or c.error_code is not null))
        or (c.filename is null and r.n > 0) or coalesce(t.state, '') = 'missing')"""

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
    marked = exposures.mark_missing(context.dsn, files) if files else 0
    return marked + telemetry.mark_missing(context.dsn, filenames)
