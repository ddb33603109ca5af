"""Loaded by every Airflow process: in those that fork tasks it imports the library once; it also says which exposure comes first."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import os
import sys
import time
from typing import Any

from ztfds_priority import weight

log = logging.getLogger(__name__)

LONGEST_EXIT_S = 1.0
"""How long a supervisor waits for a task that has closed all its sockets before it looks for other work."""

NEEDED_BY_TASKS = (
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.operators.trigger_dagrun",
    "airflow.providers.standard.sensors.python",
    "airflow.providers.postgres.hooks.postgres",
    "jinja2.ext",
    "confluent_kafka",
    "ztfds.operations.realtime",
    "ztfds.operations.afternoon",
    "ztfds.operations.references",
    "ztfds.registry.publisher",
    "ztfds_tasks",
    "ztfds_deadline",
)


def preload() -> None:
    """Import what tasks use, with every compiled kernel; children inherit it copy-on-write.

    A module that cannot be imported is left for the task that needs it, which then fails with the true error.
    """
    for name in NEEDED_BY_TASKS:
        try:
            importlib.import_module(name)
        except Exception:
            log.exception("not preloaded: %s", name)
    try:
        importlib.import_module("ztfds.kernels").warm()
    except Exception:
        log.exception("not all kernels preloaded")
    # What every task would otherwise do for itself: find and load the plugins and listeners.
    importlib.import_module("airflow.sdk.plugins_manager").integrate_macros_plugins()
    importlib.import_module("airflow.sdk.listener").get_listener_manager()
    for improve, otherwise in (
        (_share_decoders, "each task builds its decoders itself"),
        (_supervise_lightly, "supervisors beat at once"),
    ):
        try:
            improve()
        except Exception:
            log.exception(otherwise)


def _share_decoders() -> None:
    """Build the decoder of the supervisor's messages here: each task builds two of them, which is a tenth of its start."""
    comms: Any = importlib.import_module("airflow.sdk.execution_time.comms")
    comms.TypeAdapter = functools.cache(comms.TypeAdapter)  # decoders are immutable
    comms.TypeAdapter(comms.ToTask)


def _supervise_lightly() -> None:
    """Spare a supervisor the heartbeat at a task's start, and let it notice the task's end at once.

    The call that starts a task is its first heartbeat; the supervisor of Airflow 3.3 sends another one some milliseconds later.
    A task closes its sockets a few milliseconds before it can be waited for; the supervisor looks once, in between, and then
    sleeps until its next heartbeat, its worker with it.
    """
    supervisor: Any = importlib.import_module("airflow.sdk.execution_time.supervisor")
    process = supervisor.ActivitySubprocess
    look, started = process._check_subprocess_exit, process._on_child_started

    @functools.wraps(look)
    def look_again(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if self._exit_code is None and not self._open_sockets:
            with contextlib.suppress(self._process.TimeoutExpired):
                self._process.wait(timeout=LONGEST_EXIT_S)  # remembered by the process object
        return look(self, *arguments, **keywords)

    @functools.wraps(started)
    def counts_as_heartbeat(self: Any, *arguments: Any, **keywords: Any) -> Any:
        answer = started(self, *arguments, **keywords)
        self._last_heartbeat_attempt = time.monotonic()
        return answer

    process._check_subprocess_exit, process._on_child_started = look_again, counts_as_heartbeat


def collect_less_often() -> None:
    """Look for cycles every 20 000 new objects instead of 700.

    A full pass through the objects of the preloaded library takes 0.4 s.
    """
    gc.set_threshold(20_000, 20, 50)


collect_less_often()


def task_instance_mutation_hook(task_instance: Any, dag_run: Any = None) -> None:
    """Give the tasks of an exposure the weight of its time (called by Airflow for every task that it makes, perhaps repeatedly)."""
    found = weight(task_instance.dag_id, task_instance.run_id or "")
    if found is not None:
        task_instance.priority_weight = found


if os.environ.get("ZTFDS_PRELOAD") and len(sys.argv) > 1 and sys.argv[1] in ("scheduler", "celery"):
    preload()
