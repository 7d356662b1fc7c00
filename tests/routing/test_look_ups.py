"""Look-ups that come together share a question, and none is answered by a question that was asked before it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Collection

import pytest

from tests.routing.builders import URL, a_key, commit, create, on_a_loop
from tests.routing.memory_store import MemoryStore
from tests.routing.test_follower import until
from traffic_manager.errors import Busy, SourceUnavailable
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.look_ups import LookUps
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import Sighting

A, B = a_key("a"), a_key("b")


class HeldStore(MemoryStore):
    """Holds what it has read until it is told to let go, and notes which keys it was asked for together."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[set[RouteKey]] = []
        self.may_answer = threading.Event()

    def look_up(self, keys: Collection[RouteKey]) -> Sighting:
        sighting = super().look_up(keys)
        self.asked.append(set(keys))
        assert self.may_answer.wait(5)
        return sighting


def asking(look_ups: LookUps, *keys: RouteKey) -> list[asyncio.Task[Sighting]]:
    """Begin to look up each of *keys*."""
    return [asyncio.ensure_future(look_ups.look_up(key)) for key in keys]


@on_a_loop
async def test_who_comes_together_shares_a_question_and_each_finds_its_route() -> None:
    store, reads = HeldStore(), Bulkhead("read", 2, 5.0)
    commit(store, create(A), create(B))
    store.may_answer.set()
    found = await asyncio.gather(*asking(LookUps(store, reads), A, B, A))
    assert store.asked == [{A, B}]
    assert [sighting.routes[key].url for sighting, key in zip(found, (A, B, A), strict=True)] == [URL] * 3
    reads.close()


@on_a_loop
async def test_who_comes_when_all_threads_are_busy_waits_with_others_for_the_next() -> None:
    store, reads = HeldStore(), Bulkhead("read", 1, 5.0)
    look_ups = LookUps(store, reads)
    running = asking(look_ups, A)
    await until(lambda: store.asked == [{A}])
    for key in (A, B, a_key("c")):
        running += asking(look_ups, key)
        await asyncio.sleep(0)
    store.may_answer.set()
    await asyncio.gather(*running)
    assert store.asked == [{A}, {A, B, a_key("c")}]
    reads.close()


@on_a_loop
async def test_nobody_is_told_what_was_read_before_he_asked() -> None:
    store, reads = HeldStore(), Bulkhead("read", 2, 5.0)
    look_ups = LookUps(store, reads)
    early = asking(look_ups, A)
    await until(lambda: store.asked == [{A}])
    commit(store, create(A))
    late = asking(look_ups, A)
    await until(lambda: len(store.asked) == 2)
    store.may_answer.set()
    assert [found.head.revision for found in await asyncio.gather(*early, *late)] == [0, 1]
    reads.close()


@on_a_loop
async def test_all_of_a_question_that_no_thread_takes_in_time_are_refused_and_later_ones_are_not() -> None:
    store, reads = HeldStore(), Bulkhead("read", 1, 0.02)
    look_ups = LookUps(store, reads)
    running = asking(look_ups, A)
    await until(lambda: store.asked == [{A}])
    refused = await asyncio.gather(*asking(look_ups, A, B), return_exceptions=True)
    assert [type(error) for error in refused] == [Busy, Busy]
    store.may_answer.set()
    await asyncio.gather(*running)
    await look_ups.look_up(B)
    assert store.asked == [{A}, {B}]
    reads.close()


@on_a_loop
async def test_failure_is_told_to_all_who_share_it_and_to_nobody_else() -> None:
    store, reads = HeldStore(), Bulkhead("read", 1, 5.0)
    look_ups = LookUps(store, reads)
    store.may_answer.set()
    store.is_away = True
    failed = await asyncio.gather(*asking(look_ups, A, B), return_exceptions=True)
    assert [type(error) for error in failed] == [SourceUnavailable, SourceUnavailable]
    store.is_away = False
    assert (await look_ups.look_up(A)).head.revision == 0
    reads.close()


@on_a_loop
async def test_one_who_goes_away_takes_nobodys_answer_along() -> None:
    store, reads = HeldStore(), Bulkhead("read", 1, 5.0)
    gone, staying = asking(LookUps(store, reads), A, B)
    await until(lambda: len(store.asked) == 1)
    gone.cancel()
    store.may_answer.set()
    assert (await staying).head.revision == 0
    with pytest.raises(asyncio.CancelledError):
        await gone
    reads.close()


@on_a_loop
async def test_failure_of_a_question_that_all_have_left_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    store, reads = HeldStore(), Bulkhead("read", 1, 5.0)
    store.is_away = True
    gone = asking(LookUps(store, reads), A)[0]
    await asyncio.sleep(0)
    gone.cancel()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    gc.collect()
    assert caplog.records == []
    reads.close()


@on_a_loop
async def test_who_asks_when_no_thread_takes_work_any_more_is_told_so() -> None:
    reads = Bulkhead("read", 1, 5.0)
    reads.close()
    with pytest.raises(RuntimeError):
        await LookUps(HeldStore(), reads).look_up(A)


@on_a_loop
async def test_question_is_for_so_many_callers_only() -> None:
    store, reads = HeldStore(), Bulkhead("read", 1, 5.0)
    store.may_answer.set()
    await asyncio.gather(*asking(LookUps(store, reads), *(a_key(f"s-{n}") for n in range(250)), *[A] * 50))
    assert [len(keys) for keys in store.asked] == [100, 100, 51]
    reads.close()


@on_a_loop
async def test_nobody_joins_a_question_that_has_waited_for_half_of_its_time() -> None:
    store, reads, now = HeldStore(), Bulkhead("read", 1, 5.0), 0.0
    look_ups = LookUps(store, reads, lambda: now)
    running = asking(look_ups, A)
    await until(lambda: store.asked == [{A}])
    for at, key in ((1.0, A), (3.5, B), (3.6, a_key("c"))):
        now = at
        running += asking(look_ups, key)
        await asyncio.sleep(0)
    store.may_answer.set()
    await asyncio.gather(*running)
    assert store.asked == [{A}, {A, B}, {a_key("c")}]
    reads.close()
