"""Two workers over one database and one cache, against a plain dictionary: whatever happens in whatever order,
every answer is the state of its key at its revision, and no worker's answers for a key go back.

The real registry, follower, resolver and mirror run; only the follower's steps, the database's outages and the
moments at which slow reads return are chosen here.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.db.engines import SqlEngine, sqlite_settings
from tests.routing.builders import (
    AUTHOR,
    OTHER_EPOCH,
    OTHER_URL,
    URL,
    a_route,
    activate,
    create,
    deactivate,
    delete,
    put,
)
from tests.routing.logs import KEYS
from tests.routing.memory_cache import MemoryCache
from tests.routing.memory_store import MemoryStore
from traffic_manager.db.migrate import migrate
from traffic_manager.errors import (
    BatchFailed,
    NotYetReached,
    RouteConflict,
    RouteNotFound,
    SourceUnavailable,
    TrafficManagerError,
)
from traffic_manager.routing import follower as follower_module
from traffic_manager.routing import mirror as mirror_module
from traffic_manager.routing import resolver as resolver_module
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.operations import Operation, Verb
from traffic_manager.routing.ports import (
    ANY_TRAITS,
    CachedRoute,
    ChangeFeed,
    ChangePage,
    ChangeTraits,
    Claim,
    Entry,
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
from traffic_manager.routing.registry import Registry
from traffic_manager.routing.resolver import Answer, Resolver
from traffic_manager.routing.unknown_names import UnknownNames
from traffic_manager.routing.watchers import Watchers

Result = TypeVar("Result")
WINDOW = 1
MOST_SLOW_READS = 4


class SlowStore:
    """A store whose outages, and whose slow reads, are chosen."""

    def __init__(self, store: RouteStore) -> None:
        self._store = store
        self.is_away = False
        self.hold_next: threading.Event | None = None  # the next read returns when this is set
        self.on_hold: Callable[[], None] = lambda: None

    def counts(self, tenants: Collection[str]) -> Mapping[str, int]:
        self._answer()
        return self._store.counts(tenants)

    def look_up(self, keys: Collection[RouteKey]) -> Sighting:
        hold, self.hold_next = self.hold_next, None
        self._answer()
        sighting = self._store.look_up(keys)
        if hold:
            self.on_hold()
            hold.wait()
        return sighting

    def page(
        self, wanted: NameFilter, is_active: bool | None, after: RouteKey | None, size: int
    ) -> RoutePage:
        return self._store.page(wanted, is_active, after, size)

    def history(self, key: RouteKey, below: int | None, size: int) -> ChangePage:
        return self._store.history(key, below, size)

    def changes(
        self, wanted: NameFilter, after: int, limit: int, traits: ChangeTraits = ANY_TRAITS
    ) -> ChangePage:
        return self._store.changes(wanted, after, limit, traits)

    def writing(
        self, keys: Collection[RouteKey], claims: Collection[Claim] = ()
    ) -> AbstractContextManager[WriteTransaction]:
        self._answer()
        return self._store.writing(keys, claims)

    def _answer(self) -> None:
        if self.is_away:
            raise SourceUnavailable


class SteppedFeed:
    """A feed that lets its follower go one step at a time, and hears how the step went."""

    def __init__(self, feed: ChangeFeed, store: SlowStore, loop: asyncio.AbstractEventLoop) -> None:
        self._feed = feed
        self._store = store
        self._loop = loop
        self._may_go = threading.Event()
        self._is_closing = False
        self.stepped = asyncio.Event()

    def go(self) -> None:
        """Let the follower do one step."""
        self.stepped.clear()
        self._may_go.set()

    def open_for_good(self) -> None:
        """Let the follower end."""
        self._is_closing = True
        self._may_go.set()

    def pulse(self, at: int, limit: int = 0) -> Pulse:
        self._wait()
        return self._feed.pulse(at, limit)

    def slice(self, after: int, limit: int) -> Slice | None:
        self._wait()
        return self._feed.slice(after, limit)

    def table(self, max_routes: int, window: int) -> Table:
        self._wait()
        return self._feed.table(max_routes, window)

    def wait(self, bell: int, timeout_s: float) -> Sequence[int]:
        return self._feed.wait(bell, timeout_s)

    def probe(self) -> None:
        self._feed.probe()

    def keys(self) -> Sequence[StoredKey]:
        self._wait()
        return self._feed.keys()

    def limits(self) -> Sequence[Limit]:
        self._wait()
        return self._feed.limits()

    def leave_epoch(self, epoch: str, known_number: int = 0) -> None:
        self._feed.leave_epoch(epoch, known_number)

    def close(self) -> None:
        self._feed.close()

    def polled(self, ok: bool) -> None:
        if not self._is_closing:
            self._may_go.clear()
            self._loop.call_soon_threadsafe(self.stepped.set)
        if self._is_closing:  # it may have begun in between
            self._may_go.set()

    def gap(self) -> None:
        raise AssertionError("the log has no gap")

    def fork(self) -> None:
        raise AssertionError("the history has no fork")

    def hinted(self, are_trusted: bool) -> None:
        raise AssertionError("the store sends no hints")

    def hint_missed(self) -> None:
        raise AssertionError("the store sends no hints")

    def _wait(self) -> None:
        self._may_go.wait()
        if self._store.is_away or self._is_closing:
            raise SourceUnavailable


@dataclass(eq=False)
class Worker:
    """One worker's parts, and the newest answer it gave for each key."""

    mirror: Mirror
    follower: Follower
    feed: SteppedFeed
    reads: Bulkhead
    resolver: Resolver
    registry: Registry
    floors: dict[RouteKey, int] = field(default_factory=dict)


