"""The read path: from memory, from the cache, from the database, and never a false "not found"."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

import pytest

from tests.routing.builders import (
    EPOCH,
    OTHER_EPOCH,
    OTHER_URL,
    URL,
    a_key,
    commit,
    create,
    deactivate,
    delete,
    on_a_loop,
    put,
)
from tests.routing.memory_cache import MemoryCache
from tests.routing.memory_store import MemoryStore
from tests.routing.test_follower import Events, until
from traffic_manager.errors import Busy, EpochMismatch, NotYetReached, SourceUnavailable
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.operations import Operation
from traffic_manager.routing.ports import CachedRoute, Entry, Head, Sighting, Slice
from traffic_manager.routing.resolver import Answer, Resolver, Source
from traffic_manager.routing.unknown_names import UnknownNames
from traffic_manager.routing.watchers import Watchers

EPOCH8 = EPOCH[:8]
EVIL = "https://evil.example"


@dataclass
class Reading:
    """A resolver and all that it reads from."""

    store: MemoryStore
    cache: MemoryCache
    mirror: Mirror
    follower: Follower
    resolver: Resolver

    async def resolve(self, key: RouteKey | None = None, **how: object) -> Answer:
        """Resolve *key*; the default is `a_key()`."""
        return await self.resolver.resolve(key or a_key(), **how)  # type: ignore[arg-type] # by name

    async def followed(self) -> None:
        """Wait until the mirror stands at the head."""
        assert await self.follower.reached(self.store.head.revision, 5.0)


@asynccontextmanager
async def reading(
    store: MemoryStore, *, max_routes: int = 100, synchronised: bool = True, unknown_names: int = 1000
) -> AsyncIterator[Reading]:
    """Run a resolver over *store*. Not synchronised: its follower never starts."""
    mirror, cache, reads = Mirror(max_routes), MemoryCache(), Bulkhead("read", 8, 5.0)
    follower = Follower(store, mirror, Events(), Watchers(100))
    if synchronised:
        follower.start()
        await until(lambda: follower.staleness_s() is not None)
    try:
        resolver = Resolver(mirror, follower, cache, store, reads, UnknownNames(unknown_names))
        yield Reading(store, cache, mirror, follower, resolver)
    finally:
        await asyncio.to_thread(follower.stop)
        reads.close()


class SlowReads:
    """Holds back, one by one, the reads that have seen the database already."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._held: list[threading.Event] = []
        self.hold_others()

    def _hold(self) -> None:
        release = threading.Event()
        self._held.append(release)
        release.wait(5)

    async def until_held(self, count: int) -> None:
        """Wait until so many reads are held."""
        await until(lambda: len(self._held) >= count)

    def hold_others(self) -> None:
        """Hold whatever reads from now on."""
        self._store.after_read = self._hold

    def let_others_pass(self) -> None:
        """Hold no more."""
        self._store.after_read = lambda: None

    def release(self) -> None:
        """Let all go."""
        for release in self._held:
            release.set()


# -- a complete mirror


@on_a_loop
async def test_complete_mirror_answers_without_the_database() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store) as r:
        found, missing = await r.resolve(), await r.resolve(a_key("unknown"))
        assert found == Answer(EPOCH8, 1, Entry(URL, 1), Source.HIT)
        assert missing == Answer(EPOCH8, 1, None, Source.NEGATIVE)
        assert (store.reads, r.cache.gets) == (0, 0)


@on_a_loop
async def test_inactive_route_is_not_found() -> None:
    store = MemoryStore()
    commit(store, create(), deactivate())
    async with reading(store) as r:
        assert (await r.resolve()).entry is None


@on_a_loop
async def test_complete_mirror_goes_on_when_the_database_is_away_and_says_how_old_it_is() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store) as r:
        store.is_away = True
        await until(lambda: r.follower.stale_age_s() is not None)
        answer = await r.resolve()
        assert (answer.entry, answer.stale_age_s) == (Entry(URL, 1), 1)
        with pytest.raises(SourceUnavailable):
            await r.resolve(is_strong=True)


