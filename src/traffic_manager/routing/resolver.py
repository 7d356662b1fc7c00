"""The read path: which URL serves a key, from memory if it can be known there, else from Redis, else from the
database. No interleaving of fills, changes and restarts makes an answer for a key go back in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Any

from traffic_manager.errors import SourceUnavailable
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.look_ups import LookUps
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.ports import CachedRoute, Entry, Head, RouteCache, RouteStore, Sighting
from traffic_manager.routing.unknown_names import UnknownNames

# How long a read waits for the mirror to come up to a revision before it asks the database.
CATCH_UP_S = 0.1
# A fill is refused only if something later became known meanwhile. A route that changes hundreds of times a second
# may do that several times in a row: by a count of four, callers of such routes were told 503 after some ms.
_FILL_PATIENCE_S = 0.5
_MAX_PENDING_PUTS = 256


# What the database said, and which history the mirror followed when it was asked.
Fill = tuple[int, Sighting]


class Source(StrEnum):
    """What an answer cost."""

    HIT = "hit"
    MISS = "miss"
    NEGATIVE = "negative"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a key: *entry* is None if it has no active route; true at *as_of*. *stale_age_s* is
    set if the source has been out of reach for that long."""

    epoch8: str
    as_of: int
    entry: Entry | None
    source: Source
    stale_age_s: int | None = None


