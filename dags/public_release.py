"""public_release: every day, epochs whose proprietary time is over become public; by form, a numbered data release is frozen."""

from datetime import timedelta

from airflow.sdk import DAG, Param, get_current_context, task
from ztfds_deadline import due
from ztfds_tasks import DAY, day_run, who

NIGHT = {"type": "string", "pattern": "^([0-9]{8})?$"}
FORM = {
    "freeze": Param(0, type="integer", minimum=0, title="Freeze data release", description="Its number; 0: none."),
    "first": Param("", **NIGHT, title="First night", description="YYYYMMDD, UT, of the data release."),
    "last": Param("", **NIGHT, title="Last night", description="YYYYMMDD, UT, of the data release."),
    "title": Param("", type="string", title="Title", description="Of the data release."),
    "remarks": Param("", type="string", title="Remarks", description="For its notes: what users should know."),
    "author": who(),
    "verify": Param(
        False,
        type="boolean",
        title="Verify all checksums",
        description="Read every file before it is frozen (hours for a year).",
    ),
}

with DAG(
    "public_release",
    description=__doc__,
    schedule="0 20 * * *",
    params=FORM,
    default_args={**DAY, "execution_timeout": timedelta(hours=12)},
    deadline=due(13),
    max_active_runs=1,
    tags=["day", "D11"],
) as dag:

    @task(do_xcom_push=True)
    def release() -> str:
        """Release what is due; freeze what is asked for."""
        from ztfds.operations.day.releases import release

        run_id = get_current_context()["run_id"]
        return day_run(lambda context, form: release(context, form, run_id))

    release()
