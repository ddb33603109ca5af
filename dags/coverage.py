"""coverage: every morning, maps of what of the sky was seen: in the night and since the beginning, per filter and program."""

from airflow.sdk import DAG, Param, task
from ztfds_deadline import due
from ztfds_tasks import DAY, day_run

FORM = {
    "night": Param(
        "",
        type="string",
        pattern="^([0-9]{8})?$",
        title="Night",
        description="YYYYMMDD, UT. Empty: the last night with images. A night that is mapped already is only brought up to date.",
    ),
}

with DAG(
    "coverage",
    description=__doc__,
    schedule="0 17 * * *",
    params=FORM,
    default_args=DAY,
    deadline=due(3),
    max_active_runs=1,
    tags=["day", "D2", "V10"],
) as dag:

    @task(do_xcom_push=True)
    def map_night() -> str:
        """Make the maps of the night and of all nights until it."""
        from ztfds.operations.day.coverage import make_coverage
        from ztfds.operations.day.nights import wanted_night

        return day_run(lambda context, form: make_coverage(context, wanted_night(context, form["night"])))

    map_night()
