"""backup: every day before the night, database and archive to the second place; on Sundays proved by restoring it."""

from datetime import timedelta

from airflow.sdk import DAG, Param, get_current_context, task
from ztfds_deadline import due
from ztfds_tasks import DAY, day_run

FORM = {
    "reread": Param(
        False,
        type="boolean",
        title="Read every file again",
        description="Also files whose size and time have not changed: finds bits that rotted on disk, costs hours.",
    ),
    "prove": Param(
        "sundays",
        enum=["sundays", "now", "no"],
        title="Prove it by restoring",
        description="Restore the database into a scratch server, compare everything, and read kept files back.",
    ),
    "share": Param(
        0.2,
        type="number",
        minimum=0,
        maximum=1,
        title="Share of the files that the proof reads back",
        description="0 to 1; another part every time. All are looked for in any case.",
    ),
}

with DAG(
    "backup",
    description=__doc__,
    schedule="30 18 * * *",
    params=FORM,
    default_args={**DAY, "execution_timeout": timedelta(hours=12)},
    deadline=due(13),
    max_active_runs=1,
    tags=["day", "D12"],
) as dag:

    @task(do_xcom_push=True)
    def back_up() -> str:
        """Dump the database as of one instant and copy every new file; nothing half-made counts."""
        from ztfds.operations.day.backup import back_up

        return day_run(lambda context, form: back_up(context, reread=form["reread"]))

    @task(do_xcom_push=True)
    def prove() -> str:
        """Restore the newest backup into a scratch server and compare."""
        from airflow.sdk.exceptions import AirflowSkipException

        from ztfds.operations.day.restore import prove_backup

        run = get_current_context()
        day = run["dag_run"].run_after
        if run["params"]["prove"] == "no" or (run["params"]["prove"] == "sundays" and day.weekday() != 6):
            raise AirflowSkipException("it is not Sunday")
        return day_run(lambda context, form: prove_backup(context, share=form["share"]), part="proof")

    back_up() >> prove()
