"""The main job in small: two simulated nights through Airflow on the embedded services, scored against the truth."""

from __future__ import annotations

import logging
import math
import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ztfds.operations import ephemeris
from ztfds.operations.context import Context
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import airflow, stack
from ztfds.operations.services.rest import AirflowDown
from ztfds.operations.services.state import Settings, State, load
from ztfds.operations.services.usage import airflow_cpu_seconds
from ztfds.operations.summary import Summary, collect, table, write
from ztfds.registry import database
from ztfds.simulator import night
from ztfds.simulator.minorplanets import known_names, write_orbits
from ztfds.simulator.schedule import Plan, make_plan
from ztfds.simulator.score import Score, score
from ztfds.survey import ids
from ztfds.survey.camera import get_camera
from ztfds.survey.errors import ConfigurationError, ServiceDown

logger = logging.getLogger(__name__)

Report = Callable[[str], None]
DATE = "20240311"
"""UT date of the simulated science night: fixed, so that every run sees the same sky."""
_USABLE_REFERENCES = "select count(*) as n from references_ where status = 1 and vbest > 0"
_GOOD_DIFFERENCES = "select count(*) as n from diffimages where status = 1 and nid = %s"


@dataclass(frozen=True)
class Size:
    """How much of the survey is rehearsed.

    Attributes
    ----------
    camera, config_set : str
        Names of the camera and of the set of step configurations.
    filters : tuple of str
        Filter codes.
    n_reference, n_exposures, n_bias, n_flat : int
        Reference epochs per filter, science exposures, and calibration frames of each afternoon.
    cadence_s : float
        Seconds between the arrivals of science exposures.
    limit_s : float
        Longest time that the whole rehearsal may take, s.
    """

    camera: str
    config_set: str
    filters: tuple[str, ...]
    n_reference: int
    n_exposures: int
    n_bias: int
    n_flat: int
    cadence_s: float
    limit_s: float = 3600.0


SIZES = {
    "tiny": Size("TINY", "tiny", ("zg", "zr"), 6, 8, 6, 6, 2.0),
    "ccd": Size("CCD", "ztf", ("zr",), 6, 5, 5, 5, 15.0),
    "camera": Size("ZTF", "ztf", ("zr",), 6, 3, 6, 6, 45.0, 4 * 3600.0),
}


