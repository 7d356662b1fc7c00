"""Signed heads in a topic of their own: each a record, by the epoch as its key."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.delivery import KafkaUnavailable
from traffic_manager.events.envelope import Event
from traffic_manager.events.kafka_producer import KafkaProducer
from traffic_manager.events.kafka_reader import TopicReader

_PATIENCE_S = 10.0
_WAIT_S = 0.2


def send_line(settings: KafkaSettings, topic: str, epoch: str, line: bytes) -> None:
    """Send *line*, and return when Kafka has it on all replicas. Raises KafkaUnavailable."""
    with closing(KafkaProducer(_to(settings, topic))) as producer:
        give_up_at = time.monotonic() + _PATIENCE_S
        while not producer.is_ready():
            _check_time(give_up_at)
            producer.wait(_WAIT_S)
        producer.send(0, Event(epoch.encode(), line, ()))
        while not (deliveries := producer.wait(_WAIT_S)):
            _check_time(give_up_at)
        if failure := deliveries[0].failure:
            raise KafkaUnavailable(failure.kind, failure.reason)


def read_lines(settings: KafkaSettings, topic: str) -> Iterator[bytes]:
    """Yield what was sent to *topic*. Raises KafkaUnavailable, also if it is not there or may not be read."""
    with closing(TopicReader(_to(settings, topic))) as reader:
        while (records := reader.read(_WAIT_S)) is not None:
            yield from (value for _, value in records if value)
        if reader.is_forbidden or reader.partition < 0:
            reason = "may not be read" if reader.is_forbidden else "is not there"
            raise KafkaUnavailable("topic", f"the topic {topic} {reason}")


def _to(settings: KafkaSettings, topic: str) -> KafkaSettings:
    return settings.model_copy(update={"route_events_topic": topic})


def _check_time(give_up_at: float) -> None:
    if time.monotonic() > give_up_at:
        raise KafkaUnavailable("timeout", f"Kafka did not take it in {_PATIENCE_S:.0f} s")
