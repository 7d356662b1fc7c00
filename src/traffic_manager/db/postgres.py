"""PostgreSQL: a small pool per worker, and deadlines that hold even when the server is frozen.

The server's own time-outs (statement, lock, idle in transaction) end what it can see. A server that has
stopped answering while its TCP connection lives is only seen by us: the watchdog cuts such connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, cast

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from traffic_manager import failpoints
from traffic_manager.config.settings import DbSettings
from traffic_manager.db.breaker import Breaker, Dialling
from traffic_manager.db.json_rows import as_command
from traffic_manager.db.lender import Lender
from traffic_manager.db.pool import (
    FEED_DEADLINE_S,
    LOCK_TIMEOUT_S,
    READ_DEADLINE_S,
    TABLE_DEADLINE_S,
    TABLES_WRONG,
    WRITE_DEADLINE_S,
    Counters,
    Dialect,
    PoolStats,
    Question,
    Write,
    wait_readable,
)
from traffic_manager.db.round_trip import Command, Connection, round_trip, rows_of
from traffic_manager.db.session import Cursor, Row, Session, pyformat
from traffic_manager.db.watchdog import Watchdog
from traffic_manager.errors import Busy, OutcomeUnknown, SourceUnavailable, StorageFull, StorageReadOnly

# Any number, the same for ever: the one lock under which all changes are made.
REVISION_LOCK = 0x746D_7265_76
_BEGIN = Command("begin isolation level read committed", {})
_LOCK = Command(f"select pg_advisory_xact_lock({REVISION_LOCK})", {})
_COMMIT = Command("commit", {})
_ROLLBACK = Command("rollback", {})

# Of the database, which may hold several schemas with tables of ours: a hint too many costs a poll.
_CHANNEL = "traffic_manager"
_HINT = f"select pg_notify('{_CHANNEL}', :revision)"

# A statement is prepared once it was used so often: those of start-up are not worth it.
_PREPARE_AFTER = 5
_POOLER_BETWEEN = "a pooler in transaction mode is in between: set DB_PREPARE=false"

Asking = Callable[[], AbstractContextManager[None]]

_SERVER_SETTINGS = {
    "statement_timeout": int(WRITE_DEADLINE_S * 1000),
    "lock_timeout": int(LOCK_TIMEOUT_S * 1000),
    # A stalled holder of the revision lock blocks everyone; lock_timeout alone never frees it.
    "idle_in_transaction_session_timeout": 2000,
    # A role's defaults may say otherwise; under repeatable read 248 of 300 creations met a duplicate key.
    "default_transaction_isolation": r"read\ committed",
    "synchronous_commit": "on",
    # Statistics of a nearly empty `changes` make a cached plan sort the whole table: 28 ms to read the head.
    "enable_seqscan": "off",
    # The same with the index of a filter: 13,000 routes were fetched and sorted for a page of 100.
    "enable_bitmapscan": "off",
    # A plan that must scan in spite of that has a cost that wakes the compiler: 150 ms for a look-up of 0.2 ms.
    "jit": "off",
}


class PostgresDatabase:
    """Connections to PostgreSQL; finds it again by itself after an outage."""

    dialect = Dialect(
        "postgresql",
        keys_from="jsonb_array_elements(cast(:keys as jsonb)) as k(value)",
        now="(extract(epoch from clock_timestamp()) * 1000000)::bigint",
        hint=_HINT,
    )

    def __init__(self, settings: DbSettings, counters: Counters) -> None:
        self._conninfo = conninfo(settings)
        self._prepare_threshold = _PREPARE_AFTER if settings.prepare else None
        self._counters = counters
        self._watchdog = Watchdog()
        self._breaker = Breaker()
        self._dialling = Dialling()
        self._lender = Lender(
            self._conninfo,
            settings.pool_min,
            settings.pool_max,
            self._prepare_threshold,
            self._breaker,
            self._dialling,
            counters,
        )

    def open(self) -> None:
        """Start the pool; connections come up in the background."""
        self._watchdog.start()
        self._lender.open()

    def close(self) -> None:
        """Close every connection."""
        self._lender.close()
        self._watchdog.stop()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the deadlines of what `connect` opened, without the pool; leaves no thread behind."""
        self._watchdog.start()
        try:
            yield
        finally:
            self._watchdog.stop()

    def hurry(self) -> None:
        """Let the calls under way end now. For signal handlers."""
        self._watchdog.hurry()

    def stats(self) -> PoolStats:
        """Return how the pool stands."""
        return self._lender.stats()

    @property
    def is_left_alone(self) -> bool:
        """True while calls fail at once, because the database did not answer."""
        return self._breaker.is_open

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Lend a connection for single statements."""
        with self._checkout() as connection, self._watchdog.limit(connection, READ_DEADLINE_S):
            yield _session(connection, self._counters)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Begin a transaction that commits when the block ends well."""
        with self._checkout() as connection, self._watchdog.limit(connection, WRITE_DEADLINE_S):
            connection.execute("begin isolation level read committed")
            session = _session(connection, self._counters)
            try:
                yield session
            except BaseException:
                with suppress(psycopg.Error):  # a broken connection has rolled back by itself
                    connection.execute("rollback")
                raise
            _commit(connection)
            if session.hinted_revision is not None:
                self._hint(session, session.hinted_revision)

    def _hint(self, session: Session, revision: int) -> None:
        """Tell all followers. In a statement of its own, after the commit: inside the transaction it would make
        all commits of the cluster wait for each other. What is committed stays so if it fails."""
        with suppress(psycopg.Error):
            session.row(str(self.dialect.hint), revision=str(revision))

    @contextmanager
    def changing(self) -> Iterator[PostgresChange]:
        """Lend a connection to make changes with."""
        with self._checkout() as connection, self._watchdog.limit(connection, WRITE_DEADLINE_S):
            try:
                yield PostgresChange(connection, self._counters)
            finally:
                if connection.info.transaction_status != TransactionStatus.IDLE:
                    with suppress(psycopg.Error):  # a broken connection has rolled back by itself
                        round_trip(connection, [_ROLLBACK])

    def lock_revision(self, session: Session) -> None:
        """Wait until no one else can make a change; the lock ends with the transaction."""
        session.rows("select pg_advisory_xact_lock(:lock)", lock=REVISION_LOCK)

    def connect(self) -> PostgresConnection:
        """Open a connection for the follower."""
        with self._asking():
            self._dialling.begin()
            connection = psycopg.connect(
                self._conninfo, autocommit=True, prepare_threshold=self._prepare_threshold
            )
            self._dialling.came_up()
        return PostgresConnection(connection, self._asking, self._watchdog, self._counters)

    @contextmanager
    def _checkout(self) -> Iterator[Connection]:
        began = self._breaker.check()
        with self._asking(began), self._lender.lend() as connection:
            yield connection

    @contextmanager
    def _asking(self, began: float | None = None) -> Iterator[None]:
        """Translate what the driver raises, and tell the breaker whether the database answered."""
        began = time.monotonic() if began is None else began
        try:
            with _translated(self._counters):
                yield
        except SourceUnavailable as error:
            if type(error) in (SourceUnavailable, OutcomeUnknown) and _is_unanswered(error.__cause__):
                self._breaker.failed(began)
            raise
        self._breaker.succeeded()


