"""Writing nights: raw CCD files into an inbox at the mountain's cadence, with manifests, truth, catalogs and faults."""

from __future__ import annotations

import dataclasses
import heapq
import logging
import math
import multiprocessing
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from ztfds.formats.atomic import write_atomic
from ztfds.formats.manifests import ManifestFile, make_manifest
from ztfds.formats.manifests import write_manifest as write_manifest_file
from ztfds.formats.raw import RawQuadrant, write_raw
from ztfds.simulator import events
from ztfds.simulator.exposure import Rendered, detector_of, render
from ztfds.simulator.faults import Delivery, Fault, apply, extra_cloud, listed
from ztfds.simulator.headers import iso_time, primary_header, quadrant_header
from ztfds.simulator.minorplanets import write_orbits
from ztfds.simulator.schedule import Conditions, Plan, PlannedExposure, conditions, make_plan
from ztfds.simulator.telemetry import Sheet, write_night
from ztfds.simulator.truth import to_table, write_catalogs, write_truth
from ztfds.survey.camera import get_camera, rcid

logger = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
CALIBRATION, NIGHT = "calibration", "night"
_QUADRANTS = (1, 2, 3, 4)

__all__ = [
    "CALIBRATION",
    "NIGHT",
    "Sent",
    "make_plan",
    "render_ccd",
    "simulate",
    "simulate_command",
    "write_catalogs",
    "write_events",
    "write_exposure",
    "write_manifest",
]


@dataclass(frozen=True)
class Sent:
    """What one simulated night sent.

    Attributes
    ----------
    exposures, files : int
        Exposures and CCD files delivered (re-sent files count again).
    bytes : int
    manifest : tuple of ManifestFile
        What the mountain says it sent, both manifests together.
    """

    exposures: int
    files: int
    bytes: int
    manifest: tuple[ManifestFile, ...]


def render_ccd(
    folder: Path, plan: Plan, index: int, ccdid: int, truth: Path | None = None, extra_cloud_mag: float = 0.0
) -> Path:
    """Render one CCD of one planned exposure and write its raw file (atomically), and its truth table if asked for.

    Parameters
    ----------
    folder : Path
        Where the raw file goes.
    plan : Plan
    index : int
        Exposure, place in `plan.exposures`.
    ccdid : int
    truth : Path, optional
        Folder of truth tables; none are written without it.
    extra_cloud_mag : float
        Grey cloud on top of the night's weather.
    """
    exposure = plan.exposures[index]
    state = conditions(plan, exposure, extra_cloud_mag) if exposure.kind == "o" else None
    quadrants, rows, facts = [], [], []
    for qid in _QUADRANTS:
        channel = rcid(ccdid, qid)
        made = render(plan, exposure, channel, extra_cloud_mag)
        header = quadrant_header(plan, exposure, channel)
        quadrants.append(RawQuadrant(qid, channel, made.pixels, made.overscan, header))
        rows.append(made.truth)
        facts.append(_quadrant_facts(plan, channel, made))
    path = Path(folder) / exposure.raw_name(ccdid).filename
    write_raw(path, primary_header(plan, exposure, ccdid, state), quadrants)
    if truth is not None and state is not None:
        write_truth(truth, path.name, np.concatenate(rows), _exposure_facts(exposure, state, facts))
    return path


def _exposure_facts(exposure: PlannedExposure, state: Conditions, quadrants: list[dict[str, Any]]) -> dict[str, Any]:
    return {"exposure": dataclasses.asdict(exposure), "conditions": dataclasses.asdict(state), "quadrants": quadrants}


def _quadrant_facts(plan: Plan, channel: int, made: Rendered) -> dict[str, Any]:
    """True numbers of one quadrant: PSF width, noise area, gain, mapping."""
    detector = detector_of(plan, channel)
    facts: dict[str, Any] = {"rcid": channel, "gain": detector.gain}
    if made.scene is not None:
        x, y = plan.camera.centre_pixel
        facts["fwhm_px"] = made.scene.psf.fwhm(x, y)
        facts["noise_area_px"] = made.scene.psf.noise_area(x, y)
        facts["zeropoint"] = made.scene.conditions.zeropoint + 2.5 * math.log10(detector.efficiency)
        facts["wcs"] = dict(made.scene.wcs.header())
    return facts


