"""How much Airflow costs: CPU-seconds of its processes for each exposure of 16 CCD files, with tasks that do nothing.

Run ``python benchmarks/orchestration.py [EXPOSURES]``; the aim is at most 3 CPU-s. PostgreSQL's part is shown by itself.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psycopg2

from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.operations.services import airflow, stack, supervise
from ztfds.operations.services.state import Settings, State
from ztfds.operations.services.usage import cpu_seconds
from ztfds.survey.camera import get_camera

AIM_CPU_S = 3.0
DAGS = Path(__file__).parent / "dags"


def usage(state: State) -> dict[str, float]:
    """CPU time of every service until now [s]."""
    times = {name: cpu_seconds(process.pid) for name, process in state.processes.items()}
    database = EmbeddedPostgres(state.home).status().pid
    return {**times, "postgres": cpu_seconds(database) if database else 0.0}


def drop_exposure(state: State, number: int) -> str:
    """Put the files of one exposure into the inbox, each under a temporary name first; returns the exposure's name."""
    stamp = f"20261120{number:06d}"
    inbox = Path(state.roots["inbox"])
    for ccdid in get_camera("ZTF").ccdids:
        name = f"ztf_{stamp}_000601_zr_c{ccdid:02d}_o.fits.fz"
        (inbox / f"{name}.part").write_bytes(b"nothing")
        (inbox / f"{name}.part").rename(inbox / name)
    return f"ztf_{stamp}"


def main(exposures: int) -> int:
    """Start everything in a temporary folder, send exposures, print the cost; exit status 1 above the aim."""
    with tempfile.TemporaryDirectory(prefix="ztfds-orchestration-") as folder:
        home = Path(folder) / "var"
        home.parent.chmod(0o755)
        state = stack.start(home, settings=Settings(dags=str(DAGS)), report=print)
        try:
            return _measure(state, exposures)
        finally:
            stack.stop(home)


def _measure(state: State, exposures: int) -> int:
    """Send one exposure to warm up, then the others one after the other, and print CPU-seconds for each of these.

    At the telescope 45 s lie between two exposures, more than orchestration needs for one; waiting is part of the cost here.
    """
    _wait(state, [drop_exposure(state, 1)])
    time.sleep(5)
    before, began = usage(state), time.monotonic()
    names = []
    for number in range(2, exposures + 2):
        names.append(drop_exposure(state, number))
        _wait(state, names[-1:])
    wall = time.monotonic() - began
    spent = {name: (value - before[name]) / exposures for name, value in usage(state).items()}
    began, resting = time.monotonic(), usage(state)
    time.sleep(20)
    idle = {name: (value - resting[name]) / (time.monotonic() - began) for name, value in usage(state).items()}
    total = sum(value for name, value in spent.items() if name not in ("postgres", "kafka"))
    for name, value in spent.items():
        print(f"{name:<14}{value:8.3f} CPU-s an exposure {100 * idle[name]:8.2f} % of a core idle")
    client = airflow.api(state)
    starts = [_first_start(client, name) for name in names]
    print(
        f"{exposures} exposures of 16 CCDs in {wall:.1f} s; first task after {statistics.median(starts):.2f} s (median)"
    )
    print(
        f"Airflow and ingestd: {total:.2f} CPU-s an exposure, aim {AIM_CPU_S}; with PostgreSQL {total + spent['postgres']:.2f}"
    )
    resting_cost = sum(value for name, value in idle.items() if name not in ("postgres", "kafka")) * wall / exposures
    print(f"of which {resting_cost:.2f} CPU-s would have been used in the same time without any exposure")
    memory = {row.name: round(row.memory_mb) for row in stack.status(state.home)}
    print(f"memory [MB, proportional]: {json.dumps(memory)}, together {sum(memory.values())}")
    return int(total > AIM_CPU_S)


def _wait(state: State, names: list[str]) -> None:
    """Wait until the runs of these exposures have succeeded; asks the table, because the api-server's work is measured."""
    connection = psycopg2.connect(EmbeddedPostgres(state.home).dsn("airflow"))
    connection.autocommit = True

    def done() -> bool:
        with connection.cursor() as cursor:
            query = "SELECT count(*) FROM dag_run WHERE run_id = ANY(%s) AND state = 'success'"
            cursor.execute(query, (names,))
            return cursor.fetchone() == (len(names),)

    try:
        if not supervise.wait_until(done, 60 + 15 * len(names), pause_s=1.0):
            raise SystemExit("runs did not succeed")
    finally:
        connection.close()


def _first_start(client: airflow.AirflowApi, name: str) -> float:
    """Time from the creation of a run to the start of its first task [s]."""
    _, run = client.call("GET", f"/api/v2/dags/exposure/dagRuns/{name}")
    _, answer = client.call("GET", f"/api/v2/dags/exposure/dagRuns/{name}/taskInstances?limit=100")
    starts = [datetime.fromisoformat(entry["start_date"]) for entry in answer["task_instances"] if entry["start_date"]]
    return (min(starts) - datetime.fromisoformat(run["queued_at"])).total_seconds()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
