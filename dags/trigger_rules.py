"""trigger_rules: an operator's form; which event starts which DAG, in which order, and whose tasks come first."""

from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, LIGHT, day_run, who

FORM = {
    "triggers": Param(
        [],
        type="array",
        title="Rules that are to be new or different",
        description="Objects: name and what changes of event, dag, order (0 to 99, smaller first), newest_first, enabled, patience_s.",
    ),
    "works": Param(
        [],
        type="array",
        title="Priorities that are to be new or different",
        description="Objects: dag and what changes of weight (1 to 10000, greater first), deadline_min, words.",
    ),
    "drop": Param(
        [],
        type="array",
        items={"type": "string"},
        title="Rules to drop",
        description="Names, or DAGs without a weight.",
    ),
    "version": Param(
        0, type="integer", minimum=-1, title="Begin with version", description="0: the present one. -1: as shipped."
    ),
    "only_look": Param(False, type="boolean", title="Only look", description="Check, and show the differences."),
    "author": who(),
    "reason": Param("", type="string", minLength=5, title="Why", description="Kept with the version."),
}

with DAG(
    "trigger_rules",
    description=__doc__,
    params=FORM,
    default_args={**DAY, "pool": LIGHT},
    tags=["by hand", "V2"],
) as dag:

    @task(do_xcom_push=True)
    def change() -> str:
        """Check the rules and store the version; it counts within seconds for what is sent and begun from then on."""
        from ztfds.operations.control.triggers import change_in_words

        return day_run(lambda context, form: change_in_words(context.dsn, form))

    change()
