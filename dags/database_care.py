"""database_care: every morning, partitions ahead, old messages, vacuum and analyze where it is worth it, size and bloat."""

from datetime import timedelta

from airflow.sdk import DAG, Param, task
from ztfds_deadline import due
from ztfds_tasks import DAY, day_run

FORM = {
    "keep_nights": Param(
        0,
        type="integer",
        minimum=0,
        title="Nights of candidates kept in the database",
        description="Older ones are dropped once their file in the archive was read back (at least 40). 0: all are kept.",
    ),
    "everything": Param(
        False, type="boolean", title="Vacuum every table", description="Not only those where enough has changed."
    ),
}

with DAG(
    "database_care",
    description=__doc__,
    schedule="0 19 * * *",
    params=FORM,
    default_args={**DAY, "execution_timeout": timedelta(hours=6)},
    deadline=due(7),
    max_active_runs=1,
    tags=["day", "D5"],
) as dag:

    @task(do_xcom_push=True)
    def care() -> str:
        """Do it."""
        from ztfds.operations.day.maintenance import care

        return day_run(
            lambda context, form: care(context, keep_nights=form["keep_nights"], everything=form["everything"])
        )

    care()
