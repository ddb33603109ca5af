"""P1 to P7 without Airflow: a folder of raw CCD files and a folder of star catalogs in, the archive, alerts and a summary out."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ztfds.config.detrend import IngestConfig
from ztfds.config.sets import ConfigSet, set_for_camera
from ztfds.formats.atomic import describe, sha256_of, write_atomic
from ztfds.formats.catalogs import StaticCatalogs
from ztfds.formats.manifests import ManifestFile, make_manifest, write_manifest
from ztfds.formats.raw import peek_shape
from ztfds.operations import afternoon, epochs, realtime, references
from ztfds.operations.context import Context
from ztfds.operations.epochs import Epochs
from ztfds.operations.memory import keep_freed_memory
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.report import write_report
from ztfds.operations.summary import Summary, collect, table, write
from ztfds.registry import database, exposures, receipts
from ztfds.registry.migrate import migrate
from ztfds.survey import ids, names
from ztfds.survey.camera import Camera, camera_for_shape
from ztfds.survey.errors import BadCatalog, BadData, BadName, ConfigurationError, MissingCatalog, NoWork, ZtfdsError
from ztfds.survey.names import RawName
from ztfds.survey.states import CcdState

logger = logging.getLogger(__name__)

Report = Callable[[str], None]
SHAPES_LOOKED_AT = 50
"""Files whose headers tell the size of the quadrants: the most frequent one is the camera's."""


@dataclass(frozen=True)
class RawFile:
    """One file of the folder: where it is and what its name says (None: nothing)."""

    path: Path
    name: RawName | None


@dataclass(frozen=True)
class Done:
    """What became of one piece of work.

    Attributes
    ----------
    label : str
        File name or the like.
    seconds : float
        How long it took.
    problem : str
        One line, if it did not succeed.
    settled : bool
        False when a repetition may succeed: whatever failed was not the data.
    """

    label: str
    seconds: float
    problem: str = ""
    settled: bool = True


@dataclass(frozen=True)
class Task:
    """One piece of work for a worker process: ``work(context, *arguments)``."""

    label: str
    work: Callable[..., Done]
    arguments: tuple[Any, ...]


class Crew:
    """Worker processes; the death of one (out of memory, say) costs no other task."""

    def __init__(self, context: Context, workers: int) -> None:
        self.context, self.workers = context, workers
        self.pool = self._pool()

    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"), initializer=keep_freed_memory)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """Do all tasks and tell each result as it comes; those that a dying worker took along are repeated one by one."""
        broken: list[Task] = []
        running: dict[Future[Done], Task] = {}
        for task in tasks:
            try:
                running[self.pool.submit(task.work, self.context, *task.arguments)] = task
            except BrokenProcessPool:
                broken.append(task)
        for future in as_completed(running):
            try:
                yield future.result()
            except BrokenProcessPool:
                broken.append(running[future])
        for task in broken:
            yield self._alone(task)

    def _alone(self, task: Task) -> Done:
        """Do one task in a process of its own."""
        self.pool.shutdown(cancel_futures=True)
        self.pool = self._pool()
        try:
            return self.pool.submit(task.work, self.context, *task.arguments).result()
        except BrokenProcessPool:
            self.pool = self._pool()
            return Done(task.label, 0.0, "the worker process died (killed, or out of memory)", settled=False)


def main(raw: Path, catalogs: Path, out: Path, report: Report, *, workers: int | None = None) -> int:
    """Process a folder of raw files from the beginning to the end; repeating it does only what is missing.

    Calibration frames come first, night by night; then, of every field, filter and CCD, the earliest epochs (half of them, at
    least 6 and at most 15) are calibrated and make the references; the later epochs are calibrated and differenced. Where
    too few of the early ones are usable, the next ones take their place. Whatever goes wrong with one file concerns only it.

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
        There are no raw files, or the catalogs cannot be used.
    """
    began, out, catalogs = time.monotonic(), Path(out).resolve(), Path(catalogs).resolve()
    files, notes = without_copies(find_raw_files(Path(raw), (out, catalogs)))
    camera = camera_of(files)
    report(f"{len(files)} files; camera {camera.name}, CCDs {', '.join(map(str, camera.ccdids))}")
    for line in notes:
        report(line)
    rows = check_catalogs(catalogs)
    report(f"catalogs: {rows['gaia']} Gaia and {rows['ps1']} PS1 rows")
    server = EmbeddedPostgres(out / "server")
    try:
        dsns = server.start()
        migrate(dsns["ztf_owner"])
        context = make_context(dsns["ztf_pipeline"], camera, catalogs, out)
        summary = _process(context, files, out, report, workers or os.cpu_count() or 1)
    finally:
        server.stop()
    summary.problems += notes
    summary.wall_s = round(time.monotonic() - began, 1)
    write(summary, out)
    for line in table(summary):
        report(line)
    return 1 if summary.problems else 0


def find_raw_files(folder: Path, without: Sequence[Path] = ()) -> list[RawFile]:
    """FITS files below a folder, but not below those in `without`, in the order of their names, which is that of time."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder of raw files")
    paths = [path for path in folder.rglob("*.fits*") if path.is_file()]
    paths = [path for path in paths if not any(path.resolve().is_relative_to(other) for other in without)]
    if not paths:
        raise ConfigurationError(f"there are no *.fits.fz files in {folder}")
    return sorted(
        (RawFile(path, _name(path)) for path in paths),
        key=lambda file: (file.path.name, len(file.path.parts), str(file.path)),
    )