@on_a_loop
async def test_strong_read_is_as_the_database_has_it_and_later_reads_do_not_go_behind_it() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store) as r:
        await asyncio.to_thread(r.follower.stop)
        commit(store, put(url=OTHER_URL))
        strong = await r.resolve(is_strong=True)
        assert (strong.as_of, strong.entry) == (2, Entry(OTHER_URL, 2))
        again = await r.resolve()
        assert (again.as_of, again.entry) == (2, Entry(OTHER_URL, 2))
        other = await r.resolve(a_key("other"))
        assert other.as_of == 1


@on_a_loop
async def test_slow_strong_read_answers_with_what_the_mirror_knows_better() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store) as r:
        slow = SlowReads(store)
        strong = asyncio.ensure_future(r.resolve(is_strong=True))
        await slow.until_held(1)
        commit(store, put(url=OTHER_URL))
        await r.followed()
        slow.release()
        assert (await strong).entry == Entry(OTHER_URL, 2)


# -- the cache aside


@on_a_loop
async def test_without_a_mirror_the_first_read_fills_the_cache_and_the_second_uses_it() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        answers = [await r.resolve(), await r.resolve()]
        assert [a.source for a in answers] == [Source.MISS, Source.HIT]
        assert store.reads == 1


@on_a_loop
async def test_absence_is_cached_too() -> None:
    store = MemoryStore()
    async with reading(store, max_routes=0) as r:
        answers = [await r.resolve(), await r.resolve()]
        assert [a.source for a in answers] == [Source.MISS, Source.NEGATIVE]


@pytest.mark.parametrize(
    ("change", "url"), [(put(url=OTHER_URL), OTHER_URL), (delete(), None), (deactivate(), None)]
)
@on_a_loop
async def test_cached_value_is_not_used_once_its_key_has_changed(change: Operation, url: str | None) -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        await r.resolve()
        commit(store, change)
        await r.followed()
        answer = await r.resolve()
        assert (answer.as_of, answer.entry and answer.entry.url) == (2, url)


@on_a_loop
async def test_cached_value_is_used_on_while_only_other_keys_change() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        await r.resolve()
        commit(store, create(a_key("other")))
        await r.followed()
        answer = await r.resolve()
        assert (answer.as_of, answer.source, store.reads) == (2, Source.HIT, 1)


@on_a_loop
async def test_cache_that_speaks_of_another_history_is_not_believed() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        await r.cache.put(a_key(), CachedRoute(OTHER_EPOCH, 99, 99, EVIL))
        assert (await r.resolve()).entry == Entry(URL, 1)


@on_a_loop
async def test_cache_that_is_away_costs_nothing_but_the_database() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        r.cache.is_away = True
        assert [(await r.resolve()).source for _ in range(2)] == [Source.MISS, Source.MISS]


@on_a_loop
async def test_cache_serves_on_while_the_database_is_away_and_other_keys_are_unavailable() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        await r.resolve()
        store.is_away = True
        assert (await r.resolve()).entry == Entry(URL, 1)
        for _ in range(2):
            with pytest.raises(SourceUnavailable):
                await r.resolve(a_key("other"))


@on_a_loop
async def test_readers_of_one_key_share_a_look_up_and_those_of_others_do_not() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        slow = SlowReads(store)
        same = [asyncio.ensure_future(r.resolve()) for _ in range(10)]
        await slow.until_held(1)
        same += [asyncio.ensure_future(r.resolve()) for _ in range(10)]
        other = asyncio.ensure_future(r.resolve(a_key(tenant="team-b")))
        await slow.until_held(2)
        slow.let_others_pass()
        slow.release()
        await asyncio.gather(*same, other)
        assert store.reads == 2


@on_a_loop
async def test_failing_look_up_fails_all_who_share_it_and_nobody_after() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        store.is_away = True
        failures = await asyncio.gather(*(r.resolve() for _ in range(5)), return_exceptions=True)
        assert {type(f) for f in failures} == {SourceUnavailable}
        store.is_away = False
        assert (await r.resolve()).entry == Entry(URL, 1)


