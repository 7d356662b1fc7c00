"""Who waits for changes, and for which: wakes a watcher for what it asked for, and for nothing else.

The follower tells of each slice that it applied; all of this runs on the event loop. Watchers lie in an index by
the names that they ask for (or may see), so a change costs the same however many others wait for something else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from traffic_manager.routing.model import Change, RouteKey
from traffic_manager.routing.ports import NameFilter, Names

# Which of the four names a filter asks for: there are 16 of these at most.
Asked = tuple[bool, ...]


@dataclass(eq=False)
class Watcher:
    """Waits, on the event loop, for changes that match a filter. *seen* is the last one's revision."""

    wanted: NameFilter
    seen: int = 0
    is_released: bool = False
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, above: int, timeout_s: float) -> None:
        """Return when a matching change above revision *above* was applied, or time is up."""
        deadline = monotonic() + timeout_s
        while self.seen <= above and not self.is_released:
            self._event.clear()
            try:
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the event.
                async with asyncio.timeout(deadline - monotonic()):
                    await self._event.wait()
            except TimeoutError:
                return

    def notice(self, revision: int) -> None:
        """Take note that the change of *revision* matches."""
        self.seen = max(self.seen, revision)
        self._event.set()

    def release(self) -> None:
        """End all waiting, now and later."""
        self.is_released = True
        self._event.set()


class Watchers:
    """All watchers of one worker, by what they ask for."""

    def __init__(self) -> None:
        self._groups: dict[Asked, dict[Names, set[Watcher]]] = {}
        self._is_closed = False

    @contextmanager
    def watching(self, wanted: NameFilter) -> Iterator[Watcher]:
        """Lend a watcher that notices changes from now on."""
        watcher = Watcher(wanted, is_released=self._is_closed)
        self._add(watcher)
        try:
            yield watcher
        finally:
            self._remove(watcher)

    def applied(self, changes: Iterable[Change]) -> None:
        """Tell each watcher of its newest match."""
        newest: dict[tuple[Asked, Names], int] = {}
        for change in changes:
            for asked, groups in self._groups.items():
                names = _names_asked(change.key, asked)
                if names in groups:
                    newest[asked, names] = change.revision
        for (asked, names), revision in newest.items():
            for watcher in self._groups[asked][names]:
                watcher.notice(revision)

    def reloaded(self) -> None:
        """Let everybody go who waits now: the changes between the table before and this one were not seen."""
        for groups in self._groups.values():
            for watchers in groups.values():
                for watcher in watchers:
                    watcher.release()

    def close(self) -> None:
        """Let everybody go, now and later: the server stops."""
        self._is_closed = True
        self.reloaded()

    def _add(self, watcher: Watcher) -> None:
        for names in watcher.wanted.patterns:
            self._groups.setdefault(_asked(names), {}).setdefault(names, set()).add(watcher)

    def _remove(self, watcher: Watcher) -> None:
        """Forget the watcher, and its group with the last of it."""
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
