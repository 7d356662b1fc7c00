"""Parts of a worker that go on when a test says so, all on one thread: replies arrive by post, and a follower does
its polls one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower

Result = TypeVar("Result")


class Post:
    """Replies on their way. While *is_slow*, a reply waits until it is delivered."""

    def __init__(self) -> None:
        self.is_slow = False
        self.waiting: list[asyncio.Future[None]] = []

    async def carry(self, reply: Result, *, is_slow: bool | None = None) -> Result:
        """Return *reply* when it has arrived. *is_slow*: not as it is now."""
        if self.is_slow if is_slow is None else is_slow:
            arrival = asyncio.get_running_loop().create_future()
            self.waiting.append(arrival)
            await arrival
        return reply


class SlowReads(Bulkhead):
    """Does the work at once, on this thread; the result arrives by *post*. Of questions that are answered slowly so
    many are under way; others wait, together, until the answer to one of them is delivered."""

    THREADS = 2

    def __init__(self, post: Post) -> None:
        self._post = post
        self.patience_s = float("inf")
        self._under_way = 0
        self._is_next_slow: list[bool] = []
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self, work: Callable[[], Result]) -> Result:
        return await self._post.carry(work())

    async def thread_ahead(self) -> None:
        is_slow = self._post.is_slow
        while is_slow and self._under_way >= self.THREADS:
            thread = asyncio.get_running_loop().create_future()
            self._waiting.append(thread)
            await thread
        self._under_way += is_slow
        self._is_next_slow.append(is_slow)

    def begin(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        return asyncio.ensure_future(self._arrive(work, is_slow=self._is_next_slow.pop()))

    async def _arrive(self, work: Callable[[], Result], *, is_slow: bool) -> Result:
        try:
            return await self._post.carry(work(), is_slow=is_slow)
        finally:
            self._under_way -= is_slow
            while self._waiting:
                self._waiting.pop().set_result(None)


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


class SteppedLoop:
    """An event loop of the test's own, on which work goes on when the test says so: what waits for a reply of *post*
    waits until it is delivered."""

    def __init__(self) -> None:
        self.post = Post()
        self._loop = asyncio.new_event_loop()
        self._begun: list[asyncio.Task[None]] = []

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:  # Any: asyncio's own
        """Return what *work* comes to, which waits for no delivery."""
        return self._loop.run_until_complete(work)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:  # Any: asyncio's own
        """Let *work* go on from now on, as far as it can."""
        self._begun.append(self._loop.create_task(work))

    @contextmanager
    def slowly(self, is_slow: bool) -> Iterator[None]:
        """Let replies to what is asked in the block wait for their delivery."""
        self.post.is_slow = is_slow
        yield
        self._run_until_idle()
        self.post.is_slow = False

    def deliver(self, which: int) -> None:
        """Deliver one of the replies that wait, if there are any."""
        if self.post.waiting:
            self.post.waiting.pop(which % len(self.post.waiting)).set_result(None)
            self._run_until_idle()

    def deliver_all(self) -> None:
        """Deliver what waits, and what is asked for then."""
        while self.post.waiting:
            self.deliver(0)

    def close(self) -> list[asyncio.Task[None]]:
        """End; return what still waits."""
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
        return [work for work in self._begun if not work.done()]

    def _run_until_idle(self) -> None:
        """Let everything run that waits for no delivery; raise what failed."""
        for _ in range(20):
            self._loop.run_until_complete(asyncio.sleep(0))
        for work in [work for work in self._begun if work.done()]:
            self._begun.remove(work)
            work.result()


def run_stepped(machine: type[RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    """Run *machine*; what fails is made small, and not explained, which would take as long again."""
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
    )
    with structlog.testing.capture_logs():
        run_state_machine_as_test(machine, settings=how)
