"""P1 to P7 without Airflow: a folder of raw CCD files and a folder of star catalogs in, the archive, alerts and a summary out."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ztfds.config.sets import set_for_camera
from ztfds.formats.atomic import describe, write_atomic
from ztfds.formats.manifests import ManifestFile, make_manifest, write_manifest
from ztfds.formats.raw import read_raw
from ztfds.operations import afternoon, realtime, references
from ztfds.operations.context import Context
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.report import write_report
from ztfds.operations.summary import Summary, collect, table, write
from ztfds.registry import database
from ztfds.registry.migrate import migrate
from ztfds.survey import ids, names
from ztfds.survey.camera import Camera, camera_for_shape
from ztfds.survey.errors import BadData, BadName, ConfigurationError, ZtfdsError
from ztfds.survey.names import RawName

logger = logging.getLogger(__name__)

Report = Callable[[str], None]


@dataclass(frozen=True)
class RawFile:
    """One file of the folder: where it is and what its name says (None: nothing)."""

    path: Path
    name: RawName | None


@dataclass(frozen=True)
class Done:
    """What became of one piece of work: its label, how long it took (s), and the one-line reason if it did not succeed."""

    label: str
    seconds: float
    problem: str = ""


def main(raw: Path, catalogs: Path, out: Path, report: Report, *, workers: int | None = None) -> int:
    """Process a folder of raw files from the beginning to the end; repeating it does only what is missing.

    Calibration frames come first, night by night; then, of every field and filter, the earliest epochs (half of them, at least 6 and
    at most 15) are calibrated and make the references; the later epochs are calibrated and differenced.

    Parameters
    ----------
    raw : Path
        Folder of raw CCD files; only read.
    catalogs : Path
        Folder of Gaia-like and PS1-like tables.
    out : Path
        Folder for everything that is made.
    report : callable
        Called with each line of progress.
    workers : int, optional
        Processes; default: one per core.

    Returns
    -------
    int
        0 when every file came to a good end, 1 when something is to look at (see ``summary.json``).

    Raises
    ------
    ConfigurationError
        There are no raw files, or no catalogs.
    """
    began, out = time.monotonic(), Path(out).resolve()
    files = find_raw_files(Path(raw))
    camera = camera_of(files)
    report(f"{len(files)} files; camera {camera.name}, CCDs {', '.join(map(str, camera.ccdids))}")
    server = EmbeddedPostgres(out / "server")
    try:
        dsns = server.start()
        migrate(dsns["ztf_owner"])
        context = make_context(dsns["ztf_pipeline"], camera, Path(catalogs), out)
        summary = _process(context, files, out, report, workers or os.cpu_count() or 1)
    finally:
        server.stop()
    summary.wall_s = round(time.monotonic() - began, 1)
    write(summary, out)
    for line in table(summary):
        report(line)
    return 1 if summary.problems else 0


def find_raw_files(folder: Path) -> list[RawFile]:
    """FITS files below a folder in the order of their names, which is that of time."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder of raw files")
    found = [RawFile(path, _name(path)) for path in folder.rglob("*.fits*") if path.is_file()]
    if not found:
        raise ConfigurationError(f"there are no *.fits.fz files in {folder}")
    return sorted(found, key=lambda file: file.path.name)


def _name(path: Path) -> RawName | None:
    """What a file name says."""
    try:
        return RawName.parse(path.name)
    except BadName:
        return None


def camera_of(files: Sequence[RawFile]) -> Camera:
    """The camera that took the files: the size of the first readable quadrant, and the CCDs that the names mention."""
    ccdids = tuple(sorted({file.name.ccdid for file in files if file.name is not None}))
    for file in files:
        if file.name is None:
            continue
        try:
            shape = read_raw(file.path).quadrants[0].pixels.shape
        except BadData as error:
            logger.info("%s does not tell the camera: %s", file.path.name, error)
            continue
        return replace(camera_for_shape((int(shape[0]), int(shape[1]))), ccdids=ccdids)
    raise ConfigurationError("none of the files can be read as a raw CCD file")


def make_context(dsn: str, camera: Camera, catalogs: Path, out: Path) -> Context:
    """Folders below `out`, the camera, and the settings that suit its size."""
    if not catalogs.is_dir():
        raise ConfigurationError(f"{catalogs} is not a folder of star catalogs")
    for name in ("inbox", "archive"):
        (out / name).mkdir(parents=True, exist_ok=True)
    return Context(dsn, out / "archive", out / "inbox", catalogs.resolve(), camera, set_for_camera(camera))


