"""Nights that no manifest closes: the silent ones, and those that have changed since their report."""

import threading

import pytest
from tiny import deliver

from ztfds.config.alarms import AlarmRules
from ztfds.config.closing import ClosingConfig
from ztfds.formats.manifests import ManifestFile
from ztfds.operations import afternoon, closing
from ztfds.operations.accountability import account
from ztfds.operations.receive import receive
from ztfds.operations.report import write_report
from ztfds.operations.watch import metrics
from ztfds.operations.watch.alarms import Judge
from ztfds.registry import database as db
from ztfds.simulator.faults import listed
from ztfds.simulator.night import write_manifest
from ztfds.survey import ids

SETTINGS = ClosingConfig(silent_s=3600.0, late_s=600.0, look_s=0.01)


class Runs:
    """Keeps the runs that were asked for, as Airflow does: a name exists once."""

    def __init__(self, state="success"):
        self.made, self.state = {}, state

    def trigger(self, dag_id, run_id, conf, *, partition_key=None):
        new = (dag_id, run_id) not in self.made
        self.made.setdefault((dag_id, run_id), conf)
        return new

    def runs(self, dag_id, prefix):
        return [
            {"dag_run_id": run, "state": self.state}
            for dag, run in self.made
            if dag == dag_id and run.startswith(prefix)
        ]


@pytest.fixture
def night(mountain):
    return mountain.plan.dates[0]


def arrive(context, mountain, index):
    """The files of one exposure are received."""
    for name in deliver(context, *mountain.files(index)):
        receive(context, name, None)


def passes(context, hours):
    """Everything happened so much earlier."""
    with db.transaction(context.dsn) as cursor:
        back = f"- interval '{hours} hours'"
        cursor.execute(f"update receipts set created = created {back}")
        cursor.execute(f"update ccdfiles set ingested = ingested {back}, processed = processed {back}")
        cursor.execute(f"update products set created = created {back}")


def announce(context, mountain, indices):
    """The manifest of the night comes."""
    entries = [listed(path) for index in indices for path in mountain.files(index)]
    afternoon.receive_manifest(context, write_manifest(context.inbox, mountain.plan, 0, "night", entries).name)


def test_a_night_without_a_manifest_is_closed_after_its_silence_once(context, mountain, night):
    arrive(context, mountain, mountain.of_kind("o", 0)[0])
    runs = Runs()
    closer = closing.Closer(context.dsn, runs, lambda: SETTINGS)
    assert closer.round() == 0, "files may still come"
    passes(context, 2)
    assert closer.round() == 1 and closer.round() == 0
    (((dag, run), conf),) = runs.made.items()
    assert (dag, conf["night"], conf["manifest"], conf["files"]) == ("end_of_night", night, "", [])
    assert run.startswith(f"eon_{night}__") and "2 files are here" in conf["reason"]


def test_a_night_is_not_closed_beside_a_run_that_is_at_work(context, mountain, night):
    arrive(context, mountain, mountain.of_kind("o", 0)[0])
    passes(context, 2)
    runs = Runs("running")
    runs.trigger("end_of_night", f"eon_{night}", {})
    closer = closing.Closer(context.dsn, runs, lambda: SETTINGS)
    assert closer.round() == 0, "its manifest is here, and has not been registered yet"
    runs.state = "failed"
    assert closer.round() == 1


def test_a_night_whose_manifest_is_here_is_left_to_its_run(context, mountain, night):
    (first, *_) = mountain.of_kind("o", 0)
    arrive(context, mountain, first)
    announce(context, mountain, [first])
    passes(context, 2)
    assert closing.unclosed(context.dsn, SETTINGS) == []


