"""ephemeris_refresh: every day, and by hand; orbits of asteroids and comets, observatories, and the coming night's known objects."""

from airflow.sdk import DAG, Param, get_current_context, task
from ztfds_tasks import DAY, day_run

SOURCE = "A URL (http, https) or an absolute path, plain or gzipped. Empty: what is in use stays."
FORM = {
    "mpcorb": Param(
        "", type="string", title="Asteroids (MPCORB.DAT)", description=f"{SOURCE} The daily run asks the MPC."
    ),
    "comets": Param("", type="string", title="Comets (CometEls.txt)", description=SOURCE),
    "obscodes": Param("", type="string", title="Observatories (obscodes_extended.json)", description=SOURCE),
    "night": Param(
        "",
        type="string",
        pattern="^([0-9]{8})?$",
        title="Night to prepare",
        description="YYYYMMDD, UT. Empty: the coming one.",
    ),
    "set_id": Param(
        0,
        type="integer",
        minimum=0,
        title="Roll back to set",
        description="Number of an earlier set to use again; newer ones of its kind are withdrawn. 0: no roll-back, a refresh.",
    ),
    "reason": Param("", type="string", title="Reason of the roll-back", description="Kept with the withdrawn sets."),
}

with DAG(
    "ephemeris_refresh",
    description=__doc__,
    schedule="0 18 * * *",  # late morning at Palomar: the night is over, the MPC's daily files are there
    catchup=False,
    max_active_runs=1,
    params=FORM,
    default_args=DAY,
    tags=["day", "D1"],
) as dag:

    @task(do_xcom_push=True)
    def refresh() -> str:
        """Check and take over new sets, or roll back; prepare the night; one line of outcome. What is refused replaces nothing."""
        from ztfds.operations import ephemeris

        run = get_current_context()["dag_run"]
        by_hand = run.run_type == "manual"
        return day_run(lambda context, form: ephemeris.from_form(context, form, run.run_id, by_hand=by_hand))

    refresh()
