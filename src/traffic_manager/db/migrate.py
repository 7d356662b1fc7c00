"""Brings the tables to this program's version, and says whether they are there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from traffic_manager.config.settings import DbSettings
from traffic_manager.db.pool import Dialect
from traffic_manager.db.schema import NEXT_SCHEMA_VERSION, SCHEMA_VERSION
from traffic_manager.db.session import Session
from traffic_manager.errors import SchemaMismatch, StartRefused

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_GRANTS = (
    "grant usage on schema public to {role}",
    "grant select, insert, update, delete on routes, leases, events_set_aside, receipts, change_traces to {role}",
    "grant select, insert on changes to {role}",
    "grant select, insert, update on api_keys to {role}",
    "grant select, insert, update, delete on limits to {role}",
    "grant select, update (epoch, epoch_number) on meta to {role}",
    "grant select on alembic_version to {role}",
)


# Who waits for a table makes all others wait behind it: better give up soon, and try again.
WAIT_MS = 1000
_TRY_FOR_S = 60.0
# Building an index of a large table takes its time, and who migrates beside it waits for that.
_TURN_S = 600.0
_AGAIN_S = 0.5
_MIGRATION_LOCK = 7236717
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(settings: DbSettings) -> str:
    """Bring the tables to the newest version and return it; leave later ones, of a program that is being rolled
    out, as they are. Safe to run twice, and from two places at once.

    Raises StartRefused if the database cannot be reached or refuses.
    """
    with _refusals_told(settings), opened_engine(settings) as engine, _turn(engine, settings) as connection:
        found = current_version(connection)
        if found is None or found <= SCHEMA_VERSION:
            _upgrade_in_turn(connection, settings)
    return max(found or "", SCHEMA_VERSION)


def version_at(settings: DbSettings) -> str | None:
    """Return the version of the tables, None if there are none. Makes nothing. Raises StartRefused."""
    if not settings.is_postgres and not settings.path.exists():
        return None
    with _refusals_told(settings), opened_engine(settings) as engine, engine.connect() as connection:
        return current_version(connection)


def plan(settings: DbSettings) -> str:
    """Return the SQL that `migrate` would run now, empty if it has nothing to do. Raises StartRefused."""
    found = version_at(settings)
    if found is not None and found >= SCHEMA_VERSION:
        return ""
    text = StringIO()
    dialect = "postgresql" if settings.is_postgres else "sqlite"
    _run_alembic(f"{found or 'base'}:head", output=text, dialect=dialect)
    timeout = f"set lock_timeout = '{WAIT_MS}ms';\n\n" if settings.is_postgres else ""
    return timeout + text.getvalue().strip() + "".join(f"\n\n{grant};" for grant in _grants(settings)) + "\n"


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


@contextmanager
def opened_engine(settings: DbSettings) -> Iterator[Engine]:
    """Lend the database through SQLAlchemy, as the role that owns the tables; each connection is a new one."""
    engine = _engine(settings)
    try:
        yield engine
    finally:
        engine.dispose()


def current_version(connection: Connection) -> str | None:
    """Return the version of the tables, None if there are none."""
    _hush_alembic()
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


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


@contextmanager
def _refusals_told(settings: DbSettings) -> Iterator[None]:
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        where = "DB_HOST" if settings.is_postgres else f"DB_PATH: {settings.path}"
        raise StartRefused(f"{where}: cannot migrate: {str(error.orig).strip()}") from error


@contextmanager
def _turn(engine: Engine, settings: DbSettings) -> Iterator[Connection]:
    """Lend a connection to migrate over, while nobody else does. SQLite's has begun a transaction, which ends with
    the block; for PostgreSQL another connection has one that keeps others out."""
    if not settings.is_postgres:
        with engine.begin() as connection:
            connection.exec_driver_sql("begin immediate")
            yield connection
        return
    from sqlalchemy import event

    event.listen(engine, "begin", _limit_waits)
    with engine.begin() as turn, engine.connect() as connection:
        _wait_for_turn(turn)
        _check_encoding(turn)
        # Also ends the last query's snapshot, for which an index that is built concurrently would wait.
        turn.exec_driver_sql("set local idle_in_transaction_session_timeout = 0")
        yield connection


def _wait_for_turn(connection: Connection) -> None:
    # Not with a statement that waits: building an index concurrently waits for all statements that have begun, so the
    # two would wait for each other.
    deadline = time.monotonic() + _TURN_S
    while not connection.exec_driver_sql(f"select pg_try_advisory_xact_lock({_MIGRATION_LOCK})").scalar():
        if time.monotonic() > deadline:
            raise StartRefused(f"DB_HOST: another migration has been running for {_TURN_S:.0f} s")
        time.sleep(_AGAIN_S)


def _check_encoding(connection: Connection) -> None:
    """Raise StartRefused if not every text that callers may send could be kept."""
    encoding = connection.exec_driver_sql("show server_encoding").scalar()
    if encoding != "UTF8":
        raise StartRefused(
            f"DB_NAME: the database's encoding is {encoding}, and must be UTF8: make it anew with "
            "`createdb --template=template0 --encoding=UTF8`"
        )


def _upgrade_in_turn(connection: Connection, settings: DbSettings) -> None:
    if not settings.is_postgres:
        _upgrade(connection)
        return
    _until_locks_are_free(connection, lambda: _upgrade(connection))
    for statement in _grants(settings):
        connection.exec_driver_sql(statement)
    connection.commit()


def _limit_waits(connection: Connection) -> None:
    connection.exec_driver_sql(f"set local lock_timeout = '{WAIT_MS}ms'")


def _until_locks_are_free(connection: Connection, work: Callable[[], None]) -> None:
    """Do *work*, again while others hold the locks that it needs: each time it goes on where the last one ended."""
    from psycopg.errors import LockNotAvailable
    from sqlalchemy.exc import DBAPIError

    deadline = time.monotonic() + _TRY_FOR_S
    while True:
        connection.rollback()  # a transaction that is open already would have to hold all versions
        try:
            return work()
        except DBAPIError as error:
            if not isinstance(error.orig, LockNotAvailable) or time.monotonic() > deadline:
                raise
        time.sleep(_AGAIN_S)


def _upgrade(connection: Connection, version: str = "head") -> None:
    _run_alembic(version, connection=connection)


def _run_alembic(version: str, *, output: TextIO | None = None, **attributes: object) -> None:
    """Have Alembic upgrade to *version*; with *output*, write there what it would run instead."""
    _hush_alembic()
    from alembic import command
    from alembic.config import Config

    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes.update(attributes)
    command.upgrade(config, version, sql=output is not None)


def _hush_alembic() -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # else it tells of every plug-in that it loads


def _grants(settings: DbSettings) -> Iterator[str]:
    """Yield what lets the servers' role work with tables that another role owns."""
    if settings.is_postgres and settings.migrate_user not in (None, settings.user):
        role = '"' + settings.user.replace('"', '""') + '"'
        yield from (statement.format(role=role) for statement in _GRANTS)
