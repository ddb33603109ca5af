"""alarm_rules: an operator's form that puts another version of the alarm rules in force; invalid rules change nothing."""

from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, form, library, who

FORM = {
    "rules": Param(
        [],
        type="array",
        title="Rules that are new or different",
        description="Objects: name, metric, above or below, hold_s, severity (warning, critical), words. Others stay as they are.",
    ),
    "drop": Param([], type="array", items={"type": "string"}, title="Rules to drop", description="Names, one a line."),
    "author": who(),
    "reason": Param("", type="string", minLength=5, title="Why", description="Kept with the version."),
}

with DAG("alarm_rules", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "alarms"]) as dag:

    @task(do_xcom_push=True)
    def change() -> str:
        """Check the rules, store the version; the watch heeds it within seconds."""
        from ztfds.operations.watch import alarms

        filled = form()
        with library() as context:
            return alarms.amend_rules(context.dsn, filled["rules"], filled["drop"], filled["author"], filled["reason"])

    change()
