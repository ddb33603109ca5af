"""The embedded Kafka broker of the tests: a real one, started once per session where Java and the jars can be had."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, TopicPartition

from ztfds.operations.services import kafka, supervise
from ztfds.operations.services.state import Process, State, load_or_create
from ztfds.survey.errors import BrokerDown


@dataclass
class Broker:
    """A running broker that can be killed and started again."""

    state: State
    service: supervise.Service
    process: Process | None = None

    @property
    def settings(self) -> dict[str, str]:
        """librdkafka settings."""
        return {"bootstrap.servers": self.state.bootstrap_servers}

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = supervise.start(self.service)
        assert supervise.wait_until(lambda: kafka.healthy(self.state), 90), supervise.tail(self.service.log)

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        assert supervise.wait_until(lambda: not supervise.alive(self.process), 30)

    def messages(self, topic: str) -> list[tuple[int, bytes, int, int]]:
        """Everything in a topic: candid, packet, partition, offset."""
        consumer = Consumer({**self.settings, "group.id": "tests", "enable.auto.commit": False})
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in partitions}
            consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in ends.items()])
            found = []
            while len(found) < sum(high - low for low, high in ends.values()):
                message = consumer.poll(10)
                assert message is not None and message.error() is None
                found.append((int(message.key()), message.value(), message.partition(), message.offset()))
            return found
        finally:
            consumer.close()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The running broker; skipped with the reason where it cannot be had."""
    state = load_or_create(tmp_path_factory.mktemp("kafka"))
    try:
        running = Broker(state, kafka.prepare(state))
    except BrokerDown as error:
        pytest.skip(str(error))
    running.start()
    yield running
    supervise.stop(state.instance, ["kafka"])
