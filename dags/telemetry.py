"""telemetry: one run for each file of readings of telescope and weather: verified, kept, and their values in the database."""

from airflow.sdk import DAG, get_current_context, task
from ztfds_tasks import TELEMETRY, library

with DAG("telemetry", description=__doc__, default_args=TELEMETRY, tags=["realtime", "L4"]) as dag:

    @task(do_xcom_push=True)
    def ingest() -> list[str]:
        """Verify each file and load its readings, or put it aside with a reason; says what became of each."""
        from ztfds.operations import telemetry

        run = get_current_context()
        conf = run["dag_run"].conf
        with library() as context:
            files = [entry["name"] for entry in conf["files"]]
            return [str(telemetry.receive(context, name, conf["arrival"], run["run_id"])) for name in files]

    ingest()
