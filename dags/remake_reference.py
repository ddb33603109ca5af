"""remake_reference: an operator's form; queues the references of a field and filter with a reason, and starts the making."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, form, library, lines, who

FORM = {
    "field": Param(600, type="integer", minimum=1, title="Field"),
    "fid": Param(2, enum=[1, 2, 3], title="Filter", values_display={1: "g", 2: "r", 3: "i"}),
    "rcids": lines("Readout channels", "0 to 63, one a line; none: all."),
    "priority": Param(4, type="integer", minimum=0, maximum=9, title="Priority", description="Larger ones come first."),
    "who": who(),
    "reason": Param("", type="string", minLength=5, title="Why", description="Kept with the entry, shown on the page."),
}  # fmt: skip

with DAG("remake_reference", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "D9"]) as dag:

    @task(do_xcom_push=True)
    def order() -> str:
        """Put the references into the queue; those that wait already stay, with both reasons."""
        from ztfds.operations import reference_service

        with library() as context:
            return reference_service.order(context, form())

    start = TriggerDagRunOperator(task_id="start", trigger_dag_id="reference", conf={})
    order() >> start
