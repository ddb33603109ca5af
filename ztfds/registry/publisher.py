"""The publisher: sends the outbox to Kafka, each alert exactly once in effect, and records the broker's acknowledgement.

How nothing is lost and nothing doubled:

1. The ends of the topic's partitions are read, then a batch of queued alerts is marked ``sending`` with these offsets, and that
   is committed before a byte is sent. While it sends, the publisher holds an advisory lock with the number of the batch.
2. An idempotent producer sends with ``acks=all``; it gives up after `DELIVERY_TIMEOUT_S`. Acknowledged alerts become ``sent``.
3. Alerts that stay ``sending`` (a killed publisher, an unanswered broker) are settled by the next publisher: once the batch is
   older than `SETTLE_S` (nothing of it can be in flight any more) and its lock is free, the topic is read from the recorded
   offsets; what is found there is marked ``sent``, what is not goes back into the queue.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from ztfds.registry import exposures, outbox
from ztfds.registry.database import Connection, answering, connect, rows, transaction
from ztfds.registry.runner import no_fault
from ztfds.survey.errors import BrokerDown

log = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S = 15.0
"""A message that the broker has not acknowledged after this time is given up by the producer."""
SETTLE_S = 20.0
"""Age at which nothing of an abandoned batch can be on its way any more: more than the delivery timeout."""
ANSWER_S = 5.0
"""How long a broker may take to answer a question."""
BATCH = 500
_LOCK_CLASS = 29_002
_PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
"""Answers about a partition that is just being made."""

FAULT_POINTS = ("claimed", "produced", "flushed", "acknowledged")
"""Moments at which a fault can be injected, as ``publish:<point>``."""


@dataclass
class Published:
    """What one call of `publish` did.

    Attributes
    ----------
    sent : int
        Alerts acknowledged by the broker now.
    found : int
        Alerts of abandoned batches that had reached the broker.
    requeued : int
        Alerts of abandoned batches that had not.
    waiting : int
        Alerts that are still queued or unsettled at the end.
    """

    sent: int = 0
    found: int = 0
    requeued: int = 0
    waiting: int = 0


@dataclass
class Publisher:
    """Sends the outbox.

    Parameters
    ----------
    dsn : str
        Database as the role ``ztf_pipeline``.
    kafka : mapping
        librdkafka settings, at least ``bootstrap.servers``.
    partitions : int
        Partitions of topics that this publisher makes.
    retention_h : int
        How long the broker keeps a topic's messages, h.
    settle_s : float
        Age of a batch at which it may be settled, s: more than the delivery timeout.
    fault : callable
        Fault injector, called with ``publish:<point>``.
    """

    dsn: str
    kafka: Mapping[str, Any]
    partitions: int = 16
    retention_h: int = 168
    settle_s: float = SETTLE_S
    fault: Callable[[str], None] = no_fault
    _ready: set[str] = field(default_factory=set)

    def publish(self, limit: int | None = None) -> Published:
        """Settle abandoned batches, then send everything that is queued (at most `limit` alerts).

        Raises
        ------
        BrokerDown
            Alerts wait and the broker does not answer; they stay in the outbox.
        DatabaseDown
            The database does not answer; what was being sent is settled by a later call.
        """
        done = Published()
        try:
            self._settle(done)
            while limit is None or done.sent < limit:
                size = BATCH if limit is None else min(BATCH, limit - done.sent)
                if not self._send_batch(size, done):
                    break
        except KafkaException as error:
            raise BrokerDown(f"Kafka does not answer: {error}") from error
        done.waiting = outbox.waiting(self.dsn)
        return done

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send_batch(self, size: int, done: Published) -> bool:
        """Send one batch of one topic; False when nothing is queued."""
        with transaction(self.dsn) as cursor:
            topics = outbox.waiting_topics(cursor)
        for topic in topics:
            ends = self._ends(topic)
            holder = connect(self.dsn, autocommit=True, application="ztfds publisher")
            try:
                batch, taken = self._claim(holder, topic, size, ends)
                if batch:
                    self.fault("publish:claimed")
                    self._deliver(topic, batch, taken, done)
                    return True
            finally:
                holder.close()
        return False

    def _claim(
        self, holder: Connection, topic: str, size: int, ends: Mapping[int, int]
    ) -> tuple[int, list[dict[str, Any]]]:
        """Mark a batch as sending, and hold its lock on the connection `holder` from before that is visible."""
        with answering(holder):
            holder.autocommit = False
            with holder, holder.cursor() as cursor:
                batch, taken = outbox.claim(cursor, topic, size, socket.gethostname(), os.getpid(), ends)
                if batch:
                    cursor.execute("select pg_advisory_lock(%s, %s)", (_LOCK_CLASS, batch % 2**31))
            holder.autocommit = True
        return batch, taken

    def _deliver(self, topic: str, batch: int, taken: list[dict[str, Any]], done: Published) -> None:
        """Produce one batch, wait for the acknowledgements, and record them."""
        acks: dict[int, tuple[int, int]] = {}
        failures: list[KafkaError] = []
        started = time.monotonic()

        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failures.append(error)
            else:
                acks[int(message.key() or b"0")] = (int(message.partition() or 0), int(message.offset() or 0))

        producer = Producer(self._settings(producer=True))
        for row in taken:
            self._produce(producer, topic, row, report)
        self.fault("publish:produced")
        producer.flush(max(0.1, DELIVERY_TIMEOUT_S - (time.monotonic() - started)) + 1.0)
        self.fault("publish:flushed")
        self._record(batch, acks)
        self.fault("publish:acknowledged")
        done.sent += len(acks)
        log.info("sent %d of %d alerts to %s", len(acks), len(taken), topic)
        if len(acks) < len(taken):
            why = failures[0].str() if failures else "no acknowledgement in time"
            raise BrokerDown(f"{len(taken) - len(acks)} alerts of {topic} were not acknowledged: {why}")

    @staticmethod
    def _produce(
        producer: Producer, topic: str, row: Mapping[str, Any], report: Callable[[KafkaError | None, Message], None]
    ) -> None:
        """Hand one alert to the producer, waiting while its queue is full."""
        while True:
            try:
                key = str(row["candid"]).encode()
                producer.produce(topic, value=bytes(row["packet"]), key=key, on_delivery=report)
                producer.poll(0)
                return
            except BufferError:
                producer.poll(0.1)

    def _record(self, batch: int, acks: Mapping[int, tuple[int, int]]) -> None:
        """Store acknowledgements, close the batch if nothing of it is open, and stamp finished exposures."""
        with transaction(self.dsn) as cursor:
            touched = outbox.acknowledge(cursor, acks)
            left = rows(
                cursor, "select 1 from alert_outbox where batch_id = %s and state = 'sending' limit 1", (batch,)
            )
            if not left:
                outbox.finish_batch(cursor, batch)
            for exposure in touched:
                exposures.note_published(cursor, exposure)

    def _settings(self, producer: bool = False) -> dict[str, Any]:
        """librdkafka settings of clients."""
        settings: dict[str, Any] = {"client.id": "ztfds-publisher", "log_level": 3, **self.kafka}
        if producer:
            settings |= {
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                "delivery.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
                "request.timeout.ms": 5000,
                "message.max.bytes": 5_000_000,
            }
        return settings

    # -- the topic -------------------------------------------------------------------------------------------------

    def _ends(self, topic: str) -> dict[int, int]:
        """Offsets at which the next messages of each partition will be, making the topic if it is missing."""
        self._make_topic(topic)
        consumer = self._consumer()
        try:
            return {p: self._watermarks(consumer, topic, p)[1] for p in self._partitions(consumer, topic)}
        finally:
            consumer.close()

    def _make_topic(self, topic: str) -> None:
        """Make a topic unless it exists."""
        if topic in self._ready:
            return
        admin = AdminClient(self._settings())
        present = admin.list_topics(timeout=ANSWER_S).topics
        if topic not in present:
            config = {"retention.ms": str(self.retention_h * 3_600_000)}
            made = admin.create_topics(
                [NewTopic(topic, num_partitions=self.partitions, config=config)], operation_timeout=ANSWER_S
            )
            try:
                made[topic].result(timeout=2 * ANSWER_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        self._ready.add(topic)

    def _consumer(self) -> Consumer:
        """A consumer that reads committed messages and keeps no position."""
        settings = self._settings() | {
            "group.id": "ztfds-publisher",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
        return Consumer(settings)

    @staticmethod
    def _partitions(consumer: Consumer, topic: str) -> list[int]:
        """Partitions of a topic, waiting for a fresh one to get its leaders."""
        end = time.monotonic() + 2 * ANSWER_S
        while True:
            info = consumer.list_topics(topic, timeout=ANSWER_S).topics[topic]
            if info.error is None and info.partitions and all(p.leader >= 0 for p in info.partitions.values()):
                return sorted(info.partitions)
            if time.monotonic() > end:
                raise KafkaException(info.error or KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
            time.sleep(0.1)

    @staticmethod
    def _watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
        """First and next offset of a partition; a partition that was just made or moved is given time to settle."""
        end = time.monotonic() + 2 * ANSWER_S
        while True:
            try:
                marks = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_S)
                if marks is not None:
                    return int(marks[0]), int(marks[1])
                error = KafkaException(KafkaError(KafkaError._TIMED_OUT))
            except KafkaException as refused:
                error = refused
            if error.args[0].code() not in _PASSING or time.monotonic() > end:
                raise error
            time.sleep(0.1)

    # -- settling what others left ---------------------------------------------------------------------------------

    def _settle(self, done: Published) -> None:
        """Find out what became of batches whose publisher is gone."""
        with transaction(self.dsn) as cursor:
            open_batches = outbox.unsettled_batches(cursor, self.settle_s)
        for batch in open_batches:
            holder = connect(self.dsn, autocommit=True, application="ztfds publisher")
            try:
                with answering(holder), holder.cursor() as cursor:
                    cursor.execute("select pg_try_advisory_lock(%s, %s)", (_LOCK_CLASS, batch["batch_id"] % 2**31))
                    (mine,) = cursor.fetchone() or (False,)
                if mine:
                    self._settle_one(batch, done)
            finally:
                holder.close()

    def _settle_one(self, batch: Mapping[str, Any], done: Published) -> None:
        """Read the topic from where the batch began; mark what is there as sent, put the rest back into the queue."""
        start = {int(partition): int(offset) for partition, offset in batch["offsets"].items()}
        there = self._read(batch["topic"], start, set(batch["candids"]))
        self._record(batch["batch_id"], there)
        with transaction(self.dsn) as cursor:
            back = outbox.requeue(cursor, batch["batch_id"])
            outbox.finish_batch(cursor, batch["batch_id"])
        done.found += len(there)
        done.requeued += back
        log.warning("batch %d was abandoned: %d alerts had arrived, %d again", batch["batch_id"], len(there), back)

    def _read(self, topic: str, start: Mapping[int, int], wanted: set[int]) -> dict[int, tuple[int, int]]:
        """Which of the wanted alerts lie in a topic behind some offsets: candid to (partition, offset)."""
        found: dict[int, tuple[int, int]] = {}
        self._make_topic(topic)
        consumer = self._consumer()
        try:
            ends = {p: self._watermarks(consumer, topic, p) for p in self._partitions(consumer, topic)}
            ahead = {p: max(start.get(p, 0), low) for p, (low, high) in ends.items() if high > start.get(p, 0)}
            if not ahead:
                return found
            consumer.assign([TopicPartition(topic, p, offset) for p, offset in ahead.items()])
            while ahead:
                self._read_some(consumer, ends, ahead, wanted, found)
        finally:
            consumer.close()
        return found

    @staticmethod
    def _read_some(
        consumer: Consumer,
        ends: Mapping[int, tuple[int, int]],
        ahead: dict[int, int],
        wanted: set[int],
        found: dict[int, tuple[int, int]],
    ) -> None:
        """Consume a handful of messages; partitions that are read to the end leave `ahead`."""
        messages = consumer.consume(200, timeout=ANSWER_S)
        if not messages:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        for message in messages:
            partition, error = int(message.partition() or 0), message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            offset = int(message.offset() or 0)
            if error is None and (message.key() or b"").isdigit() and int(message.key() or b"0") in wanted:
                found.setdefault(int(message.key() or b"0"), (partition, offset))
            if error is not None or offset + 1 >= ends[partition][1]:
                ahead.pop(partition, None)
