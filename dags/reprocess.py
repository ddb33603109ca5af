"""reprocess: an operator's form; counts what a request would make and replace, asks for approval, files it and starts the work."""

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, form, library, lines, who

STEPS = {"science": "calibrated images (P2, P5)", "difference": "difference images and candidates (P6)"}
FORM = {
    "nights": Param([], type="array", items={"type": "string"}, minItems=1, title="Nights", description="UT dates YYYYMMDD, one a line."),
    "fields": lines("Fields", "Numbers, one a line; none: all."),
    "rcids": lines("Readout channels", "0 to 63, one a line; whole CCDs are made again. None: all."),
    "fids": lines("Filters", "None: all.", examples=["1", "2", "3"], values_display={"1": "g", "2": "r", "3": "i"}),
    "steps": Param(
        list(STEPS),
        type="array",
        examples=list(STEPS),
        values_display=STEPS,
        title="Make again",
        description="Difference images are made from the calibrated images that are served.",
    ),
    "settings": lines("Settings", "What differs from those in force, one a line: difference.candidates.threshold = 6"),
    "resend": Param(False, type="boolean", title="Send alerts", description="Alerts of the new candidates, under new numbers."),
    "priority": Param(5, type="integer", minimum=1, maximum=9, title="Priority", description="1 first; real-time work comes before."),
    "author": who(),
    "reason": Param("", type="string", minLength=5, title="Why", description="Kept with the request."),
}  # fmt: skip

with DAG("reprocess", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "D8"]) as dag:

    @task(do_xcom_push=True)
    def preview() -> str:
        """Check the form and count: files, products replaced, bytes, CPU time."""
        from ztfds.operations.control import reprocessing

        with library() as context:
            return reprocessing.preview_in_words(context, form())

    approve = ApprovalOperator(
        task_id="approve",
        subject="Process this again?",
        body="{{ ti.xcom_pull(task_ids='preview') }}",
        execution_timeout=None,  # a person may take days
    )

    @task(do_xcom_push=True)
    def file() -> str:
        """Put the request among those that wait."""
        from ztfds.operations.control import reprocessing

        with library() as context:
            return reprocessing.file_request(context, form())[1]

    start = TriggerDagRunOperator(task_id="start", trigger_dag_id="reprocess_work")
    preview() >> approve >> file() >> start
