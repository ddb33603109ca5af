"""calibration: one run for each afternoon; when all its biases and flats are in, the calibration products of every CCD."""

from airflow.sdk import DAG, get_current_context, task
from ztfds_tasks import CALIBRATION, library

PATIENCE_S = 3600

with DAG("calibration", description=__doc__, default_args=CALIBRATION, tags=["afternoon", "P3", "P4"]) as dag:

    @task
    def manifest() -> None:
        """Register the mountain's list of calibration frames."""
        from ztfds.operations import afternoon

        with library() as context:
            afternoon.receive_manifest(context, get_current_context()["dag_run"].conf["manifest"])

    @task.sensor(mode="reschedule", poke_interval=3, exponential_backoff=True, max_wait=30, timeout=2 * PATIENCE_S)
    def frames() -> bool:
        """Wait until every frame of the list is in a terminal state, or for an hour."""
        from ztfds.operations import afternoon

        with library() as context:
            night = get_current_context()["dag_run"].conf["night"]
            return afternoon.settled(context, night, PATIENCE_S, part="calibration")

    @task(do_xcom_push=True)
    def ccds() -> list[int]:
        """Name the CCDs of the camera."""
        with library() as context:
            return list(context.camera.ccdids)

    @task(map_index_template="CCD {{ task.op_kwargs['ccdid'] }}")
    def calibrate(ccdid: int) -> None:
        """Make the biases, then the flats of every filter, of the four quadrants of one CCD."""
        from ztfds.operations import afternoon

        run = get_current_context()
        with library() as context:
            afternoon.calibrate_ccd(context, run["dag_run"].conf["night"], ccdid, run["run_id"], run["ti"].try_number)

    numbers = ccds()
    manifest() >> frames() >> numbers
    calibrate.expand(ccdid=numbers)
