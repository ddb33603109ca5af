"""The process that does the work of one row: ``python -m benchmarks.worker <step> <tool> <scene> <folder>``."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

from benchmarks.spawner import Spawner


def main(step: str, tool: str, scene: str, folder: Path) -> None:
    """Prepare, run once or twice, write result.npz and usage.json."""
    spawner = Spawner.start()  # before anything large is in memory
    import numpy as np

    from benchmarks.measure import REPEAT_BELOW_S, Stopwatch, forget_programs, peak_mb, programs_peak_mb, use_spawner
    from benchmarks.rows import Job, find

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    use_spawner(spawner)
    row = find(step, tool)
    work = row.prepare(Job(scene, folder))
    forget_programs()
    runs, watch = 1, Stopwatch()
    result = work()
    cpu, wall = watch.read()
    if not row.external and cpu < REPEAT_BELOW_S:
        result = None  # a task that has ended holds nothing
        runs, watch = 2, Stopwatch()
        result = work()
        cpu, wall = watch.read()
    usage = {
        "cpu_s": cpu - float(result.pop("not_ours_cpu_s", 0.0)),
        "wall_s": wall - float(result.pop("not_ours_wall_s", 0.0)),
        "peak_mb": programs_peak_mb() if row.external else max(peak_mb(), programs_peak_mb()),
        "runs": runs,
    }
    (folder / "usage.json").write_text(json.dumps(usage))
    np.savez(folder / "result.npz", **result)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
