"""The database in memory: store, feed and leases of the rules. Passes the contract in `tests/db`.

Tests can take it away, look into it, and hold a read back on its way to the caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

from tests.routing.builders import EPOCH
from traffic_manager.db.pool import wait_readable
from traffic_manager.errors import Busy, RevisionGap, SourceUnavailable, StorageReadOnly
from traffic_manager.routing.bell import Bell
from traffic_manager.routing.chain import CHAIN_START, next_link
from traffic_manager.routing.leases import Lease, Telling
from traffic_manager.routing.model import Change, Route, RouteKey, Trace
from traffic_manager.routing.ports import (
    ANY_TRAITS,
    RECEIPTS_KEPT_US,
    TRAITS_SCAN,
    ChangePage,
    ChangeTraits,
    Claim,
    Entry,
    Head,
    Limit,
    NameFilter,
    Pulse,
    Receipt,
    RequestName,
    RoutePage,
    Sighting,
    Slice,
    StoredKey,
    Table,
)

_LOCK_TIMEOUT_S = 1.5


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class _Row:
    """A row of the log; *change* is None if it is of another kind than `route`."""

    revision: int
    batch_end: int
    change: Change | None
    chain: bytes
    is_key: bool = False


def _counts(routes: Collection[RouteKey], tenants: Collection[str]) -> Mapping[str, int]:
    return {tenant: sum(key.tenant == tenant for key in routes) for tenant in tenants}


@dataclass
class _LeaseRow:
    lease: Lease
    expires_at: float = 0.0
    telling: Telling = field(default_factory=lambda: Telling(1))


class MemoryStore:
    """Keeps routes, log and leases. *clock* gives the database's time in seconds."""

    def __init__(self, epoch: str = EPOCH, clock: Callable[[], float] = time.time) -> None:
        self.epoch, self.epoch_number = epoch, 1
        self.compacted_revision, self.compacted_chain = 0, CHAIN_START
        self.is_read_only = False  # True: no other epoch can be begun
        self.is_away = False  # True: every call fails
        self.after_read: Callable[[], None] = _nothing  # called by look_up once it has seen the routes
        self.after_pulse: Callable[[], None] = _nothing
        self.before_lock: Callable[[], None] = _nothing
        self.before_commit: Callable[[], None] = _nothing
        self.reads = 0
        self.commits = 0
        self.slices: list[Slice] = []
        self.tables = 0
        self.is_closed = False
        self.hints_come = False  # True: commits are hinted, as PostgreSQL does it
        self.probes = 0
        self._hints: list[int] = []
        self._hint_bell = Bell()
        self.stored_keys: list[StoredKey] = []
        self.stored_limits: list[Limit] = []
        self._clock = clock
        self._log: dict[int, _Row] = {}
        self._routes: dict[RouteKey, Route] = {}
        self._traces: dict[int, Trace] = {}
        self._receipts: dict[RequestName, tuple[int, Receipt]] = {}
        self._leases: dict[str, _LeaseRow] = {}
        self._epochs_begun = 1  # not the number of the epoch: a copy that is restored knows fewer
        self.aside: dict[int, str] = {}  # events that are set aside, and why
        self._state = threading.RLock()
        self._revision_lock = threading.Lock()

    # -- the store

    def look_up(self, keys: Collection[RouteKey]) -> Sighting:
        with self._answering():
            self.reads += 1
            sighting = Sighting(self.head, {k: self._routes[k] for k in keys if k in self._routes})
        self.after_read()
        return sighting

    def counts(self, tenants: Collection[str]) -> Mapping[str, int]:
        with self._answering():
            return _counts(self._routes, tenants)

    def page(
        self, wanted: NameFilter, is_active: bool | None, after: RouteKey | None, size: int
    ) -> RoutePage:
        with self._answering():
            routes = [
                route
                for key, route in sorted(self._routes.items())
                if wanted.matches(key)
                and (after is None or key > after)
                and is_active in (None, route.is_active)
            ]
            return RoutePage(self.head, routes[:size], routes[size - 1].key if len(routes) > size else None)

    def history(self, key: RouteKey, below: int | None, size: int) -> ChangePage:
        with self._answering():
            found = [c for c in self.log() if c.key == key and (below is None or c.revision < below)][::-1]
            last = found[size - 1].revision if len(found) > size else None
            return ChangePage(self.head, found[:size], last, self.compacted_revision)

    def changes(
        self, wanted: NameFilter, after: int, limit: int, traits: ChangeTraits = ANY_TRAITS
    ) -> ChangePage:
        with self._answering():
            upto = self.head.revision if traits == ANY_TRAITS else after + TRAITS_SCAN
            found = [c for c in self.log() if after < c.revision <= upto and wanted.matches(c.key)]
            found = [c for c in found if traits.match(c)]
            last = upto if upto < self.head.revision else None
            last = found[limit - 1].revision if len(found) > limit else last
            return ChangePage(self.head, found[:limit], last, self.compacted_revision)

    @contextmanager
    def writing(
        self, keys: Collection[RouteKey], claims: Collection[Claim] = ()
    ) -> Iterator[MemoryTransaction]:
        self.before_lock()
        if not self._revision_lock.acquire(timeout=_LOCK_TIMEOUT_S):
            raise Busy("another change is taking too long")
        try:
            with self._answering():
                kept = {n: r for n, (at, r) in self._receipts.items() if at > self._now() - RECEIPTS_KEPT_US}
                transaction = MemoryTransaction(self.head, self._now(), self._routes, kept)
                transaction.look_up(keys, claims)
            yield transaction
            self.before_commit()
            with self._answering():
                self._commit(transaction)
        finally:
            self._revision_lock.release()
        if self.hints_come and transaction.changes:
            self.hint(transaction.changes[-1].revision)

    def _commit(self, transaction: MemoryTransaction) -> None:
        self.commits += 1
        self._receipts |= {receipt.claim.name: (transaction.now, receipt) for receipt in transaction.kept}
        self._traces |= transaction.traces
        for change in transaction.changes:
            chain = next_link(self._chain_at(change.revision - 1) or CHAIN_START, change)
            self._log[change.revision] = _Row(change.revision, change.batch_end, change, chain)
        for key, route in transaction.after.items():
            if route:
                self._routes[key] = route
            else:
                self._routes.pop(key, None)

    # -- the feed

    def pulse(self, at: int, limit: int = 0) -> Pulse:
        with self._answering():
            chain = self._chain_at(at)
            changes = self.slice(at, limit) if limit and chain is not None else None
            pulse = Pulse(self.head, chain, changes, self.compacted_revision)
        self.after_pulse()
        return pulse

    def slice(self, after: int, limit: int) -> Slice | None:
        with self._answering():
            rows = [row for revision, row in sorted(self._log.items()) if revision > after][:limit]
        for expected, row in enumerate(rows, after + 1):
            if row.revision != expected:
                raise RevisionGap(expected, row.revision)
        while rows and rows[-1].revision != rows[-1].batch_end:
            rows.pop()
        if not rows:
            return None
        self.slices.append(
            Slice(
                rows[-1].revision,
                rows[-1].chain,
                [row.change for row in rows if row.change],
                has_keys=any(row.is_key for row in rows),
                traces={
                    row.revision: self._traces[row.revision] for row in rows if row.revision in self._traces
                },
            )
        )
        return self.slices[-1]

    def table(self, max_routes: int, window: int) -> Table:
        with self._answering():
            self.tables += 1
            active = {str(k): Entry(r.url, r.revision) for k, r in self._routes.items() if r.is_active}
            entries = dict(islice(active.items(), max_routes))
            beyond = len(active) - len(entries) if max_routes else 0
            head = self.head
            floor = max(self.compacted_revision, head.revision - window)
            recent = [(c.revision, str(c.key)) for c in self.log() if c.revision > floor]
            return Table(head, self._chain_at(head.revision) or CHAIN_START, entries, recent, floor, beyond)

    def wait(self, bell: int, timeout_s: float) -> Sequence[int]:
        if not self._hints:
            wait_readable(timeout_s, bell, self._hint_bell.fileno())
        self._hint_bell.take()
        heard, self._hints = self._hints, []
        return heard

    def probe(self) -> None:
        self.probes += 1
        if self.hints_come:
            self.hint(0)

    def keys(self) -> Sequence[StoredKey]:
        with self._answering():
            return list(self.stored_keys)

    def limits(self) -> Sequence[Limit]:
        with self._answering():
            return list(self.stored_limits)

    def leave_epoch(self, epoch: str, known_number: int = 0) -> None:
        with self._answering():
            if self.is_read_only:
                raise StorageReadOnly("the database is read-only")
            if epoch == self.epoch:
                self.epoch_number = 1 + max(self.epoch_number, known_number)
                self._epochs_begun += 1
                self.epoch = f"{self._epochs_begun:08x}" * 4

    def close(self) -> None:
        self.is_closed = True

    # -- the leases

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        with self._answering():
            row = self._leases.setdefault(name, _LeaseRow(Lease(name, "", 0, 0)))
            if row.expires_at >= self._clock():
                return None
            row.lease = replace(row.lease, holder=holder, token=row.lease.token + 1)
            row.expires_at = self._clock() + ttl_s
            return row.lease

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        with self._answering():
            return self._set_expiry(lease, self._clock() + ttl_s)

    def publish(self, lease: Lease, revision: int) -> bool:
        with self._answering():
            row = self._leases[lease.name]
            if row.lease.token != lease.token:
                return False
            row.lease = replace(row.lease, published_revision=revision)
            return True

    def set_aside(self, lease: Lease, revision: int, reason: str) -> bool:
        with self._answering():
            if self._leases[lease.name].lease.token != lease.token:
                return False
            self.aside[revision] = reason
            return True

    def telling(self, name: str) -> Telling:
        with self._answering():
            return self._leases[name].telling if name in self._leases else Telling(1)

    def told(self, lease: Lease, telling: Telling) -> bool:
        with self._answering():
            row = self._leases[lease.name]
            if row.lease.token != lease.token:
                return False
            row.telling = telling
            return True

    def release(self, lease: Lease) -> None:
        with self._answering():
            self._set_expiry(lease, 0.0)

    def published_revision(self, name: str) -> int:
        with self._answering():
            return self._leases[name].lease.published_revision if name in self._leases else 0

    def _set_expiry(self, lease: Lease, expires_at: float) -> bool:
        row = self._leases[lease.name]
        if (row.lease.holder, row.lease.token) != (lease.holder, lease.token):
            return False
        row.expires_at = expires_at
        return True

    # -- for tests

    def hint(self, revision: int) -> None:
        """Let the follower hear a hint."""
        self._hints.append(revision)
        self._hint_bell.ring()

    @property
    def head(self) -> Head:
        """Where the history stands."""
        return Head(self.epoch, self.epoch_number, max(self._log, default=self.compacted_revision))

    def log(self) -> list[Change]:
        """Return all changes of routes, the oldest first."""
        with self._state:
            return [row.change for _, row in sorted(self._log.items()) if row.change]

    def add_change_of_other_kind(self) -> None:
        """Append a row that is no change of a route."""
        with self._state:
            revision = self.head.revision + 1
            self._log[revision] = _Row(revision, revision, None, revision.to_bytes(32))

    def change_keys(self, *keys: StoredKey) -> None:
        """Have these keys from now on, and tell of it in the log."""
        with self._state:
            self.stored_keys = list(keys)
            revision = self.head.revision + 1
            self._log[revision] = _Row(revision, revision, None, revision.to_bytes(32), is_key=True)

    def lose_change(self, revision: int) -> None:
        """Remove a row of the log, as tampering would."""
        with self._state:
            del self._log[revision]

    def lose_changes_after(self, revision: int) -> None:
        """Go back to *revision*, as a failover to an asynchronous replica does. Keeps the epoch."""
        with self._state:
            kept = {r: row for r, row in self._log.items() if r <= revision}
            self._log, self._routes = kept, {}
            for change in self.log():
                if change.url is None:
                    self._routes.pop(change.key, None)
                else:
                    at = change.occurred_at
                    self._routes[change.key] = Route(
                        change.key, change.url, change.is_active, change.revision, at, at
                    )

    def image(self) -> object:
        """Return a copy of epoch, log and routes, as a backup holds it."""
        with self._state:
            compacted = self.compacted_revision, self.compacted_chain
            tables = dict(self._log), dict(self._routes), dict(self._receipts)
            return self.epoch, self.epoch_number, compacted, *tables

    def restore(self, image: object) -> None:
        """Go back to what `image` returned."""
        with self._state:
            assert isinstance(image, tuple)
            self.epoch, self.epoch_number, compacted, log, routes, receipts = image
            self.compacted_revision, self.compacted_chain = compacted
            self._log, self._routes, self._receipts = dict(log), dict(routes), dict(receipts)

    def begin_epoch(self, epoch: str) -> None:
        """Go on with the same routes and revisions as another history."""
        with self._state:
            self.epoch, self.epoch_number = epoch, self.epoch_number + 1

    def compact(self, upto: int) -> None:
        """Remove the changes up to *upto*, as retention does."""
        with self._state:
            self.compacted_chain = self._chain_at(upto) or CHAIN_START
            self.compacted_revision = upto
            self._log = {r: row for r, row in self._log.items() if r > upto}

    def _chain_at(self, revision: int) -> bytes | None:
        if revision == self.compacted_revision:
            return self.compacted_chain
        return self._log[revision].chain if revision in self._log else None

    def _now(self) -> int:
        return int(self._clock() * 1e6)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if self.is_away:
            raise SourceUnavailable
        with self._state:
            yield