def write_exposure(
    inbox: Path,
    plan: Plan,
    index: int,
    *,
    truth: Path | None = None,
    ccdids: Sequence[int] | None = None,
    faults: Sequence[Fault] = (),
) -> list[Delivery]:
    """Render an exposure next to the inbox, spoil it as the faults say, and move its CCD files into the inbox.

    Files appear in the inbox complete (by rename). Late, repeated and conflicting sendings are `simulate`'s business:
    here a late file comes at once and nothing comes twice.

    Returns
    -------
    list of Delivery
        One for each CCD, with its manifest entry.
    """
    staging = staging_folder(Path(inbox))
    deliveries = _prepare(staging, plan, index, tuple(ccdids or plan.camera.ccdids), truth, tuple(faults))
    for delivery in deliveries:
        if delivery.path is not None:
            _move(delivery.path, Path(inbox))
    return deliveries


def staging_folder(inbox: Path) -> Path:
    """Folder beside the inbox, on the same file system, where files wait for their delivery."""
    return inbox.with_name(inbox.name + ".staging")


def _prepare(
    staging: Path, plan: Plan, index: int, ccdids: tuple[int, ...], truth: Path | None, faults: tuple[Fault, ...]
) -> list[Delivery]:
    """Render and spoil all CCD files of one exposure."""
    cloud = extra_cloud(faults, index)
    return [apply(faults, render_ccd(staging, plan, index, ccdid, truth, cloud), index, ccdid) for ccdid in ccdids]


def _move(path: Path, inbox: Path) -> Path:
    """Rename into the inbox: complete at once."""
    inbox.mkdir(parents=True, exist_ok=True)
    return path.replace(inbox / path.name)


def write_manifest(inbox: Path, plan: Plan, night: int, part: str, files: Sequence[ManifestFile]) -> Path:
    """Write the manifest of one part ('calibration' or 'night') of a night into the inbox."""
    exposures = [e for e in plan.of_night(night) if (e.kind == "o") == (part == NIGHT)]
    jd = exposures[-1].jd + 120.0 / 86400.0 if exposures else plan.of_night(night)[-1].jd
    manifest = make_manifest(plan.dates[night], part, plan.camera.name, iso_time(jd) + "Z", files)
    Path(inbox).mkdir(parents=True, exist_ok=True)
    return write_manifest_file(Path(inbox) / manifest.filename, manifest).path


def write_events(truth: Path, plan: Plan) -> Path:
    """Write truth/transients.parquet: every injected supernova with its magnitudes at onset."""
    path = Path(truth) / "transients.parquet"
    table = to_table(events.transients(plan))
    write_atomic(path, lambda temporary: pq.write_table(table, temporary))
    return path


def _rendered(
    plan: Plan,
    indices: Sequence[int],
    staging: Path,
    ccdids: tuple[int, ...],
    truth: Path | None,
    faults: tuple[Fault, ...],
    workers: int,
) -> Iterator[tuple[int, list[Delivery]]]:
    """Render exposures in order; with several workers a few exposures ahead, one CCD a task."""
    if workers <= 1:
        for index in indices:
            yield index, _prepare(staging, plan, index, ccdids, truth, faults)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:

        def submit(index: int) -> list[Future[list[Delivery]]]:
            return [pool.submit(_prepare, staging, plan, index, (ccdid,), truth, faults) for ccdid in ccdids]

        waiting: deque[tuple[int, list[Future[list[Delivery]]]]] = deque()
        ahead = max(2, math.ceil(2 * workers / len(ccdids)))
        rest = iter(indices)
        for index in rest:
            waiting.append((index, submit(index)))
            if len(waiting) > ahead:
                first, futures = waiting.popleft()
                yield first, [d for future in futures for d in future.result()]
        for first, futures in waiting:
            yield first, [d for future in futures for d in future.result()]


