"""All settings, from environment variables and `.env`: one frozen section per room, each in its module of `sections`.
Whoever needs a section imports it from here.

`loading.load_settings` is called once, by `cli`. Sections are passed to the parts that need them; nothing reads the
environment later. Each field's description is what `docs/settings.md` and `.env.example` say; a test
holds them together.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from pydantic import BaseModel, SecretStr

from traffic_manager.config.section import Section
from traffic_manager.config.sections.api import ApiSettings
from traffic_manager.config.sections.app import AppSettings, Environment
from traffic_manager.config.sections.audit import AuditSettings
from traffic_manager.config.sections.auth import AuthSettings
from traffic_manager.config.sections.cache import CacheSettings
from traffic_manager.config.sections.db import DbSettings
from traffic_manager.config.sections.kafka import KafkaSettings
from traffic_manager.config.sections.limit import LimitSettings
from traffic_manager.config.sections.redis import RedisSettings
from traffic_manager.config.sections.tls import TlsSettings
from traffic_manager.config.sections.traces import TracesSettings
from traffic_manager.config.sections.watch import WatchSettings
from traffic_manager.errors import SettingsInvalid

__all__ = [
    "ApiSettings",
    "AppSettings",
    "AuditSettings",
    "AuthSettings",
    "CacheSettings",
    "DbSettings",
    "Environment",
    "KafkaSettings",
    "LimitSettings",
    "RedisSettings",
    "Section",
    "Settings",
    "TlsSettings",
    "TracesSettings",
    "WatchSettings",
    "shown",
]


class Settings(BaseModel):
    """All sections: `settings.db.host`, `settings.app.log_level`, ..."""

    model_config = {"frozen": True}

    app: AppSettings
    api: ApiSettings
    auth: AuthSettings
    tls: TlsSettings
    limit: LimitSettings
    audit: AuditSettings
    watch: WatchSettings
    db: DbSettings
    redis: RedisSettings
    cache: CacheSettings
    kafka: KafkaSettings
    traces: TracesSettings

    @classmethod
    def section_types(cls) -> dict[str, type[Section]]:
        """Return the type of each section by its name, in the order of docs/settings.md."""
        return {name: cast("type[Section]", about.annotation) for name, about in cls.model_fields.items()}

    @property
    def is_open(self) -> bool:
        """True if nobody is asked for a key."""
        default = "open" if self.app.is_development else "required"
        return (self.auth.mode or default) == "open"

    @property
    def host(self) -> str:
        """The address to listen on: nobody else's machine reaches an open server unless that is asked for."""
        return self.api.host or ("127.0.0.1" if self.is_open else "0.0.0.0")  # noqa: S104 the published default

    @property
    def pepper(self) -> bytes | None:
        """What digests of keys are keyed with."""
        return self.auth.pepper.get_secret_value().encode() if self.auth.pepper else None

    def check_serving(self) -> None:
        """Raise SettingsInvalid if no server may run with these, though other commands may."""
        if not self.is_open and self.auth.pepper is None:
            raise SettingsInvalid(
                ["AUTH_PEPPER: must be set with AUTH_MODE=required; `openssl rand -hex 32` makes a good one"]
            )

    @property
    def snapshot_path(self) -> Path | None:
        """Where the table is kept on disk, None for nowhere: SQLite's file is on this disk itself."""
        if not self.db.is_postgres or self.app.snapshot_path == "off":
            return None
        return Path(self.app.snapshot_path or f"data/snapshot-{self.api.port}")

    @property
    def serves_docs(self) -> bool:
        """True if `/docs` is served."""
        return (
            self.api.docs if self.api.docs is not None else self.app.environment is not Environment.PRODUCTION
        )


def shown(settings: Settings) -> dict[str, str]:
    """Return every setting by variable as text, secrets as `***`, for `traffic-manager config show`."""
    values: dict[str, str] = {}
    for name in Settings.section_types():
        section: Section = getattr(settings, name)
        for field, value in section:
            values[section.variable(field)] = _text(value)
    return values


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)
