"""prepare_field: an operator's form; a field off the grid gets its calibrator catalogs, and its exposures are let in."""

from airflow.sdk import DAG, Param, task
from ztfds_tasks import DAY, day_run, who

FORM = {
    "field": Param(
        2000, type="integer", minimum=2000, maximum=9999, title="Field", description="As in the file names."
    ),
    "ra": Param(None, type="number", minimum=0, exclusiveMaximum=360, title="Right ascension", description="Of its centre, deg."),
    "dec": Param(None, type="number", minimum=-90, maximum=90, title="Declination", description="Of its centre, deg."),
    "words": Param("", type="string", title="What it is", description="E.g. the target."),
    "source": Param(
        "",
        type="string",
        title="Folder of catalogs",
        description="Absolute path with tables gaia* and ps1*; stars that are missing are taken from it. Empty: take none.",
    ),
    "least": Param(
        20, type="integer", minimum=1, title="Stars", description="That every quadrant must have in each catalog."
    ),
    "release": Param(
        True,
        type="boolean",
        title="Send again",
        description="Quarantined files of the field go into the inbox once more.",
    ),
    "author": who(),
}  # fmt: skip

with DAG("prepare_field", description=__doc__, params=FORM, default_args=DAY, tags=["by hand", "D6"]) as dag:

    @task(do_xcom_push=True)
    def prepare() -> str:
        """Count, add what is missing, let the field in."""
        from ztfds.operations.day.fields import prepare

        return day_run(prepare)

    prepare()
