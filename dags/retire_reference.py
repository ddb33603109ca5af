"""retire_reference: an operator's form; lists all that depends on a reference, asks for approval, then retires, undoes or locks."""

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, form, library, who

FORM = {
    "rfid": Param(0, type="integer", minimum=1, title="Reference", description="Its number, as on the page References."),
    "version": Param(
        None, type=["null", "integer"], title="Version", description="Empty: the served one, or the newest if none is."
    ),
    "action": Param(
        "retire",
        enum=["retire", "undo", "lock", "release"],
        title="Action",
        description="retire: mark all dependants, serve it no more, queue a new one. undo: take a retirement back. lock: serve this "
        "version whatever newer ones there are; release: newer ones may replace it again.",
    ),
    "who": who(),
    "reason": Param("", type="string", minLength=5, title="Why", description="Kept with the decision."),
}  # fmt: skip

with DAG("retire_reference", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "D9"]) as dag:

    @task(do_xcom_push=True)
    def preview() -> str:
        """List what depends on the reference: products, nights, candidates, alerts."""
        from ztfds.operations import reference_service

        with library() as context:
            return reference_service.preview(context, form())

    approve = ApprovalOperator(
        task_id="approve",
        subject="Decide about this reference?",
        body="{{ ti.xcom_pull(task_ids='preview') }}",
        execution_timeout=None,  # a person may take days
    )

    @task(do_xcom_push=True)
    def decide() -> str:
        """Do it; nothing is deleted, everything can be undone by the same form."""
        from ztfds.operations import reference_service

        with library() as context:
            return reference_service.decide(context, form())

    preview() >> approve >> decide()
