"""The watcher of the inbox: what is complete, what belongs together, what is sent, and what survives a kill."""

from __future__ import annotations

import os
import threading
import time
from contextlib import nullcontext, suppress
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
        self.broken: set[str] = set()
        self.tried: list[str] = []

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any], *, partition_key: str | None = None) -> bool:
        self.tried.append(run_id)
        if self.away or run_id in self.broken:
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


def put_whole(inbox: Path, *exposures: str) -> None:
    """Both files of exposures."""
    for exposure in exposures:
        for ccdid in (6, 7):
            put(inbox, raw_name(ccdid, exposure))


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


def test_calibration_frames_and_their_manifest_go_before_the_sky(watcher: Watcher, airflow: Airflow) -> None:
    names = ("ztf_20261120010000_000000_bi_c{:02d}_b.fits.fz", "ztf_20261120020000_000000_zr_c{:02d}_f.fits.fz")
    put(watcher.inbox, "ztf_20261120_manifest.json", b"{}")
    put(watcher.inbox, "holiday.jpg")
    put_whole(watcher.inbox, "ztf_20261120300000", "ztf_20261120200000")
    put(watcher.inbox, "ztf_20261120_calmanifest.json", b"{}")
    for name in names:
        for ccdid in (6, 7):
            put(watcher.inbox, name.format(ccdid))
    ingestd.sweep(watcher, airflow, time.time())
    first = ["ztf_20261120020000", "ztf_20261120010000", "cal_20261120", "ztf_20261120300000", "ztf_20261120200000"]
    assert airflow.tried[:5] == first
    assert airflow.tried[5].startswith("unnamed__")
    assert airflow.tried[6:] == ["eon_20261120"]


def test_while_airflow_is_away_files_wait_and_are_sent_soon_after(watcher: Watcher, airflow: Airflow) -> None:
    exposures = [f"ztf_202611203{i:05d}" for i in range(8)]
    put_whole(watcher.inbox, *exposures)
    airflow.away = True
    now = time.time()
    for i in range(20):
        with pytest.raises(AirflowDown) if watcher.due(now + 5 * i) else nullcontext():
            ingestd.sweep(watcher, airflow, now + 5 * i)
    assert len(airflow.tried) < 60
    airflow.away = False
    end = now + 100 + ingestd.PAUSES_S[False][1]
    assert ingestd.sweep(watcher, airflow, end) + ingestd.sweep(watcher, airflow, end + 0.5) == 8
    assert set(airflow.created) == set(exposures)


def test_the_first_success_ends_the_pauses_of_an_interruption(watcher: Watcher, airflow: Airflow) -> None:
    put_whole(watcher.inbox, "ztf_20261120100000")
    airflow.away = True
    now = time.time()
    for moment in (now, now + 1, now + 3):
        with pytest.raises(AirflowDown):
            ingestd.sweep(watcher, airflow, moment)
    airflow.away = False
    assert ingestd.sweep(watcher, airflow, now + 4) == 0  # its next try would be at 7 s
    put_whole(watcher.inbox, "ztf_20261120200000")
    assert ingestd.sweep(watcher, airflow, now + 4.5) == 1
    assert ingestd.sweep(watcher, airflow, now + 5) == 1
    assert sorted(airflow.created) == ["ztf_20261120100000", "ztf_20261120200000"]


def test_a_group_that_always_fails_does_not_hold_up_the_others(watcher: Watcher, airflow: Airflow) -> None:
    broken = [f"ztf_2026112090000{i}" for i in range(4)]  # before the others in the order of sending
    put_whole(watcher.inbox, *broken, EXPOSURE)
    put(watcher.inbox, "ztf_20261120_manifest.json", b"{}")
    airflow.broken.update(broken)
    now = time.time()
    with pytest.raises(AirflowDown):
        ingestd.sweep(watcher, airflow, now)
    with pytest.raises(AirflowDown):
        ingestd.sweep(watcher, airflow, now + 0.5)
    assert set(airflow.created) == {EXPOSURE, "eon_20261120"}
    airflow.tried.clear()
    put_whole(watcher.inbox, "ztf_20261120100000")
    with pytest.raises(AirflowDown):
        ingestd.sweep(watcher, airflow, now + 60)
    assert airflow.tried[0] == "ztf_20261120100000"  # before those that failed
    airflow.broken.clear()
    assert sum(ingestd.sweep(watcher, airflow, now + 120 + i) for i in range(2)) == 4


