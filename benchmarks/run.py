"""The benchmark: ``python -m benchmarks.run [--only STEP] [--tool TOOL] [--field quiet|plane] [--scene NAME]``.

Each row is measured in a process of its own, bound to one core, with one thread. Work done in Python is measured the second
time that the process does it (kernels loaded, catalogs read, as in a worker that lives through a night), unless one run takes
more than 25 s; external programs are measured from start to end, with the files that they read and write.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import ours, table
from benchmarks.difference import pairs
from benchmarks.difference.inputs import pair_inputs
from benchmarks.inputs import step_inputs
from benchmarks.measure import run_row
from benchmarks.rows import BOTH, JUDGES, Job, Row, all_rows
from benchmarks.scenes import frames, load
from benchmarks.tools.install import missing

RESULTS = Path(__file__).with_name("results.json")
TIMEOUT_S = 1800.0


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="this step only; part of its name will do, =NAME is this name alone")
    parser.add_argument("--tool", help="this tool only; part of its name will do, =NAME is this name alone")
    parser.add_argument("--field", choices=("quiet", "plane"), help="this kind of scene only")
    parser.add_argument("--scene", help="another scene, e.g. quiet-1 for tuning; its results are printed and not kept")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="CPU to measure on")
    parser.add_argument("--dry", action="store_true", help="print results, keep nothing")
    return parser.parse_args()


def machine() -> str:
    """The processor, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def chosen(options: argparse.Namespace) -> Iterator[tuple[Row, str]]:
    """Rows and scenes that are asked for; all of one step and scene together, so that they see the same machine."""
    fields = [options.field] if options.field else list(BOTH)
    if options.scene:
        fields = [options.scene.partition("-")[0]]
    for field in fields:
        for row in all_rows():
            if field in row.fields and _named(options.only, row.step) and _named(options.tool, row.tool):
                yield row, options.scene or row.judges[field]


def _named(wanted: str | None, name: str) -> bool:
    """Whether a step or tool is asked for; ``=ZOGY`` is ZOGY alone, not PyZOGY."""
    if wanted is None:
        return True
    return wanted[1:] == name if wanted.startswith("=") else wanted.lower() in name.lower()


def measured(row: Row, scene: str, core: int) -> dict[str, Any]:
    """One entry of the results."""
    entry: dict[str, Any] = {"step": row.step, "tool": row.tool, "field": scene.partition("-")[0]}
    if lacking := missing(row.needs):
        return entry | {"skipped": f"not installed: {', '.join(lacking)}"}
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ztfds-bench-") as folder:
        try:
            usage, result = run_row(row.step, row.tool, scene, Path(folder), core, TIMEOUT_S)
            numbers = row.judge(Job(scene, Path(folder)), result)
        except Exception as error:  # whatever a tool or its result is like, the other rows are measured
            return entry | {"skipped": f"failed: {type(error).__name__}: {error}"}
        accuracy = {k: v for k, v in numbers.items() if not isinstance(v, float) or math.isfinite(v)}
    return entry | {
        "cpu_s": round(usage.cpu_s, 4),
        "wall_s": round(usage.wall_s, 4),
        "peak_mb": round(usage.peak_mb, 1),
        "accuracy": accuracy,
        "runs": usage.runs,
        "note": row.note,
        "scene": scene,
        "load": round(load_before, 2),
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def told(entry: dict[str, Any]) -> str:
    """One line about an entry."""
    head = f"{entry['field']:6s} {entry['step']:17s} {entry['tool']:44s}"
    if "skipped" in entry:
        return f"{head} -- {entry['skipped']}"
    numbers = ", ".join(f"{k} {v:g}" for k, v in entry["accuracy"].items() if isinstance(v, float))
    return f"{head} {entry['cpu_s']:8.3f} s cpu {entry['wall_s']:8.3f} s wall {entry['peak_mb']:6.0f} MB  {numbers}"


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Old entries replaced by new ones of the same step, tool and field, in the order of the table."""
    kept = {(e["step"], e["tool"], e["field"]): e for e in [*old, *new]}
    order = [(row.step, row.tool, field) for field in BOTH for row in all_rows() if field in row.fields]
    return [kept[key] for key in order if key in kept]


def made_ready(rows: list[tuple[Row, str]]) -> None:
    """Scenes, frames, catalogs and pairs that the rows start from, before anything is measured."""
    for scene in sorted({scene for row, scene in rows if row.judges is JUDGES}):
        made, inputs = load(scene), step_inputs(scene)
        steps = {row.step for row, name in rows if name == scene and row.judges is JUDGES}
        for kind in ("bias", "flat"):
            if f"{kind} of 20" in steps:
                frames(made, kind)
        if steps & {"astrometry", "zero point"}:
            ours.keep_catalogs(inputs)
    for name in sorted({name for row, name in rows if row.judges is not JUDGES}):
        try:
            pairs.load(name)
            pair_inputs(name)
        except Exception as error:  # its rows will fail and say so; the others are measured
            print(f"pair {name} cannot be made: {type(error).__name__}: {error}", flush=True)


def main() -> None:
    """Measure, print, keep."""
    warnings.simplefilter("ignore")
    options, began = arguments(), time.monotonic()
    made_ready(list(chosen(options)))
    entries = []
    for row, scene in chosen(options):
        entries.append(measured(row, scene, options.core))
        print(told(entries[-1]), flush=True)
        if not (options.scene or options.dry):
            old = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
            RESULTS.write_text(json.dumps(merged(old, entries), indent=1) + "\n")
    if not (options.scene or options.dry):
        table.place(json.loads(RESULTS.read_text()))
    print(f"{len(entries)} rows in {(time.monotonic() - began) / 60:.1f} min")


if __name__ == "__main__":
    main()
