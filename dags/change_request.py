"""change_request: a proposed difference of settings is checked, rehearsed, shown to a person, and put in force if approved."""

from airflow.sdk import DAG, Param, get_current_context, task
from ztfds_approval import RightfulApproval
from ztfds_tasks import DAY, form, library, lines, who

FORM = {
    "purpose": Param("", type="string", minLength=5, title="Purpose", description="What it is to improve."),
    "risk": Param("", type="string", minLength=3, title="Risk", description="What may go wrong, and how it would be seen."),
    "settings": lines("Settings", "What is to differ from those in force, one a line: difference.candidates.threshold = 6"),
    "author": who(),
}  # fmt: skip

with DAG(
    "change_request",
    description=__doc__,
    params=FORM,
    default_args=DAY,
    max_active_runs=1,
    tags=["by hand", "E7", "L6"],
) as dag:

    @task(do_xcom_push=True)
    def propose() -> int:
        """Check the differences and keep the proposal."""
        from ztfds.operations.control import changes

        with library() as context:
            return changes.propose(context, form(), get_current_context()["run_id"])[0]

    @task(do_xcom_push=True, retries=0)
    def rehearse(change_id: int) -> str:
        """The standard night of the tiny camera, scored against its truth, with the settings in force and with the change."""
        from ztfds.operations.control import changes
        from ztfds.simulator.validation import validate

        proposed = changes.parsed(form()["settings"])
        with library() as context:
            changes.begin_rehearsal(context.dsn, change_id)
            home, now = context.archive.parent / "rehearsal", changes.accumulated(context.dsn)
            both = validate(home, now, proposed)
            return changes.note_validation(context.dsn, change_id, *both)

    approve = RightfulApproval(
        task_id="approve",
        subject="Put change {{ ti.xcom_pull(task_ids='propose') }} in force?",
        body="{{ params.purpose }}\n\nRisk: {{ params.risk }}\n\n{{ ti.xcom_pull(task_ids='rehearse') }}",
        options=["Approve", "Reject"],
        execution_timeout=None,  # a person may take days
        do_xcom_push=True,  # the answer, for the task that decides
    )

    @task(do_xcom_push=True, trigger_rule="all_done")
    def decide(change_id: int) -> str:
        """Put it in force if it was approved, else reject it; without an answer it stays, to be rehearsed again."""
        from airflow.sdk.exceptions import AirflowFailException

        from ztfds.operations.control import changes

        answer = get_current_context()["ti"].xcom_pull(task_ids="approve")
        with library() as context:
            if not answer:
                raise AirflowFailException(changes.leave_undecided(context.dsn, change_id))
            by = (answer.get("responded_by_user") or {}).get("name") or "nobody"
            return changes.decide(context, change_id, answer["chosen_options"] == ["Approve"], by)

    number = propose()
    rehearse(number) >> approve >> decide(number)
