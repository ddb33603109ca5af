"""The weight of every task, from the trigger rules in force when its run begins. A plugin of its own, so that no other can break it."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.task.priority_strategy import PriorityWeightStrategy

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def rules_source() -> Any:
    """The rules in force, as this process sees them (at most a few seconds old)."""
    from airflow.models.connection import Connection

    from ztfds.operations.control.triggers import FILE, Source

    uri = Connection.get_connection_from_secrets("ztfds_reader").get_uri()
    home = Connection.get_connection_from_secrets("ztfds_archive").extra_dejson.get("home")
    return Source(f"postgresql://{uri.split('://', 1)[1]}", Path(home) / FILE if home else None)


class ByRules(PriorityWeightStrategy):
    """The weight that the rules give to the task's DAG; without a rule, or where they cannot be read, the one in the DAG file."""

    def get_weight(self, ti: Any) -> int:
        """Weight of a task that is being created or cleared."""
        try:
            work = rules_source()().work(ti.task.dag_id)
            return int(work.weight if work else ti.task.priority_weight)
        except Exception:  # whatever it is, a night must not stop for it
            log.exception("weight of %s as in its file", ti.task.dag_id)
            return int(ti.task.priority_weight)


class ZtfdsPriority(AirflowPlugin):
    """Makes the strategy known to Airflow."""

    name = "ztfds_priority"
    priority_weight_strategies = [ByRules]
