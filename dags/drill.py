"""drill_*: one DAG for each contingency, which injects it into a night of a sandbox beside the survey, waits, and scores."""

from airflow.sdk import DAG, task
from ztfds_tasks import DAY, library

from ztfds.drills.names import TITLES

TIMEOUT_S = 3600


def drill_dag(name: str, title: str) -> DAG:
    """The DAG of one contingency."""
    with DAG(
        f"drill_{name}",
        description=f"Drill: {title}. Nothing of the survey is touched: a sandbox with services of its own is made or reused.",
        default_args=DAY,
        max_active_runs=1,
        tags=["drill", "L5"],
    ) as dag:

        @task(retries=0)
        def inject_and_wait() -> None:
            """Inject the fault into a night of the sandbox and wait for its end; progress is in this task's log."""
            import subprocess
            import sys

            from airflow.sdk.exceptions import AirflowFailException

            with library() as context:
                home = context.archive.parent / "drill"
            command = (sys.executable, "-m", "ztfds.cli", "drill", name, "--home", str(home))
            done = subprocess.run(command, check=False, timeout=TIMEOUT_S)
            if done.returncode not in (0, 1):  # 1: scored, and not survived
                raise AirflowFailException(f"the drill could not be run: exit status {done.returncode}")

        @task(do_xcom_push=True, retries=0)
        def score() -> str:
            """Keep the score; a drill that was not survived fails the run."""
            from airflow.sdk.exceptions import AirflowFailException

            from ztfds.drills import run

            with library() as context:
                result = run.kept(context.archive.parent / "drill", name)
                line = run.record(context.dsn, result)
            if not result["passed"]:
                raise AirflowFailException(line)
            return line

        inject_and_wait() >> score()
    return dag


for name, title in TITLES.items():
    globals()[f"drill_{name}"] = drill_dag(name, title)
