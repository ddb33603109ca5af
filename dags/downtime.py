"""downtime: an operator's form; hold new work and drain what runs, or resume and catch up, the newest first."""

from airflow.sdk import DAG, Param, get_current_context, task
from ztfds_tasks import DAY, LIGHT, day_run, library

WORK = ("exposure", "calibration", "end_of_night", "reference")
FORM = {
    "action": Param(
        "hold",
        enum=["hold", "resume"],
        title="What to do",
        description="hold: nothing new is sent from now on, what runs is finished. resume: what has arrived is sent, newest first.",
    ),
    "reason": Param(
        "", type="string", title="Reason", description="Shown on the pages; needed for hold.", maxLength=200
    ),
    "hours": Param(
        0,
        type="number",
        minimum=0,
        maximum=336,
        title="Length [h]",
        description="Work resumes by itself; 0: by hand only.",
    ),
}

with DAG(
    "downtime",
    description=__doc__,
    schedule=None,
    params=FORM,
    default_args={**DAY, "pool": LIGHT, "retries": 1},
    tags=["by hand", "D10"],
) as dag:

    @task(do_xcom_push=True)
    def announce() -> str:
        """Hold, or resume; it counts within seconds."""
        from ztfds.operations.day import downtime

        who = get_current_context()["dag_run"].triggering_user_name or "operator"

        def work(context, form):
            if form["action"] == "resume":
                return downtime.resume(context, who)
            return downtime.hold(context, form["reason"], who, form["hours"])

        return day_run(work)

    @task.sensor(mode="reschedule", poke_interval=15, timeout=4 * 3600)
    def drained() -> bool:
        """Wait until nothing runs any more, for four hours at most."""
        from ztfds.operations.day import downtime

        ti = get_current_context()["ti"]
        runs = sum(ti.get_dr_count(dag_id=name, states=["queued", "running"]) for name in WORK)
        with library() as context:
            return downtime.drained(context, runs)

    @task(do_xcom_push=True, trigger_rule="none_skipped")
    def told() -> str:
        """Say whether it is drained."""
        from ztfds.operations.day import downtime

        return day_run(lambda context, form: downtime.report(context), part="drained")

    announce() >> drained() >> told()
