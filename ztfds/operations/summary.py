"""The figures of a processed set of nights: counts, latencies, cost and scores, for machines (JSON) and for people (a table)."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ztfds.formats.atomic import write_atomic
from ztfds.operations.accountability import Account, account
from ztfds.operations.context import Context
from ztfds.operations.report import latencies, percentile
from ztfds.registry import database
from ztfds.survey import ids

REALTIME_STEPS = ("science", "difference")
"""Steps whose cost is the cost of a quadrant."""

_JOBS = """
    select step, count(*) filter (where state = 'done') as done, sum(cpu_s) as cpu_s, max(peak_mb) as peak_mb
      from jobs group by step"""
_NIGHT = """
    select exposure, imgtype, state, arrival, late_stage, extract(epoch from differenced - arrival) as differenced,
           extract(epoch from published - arrival) as published,
           (select count(*) from alert_outbox o where o.exposure = e.exposure) as alerts
      from exposures e where nid = %s"""


@dataclass
class Summary:
    """The figures of one rehearsal; written as ``summary.json``. Durations in s, memory in MB, None: could not be measured."""

    size: str
    nights: list[str]
    exposures: int = 0
    sent: int = 0
    received: int = 0
    processed: int = 0
    archived: int = 0
    quarantined: int = 0
    lost: int = 0
    duplicated: int = 0
    alerts: int = 0
    alerts_acknowledged: int = 0
    alerts_in_topics: int | None = None
    alerts_doubled: int | None = None
    latency_s_p50: float | None = None
    latency_s_p95: float | None = None
    missed_10_min: int = 0
    transients_injected_snr10: int = 0
    transients_alerted_snr10: int = 0
    asteroids_known: int = 0
    asteroids_tagged: int = 0
    asteroids_unknown: int = 0
    asteroids_mistagged: int = 0
    astrometry_mas_ra: float | None = None
    astrometry_mas_dec: float | None = None
    zeropoint_rms_mag: float | None = None
    psf_pull_width: float | None = None
    scorr_width: float | None = None
    cpu_s_per_quadrant: float | None = None
    peak_mb_per_quadrant: float | None = None
    airflow_cpu_s_per_exposure: float | None = None
    memory_mb_peak: float = 0.0
    wall_s: float = 0.0
    airflow_url: str = ""
    report: str = ""
    problems: list[str] = field(default_factory=list)


def add_accounts(summary: Summary, accounts: Sequence[Account], broker: bool) -> None:
    """Add up the nights; without a broker alerts that wait are as they should be."""
    for result in accounts:
        for name in (
            "sent",
            "received",
            "processed",
            "archived",
            "quarantined",
            "lost",
            "duplicated",
            "alerts",
            "alerts_acknowledged",
        ):
            setattr(summary, name, getattr(summary, name) + getattr(result, name))
        differences = [line for line in result.differences if broker or "wait for the broker" not in line]
        summary.problems += [f"night {ids.night_date(result.nid)}: {line}" for line in differences]


def add_costs(summary: Summary, jobs: Mapping[str, Any]) -> None:
    """CPU seconds and memory of a quadrant from the job rows."""
    steps = [jobs[name] for name in REALTIME_STEPS if name in jobs]
    summary.cpu_s_per_quadrant = sum(row["cpu_s"] / max(row["done"], 1) for row in steps) if steps else None
    summary.peak_mb_per_quadrant = max((row["peak_mb"] for row in steps if row["peak_mb"]), default=None)


def collect(summary: Summary, context: Context, nids: Sequence[int], *, broker: bool) -> dict[str, Any]:
    """Fill in counts, latencies of the last night, and cost; returns the job rows by step.

    Parameters
    ----------
    summary : Summary
    context : Context
    nids : sequence of int
        Night numbers, in order.
    broker : bool
        Whether there is one; without it alerts that wait are as they should be.
    """
    add_accounts(summary, [account(context, nid) for nid in nids], broker)
    with database.transaction(context.dsn) as cursor:
        exposures = database.rows(cursor, _NIGHT, (nids[-1],)) if nids else []
        jobs = {row["step"]: row for row in database.rows(cursor, _JOBS)}
        counted = database.rows(cursor, "select count(*) as n from exposures where nid = any(%s)", (list(nids),))
    late = latencies(exposures)
    summary.latency_s_p50, summary.latency_s_p95 = percentile(late, 50), percentile(late, 95)
    summary.missed_10_min = sum(row["late_stage"] is not None for row in exposures)
    summary.exposures = int(counted[0]["n"])
    add_costs(summary, jobs)
    return jobs


def write(summary: Summary, folder: Path) -> Path:
    """Write ``summary.json``."""
    path = Path(folder) / "summary.json"
    write_atomic(path, json.dumps(asdict(summary), indent=1).encode())
    return path


def table(summary: Summary) -> list[str]:
    """The summary as lines for a terminal."""

    def show(value: float | None, digits: int = 2, unit: str = "") -> str:
        return "not measured" if value is None else f"{value:.{digits}f}{unit}"

    s = summary
    found = f"{s.transients_alerted_snr10} of {s.transients_injected_snr10} at S/N >= 10"
    rows = [
        ("exposures", f"{s.exposures} in nights {', '.join(s.nights)}"),
        ("files", f"{s.sent} sent, {s.received} received, {s.processed} processed, {s.archived} archived"),
        ("", f"{s.quarantined} quarantined, {s.lost} lost, {s.duplicated} double"),
        ("alerts", f"{s.alerts}, {s.alerts_acknowledged} acknowledged, {s.alerts_doubled or 0} double"),
        (
            "latency",
            f"median {show(s.latency_s_p50, 1, ' s')}, 95 % {show(s.latency_s_p95, 1, ' s')}, {s.missed_10_min} over 10 min",
        ),
        ("injected transients", found),
        (
            "known asteroids",
            f"{s.asteroids_tagged} of {s.asteroids_known} alerts named, {s.asteroids_unknown} alerts of unknown ones",
        ),
        ("astrometry (RMS)", f"{show(s.astrometry_mas_ra, 1)} mas RA, {show(s.astrometry_mas_dec, 1)} mas Dec"),
        (
            "photometry",
            f"zero point {show(s.zeropoint_rms_mag, 4)} mag, PSF-fit pull width {show(s.psf_pull_width, 3)}",
        ),
        ("Scorr on blank sky", f"width {show(s.scorr_width, 3)}"),
        ("cost of a quadrant", f"{show(s.cpu_s_per_quadrant)} CPU-s, {show(s.peak_mb_per_quadrant, 0)} MB"),
        ("Airflow", f"{show(s.airflow_cpu_s_per_exposure)} CPU-s an exposure, with everything outside the steps"),
        ("memory", f"{s.memory_mb_peak:.0f} MB, everything together at its largest"),
        ("time", str(dt.timedelta(seconds=round(s.wall_s)))),
        ("Airflow's pages", s.airflow_url),
        ("nightly report", s.report),
    ]
    lines = [f"  {name:<22}{value}" for name, value in rows]
    return lines + [f"  PROBLEM: {line}" for line in s.problems]
