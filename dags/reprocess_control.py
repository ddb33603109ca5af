"""reprocess_control: pause, resume, cancel or roll back a reprocessing request."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, get_current_context, task
from ztfds_tasks import DAY, library

FORM = {
    "request_id": Param(None, type="integer", minimum=1, title="Request", description="Its number: page Reprocessing."),
    "action": Param(
        "pause",
        enum=["pause", "resume", "cancel", "roll_back"],
        title="What",
        description="pause: files under way are finished. roll_back: what was served before is served again; alerts stay sent.",
    ),
}

with DAG("reprocess_control", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "D8"]) as dag:

    @task(do_xcom_push=True)
    def act() -> str:
        """Do it."""
        from ztfds.operations.control import reprocessing

        asked = get_current_context()["params"]
        with library() as context:
            return reprocessing.control(context, asked["request_id"], asked["action"])

    @task.short_circuit
    def work_waits() -> bool:
        """Only a resumed request has work to start."""
        return bool(get_current_context()["params"]["action"] == "resume")

    act() >> work_waits() >> TriggerDagRunOperator(task_id="start", trigger_dag_id="reprocess_work")
