"""`CACHE_*`: how long what is kept in Redis counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Section


class CacheSettings(Section):
    """How long Redis keeps answers."""

    model_config = ConfigDict(env_prefix="CACHE_")

    positive_ttl: Annotated[int, Field(ge=1, le=86_400)] = Field(
        60, description="Seconds that Redis keeps a route."
    )
    negative_ttl: Annotated[int, Field(ge=1, le=86_400)] = Field(
        10, description='Seconds that Redis and a bounded mirror keep "no such route".'
    )
