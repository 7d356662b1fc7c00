"""Sends events with librdkafka; its exceptions and callbacks stop here. For one thread.

A producer that was carried over a fork never delivers, so make it in the process and thread that use it.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.delivery import Delivery, Failure, KafkaUnavailable, Topic
from traffic_manager.events.envelope import Event
from traffic_manager.events.kafka_client import (
    ClientSettings,
    LibrdkafkaLog,
    client_settings,
    unavailable,
)
from traffic_manager.events.kafka_topic import TopicCreation, TopicWatch

_DELIVERY: ClientSettings = {
    "enable.idempotence": True,
    "acks": "all",
    # Never give an event up silently: how long to be patient is the relay's decision.
    "message.timeout.ms": 0,
    "linger.ms": 5,
    "compression.type": "lz4",
    # The partitions that Java's clients choose for the same keys.
    "partitioner": "murmur2_random",
}
# A wave is sent at once instead of after `linger.ms`, because nothing will join it. Not for longer, because
# each flush wakes all connections, also those that wait before they try a dead broker again.
_FLUSH_S = 0.02
# What is wrong with the event and not with Kafka.
_REJECTIONS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
    }
)


class KafkaProducer:
    """Sends to the topic of *settings*. After KafkaUnavailable, close it and make another one."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.route_events_topic
        self._deliveries: list[Delivery] = []
        self._fatal: KafkaUnavailable | None = None
        self._is_flushed = True
        self.last_error: KafkaUnavailable | None = None
        try:
            self._creation = TopicCreation(settings) if settings.create_topic else None
            self._watch = TopicWatch(settings)
            self._producer = Producer(
                client_settings(settings) | _DELIVERY, error_cb=self._on_error, logger=LibrdkafkaLog()
            )
        except KafkaException as exception:
            raise unavailable(exception) from None

    @property
    def topic(self) -> Topic | None:
        """The topic as it was lately, None as long as that is not known."""
        return self._watch.look()

    def is_ready(self) -> bool:
        """Return whether events may be sent: the topic is there. Raises KafkaUnavailable."""
        return self._creation is None or self._creation.is_done()

    def send(self, revision: int, event: Event) -> None:
        """Take *event* over; `wait` will tell what became of it. Raises KafkaUnavailable."""
        report = partial(self._on_delivery, revision)
        headers: list[tuple[str, str | bytes | None]] = [*event.headers]
        try:
            self._producer.produce(self._topic, event.value, event.key, headers=headers, on_delivery=report)
        except KafkaException as exception:
            self._deliveries.append(Delivery(revision, _failure(exception.args[0])))
        except BufferError as error:
            raise KafkaUnavailable("queue-full", str(error)) from None
        self._is_flushed = False

    def wait(self, timeout_s: float) -> list[Delivery]:
        """Return the deliveries since the last call, after *timeout_s* if there are none. Raises
        KafkaUnavailable after an error that this producer cannot recover from."""
        try:
            self._serve(timeout_s)
        except KafkaException as exception:  # a fatal error, such as numbers of events that do not follow
            self._fatal = unavailable(exception)
        deliveries, self._deliveries = self._deliveries, []
        if self._fatal and not deliveries:
            raise self._fatal
        return deliveries

    def close(self) -> None:
        """Forget what is not sent and what is in flight (Kafka may still take it), and disconnect."""
        # At once, and not when this is found to be garbage: each client has four threads.
        self._watch.close()
        self._creation = None
        with suppress(KafkaException):  # there is nothing left to do about it
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
            self._producer.close()

    def _serve(self, timeout_s: float) -> None:
        """Let librdkafka call us back."""
        if self._is_flushed:
            self._producer.poll(timeout_s)
        else:
            self._is_flushed = True
            self._producer.flush(min(timeout_s, _FLUSH_S))

    def _on_delivery(self, revision: int, error: KafkaError | None, _message: Message) -> None:
        self._deliveries.append(Delivery(revision, _failure(error) if error else None))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = unavailable(error)
        # "All brokers are down" says less than the error before it, which tells why.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.last_error = unavailable(error)


def _failure(error: KafkaError) -> Failure:
    return Failure(error.name(), error.str(), error.code() in _REJECTIONS)
