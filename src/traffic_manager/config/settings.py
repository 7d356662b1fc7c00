"""All settings, from environment variables and `.env`: one frozen section per room.

`loading.load_settings` is called once, by `cli`. Sections are
passed to the parts that need them; nothing reads the environment later. Each field's description is what
`docs/settings.md` and `.env.example` say; a test holds them together.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.errors import SettingsInvalid


class Environment(StrEnum):
    """Where this runs; see docs/settings.md for what it changes."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


def _split(value: Any) -> Any:  # Any: whatever the source gave, pydantic checks it next
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ip_network(value)
        except ValueError as error:
            raise ValueError(f"{error}; write 10.0.0.0/8 or 2001:db8::/32") from error
    return values


Networks = Annotated[Words, AfterValidator(_networks)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class Section(BaseSettings):
    """The settings of one room. The variable of a field is PREFIX + FIELD in capitals."""

    model_config = ConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    @classmethod
    def variable(cls, field_name: str) -> str:
        """Return the environment variable of a field."""
        return f"{cls.model_config.get('env_prefix', '')}{field_name}".upper()


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


class AuthSettings(Section):
    """Who may call."""

    model_config = ConfigDict(env_prefix="AUTH_")

    mode: Literal["open", "required"] | None = Field(
        None,
        description="`required`: whoever calls must show a credential; `open`: nobody is asked, and everybody may do "
        "everything; for development only. Default: `open` in development, else `required`.",
    )
    pepper: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        None,
        description="What stored digests of keys are keyed with: at least 32 characters, as from "
        "`openssl rand -hex 32`, the same on every node. Changing it ends every key.",
    )
    issuers_file: Path | None = Field(
        None,
        description="JSON file of the identity providers whose tokens (JWT) are taken, and of what their claims "
        "permit; see docs/security.md. Unset: no tokens are taken.",
    )
    metrics: Literal["required", "open"] = Field(
        "required", description="`open`: `/metrics` asks for no key, whatever `AUTH_MODE` is."
    )


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


class KafkaSettings(Section):
    """Where changes are told. Unset servers: they wait in the outbox."""

    model_config = ConfigDict(env_prefix="KAFKA_")

    bootstrap_servers: str | None = Field(
        None, description="`host:port,...` of Kafka. Unset: no events are sent."
    )
    route_events_topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] = Field(
        "route-events", description="The topic of route changes."
    )
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


class CacheSettings(Section):
    """How long Redis keeps answers."""

    model_config = ConfigDict(env_prefix="CACHE_")

    positive_ttl: Annotated[int, Field(ge=1, le=86_400)] = Field(
        60, description="Seconds that Redis keeps a route."
    )
    negative_ttl: Annotated[int, Field(ge=1, le=86_400)] = Field(
        10, description='Seconds that Redis and a bounded mirror keep "no such route".'
    )


class TlsSettings(Section):
    """TLS of the HTTP server. Unset certificate: plain HTTP."""

    model_config = ConfigDict(env_prefix="TLS_")

    cert_file: Path | None = Field(
        None,
        description="File of the server's certificate in PEM, with the intermediate ones after it. Set: HTTPS, "
        "TLS 1.2 or later, and nothing else on that port. A renewed file is taken up within seconds.",
    )
    key_file: Path | None = Field(
        None, description="File of that certificate's private key in PEM, not encrypted."
    )
    client_ca_file: Path | None = Field(
        None,
        description="File of the authorities, in PEM, whose client certificates are taken. Unset: nobody's.",
    )
    client_auth: Literal["optional", "required"] = Field(
        "optional",
        description="`required`: whoever shows no such certificate gets no connection, probes of health neither.",
    )
    client_grants_file: Path | None = Field(
        None,
        description="JSON file that says what the names in client certificates may do; see docs/security.md. Unset: "
        "a certificate opens a connection and is no credential.",
    )

    @property
    def is_on(self) -> bool:
        """True if the server speaks TLS."""
        return self.cert_file is not None

    @model_validator(mode="after")
    def _check_files(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("TLS_CERT_FILE, TLS_KEY_FILE: must be set together")
        if self.client_ca_file and not self.is_on:
            raise ValueError("TLS_CLIENT_CA_FILE: must be set with TLS_CERT_FILE")
        if self.client_ca_file is None and self.client_auth == "required":
            raise ValueError("TLS_CLIENT_AUTH: required must be set with TLS_CLIENT_CA_FILE")
        if self.client_ca_file is None and self.client_grants_file:
            raise ValueError("TLS_CLIENT_GRANTS_FILE: must be set with TLS_CLIENT_CA_FILE")
        return self


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
    heads_topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] | None = Field(
        None, description="Topic of Kafka that signed heads are sent to as well. Unset: none."
    )
    heads_seconds: Seconds = Field(
        60.0, description="So often `traffic-manager audit sign` looks for a new head."
    )


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