class Rehearsal:
    """One rehearsal in a home folder: services, mountain, waiting, scoring.

    Parameters
    ----------
    size : str
        ``tiny``, ``ccd`` or ``camera``.
    home : Path
        Folder that keeps everything; what an earlier rehearsal left in it is removed.
    report : callable
        Called with each line of progress.
    faults : bool
        Make it a sandbox for drills, whose steps heed ``faults.json``.
    changes : mapping, optional
        Differences of settings that are tried.
    """

    def __init__(
        self, size: str, home: Path, report: Report, *, faults: bool = False, changes: Mapping[str, Any] | None = None
    ) -> None:
        if size not in SIZES:
            raise ConfigurationError(f"{size!r} is not a size of a rehearsal: {', '.join(SIZES)}")
        self.name, self.size, self.home, self._report = size, SIZES[size], Path(home).resolve(), report
        self.faults, self.changes = faults, dict(changes or {})
        self.began = time.monotonic()
        self.plan = plan_of(self.size)
        self.summary = Summary(size, list(self.plan.dates))
        self.truth, self.catalogs = self.home / "truth", self.home / "catalogs"
        self._mountain: multiprocessing.process.BaseProcess | None = None
        self._next_look = 0.0

    def say(self, line: str) -> None:
        """One line of progress with the time since the start."""
        elapsed = int(time.monotonic() - self.began)
        self._report(f"[{elapsed // 60:2d}:{elapsed % 60:02d}] {line}")

    def run(self) -> Summary:
        """Do it all; services stay up at the end, also when something fails."""
        self._clear()
        night.write_catalogs(self.catalogs, self.plan)
        self._start_mountain()
        try:
            state = self._start_services()
            self.summary.airflow_url = state.api_url
            self.context = context_of(state)
            self._refresh_ephemerides()
            self._first_night(state)
            self._science_night(state)
        finally:
            self._stop_mountain()
        self._score(state)
        self.summary.wall_s = round(time.monotonic() - self.began, 1)
        write(self.summary, self.home)
        return self.summary

    # -- set-up --------------------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        """Stop and remove what an earlier rehearsal left; downloaded jars stay."""
        if load(self.home) is not None:
            self.say("stopping the services of the last night")
            stack.stop(self.home)
        for path in self.home.glob("*"):
            if path.name == "kafka" and (path / "libs").is_dir():
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.home.mkdir(parents=True, exist_ok=True)

    def _start_mountain(self) -> None:
        """Begin to render; what is rendered waits on the mountain until it is its time to be sent."""
        spawn = multiprocessing.get_context("spawn")
        arguments = (self.size, self.home / "mountain", self.truth)
        self._mountain = spawn.Process(target=render_nights, args=arguments, daemon=True)
        self._mountain.start()

    def _stop_mountain(self) -> None:
        """The mountain ends with us."""
        if self._mountain is not None:
            self._mountain.terminate()
            self._mountain.join()

    def _start_services(self) -> State:
        """PostgreSQL, Kafka, Airflow and ingestd."""
        self.say("starting PostgreSQL, Kafka and Airflow")
        settings = Settings(
            self.size.camera, self.size.config_set, str(self.catalogs), 60.0, faults=self.faults, changes=self.changes
        )
        return stack.start(self.home, settings=settings, report=self.say)

    def _refresh_ephemerides(self) -> None:
        """The orbits of (most of) the asteroids, checked and prepared for the science night."""
        sources = {kind: str(path) for kind, path in write_orbits(self.catalogs, self.plan).items()}
        outcome = ephemeris.refresh(self.context, sources, self.plan.dates[-1], "rehearsal")
        self.say(f"ephemerides: {outcome.line}")
        if outcome.state != "ok":
            self.summary.problems.append(f"ephemerides: {outcome.line}")

    # -- the nights ----------------------------------------------------------------------------------------------------

    def _first_night(self, state: State) -> None:
        """Calibrations and reference epochs, until the references are made."""
        date, total = self.plan.dates[0], len(on_sky(self.plan, 0))
        self._afternoon(state, 0)
        self.say(f"night {date}: {total} epochs for references")
        self._deliver(0, night.NIGHT)
        self._wait(state, "end_of_night", f"eon_{date}", lambda: f"epochs calibrated: {self._count(0, 'o')} of {total}")
        self._wait(state, "reference", f"ref_{date}", lambda: "references: " + self._made_references())
        self.say(f"references: {self._made_references()}")

    def _science_night(self, state: State) -> None:
        """Science exposures at their cadence, until the night is accounted for."""
        date, total = self.plan.dates[1], len(on_sky(self.plan, 1))
        self._afternoon(state, 1)
        self.say(f"night {date}: {total} science exposures, one every {self.size.cadence_s:.0f} s")
        self._deliver(1, night.NIGHT, self.size.cadence_s)
        self._wait(
            state, "end_of_night", f"eon_{date}",
            lambda: f"science exposures done: {self._count(1, 'o')} of {total}, alerts: {self._alerts()}",
            may_fail=True,
        )  # fmt: skip

    def _afternoon(self, state: State, index: int) -> None:
        """Biases and flats of one night."""
        date = self.plan.dates[index]
        frames = [exposure for exposure in self.plan.of_night(index) if exposure.kind != "o"]
        self.say(f"afternoon of {date}: {len(frames)} biases and flats")
        self._deliver(index, night.CALIBRATION)
        told = f"calibration frames ingested: {{}} of {len(frames)}"
        self._wait(state, "calibration", f"cal_{date}", lambda: told.format(self._count(index, ("b", "f"))))

    def _deliver(self, index: int, part: str, cadence_s: float = 0.0) -> None:
        """Move staged files into the inbox, exposure by exposure as they are rendered, the manifest last."""
        staged = staging(self.home / "mountain", index, part)
        inbox, moment = self.home / "inbox", time.monotonic()
        while True:
            done = any(staged.glob("*manifest.json"))
            ready = ready_exposures(staged, len(get_camera(self.size.camera).ccdids))
            for files in ready:
                time.sleep(max(0.0, moment - time.monotonic()))
                for path in files:
                    path.rename(inbox / path.name)
                moment = max(moment, time.monotonic() - cadence_s) + cadence_s
                if cadence_s:
                    self.say(f"sent {files[0].name[:18]}; done {self._count(index, 'o')}, alerts {self._alerts()}")
                self._watch()
            if done and not ready:
                break
            self._check_time(staged.name)
            self._check_mountain(done)
            time.sleep(0.2)
        for path in [*sorted(staged.glob("*_telemetry.ecsv")), *staged.glob("*manifest.json")]:
            path.rename(inbox / path.name)

    def _check_time(self, what: str) -> None:
        """Nothing is waited for for ever."""
        if time.monotonic() - self.began > self.size.limit_s:
            raise ServiceDown(f"{what} did not end within {self.size.limit_s:.0f} s of the start")

    def _check_mountain(self, done: bool) -> None:
        """A dead mountain must not let us wait for ever."""
        assert self._mountain is not None
        if not done and not self._mountain.is_alive() and self._mountain.exitcode:
            raise ServiceDown(f"the simulated mountain died with status {self._mountain.exitcode}")

    def _wait(self, state: State, dag: str, run: str, progress: Callable[[], str], *, may_fail: bool = False) -> None:
        """Wait for a DAG run to end, telling progress; a failed run is a problem of the night, not an exception."""
        client, told = airflow.api(state), ""
        while True:
            outcome = run_state(client, dag, run)
            if outcome in ("success", "failed"):
                if outcome == "failed":
                    self.summary.problems.append(f"DAG run {run} failed")
                    self.say(f"DAG run {run} failed: see {state.api_url}/dags/{dag}/runs/{run}")
                client.close()
                return
            self._check_time(run)
            if (line := progress()) != told:
                self.say(told := line)
            self._check_mountain(False)
            self._watch()
            time.sleep(1.0)

    def _watch(self) -> None:
        """Keep the largest memory of everything together, looked at every few seconds."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + 5.0
        total = sum(row.memory_mb for row in stack.status(self.home)) + psutil.Process().memory_info().rss / 1e6
        if self._mountain is not None and self._mountain.is_alive() and self._mountain.pid:
            total += psutil.Process(self._mountain.pid).memory_info().rss / 1e6
        self.summary.memory_mb_peak = round(max(self.summary.memory_mb_peak, total), 1)

    def _count(self, index: int, kinds: Sequence[str]) -> int:
        """Exposures of a night that came to an end."""
        query = "select count(*) as n from exposures where nid = %s and imgtype = any(%s) and state not in ('arriving', 'processing')"
        found = database.fetch_one(self.context.dsn, query, (ids.nid_of_date(self.plan.dates[index]), list(kinds)))
        return int(found["n"]) if found else 0

    def _alerts(self) -> int:
        """Alerts that the broker has acknowledged."""
        found = database.fetch_one(self.context.dsn, "select count(*) as n from alert_outbox where state = 'sent'")
        return int(found["n"]) if found else 0

    def _made_references(self) -> str:
        """Usable references of those expected."""
        found = database.fetch_one(self.context.dsn, _USABLE_REFERENCES)
        quadrants = 4 * len(self.plan.camera.ccdids) * len(self.size.filters)
        return f"{found['n'] if found else 0} of {quadrants}"

    # -- scoring -------------------------------------------------------------------------------------------------------

    def _score(self, state: State) -> None:
        """Fill in the summary."""
        self.say("scoring against the truth")
        summary, nids = self.summary, [ids.nid_of_date(date) for date in self.plan.dates]
        broker = any(row.name == "kafka" and row.state == "running" for row in stack.status(self.home))
        jobs = collect(summary, self.context, nids, broker=broker)
        _add_score(summary, score(self.context, self.truth, nids, known_names(self.plan)))
        self._add_shortfalls()
        work = sum(row["cpu_s"] or 0.0 for row in jobs.values())
        summary.airflow_cpu_s_per_exposure = max(0.0, airflow_cpu_seconds(state) - work) / len(self.plan.exposures)
        if broker:
            _add_topics(summary, self.context)
        found = sorted((self.home / "archive").glob(f"depot/{self.plan.dates[-1]}/*nightreport.html"))
        summary.report = str(found[-1]) if found else ""
        if not found:
            summary.problems.append("no nightly report was written")

    def _add_shortfalls(self) -> None:
        """References and good differences against what the plan calls for."""
        quadrants = 4 * len(self.plan.camera.ccdids)
        nid = ids.nid_of_date(self.plan.dates[1])
        counts = (
            ("usable references", quadrants * len(self.size.filters), _USABLE_REFERENCES, ()),
            ("good differences", quadrants * len(on_sky(self.plan, 1)), _GOOD_DIFFERENCES, (nid,)),
        )
        for what, expected, query, parameters in counts:
            found = database.fetch_one(self.context.dsn, query, parameters)
            if not found or found["n"] < expected:
                self.summary.problems.append(f"{found['n'] if found else 0} {what}, {expected} expected")


def plan_of(size: Size) -> Plan:
    """The nights of a rehearsal."""
    return make_plan(
        get_camera(size.camera), DATE, filter_codes=size.filters, n_exposures=size.n_exposures,
        n_reference=size.n_reference, n_bias=size.n_bias, n_flat=size.n_flat,
    )  # fmt: skip


def on_sky(plan: Plan, index: int) -> list[Any]:
    """On-sky exposures of one night of a plan."""
    return [exposure for exposure in plan.of_night(index) if exposure.kind == "o"]


def staging(mountain: Path, index: int, part: str) -> Path:
    """Where the files of one part of a night wait on the mountain."""
    return mountain / f"{index}_{part}"


def render_nights(size: Size, mountain: Path, truth: Path) -> None:
    """Render both nights in order, each part into its folder on the mountain."""
    plan = plan_of(size)
    for index in range(len(plan.dates)):
        for part in (night.CALIBRATION, night.NIGHT):
            folder = staging(mountain, index, part)
            night.simulate(folder, None, truth, plan, index, accelerate=math.inf, parts=(part,), telemetry=True)


def ready_exposures(folder: Path, ccds: int) -> list[list[Path]]:
    """Staged files by exposure, in order of time, of the exposures that are complete."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.fits.fz")):
        groups.setdefault(path.name[:18], []).append(path)
    return [files for files in groups.values() if len(files) == ccds]