class _Post:
    """Delivers files to the inbox at their time; late and repeated ones wait in a queue."""

    def __init__(self, inbox: Path, accelerate: float, patience_s: float) -> None:
        self.inbox, self.accelerate, self.patience_s = inbox, accelerate, patience_s
        self.start, self.files, self.bytes = time.monotonic(), 0, 0
        self._queue: list[tuple[float, int, Path]] = []
        self._count = 0

    def now(self) -> float:
        """Seconds of the mountain's clock since the start."""
        return (time.monotonic() - self.start) * self.accelerate if math.isfinite(self.accelerate) else math.inf

    def wait_until(self, moment: float) -> None:
        """Send what is due before, then wait for a moment of the mountain's clock (not at all if infinitely fast)."""
        if not math.isfinite(self.accelerate):
            return
        while True:
            due = self._queue[0][0] if self._queue else math.inf
            if due <= self.now():
                self.send(heapq.heappop(self._queue)[2])
            elif self.now() >= moment:
                return
            else:
                time.sleep(max(0.0, (min(due, moment) - self.now()) / self.accelerate))

    def post(self, delivery: Delivery, moment: float, again_after: float) -> None:
        """Deliver a file now, or queue it if it is late; queue its repetitions."""
        if delivery.path is None:
            return
        copies = [self._copy(delivery.path, k) for k in range(delivery.again)]
        if delivery.delay_s > 0:
            self._later(moment + delivery.delay_s, delivery.path)
        else:
            self.send(delivery.path)
        for k, path in enumerate([*copies, *([delivery.conflicting] if delivery.conflicting else [])]):
            self._later(moment + (k + 1) * again_after, path)

    @staticmethod
    def _copy(path: Path, k: int) -> Path:
        target = path.parent / f"again{k}" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        return target

    def _later(self, moment: float, path: Path) -> None:
        self._count += 1
        heapq.heappush(self._queue, (moment, self._count, path))

    def send(self, path: Path) -> None:
        """Move a file into the inbox, giving the receiver some time to take an earlier one of the same name away."""
        target, deadline = self.inbox / path.name, time.monotonic() + self.patience_s
        while target.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.bytes += path.stat().st_size
        self.files += 1
        _move(path, self.inbox)

    def flush(self) -> None:
        """Send all that is still queued, in order of time and at their time."""
        while self._queue:
            if math.isfinite(self.accelerate):
                self.wait_until(self._queue[0][0])
            else:
                self.send(heapq.heappop(self._queue)[2])


def simulate(
    inbox: Path,
    catalogs: Path | None,
    truth: Path | None,
    plan: Plan,
    night_index: int = 0,
    cadence_s: float | None = None,
    accelerate: float = 1.0,
    faults: Sequence[Fault | str] = (),
    progress: Progress | None = None,
    *,
    workers: int = 1,
    prepare_first: bool = False,
    parts: Sequence[str] = (CALIBRATION, NIGHT),
    patience_s: float = 30.0,
    telemetry: bool = False,
) -> Sent:
    """Let the mountain send one night of the plan.

    Parameters
    ----------
    inbox : Path
        Folder that the data system watches.
    catalogs, truth : Path, optional
        Folders for the static catalogs and the truth tables; nothing is written where None.
    plan : Plan
    night_index : int
        Night of the plan.
    cadence_s : float, optional
        Seconds between exposures; None keeps the planned times. Calibration frames are sent as soon as they are made.
    accelerate : float
        How many times faster than real; `math.inf` sends without waiting (late files then come last of all).
    faults : sequence of Fault or str
        E.g. 'truncated@12:6' (exposure index in the plan, CCD).
    progress : callable, optional
        Called as progress(exposures done, exposures in all, what).
    workers : int
        Processes that render; 1 renders in this one.
    prepare_first : bool
        Render the whole part before the first file is sent, so that rendering does not disturb what is measured.
    parts : sequence of str
        'calibration' and/or 'night'; each ends with its manifest.
    patience_s : float
        How long a file waits for one of its name to be taken from the inbox before it replaces it.
    telemetry : bool
        Whether readings of telescope and weather are sent beside the exposures of the night.

    Returns
    -------
    Sent
    """
    told: list[ManifestFile] = []
    chosen = tuple(Fault.parse(f) if isinstance(f, str) else f for f in faults)
    if catalogs is not None:
        write_catalogs(Path(catalogs), plan)
        write_orbits(Path(catalogs), plan)
    if truth is not None:
        write_events(Path(truth), plan)
    wanted = [e for e in plan.of_night(night_index) if (NIGHT if e.kind == "o" else CALIBRATION) in parts]
    post = _Post(Path(inbox), accelerate, patience_s)
    Path(inbox).mkdir(parents=True, exist_ok=True)
    done = 0
    for part in (CALIBRATION, NIGHT):
        mine = [e for e in wanted if (e.kind == "o") == (part == NIGHT)]
        if part not in parts or not mine:
            continue
        beside = write_night(staging_folder(post.inbox), plan, night_index) if telemetry and part == NIGHT else []
        entries = _send_part(
            post,
            plan,
            mine,
            part,
            cadence_s,
            truth,
            chosen,
            workers,
            prepare_first,
            _reporter(progress, done, len(wanted), part),
            beside,
        )
        write_manifest(inbox, plan, night_index, part, entries)
        told += entries
        done += len(mine)
    post.flush()
    shutil.rmtree(staging_folder(Path(inbox)), ignore_errors=True)
    logger.info(
        "night %s: %d exposures, %d files, %.1f MB sent",
        plan.dates[night_index],
        len(wanted),
        post.files,
        post.bytes / 1e6,
    )
    return Sent(len(wanted), post.files, post.bytes, tuple(told))


