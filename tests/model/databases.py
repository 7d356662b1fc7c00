"""The databases that the model runs over: one in memory, one in a file; and the line that joins a worker to one."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.db.engines import SqlEngine, sqlite_settings
from tests.routing.memory_store import MemoryStore
from traffic_manager.db.retention import compact
from traffic_manager.errors import OutcomeUnknown, SourceUnavailable
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import (
    ANY_TRAITS,
    ChangeFeed,
    ChangePage,
    ChangeTraits,
    Claim,
    Limit,
    NameFilter,
    Pulse,
    RoutePage,
    RouteStore,
    Sighting,
    Slice,
    StoredKey,
    Table,
    WriteTransaction,
)

# Later than every change.
_LATER_US = 2**62


class Database(Protocol):
    """A database, and what operators do to it."""

    store: RouteStore

    def feed(self) -> ChangeFeed:
        """Return a feed."""

    def compact(self, kept: int) -> int:
        """Forget all changes but the newest *kept*; return the compacted revision."""

    def back_up(self) -> object:
        """Return a copy of everything."""

    def restore(self, copy: object) -> None:
        """Go back to *copy*."""

    def close(self) -> None:
        """Remove it."""


class InMemory:
    """The store that passes the contract of all stores."""

    def __init__(self, clock: MemoryClock) -> None:
        self._memory = MemoryStore(clock=clock.read)
        self.store: RouteStore = self._memory

    def feed(self) -> ChangeFeed:
        return self._memory

    def compact(self, kept: int) -> int:
        upto = self._memory.head.revision - kept
        rows = {change.revision: change for change in self._memory.log()}
        while upto in rows and rows[upto].batch_end != upto:
            upto -= 1
        if upto > self._memory.compacted_revision:
            self._memory.compact(upto)
        return self._memory.compacted_revision

    def back_up(self) -> object:
        return self._memory.image()

    def restore(self, copy: object) -> None:
        self._memory.restore(copy)

    def close(self) -> None:
        pass


class OnDisk:
    """SQLite, in a copy of the file *template*."""

    def __init__(self, template: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="traffic-manager-model-"))
        shutil.copy(template, self._folder / "routes.db")
        self._engine = SqlEngine(sqlite_settings(self._folder))
        self.store = self._engine.store
        self._copies = 0

    def feed(self) -> ChangeFeed:
        return self._engine.feed()

    def compact(self, kept: int) -> int:
        return compact(self._engine.database, _LATER_US, kept).compacted_revision

    def back_up(self) -> object:
        self._copies += 1
        copy = self._folder / f"copy-{self._copies}.db"
        _copy(self._folder / "routes.db", copy)
        return copy

    def restore(self, copy: object) -> None:
        assert isinstance(copy, Path)
        _copy(copy, self._folder / "routes.db")

    def close(self) -> None:
        self._engine.close()
        shutil.rmtree(self._folder)


def _copy(source: Path, target: Path) -> None:
    """Copy a database as `sqlite3 .backup` does, with others at work on both."""
    old, new = sqlite3.connect(source), sqlite3.connect(target)
    try:
        old.backup(new)
    finally:
        old.close()
        new.close()


class MemoryClock:
    """A wall clock that may jump. It never shows the same time twice, so no change is made twice alike."""

    def __init__(self) -> None:
        self._now_s = 1_767_225_600.0

    def read(self) -> float:
        self._now_s += 0.001
        return self._now_s

    def jump(self, by_s: float) -> None:
        self._now_s += by_s


class Line:
    """What joins one worker to the database: store and feed, as long as it is not cut."""

    def __init__(self, database: Database) -> None:
        self._store = database.store
        self._feed = database.feed()
        self.is_cut = False
        self.cuts = 0
        self.loses_next: str | None = None  # "write" or "answer" of the next commit

    def cut(self) -> None:
        """Let nothing through."""
        self.cuts += not self.is_cut
        self.is_cut = True

    def look_up(self, keys: Collection[RouteKey]) -> Sighting:
        self._pass()
        return self._store.look_up(keys)

    def counts(self, tenants: Collection[str]) -> Mapping[str, int]:
        self._pass()
        return self._store.counts(tenants)

    def page(
        self, wanted: NameFilter, is_active: bool | None, after: RouteKey | None, size: int
    ) -> RoutePage:
        self._pass()
        return self._store.page(wanted, is_active, after, size)

    def history(self, key: RouteKey, below: int | None, size: int) -> ChangePage:
        self._pass()
        return self._store.history(key, below, size)

    def changes(
        self, wanted: NameFilter, after: int, limit: int, traits: ChangeTraits = ANY_TRAITS
    ) -> ChangePage:
        self._pass()
        return self._store.changes(wanted, after, limit, traits)

    @contextmanager
    def writing(
        self, keys: Collection[RouteKey], claims: Collection[Claim] = ()
    ) -> Iterator[WriteTransaction]:
        self._pass()
        lost, self.loses_next = self.loses_next, None
        with self._store.writing(keys, claims) as transaction:
            yield transaction
            if lost == "write":
                raise OutcomeUnknown
        if lost == "answer":
            raise OutcomeUnknown

    def pulse(self, at: int, limit: int = 0) -> Pulse:
        self._pass()
        return self._feed.pulse(at, limit)

    def slice(self, after: int, limit: int) -> Slice | None:
        self._pass()
        return self._feed.slice(after, limit)

    def table(self, max_routes: int, window: int) -> Table:
        self._pass()
        return self._feed.table(max_routes, window)

    def wait(self, bell: int, timeout_s: float) -> Sequence[int]:
        raise AssertionError("a follower that is stepped does not wait")

    def probe(self) -> None:
        raise AssertionError("a follower that is stepped does not probe")

    def keys(self) -> Sequence[StoredKey]:
        self._pass()
        return self._feed.keys()

    def limits(self) -> Sequence[Limit]:
        self._pass()
        return self._feed.limits()

    def leave_epoch(self, epoch: str, known_number: int = 0) -> None:
        self._pass()
        self._feed.leave_epoch(epoch, known_number)

    def close(self) -> None:
        self._feed.close()

    def _pass(self) -> None:
        if self.is_cut:
            raise SourceUnavailable
