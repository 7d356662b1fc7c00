"""The routing table in memory, as the log describes it up to the applied revision.

Only the event loop changes it, so a reader there sees all of a batch or none and needs no lock. Complete, it
holds every active route. Without entries it still knows which keys changed lately, and so which cached values
are good: that is `accept`.
"""

from __future__ import annotations

from collections import deque

from traffic_manager.routing.ports import Entry, Head, Slice, Table

# So many changes are remembered: Redis entries from before a restart stay good across that many.
WINDOW_CHANGES = 50_000


class Mirror:
    """The table of one worker. *max_routes* 0: keep no entries."""

    def __init__(self, max_routes: int) -> None:
        self.max_routes = max_routes
        self.head: Head | None = None  # of the history applied so far; None before the first synchronisation
        self.applied = 0
        self.chain = b""
        self.entries: dict[str, Entry] = {}
        # What was shown of a key as of a revision above `applied`: later reads may not go back below it.
        self.shown: dict[str, tuple[int, Entry | None]] = {}
        self.floor = 0
        self._recent: deque[tuple[int, str]] = deque()
        self._last_change: dict[str, int] = {}

    @property
    def is_complete(self) -> bool:
        """True if a key that is not here has no active route."""
        return self.head is not None and self.max_routes > 0

    def load(self, table: Table, *, is_other_history: bool = False) -> None:
        """Take the whole table over, instead of all that was here. Of another history nothing is kept: what
        was shown may never have been."""
        if self.head is not None and self.head.epoch != table.head.epoch:
            is_other_history = True
        self.shown = {} if is_other_history or table.head.revision < self.applied else self.shown
        self.head = table.head
        self.applied = table.head.revision
        self.chain = table.chain
        self.entries = table.entries
        self.floor = table.floor
        self._recent = deque(table.recent)
        self._last_change = {key: revision for revision, key in table.recent}
        self._forget()

    def apply(self, changes: Slice) -> None:
        """Apply the changes that follow `applied`, all at once for every reader."""
        for change in changes.changes:
            key = str(change.key)
            if self.max_routes:
                if change.is_active and change.url is not None:
                    self.entries[key] = Entry(change.url, change.revision)
                else:
                    self.entries.pop(key, None)
            self._recent.append((change.revision, key))
            self._last_change[key] = change.revision
        self.applied = changes.upto
        self.chain = changes.chain
        self._forget()

    def accept(self, key: str, as_of: int) -> bool:
        """Return whether a value of *key*, true at revision *as_of* of this history, is as good as any shown
        before: nothing later is known of it."""
        shown = self.shown[key][0] if key in self.shown else 0
        if as_of >= max(self.applied, shown):
            return True
        return self.applied >= shown and as_of >= self.floor and self._last_change.get(key, 0) <= as_of

    def show(self, key: str, as_of: int, entry: Entry | None) -> None:
        """Remember that *key* was answered with *entry* as of *as_of*."""
        if as_of > self.applied and (key not in self.shown or as_of > self.shown[key][0]):
            self.shown[key] = (as_of, entry)

    def _forget(self) -> None:
        while len(self._recent) > WINDOW_CHANGES:
            self.floor, key = self._recent.popleft()
            if self._last_change.get(key) == self.floor:
                del self._last_change[key]
        if self.shown:
            self.shown = {key: shown for key, shown in self.shown.items() if shown[0] > self.applied}
