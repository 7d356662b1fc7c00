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
from concurrent.futures import Future
from dataclasses import dataclass, field

from traffic_manager.errors import Busy, TrafficManagerError
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.operations import Author, Operation, Outcome, Overlay, keys_of
from traffic_manager.routing.ports import Head, RouteStore, Sighting

# A group holds at most this many operations, but always one request: more would only delay the first.
GROUP_MAX_OPERATIONS = 1000
# Seconds that a request waits for its turn: past that we are overloaded, and waiting makes it worse.
TURN_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Written:
    """What became of a request: an outcome per operation. *head* is where history stood after it."""

    head: Head
    outcomes: Sequence[Outcome]


@dataclass
class _Request:
    operations: Sequence[Operation]
    author: Author
    is_batch: bool
    answer: Future[Written] = field(default_factory=Future)


class Registry:
    """Makes changes through *store*. After each commit *committed* is called with the new head revision, on
    the writer's thread, before anybody is answered."""

    def __init__(self, store: RouteStore, committed: Callable[[int], None]) -> None:
        self._store = store
        self._committed = committed
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
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
        return await self._submit(_Request([operation], author, is_batch=False))

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
        self._queue.put(request)
        answer = asyncio.wrap_future(request.answer)
        done, _ = await asyncio.wait({answer}, timeout=TURN_TIMEOUT_S)
        # Only what has not begun can be cancelled; what has begun ends by the store's own deadlines.
        if not done and request.answer.cancel():
            raise Busy("too many changes are waiting")
        return await answer

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            group, is_last = self._group_from(request)
            if group:
                self._settle(group)
            if is_last:
                return

    def _group_from(self, request: _Request | None) -> tuple[list[_Request], bool]:
        """Return *request* and those queued behind it that are still wanted, and whether to stop then."""
        group: list[_Request] = []
        room = GROUP_MAX_OPERATIONS
        while request is not None:
            if request.answer.set_running_or_notify_cancel():
                group.append(request)
                room -= len(request.operations)
            if room <= 0 or self._queue.empty():
                return group, False
            request = self._queue.get()
        return group, True

    def _settle(self, group: list[_Request]) -> None:
        """Answer every request of *group*, whatever happens."""
        try:
            waiting = self._settle_without_lock(group)
            if waiting:
                self._write(waiting)
        except Exception as error:  # it is the callers', who wait for it
            for request in group:
                if not request.answer.done():
                    request.answer.set_exception(error)

    def _settle_without_lock(self, group: list[_Request]) -> list[_Request]:
        """Answer what changes nothing: no-ops and refusals. Return the rest."""
        sighting = self._store.look_up(_all_keys(group))
        return [request for request in group if not _settled(request, sighting)]

    def _write(self, group: list[_Request]) -> None:
        with self._store.writing(_all_keys(group)) as transaction:
            overlay = Overlay(transaction.head, transaction.now, transaction.routes)
            # Each with the head after it: what comes later in the group is not what it was decided on.
            answers = [(request, _attempt(request, overlay), overlay.head) for request in group]
            if overlay.changes:
                transaction.append(overlay.changes, overlay.after)
        if overlay.changes:
            self._committed(overlay.head.revision)
        for request, answer, head in answers:
            _answer(request, answer, head)


def _settled(request: _Request, sighting: Sighting) -> bool:
    overlay = Overlay(sighting.head, 0, sighting.routes)
    result = _attempt(request, overlay)
    if overlay.changes:
        return False
    _answer(request, result, sighting.head)
    return True


def _attempt(request: _Request, overlay: Overlay) -> list[Outcome] | Exception:
    try:
        return overlay.apply(request.operations, request.author, is_batch=request.is_batch)
    except Exception as error:  # the caller's, who waits for it; others of the group go on
        return error


def _answer(request: _Request, answer: list[Outcome] | Exception, head: Head) -> None:
    if isinstance(answer, Exception):
        if isinstance(answer, TrafficManagerError):
            answer.as_of = head.position
        request.answer.set_exception(answer)
    else:
        request.answer.set_result(Written(head, answer))


def _all_keys(group: list[_Request]) -> set[RouteKey]:
    return {key for request in group for key in keys_of(request.operations)}