@dataclass(eq=False)
class SlowRead:
    """A read that waits for the database, until it and the look-up that it may have joined are released."""

    worker: Worker
    key: RouteKey
    task: asyncio.Task[None]
    releases: list[threading.Event]


keys = st.sampled_from(KEYS[:2])
urls = st.sampled_from([URL, OTHER_URL])
workers = st.integers(0, 1)
states = st.sampled_from([None, True, False])


def operations() -> st.SearchStrategy[Operation]:
    """Draw a wish for one of three routes."""
    return st.one_of(
        st.builds(create, keys, urls),
        st.builds(lambda key, url, is_active: put(key, url, is_active=is_active), keys, urls, states),
        st.builds(lambda wish, key: wish(key), st.sampled_from([activate, deactivate, delete]), keys),
    )


Model = Mapping[RouteKey, tuple[str, bool]]


def expected(model: Model, operation: Operation) -> tuple[str, bool] | None:
    """Return what the route of *operation* is after it, by the plainest rules."""
    current = model.get(operation.key)
    if operation.verb is Verb.PUT:
        was_active = current[1] if current else True
        assert operation.url is not None
        return operation.url, was_active if operation.is_active is None else operation.is_active
    if operation.verb is Verb.CREATE:
        assert operation.url is not None
        if current not in (None, (operation.url, True)):
            raise RouteConflict(a_route(operation.key))
        return operation.url, True
    if current is None:
        raise RouteNotFound(operation.key)
    return None if operation.verb is Verb.DELETE else (current[0], operation.verb is Verb.ACTIVATE)


