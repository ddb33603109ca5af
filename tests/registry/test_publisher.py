"""The publisher on a real broker: nothing lost, nothing doubled."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import publish_once
import pytest
from test_outbox import alerts, queue

from ztfds.registry import database as db
from ztfds.registry import outbox, publisher
from ztfds.registry.publisher import FAULT_POINTS, Publisher
from ztfds.survey.errors import BrokerDown

pytestmark = pytest.mark.services


@pytest.fixture
def topic(request):
    return f"test_{abs(hash(request.node.name))}"


def _assert_exactly_once(broker, database, topic, n):
    """Every alert is in the topic once, where the outbox says, with its own bytes."""
    rows = db.fetch_all(database.reader, "select * from alert_outbox where topic = %s order by candid", (topic,))
    assert [row["state"] for row in rows] == ["sent"] * n
    wanted = [(row["candid"], bytes(row["packet"]), row["kafka_partition"], row["kafka_offset"]) for row in rows]
    assert sorted(broker.messages(topic)) == wanted
    assert all(row["acked"] is not None for row in rows)


def test_everything_queued_is_sent_and_acknowledged(broker, database, topic):
    queue(database.pipeline, alerts(120, topic=topic))
    done = Publisher(database.pipeline, broker.settings, partitions=3).publish()
    assert (done.sent, done.found, done.requeued, done.waiting) == (120, 0, 0, 0)
    _assert_exactly_once(broker, database, topic, 120)
    again = Publisher(database.pipeline, broker.settings).publish()
    assert (again.sent, again.waiting) == (0, 0)
    open_batches = db.fetch_all(database.reader, "select 1 from alert_batches where finished is null")
    assert open_batches == []


def test_publishers_side_by_side_send_each_alert_once(broker, database, topic, monkeypatch):
    monkeypatch.setattr(publisher, "BATCH", 20)
    queue(database.pipeline, alerts(200, topic=topic))
    errors = []

    def publish():
        try:
            Publisher(database.pipeline, broker.settings, partitions=3).publish()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    _assert_exactly_once(broker, database, topic, 200)


@pytest.mark.parametrize("point", FAULT_POINTS)
def test_a_killed_publisher_loses_and_doubles_nothing(broker, database, topic, point):
    queue(database.pipeline, alerts(30, topic=topic))
    script = Path(publish_once.__file__)
    arguments = [database.pipeline, json.dumps(broker.settings), point]
    killed = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    settled = point == "acknowledged"
    assert outbox.counts(database.reader)["sending"] == (0 if settled else 30)
    too_early = Publisher(database.pipeline, broker.settings, settle_s=3600).publish()
    assert (too_early.sent, too_early.waiting) == (0, 0 if settled else 30)
    done = Publisher(database.pipeline, broker.settings, settle_s=0).publish()
    assert done.found + done.sent == (0 if settled else 30) and done.waiting == 0
    if point == "flushed":
        assert done.found == 30
    if point == "claimed":
        assert done.requeued == 30
    _assert_exactly_once(broker, database, topic, 30)


def test_a_living_publisher_is_not_taken_for_a_dead_one(broker, database, topic):
    queue(database.pipeline, alerts(10, topic=topic))
    seen = []

    def fault(point):
        if point == "publish:flushed" and not seen:
            seen.append(Publisher(database.pipeline, broker.settings, settle_s=0).publish())

    Publisher(database.pipeline, broker.settings, partitions=3, fault=fault).publish()
    assert (seen[0].found, seen[0].requeued, seen[0].waiting) == (0, 0, 10)
    _assert_exactly_once(broker, database, topic, 10)


def test_a_killed_broker_delays_and_nothing_else(broker, database, topic, monkeypatch):
    monkeypatch.setattr(publisher, "DELIVERY_TIMEOUT_S", 2.0)
    monkeypatch.setattr(publisher, "ANSWER_S", 2.0)
    queue(database.pipeline, alerts(25, topic=topic))
    once = []

    def fault(point):
        if point == "publish:claimed" and not once:
            once.append(point)
            broker.kill()

    with pytest.raises(BrokerDown):
        Publisher(database.pipeline, broker.settings, partitions=3, fault=fault).publish()
    queue(database.pipeline, alerts(25, first=100, topic=topic))
    with pytest.raises(BrokerDown):
        Publisher(database.pipeline, broker.settings, settle_s=0).publish()
    assert outbox.counts(database.reader)["sent"] == 0
    broker.start()
    monkeypatch.setattr(publisher, "DELIVERY_TIMEOUT_S", 15.0)
    monkeypatch.setattr(publisher, "ANSWER_S", 5.0)
    assert Publisher(database.pipeline, broker.settings, settle_s=0).publish().waiting == 0
    _assert_exactly_once(broker, database, topic, 50)
