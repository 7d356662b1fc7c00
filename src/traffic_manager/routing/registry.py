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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from traffic_manager.errors import Busy, RequestUnderWay, SourceUnavailable, TrafficManagerError
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.operations import Author, Operation, Outcome, Overlay, Quota, keys_of
from traffic_manager.routing.ports import Claim, Head, RequestName, RouteStore, Sighting
from traffic_manager.routing.receipts import Receipts, claim_of

# A group holds at most this many operations, but always one request: more would only delay the first.
GROUP_MAX_OPERATIONS = 1000
# Seconds that a request waits for its turn: past that we are overloaded, and waiting makes it worse.
TURN_TIMEOUT_S = 1.0
# After a group that failed and took so long, those who waited behind it are told the same: each of them has waited
# for most of what a request may take, and would meet the same lock, or the same silence.
_LONG_S = 0.5


class Written(NamedTuple):
    """What became of a request: an outcome per operation. *head* is where history stood after it. *is_replay*: it was
    done before, under the same idempotency key."""

    head: Head
    outcomes: Sequence[Outcome]
    is_replay: bool = False

    @property
    def has_changes(self) -> bool:
        """Return whether anything is another than before."""
        return any(outcome.action for outcome in self.outcomes)


# What a request came to: what was written, or why nothing was.
Answer = Written | Exception


class _Request:
    """A caller's wish. *answered* is called on *loop* with what it came to, once. *under_way*: the names of such
    requests as have one."""

    __slots__ = (
        *("_answered", "_clock", "_is_first", "_turn", "_under_way"),
        *("author", "claim", "is_batch", "loop", "operations"),
    )

    def __init__(
        self,
        operations: Sequence[Operation],
        author: Author,
        answered: Callable[[Answer], None],
        under_way: set[RequestName],
        *,
        is_batch: bool,
    ) -> None:
        self.operations = operations
        self.author = author
        self.is_batch = is_batch
        self.claim = claim_of(operations, author, is_batch=is_batch)
        self._under_way = under_way
        self._is_first = self.claim is not None and self.claim.name not in under_way
        if self.claim is not None:
            under_way.add(self.claim.name)
        self.loop = asyncio.get_running_loop()
        self._answered: Callable[[Answer], None] | None = answered
        self._clock = self.loop.call_later(TURN_TIMEOUT_S, self._give_up)
        self._turn = threading.Lock()

    def take(self) -> bool:
        """Return True to the first who asks, on whatever thread: the writer then does it, or nobody will."""
        return self._turn.acquire(blocking=False)

    def settle(self, answer: Answer) -> None:
        """Answer, unless that was done: before something failed, for example."""
        answered, self._answered = self._answered, None
        self._leave_name()
        if answered is not None:
            self._clock.cancel()
            answered(answer)

    def drop(self) -> None:
        """Take note that the caller has gone away: what the writer has not begun need not begin."""
        self._answered = None
        self._clock.cancel()
        if self.take():
            self._leave_name()

    def _give_up(self) -> None:
        """Refuse it, unless the writer has begun: what has begun ends by the store's own deadlines."""
        if self.take():
            self.settle(RequestUnderWay() if self._is_repeated else Busy("too many changes are waiting"))

    @property
    def _is_repeated(self) -> bool:
        """Whether the same request is still under way."""
        return self.claim is not None and not self._is_first and self.claim.name in self._under_way

    def _leave_name(self) -> None:
        if self.claim is not None and self._is_first:
            self._under_way.discard(self.claim.name)


