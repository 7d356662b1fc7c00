"""Parts of a worker that go on when a test says so, all on one thread: replies arrive by post, and a follower does
its polls one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower

Result = TypeVar("Result")


class Post:
    """Replies on their way. While *is_slow*, a reply waits until it is delivered."""

    def __init__(self) -> None:
        self.is_slow = False
        self.waiting: list[asyncio.Future[None]] = []

    async def carry(self, reply: Result) -> Result:
        if self.is_slow:
            arrival = asyncio.get_running_loop().create_future()
            self.waiting.append(arrival)
            await arrival
        return reply


class SlowReads(Bulkhead):
    """Does the work at once, on this thread; the result arrives by *post*."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def run(self, work: Callable[[], Result]) -> Result:
        return await self._post.carry(work())


class SteppedFollower(Follower):
    """A follower that does a step when it is told to, on the event loop's own thread."""

    def step(self) -> bool:
        """Follow up to the head; return False if the database is away."""
        return self._try_to_catch_up()

    def close(self) -> None:
        """Give back what a thread would have given back when it ended."""
        self._bell.close()

    def _on_loop(self, work: Callable[[], None]) -> None:
        work()

    async def reached(self, revision: int, timeout_s: float) -> bool:
        """Return at once whether the mirror is there."""
        return self._mirror.applied >= revision
