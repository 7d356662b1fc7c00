"""`REDIS_*`: which Redis, and how long to wait for it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Port, Section


class RedisSettings(Section):
    """The shared cache. Unset host: none."""

    model_config = ConfigDict(env_prefix="REDIS_")

    host: str | None = Field(None, description="Redis's host. Unset: no Redis.")
    port: Port = Field(6379, description="Redis's port.")
    db: Annotated[int, Field(ge=0, le=1023)] = Field(0, description="Redis's database number.")
    password: SecretStr | None = Field(None, description="Redis's password.")
    socket_timeout: Annotated[float, Field(gt=0, le=5)] = Field(
        0.025, description="Seconds that an answer of Redis is worth waiting for."
    )
    tls: bool = Field(False, description="Connect to Redis by TLS.")
