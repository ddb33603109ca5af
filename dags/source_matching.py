"""source_matching: on the first of the month and by hand, the list of fields, channels and filters that are due for matching."""

from airflow.sdk import DAG, Param, task
from ztfds_deadline import due
from ztfds_tasks import MONTHLY, day_run

FORM = {
    "epochs": Param(
        10,
        type="integer",
        minimum=1,
        title="New epochs",
        description="A field, channel and filter is due when it has so many usable images more than at its last matching.",
    ),
}

with DAG(
    "source_matching",
    description=__doc__,
    schedule="0 20 1 * *",
    params=FORM,
    default_args=MONTHLY,
    deadline=due(3),
    max_active_runs=1,
    tags=["monthly", "D13"],
) as dag:

    @task(do_xcom_push=True)
    def queue() -> str:
        """Count new usable images and queue what is due."""
        from ztfds.operations.day.matching import queue_due

        return day_run(lambda context, form: queue_due(context, form["epochs"]))

    queue()
