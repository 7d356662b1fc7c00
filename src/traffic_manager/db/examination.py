"""Looks at a database for `traffic-manager doctor`: what it is, what its role may do, how its indexes are. Judges
nothing; makes and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traffic_manager.db.migrate import current_version, opened_engine
from traffic_manager.db.schema import metadata
from traffic_manager.errors import SourceUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from traffic_manager.config.settings import DbSettings

# What the servers' role needs; `migrate` gives it to a role that does not own the tables.
NEEDED = {
    "routes": ("select", "insert", "update", "delete"),
    "changes": ("select", "insert"),
    "meta": ("select",),
    "leases": ("select", "insert", "update", "delete"),
    "api_keys": ("select", "insert", "update"),
    "limits": ("select", "insert", "update", "delete"),
    "receipts": ("select", "insert", "update", "delete"),
    "events_set_aside": ("select", "insert", "update", "delete"),
}
# Settings of PostgreSQL that answered changes hang on, or the statements' speed.
_ASKED = (
    *(
        "server_version_num",
        "fsync",
        "full_page_writes",
        "synchronous_commit",
        "autovacuum",
        "max_connections",
    ),
    *("idle_in_transaction_session_timeout", "server_encoding", "transaction_read_only"),
)
_MAY = "select has_table_privilege(%(table)s, %(privilege)s)"
_INDEXES = """select c.relname, i.indisvalid and i.indisready from pg_index i join pg_class c on c.oid = i.indexrelid
    join pg_class t on t.oid = i.indrelid
    where t.relname = any(%(tables)s) and t.relnamespace = 'public'::regnamespace"""
_DEAD = """select relname, n_dead_tup, n_live_tup from pg_stat_user_tables where relname = any(%(tables)s)"""


@dataclass(frozen=True)
class Examination:
    """What was found. *clock_ahead_s*: by how much the database's clock is before ours. *lacking*: what the role may
    not do, such as `insert on changes`. *may_rewrite*: it may change the log. *dead*: dead and live rows by table."""

    version: str | None
    clock_ahead_s: float
    settings: Mapping[str, str]
    lacking: Sequence[str] = ()
    may_rewrite: bool = False
    missing_indexes: Sequence[str] = ()
    invalid_indexes: Sequence[str] = ()
    dead: Mapping[str, tuple[int, int]] | None = None


def examine(settings: DbSettings) -> Examination:
    """Return what is found with the role of *settings*. Raises SourceUnavailable, with the driver's words."""
    from sqlalchemy.exc import DBAPIError

    servers_role = settings.model_copy(update={"migrate_user": None, "migrate_password": None})
    try:
        with opened_engine(servers_role) as engine, engine.connect() as connection:
            return _postgres(connection) if settings.is_postgres else _sqlite(connection)
    except DBAPIError as error:
        raise SourceUnavailable(str(error.orig).strip()) from error


def reach(settings: DbSettings) -> None:
    """Return if the role of *settings* that owns the tables can connect. Raises SourceUnavailable."""
    from sqlalchemy.exc import DBAPIError

    try:
        with opened_engine(settings) as engine, engine.connect() as connection:
            connection.exec_driver_sql("select 1")
    except DBAPIError as error:
        raise SourceUnavailable(str(error.orig).strip()) from error


def index_statement(name: str) -> str:
    """Return the statement that makes the index *name* of ours."""
    from sqlalchemy.dialects.postgresql.base import PGDialect
    from sqlalchemy.schema import CreateIndex

    index = next(i for table in metadata.sorted_tables for i in table.indexes if i.name == name)
    dialect = PGDialect()  # type: ignore[no-untyped-call] # SQLAlchemy has no types for it
    return " ".join(str(CreateIndex(index).compile(dialect=dialect)).split())


def _sqlite(connection: Connection) -> Examination:
    names = ("journal_mode", "synchronous", "quick_check")
    settings = {name: str(connection.exec_driver_sql(f"pragma {name}").scalar()) for name in names}
    settings["version"] = str(connection.exec_driver_sql("select sqlite_version()").scalar())
    version = current_version(connection)
    found = {
        row[0] for row in connection.exec_driver_sql("select name from sqlite_master where type = 'index'")
    }
    return Examination(version, 0.0, settings, missing_indexes=_missing(found) if version else ())


def _postgres(connection: Connection) -> Examination:
    version = current_version(connection)
    settings = {
        name: str(connection.exec_driver_sql(f"select current_setting('{name}', true)").scalar())
        for name in _ASKED
    }
    settings["is_replica"] = str(connection.exec_driver_sql("select pg_is_in_recovery()").scalar()).lower()
    ahead_s = _clock_ahead_s(connection)
    if version is None:
        return Examination(None, ahead_s, settings)
    tables = {"tables": list(metadata.tables)}
    indexes = {row[0]: row[1] for row in connection.exec_driver_sql(_INDEXES, tables)}
    return Examination(
        version,
        ahead_s,
        settings,
        _lacking(connection),
        any(_may(connection, "changes", what) for what in ("update", "delete", "truncate")),
        _missing(indexes),
        [name for name, is_good in indexes.items() if not is_good],
        {row[0]: (row[1], row[2]) for row in connection.exec_driver_sql(_DEAD, tables)},
    )


def _lacking(connection: Connection) -> list[str]:
    wanted = [(table, privilege) for table, all_of in NEEDED.items() for privilege in all_of]
    return [
        f"{privilege} on {table}" for table, privilege in wanted if not _may(connection, table, privilege)
    ]


def _may(connection: Connection, table: str, privilege: str) -> bool:
    return bool(connection.exec_driver_sql(_MAY, {"table": table, "privilege": privilege}).scalar())


def _missing(found: Mapping[str, bool] | set[str]) -> list[str]:
    wanted = [str(index.name) for table in metadata.sorted_tables for index in table.indexes]
    return sorted(name for name in wanted if name not in found)


def _clock_ahead_s(connection: Connection) -> float:
    """Return the difference to the middle of a round trip."""
    before = time.time()
    theirs = connection.exec_driver_sql("select extract(epoch from clock_timestamp())::float8").scalar_one()
    return float(theirs) - (before + time.time()) / 2
