"""Throughput and health: what the workers did in the last day, and how database, broker and file system stand."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ztfds.config.operations import LIMITS
from ztfds.operations.context import Context
from ztfds.operations.day import maintenance
from ztfds.operations.day.cleanup import disk_words, filling, sample_disks
from ztfds.operations.day.outcomes import Outcome
from ztfds.operations.report import percentile
from ztfds.registry import database
from ztfds.registry.runner import WORK
from ztfds.survey.errors import StoreDown

PROBE_BYTES = 16 << 20
SLOW_MB_PER_S = 20.0
"""A disk that writes and syncs slower than this holds a night up: the full camera makes 85 quadrants, 0.6 GB, a minute."""
STUCK_MINUTES = 120.0
LATE_S = 600.0

_STEPS = """
    select step, count(*) filter (where state = 'done')::int as done, count(*) filter (where state in ('error', 'killed'))::int as errors,
           percentile_cont(0.5) within group (order by cpu_s) filter (where state = 'done') as cpu_s,
           percentile_cont(0.95) within group (order by wall_s) filter (where state = 'done') as wall_s_p95,
           max(peak_mb) filter (where state = 'done') as peak_mb
      from jobs where started > now() - make_interval(secs => %s) group by step order by step"""
_WORKERS = """
    select host, count(*)::int as jobs, count(*) filter (where state in ('error', 'killed'))::int as errors,
           sum(cpu_s) / 3600 as cpu_h, max(coalesce(ended, started)) as last
      from jobs where started > now() - make_interval(secs => %s) group by host order by host"""
_HOURS = """
    select max(n)::int as most from (select count(*) as n from jobs where step = 'science' and state = 'done'
       and started > now() - make_interval(secs => %s) group by date_trunc('hour', ended)) h"""
_ERRORS = """
    select coalesce(error_class, state) as class, count(*)::int as n, min(error_text) as example from jobs
     where state in ('error', 'killed') and started > now() - make_interval(secs => %s) group by 1 order by n desc limit 10"""
_STUCK = """
    select count(*)::int as n, min(step || ' ' || dataset) as first from jobs
     where state = 'running' and started < now() - make_interval(secs => %s)"""
_LATENCY = """
    select extract(epoch from published - arrival)::float8 as s from exposures
     where imgtype = 'o' and published is not null and arrival > now() - make_interval(secs => %s)"""
_ALERTS = """
    select count(*)::int as sent, (select count(*) from alert_outbox where state <> 'sent')::int as waiting,
           coalesce(max(attempt), 0)::int as most_tries
      from alert_outbox where acked > now() - make_interval(secs => %s)"""


def review(context: Context, hours: float = 24.0) -> Outcome:
    """Review the last hours.

    Parameters
    ----------
    context : Context
    hours : float
        How far to look back, h.

    Returns
    -------
    Outcome
        Figures by step, worker and class of error; of alerts, database, disks and this machine. Warnings follow the limits.
    """
    span = (hours * 3600.0,)
    with database.session(context.dsn):
        steps, workers, errors = (database.fetch_all(context.dsn, query, span) for query in (_STEPS, _WORKERS, _ERRORS))
        best = database.fetch_one(context.dsn, _HOURS, span) or {}
        stuck = database.fetch_one(context.dsn, _STUCK, (60 * STUCK_MINUTES,)) or {"n": 0}
        late = [row["s"] for row in database.fetch_all(context.dsn, _LATENCY, span)]
        alerts = database.fetch_one(context.dsn, _ALERTS, span) or {}
    figures: dict[str, Any] = {
        "steps": steps,
        "workers": workers,
        "errors": errors,
        "alerts": alerts,
        "stuck": stuck,
        "quadrants_best_hour": best.get("most") or 0,
        "latency_s_p95": percentile(late, 95) if late else None,
        "late_share": sum(s > LATE_S for s in late) / len(late) if late else 0.0,
        "database": maintenance.describe(context.dsn),
        "write_mb_per_s": write_speed(context.archive),
        "disks": sample_disks(context),
        **machine(),
    }
    done, failed = (sum(row[key] for row in steps) for key in ("done", "errors"))
    p95 = figures["latency_s_p95"]
    line = (
        f"{done} jobs done and {failed} failed on {len(workers)} machines, {alerts.get('sent', 0)} alerts acknowledged"
        f"{'' if p95 is None else f', 95 % within {p95:.0f} s'}, archive writes {figures['write_mb_per_s']:.0f} MB/s"
    )
    return Outcome.of(line, warnings=doubts(figures, done, failed), **figures)


def doubts(figures: dict[str, Any], done: int, failed: int) -> list[str]:
    """What a person has to look at."""
    lines = maintenance.doubts(figures["database"])
    if failed > LIMITS.error_share * max(done + failed, 1):
        worst = figures["errors"][0] if figures["errors"] else {"class": "unknown", "n": failed}
        lines.append(
            f"{100 * failed / (done + failed):.1f} % of the attempts failed, most with {worst['class']} ({worst['n']})"
        )
    for row in figures["workers"]:
        if row["jobs"] >= 20 and row["errors"] > 5 * LIMITS.error_share * row["jobs"]:
            lines.append(f"{row['host']} fails in {row['errors']} of {row['jobs']} attempts")
    if figures["stuck"]["n"]:
        lines.append(
            f"{figures['stuck']['n']} jobs have run for over {STUCK_MINUTES:.0f} min, first {figures['stuck']['first']}"
        )
    if figures["late_share"] > 0.05:
        lines.append(f"{100 * figures['late_share']:.0f} % of the exposures took over {LATE_S:.0f} s")
    if figures["write_mb_per_s"] < SLOW_MB_PER_S:
        lines.append(f"the archive writes {figures['write_mb_per_s']:.0f} MB/s only")
    return lines + [disk_words(name, disk) for name, disk in figures["disks"].items() if filling(disk)]


def write_speed(archive: Path) -> float:
    """Speed of writing and syncing a file in the archive's working folder, MB/s.

    Raises
    ------
    StoreDown
        The archive cannot be written.
    """
    folder = archive / WORK
    path, content = folder / f".probe-{secrets.token_hex(4)}.part", os.urandom(PROBE_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        return PROBE_BYTES / 1e6 / max(time.perf_counter() - began, 1e-6)
    except OSError as error:
        raise StoreDown(f"the archive cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            path.unlink()


def machine() -> dict[str, float]:
    """Load and free memory of this machine: ``load_per_core``, ``memory_free_gb``."""
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(memory["MemAvailable"].split()[0]) * 1024
    return {"load_per_core": os.getloadavg()[0] / len(os.sched_getaffinity(0)), "memory_free_gb": available / 1e9}
