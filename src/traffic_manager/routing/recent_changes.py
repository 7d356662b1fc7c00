"""The last changes, whole and in memory, for all who follow them: one copy, rendered once, read by revision.

The follower fills it through `Watchers`. Who asks for older changes reads the database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from traffic_manager.routing.model import Change, Position
from traffic_manager.routing.ports import Head, NameFilter, Slice

# About 6,000 changes of the usual size: two minutes of 50 changes a second, three slices of a burst.
WINDOW_BYTES = 8 * 1024 * 1024
# What one change takes beside its URLs, its rendering included: 1,373 bytes were seen, this counts 1,416.
_CHANGE_BYTES = 1300


@dataclass(eq=False, slots=True)
class Told:
    """A change as it is told. *text* is for whoever renders it: None until the first does."""

    change: Change
    text: bytes | None = None


@dataclass(eq=False, slots=True)
class Page:
    """Matching changes in their order; with them everything that matches up to revision *upto* is told.
    *pieces* are for whoever renders it, because many share a page."""

    told: Sequence[Told]
    upto: int
    pieces: tuple[bytes, ...] | None = None


class RecentChanges:
    """All changes of routes in (floor, head], as far as they fit in *max_bytes*."""

    def __init__(self, max_bytes: int = WINDOW_BYTES) -> None:
        self.head: Head | None = None
        self.floor = 0
        self._told: deque[Told] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes

    def restart(self, head: Head) -> None:
        """Begin anew at *head*, with nothing before it."""
        self.head = head
        self.floor = head.revision
        self._told.clear()
        self._bytes = 0

    def extend(self, changes: Slice) -> list[Told]:
        """Take in the changes that follow the head; return them as they will be told."""
        assert self.head is not None  # noqa: S101 slices come after a table
        told = [Told(change) for change in changes.changes]
        self._told.extend(told)
        self._bytes += sum(_bytes_of(one.change) for one in told)
        self.head = Head(self.head.epoch, self.head.epoch_number, changes.upto)
        self._forget()
        return told

    def covers(self, after: Position) -> bool:
        """Return whether all changes after *after* are here; its epoch is empty if it is of this history."""
        head = self.head
        if head is None or after.epoch8 not in ("", head.epoch8):
            return False
        return self.floor <= after.revision <= head.revision

    def page(self, wanted: NameFilter, after: int, limit: int) -> Page | None:
        """Return up to *limit* changes that match, after revision *after*; None if some are no longer here."""
        if self.head is None or after < self.floor:
            return None
        found = []
        # From the newest back: nearly all who ask are nearly there.
        for told in reversed(self._told):
            if told.change.revision <= after:
                break
            if wanted.matches(told.change.key):
                found.append(told)
        found.reverse()
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].change.revision)
        return Page(found, max(after, self.head.revision))

    def _forget(self) -> None:
        while self._bytes > self._max_bytes and self._told:
            oldest = self._told.popleft().change
            self._bytes -= _bytes_of(oldest)
            self.floor = oldest.revision


def _bytes_of(change: Change) -> int:
    texts = (change.url, change.previous, change.reason, change.address)
    return _CHANGE_BYTES + sum(len(text) for text in texts if text)
