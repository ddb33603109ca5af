"""A small process that runs external programs for a large one.

Linux counts the memory that a process has before it executes a program among that program's own, so programs that a Python
process of 500 MB starts all seem to need 500 MB. This one is forked before anything large is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Spent:
    """What one program took: CPU seconds, largest resident memory (MB), exit code."""

    cpu_s: float
    peak_mb: float
    code: int


class Spawner:
    """The parent's end. `start` it before heavy imports."""

    def __init__(self, orders: TextIO, reports: TextIO) -> None:
        self._orders, self._reports = orders, reports

    @classmethod
    def start(cls) -> Spawner:
        """Fork the small process."""
        order_in, order_out = os.pipe()
        report_in, report_out = os.pipe()
        if os.fork() == 0:
            os.close(order_out)
            os.close(report_in)
            _serve(os.fdopen(order_in), os.fdopen(report_out, "w"))
            os._exit(0)
        os.close(order_in)
        os.close(report_out)
        return cls(os.fdopen(order_out, "w"), os.fdopen(report_in))

    def call(self, argv: list[str], folder: Path) -> Spent:
        """Run a program in a folder, its output in <program>.log there; raise `RuntimeError` with its last words if it fails."""
        log = Path(folder) / f"{Path(argv[0]).name}.log"
        print(json.dumps([argv, str(folder), str(log)]), file=self._orders, flush=True)
        spent = Spent(*json.loads(self._reports.readline()))
        if spent.code:
            words = log.read_text(errors="replace").strip()[-400:] if log.exists() else "it cannot be started"
            raise RuntimeError(f"{argv[0]}: exit code {spent.code}: {words}")
        return spent


def _serve(orders: TextIO, reports: TextIO) -> None:
    """The child's loop: one program after the other until the parent closes its end."""
    for line in orders:
        argv, folder, log = json.loads(line)
        print(json.dumps(_run(argv, folder, log)), file=reports, flush=True)


def _run(argv: list[str], folder: str, log: str) -> tuple[float, float, int]:
    try:
        with Path(log).open("w") as stream:
            process = subprocess.Popen(argv, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
    except OSError as error:
        print(error, file=sys.stderr)
        return 0.0, 0.0, 127
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024.0, os.waitstatus_to_exitcode(status)
