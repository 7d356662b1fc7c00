"""Look-ups of single routes that come together share a question to the database, as changes share a commit.

A question takes all who wait when a thread comes free for it: one more key in it costs hardly anything, a question of
its own a round trip and a turn of a thread. Nobody is told what the database said before he asked: who comes when a
question has begun waits for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic

from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import RouteStore, Sighting

# More would be too many answers for one round of the event loop.
_MOST_CALLERS = 100
# Of what a question may wait for a thread. Who comes later begins another, so that he has time, too.
_OPEN_FOR = 0.5


class _Question:
    """What is asked together, *since* when, and the answer for each who asks."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.keys: set[RouteKey] = set()
        self.answers: list[asyncio.Future[Sighting]] = []

    def join(self, key: RouteKey) -> asyncio.Future[Sighting]:
        """Ask for *key*, too."""
        answer: asyncio.Future[Sighting] = asyncio.get_running_loop().create_future()
        self.keys.add(key)
        self.answers.append(answer)
        return answer

    def settle(self, came: asyncio.Future[Sighting]) -> None:
        """Tell all what came of it, but those who have gone away."""
        is_cancelled = came.cancelled()
        error = None if is_cancelled else came.exception()  # heard of even if all have gone
        for answer in self.answers:
            if answer.done():
                continue
            if is_cancelled:
                answer.cancel()
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(came.result())


class LookUps:
    """Asks *store* on the threads of *reads*. For one event loop. *clock*: monotonic seconds."""

    def __init__(self, store: RouteStore, reads: Bulkhead, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._reads = reads
        self._clock = clock
        self._next: _Question | None = None  # waits for a thread

    async def look_up(self, key: RouteKey) -> Sighting:
        """Return what the database says of *key*, among others, after this call. Raises Busy if no thread comes free
        in time, and what the store raises."""
        question = self._next
        if question is None or len(question.answers) >= _MOST_CALLERS or self._has_waited_long(question):
            question = self._next = _Question(self._clock())
            asking = asyncio.get_running_loop().create_task(self._ask(question))
            # Each step between the thread and those who wait is a round of the event loop, which may be long: so the
            # answer goes straight from it to them.
            asking.add_done_callback(partial(_fail, question))
        return await question.join(key)

    def _has_waited_long(self, question: _Question) -> bool:
        return self._clock() - question.since > _OPEN_FOR * self._reads.patience_s

    async def _ask(self, question: _Question) -> None:
        try:
            await self._reads.thread_ahead()
        finally:
            if self._next is question:  # nobody can join any more
                self._next = None
        answer = self._reads.begin(partial(self._store.look_up, question.keys))
        answer.add_done_callback(question.settle)


def _fail(question: _Question, asking: asyncio.Task[None]) -> None:
    """Tell all if it could not be asked."""
    if asking.cancelled() or asking.exception():
        question.settle(asking)  # type: ignore[arg-type] # there is no result
