"""What the store needs of a database, whichever engine it is: open, check, statistics, close.

`postgres.py` and `sqlite.py` each give one `Database`; `open_database` chooses by the settings.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from traffic_manager.config.settings import DbSettings
from traffic_manager.db.session import Row, Session
from traffic_manager.errors import SourceUnavailable

# Seconds that a request waits for a free connection: past that the pool is full, and waiting makes it worse.
CHECKOUT_TIMEOUT_S = 0.25
LOCK_TIMEOUT_S = 1.5
READ_DEADLINE_S = 1.0
WRITE_DEADLINE_S = 1.9
# A follower that has to take in a long slice beside a busy event loop waits for its turns, not for the database.
FEED_DEADLINE_S = 3.0
_COMING_UP_S = 0.02
# The whole table is read in one statement; a million routes took 1.8 s.
TABLE_DEADLINE_S = 60.0

TABLES_WRONG = "the tables are missing or of another version: run `traffic-manager migrate`"


@dataclass(frozen=True)
class PoolStats:
    """Connections of this worker: how many are open, idle and in use, and how many requests wait for one."""

    size: int
    available: int
    in_use: int
    waiting: int


@dataclass(frozen=True)
class Dialect:
    """The few places in which the engines' SQL differs."""

    name: str
    keys_from: str  # a FROM item with one column `value`, a JSON array, per element of the parameter :keys
    now: str  # the clock in microseconds since 1970
    hint: str | None = None  # tells listeners that :revision is committed; None: nobody could hear it


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Counters:
    """What the pool counts: statements, connections that failed, seconds that somebody waited for one, and that all
    of them were given up for others."""

    query: Callable[[], None] = _nothing
    connection_error: Callable[[], None] = _nothing
    waited: Callable[[float], None] = _nothing
    pool_replaced: Callable[[], None] = _nothing


class Database(Protocol):
    """Connections to one database. Every wait in it ends by a deadline, as SourceUnavailable."""

    dialect: Dialect

    def open(self) -> None:
        """Start the pool; does not wait for the database."""

    def close(self) -> None:
        """Close every connection."""

    def watching(self) -> AbstractContextManager[None]:
        """Keep the deadlines of what `connect` opened, without opening the pool; leaves no thread behind."""

    def hurry(self) -> None:
        """Let the calls under way end now, as SourceUnavailable. For signal handlers."""

    def stats(self) -> PoolStats:
        """Return how the pool stands."""

    @property
    def is_left_alone(self) -> bool:
        """True while calls fail at once, because the database did not answer."""

    def reading(self) -> AbstractContextManager[Session]:
        """Lend a connection for single statements, each its own transaction."""

    def writing(self) -> AbstractContextManager[Session]:
        """Begin a transaction that commits when the block ends well, else rolls back."""

    def changing(self) -> AbstractContextManager[ChangeSession]:
        """Lend a connection to make changes with. What is not committed when the block ends is rolled back."""

    def lock_revision(self, session: Session) -> None:
        """Wait, in a transaction, until no one else can make a change before it ends."""

    def connect(self) -> FeedConnection:
        """Open a connection outside the pool, for the follower."""


class Question(NamedTuple):
    """A query; *keys* is its parameter `:keys`, if it has one."""

    statement: str
    keys: str | None = None


class Write(NamedTuple):
    """One statement for all of *rows*: `{rows}` in it stands for them, as a query with columns of these *types*
    (of PostgreSQL)."""

    statement: str
    types: tuple[str, ...]
    rows: Sequence[Sequence[object]]


class ChangeSession(Protocol):
    """A transaction that makes changes, in two steps or more: on PostgreSQL each is one round trip."""

    def begin(self, *questions: Question) -> list[list[Row]]:
        """Begin, wait until no one else can make a change, then ask *questions*; return the rows of each."""

    def ask(self, question: Question) -> list[Row]:
        """Ask one more, and return its rows."""

    def commit(self, writes: Sequence[Write], upto: int) -> None:
        """Do *writes* in their order, commit, and then hint that there are changes up to revision *upto*. Raises
        OutcomeUnknown if the connection broke meanwhile."""


class FeedConnection(Protocol):
    """A connection with one owner, who closes it after any error."""

    def reading(self) -> AbstractContextManager[Session]:
        """Run single statements."""

    def snapshot(self) -> AbstractContextManager[Session]:
        """Run statements that all see the same moment."""

    def listen(self) -> None:
        """Hear hints from now on, where there are any."""

    def wait(self, bell: int, timeout_s: float) -> Sequence[int]:
        """Return the revisions that hints name, as soon as one comes, the descriptor *bell* is readable or time
        is up."""

    def close(self) -> None:
        """Close it."""


def wait_readable(timeout_s: float, *descriptors: int) -> bool:
    """Return whether one of *descriptors* is readable before time is up."""
    poll = select.poll()  # select() fails above 1,023 open files, and every client has one
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    # Rounded up: a wait that ends early would begin again, and spin.
    return bool(poll.poll(math.ceil(timeout_s * 1000)))


@contextmanager
def opened_as_owner(settings: DbSettings) -> Iterator[Database]:
    """Lend the database to a command, as the role that owns the tables. Raises SourceUnavailable if it cannot
    be reached within the time for a connection."""
    database = open_database(settings.as_owner, Counters())
    database.open()
    try:
        _wait_until_open(database, time.monotonic() + settings.connection_timeout)
        yield database
    finally:
        database.close()


def _wait_until_open(database: Database, deadline: float) -> None:
    """Let the pool's first connection come up: a command comes sooner than it."""
    while True:
        try:
            with database.reading() as session:
                session.row("select 1")
            return
        except SourceUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(_COMING_UP_S)


def open_database(settings: DbSettings, counters: Counters) -> Database:
    """Return the database that *settings* name, not opened. Only the driver in use is imported."""
    if settings.is_postgres:
        from traffic_manager.db.postgres import PostgresDatabase

        return PostgresDatabase(settings, counters)
    from traffic_manager.db.sqlite import SqliteDatabase

    return SqliteDatabase(settings, counters)