def without_copies(files: Sequence[RawFile]) -> tuple[list[RawFile], list[str]]:
    """Keep the first file of every name; returns one line for each of the others too.

    ``.fits`` and ``.fits.fz`` of one stem are one name: they are the same exposure and CCD.
    """
    first: dict[str, RawFile] = {}
    notes = []
    for file in files:
        kept = first.setdefault(file.name.stem if file.name else file.path.name, file)
        if kept is not file:
            same = sha256_of(kept.path) == sha256_of(file.path)
            notes.append(f"{file.path}: {'a copy of' if same else 'differs from'} {kept.path}: not used")
    return list(first.values()), notes


def check_catalogs(folder: Path) -> dict[str, int]:
    """Load both kinds of catalogs once; returns their numbers of rows, or raises `ConfigurationError` with the reason."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder of star catalogs")
    try:
        return StaticCatalogs(folder).check()
    except (MissingCatalog, BadCatalog) as error:
        raise ConfigurationError(error.message) from error


def _name(path: Path) -> RawName | None:
    """What a file name says."""
    try:
        return RawName.parse(path.name)
    except BadName:
        return None


def camera_of(files: Sequence[RawFile]) -> Camera:
    """The camera that took the files: the most frequent size of quadrants, and the CCDs that the names mention."""
    named = [file for file in files if file.name is not None]
    ccdids = tuple(sorted({file.name.ccdid for file in named if file.name is not None}))
    step = max(1, len(named) // SHAPES_LOOKED_AT)
    shapes = Counter(shape for file in named[::step] if (shape := peek_shape(file.path)) is not None)
    if not shapes:
        raise ConfigurationError("none of the files can be read as a raw CCD file")
    return replace(camera_for_shape(shapes.most_common(1)[0][0]), ccdids=ccdids)


def make_context(dsn: str, camera: Camera, catalogs: Path, out: Path) -> Context:
    """Folders below `out`, the camera, and the settings that suit its size."""
    for name in ("inbox", "archive"):
        (out / name).mkdir(parents=True, exist_ok=True)
    return Context(dsn, out / "archive", out / "inbox", catalogs, camera, settings_for(camera))


def settings_for(camera: Camera) -> ConfigSet:
    """The settings that suit a camera's size, with what only holds for the survey's own files relaxed."""
    config = set_for_camera(camera)
    reference = config.reference
    relaxed = {**reference.overrides, "first_jd": 0.0}
    return config.model_copy(
        update={
            "ingest": IngestConfig.foreign(),
            "reference": reference.model_copy(update={"overrides": relaxed}),
        }
    )


@dataclass
class _Run:
    """One run over a folder: who works, where to report, and what went wrong."""

    context: Context
    crew: Crew
    report: Report
    problems: dict[str, str]

    def stage(self, title: str, tasks: Sequence[Task]) -> list[Done]:
        """Do the tasks of one stage, reporting each."""
        results = []
        for count, done in enumerate(self.crew.run(tasks), 1):
            self.report(f"{title} {count}/{len(tasks)}: {done.label} ({done.seconds:.1f} s) {done.problem}".rstrip())
            if done.problem:
                self.problems[done.label] = done.problem
            results.append(done)
        return results

    def ingest(self, title: str, files: Iterable[RawFile], *, early: bool = False) -> None:
        """Carry files as far as their type goes."""
        self.stage(title, [Task(file.path.name, ingest_file, (file.path, early)) for file in files])


def _process(context: Context, files: Sequence[RawFile], out: Path, report: Report, workers: int) -> Summary:
    """All stages in order."""
    dates = sorted({file.name.date for file in files if file.name is not None})
    with Crew(context, workers) as crew:
        run = _Run(context, crew, report, {})
        _calibrations(run, [file for file in files if file.name is None or file.name.is_calibration], dates)
        _sky(run, [file for file in files if file.name is not None and not file.name.is_calibration], out)
    _announce(context, files)
    summary = Summary("process", dates)
    nids = [ids.nid_of_date(date) for date in dates]
    collect(summary, context, nids, broker=False)
    told = "\n".join(summary.problems)
    summary.problems += [f"{label}: {line}" for label, line in run.problems.items() if label not in told]
    report(f"{export_alerts(context, out / 'alerts')} alert packets in {out / 'alerts'}")
    reports = [write_report(context, nid) for nid in nids]
    summary.report = str(reports[-1]) if reports else ""
    nameless = [file.path.name for file in files if file.name is None]
    summary.sent += len(nameless)
    summary.received += len(nameless)
    summary.quarantined += len(nameless)
    summary.problems += [f"{name}: quarantined: not a raw file name" for name in nameless]
    return summary


def _calibrations(run: _Run, frames: Sequence[RawFile], dates: Sequence[str]) -> None:
    """Biases, darks and flats, night by night."""
    run.ingest("ingest", frames)
    for date in dates:
        numbers = sorted({f.name.ccdid for f in frames if f.name is not None and f.name.date == date})
        run.stage("calibration", [Task(f"{date} CCD {n}", calibrate, (date, n)) for n in numbers])


def _sky(run: _Run, files: Sequence[RawFile], out: Path) -> None:
    """On-sky exposures: those that make references, the references, then the others."""
    by_stem = {file.name.stem: file for file in files if file.name is not None}
    division = Epochs(run.context, out, [file.name for file in files if file.name is not None])
    early = [file for file in files if file.name is not None and division.is_early(file.name)]
    while early:
        run.ingest("epoch", early, early=True)
        _close(run.context, early)
        early = [by_stem[name.stem] for name in division.top_up(run.context.config.reference.min_inputs)]
    _references(run, division)
    late = [file for file in files if file.name is not None and not division.is_early(file.name)]
    run.ingest("science", late)
    _close(run.context, late)


def _references(run: _Run, division: Epochs) -> None:
    """References of the groups that have none yet."""
    tasks = []
    groups: dict[str, str] = {}
    for item in references.wanted(run.context):
        key = epochs.key_of(item["field"], item["fid"], item["rcid"] // 4 + 1)
        if key in division.groups and not division.groups[key].done:
            label = f"field {item['field']} channel {item['rcid']} filter {item['fid']}"
            groups[label] = key
            tasks.append(Task(label, build_reference, (label, item["field"], item["rcid"], item["fid"])))
    results = run.stage("reference", tasks)
    division.finish(groups[done.label] for done in results if not done.settled)


def _timed(label: str, work: Callable[[], object]) -> Done:
    """Run a piece of work; any error becomes its one-line reason, for one file must not stop the others."""
    began = time.monotonic()
    try:
        work()
    except ZtfdsError as error:
        settled = isinstance(error, BadData | NoWork)
        return Done(label, time.monotonic() - began, f"{error.code}: {error}", settled)
    except Exception as error:
        logger.exception("%s failed", label)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Done(label, time.monotonic() - began, text[:500], settled=False)
    return Done(label, time.monotonic() - began)


def ingest_file(context: Context, path: Path, early: bool = False) -> Done:
    """Copy one raw file into the inbox and carry it as far as its type goes; what was done before is not repeated.

    A file that makes references is calibrated once and never differenced, although its reference exists afterwards. One
    whose content has changed since it was received is received again.
    """

    def work() -> None:
        known = {row["sha256"] for row in receipts.of_name(context.dsn, path.name)}
        if not known or sha256_of(path) not in known:
            target = context.inbox / path.name
            shutil.copyfile(path, target.with_name(target.name + ".part"))
            target.with_name(target.name + ".part").rename(target)
        elif early and _state(context, path.name) == CcdState.calibrated:
            return
        realtime.process_ccd(context, path.name, datetime.now(UTC).isoformat(), "process", 1)

    return _timed(path.name, work)


def _state(context: Context, filename: str) -> str | None:
    """State of a registered file."""
    row = exposures.find_ccdfile(context.dsn, filename)
    return None if row is None else str(row["state"])


def calibrate(context: Context, date: str, ccdid: int) -> Done:
    """Biases and flats of one CCD and afternoon."""
    return _timed(f"{date} CCD {ccdid}", lambda: afternoon.calibrate_ccd(context, date, ccdid, "process", 1))


def build_reference(context: Context, label: str, field: int, rcid: int, fid: int) -> Done:
    """One reference image."""
    return _timed(label, lambda: references.build(context, field, rcid, fid, "process", 1))


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
            groups.setdefault((file.name.date, "night"), [])  # of calibration frames alone: an empty manifest
    for (date, part), entries in groups.items():
        announced = receipts.manifest_files(context.dsn, ids.nid_of_date(date), part)
        if entries and {(e.name, e.sha256) for e in entries} == {(row["filename"], row["sha256"]) for row in announced}:
            continue
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
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, bytes(row["packet"]))
    return len(rows)
