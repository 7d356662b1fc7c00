"""Looks at the topic for `traffic-manager doctor`. Judges nothing, and creates no topic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.kafka_client import LibrdkafkaLog, client_settings, unavailable


@dataclass(frozen=True)
class TopicFacts:
    """The topic as it is: *partitions* 0 if there is none; *settings* as Kafka names them, none if we may not read
    them."""

    partitions: int
    replicas: int = 0
    settings: Mapping[str, str] | None = None


def examine(settings: KafkaSettings, timeout_s: float) -> TopicFacts:
    """Return what is found. Raises KafkaUnavailable."""
    admin = AdminClient(client_settings(settings), logger=LibrdkafkaLog())
    name = settings.route_events_topic
    try:
        # Of all topics: to ask for this one alone may create it.
        topic = admin.list_topics(timeout=timeout_s).topics.get(name)
        if topic is None:
            return TopicFacts(0)
        replicas = min((len(partition.replicas) for partition in topic.partitions.values()), default=0)
        return TopicFacts(len(topic.partitions), replicas, _settings(admin, name, timeout_s))
    except KafkaException as error:
        raise unavailable(error) from None


def _settings(admin: AdminClient, topic: str, timeout_s: float) -> Mapping[str, str] | None:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    answer = admin.describe_configs([resource], request_timeout=timeout_s)[resource]
    try:
        return {name: str(entry.value) for name, entry in answer.result(timeout_s + 1).items()}
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return None
        raise
