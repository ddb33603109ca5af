"""The watcher of the inbox: what is complete, what belongs together, what is sent, and what survives a kill."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ztfds.operations import ingestd
from ztfds.operations.ingestd import Watcher
from ztfds.operations.services.rest import AirflowDown
from ztfds.survey.errors import ConfigurationError

EXPOSURE = "ztf_20261120123456"


class Airflow:
    """What Airflow promises about runs: a name can be used once, and runs can be listed by the beginning of it."""

    def __init__(self) -> None:
        self.created: dict[str, dict[str, Any]] = {}
        self.away = False
        self.refused: set[str] = set()

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any], *, partition_key: str | None = None) -> bool:
        if self.away:
            raise AirflowDown("away")
        if run_id in self.refused:
            raise ConfigurationError("refused")
        if run_id in self.created:
            return False
        self.created[run_id] = {"dag_id": dag_id, "dag_run_id": run_id, "conf": conf, "partition_key": partition_key}
        return True

    def runs(self, dag_id: str, prefix: str) -> list[dict[str, Any]]:
        return [run for name, run in self.created.items() if name.startswith(prefix) and run["dag_id"] == dag_id]


def put(inbox: Path, name: str, content: bytes = b"pixels") -> Path:
    """Write a file as the mountain does: under a temporary name, then renamed."""
    partial = inbox / f"{name}.part"
    partial.write_bytes(content)
    os.utime(partial, (time.time() - 5, time.time() - 5))
    return partial.rename(inbox / name)


def raw_name(ccdid: int, exposure: str = EXPOSURE) -> str:
    return f"{exposure}_000601_zr_c{ccdid:02d}_o.fits.fz"


def names(run: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in run["conf"]["files"]]


@pytest.fixture
def airflow() -> Airflow:
    return Airflow()


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    return Watcher(tmp_path, expected=2, patience_s=30.0)


def test_a_whole_exposure_is_sent_once(watcher: Watcher, airflow: Airflow) -> None:
    for ccdid in (6, 7):
        put(watcher.inbox, raw_name(ccdid))
    assert ingestd.sweep(watcher, airflow, time.time()) == 1
    assert ingestd.sweep(watcher, airflow, time.time()) == 0
    run = airflow.created[EXPOSURE]
    assert names(run) == [raw_name(6), raw_name(7)]
    assert (run["dag_id"], run["partition_key"], run["conf"]["exposure"]) == ("exposure", EXPOSURE, EXPOSURE)
    assert run["conf"]["arrival"].endswith("+00:00")


def test_an_incomplete_exposure_waits_for_its_patience_and_the_late_file_gets_a_run_of_its_own(
    watcher: Watcher, airflow: Airflow
) -> None:
    put(watcher.inbox, raw_name(6))
    now = time.time()
    assert ingestd.sweep(watcher, airflow, now) == 0
    assert ingestd.sweep(watcher, airflow, now + 31) == 1
    put(watcher.inbox, raw_name(7))
    assert ingestd.sweep(watcher, airflow, now + 32) == 1
    late = next(run for name, run in airflow.created.items() if name.startswith(f"{EXPOSURE}__"))
    assert names(late) == [raw_name(7)]
    assert late["partition_key"] == EXPOSURE


def test_nothing_is_lost_or_doubled_when_the_watcher_is_killed(watcher: Watcher, airflow: Airflow) -> None:
    put(watcher.inbox, raw_name(6))
    ingestd.sweep(watcher, airflow, time.time() + 31)
    put(watcher.inbox, raw_name(7))  # arrives while nobody watches; the first file is still being worked on
    successor = Watcher(watcher.inbox, expected=2)
    assert ingestd.sweep(successor, airflow, time.time()) == 1
    assert ingestd.sweep(Watcher(watcher.inbox, expected=2), airflow, time.time()) == 0
    assert sorted(name for run in airflow.created.values() for name in names(run)) == [raw_name(6), raw_name(7)]


def test_a_second_copy_under_the_same_name_is_sent_again(watcher: Watcher, airflow: Airflow) -> None:
    for ccdid in (6, 7):
        put(watcher.inbox, raw_name(ccdid))
    ingestd.sweep(watcher, airflow, time.time())
    (watcher.inbox / raw_name(6)).unlink()  # moved to the archive
    ingestd.sweep(watcher, airflow, time.time())
    put(watcher.inbox, raw_name(6))
    assert ingestd.sweep(watcher, airflow, time.time()) == 1
    assert len(airflow.created) == 2


def test_unfinished_files_are_left_alone(watcher: Watcher, airflow: Airflow) -> None:
    now = time.time()
    (watcher.inbox / f"{raw_name(6)}.part").write_bytes(b"half")
    (watcher.inbox / f".{raw_name(7)}.Xy3").write_bytes(b"half")
    growing = watcher.inbox / "notes.txt"
    growing.write_bytes(b"written in place")
    assert watcher.scan(now) == []
    assert [entry.name for entry in watcher.scan(now + 3)] == ["notes.txt"]


def test_files_with_other_names_are_sent_too(watcher: Watcher, airflow: Airflow) -> None:
    put(watcher.inbox, "holiday.jpg")
    assert ingestd.sweep(watcher, airflow, time.time()) == 1
    (name,) = airflow.created
    assert name.startswith("unnamed__")
    assert names(airflow.created[name]) == ["holiday.jpg"]


def test_manifests_start_the_calibration_and_the_end_of_the_night(watcher: Watcher, airflow: Airflow) -> None:
    put(watcher.inbox, "ztf_20261120_calmanifest.json", b"{}")
    put(watcher.inbox, "ztf_20261120_manifest.json", b"{}")
    ingestd.sweep(watcher, airflow, time.time())
    assert {(run["dag_id"], name) for name, run in airflow.created.items()} == {
        ("calibration", "cal_20261120"),
        ("end_of_night", "eon_20261120"),
    }
    assert airflow.created["eon_20261120"]["conf"]["manifest"] == "ztf_20261120_manifest.json"
    assert airflow.created["eon_20261120"]["conf"]["night"] == "20261120"
    put(watcher.inbox, "ztf_20261120_manifest.json", b'{"corrected": true}')
    ingestd.sweep(watcher, airflow, time.time())
    assert len([name for name in airflow.created if name.startswith("eon_20261120__")]) == 1


def test_the_newest_exposure_goes_first_and_manifests_last(watcher: Watcher, airflow: Airflow) -> None:
    put(watcher.inbox, "ztf_20261120_manifest.json", b"{}")
    stamps = ["ztf_20261120100000", "ztf_20261120300000", "ztf_20261120200000"]
    for stamp in stamps:
        for ccdid in (6, 7):
            put(watcher.inbox, raw_name(ccdid, stamp))
    ingestd.sweep(watcher, airflow, time.time())
    assert list(airflow.created) == [stamps[1], stamps[2], stamps[0], "eon_20261120"]


def test_while_airflow_is_away_files_wait(watcher: Watcher, airflow: Airflow) -> None:
    for ccdid in (6, 7):
        put(watcher.inbox, raw_name(ccdid))
    airflow.away = True
    with pytest.raises(AirflowDown):
        ingestd.sweep(watcher, airflow, time.time())
    airflow.away = False
    assert ingestd.sweep(watcher, airflow, time.time()) == 1


def test_a_refused_run_does_not_hold_up_the_others(watcher: Watcher, airflow: Airflow) -> None:
    for ccdid in (6, 7):
        put(watcher.inbox, raw_name(ccdid))
    put(watcher.inbox, "ztf_20261120_manifest.json", b"{}")
    airflow.refused.add(EXPOSURE)
    assert ingestd.sweep(watcher, airflow, time.time()) == 1
    assert list(airflow.created) == ["eon_20261120"]


def test_watching_ends_when_told(watcher: Watcher, airflow: Airflow) -> None:
    stopped = threading.Event()
    thread = threading.Thread(target=ingestd.watch, args=(watcher, airflow, stopped, 0.01))
    thread.start()
    for ccdid in (6, 7):
        put(watcher.inbox, raw_name(ccdid))
    end = time.monotonic() + 20
    while EXPOSURE not in airflow.created and time.monotonic() < end:
        time.sleep(0.01)
    stopped.set()
    thread.join(20)
    assert not thread.is_alive()
    assert EXPOSURE in airflow.created
