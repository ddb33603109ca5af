"""PromptLocalExecutor: tells the scheduler at once that a task has ended, so that it need not look every second."""

from __future__ import annotations

import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from airflow.executors.local_executor import LocalExecutor

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LONGEST_WAIT_S = 0.9
"""With the scheduler's own pause of 0.1 s: how often it looks for new runs when nothing ends."""
GATHER_S = 0.06
"""Tasks that end together are handled in one loop of the scheduler, which costs as much for one as for many."""


class PromptLocalExecutor(LocalExecutor):
    """LocalExecutor whose ``sync`` waits for the end of a task, instead of the scheduler's loop sleeping regardless of it.

    The scheduler of Airflow 3.3 sleeps ``scheduler_idle_sleep_time`` after each loop that had nothing to do, while a core is idle and
    the next task waits. Here that time is spent in a wait for the executor's results, which ends with the first of them.
    """

    def sync(self) -> None:
        """Wait for results, then handle them as the LocalExecutor does."""
        results: list[Connection] = [self.result_queue._reader]  # type: ignore[attr-defined]
        if wait(results, LONGEST_WAIT_S):
            time.sleep(GATHER_S)
        super().sync()
