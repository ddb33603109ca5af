"""verdict: a person blesses an exposure or quadrant, or calls it defective; references that hold a defective image are made anew."""

from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, form, library, who

FORM = {
    "exposure": Param(
        "", type="string", title="Exposure", description="ztf_ and 14 digits; may stay empty to withdraw."
    ),
    "rcid": Param(
        None, type=["null", "integer"], minimum=0, maximum=63, title="Readout channel", description="Empty: all."
    ),
    "verdict": Param(
        "defective",
        enum=["defective", "blessed", "withdraw"],
        title="Verdict",
        description="defective: not usable whatever the limits say. blessed: usable whatever they say. withdraw: as before a verdict.",
    ),
    "verdict_id": Param(None, type=["null", "integer"], title="Number", description="Of the verdict to withdraw."),
    "analyst": who(),
    "comment": Param("", type="string", minLength=3, title="Why", description="Shown with the exposure."),
}

with DAG("verdict", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "E2"]) as dag:

    @task(do_xcom_push=True)
    def decide() -> str:
        """Keep the verdict with all that follows from it."""
        from ztfds.operations.control import verdicts

        filled = form()
        with library() as context:
            if filled["verdict"] == "withdraw":
                return str(verdicts.withdraw(context.dsn, filled["verdict_id"] or 0, filled["analyst"]))
            what = (filled["exposure"], filled["rcid"], filled["verdict"], filled["analyst"], filled["comment"])
            return str(verdicts.give(context.dsn, *what))

    decide()
