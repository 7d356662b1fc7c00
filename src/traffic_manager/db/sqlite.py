"""SQLite in one file: the embedded default, for one worker process.

Write-ahead log with `synchronous=FULL`: an answered change survives a power cut. Writers take a process-wide
lock before BEGIN IMMEDIATE, because 32 threads without it met "locked" errors that no time-out cures.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, cast

from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from traffic_manager.config.settings import DbSettings
from traffic_manager.db.checkpoints import Checkpointer
from traffic_manager.db.pool import (
    CHECKOUT_TIMEOUT_S,
    LOCK_TIMEOUT_S,
    READ_DEADLINE_S,
    TABLES_WRONG,
    Counters,
    Dialect,
    PoolStats,
    Question,
    Write,
    wait_readable,
)
from traffic_manager.db.session import Cursor, Row, Session
from traffic_manager.errors import Busy, SourceUnavailable, StartRefused, StorageFull, StorageReadOnly

_WAL_MAX_BYTES = 64 * 1024 * 1024
# About a millisecond of work.
_STEPS_BETWEEN_LOOKS = 50_000


class SqliteDatabase:
    """The database in one file. Opens the file when first used."""

    dialect = Dialect("sqlite", keys_from="json_each(:keys) as k", now="clock_us()")

    def __init__(self, settings: DbSettings, counters: Counters) -> None:
        self._path = settings.path
        self._counters = counters
        self._write_lock = threading.Lock()
        self._checkpointer = Checkpointer(lambda: connect(self._path), self._write_lock)
        self._pool = QueuePool(
            lambda: cast("DBAPIConnection", self._connect()),
            pool_size=settings.pool_max,
            max_overflow=0,
            timeout=CHECKOUT_TIMEOUT_S,
        )

    def open(self) -> None:
        """Make the folder of the file, and begin to write checkpoints."""
        make_folder(self._path)
        self._checkpointer.start()

    def close(self) -> None:
        """Close every idle connection."""
        self._checkpointer.stop()
        self._pool.dispose()

    def watching(self) -> AbstractContextManager[None]:
        """Nothing to do: a file answers or fails."""
        return nullcontext()

    def hurry(self) -> None:
        """Nothing to do, for the same reason."""

    def stats(self) -> PoolStats:
        """Return how the pool stands; nobody queues visibly for SQLite."""
        in_use = self._pool.checkedout()
        idle = self._pool.checkedin()
        return PoolStats(size=in_use + idle, available=idle, in_use=in_use, waiting=0)

    @property
    def is_left_alone(self) -> bool:
        """Never: a file answers or fails."""
        return False

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Lend a connection for single statements."""
        with self._checkout() as connection, _translated(self._counters), _limited(connection):
            yield _session(connection, self._counters)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Begin a transaction under the process-wide lock."""
        if not self._write_lock.acquire(timeout=LOCK_TIMEOUT_S):
            raise Busy("another change is taking too long")
        try:
            with self._checkout() as connection, _translated(self._counters), _transaction(connection):
                yield _session(connection, self._counters)
        finally:
            self._write_lock.release()

    @contextmanager
    def changing(self) -> Iterator[SqliteChange]:
        """Lend a connection to make changes with, under the process-wide lock."""
        if not self._write_lock.acquire(timeout=LOCK_TIMEOUT_S):
            raise Busy("another change is taking too long")
        try:
            with self._checkout() as connection, _translated(self._counters):
                try:
                    yield SqliteChange(connection, self._counters)
                finally:
                    if connection.in_transaction:  # SQLite has rolled back by itself after some errors
                        with suppress(sqlite3.Error):
                            connection.execute("rollback")
        finally:
            self._write_lock.release()

    def lock_revision(self, session: Session) -> None:
        """Nothing to do: BEGIN IMMEDIATE has locked the whole file."""

    def connect(self) -> SqliteConnection:
        """Open a connection for the follower."""
        with _translated(self._counters):
            return SqliteConnection(connect(self._path), self._counters)

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self._path)
        if self._checkpointer.is_running:
            connection.execute("pragma wal_autocheckpoint=0")
        return connection

    @contextmanager
    def _checkout(self) -> Iterator[sqlite3.Connection]:
        try:
            with _translated(self._counters):
                fairy: PoolProxiedConnection = self._pool.connect()
        except PoolTimeout as error:
            self._counters.connection_error()
            raise Busy("all database connections are in use") from error
        try:
            yield cast("sqlite3.Connection", fairy.dbapi_connection)
        finally:
            fairy.close()


class SqliteChange:
    """A transaction that makes changes."""

    def __init__(self, connection: sqlite3.Connection, counters: Counters) -> None:
        self._connection = connection
        self._counters = counters

    def begin(self, *questions: Question) -> list[list[Row]]:
        """Begin, which locks the whole file, and ask."""
        self._connection.execute("begin immediate")
        return [self.ask(question) for question in questions]

    def ask(self, question: Question) -> list[Row]:
        """Ask one more."""
        self._counters.query()
        return self._connection.execute(question.statement, {"keys": question.keys}).fetchall()

    def commit(self, writes: Sequence[Write], upto: int) -> None:
        """Write and commit."""
        for write in writes:
            self._counters.query()
            rows = f"values ({', '.join('?' * len(write.types))})"
            self._connection.executemany(write.statement.format(rows=rows), write.rows)
        self._connection.execute("commit")


class SqliteConnection:
    """The follower's own connection."""

    def __init__(self, connection: sqlite3.Connection, counters: Counters) -> None:
        self._connection = connection
        self._counters = counters

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Run single statements."""
        with _translated(self._counters):
            yield _session(self._connection, self._counters)

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Run statements that all see the same moment."""
        with _translated(self._counters):
            self._connection.execute("begin")
            try:
                yield _session(self._connection, self._counters)
            finally:
                self._connection.execute("rollback")

    def listen(self) -> None:
        """Nothing to do: nobody but this process writes to the file."""

    def wait(self, bell: int, timeout_s: float) -> Sequence[int]:
        """Wait for *bell* or the time: whoever writes to the file rings it."""
        wait_readable(timeout_s, bell)
        return ()

    def close(self) -> None:
        """Close it."""
        self._connection.close()


