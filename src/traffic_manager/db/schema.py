"""The tables, once, for both engines: what the migrations build and what `store` queries.

Times are integer microseconds since 1970 UTC on both engines, so that rows, and the chain over them, are the
same everywhere. Names compare byte by byte (COLLATE "C").
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

# The Alembic revision that this program works with; a test holds it equal to the newest migration.
SCHEMA_VERSION = "0010"
# Tables of the version after ours serve us too: who upgrades migrates first, while we run still. See ADR 16.
NEXT_SCHEMA_VERSION = f"{int(SCHEMA_VERSION) + 1:04}"

metadata = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_N_name)s"}
)

_Name = String(128).with_variant(String(128, collation="C"), "postgresql")
_Url = Text()
_Word = Text().with_variant(Text(collation="C"), "postgresql")

routes = Table(
    "routes",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("service", _Name, primary_key=True),
    Column("env", _Name, primary_key=True),
    Column("version", _Name, primary_key=True),
    Column("url", _Url, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # One index per list filter, each going on in key order, so that a page needs no sort.
    Index("ix_routes_service", "service", "tenant", "env", "version"),
    Index("ix_routes_env", "env", "tenant", "service", "version"),
    Index("ix_routes_version", "version", "tenant", "service", "env"),
    # Those that a list of inactive routes would else look for among all others.
    Index(
        "ix_routes_inactive",
        "tenant",
        "service",
        "env",
        "version",
        postgresql_where=text("not is_active"),
        sqlite_where=text("not is_active"),
    ),
    # Room in each page: a row that stays in its page when it changes is put into no index again.
    postgresql_with={"fillfactor": 70},
)

changes = Table(
    "changes",
    metadata,
    # Given by the writer under the revision lock; a sequence would leave gaps and number out of order.
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_end", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("tenant", _Name),
    Column("service", _Name),
    Column("env", _Name),
    Column("version", _Name),
    Column("action", String(16), nullable=False),
    Column("url", _Url),
    Column("is_active", Boolean, nullable=False),
    Column("previous", Text),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("correlation_id", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("chain", LargeBinary(32), nullable=False),
    Column("chain_version", Integer, nullable=False),
    # What a change of another kind than `route` is about, as JSON text; part of the chain from version 2 on.
    Column("detail", Text),
    # From where it was asked for; part of the chain from version 3 on.
    Column("address", Text),
    # History of a route, and the filters of /changes that begin with the tenant.
    Index("ix_changes_key", "tenant", "service", "env", "version", "revision"),
)

meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1: the table has one row
    Column("epoch", String(32), nullable=False),
    Column("epoch_number", Integer, nullable=False),
    Column("compacted_revision", BigInteger, nullable=False),
    Column("compacted_chain", LargeBinary(32), nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("published_revision", BigInteger, nullable=False),
    # The newest epoch of which all routes were told, and where: Kafka's id of the topic, and its partitions then.
    Column("told_epoch_number", Integer, nullable=False, server_default="1"),
    Column("told_topic", Text),
    Column("told_partitions", Integer),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("owner", _Name, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),  # HMAC-SHA256 of the secret; see ADR
    Column("grants", Text, nullable=False),  # JSON: [[role, tenant, env], ...]
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)

limits = Table(
    "limits",
    metadata,
    Column("subject", String(16), primary_key=True),  # tenant, or principal
    Column("name", _Name, primary_key=True),
    # Requests a second; null: as the settings say.
    Column("resolves", BigInteger),
    Column("writes", BigInteger),
    Column("lists", BigInteger),
    # How many it may have.
    Column("routes", BigInteger),
    Column("keys", BigInteger),
)

events_set_aside = Table(
    "events_set_aside",
    metadata,
    # Of the change whose event Kafka refused; the log has the rest.
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("set_aside_at", BigInteger, nullable=False),
)

change_traces = Table(
    "change_traces",
    metadata,
    # Of a change that belongs to a trace, as W3C Trace Context writes it. No evidence, so no part of the chain.
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("traceparent", Text, nullable=False),
    Column("tracestate", Text),
)

receipts = Table(
    "receipts",
    metadata,
    # Of requests that were done, for a day: so that the same request, sent again, is not done again.
    Column("principal", _Word, primary_key=True),
    Column("idempotency_key", _Word, primary_key=True),
    Column("request", LargeBinary(32), nullable=False),  # SHA-256 of what was asked for
    Column("answer", Text, nullable=False),  # what it came to, as JSON
    Column("made_at", BigInteger, nullable=False),
    Index("ix_receipts_made_at", "made_at"),
)
