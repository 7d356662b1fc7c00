"""`AUDIT_*`: what heads of the log are signed with, and where they are kept."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Seconds, Section, TopicName


class AuditSettings(Section):
    """Signed heads of the log, which `traffic-manager audit sign` makes. Servers need none of it."""

    model_config = ConfigDict(env_prefix="AUDIT_")

    key_file: Path | None = Field(
        None, description="File of the private key that heads are signed with: Ed25519, PEM, no password."
    )
    heads_file: Path | None = Field(
        None,
        description="File that signed heads are appended to. Keep it where the database's people cannot write.",
    )
    heads_topic: TopicName | None = Field(
        None, description="Topic of Kafka that signed heads are sent to as well. Unset: none."
    )
    heads_seconds: Seconds = Field(
        60.0, description="So often `traffic-manager audit sign` looks for a new head."
    )
