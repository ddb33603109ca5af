"""reference: one run for each night; the queue of references to be made anew, then those that the night has made possible."""

from airflow.sdk import DAG, get_current_context, task
from ztfds_tasks import REFERENCE, library

with DAG("reference", description=__doc__, default_args=REFERENCE, max_active_runs=1, tags=["bulk", "P7"]) as dag:

    @task(do_xcom_push=True)
    def fill_queue() -> list[str]:
        """Queue references whose differences are repeatedly bad, that failed and have newer images, or can be much better."""
        from ztfds.operations import references

        with library() as context:
            return references.fill_queue(context, (get_current_context()["dag_run"].conf or {}).get("night"))

    @task(do_xcom_push=True)
    def wanted() -> list[dict[str, int]]:
        """List field, quadrant and filter of every reference that is queued, and of every one that can be made and is not there."""
        from ztfds.operations import references

        with library() as context:
            return references.wanted(context, (get_current_context()["dag_run"].conf or {}).get("night"))

    @task(map_index_template="{{ task.op_kwargs }}")
    def build(field: int, rcid: int, fid: int) -> None:
        """Select, co-add and register the reference of one quadrant of one field in one filter."""
        from ztfds.operations import references

        run = get_current_context()
        with library() as context:
            references.build(context, field, rcid, fid, run["run_id"], run["ti"].try_number)

    found = wanted()
    fill_queue() >> found
    build.expand_kwargs(found)
