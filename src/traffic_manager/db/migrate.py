"""Brings the tables to this program's version, and says whether they are there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from traffic_manager.config.settings import DbSettings
from traffic_manager.db.pool import Dialect
from traffic_manager.db.schema import NEXT_SCHEMA_VERSION, SCHEMA_VERSION
from traffic_manager.db.session import Session
from traffic_manager.errors import SchemaMismatch, StartRefused

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_GRANTS = (
    "grant usage on schema public to {role}",
    "grant select, insert, update, delete on routes, leases, events_set_aside, receipts to {role}",
    "grant select, insert on changes to {role}",
    "grant select, insert, update on api_keys to {role}",
    "grant select, insert, update, delete on limits to {role}",
    "grant select, update (epoch, epoch_number) on meta to {role}",
    "grant select on alembic_version to {role}",
)


def migrate(settings: DbSettings) -> str:
    """Bring the tables to the newest version and return it; leave later ones, of a program that is being rolled
    out, as they are. Safe to run twice, and from two places at once.

    Raises StartRefused if the database cannot be reached or refuses.
    """
    from sqlalchemy.exc import DBAPIError

    engine = _engine(settings)
    try:
        with engine.begin() as connection:
            _lock(connection, settings)
            found = _current(connection)
            if found is None or found <= SCHEMA_VERSION:
                _upgrade(connection)
                _grant(connection, settings)
    except DBAPIError as error:
        where = "DB_HOST" if settings.is_postgres else f"DB_PATH: {settings.path}"
        raise StartRefused(f"{where}: cannot migrate: {str(error.orig).strip()}") from error
    finally:
        engine.dispose()
    return max(found or "", SCHEMA_VERSION)


def check_schema(session: Session, dialect: Dialect) -> None:
    """Raise SchemaMismatch if the tables are neither of this program's version nor of the one after it."""
    found = found_version(session, dialect)
    if found not in (SCHEMA_VERSION, NEXT_SCHEMA_VERSION):
        raise SchemaMismatch(
            f"the database's tables are of version {found or 'none'}, this program needs {SCHEMA_VERSION}: "
            "run `traffic-manager migrate`, or start with `traffic-manager serve --migrate`"
        )


def found_version(session: Session, dialect: Dialect) -> str | None:
    """Return the version of the tables, None if there are none."""
    exists = (
        "select to_regclass('alembic_version')"
        if dialect.name == "postgresql"
        else "select name from sqlite_master where name = 'alembic_version'"
    )
    row = session.row(exists)
    if row is None or row[0] is None:
        return None
    version = session.row("select version_num from alembic_version")
    return str(version[0]) if version else None


def _engine(settings: DbSettings) -> Engine:
    from sqlalchemy import NullPool, create_engine

    if settings.is_postgres:
        import psycopg

        from traffic_manager.db.postgres import conninfo

        target = conninfo(settings, for_migration=True)
        return create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(target), poolclass=NullPool
        )
    from traffic_manager.db.sqlite import connect, make_folder

    make_folder(settings.path)
    return create_engine("sqlite://", creator=lambda: connect(settings.path), poolclass=NullPool)


def _lock(connection: Connection, settings: DbSettings) -> None:
    """Let one migration run at a time, and none wait for long behind a busy table."""
    if settings.is_postgres:
        connection.exec_driver_sql("set local lock_timeout = '10s'")
        connection.exec_driver_sql("select pg_advisory_xact_lock(7236717)")
    else:
        connection.exec_driver_sql("begin immediate")


def _current(connection: Connection) -> str | None:
    """Return the version of the tables, None if there are none."""
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection, version: str = "head") -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # else it tells of every plug-in that it loads
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, version)


def _grant(connection: Connection, settings: DbSettings) -> None:
    """Let the servers' role work with tables that another role owns."""
    if not settings.is_postgres or settings.migrate_user in (None, settings.user):
        return
    role = '"' + settings.user.replace('"', '""') + '"'
    for statement in _GRANTS:
        connection.exec_driver_sql(statement.format(role=role))
