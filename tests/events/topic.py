"""Reads a topic as a consumer would."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition


@dataclass(frozen=True)
class Record:
    """One record of a topic."""

    partition: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]

    @property
    def revision(self) -> int:
        return int(json.loads(self.value)["revision"])


def read_topic(
    bootstrap_servers: str,
    until: Callable[[list[Record]], bool],
    topic: str = "route-events",
    partitions: int = 4,
    timeout_s: float = 20,
) -> list[Record]:
    """Return the records from the beginning, until *until* holds for them or time is up."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "test", "log_level": 0})
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
    records: list[Record] = []
    deadline = time.monotonic() + timeout_s
    while not until(records) and time.monotonic() < deadline:
        messages = consumer.consume(1000, timeout=0.2)
        records += [_record(message) for message in messages if message.error() is None]
    consumer.close()
    return records


def _record(message: Message) -> Record:
    headers = dict(message.headers() or [])
    named = {str(name): value for name, value in headers.items() if isinstance(value, bytes)}
    return Record(message.partition() or 0, message.key() or b"", message.value() or b"", named)
