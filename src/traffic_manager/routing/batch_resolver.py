"""Resolves many keys at one revision: from memory in one step of the event loop if all are known there, else from
the database in one statement. Keys keep what single resolves promise: none goes back in time.

Redis is not asked: one statement reads a thousand keys sooner than a thousand questions are asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from traffic_manager.errors import SourceUnavailable
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.ports import Entry, RouteStore, Sighting
from traffic_manager.routing.resolver import CATCH_UP_S, Fill, Resolver, active_entry, fill_attempts
from traffic_manager.routing.unknown_names import UnknownNames


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known of several keys, in their order, all true at *as_of*; None for no active route. *missed* were
    read from the database. *stale_age_s* as in `Answer`."""

    epoch8: str
    as_of: int
    entries: Sequence[Entry | None]
    missed: Collection[RouteKey]
    stale_age_s: int | None = None


class BatchResolver:
    """Answers from *mirror* and *store*, with the rules of *resolver*. For one event loop."""

    def __init__(
        self,
        resolver: Resolver,
        mirror: Mirror,
        follower: Follower,
        store: RouteStore,
        reads: Bulkhead,
        unknown_names: UnknownNames,
    ) -> None:
        self._unknown_names = unknown_names
        self._resolver = resolver
        self._mirror = mirror
        self._follower = follower
        self._store = store
        self._reads = reads

    async def resolve(
        self, keys: Sequence[RouteKey], *, is_strong: bool = False, at_least: Position | None = None
    ) -> Answers:
        """Return what is known of *keys*. *is_strong*, *at_least* and errors as for a single key."""
        if is_strong or (at_least is not None and not await self._resolver.has_reached(at_least)):
            return await self._read(keys, self._look_up, at_least)
        missing = self._missing(keys)
        if missing and len(missing) < len(set(keys)):
            await self._fill(missing)
        return self._from_memory(keys, missing) or await self._read(keys, self._look_up_missing, at_least)

    def _missing(self, keys: Sequence[RouteKey]) -> Collection[RouteKey]:
        """Return the keys of which the mirror knows nothing."""
        if self._mirror.head is None:
            return set(keys)
        if self._mirror.is_complete:
            return ()
        return {key for key in keys if self._mirror.recall(str(key)) is None}

    def _from_memory(self, keys: Sequence[RouteKey], missed: Collection[RouteKey] = ()) -> Answers | None:
        """Return what the mirror knows, None if it does not know all *keys* at one revision."""
        mirror = self._mirror
        if mirror.head is None:
            return None
        texts = [str(key) for key in keys]
        if mirror.is_complete and not mirror.shown:
            as_of, entries = mirror.applied, [mirror.entries.get(text) for text in texts]
        else:
            known = [self._resolver.from_memory(key) for key in keys]
            found = [answer for answer in known if answer is not None]
            if len(found) < len(keys) or len({answer.as_of for answer in found}) > 1:
                return None
            as_of = found[0].as_of if found else mirror.applied
            entries = [answer.entry for answer in found]
        return Answers(mirror.head.epoch8, as_of, entries, missed, self._follower.stale_age_s())

    async def _fill(self, missing: Collection[RouteKey]) -> None:
        """Let the mirror take in what the database says of *missing*, where nothing later is known."""
        history, sighting = await self._look_up_missing(missing)
        if self._mirror.head is None or self._mirror.head.epoch != sighting.head.epoch:
            return
        await self._follower.reached(sighting.head.revision, CATCH_UP_S)
        if history == self._mirror.histories:
            self._keep(missing, sighting)

    async def _read(
        self,
        keys: Sequence[RouteKey],
        look_up: Callable[[Collection[RouteKey]], Awaitable[Fill]],
        at_least: Position | None,
    ) -> Answers:
        """Return what the database says of all *keys*, or what the mirror knows if that is newer. Asks again if
        something later was shown of any of them, or another history began meanwhile."""
        for _ in fill_attempts():
            history, sighting = await look_up(keys)
            if history != self._mirror.histories:
                continue
            if at_least is not None:
                sighting.head.check_reached(at_least)
            head = self._mirror.head
            if head is not None and head.epoch != sighting.head.epoch:
                self._follower.wake()  # it will find the fork
                return _answers(keys, sighting, sighting.head.revision)
            known = self._from_memory(keys) if self._mirror.is_complete else None
            if known and known.as_of > sighting.head.revision:
                return known
            if all(self._mirror.accept(str(key), sighting.head.revision) for key in keys):
                return _answers(keys, sighting, self._keep(keys, sighting))
        raise SourceUnavailable("the routes change faster than they can be read")

    def _keep(self, keys: Collection[RouteKey], sighting: Sighting) -> int:
        """Take in what is accepted of *sighting*; return the revision at which it is true."""
        as_of = sighting.head.revision
        for key in keys:
            if self._mirror.accept(str(key), as_of):
                self._mirror.keep(str(key), as_of, active_entry(sighting, key))
        return max(as_of, self._mirror.applied)

    async def _look_up_missing(self, keys: Collection[RouteKey]) -> Fill:
        """Look up keys of which nothing is known here: they may be a flood of made-up names."""
        self._unknown_names.take()
        try:
            fill = await self._look_up(keys)
        finally:
            self._unknown_names.give_back()
        self._unknown_names.spend(sum(active_entry(fill[1], key) is None for key in keys))
        return fill

    async def _look_up(self, keys: Collection[RouteKey]) -> Fill:
        history = self._mirror.histories
        return history, await self._reads.run(lambda: self._store.look_up(set(keys)))


def _answers(keys: Sequence[RouteKey], sighting: Sighting, as_of: int) -> Answers:
    entries = [active_entry(sighting, key) for key in keys]
    return Answers(sighting.head.epoch8, as_of, entries, missed=set(keys))
