"""The database and Kafka as the relay sees them, in memory; safe to use from several relays' threads."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from traffic_manager.errors import SourceUnavailable
from traffic_manager.events.delivery import Delivery, Failure, KafkaUnavailable, Topic
from traffic_manager.events.envelope import Event
from traffic_manager.routing.leases import Lease, Telling
from traffic_manager.routing.model import Action, Change, RouteKey
from traffic_manager.routing.ports import Head, Pulse, Slice

EPOCH = "0f8e5b1c2d3a4e5f8a9b0c1d2e3f4a5b"
OTHER_EPOCH = "ffffffffffffffffffffffffffffffff"
AT_2026 = 1_767_225_600_000_000


def a_key(version: str = "v1") -> RouteKey:
    """Return a valid key."""
    return RouteKey.of("team-a", "payments", "prod", version)


def a_change(revision: int = 1, key: RouteKey | None = None, **other: object) -> Change:
    """Return the change that creates a route, but for what *other* says."""
    change = Change(
        revision=revision,
        batch_end=revision,
        key=key or a_key(),
        action=Action.CREATED,
        url=f"https://r{revision}.example.com",
        is_active=True,
        previous=None,
        actor="alice",
        reason=None,
        correlation_id=f"c-{revision}",
        occurred_at=AT_2026 + revision,
    )
    return change._replace(**other)  # type: ignore[arg-type] # the fields of Change, by name


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class FakeDatabase:
    """Has the log of changes, as a `ChangeLog`, and the lease, as `Leases`. *clock* is the database's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.changes: list[Change | None] = []  # None: a change of another kind than `route`
        self.epoch, self.epoch_number = EPOCH, 1
        self.published = 0
        self.checkpoints: list[int] = []
        self.aside: dict[int, str] = {}
        self.known = Telling(1)
        self.is_away = False
        self.calls = 0
        self.on_publish: Callable[[int], None] = lambda revision: None
        self.on_slice: Callable[[], None] = lambda: None
        self.on_renew: Callable[[], None] = lambda: None
        self._token = 0
        self._holder: tuple[str, int] | None = None
        self._expires_at = 0.0
        self._chains: list[bytes | None] = [b"\0" * 32]
        self._lock = threading.RLock()

    def change(self, *keys: RouteKey) -> None:
        """Make one change of each key."""
        with self._lock:
            for key in keys:
                self.append(a_change(len(self.changes) + 1, key, action=Action.UPDATED))

    def change_of_other_kind(self) -> None:
        """Make a change that the relay does not send."""
        with self._lock:
            self.append(None)

    def lose(self, after: int) -> None:
        """Forget the changes after *after*, as an asynchronous replica would that takes over."""
        with self._lock:
            del self.changes[after:], self._chains[after + 1 :]
            self.published = min(self.published, after)

    def forget_digests(self) -> None:
        """Do as compaction does for all that is published."""
        self._chains = [None] * len(self._chains)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Let nobody else in meanwhile."""
        with self._lock:
            yield

    def append(self, change: Change | None) -> None:
        """Add a change to the log; None: one of another kind."""
        self.changes.append(change)
        self._chains.append(hashlib.sha256(repr((self._chains[-1], change)).encode()).digest())

    def _answer(self) -> None:
        self.calls += 1
        if self.is_away:
            raise SourceUnavailable

    def pulse(self, at: int) -> Pulse:
        with self._lock:
            self._answer()
            chain = self._chains[at] if at < len(self._chains) else None
            return Pulse(Head(self.epoch, self.epoch_number, len(self.changes)), chain)

    def slice(self, after: int, limit: int) -> Slice | None:
        self.on_slice()
        with self._lock:
            self._answer()
            found = self.changes[after : after + limit]
            upto = after + len(found)
            return Slice(upto, self._chains[upto] or b"", [c for c in found if c]) if found else None

    def close(self) -> None:
        """Nothing to close."""

    def occurred_at_after(self, revision: int) -> int | None:
        self._answer()
        change = next(iter(self.changes[revision:]), None)
        return change.occurred_at if change else None

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        with self._lock:
            self._answer()
            if self._holder and self._expires_at >= self.clock():
                return None
            self._token += 1
            self._holder = (holder, self._token)
            self._expires_at = self.clock() + ttl_s
            return Lease(name, holder, self._token, self.published)

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        self.on_renew()
        with self._lock:
            self._answer()
            if self._holder != (lease.holder, lease.token):
                return False
            self._expires_at = self.clock() + ttl_s
            return True

    def publish(self, lease: Lease, revision: int) -> bool:
        self.on_publish(revision)
        with self._lock:
            self._answer()
            if lease.token != self._token:
                return False
            self.published = revision
            self.checkpoints.append(revision)
            return True

    def set_aside(self, lease: Lease, revision: int, reason: str) -> bool:
        with self._lock:
            self._answer()
            if lease.token != self._token:
                return False
            self.aside[revision] = reason
            return True

    def set_aside_from(self, revision: int) -> Sequence[int]:
        return sorted(r for r in self.aside if r >= revision)

    def forget_set_aside(self, revision: int) -> None:
        del self.aside[revision]

    def telling(self, name: str) -> Telling:
        with self._lock:
            self._answer()
            return self.known

    def told(self, lease: Lease, telling: Telling) -> bool:
        with self._lock:
            self._answer()
            if lease.token != self._token:
                return False
            self.known = telling
            return True

    def page(self, after: RouteKey | None, size: int) -> tuple[Head, Sequence[Change]]:
        with self._lock:
            self._answer()
            last = {change.key: change for change in self.changes if change}
            found = sorted(key for key in last if after is None or key > after)
            there = [last[key] for key in found if last[key].action != Action.DELETED]
            return Head(self.epoch, self.epoch_number, len(self.changes)), there[:size]

    def missing(self, keys: Sequence[RouteKey]) -> tuple[Head, Sequence[RouteKey]]:
        head, there = self.page(None, len(self.changes))
        return head, [key for key in keys if key not in {change.key for change in there}]

    def release(self, lease: Lease) -> None:
        with self._lock:
            self._answer()
            if self._holder == (lease.holder, lease.token):
                self._holder = None

    def published_revision(self, name: str) -> int:
        with self._lock:
            self._answer()
            return self.published


@dataclass
class FakeKafka:
    """A Kafka that takes what its producers send, unless it is told otherwise."""

    records: list[tuple[int, Event]] = field(default_factory=list)
    is_away: bool = False
    is_silent: bool = False
    rejected: set[int] = field(default_factory=set)
    failing: Failure | None = None
    most_together: int | None = None
    on_wait: Callable[[], None] = lambda: time.sleep(0.001)  # as the real one would
    producers: list[FakeProducer] = field(default_factory=list)
    topic: Topic | None = None

    def reader(self) -> FakeReader:
        """Return a reader of the records that there are now."""
        return FakeReader([(event.key, event.value) for _, event in self.records])

    def connect(self) -> FakeProducer:
        """Return a new producer. Raises KafkaUnavailable while Kafka is away."""
        if self.is_away:
            raise KafkaUnavailable("_TRANSPORT", "connection refused")
        self.producers.append(FakeProducer(self))
        return self.producers[-1]

    @property
    def in_flight(self) -> int:
        """How many events the last producer has sent and not heard of."""
        return len(self.producers[-1].in_flight) if self.producers else 0

    @property
    def revisions(self) -> list[int]:
        """The revisions of the records, in the order of their arrival."""
        return [revision for revision, _ in self.records]


class FakeReader:
    """Reads the records it was given, two at a time."""

    is_forbidden = False

    def __init__(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        self._records = list(records)

    def read(self, timeout_s: float) -> Sequence[tuple[bytes, bytes]] | None:
        found, self._records = self._records[:2], self._records[2:]
        return found or None

    def close(self) -> None:
        """Nothing to close."""


class FakeProducer:
    """Delivers at the next `wait`, in reverse: nobody may rely on an order between keys."""

    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka
        self.in_flight: list[tuple[int, Event]] = []
        self.last_error: KafkaUnavailable | None = None
        self.is_closed = False
        self.largest_wave = 0
        self._is_too_much = False

    @property
    def topic(self) -> Topic | None:
        return self._kafka.topic

    def is_ready(self) -> bool:
        return True

    def send(self, revision: int, event: Event) -> None:
        assert not self.is_closed
        assert event.key not in {sent.key for _, sent in self.in_flight}, "two events of one key in flight"
        self.in_flight.append((revision, event))
        self.largest_wave = max(self.largest_wave, len(self.in_flight))

    def wait(self, timeout_s: float) -> list[Delivery]:
        if self._kafka.is_away:
            raise KafkaUnavailable("_FATAL", "out of order")
        if self._kafka.is_silent:
            self._kafka.on_wait()
            return []
        self._is_too_much = len(self.in_flight) > (self._kafka.most_together or len(self.in_flight))
        deliveries = [self._deliver(*sent) for sent in reversed(self.in_flight)]
        self.in_flight.clear()
        return deliveries

    def close(self) -> None:
        self.is_closed = True

    def _deliver(self, revision: int, event: Event) -> Delivery:
        if self._is_too_much or revision in self._kafka.rejected:
            return Delivery(revision, Failure("MSG_SIZE_TOO_LARGE", "too large", is_rejection=True))
        if self._kafka.failing:
            return Delivery(revision, self._kafka.failing)
        self._kafka.records.append((revision, event))
        return Delivery(revision, None)


def newest_only(revisions: Iterable[tuple[bytes, int]]) -> dict[bytes, list[int]]:
    """Return, per key, the revisions that are left when a consumer drops what is not greater."""
    kept: dict[bytes, list[int]] = {}
    for key, revision in revisions:
        seen = kept.setdefault(key, [])
        if not seen or revision > seen[-1]:
            seen.append(revision)
    return kept


def expected_by_key(changes: Sequence[Change | None]) -> dict[bytes, list[int]]:
    """Return, per key, the revisions that the log holds."""
    expected: dict[bytes, list[int]] = {}
    for change in changes:
        if change:
            expected.setdefault(str(change.key).encode(), []).append(change.revision)
    return expected
