"""The active routes that a stream begins with, read some at a time: from the mirror if it holds them all, else from
the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from itertools import takewhile

from traffic_manager.api.changes import turn
from traffic_manager.api.context import Parts
from traffic_manager.errors import SourceUnavailable
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import Entry, NameFilter
from traffic_manager.routing.watchers import PAGE_CHANGES, Ending, Watcher

# Routes that were read at one revision.
Portion = tuple[int, list[tuple[RouteKey, Entry]]]


def portions(parts: Parts, watcher: Watcher, epoch8: str) -> AsyncIterator[Portion]:
    """Yield the active routes that match what *watcher* wants, some at a time, each with the revision it was read at.
    They may change meanwhile: one that does not is there exactly once. Ends the watching if they cannot be read, or
    are not those of *epoch8* any more."""
    return (
        _from_mirror(parts, watcher) if parts.mirror.is_complete else _from_database(parts, watcher, epoch8)
    )


async def _from_mirror(parts: Parts, watcher: Watcher) -> AsyncIterator[Portion]:
    mirror, wanted = parts.mirror, watcher.wanted
    if None not in wanted.names:
        only = RouteKey.known(*map(str, wanted.names))
        entry = mirror.entries.get(str(only))
        yield mirror.applied, [(only, entry)] if entry and wanted.matches(only) else []
        return
    portions = mirror.portions(_prefix_of(wanted))
    while True:
        # One portion for each turn of the event loop, however many snapshots are asked for.
        async with parts.scan_turn:
            portion, read_at = next(portions, None), mirror.applied
            if not mirror.is_complete:  # any more: routes are being dropped
                watcher.end(Ending.UNAVAILABLE)
            if portion is None or watcher.ending is not None:
                return
            keyed = ((RouteKey.known(*text.split("/")), entry) for text, entry in portion)
            found = [(key, entry) for key, entry in keyed if wanted.matches(key)]
            await asyncio.sleep(0)
        yield read_at, found


async def _from_database(parts: Parts, watcher: Watcher, epoch8: str) -> AsyncIterator[Portion]:
    wanted, last = watcher.wanted, None
    while True:
        try:
            async with turn(parts):
                page = await parts.reads.run(partial(parts.store.page, wanted, True, last, PAGE_CHANGES))
        except SourceUnavailable:
            watcher.end(Ending.UNAVAILABLE)
            return
        if page.head.epoch8 != epoch8:
            watcher.end(Ending.HISTORY_CHANGED)
        yield page.head.revision, [(route.key, Entry(route.url, route.revision)) for route in page.routes]
        last = page.last
        if last is None:
            return


def _prefix_of(wanted: NameFilter) -> str:
    """Return how the texts of all keys begin that match."""
    names = takewhile(lambda name: name is not None, wanted.names)
    return "".join(f"{name}/" for name in names)
