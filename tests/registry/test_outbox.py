"""The outbox without a broker: rows, claims, acknowledgements."""

import threading

import pytest
from embedded import administer

from ztfds.registry import database as db
from ztfds.registry import exposures, outbox
from ztfds.registry.outbox import Alert
from ztfds.registry.publisher import Publisher
from ztfds.survey.errors import BrokerDown, DatabaseDown

EXPOSURE, TOPIC = "ztf_20181202300000", "ztf_20181202_programid1"


def alerts(n, first=1, topic=TOPIC, exposure=EXPOSURE):
    return [Alert(first + i, f"ZTF18{i}", exposure, 20, topic, 700, 1, bytes([i % 256]) * 50) for i in range(n)]


def queue(dsn, rows):
    with db.transaction(dsn) as cursor:
        return outbox.queue(cursor, rows)


def test_an_alert_is_queued_once(database):
    assert queue(database.pipeline, alerts(5)) == 5
    assert queue(database.pipeline, alerts(7)) == 2
    assert outbox.counts(database.reader) == {"queued": 7, "sending": 0, "sent": 0}
    assert outbox.counts(database.reader, 701) == {"queued": 0, "sending": 0, "sent": 0}


def test_what_rolls_back_is_not_queued(database):
    with pytest.raises(ValueError), db.transaction(database.pipeline) as cursor:
        outbox.queue(cursor, alerts(5))
        raise ValueError
    assert outbox.counts(database.reader)["queued"] == 0


def test_two_publishers_never_take_the_same_alert(database):
    queue(database.pipeline, alerts(100))
    taken, barrier = [], threading.Barrier(4)

    def take():
        barrier.wait(30)
        while True:
            with db.transaction(database.pipeline) as cursor:
                batch, rows = outbox.claim(cursor, TOPIC, 7, "here", 1, {0: 0})
                barrier_free = [row["candid"] for row in rows]
            if not batch:
                return
            taken.extend(barrier_free)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == list(range(1, 101))


def test_acknowledged_alerts_are_sent_and_stay_sent(database):
    queue(database.pipeline, alerts(3))
    with db.transaction(database.pipeline) as cursor:
        batch, rows = outbox.claim(cursor, TOPIC, 10, "here", 1, {0: 17})
        assert outbox.acknowledge(cursor, {1: (0, 17), 2: (1, 5)}) == [EXPOSURE]
        assert outbox.acknowledge(cursor, {1: (9, 99)}) == []
        assert outbox.requeue(cursor, batch) == 1
    found = db.fetch_all(
        database.reader, "select candid, state, kafka_partition, kafka_offset from alert_outbox order by 1"
    )
    assert [tuple(row.values()) for row in found] == [
        (1, "sent", 0, 17),
        (2, "sent", 1, 5),
        (3, "queued", None, None),
    ]
    assert len(rows) == 3 and outbox.waiting(database.reader) == 1
    assert outbox.counts(database.reader) == {"queued": 1, "sending": 0, "sent": 2}


def test_exposure_is_published_when_its_last_alert_is_acknowledged(database):
    with db.transaction(database.pipeline) as cursor:
        values = {
            "exposure": EXPOSURE,
            "nid": 700,
            "field": 600,
            "filtercode": "zg",
            "imgtype": "o",
            "obsjd": 2458454.8,
        }
        exposures.register_exposure(cursor, {**values, "expected": 1})
        cursor.execute("update exposures set processed = '2018-12-02 08:00:00+00'")
    queue(database.pipeline, alerts(2))
    for acked, published in (({1: (0, 0)}, False), ({2: (0, 1)}, True)):
        with db.transaction(database.pipeline) as cursor:
            for exposure in outbox.acknowledge(cursor, acked):
                exposures.note_published(cursor, exposure)
        assert (exposures.find(database.reader, EXPOSURE)["published"] is not None) is published


def test_a_database_that_goes_away_under_the_publisher_is_said_so(database, postgres):
    queue(database.pipeline, alerts(1))
    holder = db.connect(database.pipeline, autocommit=True)
    try:
        administer(postgres, f"select pg_terminate_backend({holder.info.backend_pid})")
        with pytest.raises(DatabaseDown):
            Publisher(database.pipeline, {})._claim(holder, TOPIC, 5, {0: 0})
    finally:
        holder.close()
    assert outbox.counts(database.reader)["queued"] == 1


def test_without_a_broker_alerts_wait(database):
    queue(database.pipeline, alerts(2))
    with pytest.raises(BrokerDown):
        Publisher(database.pipeline, {"bootstrap.servers": "127.0.0.1:1", "socket.timeout.ms": 500}).publish()
    assert outbox.counts(database.reader) == {"queued": 2, "sending": 0, "sent": 0}