class MemoryTransaction:
    """What is to be written; nothing is seen of it before the commit."""

    def __init__(
        self,
        head: Head,
        now: int,
        table: Mapping[RouteKey, Route],
        kept: Mapping[RequestName, Receipt],
    ) -> None:
        self.head = head
        self.now = now
        self.routes: Mapping[RouteKey, Route] = {}
        self.receipts: Mapping[RequestName, Receipt] = {}
        self._table = table
        self._receipts = kept
        self.kept: list[Receipt] = []
        self.changes: list[Change] = []
        self.after: dict[RouteKey, Route | None] = {}
        self.traces: dict[int, Trace] = {}

    def look_up(self, keys: Collection[RouteKey], claims: Collection[Claim] = ()) -> None:
        self.routes = {**self.routes, **{key: self._table[key] for key in keys if key in self._table}}
        names = {claim.name for claim in claims}
        self.receipts = {**self.receipts, **{n: r for n, r in self._receipts.items() if n in names}}

    def keep(self, receipts: Sequence[Receipt]) -> None:
        self.kept += receipts

    def counts(self, tenants: Collection[str]) -> Mapping[str, int]:
        return _counts(self._table, tenants)

    def trace(self, traces: Mapping[int, Trace]) -> None:
        self.traces |= traces

    def append(self, changes: Sequence[Change], routes: Mapping[RouteKey, Route | None]) -> None:
        self.changes += changes
        self.after |= routes
