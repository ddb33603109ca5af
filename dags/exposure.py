"""exposure: one run for each exposure of the telescope, from the raw CCD files in the inbox to acknowledged alerts."""

from datetime import timedelta

from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, PartitionedAtRuntime, get_current_context, task
from ztfds_deadline import ExposureArrivalDeadline, report_late
from ztfds_tasks import REALTIME, library

ALERTS_DUE = DeadlineAlert(
    reference=ExposureArrivalDeadline(),
    interval=timedelta(minutes=10),
    callback=AsyncCallback(report_late),
    name="alerts within 10 min of arrival",
)

with DAG(
    "exposure",
    description=__doc__,
    schedule=PartitionedAtRuntime(),  # ingestd creates the runs; the exposure's name is the partition
    deadline=ALERTS_DUE,
    default_args=REALTIME,
    tags=["realtime", "P1", "P2", "P5", "P6"],
) as dag:

    @task(do_xcom_push=True)
    def received() -> list[str]:
        """Name the CCD files that this run is about."""
        return [entry["name"] for entry in get_current_context()["dag_run"].conf["files"]]

    @task(map_index_template="{{ task.op_kwargs['filename'] }}")
    def process_ccd(filename: str) -> None:
        """Ingest one CCD file, calibrate and difference its four quadrants, queue their alerts."""
        from ztfds.operations import realtime

        run = get_current_context()
        with library() as context:
            arrival = run["dag_run"].conf["arrival"]
            realtime.process_ccd(context, filename, arrival, run["run_id"], run["ti"].try_number)

    @task(trigger_rule="all_done")
    def close() -> None:
        """Publish the alerts and settle the state of the exposure."""
        from ztfds.operations import realtime

        run = get_current_context()
        with library() as context:
            realtime.close_exposure(context, run["dag_run"].conf["exposure"])

    process_ccd.expand(filename=received()) >> close()
