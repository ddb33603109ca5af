"""The DAG files: they parse, quickly and without the library; every task has its pool, queue, weight and retries."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ztfds.config.triggers import TriggerRules
from ztfds.drills.names import TITLES
from ztfds.operations.services import airflow, state

pytestmark = pytest.mark.skipif(not find_spec("airflow"), reason="Airflow is not installed (extra 'services')")

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "dags").glob("*.py"))
WEIGHTS = {work.dag: work.weight for work in TriggerRules().works}
"""What the files say where the trigger rules cannot be read: the same as the rules with which a survey begins."""
REALTIME = ("exposure", "calibration", "end_of_night")
DAY_WEIGHT = 50
"""Every other DAG is a day task: it has a pool of its own and takes no core from the pipelines."""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow finds in the DAG files."""
    home = state.load_or_create(tmp_path_factory.mktemp("airflow") / "var")
    nobody = "postgresql://nobody@127.0.0.1/none"
    dsns = {"airflow": f"sqlite:///{home.home}/airflow.db", "ztf_pipeline": nobody, "ztf_reader": nobody}
    environment = airflow.environment(home, dsns)
    script = Path(__file__).with_name("parse_dags.py")
    command = [sys.executable, str(script), str(ROOT / "dags")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_file_parses_and_holds_the_dag_of_its_name(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    dags, files = set(parsed["dags"]), {file.stem for file in FILES}
    assert dags >= airflow.DAGS
    assert files - {"drill"} <= dags, "each file holds the DAG of its name; drill.py one for each contingency"
    assert dags - files == {f"drill_{name}" for name in TITLES}


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert parsed["heavy"] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_dag_file_is_one_screen_and_imports_airflow_and_its_helpers_only(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 75
    imported = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    allowed = {"datetime", "airflow.sdk", "ztfds_tasks", "ztfds_deadline", "ztfds_approval", "ztfds.drills.names"}
    operators = {f"airflow.providers.standard.operators.{name}" for name in ("trigger_dagrun", "hitl")}
    assert imported - allowed <= operators


def test_every_task_has_pool_queue_and_the_weight_of_the_rules(parsed: dict[str, Any]) -> None:
    for dag_id, dag in parsed["dags"].items():
        for task_id, task in dag["tasks"].items():
            where = f"{dag_id}.{task_id}"
            light = dag_id == "exposure" and task_id in ("received", "close")  # alerts that are ready wait for no core
            light = light or dag_id in (
                "downtime",
                "trigger_rules",
                "telemetry",
            )  # nor does whoever has to steer the work
            light = light or (dag_id == "end_of_night" and task_id != "alerts")  # nor the report for the references
            pool = airflow.LIGHT_POOL if light else airflow.POOL if dag_id in WEIGHTS else airflow.DAY_POOL
            assert task["pool"] == pool, where
            assert task["weight"] == WEIGHTS[dag_id] if dag_id in WEIGHTS else DAY_WEIGHT <= task["weight"] < 100, where
            assert task["rule"] == "ztfds_priority.ByRules", where
            assert task["queue"] == ("realtime" if dag_id in REALTIME else "bulk"), where
            assert task["policy"] == "ByConsequence", where


def test_the_exposure_is_mapped_by_ccd_closed_in_any_case_and_has_a_deadline(parsed: dict[str, Any]) -> None:
    dag = parsed["dags"]["exposure"]
    assert dag["tasks"]["received"]["downstream"] == ["process_ccd"]
    assert dag["tasks"]["process_ccd"]["mapped"]
    assert dag["tasks"]["process_ccd"]["downstream"] == ["close"]
    assert dag["tasks"]["close"]["trigger_rule"] == "all_done"
    assert sorted(dag["deadlines"]) == [0.0, 300.0], (
        "the reference of the first counts as the trigger rules say; the goal is fixed"
    )


def test_the_night_is_reported_and_accounted_for_after_everything_has_settled(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["end_of_night"]["tasks"]
    assert tasks["manifest"]["downstream"] == ["settled"]
    assert tasks["settled"]["downstream"] == ["alerts", "following", "report"]
    assert tasks["report"]["downstream"] == ["account", "send"]


def test_waiting_holds_no_slot(parsed: dict[str, Any]) -> None:
    waiting = {
        task_id: task for dag in parsed["dags"].values() for task_id, task in dag["tasks"].items() if task["mode"]
    }
    assert set(waiting) == {"frames", "settled", "drained"}
    assert {task["mode"] for task in waiting.values()} == {"reschedule"}


def test_people_may_take_their_time_to_answer(parsed: dict[str, Any]) -> None:
    asked = {
        dag_id: task["answer_within"]
        for dag_id, dag in parsed["dags"].items()
        for task in dag["tasks"].values()
        if task["answer_within"] != "nobody is asked"
    }
    assert asked == dict.fromkeys(("change_request", "reprocess", "retire_reference"), "None")


RETRIES = """
from ztfds_tasks import ByConsequence
from ztfds.survey import errors
policy = ByConsequence()
for error in (errors.DatabaseDown("x"), errors.CalibrationMissing("x"), errors.TruncatedFile("x"), errors.ConfigurationError("x"),
              ValueError("x")):
    print(type(error).__name__, policy.evaluate(error, 1, 10).action.value)
print("third", policy.evaluate(ValueError("x"), 3, 10).action.value)
print([policy.evaluate(errors.DatabaseDown("x"), n, 10).retry_delay.total_seconds() for n in (1, 2, 3, 9)])
"""


def test_retries_follow_the_class_of_the_error() -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}
    command = [sys.executable, "-c", RETRIES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-7:] == [
        "DatabaseDown retry",
        "CalibrationMissing retry",
        "TruncatedFile fail",
        "ConfigurationError fail",
        "ValueError default",
        "third fail",
        "[10.0, 20.0, 40.0, 600.0]",
    ]


def test_day_tasks_have_a_deadline_a_time_and_run_once_at_a_time(parsed: dict[str, Any]) -> None:
    daily = ("backup", "cleanup", "coverage", "database_care", "health", "night_files", "readiness")
    for dag_id in daily:
        dag = parsed["dags"][dag_id]
        assert dag["timetable"] == "CronTriggerTimetable" and len(dag["deadlines"]) == 1, dag_id
        assert 600 <= dag["deadlines"][0] <= 14 * 3600, dag_id
    assert parsed["dags"]["backup"]["tasks"]["back_up"]["downstream"] == ["prove"]
    assert parsed["dags"]["downtime"]["tasks"]["announce"]["downstream"] == ["drained"]