def test_a_broken_group_is_tried_less_and_less(watcher: Watcher, airflow: Airflow) -> None:
    put_whole(watcher.inbox, EXPOSURE)
    airflow.broken.add(EXPOSURE)
    now, tries = time.time(), []
    for second in range(200):
        with suppress(AirflowDown):
            ingestd.sweep(watcher, airflow, now + second)
        if len(airflow.tried) > len(tries):
            tries.append(second)
    assert tries == [0, 1, 3, 7, 15, 31, 61, 91, 121, 151, 181]


def test_a_refused_group_is_kept_and_tried_again_later(
    watcher: Watcher, airflow: Airflow, caplog: pytest.LogCaptureFixture
) -> None:
    put_whole(watcher.inbox, EXPOSURE, "ztf_20261120900000")
    put(watcher.inbox, "ztf_20261120_manifest.json", b"{}")
    airflow.refused.update({EXPOSURE, "ztf_20261120900000"})
    now = time.time()
    assert ingestd.sweep(watcher, airflow, now) == 1
    assert list(airflow.created) == ["eon_20261120"]
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1 and "refused groups=2" in lines[0]
    airflow.refused.clear()
    assert ingestd.sweep(watcher, airflow, now + 29) == 0
    assert ingestd.sweep(watcher, airflow, now + 31) == 2


class LockedOut(Airflow):
    """The account is refused, whatever is asked."""

    locked = True

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any], *, partition_key: str | None = None) -> bool:
        if self.locked:
            self.tried.append(run_id)
            raise ConfigurationError("Airflow refuses the account 'ingestd' (401)")
        return super().trigger(dag_id, run_id, conf, partition_key=partition_key)


def test_a_refused_log_in_marks_nothing_as_sent_and_is_not_asked_for_every_group(watcher: Watcher) -> None:
    airflow, now = LockedOut(), time.time()
    put_whole(watcher.inbox, *(f"ztf_202611203{i:05d}" for i in range(10)))
    ingestd.sweep(watcher, airflow, now)
    assert len(airflow.tried) == ingestd.IN_A_ROW
    assert watcher.sent == set()
    airflow.locked = False
    ingestd.sweep(watcher, airflow, now + 1)
    ingestd.sweep(watcher, airflow, now + 40)
    assert len(airflow.created) == 10


@pytest.mark.parametrize(
    "conf",
    [None, {}, {"files": None}, {"files": "all"}, {"files": [raw_name(6)]}, {"files": [{"name": raw_name(6)}]}]
    + [{"files": [{"name": [], "bytes": {}, "mtime_ns": 0, "ctime_ns": 0}]}, ["files"]],
)
def test_a_run_made_by_hand_stands_in_for_nothing(watcher: Watcher, airflow: Airflow, conf: Any) -> None:
    airflow.created[EXPOSURE] = {"dag_id": "exposure", "dag_run_id": EXPOSURE, "conf": conf}
    put_whole(watcher.inbox, EXPOSURE)
    assert ingestd.sweep(watcher, airflow, time.time()) == 1
    (made,) = (run for name, run in airflow.created.items() if name.startswith(f"{EXPOSURE}__"))
    assert names(made) == [raw_name(6), raw_name(7)]


def test_an_answer_in_another_form_does_not_end_the_watcher(watcher: Watcher, airflow: Airflow) -> None:
    airflow.created[EXPOSURE] = {"dag_id": "exposure", "dag_run_id": EXPOSURE, "conf": {}}
    airflow.runs = lambda dag_id, prefix: [None]  # type: ignore[method-assign, list-item, return-value]
    put_whole(watcher.inbox, EXPOSURE, "ztf_20261120100000")
    assert ingestd.sweep(watcher, airflow, time.time()) == 1
    assert {entry.name for entry in watcher.sent} == {raw_name(c, "ztf_20261120100000") for c in (6, 7)}


def test_a_manifest_is_triggered_once_for_each_copy_that_arrives(watcher: Watcher, airflow: Airflow) -> None:
    manifest, now = "ztf_20261120_manifest.json", time.time()
    put(watcher.inbox, manifest, b"damaged")
    for moment in (now, now + 1, now + 100):
        ingestd.sweep(watcher, airflow, moment)
    successor = Watcher(watcher.inbox, expected=2)
    assert ingestd.sweep(successor, airflow, now + 200) == 0  # still there, because its run was killed
    (watcher.inbox / manifest).unlink()  # into quarantine
    assert ingestd.sweep(successor, airflow, now + 201) == 0
    put(watcher.inbox, manifest, b"whole")
    assert [ingestd.sweep(successor, airflow, now + 202 + i) for i in range(3)] == [1, 0, 0]
    assert len(airflow.created) == 2


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
