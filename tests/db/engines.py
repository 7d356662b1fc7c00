"""The three engines that every store test runs on, and what only tests do to them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.routing.memory_store import MemoryStore
from traffic_manager.config.settings import DbSettings
from traffic_manager.db.feed import SqlFeed
from traffic_manager.db.leases import SqlLeases
from traffic_manager.db.pool import Counters, Database, open_database
from traffic_manager.db.session import Row
from traffic_manager.db.store import SqlStore
from traffic_manager.routing.leases import Leases
from traffic_manager.routing.ports import ChangeFeed, RouteStore


class Engine(Protocol):
    """A database under test, through the ports of the rules."""

    name: str
    store: RouteStore
    leases: Leases

    def feed(self, bad_row: Callable[[], None] = ...) -> ChangeFeed:
        """Return a feed of its own connection."""

    def add_change_of_other_kind(self) -> None:
        """Append a row that is no change of a route."""

    def lose_change(self, revision: int) -> None:
        """Remove a row of the log, as tampering would."""

    def compact(self, upto: int) -> None:
        """Remove the changes up to *upto*, as retention does."""

    def begin_epoch(self, epoch: str) -> None:
        """Go on with the same rows as another history."""

    def chains(self) -> Sequence[bytes]:
        """Return the digests of the log, the oldest first."""


class MemoryEngine:
    """The fake."""

    name = "memory"

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.store: RouteStore = self.memory
        self.leases: Leases = self.memory
        self.add_change_of_other_kind = self.memory.add_change_of_other_kind
        self.lose_change = self.memory.lose_change
        self.compact = self.memory.compact
        self.begin_epoch = self.memory.begin_epoch

    def feed(self, bad_row: Callable[[], None] = lambda: None) -> ChangeFeed:
        return self.memory

    def chains(self) -> Sequence[bytes]:
        return [self.memory.pulse(r).chain or b"" for r in range(1, self.memory.head.revision + 1)]


@dataclass
class Counts:
    """What a database counted."""

    queries: int = 0
    errors: int = 0
    replaced: int = 0
    counters: Counters = field(init=False)

    def __post_init__(self) -> None:
        self.counters = Counters(self._query, self._error, pool_replaced=self._replace)

    def _query(self) -> None:
        self.queries += 1

    def _error(self) -> None:
        self.errors += 1

    def _replace(self) -> None:
        self.replaced += 1


class SqlEngine:
    """SQLite or PostgreSQL."""

    def __init__(self, settings: DbSettings) -> None:
        self.settings = settings
        self.counts = Counts()
        self.database: Database = open_database(settings, self.counts.counters)
        self.database.open()
        self.name = self.database.dialect.name
        self.store: RouteStore = SqlStore(self.database)
        self.leases: Leases = SqlLeases(self.database)
        self._feeds: list[SqlFeed] = []

    def feed(self, bad_row: Callable[[], None] = lambda: None) -> ChangeFeed:
        self._feeds.append(SqlFeed(self.database, bad_row))
        return self._feeds[-1]

    def add_change_of_other_kind(self) -> None:
        self.run(
            """insert into changes (revision, batch_end, kind, action, is_active, actor, correlation_id,
            occurred_at, chain, chain_version)
            select coalesce(max(revision), 0) + 1, coalesce(max(revision), 0) + 1, 'policy', 'set', false,
            'alice', 'c-1', 0, :chain, 1 from changes""",
            chain=uuid.uuid4().bytes * 2,
        )

    def lose_change(self, revision: int) -> None:
        self.run("delete from changes where revision = :revision", revision=revision)

    def compact(self, upto: int) -> None:
        self.run(
            """update meta set compacted_revision = :upto,
            compacted_chain = (select chain from changes where revision = :upto)""",
            upto=upto,
        )
        self.run("delete from changes where revision <= :upto", upto=upto)

    def begin_epoch(self, epoch: str) -> None:
        self.run("update meta set epoch = :epoch, epoch_number = epoch_number + 1", epoch=epoch)

    def chains(self) -> Sequence[bytes]:
        return [row[0] for row in self.rows("select chain from changes order by revision")]

    def run(self, statement: str, **parameters: object) -> None:
        """Run one statement past the store."""
        with self.database.writing() as session:
            session.run(statement, **parameters)

    def rows(self, statement: str, **parameters: object) -> list[Row]:
        """Run a query past the store."""
        with self.database.reading() as session:
            return session.rows(statement, **parameters)

    def empty(self) -> None:
        """Remove all rows and begin a history."""
        for table in ("routes", "changes", "leases", "receipts", "change_traces"):
            self.run(f"delete from {table}")  # noqa: S608 one of five constants
        self.run(
            """update meta set epoch = :epoch, epoch_number = 1, compacted_revision = 0,
            compacted_chain = :chain""",
            epoch=uuid.uuid4().hex,
            chain=bytes(32),
        )

    def close_feeds(self) -> None:
        """Close the feeds that were lent."""
        for feed in self._feeds:
            feed.close()
        self._feeds.clear()

    def close(self) -> None:
        """Close every connection."""
        self.close_feeds()
        self.database.close()


def sqlite_settings(folder: Path) -> DbSettings:
    """Return the settings for a SQLite file in *folder*."""
    return DbSettings.model_validate({"path": folder / "routes.db"})


def postgres_settings_of(environment: dict[str, str]) -> DbSettings:
    """Return the settings that the variables of a test server spell."""
    return DbSettings.model_validate(
        {name.removeprefix("DB_").lower(): value for name, value in environment.items()}
    )
