"""`WATCH_*`: how many may wait for changes, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Section


class WatchSettings(Section):
    """Streams and long polls of changes."""

    model_config = ConfigDict(env_prefix="WATCH_")

    limit: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        10_000, description="At most this many wait for changes at a worker; more are refused with 503."
    )
    limit_per_principal: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None,
        description="At most this many of them for one principal; more are refused with 503. Default: three in four "
        "of all.",
    )
    heartbeat_seconds: Annotated[float, Field(ge=0.1, le=50)] = Field(
        15.0, description="A stream without changes says that it lives this often; proxies cut silent ones."
    )
    life_seconds: Annotated[float, Field(ge=1, le=86_400)] = Field(
        3600.0,
        description="A stream ends after this long, or up to a fifth sooner, and its reader connects again: "
        "so streams spread over the workers.",
    )
    slow_seconds: Annotated[float, Field(ge=0.1, le=300)] = Field(
        10.0, description="A reader that takes nothing of its stream for this long is cut off."
    )

    @property
    def most_of_principal(self) -> int:
        """How many may wait at a worker for one principal."""
        given = self.limit_per_principal
        return self.limit - self.limit // 4 if given is None else given