def context_of(state: State) -> Context:
    """The library's context of the services of one home folder."""
    dsn = EmbeddedPostgres(state.home).start()["ztf_pipeline"]
    return Context.build(dsn, state.places, {"bootstrap.servers": state.bootstrap_servers})


def run_state(client: airflow.AirflowApi, dag: str, run: str) -> str | None:
    """State of one DAG run, None where it does not exist (yet)."""
    try:
        status, answer = client.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")
    except AirflowDown:
        return None
    return answer["state"] if status == 200 and isinstance(answer, dict) and "state" in answer else None


def _add_score(summary: Summary, result: Score) -> None:
    """Take over the scores and what is out of bounds."""
    for name in (
        "astrometry_mas_ra", "astrometry_mas_dec", "zeropoint_rms_mag", "psf_pull_width", "scorr_width",
        "transients_injected_snr10", "transients_alerted_snr10",
        "asteroids_known", "asteroids_tagged", "asteroids_unknown", "asteroids_mistagged",
    ):  # fmt: skip
        setattr(summary, name, getattr(result, name))
    summary.problems += result.out_of_bounds()


def _add_topics(summary: Summary, context: Context) -> None:
    """Read the topics back and compare with the outbox."""
    rows = database.fetch_all(context.dsn, "select candid, topic from alert_outbox where state = 'sent'")
    candids = read_topics(str(context.kafka["bootstrap.servers"]), sorted({row["topic"] for row in rows}))
    summary.alerts_in_topics, summary.alerts_doubled = len(candids), len(candids) - len(set(candids))
    absent = {row["candid"] for row in rows} - set(candids)
    if absent:
        summary.problems.append(f"{len(absent)} acknowledged alerts are not in the topics")
    if summary.alerts_doubled:
        summary.problems.append(f"{summary.alerts_doubled} alerts are in the topics more than once")


