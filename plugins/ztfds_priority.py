"""The weight of every task, from the trigger rules in force when its run begins. A plugin of its own, so that no other can break it."""

from __future__ import annotations

import logging
import re
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.task.priority_strategy import PriorityWeightStrategy

log = logging.getLogger(__name__)

FIRST_DAY = date(2017, 1, 1).toordinal()
_NAMED = re.compile(r"ztf_(\d{8})(\d{6})(?:__.*)?")


@lru_cache(maxsize=1)
def rules_source() -> Any:
    """The rules in force, as this process sees them (at most a few seconds old)."""
    from airflow.models.connection import Connection

    from ztfds.operations.control.triggers import FILE, Source

    uri = Connection.get_connection_from_secrets("ztfds_reader").get_uri()
    home = Connection.get_connection_from_secrets("ztfds_archive").extra_dejson.get("home")
    return Source(f"postgresql://{uri.split('://', 1)[1]}", Path(home) / FILE if home else None)


def newest_first(run_id: str) -> int | None:
    """Weight of the tasks of an exposure's run by the time of the exposure; None where its name does not tell it.

    Airflow orders tasks of one weight by logical date, which runs of exposures do not have, and then by their place in the
    mapping: the first CCD of every exposure, then the second one of every exposure. With a back-log all exposures would be
    finished together, at its end. Here the weight grows by one every 0.86 s of the exposures' time, so that what was taken last is
    whole first; it is above that of any rule, and stays below 2^31 until 2075.
    """
    named = _NAMED.fullmatch(run_id)
    if named is None:
        return None
    try:
        day = datetime.strptime(named[1], "%Y%m%d").replace(tzinfo=UTC).date().toordinal() - FIRST_DAY
    except ValueError:
        return None
    return min(2**31 - 1, max(1, day) * 100_000 + int(named[2]) // 10)


class ByRules(PriorityWeightStrategy):
    """The weight that the rules give to the task's DAG; without a rule, or where they cannot be read, the one in the DAG file."""

    def get_weight(self, ti: Any) -> int:
        """Weight of a task that is being created or cleared; of exposures, while the rules put them above all, the newest first."""
        try:
            rules = rules_source()()
            work = rules.work(ti.task.dag_id)
            above_all = (
                work is not None
                and work.dag == "exposure"
                and all(other.weight < work.weight for other in rules.works if other is not work)
            )
            own = newest_first(ti.run_id or "") if above_all else None
            return int(own or (work.weight if work else ti.task.priority_weight))
        except Exception:  # whatever it is, a night must not stop for it
            log.exception("weight of %s as in its file", ti.task.dag_id)
            return int(ti.task.priority_weight)


class ZtfdsPriority(AirflowPlugin):
    """Makes the strategy known to Airflow."""

    name = "ztfds_priority"
    priority_weight_strategies = [ByRules]
