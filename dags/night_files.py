"""night_files: every morning, the night's candidates as a file; packets of old nights leave the outbox for the alert archive."""

from airflow.sdk import DAG, Param, task
from ztfds_deadline import due
from ztfds_tasks import DAY, day_run

FORM = {
    "night": Param(
        "",
        type="string",
        pattern="^([0-9]{8})?$",
        title="Night",
        description="YYYYMMDD, UT, whose candidates are exported. Empty: the last night with images.",
    ),
    "packet_days": Param(
        30,
        type="number",
        minimum=1,
        title="Packets stay in the outbox [d]",
        description="After that the archive of their night holds them; compared byte by byte before anything is removed.",
    ),
}

with DAG(
    "night_files",
    description=__doc__,
    schedule="30 17 * * *",
    params=FORM,
    default_args=DAY,
    deadline=due(3),
    max_active_runs=1,
    tags=["day", "V11"],
) as dag:

    @task(do_xcom_push=True)
    def export() -> str:
        """Write the candidates of the night to a parquet file."""
        from ztfds.operations.day.nightfiles import export_candidates
        from ztfds.operations.day.nights import wanted_night

        return day_run(
            lambda context, form: export_candidates(context, wanted_night(context, form["night"])),
            part="export",
        )

    @task(do_xcom_push=True)
    def prune() -> str:
        """Remove old packets from the outbox."""
        from ztfds.operations.day.nightfiles import prune_outbox

        return day_run(lambda context, form: prune_outbox(context, form["packet_days"]), part="pruning")

    export()
    prune()
