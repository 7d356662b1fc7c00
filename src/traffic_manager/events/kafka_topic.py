"""Creates the topic of route events where it is missing, never changes one that is there, and sees it replaced."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.delivery import Topic
from traffic_manager.events.kafka_client import LibrdkafkaLog, client_settings, unavailable

if TYPE_CHECKING:
    from confluent_kafka.admin._topic import TopicDescription

_ANSWER_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 5.0
# Of brokers before 2.8, and of librdkafka's mock.
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
_FORBIDDEN = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)

log = structlog.get_logger(__name__)


class TopicCreation:
    """The request to create the topic, sent when this is made; ask `is_done` from time to time.

    It comes before the producer's first word about the topic: a broker that creates topics by itself would
    else do so, with its own number of partitions."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.route_events_topic
        # Kept until the answer is there: without its client the request is dropped.
        self._admin: AdminClient | None = AdminClient(client_settings(settings), logger=LibrdkafkaLog())
        self._answer: Future[None] = self._ask(self._admin, settings)

    def is_done(self) -> bool:
        """Return whether the topic is there (or may be: where we may not create topics, sending will tell).
        Raises KafkaUnavailable."""
        if self._admin is None:
            return True
        if not self._answer.done():
            return False
        self._admin = None
        refusal = self._answer.exception()
        if isinstance(refusal, KafkaException):
            self._judge(refusal.args[0])
        elif refusal is not None:
            raise refusal
        return True

    def _ask(self, admin: AdminClient, settings: KafkaSettings) -> Future[None]:
        topic = NewTopic(self._topic, settings.topic_partitions, settings.topic_replication_factor)
        answers = admin.create_topics([topic], request_timeout=_ANSWER_TIMEOUT_S)
        return answers[self._topic]

    def _judge(self, refusal: KafkaError) -> None:
        if refusal.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return
        if refusal.code() not in _FORBIDDEN:
            raise unavailable(refusal)
        log.info("topic_not_created", topic=self._topic, reason=refusal.str())


class TopicWatch:
    """Looks at the topic now and then, without waiting: whoever deletes a topic and makes it again tells nobody."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.route_events_topic
        self._admin = AdminClient(client_settings(settings), logger=LibrdkafkaLog())
        self._answer: Future[TopicDescription] | None = None
        self._asked_at = 0.0
        self._found: Topic | None = None

    def look(self) -> Topic | None:
        """Return the topic as it was when it was last seen, None before that."""
        now = time.monotonic()
        if self._answer is not None and self._answer.done():
            self._take(self._answer)
            self._answer = None
        elif self._answer is None and now - self._asked_at >= _LOOK_EVERY_S:
            self._asked_at = now
            self._admin.poll(0)  # else librdkafka's log lines pile up
            wanted = TopicCollection([self._topic])
            answers = self._admin.describe_topics(wanted, request_timeout=_ANSWER_TIMEOUT_S)
            self._answer = answers[self._topic]
        return self._found

    def close(self) -> None:
        """Disconnect; nobody may look afterwards."""
        del self._admin

    def _take(self, answer: Future[TopicDescription]) -> None:
        if answer.exception() is not None:
            return  # Kafka is away, or the topic is: sending tells which
        found = answer.result()
        if str(found.topic_id) != _NO_ID and found.partitions:
            self._found = Topic(str(found.topic_id), len(found.partitions))