class TracesSettings(Section):
    """Traces, by the variables of OpenTelemetry."""

    model_config = ConfigDict(env_prefix="OTEL_")

    traces_exporter: Literal["none", "otlp"] = Field(
        "none", description="`otlp`: tell a collector of requests, as traces; see docs/traces.md."
    )
    sdk_disabled: bool = Field(False, description="No traces, whatever `OTEL_TRACES_EXPORTER` says.")
    exporter_otlp_endpoint: Annotated[str, Field(pattern=r"^https?://")] = Field(
        "http://localhost:4318", description="The collector's URL, to which `/v1/traces` is added."
    )
    exporter_otlp_protocol: Literal["http/protobuf"] = Field(
        "http/protobuf", description="How it is spoken to: by no other protocol."
    )
    exporter_otlp_headers: SecretStr | None = Field(
        None, description="Headers of what it is sent, `name=value,...`, such as a vendor's key."
    )
    service_name: str = Field("traffic-manager", description="What the spans say that they are of.")
    resource_attributes: str | None = Field(
        None, description="What else they say, `name=value,...`, such as `deployment.environment.name=prod`."
    )
    traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        "parentbased_always_on",
        description="Which requests are traced. `parentbased_*`: those that are part of a trace, as their "
        "`traceparent` says, the others as the rest of the name says.",
    )
    traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="The share that `*traceidratio` takes."
    )

    @property
    def is_on(self) -> bool:
        """True if there are traces."""
        return self.traces_exporter == "otlp" and not self.sdk_disabled

    @property
    def ratio(self) -> float:
        """Which share of the requests is traced for which no other span decides."""
        if self.traces_sampler.endswith("traceidratio"):
            return self.traces_sampler_arg
        return 1.0 if self.traces_sampler.endswith("always_on") else 0.0

    @property
    def heeds_parent(self) -> bool:
        """True if a request that is part of a trace is traced as that says."""
        return self.traces_sampler.startswith("parentbased_")

    @property
    def traces_url(self) -> str:
        """Where spans are sent."""
        return f"{self.exporter_otlp_endpoint.rstrip('/')}/v1/traces"

    @property
    def headers(self) -> str:
        """The headers that go with them."""
        return self.exporter_otlp_headers.get_secret_value() if self.exporter_otlp_headers else ""


Figure = Annotated[int, Field(ge=0, le=1_000_000_000)] | None


class LimitSettings(Section):
    """How much each tenant, and each principal, may ask for and have, where `traffic-manager limits` sets nothing
    else."""

    model_config = ConfigDict(env_prefix="LIMIT_")

    tenant_resolves: Figure = Field(
        None, description="Resolves a second of one tenant's routes, over all workers. Unset: any number."
    )
    tenant_writes: Figure = Field(
        None, description="Changes a second of one tenant's routes; a batch counts once for each operation."
    )
    tenant_lists: Figure = Field(
        None, description="Lists, histories, changes and other reads a second of one tenant's routes."
    )
    tenant_routes: Figure = Field(None, description="Routes that a tenant may have, active or not.")
    tenant_keys: Figure = Field(None, description="Keys in force that may hold in one tenant.")
    principal_resolves: Figure = Field(
        None, description="Resolves a second of one owner of keys, by all of their keys together."
    )
    principal_writes: Figure = Field(None, description="Changes a second of one owner of keys.")
    principal_lists: Figure = Field(None, description="Lists and other reads a second of one owner of keys.")
    nodes: Annotated[int, Field(ge=1, le=1000)] = Field(
        1,
        description="How many nodes share these limits: each worker has its part, and with Redis more of what "
        "others do not need.",
    )
    failed_sign_ins: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        600,
        description="Wrong credentials a minute from one address, at each worker; then 429 instead of 401.",
    )


class Settings(BaseModel):
    """All sections: `settings.db.host`, `settings.app.log_level`, ..."""

    model_config = {"frozen": True}
    sections: ClassVar[tuple[str, ...]] = (
        "app",
        "api",
        "auth",
        "tls",
        "limit",
        "audit",
        "watch",
        "db",
        "redis",
        "cache",
        "kafka",
        "traces",
    )

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
    for name in Settings.sections:
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
