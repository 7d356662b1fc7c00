"""What belongs to no room; with it the environment, which other defaults follow."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from traffic_manager.config.section import Section, Words


class Environment(StrEnum):
    """Where this runs; see docs/settings.md for what it changes."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class AppSettings(Section):
    """What belongs to no room."""

    environment: Environment = Field(
        Environment.DEVELOPMENT,
        description="`development`, `staging` or `production`: sets the defaults below.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        description="The least severe log line that is written. SIGUSR1 makes it DEBUG, SIGUSR2 this again.",
    )
    log_format: Literal["json", "console"] | None = Field(
        None, description="`json` or `console`. Default: `console` in development, else `json`."
    )
    drain_seconds: Annotated[float, Field(ge=0, le=300)] | None = Field(
        None,
        description="How long to go on accepting requests after SIGTERM while not ready. "
        "Default: 0 in development, else 5.",
    )
    mirror_max_routes: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        1_000_000,
        description="Up to this many routes the whole table is held in memory, about 95 bytes each, "
        "shared by the workers; of a larger one the recently used routes, with Redis, then the database "
        "behind them. 0 holds none.",
    )
    unknown_names_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        500,
        description="Where memory does not hold all routes: so many names without a route a worker looks up per "
        "second; more are answered 503.",
    )
    relay: Literal["embedded", "off"] = Field(
        "embedded",
        description="`embedded`: servers send events to Kafka; `off`: only `traffic-manager relay` does.",
    )
    snapshot_path: str | None = Field(
        None,
        description="File of the table on disk, which a node answers from that starts while its database is away; "
        "`off`: none. Each node needs its own. Default: `data/snapshot-<API_PORT>` with PostgreSQL.",
    )
    retention_days: Annotated[float, Field(gt=0, le=36_500)] | None = Field(
        None,
        description="`traffic-manager compact` forgets changes older than this many days. Unset: none ever.",
    )
    reason_required: Words = Field(
        (),
        description="Tenants whose routes are changed only with a reason (`TM-Reason`), by name; `*`: all.",
    )
    url_schemes: Words = Field(
        ("https", "http"), description="Schemes that a route's URL may have.", min_length=1
    )
    url_deny_loopback: bool = Field(False, description="Refuse URLs that point to this machine itself.")
    url_hosts_file: Path | None = Field(
        None,
        description="File that says which hosts the routes of which tenant may point to; unset: any. "
        "[security.md](security.md#where-routes-may-point) has its form.",
    )

    @property
    def is_development(self) -> bool:
        """True where convenience comes before strictness."""
        return self.environment is Environment.DEVELOPMENT

    def asks_for_reason(self, tenant: str) -> bool:
        """Return whether the routes of *tenant* are changed only for a reason that is given."""
        return tenant in self.reason_required or "*" in self.reason_required

    @property
    def logs_as_json(self) -> bool:
        """True if log lines are JSON objects."""
        return (self.log_format or ("console" if self.is_development else "json")) == "json"

    @property
    def drain_s(self) -> float:
        """Seconds to go on accepting requests after SIGTERM."""
        return self.drain_seconds if self.drain_seconds is not None else (0.0 if self.is_development else 5.0)
