"""`KAFKA_*`: which Kafka, which topic, as whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Section, TopicName


class KafkaSettings(Section):
    """Where changes are told. Unset servers: they wait in the outbox."""

    model_config = ConfigDict(env_prefix="KAFKA_")

    bootstrap_servers: str | None = Field(
        None, description="`host:port,...` of Kafka. Unset: no events are sent."
    )
    route_events_topic: TopicName = Field("route-events", description="The topic of route changes.")
    create_topic: bool = Field(True, description="Create the topic if it is missing.")
    topic_partitions: Annotated[int, Field(ge=1, le=1000)] = Field(
        4, description="Partitions of a topic that we create; never change it later."
    )
    topic_replication_factor: Annotated[int, Field(ge=1, le=10)] = Field(
        1, description="Replicas of a topic that we create; 3 in production."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to connect to Kafka."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="How to log in to Kafka with `SASL_*`."
    )
    sasl_username: str | None = Field(None, description="User for `SASL_*`.")
    sasl_password: SecretStr | None = Field(None, description="Password for `SASL_*`.")
    ssl_ca_location: Path | None = Field(None, description="File of the certificate authority for `*SSL`.")

    @model_validator(mode="after")
    def _check_login(self) -> KafkaSettings:
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError("KAFKA_SASL_USERNAME: must be set with KAFKA_SASL_PASSWORD for SASL_*")
        return self
