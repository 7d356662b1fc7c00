"""A topic of events as its consumers see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from tests.servers import KafkaServer
from traffic_manager.routing.model import Change


@dataclass(frozen=True)
class Told:
    """What an event says, and the key that Kafka orders it by."""

    key: str
    revision: int
    route: tuple[str, str, str, str]
    action: str
    url: str | None
    is_active: bool


class Topic:
    """A topic as a consumer sees it from its beginning; `events` are in each key's order."""

    def __init__(self, kafka: KafkaServer, name: str) -> None:
        self.name = name
        self.events: list[Told] = []
        self._kafka = kafka
        self._consumer = self._from_the_beginning()

    def begin_again(self) -> None:
        """Forget what came, and read the topic of this name that there is now."""
        self.events.clear()
        self._consumer.close()
        self._consumer = self._from_the_beginning()

    def read(self) -> list[Told]:
        """Return all events that have come so far."""
        for message in self._consumer.consume(1000, timeout=0.2):
            if message.error() is None:
                self.events.append(_told(message.key(), message.value()))
        return self.events

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _from_the_beginning(self) -> Consumer:
        where = {"bootstrap.servers": self._kafka.bootstrap_servers}
        consumer = Consumer({**where, "group.id": "test", "log_level": 0})
        consumer.assign([TopicPartition(self.name, partition, 0) for partition in range(4)])
        return consumer


def _told(key: bytes | str | None, value: bytes | str | None) -> Told:
    assert isinstance(key, bytes)
    event = json.loads(value or b"")
    route = (event["tenant"], event["service"], event["env"], event["version"])
    return Told(key.decode(), event["revision"], route, event["action"], event["url"], event["is_active"])


def event_of(change: Change) -> Told:
    """Return what Kafka is to be told of *change*."""
    names = (change.key.tenant, change.key.service, change.key.env, change.key.version)
    return Told("/".join(names), change.revision, names, change.action, change.url, change.is_active)


def newest_only(events: Sequence[Told]) -> list[Told]:
    """Do what consumers do: drop what is not greater than the last of its key."""
    last: dict[str, int] = {}
    kept = []
    for event in events:
        if event.revision > last.get(event.key, 0):
            last[event.key] = event.revision
            kept.append(event)
    return kept