@on_a_loop
async def test_reader_who_goes_away_does_not_take_the_look_up_from_the_others() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0) as r:
        slow = SlowReads(store)
        first, second = (asyncio.ensure_future(r.resolve()) for _ in range(2))
        await slow.until_held(1)
        first.cancel()
        slow.release()
        assert (await second).entry == Entry(URL, 1)


@on_a_loop
async def test_strong_read_does_not_join_an_older_look_up() -> None:
    store = MemoryStore()
    async with reading(store, max_routes=0, synchronised=False) as r:
        slow = SlowReads(store)
        old = asyncio.ensure_future(r.resolve())
        await slow.until_held(1)
        slow.let_others_pass()
        commit(store, create())
        strong = await r.resolve(is_strong=True)
        assert (strong.as_of, strong.entry) == (1, Entry(URL, 1))
        slow.release()
        late = await old
        assert (late.as_of, late.entry) == (1, Entry(URL, 1)), "it must not go back behind the strong one"


@on_a_loop
async def test_slow_strong_read_does_not_go_back_behind_a_quick_one() -> None:
    store = MemoryStore()
    async with reading(store, max_routes=0, synchronised=False) as r:
        slow = SlowReads(store)
        first = asyncio.ensure_future(r.resolve(is_strong=True))
        await slow.until_held(1)
        slow.let_others_pass()
        commit(store, create())
        assert (await r.resolve(is_strong=True)).as_of == 1
        slow.release()
        assert (await first).as_of == 1


@on_a_loop
async def test_route_that_changes_during_many_reads_in_a_row_is_answered_all_the_same() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=0, synchronised=False) as r:
        slow = SlowReads(store)
        read = asyncio.ensure_future(r.resolve(is_strong=True))
        for number in range(1, 7):
            await slow.until_held(number)
            slow.let_others_pass()
            commit(store, put(url=f"{OTHER_URL}/{number}"))
            assert (await r.resolve(is_strong=True)).as_of == number + 1
            slow.hold_others()
            slow.release()
        await slow.until_held(7)
        slow.release()
        assert (await read).entry == Entry(f"{OTHER_URL}/6", 7)


# -- not older than a token


@on_a_loop
async def test_token_is_waited_for() -> None:
    store = MemoryStore()
    async with reading(store) as r:
        commit(store, create())
        answer = await r.resolve(at_least=Position(EPOCH8, 1))
        assert (answer.entry, answer.source) == (Entry(URL, 1), Source.HIT)


@on_a_loop
async def test_token_that_the_mirror_does_not_reach_is_read_from_the_database() -> None:
    store = MemoryStore()
    async with reading(store) as r:
        await asyncio.to_thread(r.follower.stop)
        commit(store, create())
        answer = await r.resolve(at_least=Position(EPOCH8, 1))
        assert (answer.as_of, answer.source) == (1, Source.MISS)


@on_a_loop
async def test_token_read_that_joins_an_older_look_up_is_answered_at_its_token() -> None:
    store = MemoryStore()
    async with reading(store, max_routes=0) as r:
        slow = SlowReads(store)
        old = asyncio.ensure_future(r.resolve())
        await slow.until_held(1)
        slow.let_others_pass()
        commit(store, create(a_key("other")))
        await r.followed()
        joined = asyncio.ensure_future(r.resolve(at_least=Position(EPOCH8, 1)))
        await asyncio.sleep(0)
        slow.release()
        assert [(await answer).as_of for answer in (old, joined)] == [1, 1]


@pytest.mark.parametrize("max_routes", [100, 0])
@pytest.mark.parametrize("is_strong", [True, False])
@on_a_loop
async def test_token_of_the_future_is_not_yet_reached(max_routes: int, is_strong: bool) -> None:
    async with reading(MemoryStore(), max_routes=max_routes) as r:
        with pytest.raises(NotYetReached):
            await r.resolve(at_least=Position(EPOCH8, 1), is_strong=is_strong)


@pytest.mark.parametrize("synchronised", [True, False])
@pytest.mark.parametrize("is_strong", [True, False])
@on_a_loop
async def test_token_of_another_history_is_refused(synchronised: bool, is_strong: bool) -> None:
    async with reading(MemoryStore(), synchronised=synchronised) as r:
        with pytest.raises(EpochMismatch):
            await r.resolve(at_least=Position(OTHER_EPOCH[:8], 0), is_strong=is_strong)


