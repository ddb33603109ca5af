"""The watch on a real database: figures, rules, alarms raised once and cleared, people told, pages."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ztfds.config.alarms import AlarmRule, AlarmRules
from ztfds.operations.machine import free_share
from ztfds.operations.pages.alarms import alarms_page, exposition
from ztfds.operations.watch import alarms, metrics, rounds
from ztfds.operations.watch.metrics import Disks, Metric
from ztfds.operations.watch.notify import Notifier
from ztfds.operations.watch.rounds import Watch
from ztfds.registry import database as db
from ztfds.survey.errors import ConfigurationError, ServiceDown

NOW = 1_800_000_000.0


class Listener(http.server.BaseHTTPRequestHandler):
    """A webhook that keeps what it is told."""

    heard: list[dict[str, object]]
    answer = 200

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).answer == 200:
            type(self).heard.append(content)
        self.send_response(type(self).answer)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def webhook() -> Iterator[tuple[str, type[Listener]]]:
    kind = type("One", (Listener,), {"heard": [], "answer": 200})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", kind
    server.shutdown()
    server.server_close()


def watch(database, tmp_path: Path, **more) -> Watch:
    (tmp_path / "inbox").mkdir(exist_ok=True)
    services = more.pop("services", {"kafka": True})
    probes = {name: (lambda up=up: up) for name, up in services.items()}
    return Watch(database.pipeline, {"inbox": tmp_path / "inbox"}, tmp_path / "ztfds.prom", probes, **more)


def open_alarms(database) -> set[tuple[str, str]]:
    return {
        (row["rule"], row["subject"])
        for row in db.fetch_all(database.reader, "select rule, subject from alarms where cleared is null")
    }


def late_exposure(database, state: str = "processing") -> None:
    with db.transaction(database.pipeline) as cursor:
        cursor.execute("select ensure_night(2630)")
        values = {
            "exposure": "ztf_20240315123456", "nid": 2630, "field": 600, "filtercode": "zr", "imgtype": "o", "obsjd": 2460384.6,
            "state": state, "arrival": datetime.now(UTC) - timedelta(minutes=50),
        }  # fmt: skip
        db.insert(cursor, "exposures", values, "on conflict (exposure) do update set state = excluded.state")


def test_an_empty_survey_raises_nothing(database, tmp_path):
    assert watch(database, tmp_path).round(NOW) == []
    assert open_alarms(database) == set()


def test_an_alarm_is_raised_once_goes_on_and_is_cleared(database, tmp_path, webhook):
    url, hook = webhook
    one = watch(database, tmp_path, notifier=Notifier(url))
    late_exposure(database)
    for k in range(12):
        one.round(NOW + 10 * k)
    late = {("queue_growing", ""), ("nothing_arrives", ""), ("deadline_missed", "")}
    assert open_alarms(database) == late
    rows = db.fetch_all(database.reader, "select * from alarms where rule = 'queue_growing'")
    assert len(rows) == 1 and rows[0]["value"] == pytest.approx(3000, abs=60) and rows[0]["told"]
    assert rows[0]["raised"].timestamp() == NOW, "raised when it began, not when it had lasted"
    late_exposure(database, "processed")
    one.round(NOW + 130)
    assert ("queue_growing", "") not in open_alarms(database)
    told = [(entry["rule"], entry["cleared"] is not None) for entry in hook.heard]
    assert told.count(("queue_growing", False)) == told.count(("queue_growing", True)) == 1
    assert all("alarms.md#" in entry["runbook"] for entry in hook.heard)


def test_the_alarm_of_silence_ends_with_the_manifest_of_the_night(database, tmp_path):
    one = watch(database, tmp_path)
    late_exposure(database, "processed")
    for k in range(8):
        one.round(NOW + 10 * k)
    assert ("nothing_arrives", "") in open_alarms(database)
    with db.transaction(database.pipeline) as cursor:
        db.insert(cursor, "manifests", {"nid": 2630, "part": "night", "filename": "m.json", "sha256": "0"})
    one.round(NOW + 90)
    assert ("nothing_arrives", "") not in open_alarms(database)


def test_every_figure_of_a_rule_is_measured_somewhere():
    source = Path(metrics.__file__).read_text().split("_NIGHT = ")[1] + Path(rounds.__file__).read_text()
    assert [rule.name for rule in AlarmRules().rules if rule.metric not in source] == []


def test_a_short_spike_wakes_nobody(database, tmp_path):
    one = watch(database, tmp_path)
    late_exposure(database)
    one.round(NOW)
    late_exposure(database, "processed")
    one.round(NOW + 30)
    late_exposure(database)
    one.round(NOW + 70)
    assert ("queue_growing", "") not in open_alarms(database)


def test_what_cannot_be_told_is_told_later(database, tmp_path, webhook):
    url, hook = webhook
    hook.answer = 500
    one = watch(database, tmp_path, services={"kafka": False}, notifier=Notifier(url))
    for k in range(3):
        one.round(NOW + 10 * k)
    assert hook.heard == [] and ("service_down", "kafka") in open_alarms(database)
    hook.answer = 200
    one.round(NOW + 40)
    assert [entry["subject"] for entry in hook.heard] == ["kafka", "webhook"], "and that nobody could be told before"


def test_without_a_database_people_are_told_directly(database, tmp_path, webhook):
    url, hook = webhook
    one = watch(database, tmp_path, notifier=Notifier(url))
    one.dsn, reachable = "postgresql://nobody@127.0.0.1:9/none?connect_timeout=1", one.dsn
    for k in range(3):
        one.round(NOW + 10 * k)
    assert [entry["text"] for entry in hook.heard] == ["[critical] service_down: postgres does not answer"]
    assert 'ztfds_component_up{subject="postgres"} 0' in (tmp_path / "ztfds.prom").read_text()
    one.dsn = reachable
    one.round(NOW + 40)
    assert open_alarms(database) == set()


def test_a_figure_that_was_not_measured_clears_nothing(database):
    judge = alarms.Judge()
    down = [Metric("ztfds_component_up", 0.0, "kafka")]
    judge.judge(down, NOW)
    alarms.store(database.pipeline, judge.judge(down, NOW + 20), judge, NOW + 20)
    alarms.store(database.pipeline, judge.judge([], NOW + 30), judge, NOW + 30)
    assert open_alarms(database) == {("service_down", "kafka")}


def test_hours_until_a_disk_is_full_follow_its_rate(tmp_path, monkeypatch):
    free = iter([100_000, 90_000, 90_000, 95_000])
    usage = type("Usage", (), {"total": 200_000, "used": 100_000})
    monkeypatch.setattr(metrics.shutil, "disk_usage", lambda _: type("U", (usage,), {"free": next(free)}))
    disks = Disks({"archive": tmp_path})
    hours = [
        next(m.value for m in disks.metrics(NOW + 3600 * k) if m.name == "ztfds_disk_full_hours") for k in range(3)
    ]
    assert hours[0] == 8760.0 and hours[1] == pytest.approx(9.0) and hours[2] == pytest.approx(18.0)


def test_rules_are_changed_with_reason_and_heeded_at_once(database, tmp_path):
    words = "{value:.0f} files wait"
    rule = {"name": "inbox_full", "metric": "ztfds_inbox_files", "above": 1, "hold_s": 0, "words": words}
    line = alarms.amend_rules(database.pipeline, [rule], ["disk_low"], "A. Operator", "tried in the test")
    assert line.startswith("version 1: 1 new or different, 1 dropped")
    one = watch(database, tmp_path)
    for k in range(2):
        (tmp_path / "inbox" / f"f{k}").touch()
    assert [alarm.message for alarm in one.round(NOW)] == ["2 files wait"]
    assert "disk_low" not in {rule.name for rule in one.judge.rules.rules}
    assert open_alarms(database) == {("inbox_full", "")}
    alarms.amend_rules(database.pipeline, [], ["inbox_full"], "A. Operator", "dropped in the test")
    one.round(NOW + 10)
    assert open_alarms(database) == set(), "the alarm of a rule that is gone is over"


@pytest.mark.parametrize(
    ("changed", "dropped", "words"),
    [
        ([{"name": "x", "metric": "m", "words": "no limit"}], [], "exactly|give one of"),
        ([{"name": "x", "metric": "m", "above": 1, "words": "{nothing} known"}], [], "no alarm rules"),
        ([], ["no_such_rule"], "there is no rule"),
        ([], [], "nothing would change"),
        (["text"], [], "an object"),
    ],
)
def test_invalid_rules_change_nothing(database, changed, dropped, words):
    with pytest.raises(ConfigurationError, match=words):
        alarms.amend_rules(database.pipeline, changed, dropped, "A. Operator", "a test of rules")
    assert alarms.rules_in_force(database.reader) == AlarmRules()


def test_every_metric_of_a_rule_is_explained_and_has_a_section_in_the_runbook():
    runbook = (Path(__file__).resolve().parents[2] / alarms.RUNBOOK).read_text()
    for rule in AlarmRules().rules:
        assert rule.metric in metrics.HELP
        assert f"\n## {rule.name}\n" in runbook
        assert len(alarms.runbook()[rule.name]) > 40  # what the page shows beside the alarm


def test_space_that_nobody_may_use_counts_neither_as_used_nor_as_free(tmp_path):
    usage = shutil.disk_usage(tmp_path)
    said = subprocess.run(["df", "--output=pcent", tmp_path], capture_output=True, text=True, check=True).stdout
    assert 100 * (1 - free_share(usage)) == pytest.approx(float(said.split()[1].rstrip("%")), abs=1.1)
    with pytest.raises(ValueError, match="give one of"):
        AlarmRule(name="both", metric="m", above=1, below=0, words="two limits")


def test_the_page_says_when_nobody_watches_and_what_is_wrong(database, tmp_path):
    assert "no round of the watch was ever made" in alarms_page(database.reader)
    one = watch(database, tmp_path, services={"kafka": False})
    one.round(datetime.now(UTC).timestamp() - 20)
    one.round(datetime.now(UTC).timestamp())
    page = alarms_page(database.reader)
    assert "kafka does not answer" in page and "Nobody watches" not in page
    number = db.fetch_one(database.reader, "select alarm_id from alarms")["alarm_id"]
    assert alarms.acknowledge(database.pipeline, number, "A. Operator") and "A. Operator" in alarms_page(
        database.reader
    )
    assert not alarms.acknowledge(database.pipeline, number + 1, "A. Operator")
    text = exposition(database.reader)
    assert 'ztfds_component_up{subject="kafka"} 0\n' in text and "# TYPE ztfds_component_up gauge" in text
    with db.transaction(database.pipeline) as cursor:
        cursor.execute("update watch_rounds set at = now() - interval '1 hour'")
    assert "Nobody watches" in alarms_page(database.reader)


def test_a_mail_server_that_is_away_is_said_so():
    with pytest.raises(ServiceDown, match="nobody could be told"):
        Notifier(mail_to=("a@example.org",), smtp="127.0.0.1:9", timeout_s=1).tell("subject", {})
    assert Notifier().tell("subject", {}) is False


def test_the_dashboard_shows_figures_that_exist():
    board = json.loads((Path(__file__).resolve().parents[2] / "docs/operations/grafana.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(shown) > 10 and all(any(name in expression for name in metrics.HELP) for expression in shown)
