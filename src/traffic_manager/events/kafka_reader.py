"""Reads the topic from its beginning to its end, as a consumer does who has never read it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.kafka_client import (
    ClientSettings,
    LibrdkafkaLog,
    client_settings,
    unavailable,
)

_READING: ClientSettings = {
    # Asked for by the library, and never heard of by Kafka: nothing is committed and nobody is waited for.
    "group.id": "traffic-manager",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "earliest",
}
_MOST_RECORDS = 2000
_METADATA_TIMEOUT_S = 2.0
_FORBIDDEN = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)

log = structlog.get_logger(__name__)

Record = tuple[bytes | None, bytes | None]


class TopicReader:
    """Reads one partition after the other, so that it needs no room for more. For one thread."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.route_events_topic
        self._partitions: deque[int] | None = None
        self.is_forbidden = False
        self.partition = -1  # of the records that were read last
        # Partitions that no longer begin with their first record: Kafka has its own retention.
        self.shortened: set[int] = set()
        try:
            self._consumer = Consumer(client_settings(settings) | _READING, logger=LibrdkafkaLog())
        except KafkaException as exception:
            raise unavailable(exception) from None

    def read(self, timeout_s: float) -> Sequence[Record] | None:
        """Return key and value of the next records, after *timeout_s* if there are none; None at the end, also if
        there is no such topic, or we may not read it. Raises KafkaUnavailable."""
        try:
            if self._partitions is None:
                self._begin()
            return self._read(timeout_s) if self._partitions else None
        except KafkaException as exception:
            self._end_if_forbidden(exception)
            return None

    def close(self) -> None:
        """Disconnect."""
        with suppress(KafkaException, RuntimeError):  # there is nothing left to do about it
            self._consumer.close()

    def _begin(self) -> None:
        found = self._consumer.list_topics(self._topic, timeout=_METADATA_TIMEOUT_S).topics[self._topic]
        if found.error is not None and found.error.code() in _FORBIDDEN:
            raise KafkaException(found.error)
        self._partitions = deque(sorted(found.partitions))
        self._open_next()

    def _open_next(self) -> None:
        if self._partitions:
            place = TopicPartition(self._topic, self._partitions[0], OFFSET_BEGINNING)
            low, _high = self._consumer.get_watermark_offsets(place, timeout=_METADATA_TIMEOUT_S)
            if low:
                self.shortened.add(self._partitions[0])
            self._consumer.assign([place])

    def _read(self, timeout_s: float) -> Sequence[Record]:
        assert self._partitions  # noqa: S101 asked before
        self.partition = self._partitions[0]
        messages = self._consumer.consume(_MOST_RECORDS, timeout=timeout_s)
        found = [(message.key(), message.value()) for message in messages if message.error() is None]
        for message in messages:
            if (error := message.error()) is not None:
                self._on_error(error, message)
        return found

    def _on_error(self, error: KafkaError, message: Message) -> None:
        if error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        assert self._partitions is not None  # noqa: S101 something was assigned
        if self._partitions and message.partition() == self._partitions[0]:
            self._partitions.popleft()
            self._open_next()

    def _end_if_forbidden(self, exception: KafkaException) -> None:
        error: KafkaError = exception.args[0]
        if error.code() not in _FORBIDDEN:
            raise unavailable(exception) from None
        self.is_forbidden = True
        self._partitions = deque()
        log.warning("topic_not_readable", topic=self._topic, reason=error.str())
