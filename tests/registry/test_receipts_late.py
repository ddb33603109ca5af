"""Misses of the deadline of exposures of which nothing was received: they are kept all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pytest

from ztfds.registry import database as db
from ztfds.registry import exposures
from ztfds.survey import ids

ROOT = Path(__file__).resolve().parents[2]
EXPOSURE, ARRIVAL = "ztf_20181202300000", datetime(2018, 12, 2, 7, 12, tzinfo=UTC)
NAME = f"{EXPOSURE}_000600_zg_c06_o.fits.fz"
VALUES = {
    "exposure": EXPOSURE,
    "nid": 700,
    "field": 600,
    "fid": 1,
    "filtercode": "zg",
    "imgtype": "o",
    "obsjd": 2458454.8,
    "expected": 2,
    "arrival": ARRIVAL,
}


def test_an_exposure_that_was_never_ingested_keeps_its_miss(database):
    exposures.note_late(database.pipeline, EXPOSURE, "not ingested", values=VALUES)
    row = exposures.find(database.reader, EXPOSURE)
    assert (row["late_stage"], row["state"], row["arrival"]) == ("not ingested", "arriving", ARRIVAL)
    assert row["late_noted"] is not None
    exposures.note_late(database.pipeline, EXPOSURE, "processed", values=VALUES)
    assert exposures.find(database.reader, EXPOSURE)["late_stage"] == "not ingested"


def test_what_is_known_of_an_exposure_stays(database):
    with db.transaction(database.pipeline) as cursor:
        exposures.register_exposure(cursor, {**VALUES, "obsjd": 2458454.80001, "expid": 70030001, "programid": 2})
    exposures.note_late(database.pipeline, EXPOSURE, "ingested", values=VALUES)
    row = exposures.find(database.reader, EXPOSURE)
    assert (row["obsjd"], row["expid"], row["programid"]) == (2458454.80001, 70030001, 2)
    assert row["late_stage"] == "ingested"


CALLBACK = """
import asyncio, json, sys
from ztfds_deadline import report_late
for run in json.loads(sys.argv[1]):
    print(asyncio.run(report_late({"dag_run": run, "deadline": {"deadline_time": "07:22"}})))
"""


@pytest.mark.skipif(not find_spec("airflow"), reason="Airflow is not installed (extra 'services')")
def test_the_callback_of_the_deadline_stores_the_miss_of_a_stuck_exposure(database, tmp_path):
    files = [{"name": "notes.txt"}, "by hand", {"name": NAME}]
    runs = [
        {"dag_run_id": EXPOSURE, "conf": {"exposure": EXPOSURE, "arrival": ARRIVAL.isoformat(), "files": files}},
        {"dag_run_id": "unnamed__1", "conf": {"exposure": "unnamed__1", "files": [{"name": "notes.txt"}]}},
        {"dag_run_id": "ztf_20181202400000", "conf": None},
    ]
    places = {"archive": str(tmp_path), "inbox": str(tmp_path), "catalogs": str(tmp_path), "camera": "tiny"}
    uri = database.pipeline.replace("postgresql://", "postgres://")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}",
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW_CONN_ZTFDS_POSTGRES": uri,
        "AIRFLOW_CONN_ZTFDS_ARCHIVE": json.dumps({"conn_type": "generic", "extra": places}),
        "AIRFLOW_CONN_ZTFDS_KAFKA": json.dumps({"conn_type": "generic", "extra": {}}),
    }
    command = [sys.executable, "-c", CALLBACK, json.dumps(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all("stage not ingested" in line for line in done.stdout.splitlines()[-3:]), done.stdout
    (row,) = db.fetch_all(database.reader, "select * from exposures")
    assert (row["exposure"], row["late_stage"], row["arrival"]) == (EXPOSURE, "not ingested", ARRIVAL)
    assert (row["field"], row["filtercode"], row["expected"]) == (600, "zg", 2)
    assert row["obsjd"] == ids.jd_of_filefracday("20181202300000")
