"""readiness: every evening before the night, everything that it needs, a line each, and go or no-go on the page Readiness."""

from datetime import timedelta

from airflow.sdk import DAG, task
from ztfds_deadline import due
from ztfds_tasks import DAY, day_run

with DAG(
    "readiness",
    description=__doc__,
    schedule="0 0,22 * * *",  # before sunset at Palomar, and once more with time left to act
    default_args={**DAY, "retries": 1, "priority_weight": 90, "execution_timeout": timedelta(minutes=15)},
    deadline=due(0.5),
    max_active_runs=1,
    tags=["day", "D7"],
) as dag:

    @task(do_xcom_push=True)
    def check() -> str:
        """Check; no-go fails the task."""
        from ztfds.operations.day.readiness import readiness

        return day_run(lambda context, form: readiness(context))

    check()