class FileLock:
    """Keeps a second server off the same file: two would each believe they are the only writer's mirror."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock. Raises StartRefused if another process has it."""
        make_folder(self._path)
        try:
            file = self._path.open("w")
        except OSError as error:
            raise StartRefused(f"DB_PATH: cannot write {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise StartRefused(
                f"DB_PATH: another server uses this SQLite file ({self._path} is locked); "
                "stop it, choose another DB_PATH, or set DB_HOST to use PostgreSQL with many servers"
            ) from error
        self._file = file

    def release(self) -> None:
        """Let the next server have the file."""
        if self._file:
            self._file.close()
            self._file = None


def make_folder(path: Path) -> None:
    """Make the folder that the file *path* goes to. Raises StartRefused if that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartRefused(f"DB_PATH: cannot make the folder {path.parent}: {error.strerror}") from error


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection set up as every part expects it."""
    connection = sqlite3.connect(
        path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute(f"pragma journal_size_limit={_WAL_MAX_BYTES}")
    connection.create_function("clock_us", 0, lambda: time.time_ns() // 1000)
    return connection


def _session(connection: sqlite3.Connection, counters: Counters) -> Session:
    return Session(lambda: cast("Cursor", connection.cursor()), _unchanged, counters.query)


def _unchanged(statement: str) -> str:
    return statement


@contextmanager
def _limited(connection: sqlite3.Connection) -> Iterator[None]:
    """End a statement that works past the deadline, such as a scan of a long log."""
    deadline = time.monotonic() + READ_DEADLINE_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
            connection.execute("rollback")
        raise


@contextmanager
def _translated(counters: Counters) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Errors of the module itself, such as a closed connection's, have no code.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if translation := _translation(code, str(error)):
            counters.connection_error()
            raise translation from error
        raise


def _translation(code: int, message: str) -> SourceUnavailable | None:
    if message.startswith("Could not decode to UTF-8"):
        return SourceUnavailable(
            "the SQLite file holds a text that is not UTF-8, which nobody here wrote: restore it"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy("the SQLite file is locked by another process")
    if code == sqlite3.SQLITE_INTERRUPT:
        return Busy("the statement took too long")
    if code == sqlite3.SQLITE_FULL:
        return StorageFull("the disk of the SQLite file is full")
    if code == sqlite3.SQLITE_READONLY:
        return StorageReadOnly("the SQLite file is read-only")
    if code == sqlite3.SQLITE_ERROR and message.startswith("no such table"):
        return SourceUnavailable(TABLES_WRONG)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return SourceUnavailable("the SQLite file is damaged: restore it from a backup")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return SourceUnavailable("the SQLite file cannot be read or written")
    return None
