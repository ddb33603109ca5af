"""smooth_maps: a scientist's form; low-frequency flats from the stars of many nights, and lamp corrections from these."""

from airflow.sdk import DAG, Param, get_current_context, task
from ztfds_tasks import BULK, library

FORM = {
    "what": Param(
        "lownuflat",
        enum=["lownuflat", "lampcorr"],
        title="Product",
        description="lownuflat: smooth response left in flattened images, from their stars. lampcorr: a correction of the flat lamp from "
        "the valid low-frequency flats; make it after them, and before new flats.",
    ),
    "since": Param(
        "20260101",
        type="string",
        pattern="^[0-9]{8}$",
        title="First night",
        description="YYYYMMDD, of the images used.",
    ),
    "night": Param(
        "20260201",
        type="string",
        pattern="^[0-9]{8}$",
        title="Last night",
        description="YYYYMMDD, of the images used; the product is valid from it.",
    ),
    "fid": Param(2, enum=[1, 2, 3], title="Filter", values_display={1: "g", 2: "r", 3: "i"}),
}

with DAG("smooth_maps", description=__doc__, params=FORM, default_args=BULK, tags=["by hand", "P4"]) as dag:

    @task(do_xcom_push=True)
    def ccds() -> list[int]:
        """Name the CCDs of the camera."""
        with library() as context:
            return list(context.camera.ccdids)

    @task(map_index_template="CCD {{ task.op_kwargs['ccdid'] }}", do_xcom_push=True)
    def make(ccdid: int) -> list[str]:
        """Make the product of the four quadrants of a CCD; tells what became of each. What is refused replaces nothing."""
        from ztfds.operations import lowfrequency

        run = get_current_context()
        form, attempt = run["params"], (run["run_id"], run["ti"].try_number)
        with library() as context:
            if form["what"] == "lampcorr":
                made = lowfrequency.correct_lamp(context, form["night"], ccdid, form["fid"], *attempt)
            else:
                made = lowfrequency.map_response(context, form["night"], ccdid, form["fid"], form["since"], *attempt)
        return [f"rcid {one.rcid}: {one.reason}" for one in made]

    make.expand(ccdid=ccds())
