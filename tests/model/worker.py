"""One worker of the model: the real parts, joined as `worker.py` joins them, on the test's own thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.model.databases import Line
from tests.model.history import Place
from tests.model.redis import MemoryRedis, SlowClient
from tests.routing.builders import AUTHOR
from tests.routing.stepped import Post, SlowReads, SteppedFollower
from tests.routing.test_follower import Events
from traffic_manager.cache.route_cache import RedisRouteCache
from traffic_manager.config.settings import CacheSettings
from traffic_manager.routing.batch_resolver import BatchResolver
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.operations import Operation
from traffic_manager.routing.ports import NameFilter
from traffic_manager.routing.registry import Registry, Written
from traffic_manager.routing.resolver import Resolver
from traffic_manager.routing.unknown_names import UnknownNames
from traffic_manager.routing.watchers import Watcher, Watchers
from traffic_manager.snapshot import Snapshot

# More than a run asks for: refusing floods has tests of its own.
_ANY_NUMBER = 1_000_000


class SteppedRegistry(Registry):
    """A registry whose writer takes its turn when it is told to."""

    def take_turn(self) -> None:
        """Write what is queued: as one group, because it has queued before the writer looked."""
        self._queue.put(None)
        self._run()


@dataclass(eq=False)
class Worker:
    """The parts, and what the test remembers of them: *floors*, the newest place at which each key was answered;
    *followed*, the branch that the last good poll saw; *polled_at_s*, when that was."""

    line: Line
    mirror: Mirror
    follower: SteppedFollower
    resolver: Resolver
    batch_resolver: BatchResolver
    registry: SteppedRegistry
    cache: RedisRouteCache
    stream: Stream
    events: Events
    floors: dict[RouteKey, Place] = field(default_factory=dict)
    followed: int | None = None
    polled_at_s: float | None = None

    def close(self) -> None:
        """End all that it holds."""
        self.stream.close()
        self.follower.close()
        self.line.close()

    async def write(
        self, requests: Sequence[Sequence[Operation]], *, are_batches: bool
    ) -> list[Written | BaseException]:
        """Let the writer find all *requests* at once; return what each came to."""
        writes: list[Coroutine[Any, Any, Written]] = [  # Any: asyncio's own
            self.registry.write_batch(request, AUTHOR)
            if are_batches
            else self.registry.write(request[0], AUTHOR)
            for request in requests
        ]
        tasks = [asyncio.ensure_future(write) for write in writes]
        await asyncio.sleep(0)
        self.registry.take_turn()
        return await asyncio.gather(*tasks, return_exceptions=True)


class Stream:
    """Somebody who follows the changes that match *wanted*, as far as the worker tells of them."""

    def __init__(self, watchers: Watchers, wanted: NameFilter) -> None:
        self._watchers = watchers
        self.wanted = wanted
        self.watcher: Watcher | None = None

    def open(self, position: int) -> Watcher:
        """Begin after *position*."""
        self.close()
        self.watcher = self._watchers.watching(self.wanted, position)
        return self.watcher.__enter__()

    def close(self) -> None:
        """End."""
        if self.watcher is not None:
            self.watcher.__exit__()
        self.watcher = None


def new_worker(
    line: Line,
    redis: MemoryRedis,
    post: Post,
    max_routes: int,
    wanted: NameFilter,
    absence_ttl_s: float,
    rejected: Callable[[str], None],
) -> Worker:
    """Return a worker that knows nothing yet."""
    mirror, watchers, events = Mirror(max_routes, absence_ttl_s), Watchers(10), Events()
    follower = SteppedFollower(line, mirror, events, watchers)
    reads, unknown = SlowReads(post), UnknownNames(_ANY_NUMBER)
    ttls = CacheSettings(positive_ttl=60, negative_ttl=10)
    cache = RedisRouteCache(SlowClient(redis, post), ttls, rejected)
    resolver = Resolver(mirror, follower, cache, line, reads, unknown)
    batch_resolver = BatchResolver(resolver, mirror, follower, line, reads, unknown)
    registry, stream = SteppedRegistry(line, follower.wake), Stream(watchers, wanted)
    return Worker(line, mirror, follower, resolver, batch_resolver, registry, cache, stream, events)


def recall(worker: Worker, snapshot: Snapshot, at_head_s: float) -> None:
    """Let *worker* begin with *snapshot*."""
    worker.follower.recall(snapshot.table, snapshot.beside, at_head_s)
