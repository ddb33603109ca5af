"""exposure: one run for each exposure of the telescope, from the raw CCD files in the inbox to acknowledged alerts."""

from datetime import timedelta

from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, PartitionedAtRuntime, get_current_context, task
from ztfds_deadline import ExposureArrival, ExposureArrivalDeadline, note_slow, report_late
from ztfds_tasks import LIGHT, REALTIME, library

ALERTS_DUE = DeadlineAlert(
    reference=ExposureArrivalDeadline(),
    interval=timedelta(0),  # the reference knows how long after the arrival: trigger rules
    callback=AsyncCallback(report_late),
    name="alerts in time after arrival",
)
GOAL = DeadlineAlert(
    reference=ExposureArrival(),
    interval=timedelta(minutes=5),
    callback=AsyncCallback(note_slow),
    name="goal: alerts within 5 min of arrival",
)

with DAG(
    "exposure",
    description=__doc__,
    schedule=PartitionedAtRuntime(),  # ingestd creates the runs; the exposure's name is the partition
    deadline=[ALERTS_DUE, GOAL],
    default_args=REALTIME,
    tags=["realtime", "P1", "P2", "P5", "P6"],
) as dag:

    @task(do_xcom_push=True, pool=LIGHT)
    def received() -> list[str]:
        """Name the CCD files that this run is about."""
        return [entry["name"] for entry in get_current_context()["dag_run"].conf["files"]]

    @task
    def process_ccd(filename: str) -> None:
        """Ingest one CCD file, calibrate and difference its four quadrants, queue their alerts."""
        from ztfds.operations import realtime

        run = get_current_context()
        conf, ti = run["dag_run"].conf, run["ti"]
        with library() as context:
            last = ti.try_number > ti.max_tries
            realtime.process_ccd(context, filename, conf["arrival"], run["run_id"], ti.try_number, final=last)

    @task(trigger_rule="all_done", pool=LIGHT)
    def close() -> None:
        """Settle the state of the exposure and publish its alerts; an exposure that failed fails the run."""
        from airflow.sdk.exceptions import AirflowFailException

        from ztfds.operations import realtime

        run = get_current_context()
        exposure = run["dag_run"].conf["exposure"]
        with library() as context:
            state = realtime.close_exposure(context, exposure, run["run_id"])
        if state == "failed":
            raise AirflowFailException(f"{exposure} failed: see its process_ccd tasks")

    process_ccd.expand(filename=received()) >> close()
