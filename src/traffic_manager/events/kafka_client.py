"""What all our Kafka clients share: connection settings, librdkafka's log and its errors."""

from __future__ import annotations

import structlog
from confluent_kafka import KafkaError, KafkaException

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.delivery import KafkaUnavailable

log = structlog.get_logger(__name__)

ClientSettings = dict[str, str | int | float | bool]


def unavailable(cause: KafkaError | KafkaException) -> KafkaUnavailable:
    """Return the same as an error of ours."""
    error: KafkaError = cause.args[0] if isinstance(cause, KafkaException) else cause
    return KafkaUnavailable(error.name(), error.str())


def client_settings(settings: KafkaSettings) -> ClientSettings:
    """Return librdkafka's settings for a connection to Kafka. They hold the password: never log them."""
    chosen: ClientSettings = {
        "bootstrap.servers": settings.bootstrap_servers or "",
        "client.id": "traffic-manager",
        "security.protocol": settings.security_protocol,
        "socket.keepalive.enable": True,
        # 10 s by default: that long a broker would be back, and the backlog still wait.
        "reconnect.backoff.max.ms": 2000,
        "enable.metrics.push": False,
    }
    if settings.security_protocol.startswith("SASL"):
        chosen |= _login(settings)
    if settings.security_protocol.endswith("SSL") and settings.ssl_ca_location:
        chosen["ssl.ca.location"] = str(settings.ssl_ca_location)
    return chosen


def _login(settings: KafkaSettings) -> ClientSettings:
    password = settings.sasl_password
    return {
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username or "",
        "sasl.password": password.get_secret_value() if password else "",
    }


class LibrdkafkaLog:
    """Takes librdkafka's log as if it were a logger of `logging`.

    All at debug: while a broker is away, librdkafka tells of each try to connect. What matters in it comes
    as an error too, and is told once, by the relay."""

    def log(self, _level: int, _form: str, facility: str, client: str, text: str) -> None:
        """Write one line."""
        log.debug("librdkafka", facility=facility, client=client, text=text)
