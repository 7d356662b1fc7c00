"""Copies a database into another, empty one: `traffic-manager db copy`, from SQLite to PostgreSQL or back.

Every row of every table goes as it is, the epoch too: it is the same history in another place, so that all that
clients, caches, snapshots and topics hold of it stays good. What arrived is read again and compared before it is
committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Table, func, select
from sqlalchemy.exc import SQLAlchemyError

from traffic_manager.config.settings import DbSettings
from traffic_manager.db.migrate import current_version, migrate, opened_engine, version_at
from traffic_manager.db.schema import SCHEMA_VERSION, changes, leases, meta, metadata
from traffic_manager.errors import SchemaMismatch, StartRefused

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from traffic_manager.db.sqlite import FileLock

Progress = Callable[[int, int], None]

_BLOCK_ROWS = 5_000
# A database that was only migrated, or only looked at, has rows in these.
_NEVER_EMPTY = (meta.name, leases.name)


@dataclass(frozen=True)
class Copied:
    """How many rows of each table are in both databases now. *missed*: changes that were made at the source
    meanwhile, and are not in the copy."""

    rows: Mapping[str, int]
    missed: int


def copy(source: DbSettings, target: DbSettings, progress: Progress = lambda *_: None) -> Copied:
    """Copy all of *source* into *target*, whose tables are made if there are none. *progress* is told how many rows
    of how many were written or compared.

    Raises StartRefused if a server uses a SQLite file of the two, the target is not empty, or something cannot be
    copied; then the target is as empty as before.
    """
    with ExitStack() as stack:
        for settings in (source, target):
            stack.enter_context(_alone(settings))
        stack.enter_context(_failures_told())
        if version_at(target) is None:
            migrate(target)
        here = stack.enter_context(_reading(source))
        there = stack.enter_context(_writing(target))
        _refuse_if_filled(there)
        rows = _Copy(here, there, progress).run()
    return Copied(rows, max(0, _head(source) - _head(target)))


class _Copy:
    """Moves rows from one connection to the other and compares what arrived."""

    def __init__(self, here: Connection, there: Connection, progress: Progress) -> None:
        self._here = here
        self._there = there
        self._progress = progress
        self._rows = {table.name: _count(here, table) for table in metadata.sorted_tables}
        self._done = 0

    def run(self) -> Mapping[str, int]:
        """Return how many rows each table has."""
        for table in metadata.sorted_tables:
            self._there.execute(table.delete())
            sent = self._send(table)
            if self._fingerprint(self._there, table) != sent:
                raise StartRefused(f"table {table.name}: what arrived is not what was sent; nothing was kept")
        if self._there.dialect.name == "postgresql":
            # Plans made for the statistics of empty tables are bad ones.
            for name in self._rows:
                self._there.exec_driver_sql(f"analyze {name}")
        return self._rows

    def _send(self, table: Table) -> int:
        """Write all rows of *table*; return their fingerprint."""
        fingerprint = 0
        for rows in self._blocks(self._here, table):
            self._there.execute(table.insert(), [row._asdict() for row in rows])
            fingerprint += sum(map(_print, rows))
        return fingerprint

    def _fingerprint(self, connection: Connection, table: Table) -> int:
        return sum(_print(row) for rows in self._blocks(connection, table) for row in rows)

    def _blocks(self, connection: Connection, table: Table) -> Iterator[list[Row[Any]]]:
        """Yield all rows of *table*, and tell of each block when it has been used."""
        result = connection.execute(select(table), execution_options={"yield_per": _BLOCK_ROWS})
        for rows in result.partitions():
            yield list(rows)
            self._done += len(rows)
            self._progress(self._done, 2 * sum(self._rows.values()))


def _print(row: Row[Any]) -> int:
    """Return a number for what is in *row*. Their sum is the same in whatever order the rows come: each engine sorts
    text in its own way."""
    return int.from_bytes(sha256(repr(tuple(row)).encode()).digest())


@contextmanager
def _alone(settings: DbSettings) -> Iterator[None]:
    """Keep servers off a SQLite file."""
    if settings.is_postgres:
        yield
        return
    lock = _file_lock(settings)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _file_lock(settings: DbSettings) -> FileLock:
    from traffic_manager.db.sqlite import FileLock

    return FileLock(settings.path)


@contextmanager
def _reading(settings: DbSettings) -> Iterator[Connection]:
    """Lend a connection that sees one moment."""
    with opened_engine(settings) as engine, engine.connect() as connection:
        if settings.is_postgres:
            connection.exec_driver_sql("set transaction isolation level repeatable read, read only")
            _wait_for_ever(connection)
        else:
            connection.exec_driver_sql("begin")
        _check_version(connection, "source")
        yield connection


@contextmanager
def _writing(settings: DbSettings) -> Iterator[Connection]:
    """Begin a transaction in which nobody else makes changes; it commits when the block ends well."""
    with opened_engine(settings) as engine, engine.begin() as connection:
        if settings.is_postgres:
            from traffic_manager.db.postgres import REVISION_LOCK

            connection.exec_driver_sql("set local lock_timeout = '10s'")
            connection.exec_driver_sql(f"select pg_advisory_xact_lock({REVISION_LOCK})")
            _wait_for_ever(connection)
        else:
            connection.exec_driver_sql("begin immediate")
        _check_version(connection, "target")
        yield connection


def _wait_for_ever(connection: Connection) -> None:
    """Have the server end nothing that takes long: each side waits for the other."""
    for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
        connection.exec_driver_sql(f"set local {name} = 0")


def _check_version(connection: Connection, which: str) -> None:
    if (found := current_version(connection)) != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the {which}'s tables are of version {found or 'none'}, this program copies {SCHEMA_VERSION}: "
            "run `traffic-manager migrate` there, or use the program that belongs to them"
        )


def _refuse_if_filled(connection: Connection) -> None:
    filled = [
        table.name
        for table in metadata.sorted_tables
        if table.name not in _NEVER_EMPTY and _count(connection, table)
    ]
    if connection.scalar(select(meta.c.compacted_revision)):
        filled.append(meta.name)
    if filled:
        raise StartRefused(
            f"the target is not empty: there are rows in {', '.join(filled)}; copy into a new database"
        )


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _head(settings: DbSettings) -> int:
    with opened_engine(settings) as engine, engine.connect() as connection:
        return connection.scalar(select(func.max(changes.c.revision))) or 0


@contextmanager
def _failures_told() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        raise StartRefused(f"cannot copy: {reason}; the target is as empty as before") from error
