"""Who waits for changes, and for which: wakes a watcher for what it asked for, and for nothing else.

The follower tells of each slice that it applied; all of this runs on the event loop. Watchers lie in an index by
the names that they ask for (or may see), so a change costs the same however many others wait for something else.
Nothing is queued for a watcher: one that is busy when its changes come reads them by revision when it is done.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from enum import StrEnum

from traffic_manager.errors import TooManyWatchers
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import Head, NameFilter, Names, Slice
from traffic_manager.routing.recent_changes import Page, RecentChanges, Told

# Which of the four names a filter asks for: there are 16 of these at most.
Asked = tuple[bool, ...]

PAGE_CHANGES = 500
# Others have their turn on the event loop after so many: each takes 10 to 30 µs.
_WAKE_AT_ONCE = 200


class Ending(StrEnum):
    """Why a watcher is told nothing more."""

    DRAINING = "draining"  # the server stops
    HISTORY_CHANGED = "history-changed"  # the database went on with another history
    HISTORY_GONE = "history-gone"  # the changes that come next are no longer kept
    LIFE_OVER = "life-over"  # it has lasted for as long as it may
    TOO_SLOW = "too-slow"  # its reader took nothing for too long
    UNAVAILABLE = "source-unavailable"  # what it needs cannot be read now
    CREDENTIAL_OVER = "credential-over"  # its reader's key was revoked, or has ended
    DISCONNECTED = "disconnected"  # its reader went away


def always() -> bool:
    """Return True: whoever is asked for nothing may go on."""
    return True


class Watcher:
    """Is told the changes that match *wanted* after revision *position*, in their order, each once, as long as
    *is_admitted*; one of *watchers* within its block. *owner*: whose it is; None where nobody is asked."""

    __slots__ = (
        *("_is_admitted", "_is_behind", "_next", "_waiter", "_watchers", "ending", "owner", "position"),
        *("sink", "wanted"),
    )

    def __init__(
        self,
        watchers: Watchers,
        wanted: NameFilter,
        position: int,
        is_admitted: Callable[[], bool],
        owner: str | None,
    ) -> None:
        self.owner = owner
        self._is_admitted = is_admitted
        self._watchers = watchers
        self._waiter: asyncio.Future[None] | None = None
        # What comes next, if that is exactly one page; if it is more, the watcher is behind and reads it itself.
        self._next: Page | None = None
        self._is_behind = True
        self.wanted = wanted
        self.position = position
        self.ending: Ending | None = None
        # Takes a page at once while nobody needs to be woken for it; False if it cannot.
        self.sink: Callable[[Page], bool] | None = None

    def __enter__(self) -> Watcher:
        self._watchers.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._watchers.remove(self)

    async def next(self, timeout_s: float) -> Page | None:
        """Return the next changes, a page without any if there are none in time. None if it cannot go on: it
        has an *ending*, or what follows its position is no longer in memory."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        is_in_time = True
        while self.ending is None:
            self.check()
            page = self._take() if self.ending is None else None
            if page is None or page.told or not is_in_time:
                return page
            self._waiter = loop.create_future()
            timer = loop.call_at(deadline, self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
            is_in_time = loop.time() < deadline
        return None

    def skip_to(self, position: int) -> None:
        """Go on after *position*: what lies before it was told by other means."""
        self.position, self._next, self._is_behind = position, None, True

    def notice(self, page: Page, before: int) -> bool:
        """Take note of matches in (*before*, `page.upto`]. Return whether it has to be woken for them."""
        if self._is_behind:
            return False
        if self._next is not None:
            self._next, self._is_behind = None, True
            return False
        if self.position > before:
            self._is_behind = True
        else:
            self.position, self._next = before, page
        return self._waiter is not None

    def miss(self, before: int) -> None:
        """Take note that anything may have happened after revision *before*."""
        if not self._is_behind and self._next is None:
            self.position = max(self.position, before)
        self._next, self._is_behind = None, True
        self.wake()

    def check(self) -> None:
        """End if its reader would not be let in any more."""
        if not self._is_admitted():
            self.end(Ending.CREDENTIAL_OVER)

    def end(self, ending: Ending) -> None:
        """End all waiting, now and later."""
        self.ending = self.ending or ending
        self.wake()

    def deliver(self) -> None:
        """Give what comes next to the sink, or wake it to take that itself."""
        page = self._next
        self.check()
        if (
            self.ending is None
            and page is not None
            and self.sink is not None
            and self._waiter is not None
            and self.sink(page)
        ):
            self._next, self.position = None, page.upto
        else:
            self.wake()

    def wake(self) -> None:
        """Let it look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> Page | None:
        """Return what it can be told now, None if that is not in memory."""
        if self._watchers.recent.head is None:
            return Page((), self.position)
        head = self._watchers.recent.head.revision
        if self._is_behind:
            page = self._watchers.recent.page(self.wanted, self.position, PAGE_CHANGES)
            if page is None:
                return None
            self._is_behind = page.upto < head
        else:
            page = self._next or Page((), max(self.position, head))
        self._next, self.position = None, page.upto
        return page


class Watchers:
    """All watchers of one worker, by what they ask for; at most *limit* of them, and *most_of_owner* of one (None: as
    many), so that nobody takes the places of all."""

    def __init__(self, limit: int, most_of_owner: int | None = None) -> None:
        self._most_of_owner = limit if most_of_owner is None else most_of_owner
        self._of_owner: Counter[str] = Counter()
        self.recent = RecentChanges()
        self._limit = limit
        self._watchers: set[Watcher] = set()
        self._groups: dict[Asked, dict[Names, set[Watcher]]] = {}
        self._to_wake: deque[Watcher] = deque()
        self._is_closed = False

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._watchers)

    def watching(
        self,
        wanted: NameFilter,
        after: int,
        is_admitted: Callable[[], bool] = always,
        owner: str | None = None,
    ) -> Watcher:
        """Return a watcher of *owner* that is told, within its block, what matches after revision *after*."""
        return Watcher(self, wanted, after, is_admitted, owner)

    def applied(self, changes: Slice) -> None:
        """Tell each watcher of what matches."""
        before = self.recent.head.revision if self.recent.head else 0
        told = self.recent.extend(changes)
        is_waking = bool(self._to_wake)
        for watchers, matching in self._matches(told):
            page = Page(matching, changes.upto)
            self._to_wake.extend([watcher for watcher in watchers if watcher.notice(page, before)])
        if self._to_wake and not is_waking:
            self._wake_some()

    def reloaded(self, head: Head, *, is_other_history: bool) -> None:
        """Go on from *head*: changes before it were not told. All watching of another history ends."""
        before = self.recent.head or head
        is_other_history = is_other_history or before.epoch != head.epoch
        if self.recent.head == head and not is_other_history:
            return  # nothing was missed
        self.recent.restart(head)
        for watcher in self._watchers:
            if is_other_history:
                watcher.end(Ending.HISTORY_CHANGED)
            else:
                watcher.miss(before.revision)

    def check(self) -> None:
        """Let everybody go who would not be let in any more: keys have changed."""
        for watcher in self._watchers:
            watcher.check()

    def close(self) -> None:
        """Let everybody go, now and later: the server stops."""
        self._is_closed = True
        for watcher in self._watchers:
            watcher.end(Ending.DRAINING)

    def _matches(self, told: Iterable[Told]) -> Iterable[tuple[set[Watcher], list[Told]]]:
        """Return who asked for some of *told*, and for which."""
        found: dict[tuple[Asked, Names], list[Told]] = {}
        for one in told if self._watchers else ():
            for asked, groups in self._groups.items():
                names = _names_asked(one.change.key, asked)
                if names in groups:
                    found.setdefault((asked, names), []).append(one)
        return [(self._groups[asked][names], matching) for (asked, names), matching in found.items()]

    def _wake_some(self) -> None:
        try:
            for _ in range(min(_WAKE_AT_ONCE, len(self._to_wake))):
                self._to_wake.popleft().deliver()
        finally:  # a bug in one delivery must not leave the others, and all that come, unwoken
            if self._to_wake:
                asyncio.get_running_loop().call_soon(self._wake_some)

    def add(self, watcher: Watcher) -> None:
        """Tell it from now on. Raises TooManyWatchers."""
        if len(self) >= self._limit:
            raise TooManyWatchers(self._limit)
        if watcher.owner is not None:
            if self._of_owner[watcher.owner] >= self._most_of_owner:
                raise TooManyWatchers(self._most_of_owner, watcher.owner)
            self._of_owner[watcher.owner] += 1
        if self._is_closed:
            watcher.end(Ending.DRAINING)
        self._watchers.add(watcher)
        for names in watcher.wanted.patterns:
            self._groups.setdefault(_asked(names), {}).setdefault(names, set()).add(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Forget the watcher, and its groups with the last of each."""
        self._watchers.discard(watcher)
        if watcher.owner is not None:
            self._of_owner[watcher.owner] -= 1
            if not self._of_owner[watcher.owner]:
                del self._of_owner[watcher.owner]
        for names in watcher.wanted.patterns:
            groups = self._groups[_asked(names)]
            groups[names].discard(watcher)
            if not groups[names]:
                del groups[names]
            if not groups:
                del self._groups[_asked(names)]


def _asked(names: Names) -> Asked:
    return tuple(name is not None for name in names)


def _names_asked(key: RouteKey, asked: Asked) -> Names:
    tenant, service, env, version = (
        name if wanted else None for name, wanted in zip(key, asked, strict=True)
    )
    return tenant, service, env, version