def _reporter(progress: Progress | None, done: int, total: int, part: str) -> Callable[[int], None]:
    def report(k: int) -> None:
        if progress is not None:
            progress(done + k, total, part)

    return report


def _send_part(
    post: _Post,
    plan: Plan,
    exposures: Sequence[PlannedExposure],
    part: str,
    cadence_s: float | None,
    truth: Path | None,
    faults: tuple[Fault, ...],
    workers: int,
    prepare_first: bool,
    report: Callable[[int], None],
    beside: Sequence[Sheet] = (),
) -> list[ManifestFile]:
    """Send the exposures of one part, each at its time, and telemetry when it is complete; returns the manifest's entries."""
    rendered: Iterable[tuple[int, list[Delivery]]] = _rendered(
        plan, [e.index for e in exposures], staging_folder(post.inbox), plan.camera.ccdids, truth, faults, workers
    )
    if prepare_first:
        rendered = list(rendered)
    entries: list[ManifestFile] = []
    post.start = time.monotonic()
    again_after = 2.0 * (cadence_s or 45.0)
    sheets = deque(beside)
    for k, (index, deliveries) in enumerate(rendered):
        moment = 0.0
        if part == NIGHT:
            elapsed = (plan.exposures[index].jd - exposures[0].jd) * 86400.0
            moment = k * cadence_s if cadence_s is not None else elapsed
            post.wait_until(moment)
        while sheets and sheets[0].end_jd < plan.exposures[index].jd:
            entries.append(_send_sheet(post, sheets.popleft()))
        for delivery in deliveries:
            post.post(delivery, moment, again_after)
            entries.append(delivery.manifest)
        report(k + 1)
    return entries + [_send_sheet(post, sheet) for sheet in sheets]


def _send_sheet(post: _Post, sheet: Sheet) -> ManifestFile:
    """Send a file of telemetry; returns its entry in the manifest."""
    entry = listed(sheet.path)
    post.send(sheet.path)
    return entry


def simulate_command(
    folder: Annotated[Path, typer.Argument(help="Folder for inbox/, catalogs/ and truth/.")],
    camera: Annotated[str, typer.Option(help="ztf, ccd or tiny.")] = "tiny",
    date: Annotated[str, typer.Option(help="UT date of the science night, YYYYMMDD.")] = "20240311",
    seed: Annotated[int, typer.Option(help="The sky and all noise.")] = 1,
    n_fields: Annotated[int, typer.Option("--fields", help="Number of fields.")] = 1,
    filters: Annotated[str, typer.Option(help="Filter codes, e.g. zg,zr.")] = "zg,zr",
    exposures: Annotated[int, typer.Option(help="Science exposures.")] = 20,
    references: Annotated[int, typer.Option(help="Reference epochs per field and filter, on an earlier night.")] = 7,
    biases: Annotated[int, typer.Option(help="Biases each afternoon.")] = 8,
    flats: Annotated[int, typer.Option(help="Flats per filter each afternoon.")] = 6,
    sky: Annotated[str, typer.Option(help="quiet or plane.")] = "quiet",
    night: Annotated[int, typer.Option(help="Night of the plan to send; -1 sends all, one after the other.")] = -1,
    cadence: Annotated[float, typer.Option(help="Seconds between exposures; 0 keeps the real cadence.")] = 0.0,
    accelerate: Annotated[float, typer.Option(help="Times faster than real; 0 sends without waiting.")] = 1.0,
    fault: Annotated[
        list[str] | None, typer.Option(help="Fault to inject, e.g. truncated@12:6; may be repeated.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Rendering processes.")] = 1,
    telemetry: Annotated[bool, typer.Option(help="Send readings of telescope and weather too.")] = True,
) -> None:
    """Let a simulated mountain send raw CCD files into FOLDER/inbox."""
    plan = make_plan(
        get_camera(camera),
        date,
        seed=seed,
        n_fields=n_fields,
        filter_codes=filters.split(","),
        n_exposures=exposures,
        n_reference=references,
        n_bias=biases,
        n_flat=flats,
        sky=sky,
    )
    nights = range(len(plan.dates)) if night < 0 else [night]

    def progress(done: int, total: int, what: str) -> None:
        typer.echo(f"{what}: {done} of {total} exposures")

    for index in nights:
        sent = simulate(
            folder / "inbox",
            folder / "catalogs",
            folder / "truth",
            plan,
            index,
            cadence_s=cadence or None,
            accelerate=accelerate or math.inf,
            faults=fault or (),
            progress=progress,
            workers=workers,
            telemetry=telemetry,
        )
        typer.echo(
            f"night {plan.dates[index]}: {sent.exposures} exposures, {sent.files} files, {sent.bytes / 1e6:.0f} MB"
        )
