"""Many keys at one revision: from memory in one step, else from the database in one statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.routing.builders import (
    EPOCH,
    OTHER_EPOCH,
    OTHER_URL,
    URL,
    a_key,
    commit,
    commit_batches,
    create,
    deactivate,
    on_a_loop,
    put,
)
from tests.routing.memory_store import MemoryStore
from tests.routing.test_follower import Events, until
from tests.routing.test_resolver import SlowReads
from traffic_manager.errors import Busy, EpochMismatch, NotYetReached, SourceUnavailable
from traffic_manager.routing import hints
from traffic_manager.routing.batch_resolver import Answers, BatchResolver
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.ports import Entry
from traffic_manager.routing.resolver import Resolver
from traffic_manager.routing.unknown_names import UnknownNames
from traffic_manager.routing.watchers import Watchers

A, B, C, NOWHERE = (a_key(service) for service in ("a", "b", "c", "nowhere"))
EPOCH8 = EPOCH[:8]


class Reading:
    """A batch resolver and what it reads from."""

    def __init__(self, store: MemoryStore, max_routes: int) -> None:
        self.store = store
        self.mirror = Mirror(max_routes)
        self.follower = Follower(store, self.mirror, Events(), Watchers(100))
        self.reads = Bulkhead("read", 8, 5.0)
        self.single = Resolver(self.mirror, self.follower, None, store, self.reads, UnknownNames(1000))
        self.unknown = UnknownNames(100)
        self.batch = BatchResolver(self.single, self.mirror, self.follower, store, self.reads, self.unknown)

    async def urls(self, *keys: RouteKey, **how: object) -> list[str | None]:
        """Resolve *keys*; return their URLs."""
        return urls_of(await self.batch.resolve(keys, **how))  # type: ignore[arg-type] # by name


def urls_of(answers: Answers) -> list[str | None]:
    """Return the URLs in the order of the keys."""
    return [entry.url if entry else None for entry in answers.entries]


@asynccontextmanager
async def reading(
    store: MemoryStore, max_routes: int = 100, *, synchronised: bool = True
) -> AsyncIterator[Reading]:
    """Run a batch resolver over *store*. Not synchronised: its follower never starts."""
    found = Reading(store, max_routes)
    if synchronised:
        found.follower.start()
        await until(lambda: found.follower.staleness_s() is not None)
    try:
        yield found
    finally:
        await asyncio.to_thread(found.follower.stop)
        found.reads.close()


@pytest.fixture
def store() -> MemoryStore:
    """Three routes, made in revisions 1 to 3."""
    found = MemoryStore()
    commit(found, *(create(key) for key in (A, B, C)))
    return found


def without_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let followers poll only when they are woken."""
    monkeypatch.setattr(hints, "POLL_S", 60.0)


@on_a_loop
async def test_complete_mirror_answers_all_keys_without_the_database(store: MemoryStore) -> None:
    async with reading(store) as r:
        answers = await r.batch.resolve([B, NOWHERE, A, B])
        assert urls_of(answers) == [URL, None, URL, URL]
        assert (answers.epoch8, answers.as_of, len(answers.missed), store.reads) == (EPOCH8, 3, 0, 0)


@on_a_loop
async def test_complete_mirror_goes_on_when_the_database_is_away_and_says_how_old_it_is(
    store: MemoryStore,
) -> None:
    async with reading(store) as r:
        store.is_away = True
        await until(lambda: r.follower.stale_age_s() is not None)
        answers = await r.batch.resolve([A, NOWHERE])
        assert (urls_of(answers), answers.stale_age_s) == ([URL, None], 1)
        with pytest.raises(SourceUnavailable):
            await r.batch.resolve([A], is_strong=True)


