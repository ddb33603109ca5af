"""end_of_night: one run for each night, when its manifest has come, or will not: account for every file, report, start what follows."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, task
from ztfds_tasks import NIGHTLY, SCIENCE, library, nid_of_run, of_run

LONGEST_WAIT_S = 24 * 3600

with DAG("end_of_night", description=__doc__, default_args=NIGHTLY, tags=["nightly"]) as dag:

    @task
    def manifest() -> None:
        """Register the mountain's list of the files of the night; a night that is closed without it, or again, brings none."""
        from ztfds.operations import afternoon

        if filename := of_run("manifest"):
            with library() as context:
                afternoon.receive_manifest(context, filename)

    @task.sensor(mode="reschedule", poke_interval=3, exponential_backoff=True, max_wait=30, timeout=LONGEST_WAIT_S)
    def settled() -> bool:
        """Wait until every exposure of the night is in a terminal state, or for so long as the settings say (two hours)."""
        from ztfds.operations import afternoon

        with library() as context:
            return afternoon.settled(context, of_run("night"), context.config.closing.lost_s, since=of_run("arrival"))

    @task(do_xcom_push=True)
    def following() -> list[dict[str, object]]:
        """Name the runs that the trigger rules start after a night."""
        from ztfds.operations.control import triggers

        with library() as context:
            return triggers.following_runs(context.dsn, "night_settled", of_run("night"))

    @task(pool=SCIENCE)
    def alerts() -> None:
        """Pack the night's public alert packets into one archive and keep it as a product."""
        from ztfds.operations.alertarchive import archive_alerts

        with library() as context:
            archive_alerts(context, nid_of_run())

    @task
    def report() -> None:
        """Write the nightly summary and keep it as a product."""
        from ztfds.operations.report import write_report

        with library() as context:
            write_report(context, nid_of_run())

    @task
    def send() -> None:
        """Tell people of the summary, by mail and webhook, where the settings name any."""
        from ztfds.operations.report import send_report

        with library() as context:
            send_report(context, nid_of_run())

    @task
    def account() -> None:
        """Compare what was sent with what is there; any difference fails the run, loudly."""
        from airflow.sdk.exceptions import AirflowFailException

        from ztfds.operations import accountability

        with library() as context:
            differences = accountability.account(context, nid_of_run()).differences
        if differences:
            raise AirflowFailException("\n".join(differences))

    complete, written, runs = settled(), report(), following()
    manifest() >> complete >> written >> [account(), send()]
    complete >> [runs, alerts()]
    TriggerDagRunOperator.partial(task_id="start", skip_when_already_exists=True).expand_kwargs(runs)
