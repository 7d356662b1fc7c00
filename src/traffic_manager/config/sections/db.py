"""`DB_*`: which database, as whom, by how many connections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Port, Seconds, Section


class DbSettings(Section):
    """The database: PostgreSQL if DB_HOST is set, else SQLite in the file DB_PATH."""

    model_config = ConfigDict(env_prefix="DB_")

    host: str | None = Field(
        None, description="PostgreSQL's host or socket folder. Unset: SQLite in `DB_PATH`."
    )
    port: Port = Field(5432, description="PostgreSQL's port.")
    name: str = Field("app_db", description="The database's name.")
    user: str = Field("app_user", description="The role that the servers connect as.")
    password: SecretStr | None = Field(None, description="That role's password.")
    migrate_user: str | None = Field(
        None, description="The role that owns the tables and runs `migrate`. Default: `DB_USER`."
    )
    migrate_password: SecretStr | None = Field(None, description="The migration role's password.")
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer", description="TLS to PostgreSQL, as libpq names it."
    )
    sslrootcert: Path | None = Field(None, description="File of the certificate authority for `verify-*`.")
    path: Path = Field(Path("data/traffic-manager.db"), description="SQLite's file.")
    pool_min: Annotated[int, Field(ge=1, le=500)] = Field(2, description="Connections kept open per worker.")
    pool_max: Annotated[int, Field(ge=4, le=500)] = Field(
        10,
        description="At most this many connections per worker, from 4; the follower has one more of its own, "
        "and so has the relay while it leads.",
    )
    connection_timeout: Seconds = Field(2.0, description="Seconds to wait for a new connection.")
    prepare: bool = Field(
        True,
        description="Keep statements prepared. `false` behind a pooler in transaction mode, where the next statement "
        "may meet another connection.",
    )

    @property
    def is_postgres(self) -> bool:
        """True if the database is PostgreSQL."""
        return self.host is not None

    @property
    def described(self) -> str:
        """Which database it is, for what is kept of it elsewhere."""
        return f"{self.host}:{self.port}/{self.name}" if self.is_postgres else str(self.path.absolute())

    @property
    def as_owner(self) -> DbSettings:
        """These settings with the role that owns the tables, for what the servers' role may not do."""
        if self.migrate_user is None:
            return self
        return self.model_copy(update={"user": self.migrate_user, "password": self.migrate_password})

    @model_validator(mode="after")
    def _check_pool(self) -> DbSettings:
        if self.pool_min > self.pool_max:
            raise ValueError("DB_POOL_MIN: must not be above DB_POOL_MAX")
        return self