def test_a_night_that_changed_after_its_report_is_reported_again(context, mountain, night):
    first, second = mountain.of_kind("o", 0)[:2]
    announce(context, mountain, [first, second])
    arrive(context, mountain, first)
    write_report(context, ids.nid_of_date(night))
    passes(context, 2)
    assert closing.unclosed(context.dsn, SETTINGS) == [], "nothing has changed"
    arrive(context, mountain, second)
    assert closing.unclosed(context.dsn, SETTINGS) == [], "more may come"
    with db.transaction(context.dsn) as cursor:
        cursor.execute("update receipts set created = created - interval '1 hour'")
        cursor.execute("update ccdfiles set ingested = ingested - interval '1 hour'")
    (due,) = closing.unclosed(context.dsn, SETTINGS)
    assert due.night == night and "changed since its report" in due.reason
    write_report(context, ids.nid_of_date(night))
    assert closing.unclosed(context.dsn, SETTINGS) == []


def test_nothing_is_closed_during_a_downtime(context, mountain):
    arrive(context, mountain, mountain.of_kind("o", 0)[0])
    passes(context, 2)
    assert closing.Closer(context.dsn, Runs(), lambda: SETTINGS, held=lambda: True).round() == 0


def test_the_thread_outlives_a_database_that_is_away(mountain):
    stopped, looked = threading.Event(), []

    def settings():
        looked.append(1)
        if len(looked) > 3:
            stopped.set()
        return SETTINGS

    closer = closing.Closer("host=127.0.0.1 port=1 dbname=none user=none", Runs(), settings)
    thread = threading.Thread(target=closer.run, args=(stopped, 0.01))
    thread.start()
    thread.join(30.0)
    assert not thread.is_alive() and len(looked) > 3


def test_the_account_of_a_night_without_a_manifest_counts_what_came(context, mountain, night):
    first, second = mountain.of_kind("o", 0)[:2]
    arrive(context, mountain, first)
    arrive(context, mountain, second)
    result = account(context, ids.nid_of_date(night))
    assert (result.announced, result.sent, result.received, result.ingested, result.archived) == (False, 0, 4, 4, 4)
    assert (result.processed, result.lost, result.states) == (0, 0, {"ingested": 4})
    assert result.differences[0] == "the manifest of the night has not come: 4 files are here that no manifest names"
    assert len(result.differences) == 5, "and each of them is unfinished"
    announce(context, mountain, [first])
    after = account(context, ids.nid_of_date(night))
    assert (after.announced, after.sent, after.received) == (True, 2, 2)
    assert sum("is in no manifest" in line for line in after.differences) == 2


def test_the_report_says_that_the_manifest_is_missing_and_an_alarm_is_raised_until_it_comes(context, mountain, night):
    (first, *_) = mountain.of_kind("o", 0)
    arrive(context, mountain, first)
    text = write_report(context, ids.nid_of_date(night)).with_suffix(".txt").read_text()
    assert text.splitlines()[0].endswith("manifest missing, 2 files here; 3 lines to look at")

    def raised():
        found = Judge(AlarmRules()).judge(metrics.from_database(context.dsn), 1e9)
        return [alarm.message for alarm in found if alarm.rule == "manifest_missing"]

    assert raised() == ["1 nights were reported without their manifest"]
    announce(context, mountain, [first])
    assert raised() == []


def test_a_cloudy_nights_empty_manifest_is_a_manifest(context, mountain, night):
    write_manifest(context.inbox, mountain.plan, 0, "night", list[ManifestFile]())
    afternoon.receive_manifest(context, f"ztf_{night}_manifest.json")
    result = account(context, ids.nid_of_date(night))
    assert (result.announced, result.sent, result.differences) == (True, 0, [])


def test_patience_begins_with_the_run_where_no_manifest_has_come(context, mountain, night):
    (first, *_) = mountain.of_kind("o", 0)
    arrive(context, mountain, first)
    assert not afternoon.settled(context, night, 1000.0, since="2100-01-01T00:00:00+00:00")
    assert afternoon.settled(context, night, 1000.0, since="2020-01-01T00:00:00+00:00")
    assert not afternoon.settled(context, night, 1000.0)
