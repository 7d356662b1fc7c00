"""Each watcher is told what it asked for, all of it, once and in order, and is woken for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.routing.builders import EPOCH, OTHER_EPOCH, a_change, a_key, on_a_loop
from traffic_manager.errors import TooManyWatchers
from traffic_manager.routing import watchers as watchers_module
from traffic_manager.routing.model import Change, Position
from traffic_manager.routing.ports import Head, NameFilter, Slice
from traffic_manager.routing.recent_changes import Page, RecentChanges
from traffic_manager.routing.watchers import Ending, Watcher, Watchers

ANY = NameFilter()


def some_watchers(at: int = 0, limit: int = 100) -> Watchers:
    """Return watchers whose follower has applied everything up to revision *at*."""
    found = Watchers(limit)
    found.reloaded(Head(EPOCH, 1, at), is_other_history=False)
    return found


def a_slice(*changes: Change, upto: int | None = None) -> Slice:
    return Slice(upto or changes[-1].revision, b"", changes)


def of(service: str, *revisions: int) -> list[Change]:
    return [a_change(revision, a_key(service)) for revision in revisions]


def revisions(page: Page | None) -> list[int]:
    assert page is not None
    return [told.change.revision for told in page.told]


async def waiting(watcher: Watcher, timeout_s: float = 5.0) -> asyncio.Task[Page | None]:
    """Return its call of next, when it waits."""
    task = asyncio.get_running_loop().create_task(watcher.next(timeout_s))
    await asyncio.sleep(0)
    assert not task.done()
    return task


@on_a_loop
async def test_match_ends_the_wait_and_others_do_not() -> None:
    watchers = some_watchers()
    with watchers.watching(NameFilter(service="mine"), after=0) as watcher:
        task = await waiting(watcher)
        watchers.applied(a_slice(*of("other", 1, 2)))
        await asyncio.sleep(0)
        assert not task.done()
        watchers.applied(a_slice(*of("mine", 3), *of("other", 4)))
        page = await task
        assert (revisions(page), watcher.position) == ([3], 4)


@on_a_loop
async def test_nobody_is_woken_for_what_others_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[NameFilter] = []
    wake = Watcher.wake

    def counted_wake(watcher: Watcher) -> None:
        woken.append(watcher.wanted)
        wake(watcher)

    monkeypatch.setattr(Watcher, "wake", counted_wake)
    watchers = some_watchers()
    filters = [NameFilter(service=f"s{n}") for n in range(50)]
    with watchers.watching(filters[7], after=0) as mine:
        others = [watchers.watching(wanted, after=0) for wanted in filters if wanted != filters[7]]
        tasks = [await waiting(watcher.__enter__()) for watcher in others]
        task = await waiting(mine)
        watchers.applied(a_slice(*of("s7", 1, 2)))
        assert revisions(await task) == [1, 2]
        assert woken == [filters[7]]
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()


@on_a_loop
async def test_every_kind_of_filter_finds_its_changes() -> None:
    watchers = some_watchers()
    changes = [
        a_change(n, a_key(s, v, e, t))
        for n, (s, v, e, t) in enumerate(
            ((s, v, e, t) for s in "ab" for v in "ab" for e in "ab" for t in "ab"), start=1
        )
    ]
    filters = [
        NameFilter(t, s, e, v)
        for t in ("a", None) for s in ("b", None) for e in ("a", None) for v in ("b", None)
    ]  # fmt: skip
    for wanted in filters:
        with watchers.watching(wanted, after=watchers_head(watchers)) as watcher:
            before = watcher.position
            task = await waiting(watcher)
            moved = [a_change(before + change.revision, change.key) for change in changes]
            watchers.applied(a_slice(*moved))
            expected = [change.revision for change in moved if wanted.matches(change.key)]
            assert revisions(await task) == expected


def watchers_head(watchers: Watchers) -> int:
    assert watchers.recent.head is not None
    return watchers.recent.head.revision


@on_a_loop
async def test_time_that_is_up_tells_how_far_it_came() -> None:
    watchers = some_watchers()
    with watchers.watching(NameFilter(service="mine"), after=0) as watcher:
        task = await waiting(watcher, timeout_s=0.05)
        watchers.applied(a_slice(*of("other", 1, 2, 3)))
        page = await task
        assert page is not None
        assert (revisions(page), page.upto, watcher.position) == ([], 3, 3)


@on_a_loop
async def test_watcher_that_begins_behind_is_told_everything_since() -> None:
    watchers = some_watchers(at=4)
    watchers.applied(a_slice(*of("a", 5), *of("b", 6), *of("a", 7)))
    with watchers.watching(NameFilter(service="a"), after=4) as watcher:
        assert revisions(await watcher.next(0)) == [5, 7]


@on_a_loop
async def test_watcher_that_begins_ahead_of_this_worker_waits_for_what_follows() -> None:
    watchers = some_watchers(at=4)
    with watchers.watching(ANY, after=6) as watcher:
        task = await waiting(watcher)
        watchers.applied(a_slice(*of("a", 5)))
        watchers.applied(a_slice(*of("a", 6, 7)))
        assert revisions(await task) == [7]


@on_a_loop
async def test_busy_watcher_reads_what_it_missed_in_one_go() -> None:
    watchers = some_watchers()
    with watchers.watching(ANY, after=0) as watcher:
        (await waiting(watcher)).cancel()
        await asyncio.sleep(0)
        for revision in (1, 2, 3):
            watchers.applied(a_slice(*of("a", revision)))
        assert revisions(await watcher.next(0)) == [1, 2, 3]
        assert revisions(await watcher.next(0)) == []


@on_a_loop
async def test_slow_watcher_is_told_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers_module, "PAGE_CHANGES", 2)
    watchers = some_watchers()
    with watchers.watching(ANY, after=0) as watcher:
        watchers.applied(a_slice(*of("a", 1, 2, 3, 4, 5)))
        assert [revisions(await watcher.next(0)) for _ in range(4)] == [[1, 2], [3, 4], [5], []]


@on_a_loop
async def test_watcher_outrun_by_the_window_cannot_go_on_from_memory() -> None:
    watchers = some_watchers()
    watchers.recent = RecentChanges(max_bytes=3000)
    watchers.reloaded(Head(EPOCH, 1, 0), is_other_history=False)
    with watchers.watching(ANY, after=0) as watcher:
        watchers.applied(a_slice(*of("a", *range(1, 10))))
        assert await watcher.next(0) is None
        assert watcher.ending is None
        watcher.skip_to(watchers.recent.floor)
        assert revisions(await watcher.next(0)) == list(range(watchers.recent.floor + 1, 10))


@on_a_loop
async def test_idle_watcher_is_not_outrun_however_much_others_change() -> None:
    watchers = some_watchers()
    watchers.recent = RecentChanges(max_bytes=3000)
    watchers.reloaded(Head(EPOCH, 1, 0), is_other_history=False)
    with watchers.watching(NameFilter(service="mine"), after=0) as watcher:
        (await waiting(watcher)).cancel()
        await asyncio.sleep(0)
        watchers.applied(a_slice(*of("other", *range(1, 100))))
        watchers.applied(a_slice(*of("mine", 100)))
        watchers.applied(a_slice(*of("mine", 101)))
        assert revisions(await watcher.next(0)) == [100, 101]


@on_a_loop
async def test_other_history_ends_all_watching() -> None:
    watchers = some_watchers(at=5)
    with watchers.watching(ANY, after=5) as watcher:
        task = await waiting(watcher)
        watchers.reloaded(Head(OTHER_EPOCH, 2, 9), is_other_history=False)
        assert await task is None
        assert watcher.ending is Ending.HISTORY_CHANGED


@on_a_loop
async def test_reload_of_the_same_history_loses_nothing_silently() -> None:
    watchers = some_watchers(at=5)
    with watchers.watching(ANY, after=5) as watcher:
        task = await waiting(watcher)
        watchers.reloaded(Head(EPOCH, 1, 9), is_other_history=False)
        assert (await task, watcher.ending, watcher.position) == (None, None, 5)


@on_a_loop
async def test_closing_ends_all_watching_now_and_later() -> None:
    watchers = some_watchers()
    with watchers.watching(ANY, after=0) as before:
        task = await waiting(before)
        watchers.close()
        assert await task is None
    with watchers.watching(ANY, after=0) as later:
        assert await later.next(60.0) is None
        assert (before.ending, later.ending) == (Ending.DRAINING, Ending.DRAINING)


def test_no_more_than_the_limit_may_watch_and_who_leaves_makes_room() -> None:
    watchers = some_watchers(limit=2)
    with watchers.watching(ANY, after=0):
        with watchers.watching(ANY, after=0), pytest.raises(TooManyWatchers), watchers.watching(ANY, after=0):
            pass
        with watchers.watching(ANY, after=0):
            assert len(watchers) == 2
    assert (len(watchers), watchers._groups) == (0, {})


def test_one_owner_leaves_places_for_others_and_gets_its_own_back() -> None:
    watchers = Watchers(limit=4, most_of_owner=2)
    mine = [watchers.watching(ANY, after=0, owner="mine") for _ in range(3)]
    with mine[0], mine[1]:
        with pytest.raises(TooManyWatchers, match="of mine alone"), mine[2]:
            pass
        with watchers.watching(ANY, after=0, owner="other"), watchers.watching(ANY, after=0):
            assert len(watchers) == 4
    with mine[2]:
        assert len(watchers) == 1
    assert (len(watchers), watchers._of_owner) == (0, {})


@on_a_loop
async def test_sink_takes_what_comes_while_its_watcher_waits_and_wakes_nobody() -> None:
    watchers = some_watchers()
    with watchers.watching(ANY, after=0) as watcher:
        reader = Reader(watcher, [True, True])
        task = await waiting(watcher)
        watchers.applied(a_slice(*of("a", 1)))
        watchers.applied(a_slice(*of("a", 2)))
        await asyncio.sleep(0)
        assert (reader.seen, task.done(), watcher.position) == ([1, 2], False, 2)
        watcher.sink = lambda page: False
        watchers.applied(a_slice(*of("a", 3)))
        assert revisions(await task) == [3]


@on_a_loop
async def test_sink_that_fails_keeps_nobody_else_from_being_told() -> None:
    watchers = some_watchers()

    def failing(_page: Page) -> bool:
        raise RuntimeError("a bug")

    with (
        watchers.watching(NameFilter(service="first"), after=0) as first,
        watchers.watching(NameFilter(service="second"), after=0) as second,
    ):
        first.sink = failing
        tasks = [await waiting(watcher, timeout_s=60.0) for watcher in (first, second)]
        with pytest.raises(RuntimeError):
            watchers.applied(a_slice(*of("first", 1), *of("second", 2)))
        assert revisions(await asyncio.wait_for(tasks[1], 5.0)) == [2]
        watchers.close()
        await tasks[0]


class Reader:
    """Reads a watcher as a stream does: by its sink while it waits, and by pages."""

    def __init__(self, watcher: Watcher, is_ready: Sequence[bool]) -> None:
        self.seen: list[int] = []
        self._watcher = watcher
        self._answers = list(is_ready)
        watcher.sink = self._sink

    def _sink(self, page: Page) -> bool:
        is_ready = self._answers.pop() if self._answers else True
        if is_ready:
            self.seen += revisions(page)
        return is_ready

    async def read(self) -> None:
        while (page := await self._watcher.next(5.0)) is not None:
            self.seen += revisions(page)


@given(
    slices=st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=6), max_size=12),
    pauses=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    is_ready=st.lists(st.booleans(), max_size=12),
    start=st.integers(0, 8),
)
def test_whatever_the_timing_each_match_is_told_once_and_in_order(
    slices: list[list[str]], pauses: list[int], is_ready: list[bool], start: int
) -> None:
    async def run() -> None:
        watchers, matching, head = some_watchers(), [], 0
        with watchers.watching(NameFilter(service="a"), after=start) as watcher:
            reader = Reader(watcher, is_ready)
            task = asyncio.get_running_loop().create_task(reader.read())
            for services, pause in zip(slices, pauses, strict=False):
                changes = [a_change(head + n, a_key(s)) for n, s in enumerate(services, start=1)]
                head += len(changes)
                matching += [c.revision for c in changes if c.key.service == "a" and c.revision > start]
                watchers.applied(a_slice(*changes))
                for _ in range(pause):
                    await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            watchers.close()
            await task
        assert reader.seen == matching

    asyncio.run(run())


class TestRecentChanges:
    def test_window_covers_what_follows_its_floor_in_this_history(self) -> None:
        recent = RecentChanges()
        recent.restart(Head(EPOCH, 1, 5))
        recent.extend(a_slice(*of("a", 6, 7)))
        covered = [recent.covers(Position("", n)) for n in (4, 5, 7, 8)]
        assert covered == [False, True, True, False]
        assert recent.covers(Position(EPOCH[:8], 6))
        assert not recent.covers(Position(OTHER_EPOCH[:8], 6))

    def test_window_keeps_to_its_bytes(self) -> None:
        recent = RecentChanges(max_bytes=10_000)
        recent.restart(Head(EPOCH, 1, 0))
        for revision in range(1, 1000):
            recent.extend(a_slice(*of("a", revision)))
        kept = recent.page(ANY, recent.floor, 1000)
        assert 5 <= len(revisions(kept)) <= 10
        assert revisions(kept)[-1] == 999
        assert recent.page(ANY, recent.floor - 1, 1000) is None

    def test_page_holds_nothing_from_places_that_may_not_be_seen(self) -> None:
        recent = RecentChanges()
        recent.restart(Head(EPOCH, 1, 0))
        own, foreign = a_change(1, a_key()), a_change(2, a_key(tenant="team-b"))
        recent.extend(Slice(2, b"", [own, foreign]))
        page = recent.page(NameFilter(within=frozenset({("team-a", None)})), 0, 10)
        assert page
        assert [told.change for told in page.told] == [own]
