"""The routing table in memory, as the log describes it up to the applied revision.

Only the event loop changes it, so a reader there sees all of a batch or none and needs no lock. *Complete*, it
holds every active route, and what is not here does not exist. *Bounded*, because there are more routes than it may
hold, it keeps the recently used ones and knows nothing of the others. In both it knows which keys changed lately,
and so which values from elsewhere are good: that is `accept`.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

from traffic_manager.routing.changed_keys import ChangedKeys
from traffic_manager.routing.model import Change
from traffic_manager.routing.ports import Entry, Head, Slice, Table
from traffic_manager.routing.recent import RecentRoutes
from traffic_manager.routing.table import RouteTable

# So many changes are remembered at least: Redis entries from before a restart stay good across that many.
WINDOW_CHANGES = 25_000
# Bounded, the whole table is loaded again once it has shrunk to this share of the limit: not each time that it
# crosses the limit, for a load takes seconds.
_COMPLETE_AGAIN = 0.9
# How long a name without a route is remembered, though changes keep what is remembered true.
ABSENCE_TTL_S = 10.0


class Mirror:
    """The table of one worker, at most *max_routes* of it. 0: keep no entries."""

    def __init__(self, max_routes: int, absence_ttl_s: float = ABSENCE_TTL_S) -> None:
        self.max_routes = max_routes
        self.is_complete = False  # True if a key that is not in `entries` has no active route
        self.moment = 0  # raised by everything that can change what is known of a key while complete
        self.head: Head | None = None  # of the history applied so far; None before the first synchronisation
        self.histories = 0  # how often another history took the place of the one followed before
        self.applied = 0
        self.chain = b""
        self.entries: MutableMapping[str, Entry] = {}  # all active routes while complete
        self.recent = RecentRoutes(max_routes, absence_ttl_s)  # what is kept of them while not
        # What was shown of a key as of a revision above `applied`: later reads may not go back below it.
        self.shown: dict[str, tuple[int, Entry | None]] = {}
        self._active = 0  # how many active routes there are, kept or not, while not complete
        self._changed = ChangedKeys(WINDOW_CHANGES)

    def __len__(self) -> int:
        """Return how many active routes are held."""
        return len(self.entries) if self.is_complete else len(self.recent)

    @property
    def active_routes(self) -> int:
        """How many active routes there are, held here or not. Not known without entries: 0."""
        return len(self.entries) if self.is_complete else self._active

    @property
    def may_become_complete(self) -> bool:
        """True if the table has shrunk so far below the limit that loading it again is worth it."""
        if self.is_complete or not self.max_routes:
            return False
        return self._active <= self.max_routes * _COMPLETE_AGAIN

    def load(self, table: Table, *, is_other_history: bool = False) -> None:
        """Take the whole table over, instead of all that was here. Of another history nothing is kept: what
        was shown may never have been."""
        self.moment += 1
        if self.head is not None and self.head.epoch != table.head.epoch:
            is_other_history = True
        self.histories += is_other_history
        self.shown = {} if is_other_history or table.head.revision < self.applied else self.shown
        self.head = table.head
        self.applied = table.head.revision
        self.chain = table.chain
        self.entries = table.entries
        self.is_complete = self.max_routes > 0 and not table.beyond
        self._active = len(table.entries) + table.beyond
        self.recent.begin({} if self.is_complete else table.entries)
        self._changed = ChangedKeys(WINDOW_CHANGES, table.floor, table.recent)
        self._forget_what_was_shown()

    def apply(self, changes: Slice) -> None:
        """Apply the changes that follow `applied`, all at once for every reader."""
        self.moment += 1
        for change in changes.changes:
            key = "/".join(change.key)  # as str() of it, without a call
            self._enter(key, change)
            self._changed.add(change.revision, key)
        self.applied = changes.upto
        self.chain = changes.chain
        self._stay_within_limit()
        self._keep_what_was_shown()
        self._forget_what_was_shown()

    def portions(self, prefix: str) -> Iterator[list[tuple[str, Entry]]]:
        """Yield the active routes of a complete mirror whose keys begin with *prefix*, some hundred at a time.
        Changes may be applied between two portions: a route that does not change meanwhile is there exactly once."""
        if isinstance(self.entries, RouteTable):
            yield from self.entries.portions(prefix)
        else:
            yield list(self.entries.items())

    def recall(self, key: str) -> tuple[int, Entry | None] | None:
        """Return what is known of *key* without being complete: the revision at which it is true, and the
        entry, None for no active route. None if nothing is known."""
        shown = self.shown.get(key)
        if shown is not None:
            return shown
        entry = self.recent.get(key)
        if entry is not None or self.recent.is_absent(key):
            return self.applied, entry
        return None

    def has_changed_lately(self, key: str) -> bool:
        """Return whether a remembered change is of *key*: so it is not a name that somebody made up."""
        return key in self._changed

    def accept(self, key: str, as_of: int) -> bool:
        """Return whether a value of *key*, true at revision *as_of* of this history, is as good as any shown
        before: nothing later is known of it."""
        shown = self.shown[key][0] if key in self.shown else 0
        if as_of >= max(self.applied, shown):
            return True
        return self.applied >= shown and as_of >= self._changed.floor and self._changed.last(key) <= as_of

    def show(self, key: str, as_of: int, entry: Entry | None) -> None:
        """Remember that *key* was answered with *entry* as of *as_of*."""
        if as_of > self.applied and (key not in self.shown or as_of > self.shown[key][0]):
            self.moment += 1
            self.shown[key] = (as_of, entry)

    def keep(self, key: str, as_of: int, entry: Entry | None) -> int:
        """Take in *entry*, which was accepted as of *as_of*. Return the revision at which it is known to be
        true, which is not below the applied one."""
        if as_of > self.applied:
            # Changes up to *as_of* may still come and must not be overtaken: it is taken in when they have.
            self.show(key, as_of, entry)
            return as_of
        if self.max_routes and not self.is_complete:
            self.recent.put(key, entry)
        return self.applied

    def _enter(self, key: str, change: Change) -> None:
        entry = Entry(change.url, change.revision) if change.is_active and change.url is not None else None
        if not self.is_complete:
            self._active += (entry is not None) - change.was_active
            self.recent.update(key, entry)
        elif entry is not None:
            self.entries[key] = entry
        else:
            self.entries.pop(key, None)

    def _stay_within_limit(self) -> None:
        """Become bounded if there are too many routes now: in the step in which they came, and before the
        first is dropped, so that no reader takes a dropped one for missing."""
        if self.is_complete and len(self.entries) > self.max_routes:
            self.is_complete = False
            self._active = len(self.entries)
            self.recent.begin(self.entries)

    def _keep_what_was_shown(self) -> None:
        """Take in what was shown as of a revision that has been applied now, unless it has changed since."""
        if self.is_complete or not self.max_routes:
            return
        for key, (as_of, entry) in self.shown.items():
            if self._changed.floor <= as_of <= self.applied and self._changed.last(key) <= as_of:
                self.recent.put(key, entry)

    def _forget_what_was_shown(self) -> None:
        if self.shown:
            self.shown = {key: shown for key, shown in self.shown.items() if shown[0] > self.applied}