class Resolver:
    """Answers from *mirror*, *cache* (None: not configured) and *store*, which is asked for names that have no
    route no more often than *unknown_names* allows. For one event loop."""

    def __init__(
        self,
        mirror: Mirror,
        follower: Follower,
        cache: RouteCache | None,
        store: RouteStore,
        reads: Bulkhead,
        unknown_names: UnknownNames,
    ) -> None:
        self._mirror = mirror
        self._follower = follower
        self._cache = cache
        self._look_ups = LookUps(store, reads)
        self._unknown_names = unknown_names
        self._flights: dict[RouteKey, asyncio.Task[Fill]] = {}
        self._puts: set[asyncio.Task[None]] = set()

    async def resolve(
        self, key: RouteKey, *, is_strong: bool = False, at_least: Position | None = None
    ) -> Answer:
        """Return what is known of *key*. *is_strong*: as the database has it now. *at_least*: not older than
        that revision. Raises EpochMismatch, NotYetReached or SourceUnavailable, never a false "not found"."""
        if is_strong:
            return await self._read(key, self._look_up, at_least)
        if at_least is not None and not await self.has_reached(at_least):
            return await self._read(key, self._look_up, at_least)
        known = self.from_memory(key) or await self._from_cache(key)
        return known or await self._read(key, self._join_flight)

    def from_memory(self, key: RouteKey) -> Answer | None:
        """Return what the mirror knows of *key*, None if it cannot tell."""
        head, known = self._mirror.head, self.look_up(str(key))
        return self._known(head, *known) if head is not None and known is not None else None

    def look_up(self, text: str) -> tuple[int, Entry | None] | None:
        """Return what the mirror knows of the key with this *text*: the revision at which it is true, and the
        entry, None for no active route. None if it cannot tell. For the lane, to which an Answer costs more
        than the look-up itself."""
        mirror = self._mirror
        if mirror.is_complete:
            return mirror.shown.get(text) or (mirror.applied, mirror.entries.get(text))
        return mirror.recall(text) if mirror.head is not None else None

    def _known(self, head: Head, as_of: int, entry: Entry | None) -> Answer:
        source = Source.HIT if entry else Source.NEGATIVE
        return Answer(head.epoch8, as_of, entry, source, self._follower.stale_age_s())

    def saw(self, key: RouteKey, sighting: Sighting) -> None:
        """Take note that *key* was shown to somebody as *sighting* has it: resolves do not go back below."""
        if self._mirror.head is None or self._mirror.head.epoch == sighting.head.epoch:
            self._mirror.show(str(key), sighting.head.revision, active_entry(sighting, key))

    async def has_reached(self, wanted: Position) -> bool:
        """Wait a moment for the mirror to be at *wanted*. False if it is not, or knows another history."""
        head = self._mirror.head
        if head is None or wanted.epoch8 != head.epoch8:
            return False  # the database knows its own history; the mirror may be a poll behind
        return await self._follower.reached(wanted.revision, CATCH_UP_S)

    async def _from_cache(self, key: RouteKey) -> Answer | None:
        head = self._mirror.head
        if self._cache is None or head is None:
            return None
        cached = await self._cache.get(key)
        head = self._mirror.head or head  # the mirror may have moved while we waited
        if cached is None or cached.epoch != head.epoch or not self._mirror.accept(str(key), cached.as_of):
            return None
        entry = Entry(cached.url, cached.revision) if cached.url is not None else None
        as_of = self._mirror.keep(str(key), cached.as_of, entry)
        return self._known(head, as_of, entry)

    async def _read(
        self,
        key: RouteKey,
        look_up: Callable[[RouteKey], Awaitable[Fill]],
        at_least: Position | None = None,
    ) -> Answer:
        """Return the newer of what the database says and what the mirror knows, never below *at_least*. Asks
        again if something later was shown meanwhile: a slow read must not go back behind a quick one, nor bring
        back a history that was left meanwhile."""
        for _ in fill_attempts():
            history, sighting = await look_up(key)
            if history != self._mirror.histories:
                continue
            if at_least is not None:
                sighting.head.check_reached(at_least)
            head = self._mirror.head
            if head is not None and head.epoch != sighting.head.epoch:
                self._follower.wake()  # it will find the fork
                return Answer(
                    sighting.head.epoch8, sighting.head.revision, active_entry(sighting, key), Source.MISS
                )
            known = self.from_memory(key)
            if known and known.as_of > sighting.head.revision:
                return known
            if self._mirror.accept(str(key), sighting.head.revision):
                return self._shown(key, sighting)
        raise SourceUnavailable("the route changes faster than it can be read")

    async def _join_flight(self, key: RouteKey) -> Fill:
        """Read the database once for all who ask for *key* at the same time."""
        flight = self._flights.get(key)
        if flight is None:
            look_up = self._look_up
            if not self._mirror.has_changed_lately(str(key)):
                self._unknown_names.take()
                look_up = self._look_up_miss
            flight = asyncio.get_running_loop().create_task(look_up(key))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return await asyncio.shield(flight)

    async def _look_up_miss(self, key: RouteKey) -> Fill:
        """Look up a key of which nothing is known here: it may be one of a flood of made-up names."""
        is_made_up = False
        try:
            fill = await self._look_up(key)
            is_made_up = active_entry(fill[1], key) is None
        finally:
            if not is_made_up:
                self._unknown_names.give_back()
        return fill

    async def _look_up(self, key: RouteKey) -> Fill:
        history = self._mirror.histories
        sighting = await self._look_ups.look_up(key)
        if self._cache and not self._mirror.is_complete:
            self._in_background(self._cache.put(key, _cached(key, sighting)))
        return history, sighting

    def _shown(self, key: RouteKey, sighting: Sighting) -> Answer:
        """Return what was accepted as an answer: it is true at the applied revision, too."""
        head, entry = sighting.head, active_entry(sighting, key)
        as_of = self._mirror.keep(str(key), head.revision, entry)
        return Answer(head.epoch8, as_of, entry, Source.MISS)

    def _in_background(self, put: Coroutine[Any, Any, None]) -> None:
        if len(self._puts) >= _MAX_PENDING_PUTS:
            put.close()  # Redis is slower than the misses; the next miss will try again
            return
        task = asyncio.get_running_loop().create_task(put)
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)


def fill_attempts() -> Iterator[None]:
    """Yield once for each time that the database may be asked again: until a fill has been at it for too long."""
    give_up_at = monotonic() + _FILL_PATIENCE_S
    yield
    while monotonic() < give_up_at:
        yield


def active_entry(sighting: Sighting, key: RouteKey) -> Entry | None:
    """Return the entry of *key* if its route is active there."""
    route = sighting.routes.get(key)
    return Entry(route.url, route.revision) if route and route.is_active else None


def _cached(key: RouteKey, sighting: Sighting) -> CachedRoute:
    head, entry = sighting.head, active_entry(sighting, key)
    if entry is None:
        return CachedRoute(head.epoch, head.revision, 0, None)
    return CachedRoute(head.epoch, head.revision, entry.revision, entry.url)
