"""Loaded by every Airflow process: in those that fork tasks it imports the library once, so that each task need not."""

from __future__ import annotations

import importlib
import logging
import os
import sys

log = logging.getLogger(__name__)

NEEDED_BY_TASKS = (
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.operators.trigger_dagrun",
    "airflow.providers.standard.sensors.python",
    "airflow.providers.postgres.hooks.postgres",
    "confluent_kafka",
    "ztfds.operations.realtime",
    "ztfds.operations.afternoon",
    "ztfds.operations.references",
    "ztfds.registry.publisher",
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


if os.environ.get("ZTFDS_PRELOAD") and len(sys.argv) > 1 and sys.argv[1] in ("scheduler", "celery"):
    preload()
