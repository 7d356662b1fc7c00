"""From the log into the mirror: in order, soon, through outages, gaps and forks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import pytest
import structlog

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
    delete,
    on_a_loop,
    put,
)
from tests.routing.memory_store import MemoryStore
from traffic_manager.errors import SourceUnavailable
from traffic_manager.routing import follower as follower_module
from traffic_manager.routing import hints
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.ports import Entry, Keyring, NameFilter, Slice, StoredKey, Table
from traffic_manager.routing.watchers import Ending, Watchers

KEY = str(a_key())


class Events:
    """Counts what the follower reports."""

    def __init__(self) -> None:
        self.polls = 0
        self.failures = 0
        self.gaps = 0
        self.forks = 0
        self.are_hints_trusted = False
        self.hints_missed = 0

    def polled(self, ok: bool) -> None:
        self.polls += 1
        self.failures += not ok

    def gap(self) -> None:
        self.gaps += 1

    def fork(self) -> None:
        self.forks += 1

    def hinted(self, are_trusted: bool) -> None:
        self.are_hints_trusted = are_trusted

    def hint_missed(self) -> None:
        self.hints_missed += 1


class Following:
    """A follower at work, with all its parts."""

    def __init__(self, store: MemoryStore, max_routes: int, keyring: Keyring | None) -> None:
        self.store = store
        self.mirror = Mirror(max_routes)
        self.events = Events()
        self.watchers = Watchers(100)
        self.follower = Follower(store, self.mirror, self.events, self.watchers, keyring)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until *condition* holds, at most 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 the follower sets no event for this
            await asyncio.sleep(0.002)


@asynccontextmanager
async def following(
    store: MemoryStore, max_routes: int = 100, *, wait: bool = True, keyring: Keyring | None = None
) -> AsyncIterator[Following]:
    """Run a follower over *store*, by default synchronised."""
    found = Following(store, max_routes, keyring)
    found.follower.start()
    try:
        if wait:
            async with asyncio.timeout(5):
                await found.follower.synchronised.wait()
            await until(lambda: found.events.polls)
        yield found
    finally:
        await asyncio.to_thread(found.follower.stop)


def test_log_is_followed_on_the_callers_thread_where_there_is_no_loop() -> None:
    store = MemoryStore()
    commit(store, create())
    found = Following(store, 100, None)
    assert found.follower.catch_up()
    commit(store, put(url=OTHER_URL))
    assert found.follower.catch_up()
    assert found.mirror.entries == {KEY: Entry(OTHER_URL, 2)}
    assert found.follower.at_head is not None


@on_a_loop
async def test_mirror_that_was_loaded_before_is_followed_from_there() -> None:
    store = MemoryStore()
    commit(store, create())
    found = Following(store, 100, None)
    found.follower.catch_up()
    commit(store, put(url=OTHER_URL))
    store.table = _refused  # type: ignore[method-assign] # reading it all again would be a mistake
    await _follow_from(found, lambda: found.mirror.applied == 2)
    page = found.watchers.recent.page(NameFilter(), 1, 9)
    assert page is not None
    assert [told.change.revision for told in page.told] == [2]


@on_a_loop
async def test_mirror_that_was_loaded_before_is_good_enough_while_the_source_is_away() -> None:
    store = MemoryStore()
    commit(store, create())
    found = Following(store, 100, None)
    found.follower.catch_up()
    store.is_away = True
    await _follow_from(found, lambda: True)
    assert found.mirror.entries == {KEY: Entry(URL, 1)}


async def _follow_from(parent: Following, condition: Callable[[], bool]) -> None:
    follower = Follower(parent.store, parent.mirror, Events(), parent.watchers, at_head=1.0)
    assert follower.stale_age_s() is not None
    follower.start()
    try:
        async with asyncio.timeout(5):
            await follower.synchronised.wait()
        await until(condition)
    finally:
        await asyncio.to_thread(follower.stop)


def _refused(max_routes: int, window: int) -> Table:
    raise AssertionError("the table was read")


@on_a_loop
async def test_follower_loads_the_table_then_applies_every_change() -> None:
    store = MemoryStore()
    commit(store, create())
    async with following(store) as f:
        assert f.mirror.entries == {KEY: Entry(URL, 1)}
        commit(store, put(url=OTHER_URL), create(a_key("new")))
        await until(lambda: f.mirror.applied == 3)
        assert f.mirror.entries == {KEY: Entry(OTHER_URL, 2), str(a_key("new")): Entry(URL, 3)}
        assert f.mirror.head == store.head
        assert store.tables == 1


@on_a_loop
async def test_wake_is_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "POLL_S", 60.0)
    store = MemoryStore()
    async with following(store) as f:
        commit(store, create())
        f.follower.wake(1)
        async with asyncio.timeout(1):
            assert await f.follower.reached(1, 1.0)


@on_a_loop
async def test_reached_wakes_the_follower_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "POLL_S", 60.0)
    store = MemoryStore()
    async with following(store) as f:
        commit(store, create())
        assert await f.follower.reached(1, 5.0)


@on_a_loop
async def test_revision_that_does_not_come_is_not_reached_in_time_and_leaves_no_trace() -> None:
    async with following(MemoryStore()) as f:
        answers = await asyncio.gather(*(f.follower.reached(9, 0.01) for _ in range(10)))
        assert not any(answers)
        assert not f.follower._waiting


@on_a_loop
async def test_who_waits_for_a_revision_need_not_wait_on_when_the_table_brings_it() -> None:
    store = MemoryStore()
    commit(store, create())
    async with following(store, wait=False) as f, asyncio.timeout(10):
        assert await f.follower.reached(1, 60.0)


@on_a_loop
async def test_source_that_is_away_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses_s: list[float] = []

    def wait(_bell: int, timeout_s: float) -> Sequence[int]:
        pauses_s.append(round(timeout_s, 6))
        return [10**9]  # as if there were news at once

    store = MemoryStore()
    store.is_away = True
    monkeypatch.setattr(store, "wait", wait)
    monkeypatch.setattr(follower_module, "monotonic", lambda: 0.0)
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    async with following(store, wait=False):
        await until(lambda: len(pauses_s) >= 5)
    assert pauses_s[:5] == [0.2, 0.4, 0.5, 0.5, 0.5]


@on_a_loop
async def test_batch_becomes_visible_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "SLICE_CHANGES", 4)
    store = MemoryStore()
    async with following(store) as f:
        seen = set()
        for n in range(10):
            commit_batches(
                store, *([put(a_key(s), f"https://r{n}-{b}.example") for s in "abc"] for b in range(3))
            )
        while f.mirror.applied < 90:
            seen.add(f.mirror.applied % 3)
            await asyncio.sleep(0)
        assert seen <= {0}
    assert {s.upto % 3 for s in store.slices} == {0}


@on_a_loop
async def test_changes_of_other_kinds_are_passed_over_and_counted() -> None:
    store = MemoryStore()
    async with following(store) as f:
        store.add_change_of_other_kind()
        commit(store, create())
        await until(lambda: f.mirror.applied == 2)
        assert f.mirror.entries == {KEY: Entry(URL, 2)}
        assert f.events.failures == 0


@on_a_loop
async def test_gap_in_the_log_is_reported_and_healed_by_a_reload() -> None:
    store = MemoryStore()
    async with following(store) as f:
        with store._state:
            commit(store, create(a_key("a")), create(a_key("b")), create(a_key("c")))
            store.lose_change(2)
        await until(lambda: f.mirror.applied == 3)
        assert f.mirror.entries.keys() == {str(a_key(s)) for s in "abc"}
        assert (f.events.gaps, store.tables) == (1, 2)


@on_a_loop
async def test_other_epoch_is_a_fork_and_ends_all_watching() -> None:
    store = MemoryStore()
    commit(store, create())
    async with following(store) as f:
        with f.watchers.watching(NameFilter(), after=1) as watcher:
            store.begin_epoch(OTHER_EPOCH)
            await until(lambda: f.mirror.head and f.mirror.head.epoch == OTHER_EPOCH)
            await until(lambda: watcher.ending is Ending.HISTORY_CHANGED)
        assert f.events.forks == 1


@on_a_loop
async def test_lost_changes_are_a_fork_even_if_more_were_made_since() -> None:
    store = MemoryStore()
    commit(store, create(), create(a_key("kept")))
    async with following(store) as f:
        f.mirror.show(KEY, 9, Entry("https://lost.example", 9))
        with store._state:
            store.lose_changes_after(1)
            commit(store, *(create(a_key(f"new{n}")) for n in range(3)))
        await until(lambda: f.mirror.applied == 4)
        assert str(a_key("kept")) not in f.mirror.entries
        assert f.mirror.shown == {}, "what only the lost branch knew is not shown again"
        assert f.events.forks == 1


@on_a_loop
async def test_lost_changes_alone_are_a_fork() -> None:
    store = MemoryStore()
    commit(store, create(), create(a_key("lost")))
    async with following(store) as f:
        store.lose_changes_after(1)
        await until(lambda: f.mirror.applied == 1)
        assert set(f.mirror.entries) == {KEY}
        assert f.events.forks == 1


@on_a_loop
async def test_fork_under_the_same_epoch_gets_a_new_one_from_the_first_to_see_it() -> None:
    store = MemoryStore()
    commit(store, create(), create(a_key("lost")))
    async with following(store) as one, following(store) as other:
        with store._state:
            store.lose_changes_after(1)
            commit(store, create(a_key("new1")), create(a_key("new2")))
        await until(lambda: one.mirror.applied == other.mirror.applied == 3)
        assert store.epoch_number == 2
        assert one.mirror.head == other.mirror.head == store.head
        assert (one.events.forks, other.events.forks) == (1, 1)


@on_a_loop
async def test_copy_from_before_an_earlier_fork_gets_an_epoch_after_the_one_that_was_known() -> None:
    store = MemoryStore()
    commit(store, create())
    old = store.image()
    store.begin_epoch(OTHER_EPOCH)
    async with following(store) as f:
        assert f.mirror.head == store.head
        store.restore(old)
        await until(lambda: f.mirror.head and f.mirror.head.epoch_number == 3)
        assert f.mirror.head == store.head
        assert store.epoch not in (EPOCH, OTHER_EPOCH)


@on_a_loop
async def test_fork_is_followed_though_no_epoch_can_be_begun_yet() -> None:
    store = MemoryStore()
    commit(store, create(), create(a_key("lost")))
    store.is_read_only = True
    async with following(store) as f:
        store.lose_changes_after(1)
        await until(lambda: f.mirror.applied == 1)
        assert store.epoch_number == 1
        store.is_read_only = False
        await until(lambda: store.epoch_number == 2)
        await until(lambda: f.mirror.head == store.head)


@on_a_loop
async def test_log_compacted_past_the_mirror_is_loaded_anew_and_is_no_fork() -> None:
    store = MemoryStore()
    async with following(store) as f:
        f.mirror.show(KEY, 9, None)
        with store._state:
            commit(store, create(), deactivate(), create(a_key("b")))
            store.compact(2)
        await until(lambda: f.mirror.applied == 3)
        assert f.events.forks == 0
        assert f.mirror.shown == {KEY: (9, None)}, "the history is the same"


@on_a_loop
async def test_answers_are_flagged_once_the_source_is_away_for_a_second_and_no_longer_after_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower_module, "FRESH_S", 0.1)
    monkeypatch.setattr(follower_module, "_RETRY_MOST_S", 0.1)
    store = MemoryStore()
    async with following(store) as f:
        assert f.follower.stale_age_s() is None
        store.is_away = True
        await until(lambda: f.follower.stale_age_s() is not None)
        assert f.mirror.is_complete
        assert f.events.failures > 0
        store.is_away = False
        commit(store, create())
        await until(lambda: f.follower.stale_age_s() is None and f.mirror.applied == 1)


def test_answers_are_as_old_as_the_beginning_of_the_poll_that_saw_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0

    def take_long() -> None:
        nonlocal now_s
        now_s += 3.0

    monkeypatch.setattr(follower_module, "monotonic", lambda: now_s)
    store = MemoryStore()
    store.after_pulse = take_long
    follower = Follower(store, Mirror(10), Events(), Watchers(10))
    assert follower.catch_up()
    assert follower.stale_age_s() == 3


def test_mirror_that_cannot_get_to_the_head_is_not_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(follower_module, "monotonic", lambda: now_s)
    store = MemoryStore()
    follower = Follower(store, Mirror(10), Events(), Watchers(10))
    assert follower.catch_up()
    commit_batches(store, [create(a_key(service)) for service in "abc"])
    monkeypatch.setattr(follower_module, "SLICE_CHANGES", 2)  # less than the batch
    now_s = 102.0
    assert follower.catch_up()
    assert follower.stale_age_s() == 2


def test_answers_count_as_fresh_for_one_second() -> None:
    assert follower_module.FRESH_S == 1.0


@on_a_loop
async def test_follower_that_never_saw_its_source_waits_for_it() -> None:
    store = MemoryStore()
    store.is_away = True
    async with following(store, wait=False) as f:
        await until(lambda: f.events.failures)
        assert (f.follower.staleness_s(), f.follower.stale_age_s()) == (None, 0)
        assert not f.follower.synchronised.is_set()
        store.is_away = False
        await until(f.follower.synchronised.is_set)


@on_a_loop
async def test_table_above_the_limit_is_followed_by_a_bounded_mirror_and_the_log_says_so() -> None:
    store = MemoryStore()
    commit(store, create(a_key("a")), create(a_key("b")))
    with structlog.testing.capture_logs() as logs:
        async with following(store, max_routes=1) as f:
            assert (f.mirror.is_complete, len(f.mirror), f.mirror.active_routes) == (False, 1, 2)
    assert [(m["limit"], m["active_routes"]) for m in logs if m["event"] == "mirror_bounded"] == [(1, 2)]


@on_a_loop
async def test_table_that_outgrows_the_limit_is_told_once_and_followed_on() -> None:
    store = MemoryStore()
    async with following(store, max_routes=1) as f:
        with structlog.testing.capture_logs() as logs:
            for service in "abc":
                commit(store, create(a_key(service)))
                assert await f.follower.reached(store.head.revision, 5.0)
        assert not f.mirror.is_complete
        assert [line["limit"] for line in logs if line["event"] == "mirror_bounded"] == [1]


@on_a_loop
async def test_table_that_has_shrunk_well_below_the_limit_is_loaded_again() -> None:
    store = MemoryStore()
    commit(store, *(create(a_key(service)) for service in "abc"))
    async with following(store, max_routes=2) as f:
        commit(store, delete(a_key("a")))
        assert await f.follower.reached(4, 5.0)
        commit(store, put(a_key("b"), OTHER_URL))
        assert await f.follower.reached(5, 5.0)
        assert not f.mirror.is_complete, "at the limit it would fall back at the next creation"
        commit(store, deactivate(a_key("b")))
        await until(lambda: f.mirror.is_complete)
        assert f.mirror.entries == {str(a_key("c")): Entry(URL, 3)}
        assert store.tables == 2


@on_a_loop
async def test_watcher_is_told_what_was_applied() -> None:
    store = MemoryStore()
    async with following(store) as f:
        with f.watchers.watching(NameFilter(service="mine"), after=0) as watcher:
            commit(store, create(a_key("other")), create(a_key("mine")))
            page = await watcher.next(5.0)
            assert page is not None
            assert [told.change.revision for told in page.told] == [2]
            assert f.mirror.applied == 2, "who is told of a change resolves to it"


@on_a_loop
async def test_stop_gives_the_connection_back() -> None:
    store = MemoryStore()
    async with following(store):
        pass
    assert store.is_closed


@on_a_loop
async def test_hint_is_heard_at_once_and_makes_polls_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "POLL_HINTED_S", 60.0)
    store = MemoryStore()
    store.hints_come = True
    async with following(store) as f:
        await until(lambda: f.events.are_hints_trusted)
        assert store.probes == 1
        for revision in range(1, 6):
            commit(store, put(url=f"https://r{revision}.example"))
            await until(lambda upto=revision: f.mirror.applied == upto)  # type: ignore[misc] # bound now
        assert f.events.hints_missed == 0


@on_a_loop
async def test_hint_of_what_is_known_asks_for_no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "POLL_HINTED_S", 60.0)
    store = MemoryStore()
    store.hints_come = True
    async with following(store) as f:
        await until(lambda: f.events.are_hints_trusted)
        commit(store, create())
        await until(lambda: f.mirror.applied == 1)
        polls = f.events.polls
        for _ in range(20):
            store.hint(1)
            await asyncio.sleep(0.001)
        assert f.events.polls <= polls + 1


@on_a_loop
async def test_lost_hints_are_noticed_and_polling_alone_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "POLL_HINTED_S", 0.2)
    monkeypatch.setattr(hints, "_GRACE_S", 0.1)
    store = MemoryStore()
    store.hints_come = True
    async with following(store) as f:
        await until(lambda: f.events.are_hints_trusted)
        store.hints_come = False
        commit(store, create())
        await until(lambda: f.mirror.applied == 1)
        await until(lambda: f.events.hints_missed == 1)
        assert not f.events.are_hints_trusted
        commit(store, put(url=OTHER_URL))
        await until(lambda: f.mirror.applied == 2)
        assert f.events.hints_missed == 1


@on_a_loop
async def test_hints_that_were_lost_in_an_outage_are_no_reason_for_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "POLL_HINTED_S", 0.05)
    monkeypatch.setattr(hints, "_GRACE_S", 0.05)
    store = MemoryStore()
    store.hints_come = True
    async with following(store) as f:
        await until(lambda: f.events.are_hints_trusted)
        store.is_away = True
        await until(lambda: f.events.failures)
        with store._state:
            store.is_away = store.hints_come = False
            commit(store, create())
            store.hints_come = True
        await until(lambda: f.mirror.applied == 1)
        polls = f.events.polls
        await until(lambda: f.events.polls >= polls + 5)
        assert (f.events.hints_missed, f.events.are_hints_trusted) == (0, True)


@on_a_loop
async def test_source_that_never_hints_is_polled_often() -> None:
    store = MemoryStore()
    async with following(store) as f:
        polls = f.events.polls
        await until(lambda: f.events.polls >= polls + 5)
        assert (store.probes, f.events.are_hints_trusted) == (1, False)


class Keys:
    """A keyring that notes what it is given."""

    def __init__(self) -> None:
        self.loads: list[list[str]] = []
        self.is_loaded = False

    def load(self, keys: Collection[StoredKey]) -> None:
        self.loads.append([key.id for key in keys])
        self.is_loaded = True


def a_stored_key(key_id: str) -> StoredKey:
    return StoredKey(key_id, "alice", bytes(32), "[]", 0)


@on_a_loop
async def test_keys_are_loaded_with_the_table_and_again_with_every_change_of_one() -> None:
    store, keys = MemoryStore(), Keys()
    store.stored_keys = [a_stored_key("a")]
    async with following(store, keyring=keys) as f:
        assert keys.loads == [["a"]]
        commit(store, create())
        await until(lambda: f.mirror.applied == 1)
        store.change_keys(a_stored_key("b"))
        await until(lambda: f.mirror.applied == 2)
        assert keys.loads == [["a"], ["b"]]


@on_a_loop
async def test_slice_whose_keys_cannot_be_read_is_applied_later_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, keys = MemoryStore(), Keys()
    async with following(store, keyring=keys) as f:
        read_keys = store.keys

        def fail_once() -> Sequence[StoredKey]:
            monkeypatch.setattr(store, "keys", read_keys)
            raise SourceUnavailable

        monkeypatch.setattr(store, "keys", fail_once)
        store.change_keys(a_stored_key("b"))
        await until(lambda: f.mirror.applied == 1)
        assert (keys.loads, f.events.failures) == ([[], ["b"]], 1)


@on_a_loop
async def test_slice_that_cannot_be_applied_is_reported_and_tried_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a bug must neither be silent nor keep a processor busy."""
    store = MemoryStore()
    async with following(store) as f:
        apply, bugs = Mirror.apply, [ValueError("a bug")]

        def applied_at_second_try(mirror: Mirror, changes: Slice) -> None:
            if bugs:
                raise bugs.pop()
            apply(mirror, changes)

        monkeypatch.setattr(Mirror, "apply", applied_at_second_try)
        with structlog.testing.capture_logs() as logs:
            commit(store, create())
            await until(lambda: f.mirror.applied == 1)
        assert f.events.failures == 1
        assert [line["reason"] for line in logs if line["event"] == "source_lost"] == ["a bug"]
