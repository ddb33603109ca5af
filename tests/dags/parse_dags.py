"""Parse the DAG files as Airflow's dag-processor does and print what is in them as JSON (a process of its own)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEAVY = ("numba", "numpy", "astropy", "scipy", "psycopg2", "confluent_kafka", "matplotlib")


def main(folder: str) -> None:
    """Load every file, go through Airflow's serialization, tell tasks, callbacks and imported modules."""
    import airflow.settings

    airflow.settings.initialize()
    before = set(sys.modules)
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    bag = DagBag(folder, bundle_name="dags-folder")
    caused = {name.split(".")[0] for name in set(sys.modules) - before}
    dags = {}
    for dag in bag.dags.values():
        copy = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
        tasks = {}
        for task in dag.tasks:
            source = task.partial_kwargs if hasattr(task, "partial_kwargs") else vars(task)
            kept = copy.get_task(task.task_id)
            tasks[task.task_id] = {
                "pool": task.pool,
                "queue": task.queue,
                "weight": task.priority_weight,
                "rule": str(task.weight_rule),
                "retries": task.retries,
                "policy": type(source.get("retry_policy")).__name__,
                "trigger_rule": str(kept.trigger_rule),
                "mapped": task.is_mapped,
                "downstream": sorted(task.downstream_task_ids),
                "mode": getattr(task, "mode", None),
                "answer_within": str(getattr(task, "response_timeout", "nobody is asked")),
            }
        dags[dag.dag_id] = {
            "tasks": tasks,
            "lines": len(Path(dag.fileloc).read_text().splitlines()),
            "deadlines": [alert.interval.total_seconds() for alert in dag.deadline or []],
            "timetable": type(dag.timetable).__name__,
        }
    errors = {Path(name).name: text for name, text in bag.import_errors.items()}
    print("\n" + json.dumps({"errors": errors, "heavy": sorted(caused & set(HEAVY)), "dags": dags}))


if __name__ == "__main__":
    main(sys.argv[1])
