"""Trigger rules on a real database and a real inbox: what is refused, what is kept, and who heeds a change."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from ztfds.config.triggers import EVENTS, Trigger, TriggerRules
from ztfds.operations.control import triggers
from ztfds.operations.control.triggers import Source, change_in_words, proposed, rules_in_force
from ztfds.operations.ingestd import Watcher
from ztfds.operations.pages.rules import rules_page
from ztfds.registry import database as db
from ztfds.survey.errors import ConfigurationError

WHO = {"author": "Ada", "reason": "a clear night"}
NOBODY = "postgresql://nobody@127.0.0.1:1/none"


def arrive(inbox: Path, *names: str) -> None:
    for name in names:
        partial = inbox / f"{name}.part"
        partial.write_bytes(b"x")
        os.utime(partial, (time.time() - 5, time.time() - 5))
        partial.rename(inbox / name)


def order_of(watcher: Watcher) -> list[str]:
    return [key[1] for key, _ in watcher.due(time.time())]


def test_every_event_is_a_word_of_the_rules_and_the_shipped_rules_follow_the_declared_order():
    assert set(Trigger.model_json_schema()["properties"]["event"]["enum"]) == {event.name for event in EVENTS}
    assert triggers.doubts(TriggerRules()) == []
    weights = [TriggerRules().work(dag).weight for dag in triggers.EXPECTED]
    assert weights == sorted(weights, reverse=True) and len(set(weights)) == len(weights)


def test_without_any_version_the_shipped_rules_are_in_force(database):
    assert rules_in_force(database.reader) == TriggerRules()
    assert "As shipped" in rules_page(database.reader)


def test_a_change_is_a_version_with_its_differences_and_can_be_taken_back(database):
    form = {
        "works": [{"dag": "reference", "weight": 1200}],
        "triggers": [{"name": "sky", "newest_first": False}],
        **WHO,
    }
    looked = change_in_words(database.pipeline, {**form, "only_look": True})
    assert rules_in_force(database.reader) == TriggerRules(), "a look changes nothing"
    done = change_in_words(database.pipeline, form)
    assert looked.figures["differences"] == done.figures["differences"]
    assert done.state == "warn" and "reference comes before calibration" in done.line
    assert "sky: newest_first True → False" in done.line and "work reference: weight 300 → 1200" in done.line
    rules = rules_in_force(database.reader)
    assert rules.work("reference").weight == 1200 and not rules.of("sky_exposure").newest_first
    assert rules.of("sky_exposure").order == 20, "what is not named stays"
    back = change_in_words(database.pipeline, {"version": -1, **WHO})
    assert back.state == "ok" and rules_in_force(database.reader) == TriggerRules()
    first = back.figures["version"] - 1
    change_in_words(database.pipeline, {"version": first, **WHO})
    assert rules_in_force(database.reader) == rules
    shown = rules_page(database.reader)
    assert "weight 300 → 1200" in shown and "a clear night" in shown and "reference comes before calibration" in shown


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"works": [{"dag": "reference", "weight": 0}]}, "greater than or equal to 1"),
        ({"works": [{"dag": "reference", "wait": 1}]}, "Extra inputs"),
        ({"triggers": [{"name": "more", "event": "sky_exposure", "dag": "exposure"}]}, "exactly one rule, there are 2"),
        ({"triggers": [{"name": "sky", "dag": "nowhere"}]}, "no weight is given for nowhere"),
        ({"triggers": [{"name": "sky", "event": "comet"}]}, "event"),
        ({"triggers": [{"enabled": False}]}, "an object with its name"),
        ({"drop": ["sky"]}, "sky_exposure needs exactly one rule"),
        ({"drop": ["nothing"]}, "there is no rule nothing"),
        ({"version": 99}, "there is no version 99"),
        ({"works": [{"dag": "reference", "weight": 300}]}, "nothing would change"),
        ({"works": [{"dag": "reference", "weight": 301}], "reason": " "}, "author and a reason"),
    ],
)
def test_what_is_not_a_set_of_rules_changes_nothing(database, form, words):
    with pytest.raises(ConfigurationError, match=words):
        change_in_words(database.pipeline, {**WHO, **form})
    assert db.fetch_all(database.reader, "select 1 from trigger_rules") == []


def test_the_watcher_of_the_inbox_heeds_a_change_without_a_restart(database, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    source = Source(database.reader, tmp_path / triggers.FILE, keeps=True)
    watcher = Watcher(inbox, expected=1, rules=source)
    sky = [f"ztf_20261120{k}000_000601_zr_c06_o.fits.fz" for k in (121, 122, 123)]
    arrive(inbox, *sky, "ztf_20261120120000_000000_bi_c06_b.fits.fz", "ztf_20261120_manifest.json", "strange")
    nights = [f"ztf_20261120{k}000" for k in (121, 122, 123)]
    assert order_of(watcher)[:4] == ["ztf_20261120120000", *reversed(nights)]
    changed = [
        {"name": "sky", "order": 0, "newest_first": False},
        {"name": "calibration_frames", "order": 20},
        {"name": "others", "enabled": False},
        {"name": "end_of_night", "dag": "my_night"},
    ]
    change_in_words(database.pipeline, {"triggers": changed, "works": [{"dag": "my_night", "weight": 1}], **WHO})
    source.next_look = 0.0
    assert order_of(watcher) == [*nights, "ztf_20261120120000", "eon_20261120"], "what is switched off waits"
    assert watcher.due(time.time())[-1][0][0] == "my_night"
    assert (inbox / "strange").exists()
    change_in_words(database.pipeline, {"version": -1, **WHO})
    source.next_look = 0.0
    assert len(order_of(watcher)) == 6


def test_the_patience_of_a_rule_counts_before_that_of_the_services(tmp_path):
    rules = TriggerRules()
    quick = [rule.model_copy(update={"patience_s": 0.0}) if rule.name == "sky" else rule for rule in rules.triggers]
    arrive(tmp_path, "ztf_20261120120000_000601_zr_c06_o.fits.fz")
    assert order_of(Watcher(tmp_path, expected=2, patience_s=1000.0)) == []
    changed = rules.model_copy(update={"triggers": tuple(quick)})
    assert order_of(Watcher(tmp_path, expected=2, patience_s=1000.0, rules=lambda: changed)) == ["ztf_20261120120000"]


def test_without_a_database_the_last_good_rules_go_on(database, tmp_path):
    file = tmp_path / triggers.FILE
    change_in_words(database.pipeline, {"works": [{"dag": "exposure", "weight": 777}], **WHO})
    source = Source(database.reader, file, keeps=True)
    assert source().work("exposure").weight == 777
    source.dsn, source.next_look = NOBODY, 0.0
    assert source().work("exposure").weight == 777, "in memory"
    assert Source(NOBODY, file)().work("exposure").weight == 777, "after a start, from the file"
    file.write_text("{")
    assert Source(NOBODY, file)() == TriggerRules(), "a damaged file: as shipped"


def test_rules_that_somebody_broke_in_the_database_do_not_come_into_force(database, tmp_path):
    source = Source(database.reader)
    assert source() == TriggerRules()
    values = {"rules": json.dumps({"triggers": []}), "author": "x", "reason": "y"}
    with db.transaction(database.pipeline) as cursor:
        db.insert(cursor, "trigger_rules", values)
    source.next_look = 0.0
    assert source() == TriggerRules()
    with pytest.raises(ConfigurationError, match="these are no trigger rules"):
        proposed(database.reader, {"works": [{"dag": "exposure", "weight": 1}]})


def test_what_follows_a_night_is_named_by_the_rules(database):
    (run,) = triggers.following_runs(database.reader, "night_settled", "20261120")
    assert run == {"trigger_dag_id": "reference", "trigger_run_id": "ref_20261120", "conf": {"night": "20261120"}}
    more = {"name": "matching", "event": "night_settled", "dag": "source_matching"}
    change_in_words(database.pipeline, {"triggers": [more, {"name": "references", "enabled": False}], **WHO})
    (run,) = triggers.following_runs(database.reader, "night_settled", "20261120")
    assert run["trigger_dag_id"] == "source_matching"
