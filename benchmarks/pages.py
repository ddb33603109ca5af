"""How fast every operators' page is on a night of 50,000 quadrants, through Airflow's own api-server, with each role.

Run ``python -m benchmarks.pages [--exposures 800] [--json FILE]``; the aims are a first byte within 0.5 s and no query above 200 ms.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

from benchmarks import survey_tables
from benchmarks.survey_tables import NIGHT, Size
from ztfds.operations.postgres import ADMIN, EmbeddedPostgres
from ztfds.operations.services import airflow, stack
from ztfds.operations.services.state import State
from ztfds.operations.services.usage import cpu_seconds
from ztfds.operations.watch import metrics
from ztfds.registry import database

AIM_FIRST_BYTE_S, AIM_QUERY_MS = 0.5, 200.0
ROLES = ("viewer", "operator", "admin")
REPEATS = 3
_STATEMENT = re.compile(r"duration: ([0-9.]+) ms  statement: (.*?)(?=\n\d{4}-\d\d-\d\d |\Z)", re.DOTALL)
_CPU = re.compile(r"!\s+([0-9.]+) s user, ([0-9.]+) s system, [0-9.]+ s elapsed")


@dataclass
class Measured:
    """One page.

    Attributes
    ----------
    page, path : str
    first_byte_s, slowest_s : float
        Median and longest time to the first byte over roles and repetitions.
    cpu_ms : float
        CPU time of the api-server for one call: what the first byte costs on a machine that is busy with nothing else.
    kilobytes : float
        Size of the page.
    queries, slowest_query_ms : float
        Statements of one call, and the slowest of all calls.
    query_cpu_ms : float
        CPU time of the server for the most expensive statement of all calls.
    slowest_query : str
        Its first words.
    status : int
        Worst status that somebody gets who is logged in.
    anonymous : int
        Status that somebody gets who is not.
    """

    page: str
    path: str
    first_byte_s: float
    slowest_s: float
    cpu_ms: float
    kilobytes: float
    queries: float
    slowest_query_ms: float
    query_cpu_ms: float
    slowest_query: str
    status: int
    anonymous: int

    @property
    def good(self) -> bool:
        """Whether it keeps to the aims."""
        fast = self.slowest_s <= AIM_FIRST_BYTE_S and self.slowest_query_ms <= AIM_QUERY_MS
        return fast and self.status == 200 and self.anonymous in (401, 403)


def paths(dsn: str) -> dict[str, str]:
    """Every page with the address of its heaviest example."""
    newest = "select max(exposure) as exposure from exposures where state = 'processed'"
    exposure = database.fetch_one(dsn, newest)["exposure"]  # type: ignore[index]
    busy = """
        select reference_id, field from references_ join diffimages using (reference_id, field) group by 1, 2
         order by count(*) desc limit 1"""
    reference = database.fetch_one(dsn, busy) or {}
    return {
        "Tonight": "tonight", "an earlier night": f"tonight?nid={NIGHT - 1}", "Exposure": f"exposure/{exposure}",
        "Quadrant": f"exposure/{exposure}/2", "References": "references", "Reference": f"reference/{reference['reference_id']}",
        "Channels": "channels", "Quality, night": "quality", "Quality, field": f"field/{reference['field']}",
        "its quadrant": f"field/{reference['field']}?rcid=5", "Quality, channel": "channel/5",
        "Runs": "runs", "its search": "runs?state=error", "Readiness": "readiness",
        "Coverage": "coverage", "its map": f"coverage/night/{NIGHT}.png",
        "fields of the night": f"coverage/fields.json?nid={NIGHT}", "fields of all nights": "coverage/fields.json", "its script": "sky.js",
        "Day tasks": "day", "Alarms": "alarms", "Night reports": "reports", "a report": f"report/{NIGHT}",
        "Reprocessing": "reprocessing", "Request": "reprocessing/30", "Changes": "changes", "Drills": "drills",
        "Prometheus": "metrics",
    }  # fmt: skip


def fetch(address: str, path: str, bearer: str) -> tuple[int, float, int]:
    """Status, time to the first byte [s] and size [bytes] of a page."""
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.connect()
    began = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {bearer}"} if bearer else {})
    answer = connection.getresponse()
    first = answer.read(1)
    took = time.perf_counter() - began
    size = len(first) + len(answer.read())
    connection.close()
    return answer.status, took, size


def measure(state: State, log: Path) -> list[Measured]:
    """All pages, with each role."""
    address = urlsplit(state.api_url).netloc
    tokens = {}
    for role in ROLES:
        client = airflow.api(state, role)
        client.call("GET", "/api/v2/dags")
        tokens[role] = str(client._token)
    found = []
    for name, path in paths(EmbeddedPostgres(state.home).dsn("ztf_reader")).items():
        before, times, worst_status, size = log.stat().st_size, [], 200, 0
        cpu = cpu_seconds(state.processes["api-server"].pid)
        for _ in range(REPEATS):
            for role in ROLES:
                status, took, size = fetch(address, f"/ztfds/{path}", tokens[role])
                worst_status = max(worst_status, status)
                times.append(took)
        cpu = (cpu_seconds(state.processes["api-server"].pid) - cpu) / len(times)
        with log.open(errors="replace") as lines:
            lines.seek(before)
            said = lines.read()
        ran = [(float(ms), sql) for ms, sql in _STATEMENT.findall(said)]
        busiest = max((1e3 * (float(user) + float(system)) for user, system in _CPU.findall(said)), default=0.0)
        worst = max(ran, default=(0.0, ""))
        refused = fetch(address, f"/ztfds/{path}", "")[0]
        found.append(
            Measured(
                name,
                path,
                statistics.median(times),
                max(times),
                1e3 * cpu,
                size / 1e3,
                len(ran) / len(times),
                worst[0],
                busiest,
                " ".join(worst[1].split())[:120],
                worst_status,
                refused,
            )
        )
        print(line(found[-1]), flush=True)
    return found


def line(row: Measured) -> str:
    """A row of the table."""
    return (
        f"{row.page:<20}{1e3 * row.first_byte_s:8.0f}{1e3 * row.slowest_s:8.0f}{row.cpu_ms:8.0f}{row.kilobytes:9.0f}{row.queries:7.0f}"
        f"{row.slowest_query_ms:9.1f}{row.query_cpu_ms:9.1f}  {'' if row.good else f'OUTSIDE THE AIMS: {row.status} {row.slowest_query}'}"
    )


def watch(dsn: str) -> float:
    """Time of all figures of one round of the watch [ms], which share the database with the pages."""
    began = time.perf_counter()
    metrics.from_database(dsn)
    return 1e3 * (time.perf_counter() - began)


def prepare(state: State, size: Size) -> Path:
    """Fill the database, and have the server log the time of every statement of the reading role; its log."""
    postgres = EmbeddedPostgres(state.home)
    began, admin = time.monotonic(), postgres.dsn(ADMIN, "ztfds")
    if not database.fetch_all(admin, "select 1 from exposures limit 1"):
        say = lambda name: print(f"{time.monotonic() - began:6.0f} s  {name}", flush=True)  # noqa: E731
        survey_tables.fill(admin, size, Path(state.roots["archive"]), say)
    connection = psycopg2.connect(postgres.dsn(ADMIN, "ztfds"))
    with connection, connection.cursor() as cursor:
        cursor.execute("alter role ztf_reader set log_min_duration_statement = 0")
        cursor.execute("alter role ztf_reader set log_executor_stats = on")
        cursor.execute("select pg_size_pretty(pg_database_size('ztfds'))")
        print(f"the database has {cursor.fetchone()[0]}")  # type: ignore[index]
    connection.close()
    return postgres._server_log


def main() -> int:
    """Start everything in a temporary folder, fill, measure, print; exit status 1 above the aims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--exposures", type=int, default=Size.exposures, help="exposures of the large night, 64 quadrants each"
    )
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--home", type=Path, help="keep the database in this folder, and use it again")
    parser.add_argument(
        "--hold", action="store_true", help="wait for a line on standard input before everything is stopped"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ztfds-pages-") as folder:
        Path(folder).chmod(0o755)
        home = asked.home or Path(folder) / "var"
        state = stack.start(home, with_ingestd=False, report=print)
        try:
            log = prepare(state, Size(exposures=asked.exposures))
            print(
                f"{'page':<20}{'ms':>8}{'worst':>8}{'CPU':>8}{'kB':>9}{'SQL':>7}{'ms SQL':>9}{'its CPU':>9}", flush=True
            )
            found = measure(state, log)
            print(f"figures of the watch: {watch(EmbeddedPostgres(home).dsn('ztf_pipeline')):.0f} ms")
            if asked.hold:
                print(f"{state.api_url}/ztfds/tonight", home, flush=True)
                sys.stdin.readline()
        finally:
            stack.stop(home)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in found], indent=1))
    return 0 if all(row.good for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
