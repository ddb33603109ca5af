"""exposure, without the work: the same tasks, pool, deadline and connections as the real one; nothing is computed."""

from datetime import timedelta

from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, PartitionedAtRuntime, get_current_context, task
from ztfds_deadline import ExposureArrival, report_late
from ztfds_tasks import REALTIME, library

ALERTS_DUE = DeadlineAlert(
    reference=ExposureArrival(), interval=timedelta(minutes=10), callback=AsyncCallback(report_late)
)

with DAG("exposure", schedule=PartitionedAtRuntime(), deadline=ALERTS_DUE, default_args=REALTIME) as dag:

    @task(do_xcom_push=True)
    def received() -> list[str]:
        """Name the CCD files."""
        return [entry["name"] for entry in get_current_context()["dag_run"].conf["files"]]

    @task
    def process_ccd(filename: str) -> None:
        """Resolve the connections, as the real task does."""
        with library() as context:
            print(filename, bool(context))

    @task(trigger_rule="all_done")
    def close() -> None:
        """Resolve the connections, as the real task does."""
        with library():
            pass

    process_ccd.expand(filename=received()) >> close()
