"""Creates the topic of route events where it is missing, and never changes one that is there."""

from __future__ import annotations

from concurrent.futures import Future

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.kafka_client import LibrdkafkaLog, client_settings, unavailable

_ANSWER_TIMEOUT_S = 10.0
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
