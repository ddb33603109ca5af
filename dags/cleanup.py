"""cleanup: every morning, disks by the declared rules; nothing goes whose content was not verified elsewhere just before."""

from airflow.sdk import DAG, Param, get_current_context, task
from ztfds_deadline import due
from ztfds_tasks import DAY, day_run

FORM = {
    "dry_run": Param(
        False,
        type="boolean",
        title="Only look",
        description="Verify and count what would go, remove nothing: what a change of the rules would do.",
    ),
}

with DAG(
    "cleanup",
    description=__doc__,
    schedule="0 16 * * *",
    params=FORM,
    default_args=DAY,
    deadline=due(3),
    max_active_runs=1,
    tags=["day", "D4", "V12"],
) as dag:

    @task(do_xcom_push=True)
    def clean() -> str:
        """Remove what the rules name; measure the disks and predict when they are full."""
        from ztfds.operations.day.cleanup import clean

        run_id = get_current_context()["run_id"]
        return day_run(lambda context, form: clean(context, run_id, dry_run=form["dry_run"]))

    clean()
