"""People are told through a real mail server and a real webhook; one that is away keeps nothing from going on, and is said."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from post import Post, post_office
from prepared import process

from ztfds.operations import realtime, report
from ztfds.operations.watch.notify import Notifier
from ztfds.operations.watch.rounds import Watch
from ztfds.registry import database as db
from ztfds.survey import ids
from ztfds.survey.errors import ServiceDown

NOW = 1_800_000_000.0
AWAY = "127.0.0.1:9"


@pytest.fixture
def post() -> Iterator[Post]:
    with post_office() as opened:
        yield opened


def settings(post: Post, **more: str) -> dict[str, str]:
    return {"mail_to": "night@example.org, day@example.org", "smtp": post.smtp, "webhook": post.webhook, **more}


def watch(database, tmp_path, post: Post, **more: str) -> Watch:
    (tmp_path / "inbox").mkdir(exist_ok=True)
    notifier = replace(Notifier.of(settings(post, **more)), timeout_s=2.0)
    return Watch(
        database.pipeline,
        {"inbox": tmp_path / "inbox"},
        tmp_path / "ztfds.prom",
        {"kafka": lambda: False},
        notifier,
    )


def test_an_alarm_arrives_by_mail_and_webhook_once(database, tmp_path, post):
    one = watch(database, tmp_path, post)
    for k in range(4):
        one.round(NOW + 10 * k)
    assert len(post.subjects) == len(post.calls) == 1
    assert post.subjects[0].startswith("[critical] service_down: kafka does not answer")
    assert post.mails[0]["X-Receivers"] == "night@example.org, day@example.org"
    assert "docs/operations/alarms.md#service_down" in post.mails[0].get_content()
    assert post.calls[0]["rule"] == "service_down" and post.calls[0]["subject"] == "kafka"
    one.probes = {"kafka": lambda: True}
    one.round(NOW + 60)
    assert post.subjects[1].startswith("[over] service_down") and len(post.calls) == 2


@pytest.mark.parametrize("way", ["away", "refuses"])
def test_a_mail_server_that_fails_keeps_nothing_back_and_is_an_alarm_itself(database, tmp_path, post, way):
    post.refuse = "550 nobody here" if way == "refuses" else ""
    one = watch(database, tmp_path, post, **({"smtp": AWAY} if way == "away" else {}))
    for k in range(4):
        one.round(NOW + 10 * k)
    assert [call["rule"] for call in post.calls] == ["service_down", "telling_failed"], (
        "each told once, by the other way"
    )
    assert "people are not reached by mail" in post.calls[1]["text"] and post.mails == []
    assert ("550" in one.ways["mail"]) == (way == "refuses") and one.ways["webhook"] == ""
    post.refuse, one.notifier = "", replace(one.notifier, smtp=post.smtp)
    one.probes = {"kafka": lambda: True}
    for k in range(3):
        one.round(NOW + 60 + 10 * k)
    open_ = db.fetch_all(database.reader, "select rule from alarms where cleared is null")
    assert open_ == [] and any("[over] telling_failed" in subject for subject in post.subjects)


def test_what_no_way_takes_is_said_and_tried_again(post, caplog):
    nobody = Notifier(post.webhook + "x", ("a@example.org",), AWAY, timeout_s=1.0)
    with caplog.at_level(logging.ERROR):
        assert nobody.tell("half of it", {})
    assert "not everybody could be told of 'half of it': mail: " in caplog.text
    with pytest.raises(ServiceDown, match=r"nobody could be told of 'nothing of it': webhook: .*; mail: "):
        replace(nobody, webhook="http://127.0.0.1:9/").tell("nothing of it", {})


def test_the_nightly_report_arrives_as_a_page_with_its_figures(ready, mountain, post):
    exposure = process(ready, mountain, mountain.of_kind("o", 1)[0]).exposure
    realtime.close_exposure(ready, exposure)
    nid = ids.nid_of_date(exposure[4:12])
    told = replace(ready, places={**ready.places, **settings(post)})
    with db.transaction(ready.dsn) as cursor:
        cursor.execute("update exposures set goal_stage = 'differenced' where exposure = %s", (exposure,))
    report.write_report(told, nid)
    assert report.send_report(told, nid)
    (mail,), (call,) = post.mails, post.calls
    text, page = mail.get_body(("plain",)).get_content(), mail.get_body(("html",)).get_content()
    assert mail["subject"].strip().startswith(f"Night {exposure[4:12]}") and "Alerts in time" in text
    line = next(line for line in text.splitlines() if line.strip().startswith("5 min"))
    assert "0.0 %" in line and "differenced 1" in line
    assert page.startswith("<!doctype html>") and "data:image/png;base64," in page
    assert call["text"] == mail["subject"].strip() and "Accountability of files" in call["report"]
    with pytest.raises(ServiceDown):
        report.send_report(replace(ready, places={**ready.places, "mail_to": "a@example.org", "smtp": AWAY}), nid)
