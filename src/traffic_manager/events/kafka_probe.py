"""Asks whether Kafka can be reached, for the health check and gauge of a worker that may not be relaying."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.delivery import KafkaUnavailable
from traffic_manager.events.kafka_client import LibrdkafkaLog, client_settings, unavailable


class KafkaProbe:
    """A connection of its own, opened at the first check. For one thread, after the fork."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin: AdminClient | None = None

    def check(self, timeout_s: float) -> None:
        """Return if Kafka answers within *timeout_s*. Raises KafkaUnavailable with the reason."""
        try:
            self._admin = self._admin or _connect(self._settings)
            self._admin.poll(0)  # else librdkafka's log lines pile up
            # About the cluster and not the topic: to ask for a topic's metadata may create it.
            self._admin.describe_cluster(request_timeout=timeout_s).result(timeout_s + 1)
        except KafkaException as exception:
            raise unavailable(exception) from None
        except TimeoutError:
            raise KafkaUnavailable("_TIMED_OUT", "no answer in time") from None

    def close(self) -> None:
        """Disconnect; the next check connects again."""
        self._admin = None


def _connect(settings: KafkaSettings) -> AdminClient:
    return AdminClient(client_settings(settings), logger=LibrdkafkaLog())