class Registry:
    """Makes changes through *store*. After each commit *committed* is called with the new head revision, on
    the writer's thread, before anybody is answered. *most_routes* tells how many routes a tenant may have, None for
    any number."""

    def __init__(
        self,
        store: RouteStore,
        committed: Callable[[int], None],
        most_routes: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        self._store = store
        self._committed = committed
        self._most_routes = most_routes
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        # Of requests that are to be done once; the event loop's.
        self._under_way: set[RequestName] = set()
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

    def submit(self, operation: Operation, author: Author, answered: Callable[[Answer], None]) -> None:
        """Do *operation*, and call *answered* on this event loop with what it came to: committed, or the error that
        `write` would raise."""
        self._queue.put(_Request((operation,), author, answered, self._under_way, is_batch=False))

    async def write(self, operation: Operation, author: Author) -> Written:
        """Do *operation* and return what it came to, committed. Raises RouteNotFound, RouteConflict,
        PreconditionFailed or SourceUnavailable; nothing was written then (OutcomeUnknown: perhaps). With an
        idempotency key also IdempotencyKeyReused or RequestUnderWay."""
        return await self._write_all((operation,), author, is_batch=False)

    async def write_batch(self, operations: Sequence[Operation], author: Author) -> Written:
        """Do all of *operations* in their order, or none. Raises BatchFailed with the index that failed."""
        return await self._write_all(operations, author, is_batch=True)

    def rehearse(self, operations: Sequence[Operation], author: Author) -> Written:
        """Return what a batch would come to now, and write nothing. Reads the database on this thread."""
        sighting = self._store.look_up(keys_of(operations))
        # This machine's clock: nothing of it is kept.
        quotas = self._quotas(operations, self._store.counts)
        overlay = Overlay(sighting.head, time.time_ns() // 1000, sighting.routes, quotas)
        try:
            return Written(sighting.head, overlay.apply(operations, author, is_batch=True))
        except TrafficManagerError as error:
            error.as_of = sighting.head.position
            raise

    async def _write_all(self, operations: Sequence[Operation], author: Author, *, is_batch: bool) -> Written:
        answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        request = _Request(operations, author, partial(_resolve, answer), self._under_way, is_batch=is_batch)
        self._queue.put(request)
        try:
            return await answer
        finally:
            request.drop()

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            group = [request] if request.take() else []
            group += self._queued(GROUP_MAX_OPERATIONS - _size(group))
            if group:
                self._do(group)

    def _queued(self, room: int) -> list[_Request]:
        """Return those that are queued and still wanted, as long as there is *room* for one more operation."""
        found: list[_Request] = []
        while room > 0 and not self._queue.empty():
            request = self._queue.get()
            if request is None:
                self._queue.put(None)  # after what is queued
                break
            if request.take():
                found.append(request)
                room -= len(request.operations)
        return found

    def _do(self, group: list[_Request]) -> None:
        """Answer every request of *group*, whatever happens."""
        began, waiting = time.monotonic(), group
        try:
            # Whoever changes something is likely to go on: no look-up then, which would cost a round trip and
            # save nothing. Whoever repeats what is so already takes the lock once.
            if not self._expects_changes:
                waiting = self._settle_without_lock(group)
            if waiting:
                self._write(waiting)
        except Exception as error:  # it is the callers', who wait for it
            _tell([(request, error) for request in (*group, *waiting)])
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
        """Answer what changes nothing: no-ops and refusals. Return the rest, and what is to be done once: whether it
        was done is looked up under the lock."""
        if all(request.claim for request in group):
            return group
        sighting = self._store.look_up(_all_keys(group))
        answers = [(request, _answer_without_change(request, sighting)) for request in group]
        _tell([(request, answer) for request, answer in answers if answer is not None])
        return [request for request, answer in answers if answer is None]

    def _write(self, group: list[_Request]) -> None:
        """Write *group*, and with it those who came while we waited for the lock: they join it."""
        with self._store.writing(_all_keys(group), _all_claims(group)) as transaction:
            late = self._queued(GROUP_MAX_OPERATIONS - _size(group))
            if late:
                group += late
                transaction.look_up(_all_keys(late), _all_claims(late))
            wishes = [operation for request in group for operation in request.operations]
            quotas = self._quotas(wishes, transaction.counts)
            overlay = Overlay(transaction.head, transaction.now, transaction.routes, quotas)
            receipts = Receipts(transaction.receipts)
            answers = [(request, _attempt(request, overlay, receipts)) for request in group]
            if overlay.changes:
                transaction.append(overlay.changes, overlay.after)
            if overlay.traces:
                transaction.trace(overlay.traces)
            if receipts.made:
                transaction.keep(receipts.made)
        self._expects_changes = bool(overlay.changes)
        if overlay.changes:
            self._committed(overlay.head.revision)
        _tell(answers)

    def _quotas(
        self, operations: Iterable[Operation], counts: Callable[[Collection[str]], Mapping[str, int]]
    ) -> Mapping[str, Quota]:
        """Return the quotas of the tenants that may get a route more, with what they have: read only for those."""
        tenants = {operation.key.tenant for operation in operations if operation.creates}
        most = {name: most for name in tenants if (most := self._most_routes(name)) is not None}
        if not most:
            return {}
        used = counts(most)
        return {name: Quota(most[name], used[name]) for name in most}


def _attempt(request: _Request, overlay: Overlay, receipts: Receipts | None = None) -> Answer:
    """Return what *request* came to, with the head after it: what comes later in its group is not what it was
    decided on."""
    try:
        if request.claim is not None and receipts is not None:
            return _attempt_once(request, request.claim, overlay, receipts)
        outcomes = overlay.apply(request.operations, request.author, is_batch=request.is_batch)
    except TrafficManagerError as error:
        error.as_of = overlay.head.position
        return error
    except Exception as error:  # the caller's, who waits for it; others of the group go on
        return error
    return Written(overlay.head, outcomes)


def _attempt_once(request: _Request, claim: Claim, overlay: Overlay, receipts: Receipts) -> Written:
    """Return what *request* came to: now, or when it was done before."""
    done = receipts.look_up(claim, request.operations)
    if done is not None:
        return Written(*done, is_replay=True)
    outcomes = overlay.apply(request.operations, request.author, is_batch=request.is_batch)
    receipts.keep(claim, overlay.head, outcomes)
    return Written(overlay.head, outcomes)


def _answer_without_change(request: _Request, sighting: Sighting) -> Answer | None:
    if request.claim is not None:
        return None
    overlay = Overlay(sighting.head, 0, sighting.routes)
    answer = _attempt(request, overlay)
    return None if overlay.changes else answer


def _tell(answers: Sequence[tuple[_Request, Answer]]) -> None:
    """Answer on the event loop, all in one call: each call wakes it, which takes longer than an answer."""
    if answers:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            answers[0][0].loop.call_soon_threadsafe(_settle_all, answers)


def _settle_all(answers: Sequence[tuple[_Request, Answer]]) -> None:
    for request, answer in answers:
        request.settle(answer)


def _resolve(future: asyncio.Future[Written], answer: Answer) -> None:
    if future.done():  # its caller is going away
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _size(group: Sequence[_Request]) -> int:
    return sum(len(request.operations) for request in group)


def _all_keys(group: Sequence[_Request]) -> set[RouteKey]:
    return {operation.key for request in group for operation in request.operations}


def _all_claims(group: Sequence[_Request]) -> list[Claim]:
    return [request.claim for request in group if request.claim is not None]