@pytest.mark.parametrize("max_routes", [0, 2, 100])
def test_strong_batch_reads_the_database_once_for_all_keys(
    store: MemoryStore, max_routes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with reading(store, max_routes) as r:
            commit(store, put(A, OTHER_URL), deactivate(B))
            answers = await r.batch.resolve([A, B, C], is_strong=True)
            assert (urls_of(answers), answers.as_of, store.reads) == ([OTHER_URL, None, URL], 5, 1)

    without_follower(monkeypatch)
    asyncio.run(run())


@pytest.mark.parametrize("max_routes", [0, 2, 100])
def test_keys_known_at_different_revisions_are_not_answered_as_of_one(
    store: MemoryStore, max_routes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with reading(store, max_routes) as r:
            commit_batches(store, [put(A, OTHER_URL), put(B, OTHER_URL)])
            await r.single.resolve(A, is_strong=True)
            assert await r.urls(A, B) == [OTHER_URL, OTHER_URL]
            assert await r.urls(B, A) == [OTHER_URL, OTHER_URL]

    without_follower(monkeypatch)
    asyncio.run(run())


@pytest.mark.parametrize("max_routes", [0, 2, 100])
def test_plain_batch_after_a_strong_one_does_not_go_back(
    store: MemoryStore, max_routes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with reading(store, max_routes) as r:
            commit(store, put(A, OTHER_URL))
            await r.single.resolve(A, is_strong=True)
            answers = await r.batch.resolve([A, B])
            assert (urls_of(answers), answers.as_of) == ([OTHER_URL, URL], 4)
            assert urls_of(await r.batch.resolve([A, B])) == [OTHER_URL, URL]
            single = await r.single.resolve(A)
            assert single.entry == Entry(OTHER_URL, 4)

    without_follower(monkeypatch)
    asyncio.run(run())


@on_a_loop
async def test_bounded_mirror_reads_what_it_does_not_know_in_one_statement(store: MemoryStore) -> None:
    commit(store, *(create(a_key(f"other-{n}")) for n in range(10)))
    async with reading(store, max_routes=8) as r:
        await r.single.resolve(A)
        reads = store.reads
        answers = await r.batch.resolve([A, B, C, NOWHERE])
        assert (urls_of(answers), store.reads - reads) == ([URL, URL, URL, None], 1)
        assert A not in answers.missed
        assert {B, C, NOWHERE} >= set(answers.missed)
        again = await r.batch.resolve([A, B, C, NOWHERE])
        assert (len(again.missed), store.reads - reads) == (0, 1)


@on_a_loop
async def test_batch_larger_than_the_mirror_is_answered_at_one_revision(store: MemoryStore) -> None:
    keys = [a_key(f"other-{n}") for n in range(50)]
    commit(store, *(create(key) for key in keys))
    async with reading(store, max_routes=5) as r:
        await r.single.resolve(keys[0])
        for _ in range(3):
            answers = await r.batch.resolve([*keys, A])
            assert (urls_of(answers), answers.as_of) == ([URL] * 51, 53)


@pytest.mark.parametrize("max_routes", [0, 4])
def test_not_found_is_never_said_because_the_database_is_away(store: MemoryStore, max_routes: int) -> None:
    async def run() -> None:
        commit(store, *(create(a_key(f"other-{n}")) for n in range(10)))
        async with reading(store, max_routes) as r:
            store.is_away = True
            with pytest.raises(SourceUnavailable):
                await r.batch.resolve([A, NOWHERE])

    asyncio.run(run())


@on_a_loop
async def test_worker_that_is_not_synchronised_asks_the_database(store: MemoryStore) -> None:
    async with reading(store, synchronised=False) as r:
        answers = await r.batch.resolve([A, NOWHERE])
        assert (urls_of(answers), answers.as_of, set(answers.missed)) == ([URL, None], 3, {A, NOWHERE})


@on_a_loop
async def test_token_is_waited_for_and_answered_from_memory(store: MemoryStore) -> None:
    async with reading(store) as r:
        commit(store, put(A, OTHER_URL))
        answers = await r.batch.resolve([A, B], at_least=Position(EPOCH8, 4))
        assert (urls_of(answers), answers.as_of, store.reads) == ([OTHER_URL, URL], 4, 0)


@pytest.mark.parametrize("max_routes", [0, 100])
def test_token_of_the_future_or_of_another_history_is_refused(store: MemoryStore, max_routes: int) -> None:
    async def run() -> None:
        async with reading(store, max_routes) as r:
            with pytest.raises(NotYetReached):
                await r.batch.resolve([A], at_least=Position(EPOCH8, 99))
            with pytest.raises(EpochMismatch):
                await r.batch.resolve([A], at_least=Position(OTHER_EPOCH[:8], 1))

    asyncio.run(run())


@pytest.mark.parametrize("max_routes", [0, 4, 100])
def test_slow_read_does_not_overwrite_what_came_meanwhile(store: MemoryStore, max_routes: int) -> None:
    async def run() -> None:
        commit(store, *(create(a_key(f"other-{n}")) for n in range(10)))
        async with reading(store, max_routes) as r:
            slow = SlowReads(store)
            asked = asyncio.ensure_future(r.batch.resolve([A, B], is_strong=True))
            await slow.until_held(1)
            slow.let_others_pass()
            commit_batches(store, [put(A, OTHER_URL), put(B, OTHER_URL)])
            assert await r.follower.reached(15, 5.0)
            slow.release()
            answers = await asked
            assert (urls_of(answers), answers.as_of) == ([OTHER_URL, OTHER_URL], 15)
            assert await r.urls(A, B) == [OTHER_URL, OTHER_URL]

    asyncio.run(run())


@pytest.mark.parametrize("max_routes", [0, 4, 100])
def test_batch_of_changes_is_seen_whole_while_it_is_read(store: MemoryStore, max_routes: int) -> None:
    keys = [A, B, C]

    async def rewrite(r: Reading, done: Callable[[], bool]) -> None:
        number = 0
        while not done():
            number += 1
            url = f"{URL}/{number}"
            await asyncio.to_thread(commit_batches, store, [put(key, url) for key in keys])

    async def ask(r: Reading, seen: list[Sequence[str | None]]) -> None:
        for number in range(60):
            seen.append(await r.urls(*keys, is_strong=number % 3 == 0))
            if max_routes:
                await r.single.resolve(keys[number % 3])
            await asyncio.sleep(0.001)

    async def run() -> None:
        commit(store, *(create(a_key(f"other-{n}")) for n in range(10)))
        async with reading(store, max_routes) as r:
            seen: list[Sequence[str | None]] = []
            asking = asyncio.ensure_future(ask(r, seen))
            await asyncio.gather(rewrite(r, asking.done), asking)
        assert {len(set(urls)) for urls in seen} == {1}
        assert len({urls[0] for urls in seen}) > 5

    asyncio.run(run())


@pytest.mark.parametrize("max_routes", [0, 2, 100])
def test_no_key_is_answered_with_nothing(store: MemoryStore, max_routes: int) -> None:
    async def run() -> None:
        async with reading(store, max_routes) as r:
            answers = await r.batch.resolve([])
            assert (list(answers.entries), answers.as_of) == ([], 3)

    asyncio.run(run())


def test_made_up_names_use_up_the_allowance_and_real_ones_do_not(store: MemoryStore) -> None:
    async def run() -> None:
        async with reading(store, max_routes=0) as r:
            for _ in range(30):
                await r.batch.resolve([A, B, C] * 10)
            made_up = [a_key(f"made-up-{n}") for n in range(500)]
            await r.batch.resolve(made_up)
            with pytest.raises(Busy):
                await r.batch.resolve(made_up)
            assert r.unknown.refusals == 1

    asyncio.run(run())


def test_fill_from_a_history_that_was_left_meanwhile_is_not_taken_in(store: MemoryStore) -> None:
    store.is_read_only = True  # so that the new history keeps the name of the one that is left

    async def run() -> None:
        async with reading(store, max_routes=2) as r:
            await r.urls(A)
            slow = SlowReads(store)
            asked = asyncio.ensure_future(r.batch.resolve([A, C]))
            await slow.until_held(1)
            slow.let_others_pass()
            with store._state:
                store.lose_changes_after(2)
                commit(store, put(B, OTHER_URL), create(a_key("d")))
            await until(lambda: r.mirror.histories)
            slow.release()
            assert urls_of(await asked) == [URL, None]

    asyncio.run(run())


@pytest.mark.parametrize("max_routes", [0, 2, 100])
def test_read_of_a_history_that_was_left_meanwhile_is_not_answered(
    store: MemoryStore, max_routes: int
) -> None:
    async def run() -> None:
        async with reading(store, max_routes) as r:
            slow = SlowReads(store)
            asked = asyncio.ensure_future(r.batch.resolve([A, B], is_strong=True))
            await slow.until_held(1)
            slow.let_others_pass()
            with store._state:
                store.lose_changes_after(2)
                commit(store, put(A, OTHER_URL))
            await until(lambda: r.mirror.histories)
            slow.release()
            assert urls_of(await asked) == [OTHER_URL, URL]

    asyncio.run(run())
