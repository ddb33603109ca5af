"""health: every six hours, throughput and failures of the workers, and how database, broker, disks and machine stand."""

from datetime import timedelta

from airflow.sdk import DAG, Param, task
from ztfds_deadline import due
from ztfds_tasks import DAY, day_run

FORM = {
    "hours": Param(
        24, type="number", minimum=1, maximum=720, title="Look back [h]", description="How much is reviewed."
    ),
}

with DAG(
    "health",
    description=__doc__,
    schedule="0 3,9,15,21 * * *",
    params=FORM,
    default_args={**DAY, "retries": 1, "execution_timeout": timedelta(minutes=20)},
    deadline=due(0.5),
    max_active_runs=1,
    tags=["day", "D14"],
) as dag:

    @task(do_xcom_push=True)
    def review() -> str:
        """Review."""
        from ztfds.operations.day.health import review

        return day_run(lambda context, form: review(context, form["hours"]))

    review()
