"""CPU time that the services have used since they were started."""

from __future__ import annotations

import psutil

from ztfds.operations.services.state import State

AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer", "ingestd")
"""Services whose cost is the cost of orchestration; tasks run as children of the scheduler."""


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, its living descendants and its dead children, s; 0 if there is no such process."""
    total = 0.0
    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in family:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def airflow_cpu_seconds(state: State) -> float:
    """CPU time of Airflow's components and ingestd with everything that ran in their tasks, s."""
    return sum(cpu_seconds(process.pid) for name, process in state.processes.items() if name in AIRFLOW)
