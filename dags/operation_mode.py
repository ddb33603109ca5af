"""operation_mode: switch a degraded mode of one night on or off; tasks that begin afterwards heed it."""

from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, form, library, who

WORDS = {
    "calibrate_only": "calibrate only: nothing is differenced, no alerts",
    "no_forced_photometry": "alerts without forced photometry",
    "no_alerts": "candidates, but no alert packets",
}
FORM = {
    "night": Param("", type="string", pattern="^[0-9]{8}$", title="Night", description="UT date YYYYMMDD."),
    "mode": Param("no_forced_photometry", enum=list(WORDS), values_display=WORDS, title="Mode"),
    "on": Param(True, type="boolean", title="On", description="Off: the night goes on normally."),
    "author": who(),
    "reason": Param("", type="string", minLength=3, title="Why", description="Kept with the mode."),
}

with DAG("operation_mode", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "V2"]) as dag:

    @task(do_xcom_push=True)
    def switch() -> str:
        """Switch it."""
        from ztfds.operations.control import modes
        from ztfds.survey.ids import nid_of_date

        filled = form()
        with library() as context:
            return modes.switch(
                context.dsn,
                nid_of_date(filled["night"]),
                filled["mode"],
                filled["on"],
                filled["author"],
                filled["reason"],
            )

    switch()