class PostgresChange:
    """A transaction that makes changes."""

    def __init__(self, connection: Connection, counters: Counters) -> None:
        self._connection = connection
        self._counters = counters

    def begin(self, *questions: Question) -> list[list[Row]]:
        """Begin, lock, and ask."""
        # Separate statements after the lock: one that also took the lock would read a stale head.
        asked = [Command(question.statement, {"keys": question.keys}) for question in questions]
        results = self._trip([_BEGIN, _LOCK, *asked])
        return [rows_of(self._connection, result) for result in results[2:]]

    def ask(self, question: Question) -> list[Row]:
        """Ask one more."""
        results = self._trip([Command(question.statement, {"keys": question.keys})])
        return rows_of(self._connection, results[0])

    def commit(self, writes: Sequence[Write], upto: int) -> None:
        """Write, commit and hint."""
        # Not inside the transaction: there the hint would make all commits of the cluster wait for each other. What
        # is committed stays so if it fails.
        hint = Command(_HINT, {"revision": upto})
        failpoints.reach("write.before_commit")
        try:
            results = self._trip([as_command(writes), _COMMIT], hint)
        except psycopg.Error as error:
            if self._connection.closed:
                raise OutcomeUnknown("the connection broke while the change was being committed") from error
            raise  # the server's own word: it has not committed
        if results[-2].command_status != b"COMMIT":
            raise SourceUnavailable("the database rolled the change back")
        failpoints.reach("write.after_commit")

    def _trip(self, commands: list[Command], afterwards: Command | None = None) -> list[PGresult]:
        for _ in commands:
            self._counters.query()
        return round_trip(self._connection, commands, afterwards)


