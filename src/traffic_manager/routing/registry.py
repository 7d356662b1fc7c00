"""The write path: takes operations, makes changes of them, one group of requests a transaction.

One thread writes. It takes whatever has queued while the group before was committed, so that callers who come
together share one commit and a lone caller waits for nobody. Each request is decided on its own, stands or
falls alone, and is answered after its commit, never before.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from traffic_manager.errors import Busy, SourceUnavailable, TrafficManagerError
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.operations import Author, Operation, Outcome, Overlay, keys_of
from traffic_manager.routing.ports import Head, RouteStore, Sighting

# A group holds at most this many operations, but always one request: more would only delay the first.
GROUP_MAX_OPERATIONS = 1000
# Seconds that a request waits for its turn: past that we are overloaded, and waiting makes it worse.
TURN_TIMEOUT_S = 1.0
# After a group that failed and took so long, those who waited behind it are told the same: each of them has waited
# for most of what a request may take, and would meet the same lock, or the same silence.
_LONG_S = 0.5


class Written(NamedTuple):
    """What became of a request: an outcome per operation. *head* is where history stood after it."""

    head: Head
    outcomes: Sequence[Outcome]


class _Request:
    """A caller's wish, and the future that it waits for on the event loop."""

    __slots__ = ("_turn", "answer", "author", "is_batch", "operations")

    def __init__(self, operations: Sequence[Operation], author: Author, *, is_batch: bool) -> None:
        self.operations = operations
        self.author = author
        self.is_batch = is_batch
        self.answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._turn = threading.Lock()

    def take(self) -> bool:
        """Return True to the first who asks, on whatever thread: the writer then does it, or nobody will."""
        return self._turn.acquire(blocking=False)

    def give_up(self) -> None:
        """Refuse it, unless the writer has begun: what has begun ends by the store's own deadlines."""
        if self.take():
            _settle(self.answer, Busy("too many changes are waiting"))


class Registry:
    """Makes changes through *store*. After each commit *committed* is called with the new head revision, on
    the writer's thread, before anybody is answered."""

    def __init__(self, store: RouteStore, committed: Callable[[int], None]) -> None:
        self._store = store
        self._committed = committed
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._expects_changes = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, then end."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    async def write(self, operation: Operation, author: Author) -> Written:
        """Do *operation* and return what it came to, committed. Raises RouteNotFound, RouteConflict,
        PreconditionFailed or SourceUnavailable; nothing was written then (OutcomeUnknown: perhaps)."""
        return await self._submit(_Request((operation,), author, is_batch=False))

    async def write_batch(self, operations: Sequence[Operation], author: Author) -> Written:
        """Do all of *operations* in their order, or none. Raises BatchFailed with the index that failed."""
        return await self._submit(_Request(operations, author, is_batch=True))

    def rehearse(self, operations: Sequence[Operation], author: Author) -> Written:
        """Return what a batch would come to now, and write nothing. Reads the database on this thread."""
        sighting = self._store.look_up(keys_of(operations))
        # This machine's clock: nothing of it is kept.
        overlay = Overlay(sighting.head, time.time_ns() // 1000, sighting.routes)
        try:
            return Written(sighting.head, overlay.apply(operations, author, is_batch=True))
        except TrafficManagerError as error:
            error.as_of = sighting.head.position
            raise

    async def _submit(self, request: _Request) -> Written:
        clock = request.answer.get_loop().call_later(TURN_TIMEOUT_S, request.give_up)
        self._queue.put(request)
        try:
            return await request.answer
        finally:
            clock.cancel()
            request.take()  # whose caller has gone away need not begin

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            group, is_last = self._group_from(request)
            if group:
                self._do(group)
            if is_last:
                return

    def _group_from(self, request: _Request | None) -> tuple[list[_Request], bool]:
        """Return *request* and those queued behind it that are still wanted, and whether to stop then."""
        group: list[_Request] = []
        room = GROUP_MAX_OPERATIONS
        while request is not None:
            if request.take():
                group.append(request)
                room -= len(request.operations)
            if room <= 0 or self._queue.empty():
                return group, False
            request = self._queue.get()
        return group, True

    def _do(self, group: list[_Request]) -> None:
        """Answer every request of *group*, whatever happens."""
        began = time.monotonic()
        try:
            # Whoever changes something is likely to go on: no look-up then, which would cost a round trip and
            # save nothing. Whoever repeats what is so already takes the lock once.
            waiting = group if self._expects_changes else self._settle_without_lock(group)
            if waiting:
                self._write(waiting)
        except Exception as error:  # it is the callers', who wait for it
            _tell([(request, error) for request in group])
            if isinstance(error, SourceUnavailable) and time.monotonic() - began > _LONG_S:
                self._refuse_waiting(error)

    def _refuse_waiting(self, cause: SourceUnavailable) -> None:
        """Refuse what has queued up to now, as *cause* says; nothing was done for those."""
        told = Busy(str(cause)) if isinstance(cause, Busy) else SourceUnavailable()
        refused = []
        for _ in range(self._queue.qsize()):
            request = self._queue.get()
            if request is None:
                self._queue.put(None)  # behind everybody: we are to stop
            elif request.take():
                refused.append((request, told))
        _tell(refused)

    def _settle_without_lock(self, group: list[_Request]) -> list[_Request]:
        """Answer what changes nothing: no-ops and refusals. Return the rest."""
        sighting = self._store.look_up(_all_keys(group))
        answers = [(request, _answer_without_change(request, sighting)) for request in group]
        _tell([(request, answer) for request, answer in answers if answer is not None])
        return [request for request, answer in answers if answer is None]

    def _write(self, group: list[_Request]) -> None:
        with self._store.writing(_all_keys(group)) as transaction:
            overlay = Overlay(transaction.head, transaction.now, transaction.routes)
            answers = [(request, _attempt(request, overlay)) for request in group]
            if overlay.changes:
                transaction.append(overlay.changes, overlay.after)
        self._expects_changes = bool(overlay.changes)
        if overlay.changes:
            self._committed(overlay.head.revision)
        _tell(answers)


def _attempt(request: _Request, overlay: Overlay) -> Written | Exception:
    """Return what *request* came to, with the head after it: what comes later in its group is not what it was
    decided on."""
    try:
        outcomes = overlay.apply(request.operations, request.author, is_batch=request.is_batch)
    except TrafficManagerError as error:
        error.as_of = overlay.head.position
        return error
    except Exception as error:  # the caller's, who waits for it; others of the group go on
        return error
    return Written(overlay.head, outcomes)


def _answer_without_change(request: _Request, sighting: Sighting) -> Written | Exception | None:
    overlay = Overlay(sighting.head, 0, sighting.routes)
    answer = _attempt(request, overlay)
    return None if overlay.changes else answer


def _tell(answers: Sequence[tuple[_Request, Written | Exception]]) -> None:
    """Answer on the event loop, all in one call: each call wakes it, which takes longer than an answer."""
    if answers:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            answers[0][0].answer.get_loop().call_soon_threadsafe(_settle_all, answers)


def _settle_all(answers: Sequence[tuple[_Request, Written | Exception]]) -> None:
    for request, answer in answers:
        _settle(request.answer, answer)


def _settle(future: asyncio.Future[Written], answer: Written | Exception) -> None:
    if future.done():  # its caller has gone away, or has its answer from before something failed
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _all_keys(group: list[_Request]) -> set[RouteKey]:
    return {operation.key for request in group for operation in request.operations}
