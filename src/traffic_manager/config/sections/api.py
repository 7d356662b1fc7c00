"""`API_*`: where the server listens, with how many workers, for how many connections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Networks, Port, Section


class ApiSettings(Section):
    """The HTTP server."""

    model_config = ConfigDict(env_prefix="API_")

    host: str | None = Field(
        None,
        description="The address to listen on. Default: `0.0.0.0`, but `127.0.0.1` with `AUTH_MODE=open`.",
    )
    port: Port = Field(8000, description="The port to listen on.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Worker processes; above 1 needs PostgreSQL."
    )
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="At most this many connections of clients per worker; on more, anything but a probe is "
        "answered 503. Default: as many as the open files allow.",
    )
    max_connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="At most this many of them from one address, but for trusted proxies; more are answered 429. "
        "Default: three in four of all.",
    )
    trusted_proxies: Networks = Field(
        (),
        description="Networks of the proxies in front of the servers, `10.0.0.0/8,...`: they alone are believed "
        "where a request comes from.",
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = Field(
        "x-forwarded-for", description="In which header they tell it."
    )
    access_log: bool = Field(False, description="Write a line for each answered request; see docs/logs.md.")
    access_log_sample: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Of this share of them, drawn at random; those that fail (5xx) have theirs anyhow."
    )
    docs: bool | None = Field(None, description="Serve `/docs`. Default: on, but off in production.")

    @property
    def access_log_share(self) -> float:
        """Of which share of the requests lines are written."""
        return self.access_log_sample if self.access_log else 0.0
