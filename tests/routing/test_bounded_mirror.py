"""A mirror that is at times complete and at times bounded, against a model that remembers every history: whatever
is dropped, delayed, forgotten, restored or brought back in whatever order, every answer is the state of its key at
its revision, and no worker's answers for a key go back.

One thread, and every reply of database and Redis arrives when the test says so. The real mirror, follower and
resolver run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.routing.builders import OTHER_URL, URL, a_key, activate, commit, deactivate, delete, put
from tests.routing.memory_cache import MemoryCache
from tests.routing.memory_store import MemoryStore
from tests.routing.stepped import Post, SlowReads, SteppedFollower, SteppedLoop, run_stepped
from tests.routing.test_follower import Events
from traffic_manager.errors import BatchFailed, EpochMismatch, NotYetReached, SourceUnavailable
from traffic_manager.routing import follower as follower_module
from traffic_manager.routing import mirror as mirror_module
from traffic_manager.routing import recent as recent_module
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.operations import Operation
from traffic_manager.routing.ports import CachedRoute, Entry, Sighting
from traffic_manager.routing.resolver import Answer, Resolver
from traffic_manager.routing.unknown_names import UnknownNames
from traffic_manager.routing.watchers import Watchers

MAX_ROUTES = 2
WINDOW = 3
KEYS = [a_key(service) for service in "abcd"]
ABSENCE_TTL_S = 10.0


class SlowCache(MemoryCache):
    """Finds and keeps at once or later, by *post*: what is kept late may put an old value over a newer one."""

    def __init__(self, post: Post) -> None:
        super().__init__()
        self._post = post

    async def get(self, key: RouteKey) -> CachedRoute | None:
        entry = await super().get(key)
        return await self._post.carry(entry) if entry else None  # so that the database's reply is slow, too

    async def put(self, key: RouteKey, entry: CachedRoute) -> None:
        await self._post.carry(None)
        await super().put(key, entry)

    def filled_by_others(self, key: RouteKey, sighting: Sighting) -> None:
        """Keep what another worker has read just now."""
        head, route = sighting.head, sighting.routes.get(key)
        revision, url = (route.revision, route.url) if route and route.is_active else (0, None)
        self.restore({**self.image(), key: CachedRoute(head.epoch, head.revision, revision, url)})

    def expire(self, key: RouteKey) -> None:
        """Forget one entry."""
        self.restore({k: entry for k, entry in self.image().items() if k != key})


# A place in the course of all histories: a later epoch is after an earlier one, whatever the revisions.
Place = tuple[int, int]


@dataclass(eq=False)
class Worker:
    """One worker's parts, and the newest place at which it answered for each key."""

    mirror: Mirror
    follower: SteppedFollower
    resolver: Resolver
    floors: dict[RouteKey, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """How a read was asked for, and when."""

    at: Place
    is_strong: bool
    token: Position | None
    outages: int


keys = st.sampled_from(KEYS)
workers = st.integers(0, 1)
slow = st.booleans()
STEPS = [
    "put",
    "put",
    "deactivate",
    "follow",
    "deliver",
    "see",
    "elsewhere",
    "plain",
    "strong",
    "slow strong",
]
steps = st.lists(st.sampled_from(STEPS), min_size=2, max_size=6)
# Often a read is on its way, of what Redis or the database had, while the rest happens.
BEGINNINGS = [
    [],
    ["slow plain"],
    ["elsewhere", "slow plain"],
    ["elsewhere", "slow plain", "put", "strong"],
    ["see", "put"],
    ["slow strong", "restore", "follow", "plain"],
]


def operations() -> st.SearchStrategy[Operation]:
    """Draw a wish for one route; creations are frequent enough for the table to outgrow the mirror."""
    return st.one_of(
        st.builds(
            put, keys, st.sampled_from([URL, OTHER_URL]), is_active=st.sampled_from([None, True, False])
        ),
        st.builds(put, keys, st.sampled_from([URL, OTHER_URL])),
        st.builds(lambda key, wish: wish(key), keys, st.sampled_from([activate, deactivate, delete, delete])),
    )


class BoundedMirror(RuleBasedStateMachine):
    """The machine. Its model is the state of each key at each revision of each history."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.store = MemoryStore(epoch=_epoch(1))
        self.cache = SlowCache(self.loop.post)
        self.image: Mapping[RouteKey, CachedRoute] = {}
        self.past: list[dict[RouteKey, list[tuple[int, Entry | None]]]] = [{key: [(0, None)] for key in KEYS}]
        self.outages = 0
        self.now_s = 100.0
        self.workers = [self.new_worker(), self.new_worker()]

    def new_worker(self) -> Worker:
        mirror = Mirror(MAX_ROUTES, ABSENCE_TTL_S)
        follower = SteppedFollower(self.store, mirror, Events(), Watchers(10))
        reads, unknown = SlowReads(self.loop.post), UnknownNames(1_000_000)
        return Worker(mirror, follower, Resolver(mirror, follower, self.cache, self.store, reads, unknown))

    def teardown(self) -> None:
        self.loop.deliver_all()
        for worker, key in product(range(len(self.workers)), KEYS):
            self.answer_from_memory(worker, key)
        for each in self.workers:
            each.follower.close()
        still_waiting = self.loop.close()
        assert not still_waiting

    # -- what may happen

    @initialize(active=st.sampled_from([1, 3, 4, 4]), followed=st.sets(workers))
    def begin_with(self, active: int, followed: set[int]) -> None:
        for key in KEYS[:active]:
            self.write(put(key))
        for worker in sorted(followed):
            self.follow(worker)

    @rule(operation=operations())
    def write(self, operation: Operation) -> None:
        try:
            [outcome] = commit(self.store, operation)
        except BatchFailed:
            return  # there is no such route
        if outcome.action:
            route = outcome.route
            entry = Entry(route.url, outcome.revision) if route and route.is_active else None
            self.past[-1][operation.key].append((outcome.revision, entry))

    @rule(operation=operations(), worker=workers)
    def write_and_follow(self, operation: Operation, worker: int) -> None:
        self.write(operation)
        self.follow(worker)

    @rule(worker=workers)
    def follow(self, worker: int) -> None:
        is_well = self.workers[worker].follower.step()
        assert is_well != self.store.is_away
        if is_well:
            assert self.workers[worker].mirror.applied == self.store.head.revision

    @rule(worker=workers, key=keys)
    def answer_from_memory(self, worker: int, key: RouteKey) -> None:
        answer = self.workers[worker].resolver.from_memory(key)
        if answer:
            self.check(self.workers[worker], key, answer)

    @rule(worker=workers, key=keys, is_slow=slow)
    def resolve(self, worker: int, key: RouteKey, is_slow: bool) -> None:
        self.read(worker, key, is_slow=is_slow)

    @rule(worker=workers, key=keys, is_slow=slow, behind=st.integers(-1, 3))
    def resolve_with_token(self, worker: int, key: RouteKey, is_slow: bool, behind: int) -> None:
        head = self.store.head
        token = Position(head.epoch8, max(0, head.revision - behind))
        self.read(worker, key, is_slow=is_slow, token=token)

    @rule(worker=workers, key=keys, first=st.sampled_from(BEGINNINGS), steps=steps)
    def crowd(self, worker: int, key: RouteKey, first: list[str], steps: list[str]) -> None:
        """Much happens to one key at once."""
        for step in [*first, *steps]:
            self.take(step, worker, key)
        self.loop.deliver_all()
        self.answer_from_memory(worker, key)

    def take(self, step: str, worker: int, key: RouteKey) -> None:
        if step == "put":
            self.write(put(key, f"{URL}/{self.store.head.revision}"))
        elif step == "deactivate":
            self.write(deactivate(key))
        elif step == "follow":
            self.follow(worker)
        elif step == "deliver":
            self.loop.deliver(0)
        elif step == "elsewhere":
            self.cache.filled_by_others(key, self.store.look_up([key]))
        elif step == "see":
            self.see(worker, key)
        elif step == "restore":
            self.restore_database(0)
        else:
            self.read(worker, key, is_slow=step.startswith("slow"), is_strong=step.endswith("strong"))

    @rule(worker=workers, key=keys, is_strong=st.booleans())
    def resolve_without_database(self, worker: int, key: RouteKey, is_strong: bool) -> None:
        self.outages += 1
        self.store.is_away = True
        self.read(worker, key, is_slow=False, is_strong=is_strong)
        self.follow(worker)
        self.store.is_away = False
        self.read(worker, key, is_slow=False)

    def see(self, worker: int, key: RouteKey) -> None:
        """Somebody reads or writes the route itself, and the resolver is told what was seen."""
        with self.loop.slowly(True):
            self.loop.begin(self.tell(worker, key, self.store.look_up([key])))

    @rule(which=st.integers(0, 9))
    def deliver(self, which: int) -> None:
        self.loop.deliver(which)

    @rule(worker=workers, is_followed=st.booleans())
    def restart(self, worker: int, is_followed: bool) -> None:
        self.loop.deliver_all()
        self.workers[worker].follower.close()
        self.workers[worker] = self.new_worker()
        if is_followed:
            self.follow(worker)

    @rule(key=keys)
    def expire_in_cache(self, key: RouteKey) -> None:
        self.cache.expire(key)

    @rule(lost=st.integers(0, 3))
    def restore_database(self, lost: int) -> None:
        """Go on from an older state of the database, as another history. Every worker has followed one by then."""
        if any(worker.mirror.head is None for worker in self.workers):
            return
        if not self.store.compacted_revision:
            self.store.lose_changes_after(max(0, self.store.head.revision - lost))
        kept = self.store.head.revision
        self.past.append(
            {key: [(at, entry) for at, entry in past if at <= kept] for key, past in self.past[-1].items()}
        )
        self.store.begin_epoch(_epoch(len(self.past)))

    @rule(how=st.sampled_from(["save cache", "restore cache", "flush cache", "wait", "compact"]))
    def disturb(self, how: str) -> None:
        if how == "save cache":
            self.image = self.cache.image()
        elif how == "restore cache":
            self.cache.restore(self.image)
        elif how == "flush cache":
            self.cache.flush()
        elif how == "wait":
            self.now_s += ABSENCE_TTL_S * 2
        elif self.store.head.revision - 1 > self.store.compacted_revision:
            self.store.compact(self.store.head.revision - 1)

    # -- what must be

    @invariant()
    def the_mirror_stays_within_its_limit_and_counts_the_others(self) -> None:
        for worker in self.workers:
            mirror = worker.mirror
            assert len(mirror) <= MAX_ROUTES
            if mirror.head is not None:
                active = [key for key in KEYS if self.state(key, (mirror.head.epoch_number, mirror.applied))]
                assert mirror.active_routes == len(active)
                assert not mirror.is_complete or len(mirror) == len(active)

    def check(self, worker: Worker, key: RouteKey, answer: Answer) -> None:
        """Hold what must be true of every answer in the moment in which it is given."""
        place = _number(answer.epoch8), answer.as_of
        assert place <= self.head, "no answer comes from the future"
        assert answer.entry == self.state(key, place), "every answer is the state at its revision"
        floor = worker.floors.get(key, (0, 0))
        followed = worker.mirror.head.epoch_number if worker.mirror.head else 0
        is_behind_fork = followed < floor[0]  # a read of the database met it before the follower
        assert place >= floor or is_behind_fork, "no worker's answers for a key go back"
        worker.floors[key] = max(place, floor)

    @property
    def head(self) -> Place:
        return self.store.head.epoch_number, self.store.head.revision

    def state(self, key: RouteKey, place: Place) -> Entry | None:
        """Return the route of *key* at *place*, by the log."""
        epoch_number, revision = place
        return next(entry for at, entry in reversed(self.past[epoch_number - 1][key]) if at <= revision)

    # -- how it is done

    def read(
        self,
        worker: int,
        key: RouteKey,
        *,
        is_slow: bool,
        is_strong: bool = False,
        token: Position | None = None,
    ) -> None:
        asked = Asked(self.head, is_strong, token, self.outages - self.store.is_away)
        with self.loop.slowly(is_slow):
            self.loop.begin(self.ask(self.workers[worker], key, asked))
        self.answer_from_memory(worker, key)

    async def ask(self, worker: Worker, key: RouteKey, asked: Asked) -> None:
        try:
            answer = await worker.resolver.resolve(key, is_strong=asked.is_strong, at_least=asked.token)
        except EpochMismatch:
            assert asked.token is not None
            assert self.head[0] > asked.at[0], "only a fork makes a token one of another history"
        except NotYetReached:
            assert asked.token is not None
            assert asked.token.revision > asked.at[1] or self.head[0] > asked.at[0]
        except SourceUnavailable:
            assert self.outages > asked.outages, "only an outage is a reason to know nothing"
        else:
            self.check(worker, key, answer)
            place = _number(answer.epoch8), answer.as_of
            if asked.is_strong:
                assert place >= asked.at, "a strong read sees what was there when it was asked for"
            if asked.token:
                assert place >= (_number(asked.token.epoch8), asked.token.revision)

    async def tell(self, worker: int, key: RouteKey, sighting: Sighting) -> None:
        resolver = self.workers[worker].resolver
        resolver.saw(key, await self.loop.post.carry(sighting))


def _epoch(number: int) -> str:
    return f"{number:08x}" + "0" * 24


def _number(epoch8: str) -> int:
    return int(epoch8, 16)


@pytest.fixture
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "WINDOW_CHANGES", WINDOW)
    monkeypatch.setattr(follower_module, "WINDOW_CHANGES", WINDOW)


@pytest.mark.timeout(600)  # a failure is made small before it is shown
@pytest.mark.usefixtures("_steps")
def test_no_answer_of_a_mirror_that_grows_and_shrinks_is_wrong_or_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Machine(BoundedMirror):
        def __init__(self) -> None:
            super().__init__()
            monkeypatch.setattr(recent_module, "monotonic", lambda: self.now_s)

    run_stepped(Machine, examples=200, steps=40)