# -- before the first synchronisation


@on_a_loop
async def test_worker_that_is_not_synchronised_answers_from_the_database() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, synchronised=False) as r:
        await r.cache.put(a_key(), CachedRoute(EPOCH, 99, 99, EVIL))
        assert await r.resolve() == Answer(EPOCH8, 1, Entry(URL, 1), Source.MISS)
        assert (await r.resolve(a_key("unknown"))).entry is None


@pytest.mark.parametrize("how", [{}, {"is_strong": True}, {"at_least": Position(EPOCH8, 1)}])
@pytest.mark.parametrize("max_routes", [100, 0])
@on_a_loop
async def test_failing_database_is_never_told_as_not_found(how: dict[str, Any], max_routes: int) -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store, max_routes=max_routes, synchronised=False) as r:
        store.is_away = True
        for _ in range(2):
            with pytest.raises(SourceUnavailable):
                await r.resolve(**how)
        store.is_away = False
        assert (await r.resolve(**how)).entry == Entry(URL, 1)


@on_a_loop
async def test_database_with_another_history_is_answered_as_it_is_and_followed() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store) as r:
        store.begin_epoch(OTHER_EPOCH)
        answer = await r.resolve(is_strong=True)
        assert (answer.epoch8, answer.entry) == (OTHER_EPOCH[:8], Entry(URL, 1))
        await until(lambda: r.mirror.head and r.mirror.head.epoch == OTHER_EPOCH)


# -- a bounded mirror


@on_a_loop
async def test_bounded_mirror_answers_what_it_holds_from_memory_and_looks_up_the_rest_once() -> None:
    store = MemoryStore()
    commit(store, *(create(a_key(service)) for service in "abc"))
    async with reading(store, max_routes=2) as r:
        r.cache.is_away = True
        held = [s for s in "abc" if r.resolver.from_memory(a_key(s))]
        [missing] = set("abc") - set(held)
        answers = [await r.resolve(a_key(missing)) for _ in range(2)]
        assert [a.source for a in answers] == [Source.MISS, Source.HIT]
        assert (store.reads, len(r.mirror)) == (1, 2)


@on_a_loop
async def test_name_without_a_route_is_remembered_by_a_bounded_mirror_until_it_is_created() -> None:
    store = MemoryStore()
    commit(store, *(create(a_key(service)) for service in "abc"))
    async with reading(store, max_routes=2) as r:
        answers = [await r.resolve(a_key("d")) for _ in range(2)]
        assert [a.source for a in answers] == [Source.MISS, Source.NEGATIVE]
        commit(store, create(a_key("d")))
        await r.followed()
        answer = await r.resolve(a_key("d"))
        assert (answer.entry, answer.source) == (Entry(URL, 4), Source.HIT)


@on_a_loop
async def test_failing_look_up_is_not_remembered_as_a_missing_route() -> None:
    store = MemoryStore()
    commit(store, *(create(a_key(service)) for service in "abc"))
    async with reading(store, max_routes=1) as r:
        [first, *_] = [s for s in "abc" if not r.resolver.from_memory(a_key(s))]
        store.is_away = True
        with pytest.raises(SourceUnavailable):
            await r.resolve(a_key(first))
        assert r.resolver.from_memory(a_key(first)) is None
        store.is_away = False
        assert (await r.resolve(a_key(first))).entry is not None


@on_a_loop
async def test_what_was_read_ahead_of_the_mirror_is_held_once_the_mirror_is_there() -> None:
    store = MemoryStore()
    commit(store, *(create(a_key(service)) for service in "abc"))
    async with reading(store, max_routes=2) as r:
        r.cache.is_away = True
        await asyncio.to_thread(r.follower.stop)
        commit(store, create(a_key("d")))
        assert [(await r.resolve(a_key("d"))).as_of for _ in range(2)] == [4, 4]
        r.mirror.apply(Slice(4, b"", store.log()[3:]))
        assert r.resolver.from_memory(a_key("d")) == Answer(EPOCH8, 4, Entry(URL, 4), Source.HIT, ANY)
        assert store.reads == 1


