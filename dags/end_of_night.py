"""end_of_night: one run for each night, when its manifest has come: account for every file, report, order references."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, get_current_context, task
from ztfds_tasks import NIGHTLY, library

PATIENCE_S = 2 * 3600

with DAG("end_of_night", description=__doc__, default_args=NIGHTLY, tags=["nightly"]) as dag:

    @task
    def manifest() -> None:
        """Register the mountain's list of the files of the night."""
        from ztfds.operations import afternoon

        with library() as context:
            afternoon.receive_manifest(context, get_current_context()["dag_run"].conf["manifest"])

    @task.sensor(mode="reschedule", poke_interval=3, exponential_backoff=True, max_wait=30, timeout=2 * PATIENCE_S)
    def settled() -> bool:
        """Wait until every exposure of the night is in a terminal state, or for two hours."""
        from ztfds.operations import afternoon

        with library() as context:
            return afternoon.settled(context, get_current_context()["dag_run"].conf["night"], PATIENCE_S)

    references = TriggerDagRunOperator(
        task_id="references",
        trigger_dag_id="reference",
        trigger_run_id="ref_{{ dag_run.conf['night'] }}",
        conf={"night": "{{ dag_run.conf['night'] }}"},
        skip_when_already_exists=True,
    )

    @task
    def alerts() -> None:
        """Pack the night's public alert packets into one archive and keep it as a product."""
        from ztfds.operations.alertarchive import archive_alerts
        from ztfds.survey.ids import nid_of_date

        with library() as context:
            archive_alerts(context, nid_of_date(get_current_context()["dag_run"].conf["night"]))

    @task
    def report() -> None:
        """Write the nightly summary and keep it as a product."""
        from ztfds.operations.report import write_report
        from ztfds.survey.ids import nid_of_date

        with library() as context:
            write_report(context, nid_of_date(get_current_context()["dag_run"].conf["night"]))

    @task
    def account() -> None:
        """Compare what was sent with what is there; any difference fails the run, loudly."""
        from airflow.sdk.exceptions import AirflowFailException

        from ztfds.operations import accountability
        from ztfds.survey.ids import nid_of_date

        with library() as context:
            result = accountability.account(context, nid_of_date(get_current_context()["dag_run"].conf["night"]))
        if result.differences:
            raise AirflowFailException("\n".join(result.differences))

    complete = settled()
    manifest() >> complete >> report() >> account()
    complete >> [references, alerts()]