def _process(context: Context, files: Sequence[RawFile], out: Path, report: Report, workers: int) -> Summary:
    """All stages in order."""
    dates = sorted({file.name.date for file in files if file.name is not None})
    summary = Summary("process", dates)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def stage(title: str, work: Callable[..., Done], items: Iterable[tuple[Any, ...]]) -> None:
            tasks = [pool.submit(work, context, *item) for item in items]
            for count, task in enumerate(as_completed(tasks), 1):
                done = task.result()
                report(f"{title} {count}/{len(tasks)}: {done.label} ({done.seconds:.1f} s) {done.problem}".rstrip())
                if done.problem and title in ("calibration", "reference"):
                    summary.problems.append(f"{done.label}: {done.problem}")

        frames = [file for file in files if file.name is None or file.name.is_calibration]
        stage("ingest", ingest_file, [(file.path,) for file in frames])
        for date in dates:
            numbers = sorted({f.name.ccdid for f in frames if f.name is not None and f.name.date == date})
            stage("calibration", calibrate, [(date, ccdid) for ccdid in numbers])
        early, late = split_epochs([file for file in files if file.name is not None and not file.name.is_calibration])
        stage("epoch", ingest_file, [(file.path,) for file in early])
        _close(context, early)
        wanted = references.wanted(context)
        stage("reference", build_reference, [(item["field"], item["rcid"], item["fid"]) for item in wanted])
        stage("science", ingest_file, [(file.path,) for file in late])
        _close(context, late)
    _announce(context, files)
    nids = [ids.nid_of_date(date) for date in dates]
    collect(summary, context, nids, broker=False)
    alerts = export_alerts(context, out / "alerts")
    report(f"{alerts} alert packets in {out / 'alerts'}")
    reports = [write_report(context, nid) for nid in nids]
    summary.report = str(reports[-1]) if reports else ""
    nameless = [file.path.name for file in files if file.name is None]
    summary.sent += len(nameless)
    summary.received += len(nameless)
    summary.quarantined += len(nameless)
    summary.problems += [f"{name}: quarantined: not a raw file name" for name in nameless]
    return summary


def split_epochs(files: Sequence[RawFile]) -> tuple[list[RawFile], list[RawFile]]:
    """Divide on-sky files into those of the epochs that make references and those that are differenced.

    Of n epochs of one field and filter the earliest min(15, max(6, n // 2)) make the reference.
    """
    epochs: dict[tuple[int, int], list[str]] = {}
    for file in files:
        assert file.name is not None
        known = epochs.setdefault((file.name.field, file.name.fid), [])
        if file.name.ffd not in known:
            known.append(file.name.ffd)
    early: list[RawFile] = []
    late: list[RawFile] = []
    for file in files:
        assert file.name is not None
        times = sorted(epochs[file.name.field, file.name.fid])
        first = times[: min(15, max(6, len(times) // 2))]
        (early if file.name.ffd in first else late).append(file)
    return early, late


def _timed(label: str, work: Callable[[], None]) -> Done:
    """Run a piece of work; an error of the library becomes its one-line reason."""
    began = time.monotonic()
    try:
        work()
    except ZtfdsError as error:
        return Done(label, time.monotonic() - began, f"{error.code}: {error}")
    return Done(label, time.monotonic() - began)


def ingest_file(context: Context, path: Path) -> Done:
    """Copy one raw file into the inbox and carry it as far as its type goes; what was done before is not repeated."""

    def work() -> None:
        if database.fetch_one(context.dsn, "select 1 from receipts where filename = %s", (path.name,)) is None:
            target = context.inbox / path.name
            shutil.copyfile(path, target.with_name(target.name + ".part"))
            target.with_name(target.name + ".part").rename(target)
        realtime.process_ccd(context, path.name, datetime.now(UTC).isoformat(), "process", 1)

    return _timed(path.name, work)


def calibrate(context: Context, date: str, ccdid: int) -> Done:
    """Biases and flats of one CCD and afternoon."""
    return _timed(f"{date} CCD {ccdid}", lambda: _ignore(afternoon.calibrate_ccd(context, date, ccdid, "process", 1)))


def build_reference(context: Context, field: int, rcid: int, fid: int) -> Done:
    """One reference image."""
    label = f"field {field} channel {rcid} filter {fid}"
    return _timed(label, lambda: _ignore(references.build(context, field, rcid, fid, "process", 1)))


def _ignore(_: object) -> None:
    """The outcome is in the registry."""


def _close(context: Context, files: Sequence[RawFile]) -> None:
    """Give the exposures their states."""
    for exposure in sorted({file.name.exposure for file in files if file.name is not None}):
        try:
            realtime.close_exposure(context, exposure)
        except ZtfdsError as error:
            logger.warning("%s: %s", exposure, error)


def _announce(context: Context, files: Sequence[RawFile]) -> None:
    """Write and register manifests of what lies in the folder, so that accountability has something to hold against."""
    groups: dict[tuple[str, str], list[ManifestFile]] = {}
    for file in files:
        if file.name is not None:
            part = "calibration" if file.name.is_calibration else "night"
            facts = describe(file.path)
            groups.setdefault((file.name.date, part), []).append(
                ManifestFile(file.path.name, facts.bytes, facts.sha256)
            )
    for (date, part), entries in groups.items():
        manifest = make_manifest(date, part, context.camera.name, datetime.now(UTC).isoformat(), entries)
        path = context.inbox / names.manifest_filename(date, part)
        write_manifest(path, manifest)
        afternoon.receive_manifest(context, path.name)


def export_alerts(context: Context, folder: Path) -> int:
    """Write the packets of the outbox as files ``YYYYMMDD/programid<n>/<candid>.avro``; returns their number."""
    query = "select candid, nid, programid, packet from alert_outbox where packet is not null order by candid"
    rows = database.fetch_all(context.dsn, query)
    for row in rows:
        path = folder / ids.night_date(row["nid"]) / f"programid{row['programid']}" / f"{row['candid']}.avro"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, bytes(row["packet"]))
    return len(rows)
