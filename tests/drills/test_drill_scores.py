"""Faults on request, and the keeping of scores; the drills themselves are run in `tests/night`."""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path

import pytest

from ztfds.drills.contingencies import CONTINGENCIES
from ztfds.drills.names import TITLES
from ztfds.drills.run import chosen, keep, kept, record, table
from ztfds.drills.score import DrillScore
from ztfds.operations.pages.drills import drills_page
from ztfds.registry import database as db
from ztfds.registry.faults import FileFaults
from ztfds.survey.errors import ConfigurationError, FilesMissing


def rules(path: Path, *entries: dict[str, object]) -> FileFaults:
    path.write_text(json.dumps(entries))
    return FileFaults(path)


def test_without_a_file_or_with_a_damaged_one_nothing_happens(tmp_path):
    FileFaults(tmp_path / "absent.json")("science:computed")
    path = tmp_path / "faults.json"
    path.write_text("[{")
    FileFaults(path)("science:computed")


def test_a_full_store_is_full_at_its_point_only(tmp_path):
    fault = rules(tmp_path / "faults.json", {"at": "science:before_*", "do": "full"})
    fault("difference:before_write")
    with pytest.raises(OSError, match="No space left"):
        fault("science:before_write")


def test_what_kills_once_kills_one_process(tmp_path):
    fault = rules(tmp_path / "faults.json", {"at": "*:moved", "do": "kill", "once": "k"})
    children = [multiprocessing.get_context("fork").Process(target=fault, args=("science:moved",)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(20)
    assert sorted(child.exitcode for child in children) == [-signal.SIGKILL, 0, 0, 0]


def test_every_contingency_has_a_name_and_a_function():
    assert [contingency.name for contingency in CONTINGENCIES] == list(TITLES)
    assert [contingency.name for contingency in chosen(["store_full"])] == ["store_full"]
    with pytest.raises(ConfigurationError, match="earthquake"):
        chosen(["earthquake"])


def test_scores_are_kept_once_and_shown(database, tmp_path):
    good = DrillScore("broker_down", "Kafka down", "20240312", files=8, alerts=90, recovery_s=12.0)
    bad = DrillScore("store_full", "archive store full", "20240313", files=8, files_lost=1, problems=["1 files lost"])
    keep(tmp_path, [good, bad])
    for name in ("broker_down", "store_full", "store_full"):
        line = record(database.pipeline, kept(tmp_path, name))
    assert "failed: 1 files lost" in line
    assert [row["passed"] for row in db.fetch_all(database.reader, "select passed from drills order by name")] == [
        True,
        False,
    ]
    page = drills_page(database.reader)
    assert page.index("1 files lost") < page.index("survived"), "what failed comes first"
    assert any("FAILED" in row for row in table([good, bad]))
    with pytest.raises(FilesMissing):
        kept(tmp_path, "night_resent")
