"""The recently used part of the routing table: what a mirror keeps that cannot hold all of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import MutableMapping
from time import monotonic

from traffic_manager.routing.ports import Entry

# Names without a route have a place of their own, a tenth as large: no flood of them drives out a route.
_ROUTES_PER_ABSENCE = 10


class RecentRoutes:
    """At most *max_routes* active routes and a tenth as many *absences*, names that have no active route. The
    least recently used go first; an absence goes after *absence_ttl_s* in any case."""

    def __init__(self, max_routes: int, absence_ttl_s: float) -> None:
        self._max_routes = max_routes
        self._max_absences = -(-max_routes // _ROUTES_PER_ABSENCE)
        self._absence_ttl_s = absence_ttl_s
        # That nobody has asked for since they were loaded: the first to go.
        self._unused: MutableMapping[str, Entry] = {}
        self._used: OrderedDict[str, Entry] = OrderedDict()
        self._absences: OrderedDict[str, float] = OrderedDict()  # until when, on the monotonic clock
        self.evictions = 0

    def __len__(self) -> int:
        """Return how many routes are held."""
        return len(self._unused) + len(self._used)

    def begin(self, loaded: MutableMapping[str, Entry]) -> None:
        """Forget everything and begin with *loaded*, which is ours from now on."""
        self._unused = loaded
        self._used = OrderedDict()
        self._absences = OrderedDict()
        self._drop_routes()

    def get(self, key: str) -> Entry | None:
        """Return the route of *key*, None if it is not held. It counts as a use."""
        entry = self._used.get(key)
        if entry is not None:
            self._used.move_to_end(key)
            return entry
        entry = self._unused.pop(key, None)
        if entry is not None:
            self._used[key] = entry
        return entry

    def is_absent(self, key: str) -> bool:
        """Return whether *key* is known to have no active route. It counts as a use."""
        until = self._absences.get(key)
        if until is None or until < monotonic():
            return False
        self._absences.move_to_end(key)
        return True

    def put(self, key: str, entry: Entry | None) -> None:
        """Hold *entry* (None: no active route) for *key*, as used now."""
        self._remove(key)
        if entry is not None:
            self._used[key] = entry
            self._drop_routes()
        else:
            self._absences[key] = monotonic() + self._absence_ttl_s
            if len(self._absences) > self._max_absences:
                self._absences.popitem(last=False)

    def update(self, key: str, entry: Entry | None) -> None:
        """Let *entry* be the state of *key* from now on, if anything is held for it. It counts as no use."""
        place = self._place_of(key)
        if place is not None and entry is not None:
            place[key] = entry
        elif place is not None or (entry is not None and key in self._absences):
            self.put(key, entry)

    def _place_of(self, key: str) -> MutableMapping[str, Entry] | None:
        """Return where the route of *key* is held."""
        if key in self._used:
            return self._used
        return self._unused if self._unused.get(key) is not None else None

    def _remove(self, key: str) -> None:
        self._used.pop(key, None)
        self._unused.pop(key, None)
        self._absences.pop(key, None)

    def _drop_routes(self) -> None:
        while len(self) > self._max_routes:
            self.evictions += 1
            if self._unused:
                self._unused.popitem()
            else:
                self._used.popitem(last=False)
