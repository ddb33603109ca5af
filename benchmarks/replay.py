"""A real schedule replayed: the exposures of a real night through the real DAGs with timed no-ops, at their cadence and faster.

Run ``python -m benchmarks.replay 1x30 3x8``: the real cadence for thirty minutes, then three times as fast for eight; figures are
printed and written as JSON. Exit status 1 when a deadline is missed that the capacity does not explain, when Airflow does not keep
up, when memory grows, or when the account of the night does not come out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.stage import (
    CCDS,
    Pointing,
    Sampler,
    Stage,
    cpu_of,
    date_of,
    ideal_latencies,
    memory_in_words,
    percentiles,
    pointings,
)
from ztfds.operations.services import stack

DEADLINE_S = 600.0
GROWTH_MB_PER_HOUR = 60.0
"""All services together may grow so much and still count as flat."""
BEHIND_S = 20.0
"""Airflow keeps up when the last third of a stretch is at most so much later than the first, counted from the ideal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay and judge; returns the exit status."""
    options = _options(arguments)
    schedule = pointings(options.night)
    with tempfile.TemporaryDirectory(prefix="ztfds-replay-") as folder:
        home = Path(folder) / "var"
        home.parent.chmod(0o755)
        stage = Stage(home, options.slots, options.quadrant_s)
        try:
            stage.start()
            result = replay(stage, schedule, options)
        finally:
            stack.stop(home)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for line in [*in_words(result), f"written to {options.out}"]:
        print(line, flush=True)
    return int(bool(result["problems"]))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.replay", description=__doc__)
    parser.add_argument("phases", nargs="*", default=["1x30", "3x8"], help="SPEEDxMINUTES, one after the other")
    parser.add_argument("--night", default="2021-02-07", help="a file of data/pointings")
    parser.add_argument(
        "--skip-minutes", type=float, default=60.0, help="begin so long after the night's first exposure"
    )
    parser.add_argument("--slots", type=int, default=24, help="tasks at the same time")
    parser.add_argument("--quadrant-s", type=float, default=3.7, help="how long the work on a quadrant takes")
    parser.add_argument("--out", type=Path, default=Path("var/bench/replay.json"))
    return parser.parse_args(arguments)


def replay(stage: Stage, schedule: list[Pointing], options: argparse.Namespace) -> dict[str, Any]:
    """All phases, then the end of the night; returns everything that was measured."""
    result: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "night": options.night, "slots": options.slots, "quadrant_s": options.quadrant_s, "cores": psutil.cpu_count(),
        "phases": [], "problems": [],
    }  # fmt: skip
    rest = [pointing for pointing in schedule if pointing.after_s >= 60.0 * options.skip_minutes]
    warm, rest = rest[:1], rest[1:]
    stage.wait(stage.send_at_cadence(warm, 1.0), 120.0)
    for text in options.phases:
        speed, minutes = (float(part) for part in text.split("x"))
        end = rest[0].after_s + 60.0 * minutes * speed
        part, rest = [p for p in rest if p.after_s < end], [p for p in rest if p.after_s >= end]
        result["phases"].append(phase(stage, part, speed))
        print(*phase_in_words(result["phases"][-1]), sep="\n", flush=True)
    result["night_closed"] = close_night(stage, date_of(warm[0].exposure))
    result["problems"] = problems(result)
    return result


def phase(stage: Stage, part: Sequence[Pointing], speed: float) -> dict[str, Any]:
    """Send a stretch of the night and wait for its end."""
    sampler = Sampler(stage)
    began, load = time.monotonic(), psutil.getloadavg()[0]
    with sampler.watching() as rows, cpu_of(stage.state) as cpu:
        names = stage.send_at_cadence(part, speed)
        sending_s, spent = time.monotonic() - began, cpu()
        done = stage.wait(names, 300.0 + 2 * stage.quadrant_s * len(names))
    runs = stage.runs(names)
    found = judged(runs, 4 * stage.quadrant_s, stage.slots)
    busy = 4 * stage.quadrant_s * len(CCDS) * len(names) / sending_s / stage.slots
    return {
        "speed": speed, "minutes": round(sending_s / 60, 1), "exposures": len(names), "all_ended": done, **found,
        "exposures_per_hour": round(3600 * len(names) / sending_s), "busy_slots": round(busy, 2),
        "drained_after_s": round(time.monotonic() - began - sending_s, 1), "missed": stage.missed(runs),
        "cpu_s": {name: round(value / len(names), 3) for name, value in spent.items()},
        "memory": memory_in_words(rows), "samples": rows, "load": [round(load, 1), round(psutil.getloadavg()[0], 1)],
    }  # fmt: skip


def judged(runs: Sequence[dict[str, Any]], work_s: float, slots: int) -> dict[str, Any]:
    """Latencies of exposures, against those of an orchestration that costs nothing."""
    ended = [row for row in runs if row["ended"] is not None and row["began"] is not None]
    arrivals = [row["arrival"] for row in ended]
    ideal = ideal_latencies(arrivals, work_s, slots)
    latency = np.array([row["ended"] - row["arrival"] for row in ended])
    behind, third = latency - ideal, max(1, len(ended) // 3)
    return {
        "done": sum(row["state"] == "success" for row in runs),
        "latency_s": percentiles(latency),
        "ideal_s": percentiles(ideal),
        "first_task_after_s": percentiles([row["began"] - row["arrival"] for row in ended]),
        "late": int((latency > DEADLINE_S).sum()),
        "late_by_capacity": int((ideal > DEADLINE_S).sum()),
        "behind_s": {"first third": round(float(behind[:third].mean()), 2), "last third": round(float(behind[-third:].mean()), 2)},
    }  # fmt: skip


def close_night(stage: Stage, date: str) -> dict[str, Any]:
    """Send the manifest, let the night be closed, and count again what the registry says."""
    state = stage.await_run("end_of_night", stage.manifest(date), 300.0)
    rows = stage.query("ztf_pipeline", "select state, count(*) as n from ccdfiles group by state")
    return {"run": state, "sent": len(stage.sent), "states": {row["state"]: row["n"] for row in rows}}


def problems(result: dict[str, Any]) -> list[str]:
    """Everything that is not as it must be."""
    found = []
    for one in result["phases"]:
        name = f"at {one['speed']:g} times the real rate"
        if one["done"] < one["exposures"]:
            found.append(f"{name}: {one['exposures'] - one['done']} of {one['exposures']} exposures were not done")
        if one["late"] > one["late_by_capacity"] or one["missed"] > one["late_by_capacity"]:
            found.append(f"{name}: {one['late']} exposures late, {one['late_by_capacity']} explained by the capacity")
        if one["behind_s"]["last third"] > one["behind_s"]["first third"] + BEHIND_S:
            found.append(f"{name}: Airflow fell behind: {one['behind_s']}")
        growth = one["memory"]["together"]["per_hour"]
        if one["minutes"] >= 20 and growth > GROWTH_MB_PER_HOUR:
            found.append(f"{name}: memory grows by {growth} MB an hour")
    closed = result["night_closed"]
    if closed["run"] != "success" or closed["states"] != {"processed": closed["sent"]}:
        found.append(f"the night did not come out: {closed}")
    return found


def phase_in_words(one: dict[str, Any]) -> list[str]:
    """Lines about one stretch."""
    cpu = {name: value for name, value in one["cpu_s"].items() if name not in ("postgres", "kafka")}
    lines = [
        f"{one['speed']:g} times the real rate for {one['minutes']} min: {one['exposures']} exposures"
        f" ({one['exposures_per_hour']} an hour), {one['done']} done, slots busy {100 * one['busy_slots']:.0f} %, load {one['load']}",
        f"  latency {one['latency_s']}, with orchestration that costs nothing {one['ideal_s']}; behind {one['behind_s']}",
        f"  first task after {one['first_task_after_s']}; deadlines missed: {one['missed']}, {one['late_by_capacity']} explained",
        f"  CPU-s an exposure: Airflow and ingestd {sum(cpu.values()):.2f} {cpu}, PostgreSQL {one['cpu_s'].get('postgres', 0):.2f}",
    ]
    for name, value in one["memory"].items():
        lines.append(
            f"  {name:<20} {value['start']:9.1f} {value['end']:9.1f} max {value['max']:9.1f} {value['per_hour']:+8.1f} an hour"
        )
    return lines


def in_words(result: dict[str, Any]) -> list[str]:
    """The end of what is printed."""
    closed = result["night_closed"]
    lines = [f"night closed: run {closed['run']}, {closed['sent']} files sent, {closed['states']}"]
    return (
        [*lines, *[f"PROBLEM: {line}" for line in result["problems"]]] if result["problems"] else [*lines, "no problem"]
    )


if __name__ == "__main__":
    sys.exit(main())