class PostgresConnection:
    """The follower's own connection."""

    def __init__(
        self, connection: Connection, asking: Asking, watchdog: Watchdog, counters: Counters
    ) -> None:
        self._connection = connection
        self._asking = asking
        self._watchdog = watchdog
        self._counters = counters
        self._heard: list[int] = []

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Run single statements."""
        with self._asking(), self._watchdog.limit(self._connection, FEED_DEADLINE_S):
            yield _session(self._connection, self._counters)

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Run statements that all see the same moment; large results are streamed."""
        with self._asking(), self._watchdog.limit(self._connection, TABLE_DEADLINE_S):
            self._connection.execute("begin isolation level repeatable read, read only")
            self._connection.execute("set local statement_timeout = 0")
            self._connection.execute("set local enable_seqscan = on")
            try:
                yield Session(self._server_cursor, pyformat, self._counters.query)
            finally:
                with suppress(psycopg.Error):
                    self._connection.execute("rollback")

    def listen(self) -> None:
        """Hear hints from now on."""
        with self._asking(), self._watchdog.limit(self._connection, READ_DEADLINE_S):
            self._connection.add_notify_handler(self._hear)
            self._connection.execute(f"listen {_CHANNEL}")

    def wait(self, bell: int, timeout_s: float) -> Sequence[int]:
        """Return the revisions that hints name, as soon as one comes, *bell* is readable or time is up."""
        # Not as a question: that nothing came says nothing of the server.
        with _translated(self._counters):
            # What came along with an answer is in memory already, and makes the socket readable no more.
            if not self._heard and wait_readable(timeout_s, bell, self._connection.fileno()):
                self._connection.pgconn.consume_input()
            while (notify := self._connection.pgconn.notifies()) is not None:
                self._hear(psycopg.Notify(notify.relname.decode(), notify.extra.decode(), notify.be_pid))
        heard, self._heard = self._heard, []
        return heard

    def _hear(self, notify: psycopg.Notify) -> None:
        # Behind a pooler others' notifications may come, and anybody may send nonsense.
        if notify.channel == _CHANNEL and notify.payload.isascii() and notify.payload.isdigit():
            self._heard.append(int(notify.payload[:18]))

    def _server_cursor(self) -> Any:  # Any: psycopg's cursors take more than the protocol says
        # fetchall on the client peaked at 1 GB for a million routes; a server-side cursor does not.
        return self._connection.cursor(name=f"table_{time.monotonic_ns()}")

    def close(self) -> None:
        """Close it."""
        with suppress(psycopg.Error):
            self._connection.close()


def conninfo(settings: DbSettings, *, for_migration: bool = False) -> str:
    """Return libpq's connection string, for the migration role if asked."""
    migrating = for_migration and settings.migrate_user is not None
    secret = settings.migrate_password if migrating else settings.password
    return make_conninfo(
        host=settings.host,
        port=settings.port,
        dbname=settings.name,
        user=settings.migrate_user if migrating else settings.user,
        password=secret.get_secret_value() if secret else None,
        sslmode=settings.sslmode,
        sslrootcert=str(settings.sslrootcert) if settings.sslrootcert else None,
        connect_timeout=max(2, round(settings.connection_timeout)),  # libpq knows no shorter one
        application_name="traffic-manager",
        client_encoding="utf8",  # else a database without an encoding gives bytes for text
        tcp_user_timeout=3000,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=2,
        options=None if for_migration else " ".join(f"-c {k}={v}" for k, v in _SERVER_SETTINGS.items()),
    )


def _session(connection: Connection, counters: Counters) -> Session:
    return Session(lambda: cast("Cursor", connection.cursor()), pyformat, counters.query)


def _commit(connection: Connection) -> None:
    try:
        outcome = connection.execute("commit").statusmessage
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise OutcomeUnknown("the connection broke while the change was being committed") from error
    if outcome != "COMMIT":
        raise SourceUnavailable("the database rolled the change back")


@contextmanager
def _translated(counters: Counters) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        translation = _translation(error)
        if translation is None:
            raise
        counters.connection_error()
        raise translation from error


def _is_unanswered(cause: BaseException | None) -> bool:
    """Return whether the server said nothing, or that it takes nobody now."""
    if not isinstance(cause, psycopg.Error):
        return False
    code = cause.sqlstate or ""
    return not code or code[:2] == "08" or code[:3] == "57P" or code == "53300"


def _translation(error: psycopg.Error) -> SourceUnavailable | None:
    """Return what to tell the caller; None for what only a bug of ours can cause."""
    match error:
        case pg.LockNotAvailable():
            return Busy("another change is taking too long")
        case pg.DiskFull():
            return StorageFull("the database's disk is full")
        case pg.ReadOnlySqlTransaction():
            return StorageReadOnly("the database is read-only")
        case pg.SerializationFailure() | pg.DeadlockDetected() | pg.QueryCanceled():
            return Busy("the database gave the statement up")
        case pg.IdleInTransactionSessionTimeout() | psycopg.InterfaceError() | psycopg.OperationalError():
            return SourceUnavailable()
        case pg.UndefinedTable():
            return SourceUnavailable(TABLES_WRONG)
        case pg.InvalidSqlStatementName() | pg.DuplicatePreparedStatement():
            return SourceUnavailable(_POOLER_BETWEEN)
        case _:
            return None
