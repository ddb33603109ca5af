"""reprocess_work: the files of the reprocessing request that comes first, at low priority; started by the forms, or by hand."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, get_current_context, task
from ztfds_tasks import REPROCESSING, library

with DAG(
    "reprocess_work", description=__doc__, default_args=REPROCESSING, max_active_runs=1, tags=["bulk", "D8"]
) as dag:

    @task(do_xcom_push=True)
    def begin() -> list[dict[str, object]]:
        """Take the request and share out its files, newest first."""
        from ztfds.operations.control import reprocessing

        with library() as context:
            return reprocessing.begin(context)

    @task(map_index_template="request {{ task.op_kwargs['request_id'] }}: {{ task.op_kwargs['filenames'] | first }}")
    def work(request_id: int, filenames: list[str]) -> None:
        """Make some files again; a request that is paused leaves them for later."""
        from ztfds.operations.control import reprocessing

        run = get_current_context()
        with library() as context:
            reprocessing.work(context, request_id, filenames, run["run_id"], run["ti"].try_number)

    @task(trigger_rule="all_done", do_xcom_push=True)
    def finish(shared: list[dict[str, int]]) -> str:
        """Close the request, and say what became of its files."""
        from ztfds.operations.control import reprocessing

        with library() as context:
            return reprocessing.finish(context, shared[0]["request_id"]) if shared else "no request waits"

    @task.short_circuit
    def more() -> bool:
        """Go on with another run where this one could not take all the files."""
        from ztfds.operations.control import reprocessing

        with library() as context:
            return reprocessing.more(context)

    again = TriggerDagRunOperator(task_id="again", trigger_dag_id="reprocess_work")
    shared = begin()
    work.expand_kwargs(shared) >> finish(shared) >> more() >> again
