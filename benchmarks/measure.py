"""Measuring one row of the benchmark in a process of its own, on one core."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.spawner import Spawner, Spent

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
REPEAT_BELOW_S = 25.0
"""Work in Python that took less CPU than this is done a second time, and the second run counts."""


@dataclass(frozen=True)
class Usage:
    """What a row cost.

    Attributes
    ----------
    cpu_s : float
        User and system time of the process and its children, s.
    wall_s : float
    peak_mb : float
        Largest resident memory of the process that did the work (for external programs: of the largest of them), MB.
    runs : int
        1: measured cold; 2: the second run in the same process was measured.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float
    runs: int


class Stopwatch:
    """CPU and wall seconds of this process and its finished children since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = _cpu(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """CPU s, wall s."""
        return _cpu() - self._cpu, time.perf_counter() - self._wall


def _cpu() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in spent) + sum(program.cpu_s for program in _programs)


def peak_mb() -> float:
    """Largest resident memory of this process since it was started, MB; what its parent had before it is not counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


_programs: list[Spent] = []
_spawner: list[Spawner] = []


def use_spawner(spawner: Spawner) -> None:
    """Have external programs run by a process that was forked early."""
    _spawner[:] = [spawner]


def call(argv: list[str], folder: Path) -> None:
    """Run an external program in a folder and note what it took; raise `RuntimeError` with its last words if it fails."""
    if not _spawner:
        use_spawner(Spawner.start())
    _programs.append(_spawner[0].call(argv, folder))


def forget_programs() -> None:
    """Forget what programs took so far."""
    _programs.clear()


def programs_peak_mb() -> float:
    """Largest resident memory of the programs that ran since, MB; 0 if none did."""
    return max((program.peak_mb for program in _programs), default=0.0)


def pinned(argv: list[str], core: int) -> list[str]:
    """A command that stays on one core, where taskset exists."""
    return ["taskset", "-c", str(core), *argv] if sys.platform == "linux" else argv


def run_row(
    step: str, tool: str, scene: str, folder: Path, core: int, timeout_s: float
) -> tuple[Usage, dict[str, Any]]:
    """Measure one row in a fresh process.

    Parameters
    ----------
    step, tool, scene : str
        Which row on which scene.
    folder : Path
        Scratch folder; the result stays there.
    core : int
        CPU that the process is bound to.
    timeout_s : float
        It is killed after so long.

    Returns
    -------
    Usage
        The peak of work done in Python includes the inputs and the libraries.
    dict
        Arrays that the row made.

    Raises
    ------
    RuntimeError
        The row failed; the message is the end of its standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    argv = pinned([sys.executable, "-m", "benchmarks.worker", step, tool, scene, str(folder)], core)
    with (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(argv, stderr=errors, env=os.environ | THREADS, start_new_session=True)
        _wait(process, timeout_s)
    if process.returncode:
        raise RuntimeError((folder / "stderr.txt").read_text().strip()[-600:] or f"exit code {process.returncode}")
    spent = json.loads((folder / "usage.json").read_text())
    with np.load(folder / "result.npz", allow_pickle=False) as kept:
        result = {name: kept[name] for name in kept.files}
    return Usage(**spent), result


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait for a process; after `timeout_s` end it and all that it started."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
