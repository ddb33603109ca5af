"""telemetry_limits: an operator's form; from which reading on weather and telescope depart, and which reading an exposure gets."""

from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, day_run, who

FORM = {
    "limits": Param(
        [],
        type="array",
        title="Limits that are to differ",
        description="Objects: name of the quantity and what changes of low, high (its unit; null: no limit), tolerance_s.",
    ),
    "version": Param(
        0, type="integer", minimum=0, title="Begin with version", description="0: the present one. 1: as shipped."
    ),
    "only_look": Param(False, type="boolean", title="Only look", description="Check, and show the differences."),
    "author": who(),
    "reason": Param("", type="string", minLength=5, title="Why", description="Kept with the version."),
}

with DAG("telemetry_limits", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "L4"]) as dag:

    @task(do_xcom_push=True)
    def change() -> str:
        """Check the limits and store the version; it counts at once, for old nights too."""
        from ztfds.operations.control.limits import change_in_words

        return day_run(lambda context, form: change_in_words(context.dsn, form))

    change()