@on_a_loop
async def test_key_shown_ahead_of_the_mirror_makes_no_other_keys_value_refused() -> None:
    store = MemoryStore()
    keys = [a_key(f"s{n}") for n in range(20)]
    commit(store, *(create(key) for key in keys))
    async with reading(store, max_routes=0) as r:
        for key in keys:
            await r.resolve(key)
        await asyncio.to_thread(r.follower.stop)
        commit(store, put(keys[0], OTHER_URL))
        assert (await r.resolve(keys[0], is_strong=True)).as_of == 21
        reads = store.reads
        answers = [await r.resolve(key) for key in keys]
        assert {a.source for a in answers} == {Source.HIT}
        assert store.reads == reads


@on_a_loop
async def test_look_up_of_a_history_that_was_left_meanwhile_is_made_again() -> None:
    store = MemoryStore()
    commit(store, create(), put(url=OTHER_URL))
    async with reading(store, max_routes=0) as r:
        slow = SlowReads(store)
        read = asyncio.ensure_future(r.resolve(is_strong=True))
        await slow.until_held(1)
        slow.let_others_pass()
        store.lose_changes_after(1)
        await until(lambda: r.mirror.histories == 1)
        slow.release()
        answer = await read
        assert (answer.as_of, answer.entry) == (1, Entry(URL, 1))


# -- names that nobody has


@on_a_loop
async def test_only_so_many_names_without_a_route_are_looked_up() -> None:
    store = MemoryStore()
    commit(store, *(create(a_key(service)) for service in "abc"))
    async with reading(store, max_routes=2, unknown_names=3) as r:
        known = [a_key(s) for s in "abc" if r.resolver.from_memory(a_key(s))]
        made_up = [r.resolve(a_key(f"x{n}")) for n in range(10)]
        answers = await asyncio.gather(*made_up, return_exceptions=True)
        assert [type(a) for a in answers] == [Answer] * 3 + [Busy] * 7
        assert store.reads == 1  # of three names
        assert [(await r.resolve(key)).source for key in known] == [Source.HIT] * 2


@on_a_loop
async def test_name_that_changed_lately_is_looked_up_though_made_up_ones_have_used_up_the_allowance() -> None:
    store = MemoryStore()
    async with reading(store, max_routes=1, unknown_names=1) as r:
        commit(store, *(create(a_key(service)) for service in "abc"))
        await r.followed()
        await r.resolve(a_key("x1"))
        with pytest.raises(Busy):
            await r.resolve(a_key("x2"))
        assert all([(await r.resolve(a_key(service))).entry for service in "abc"])


@on_a_loop
async def test_names_of_routes_are_looked_up_without_limit() -> None:
    store = MemoryStore()
    keys = [a_key(f"s{n}") for n in range(10)]
    commit(store, *(create(key) for key in keys))
    async with reading(store, max_routes=1, unknown_names=1) as r:
        r.cache.is_away = True
        assert all([(await r.resolve(key)).entry for key in keys])
        store.is_away = True
        for key in keys[:5]:
            with pytest.raises(SourceUnavailable, match="cannot be reached"):
                await r.resolve(key)


@on_a_loop
async def test_what_was_seen_late_does_not_replace_what_changed_meanwhile() -> None:
    store = MemoryStore()
    commit(store, *(create(a_key(service)) for service in "abc"))
    async with reading(store, max_routes=2) as r:
        key = next(a_key(service) for service in "abc" if r.resolver.from_memory(a_key(service)))
        seen = store.look_up([key])
        commit(store, put(key, OTHER_URL))
        await r.followed()
        r.resolver.saw(key, seen)
        assert (await r.resolve(key)).entry == Entry(OTHER_URL, 4)


@on_a_loop
async def test_what_was_seen_of_another_history_is_not_shown_in_this_one() -> None:
    store = MemoryStore()
    commit(store, create())
    async with reading(store) as r:
        r.resolver.saw(a_key(), Sighting(Head(OTHER_EPOCH, 2, 9), {}))
        answer = r.resolver.from_memory(a_key())
        assert answer
        assert (answer.as_of, answer.entry) == (1, Entry(URL, 1))
