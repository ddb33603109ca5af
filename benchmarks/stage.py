"""A stage for measurements of orchestration: all services with timed no-ops, real pointings sent, latencies and memory read back."""

from __future__ import annotations

import csv
import heapq
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import psycopg2.extras

from benchmarks import timed
from benchmarks.orchestration import usage
from ztfds.formats.atomic import sha256_of
from ztfds.formats.manifests import ManifestFile, make_manifest, write_manifest
from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import stack
from ztfds.operations.services.state import Settings, State
from ztfds.survey import ids
from ztfds.survey.camera import get_camera
from ztfds.survey.fields import nearest
from ztfds.survey.names import RawName

DATA = Path(os.environ.get("ZTFDS_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CCDS = get_camera("ZTF").ccdids
UNIX_JD = 2440587.5

RUNS = """
    select r.run_id, r.state, extract(epoch from (r.conf ->> 'arrival')::timestamptz) as arrival,
           extract(epoch from min(t.start_date) filter (where t.task_id = 'process_ccd')) as began,
           extract(epoch from max(t.start_date) filter (where t.task_id = 'process_ccd')) as last_began,
           extract(epoch from r.end_date) as ended, r.id
      from dag_run r left join task_instance t using (dag_id, run_id)
     where r.dag_id = 'exposure' and r.run_id = any(%s) group by r.id order by 3"""
MISSED = "select count(*) as n from deadline where missed and dagrun_id = any(%s)"
UNFINISHED = "select count(*) as n from dag_run where dag_id = 'exposure' and state in ('queued', 'running')"
LOOK = """
    select current_database() as name, pg_database_size(current_database()) / 1e6 as mb,
           (select coalesce(max(extract(epoch from now() - query_start)), 0) from pg_stat_activity
             where state = 'active' and pid <> pg_backend_pid() and usename = current_user) as slowest"""


@dataclass(frozen=True)
class Pointing:
    """One real exposure: when its shutter opened, in seconds since the first of the night, and the name that it gets here."""

    after_s: float
    exposure: str
    field: int


def pointings(date: str) -> list[Pointing]:
    """The on-sky exposures of a real night, ``YYYY-MM-DD``, in order.

    Raises
    ------
    SystemExit
        The real data are not on this machine.
    """
    path = DATA / "pointings" / f"{date}.csv"
    if not path.is_file():
        raise SystemExit(f"no real schedule: {path} is absent (set ZTFDS_REAL_DATA)")
    with path.open(newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["start_time"])
    began = [datetime.fromisoformat(f"{row['start_time']}+00:00").timestamp() for row in rows]
    found = []
    for row, start in zip(rows, began, strict=True):
        place, _ = nearest(15.0 * _sexagesimal(row["ra"]), _sexagesimal(row["dec"]), grid=0)
        name = f"ztf_{ids.filefracday(UNIX_JD + start / 86400.0)}"
        found.append(Pointing(start - began[0], name, place.fieldid))
    return found


def _sexagesimal(text: str) -> float:
    """``+23:11:13.2`` as a number of hours or degrees."""
    sign = -1.0 if text.startswith("-") else 1.0
    parts = [float(part) for part in text.lstrip("+-").split(":")]
    return sign * sum(part / 60.0**k for k, part in enumerate(parts))


@dataclass
class Stage:
    """Services with timed no-ops in a home folder.

    Attributes
    ----------
    home : Path
    slots : int
        Tasks at the same time.
    quadrant_s : float
        How long a quadrant takes, s.
    """

    home: Path
    slots: int
    quadrant_s: float
    sent: list[str] = field(default_factory=list)

    def start(self) -> State:
        """Start everything."""
        timed.copy_dags(self.home / "dags")
        timed.set_duration(self.home, self.quadrant_s)
        settings = Settings(dags=str(self.home / "dags"), slots=self.slots)
        self.state = stack.start(self.home, settings=settings, report=print)
        return self.state

    def send(self, pointing: Pointing) -> None:
        """Put the files of an exposure into the inbox, each under a temporary name first."""
        inbox = Path(self.state.roots["inbox"])
        names = [RawName(pointing.exposure[4:], pointing.field, "zr", ccdid, "o").filename for ccdid in CCDS]
        for name in names:
            (inbox / f"{name}.part").write_text(name)
        time.sleep(0.02)  # a transfer takes longer than the clock of the file system ticks
        for name in names:
            (inbox / f"{name}.part").rename(inbox / name)
        self.sent += names

    def send_at_cadence(self, schedule: Sequence[Pointing], speed: float) -> list[str]:
        """Send a stretch of a night, so many times faster than it was; returns the names of the exposures."""
        began = time.monotonic()
        for pointing in schedule:
            due = (pointing.after_s - schedule[0].after_s) / speed
            time.sleep(max(0.0, began + due - time.monotonic()))
            self.send(pointing)
        return [pointing.exposure for pointing in schedule]

    def manifest(self, date: str) -> str:
        """Send the manifest of the files sent so far; returns the name of the run that it makes."""
        archive, files = Path(self.state.roots["archive"]), []
        content = self.home / "content"
        for name in self.sent:
            content.write_text(name)
            files.append(ManifestFile(name, len(name), sha256_of(content)))
        manifest = make_manifest(date, "night", "ZTF", datetime.now().astimezone().isoformat(), files)
        write_manifest(archive / manifest.filename, manifest)
        (archive / manifest.filename).rename(Path(self.state.roots["inbox"]) / manifest.filename)
        return f"eon_{date}"

    def query(self, database: str, statement: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a database: ``airflow`` or ``ztf_pipeline``."""
        connection = psycopg2.connect(EmbeddedPostgres(self.home).dsn(database))
        try:
            with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(statement, tuple(parameters))
                return [dict(row) for row in cursor.fetchall()]
        finally:
            connection.close()

    def runs(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """What became of exposures: state, arrival, first and last start of a file's task, end; Unix times."""
        rows = self.query("airflow", RUNS, (list(names),))
        return [{k: float(v) if k in ("arrival", "began", "last_began", "ended") and v is not None else v for k, v in row.items()}
                for row in rows]  # fmt: skip

    def missed(self, runs: Sequence[dict[str, Any]]) -> int:
        """How many of the runs missed the deadline of alerts."""
        return int(self.query("airflow", MISSED, ([row["id"] for row in runs],))[0]["n"])

    def wait(self, names: Sequence[str], limit_s: float) -> bool:
        """Wait until all these exposures have ended."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            rows = self.runs(names)
            if len(rows) == len(names) and all(row["state"] in ("success", "failed") for row in rows):
                return True
            time.sleep(2.0)
        return False

    def await_run(self, dag: str, run: str, limit_s: float) -> str:
        """Wait for the end of a run of another DAG; returns its state."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            rows = self.query("airflow", "select state from dag_run where dag_id = %s and run_id = %s", (dag, run))
            if rows and rows[0]["state"] in ("success", "failed"):
                return str(rows[0]["state"])
            time.sleep(2.0)
        return "not ended"


def ideal_latencies(arrivals: Sequence[float], work_s: float, slots: int) -> np.ndarray:
    """Latencies if orchestration cost nothing [s]: files in the order of arrival on so many slots, each for so long."""
    free = [0.0] * slots
    found = []
    for arrival in arrivals:
        ends = []
        for _ in CCDS:
            start = max(arrival, heapq.heappop(free))
            ends.append(start + work_s)
            heapq.heappush(free, start + work_s)
        found.append(max(ends) - arrival)
    return np.array(found)


def percentiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median, 95 and 100 per cent, rounded."""
    return {name: round(float(np.percentile(values, q)), 2) for name, q in (("p50", 50), ("p95", 95), ("max", 100))}


@dataclass
class Sampler:
    """Looks at memory, databases and back-log every so often, in a thread."""

    stage: Stage
    interval_s: float = 20.0
    rows: list[dict[str, float]] = field(default_factory=list)

    def sample(self) -> dict[str, float]:
        """One look: proportional memory of each service [MB], sizes of the databases [MB], open runs, slowest query [s]."""
        memory = {row.name: row.memory_mb for row in stack.status(self.stage.home)}
        databases = [self.stage.query(role, LOOK)[0] for role in ("airflow", "ztf_pipeline")]
        return {
            "t": time.time(),
            **memory,
            "together": sum(memory.values()),
            **{f"database {row['name']}": float(row["mb"]) for row in databases},
            "open_runs": float(self.stage.query("airflow", UNFINISHED)[0]["n"]),
            "slowest_query_s": max(float(row["slowest"]) for row in databases),
        }

    @contextmanager
    def watching(self) -> Iterator[list[dict[str, float]]]:
        """Sample while the block runs."""
        stopped, rows = threading.Event(), self.rows

        def look() -> None:
            while True:
                rows.append(self.sample())
                if stopped.wait(self.interval_s):
                    return

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield rows
        finally:
            stopped.set()
            thread.join()


def memory_in_words(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Start, end, largest and slope [MB, MB per hour] of each quantity; the slope is that of the second half of the time.

    In the first half every worker of the executor does its first tasks, in which it comes to own pages that it shared with its parent.
    """
    t = np.array([row["t"] for row in rows])
    late = t >= t[0] + 0.5 * (t[-1] - t[0])
    found = {}
    for name in rows[0]:
        if name == "t":
            continue
        y = np.array([row.get(name, np.nan) for row in rows])
        slope = 3600.0 * np.polyfit(t[late] - t[0], y[late], 1)[0] if late.sum() > 2 else 0.0
        found[name] = {
            "start": round(y[0], 1),
            "end": round(y[-1], 1),
            "max": round(np.nanmax(y), 1),
            "per_hour": round(slope, 1),
        }
    return found


@contextmanager
def cpu_of(state: State) -> Iterator[Callable[[], dict[str, float]]]:
    """Tell the CPU time that each service has used since the block began [s]."""
    before = usage(state)
    yield lambda: {name: value - before[name] for name, value in usage(state).items()}


def date_of(exposure: str) -> str:
    """UT date of an exposure, ``YYYYMMDD``."""
    return exposure[4:12]


def next_date(date: str) -> str:
    """The day after."""
    return (datetime.strptime(date, "%Y%m%d") + timedelta(days=1)).strftime("%Y%m%d")