def read_topics(servers: str, topics: Sequence[str], timeout_s: float = 20.0) -> list[int]:
    """Candidate numbers of every packet in some topics, from the beginning to the present end."""
    import io

    import fastavro
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    if not topics:
        return []  # a consumer that was assigned nothing does not close
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "ztfds-rehearsal", "enable.auto.commit": False})
    candids: list[int] = []
    try:
        known = consumer.list_topics(timeout=timeout_s).topics
        places = [TopicPartition(t, p) for t in topics if t in known for p in known[t].partitions]
        wanted = sum(
            high - low for low, high in (consumer.get_watermark_offsets(place, timeout=timeout_s) for place in places)
        )
        consumer.assign([TopicPartition(place.topic, place.partition, OFFSET_BEGINNING) for place in places])
        deadline = time.monotonic() + timeout_s
        while len(candids) < wanted and time.monotonic() < deadline:
            for message in consumer.consume(500, timeout=1.0):
                if message.error() is None:
                    candids += [int(packet["candid"]) for packet in fastavro.reader(io.BytesIO(message.value()))]  # type: ignore[index,call-overload,arg-type]
    finally:
        consumer.close()
    return candids


def main(size: str, home: Path, report: Report) -> int:
    """Rehearse, print the table, and say by the exit status whether all is accounted for and in bounds."""
    try:
        rehearsal = Rehearsal(size, home, report)
        summary = rehearsal.run()
    except KeyboardInterrupt:
        report("stopped by hand: stopping the services")
        stack.stop(home)
        return 130
    report("")
    for line in table(summary):
        report(line)
    state = load(home)
    if state is not None:
        report(f"  accounts              {home}/airflow/passwords.json; `make stop` stops the services")
    return 1 if summary.problems else 0