class ReadsNeverGoBack(RuleBasedStateMachine):
    """The machine. Its model is the state of each key, and of each key at each revision."""

    max_routes = 100

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = SlowStore(self.make_store())
        self.cache = MemoryCache()
        self.image: Mapping[RouteKey, CachedRoute] = {}
        self.now: dict[RouteKey, tuple[str, bool]] = {}
        self.past: dict[RouteKey, list[tuple[int, Entry | None]]] = {key: [(0, None)] for key in KEYS}
        self.revision = 0
        self.outages = 0
        self.slow: list[SlowRead] = []
        self.held: dict[object, threading.Event] = {}  # what releases each look-up that is shared and slow
        self.epoch8 = self.store.look_up([]).head.epoch8
        self.open_workers: list[Worker] = []
        self.workers = [self.run(self.new_worker()) for _ in range(2)]

    # -- the parts

    def make_store(self) -> RouteStore:
        """Return an empty store."""
        self.memory = MemoryStore()
        return self.memory

    def make_feed(self) -> ChangeFeed:
        """Return a feed of the store."""
        return self.memory

    def close_store(self) -> None:
        """Remove the store."""

    async def new_worker(self) -> Worker:
        mirror = Mirror(self.max_routes)
        feed = SteppedFeed(self.make_feed(), self.store, self.loop)
        follower = Follower(feed, mirror, feed, Watchers(100))
        reads = Bulkhead("read", MOST_SLOW_READS + 2, 5.0)
        resolver = Resolver(mirror, follower, self.cache, self.store, reads, UnknownNames(1_000_000))
        worker = Worker(mirror, follower, feed, reads, resolver, Registry(self.store, follower.wake))
        self.open_workers.append(worker)
        follower.start()
        worker.registry.start()
        return worker

    def run(self, work: Coroutine[object, object, Result]) -> Result:
        async def limited() -> Result:
            async with asyncio.timeout(20):
                return await work

        return self.loop.run_until_complete(limited())

    async def close_worker(self, worker: Worker) -> None:
        worker.feed.open_for_good()
        for close in (worker.registry.stop, worker.follower.stop, worker.reads.close):
            await asyncio.to_thread(close)

    def teardown(self) -> None:
        for read in self.slow:
            self.release(read)
        results = self.run(self.gather(*(read.task for read in self.slow)))
        self.run(self.gather(*map(self.close_worker, self.open_workers)))
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        self.close_store()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def gather(self, *work: Awaitable[None]) -> list[BaseException | None]:
        return await asyncio.gather(*work, return_exceptions=True)

    def settle(self, read: SlowRead) -> None:
        """Let a slow read end."""
        self.slow.remove(read)
        self.release(read)
        self.run(self.finished(read.task))

    def release(self, read: SlowRead) -> None:
        for release in read.releases:
            release.set()

    async def finished(self, task: asyncio.Task[None]) -> None:
        await task

    # -- what may happen

    @initialize(followed=st.sets(workers))
    def begin(self, followed: set[int]) -> None:
        for worker in sorted(followed):
            self.follow(worker)

    @rule(worker=workers, operation=operations(), followers=st.sets(workers))
    def write(self, worker: int, operation: Operation, followers: set[int]) -> None:
        self.expect_write([operation], lambda registry: registry.write(operation, AUTHOR), worker)
        for follower in sorted(followers):
            self.follow(follower)

    @rule(worker=workers, batch=st.lists(operations(), min_size=2, max_size=3))
    def write_batch(self, worker: int, batch: list[Operation]) -> None:
        self.expect_write(batch, lambda registry: registry.write_batch(batch, AUTHOR), worker)

    @rule(worker=workers, key=keys)
    def resolve(self, worker: int, key: RouteKey) -> None:
        self.read(self.workers[worker], key)

    @rule(worker=workers, key=keys)
    def resolve_strongly(self, worker: int, key: RouteKey) -> None:
        self.read(self.workers[worker], key, is_strong=True)

    @rule(worker=workers, key=keys, behind=st.integers(0, 3))
    def resolve_with_token(self, worker: int, key: RouteKey, behind: int) -> None:
        self.read(self.workers[worker], key, token=max(0, self.revision - behind))

    @rule(worker=workers, key=keys)
    def resolve_with_token_of_the_future(self, worker: int, key: RouteKey) -> None:
        self.read(self.workers[worker], key, token=self.revision + 1)

    @precondition(lambda self: len(self.slow) < MOST_SLOW_READS)
    @rule(worker=workers, key=keys, is_strong=st.booleans(), behind=st.sampled_from([None, None, 0, 1]))
    def begin_slow_read(self, worker: int, key: RouteKey, is_strong: bool, behind: int | None) -> None:
        token = None if behind is None else max(0, self.revision - behind)
        self.run(self.begin_read(self.workers[worker], key, is_strong, token))

    @precondition(lambda self: self.slow)
    @rule(which=st.integers(0, MOST_SLOW_READS - 1))
    def finish_slow_read(self, which: int) -> None:
        self.settle(self.slow[which % len(self.slow)])

    @rule(worker=workers)
    def follow(self, worker: int) -> None:
        self.run(self.step(self.workers[worker]))

    @rule(worker=workers, is_followed=st.booleans())
    def restart(self, worker: int, is_followed: bool) -> None:
        old = self.workers[worker]
        for read in [read for read in self.slow if read.worker is old]:
            self.settle(read)
        self.run(self.close_worker(old))
        self.open_workers.remove(old)
        self.workers[worker] = self.run(self.new_worker())
        if is_followed:
            self.follow(worker)

    @rule()
    def flush_cache(self) -> None:
        self.cache.flush()

    @rule()
    def save_cache(self) -> None:
        self.image = self.cache.image()

    @rule()
    def restore_cache(self) -> None:
        self.cache.restore(self.image)

    @rule(worker=workers, key=keys, url=st.sampled_from(["https://evil.example", None]))
    def resolve_poisoned(self, worker: int, key: RouteKey, url: str | None) -> None:
        poison = CachedRoute(OTHER_EPOCH, self.revision, self.revision, url)
        self.cache.restore({**self.cache.image(), key: poison})
        self.read(self.workers[worker], key)

    @rule(worker=workers, key=keys)
    def resolve_without_cache(self, worker: int, key: RouteKey) -> None:
        self.cache.is_away = True
        self.read(self.workers[worker], key)
        self.cache.is_away = False

    @rule(worker=workers, key=keys, is_strong=st.booleans())
    def resolve_without_database(self, worker: int, key: RouteKey, is_strong: bool) -> None:
        with self.outage():
            self.read(self.workers[worker], key, is_strong)

    @rule(worker=workers, operation=operations())
    def write_without_database(self, worker: int, operation: Operation) -> None:
        with self.outage():
            self.expect_write([operation], lambda registry: registry.write(operation, AUTHOR), worker)

    @rule(worker=workers)
    def follow_without_database(self, worker: int) -> None:
        with self.outage():
            self.run(self.step(self.workers[worker]))

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Take the database away."""
        self.outages += 1
        self.store.is_away = True
        try:
            yield
        finally:
            self.store.is_away = False

    # -- what must be

    def expect_write(
        self,
        operations: list[Operation],
        write: Callable[[Registry], Coroutine[object, object, object]],
        at: int,
    ) -> None:
        """Write, and compare with the model."""
        after, changed, failure = self.plan(operations)
        if self.store.is_away:
            failure = SourceUnavailable()
        try:
            self.run(write(self.workers[at].registry))
        except TrafficManagerError as error:
            cause = error.cause if isinstance(error, BatchFailed) else error
            assert type(cause) is type(failure)
            return
        assert failure is None
        self.now = after
        for key, state in changed:
            self.revision += 1
            entry = Entry(state[0], self.revision) if state and state[1] else None
            self.past[key].append((self.revision, entry))

    def plan(
        self, operations: list[Operation]
    ) -> tuple[
        dict[RouteKey, tuple[str, bool]],
        list[tuple[RouteKey, tuple[str, bool] | None]],
        TrafficManagerError | None,
    ]:
        """Return the state after *operations*, the changes to it, and the failure that prevents both."""
        after = dict(self.now)
        changed = []
        for operation in operations:
            try:
                state = expected(after, operation)
            except TrafficManagerError as failure:
                return self.now, [], failure
            if state != after.get(operation.key):
                changed.append((operation.key, state))
            if state is None:
                after.pop(operation.key, None)
            else:
                after[operation.key] = state
        return after, changed, None

    def state(self, key: RouteKey, revision: int) -> Entry | None:
        """Return the route of *key* at *revision*, by the log."""
        return next(entry for at, entry in reversed(self.past[key]) if at <= revision)

    async def ask(self, worker: Worker, key: RouteKey, is_strong: bool, token: int | None) -> None:
        """Resolve and check the answer in the moment in which it is given."""
        begun = self.revision
        outages = self.outages - self.store.is_away
        position = Position(self.epoch8, token) if token is not None else None
        try:
            answer = await worker.resolver.resolve(key, is_strong=is_strong, at_least=position)
        except NotYetReached:
            assert token is not None
            assert token > begun
        except SourceUnavailable:
            assert self.store.is_away or self.outages > outages, "only an outage is a reason to know nothing"
        else:
            self.check(worker, key, answer, begun if is_strong else token or 0)

    def check(self, worker: Worker, key: RouteKey, answer: Answer, at_least: int) -> None:
        """Hold the promises."""
        assert answer.entry == self.state(key, answer.as_of), "every answer is the state at its revision"
        assert answer.as_of <= self.revision, "no answer comes from the future"
        assert answer.as_of >= worker.floors.get(key, 0), "no worker's answers for a key go back"
        assert answer.as_of >= at_least, "strong and token reads are as new as asked for"
        worker.floors[key] = answer.as_of

    def read(self, worker: Worker, key: RouteKey, is_strong: bool = False, token: int | None = None) -> None:
        """Resolve now; or, behind a slow read of the same key, together with it."""
        self.run(self.read_or_join(worker, key, is_strong, token))

    async def read_or_join(self, worker: Worker, key: RouteKey, is_strong: bool, token: int | None) -> None:
        task = self.loop.create_task(self.ask(worker, key, is_strong, token))
        joined = self.held.get(worker.resolver._flights.get(key))
        await asyncio.wait({task}, timeout=0.03 if joined else None)
        if task.done() or joined is None:
            await task
        else:
            self.slow.append(SlowRead(worker, key, task, [joined]))

    async def begin_read(self, worker: Worker, key: RouteKey, is_strong: bool, token: int | None) -> None:
        held = asyncio.Event()
        release = threading.Event()
        self.store.on_hold = lambda: self.in_loop(held.set)
        self.store.hold_next = release
        task = self.loop.create_task(self.ask(worker, key, is_strong, token))
        waiting = self.loop.create_task(held.wait())
        joined = self.held.get(worker.resolver._flights.get(key))
        await asyncio.wait(
            {task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=0.03 if joined else None
        )
        waiting.cancel()
        self.store.hold_next = None
        if task.done():
            await task
            return
        flight = worker.resolver._flights.get(key)
        if flight is not None:
            self.held.setdefault(flight, release)
        self.slow.append(SlowRead(worker, key, task, [release, joined] if joined else [release]))

    def in_loop(self, call: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(call)

    async def step(self, worker: Worker) -> None:
        worker.feed.go()
        worker.follower.wake()
        await worker.feed.stepped.wait()
        if not self.store.is_away:
            assert worker.mirror.applied == self.revision


class ReadsNeverGoBackOnSqlite(ReadsNeverGoBack):
    """The same over SQLite."""

    template: Path

    def make_store(self) -> RouteStore:
        self.folder = Path(tempfile.mkdtemp(prefix="traffic-manager-model-"))
        shutil.copy(self.template, self.folder / "routes.db")
        self.sqlite = SqlEngine(sqlite_settings(self.folder))
        return self.sqlite.store

    def make_feed(self) -> ChangeFeed:
        return self.sqlite.feed()

    def close_store(self) -> None:
        self.sqlite.close()
        shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the edges of the window soon, and wait for no follower that stands still."""
    monkeypatch.setattr(mirror_module, "WINDOW_CHANGES", WINDOW)
    monkeypatch.setattr(follower_module, "WINDOW_CHANGES", WINDOW)
    monkeypatch.setattr(resolver_module, "CATCH_UP_S", 0.002)


def run_machine(machine: type[ReadsNeverGoBack], max_routes: int, examples: int) -> None:
    """Run *machine* with mirrors of that size."""
    chosen = type(machine.__name__, (machine,), {"max_routes": max_routes})
    how = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(chosen, settings=how)


@pytest.mark.parametrize("max_routes", [100, 1, 0], ids=["complete mirror", "bounded mirror", "no mirror"])
def test_no_read_is_wrong_or_goes_back(max_routes: int) -> None:
    run_machine(ReadsNeverGoBack, max_routes, examples=100)


@pytest.mark.parametrize("max_routes", [100, 1, 0], ids=["complete mirror", "bounded mirror", "no mirror"])
def test_no_read_is_wrong_or_goes_back_on_sqlite(max_routes: int, tmp_path: Path) -> None:
    ReadsNeverGoBackOnSqlite.template = sqlite_settings(tmp_path).path
    migrate(sqlite_settings(tmp_path))
    run_machine(ReadsNeverGoBackOnSqlite, max_routes, examples=10)
