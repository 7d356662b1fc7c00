"""Follows the log of changes into the mirror, in order, on one thread; says how fresh the mirror is.

The thread reads, the event loop applies: slices are handed over whole, so a reader on the loop sees all of a
batch or none. Polls at once after a commit of this worker or a hint of another's, and from time to time whatever
happens.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import NamedTuple, Protocol

import structlog

from traffic_manager.errors import RevisionGap, SourceUnavailable, StartRefused
from traffic_manager.routing.bell import Bell
from traffic_manager.routing.hints import Hints
from traffic_manager.routing.mirror import WINDOW_CHANGES, Mirror
from traffic_manager.routing.ports import (
    ChangeFeed,
    Head,
    Keyring,
    Limit,
    LimitKeeper,
    Pulse,
    Slice,
    StoredKey,
    Table,
)
from traffic_manager.routing.watchers import Watchers

# A slice must hold the largest batch (1,000); 100,000 changes were caught up in 0.3 s in slices of 2,000.
SLICE_CHANGES = 2000
# Answers from memory are flagged once the source was last seen longer ago than this.
FRESH_S = 1.0
_RETRY_FIRST_S = 0.1
_RETRY_MOST_S = 0.5
_STOP_S = 3.0

log = structlog.get_logger(__name__)


class FollowerEvents(Protocol):
    """What the follower reports: counters, never control flow."""

    def polled(self, ok: bool) -> None:
        """A poll ended."""

    def gap(self) -> None:
        """The log missed a revision."""

    def fork(self) -> None:
        """The database went on with another history."""

    def hinted(self, are_trusted: bool) -> None:
        """From now on hints of changes are trusted, or not."""

    def hint_missed(self) -> None:
        """A change came that no hint had announced."""


class Beside(NamedTuple):
    """What is followed beside routes: the API keys and the limits; None: as they were."""

    keys: Sequence[StoredKey] | None = None
    limits: Sequence[Limit] | None = None


class _Waiter:
    """Who is told when a revision has been applied."""

    __slots__ = ("clock", "revision", "told")

    def __init__(self, revision: int, told: Callable[[], object]) -> None:
        self.revision = revision
        self.told = told
        self.clock: asyncio.TimerHandle | None = None


class Follower:
    """Keeps *mirror*, *keyring* (None: nobody is asked for a key) and *limits* (None: they are of no interest) at the
    head of *feed*, and tells *watchers* of what it applied. *at_head*: when a mirror that is loaded already was at
    the head, on the monotonic clock."""

    def __init__(
        self,
        feed: ChangeFeed,
        mirror: Mirror,
        events: FollowerEvents,
        watchers: Watchers,
        keyring: Keyring | None = None,
        limits: LimitKeeper | None = None,
        *,
        at_head: float | None = None,
    ) -> None:
        self._feed = feed
        self._mirror = mirror
        self._watchers = watchers
        self._keyring = keyring
        self._limits = limits
        self._events = events
        self._bell = Bell()
        self._woken_for = 0
        self._hints = Hints(events.hinted)
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[_Waiter, None] = {}
        self._is_failing = False
        self._epoch_to_leave: str | None = None
        self._number_to_pass = 0
        # Monotonic time at which the last poll began that left the mirror at the head.
        self._at_head = at_head
        self._has_beside = False
        self.head_revision = 0
        self.refusal: StartRefused | None = None
        self.synchronised = asyncio.Event()

    def start(self) -> None:
        """Begin to follow; call on the event loop that reads the mirror."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Waits for the poll under way, but not for long: a table is read for up to a minute
        when the database hangs, and the thread holds nothing that must be put away."""
        self._is_stopping = True
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def recall(self, table: Table, beside: Beside, at_head: float) -> None:
        """Begin with a table that was kept since *at_head*, a time on the monotonic clock, and go on from there."""
        self._load(table, beside, is_fork=False)
        self._at_head = at_head

    def catch_up(self) -> bool:
        """Follow the log to its head now, on this thread: for a process that has no event loop. Return False if the
        source could not be read."""
        return self._try_to_catch_up()

    @property
    def at_head(self) -> float | None:
        """When the last poll began that left the mirror at the head, on the monotonic clock."""
        return self._at_head

    def wake(self, revision: int = 0) -> None:
        """Poll now, because there is a change: *revision*, if it is known. From any thread."""
        self._woken_for = revision
        self._bell.ring()

    def staleness_s(self) -> float | None:
        """Return for how long the mirror has not been known to be at the head; None before it ever was."""
        return None if self._at_head is None else monotonic() - self._at_head

    def stale_age_s(self) -> int | None:
        """Return the age to flag answers from memory with, None while they are fresh."""
        if self._at_head is None:
            return 0
        staleness = monotonic() - self._at_head
        return int(staleness) if staleness > FRESH_S else None

    async def reached(self, revision: int, timeout_s: float) -> bool:
        """Wait until the mirror has applied *revision*. False if it has not in time."""
        if self._mirror.applied >= revision:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = self.tell(revision, timeout_s, partial(_finish, future))
        try:
            await future
        finally:
            if waiter is not None:
                self._forget(waiter)
        return self._mirror.applied >= revision

    def tell(self, revision: int, timeout_s: float, told: Callable[[], object]) -> _Waiter | None:
        """Call *told* when the mirror has applied *revision*, at once if it has already, or when time is up. On the
        event loop. Return what waits, None if nothing has to."""
        if self._mirror.applied >= revision:
            told()
            return None
        waiter = _Waiter(revision, told)
        waiter.clock = asyncio.get_running_loop().call_later(timeout_s, self._let_one_go, waiter)
        self._waiting[waiter] = None
        if revision > self._woken_for:  # else whoever made it has rung, and each of a group would poll again
            self._bell.ring()
        return waiter

    def _let_one_go(self, waiter: _Waiter) -> None:
        self._forget(waiter)
        waiter.told()

    def _forget(self, waiter: _Waiter) -> None:
        # A log that stands still would keep those who gave up for ever.
        self._waiting.pop(waiter, None)
        if waiter.clock is not None:
            waiter.clock.cancel()

    def _run(self) -> None:
        retry_s = _RETRY_FIRST_S
        is_asked = True
        while not self._is_stopping:
            before = self._mirror.applied
            is_ok = self._try_to_catch_up()
            self._settle_for_what_is_there()
            if self._mirror.applied > before and not is_asked:
                self._hints.found(self.head_revision)
            self._look_after_hints()
            retry_s = _RETRY_FIRST_S if is_ok else min(_RETRY_MOST_S, retry_s * 2)
            # Full jitter, so that workers do not come back to a struggling database in step.
            pause_s = self._hints.poll_s if is_ok else random.uniform(0.02, retry_s)  # noqa: S311 no secret
            # Who could not be reached could not be listened to either.
            is_asked = self._rest(pause_s) or not is_ok
        self._feed.close()
        self._bell.close()

    def _settle_for_what_is_there(self) -> None:
        """Let a mirror that was loaded before we began be good enough once we have asked what is new, even in
        vain: without its database a worker goes on from memory."""
        if self._mirror.head is not None and not self.synchronised.is_set():
            self._on_loop(self.synchronised.set)

    def _look_after_hints(self) -> None:
        if not self._hints.check():
            self._events.hint_missed()
            log.warning("hint_missed", revision=self.head_revision)
        if self._hints.is_probe_due():
            with suppress(SourceUnavailable):
                self._feed.probe()

    def _rest(self, pause_s: float) -> bool:
        """Wait *pause_s*, or until there is something to poll for; return whether there is."""
        until = monotonic() + pause_s
        while not self._is_stopping:
            left_s = max(0.0, until - monotonic())
            try:
                hints = self._feed.wait(self._bell.fileno(), left_s)
            except SourceUnavailable:
                return True
            self._hints.heard(hints)
            if self._bell.take() or max(hints, default=0) > self._mirror.applied:
                return True
            if left_s == 0:
                return False
        return True

    def _try_to_catch_up(self) -> bool:
        """Return False if the source could not be read; never raises, for this thread must not end."""
        try:
            self._catch_up()
        except StartRefused as refusal:
            self.refusal = self.refusal or refusal
            self._on_loop(self.synchronised.set)
            return self._report(refusal, "table_refused")
        except RevisionGap as gap:
            self._events.gap()
            log.error("revision_gap", expected=gap.expected, found=gap.found)
            return self._report(self._reload_safely() or gap)
        except Exception as error:  # a bug; but a follower that ended would go stale for ever
            return self._report(error)
        self._events.polled(True)
        if self._is_failing:
            log.info("source_reached_again", revision=self.head_revision)
        self._is_failing = False
        return True

    def _report(self, error: Exception, event: str = "source_lost") -> bool:
        self._events.polled(False)
        if not self._is_failing:
            is_bug = not isinstance(error, SourceUnavailable | StartRefused | RevisionGap)
            log.warning(event, reason=str(error), cause=_first_line(error.__cause__), exc_info=is_bug)
        self._is_failing = True
        return False

    def _catch_up(self) -> None:
        began = monotonic()
        if self._mirror.head is None or self._mirror.may_become_complete:
            self._reload()
        elif not self._has_beside:
            self._on_loop(partial(self._load_beside, self._read_beside()))
            self._has_beside = True
        pulse = self._feed.pulse(self._mirror.applied, SLICE_CHANGES)
        is_fork = self._is_fork(pulse)
        self._leave_epoch(pulse.head if is_fork else None)
        if is_fork or pulse.chain is None:  # or compacted beyond what is applied
            self._reload(is_fork=is_fork)
            pulse = self._feed.pulse(self._mirror.applied, SLICE_CHANGES)
        self.head_revision = pulse.head.revision
        changes = pulse.changes
        while changes is not None and not self._is_stopping:
            # Read after the slice: as new as its changes, or newer.
            beside = self._read_beside(has_keys=changes.has_keys, has_limits=changes.has_limits)
            self._on_loop(partial(self._apply, changes, beside))
            if self._mirror.applied >= self.head_revision:
                break
            changes = self._feed.slice(self._mirror.applied, SLICE_CHANGES)
        if self._mirror.applied >= self.head_revision:
            self._at_head = began

    def _is_fork(self, pulse: Pulse) -> bool:
        """Return whether the database has another past than the mirror: restored, swapped or failed over."""
        known = self._mirror.head
        if known is None:
            return False
        return not (
            known.epoch == pulse.head.epoch
            and pulse.head.revision >= self._mirror.applied
            and pulse.chain in (None, self._mirror.chain)
        )

    def _leave_epoch(self, forked: Head | None) -> None:
        """Give a history that forked another epoch, or one that could not be given it before: else tokens, cached
        entries and events of the lost branch would count in the new one. Its own will do only if it is later than
        the one we knew, which a copy from before an earlier fork has not."""
        known = self._mirror.head
        if forked is not None and known is not None and forked.epoch_number <= known.epoch_number:
            self._epoch_to_leave, self._number_to_pass = forked.epoch, known.epoch_number
        if self._epoch_to_leave is None:
            return
        try:
            self._feed.leave_epoch(self._epoch_to_leave, self._number_to_pass)
        except SourceUnavailable as error:  # a replica that is still read-only, for example
            log.error("epoch_not_changed", epoch=self._epoch_to_leave, reason=str(error))
        else:
            log.warning("epoch_changed", left=self._epoch_to_leave)
            self._epoch_to_leave = None

    def _reload(self, *, is_fork: bool = False) -> None:
        table = self._feed.table(self._mirror.max_routes, WINDOW_CHANGES)
        if is_fork:
            self._events.fork()
            log.error("history_fork", applied=self._mirror.applied, head=table.head.revision)
        beside = self._read_beside()
        self._on_loop(lambda: self._load(table, beside, is_fork))
        self._has_beside = True

    def _read_beside(self, *, has_keys: bool = True, has_limits: bool = True) -> Beside:
        return Beside(
            self._feed.keys() if has_keys and self._keyring is not None else None,
            self._feed.limits() if has_limits and self._limits is not None else None,
        )

    def _reload_safely(self) -> Exception | None:
        try:
            self._reload()
        except Exception as error:
            return error
        return None

    def _on_loop(self, work: Callable[[], None]) -> None:
        """Run *work* on the event loop, if there is one, and wait for it. Raises what it raises."""
        loop = self._loop
        if loop is None:
            work()
            return
        done = threading.Event()
        failures: list[Exception] = []

        def run() -> None:
            try:
                work()
            except Exception as error:
                failures.append(error)
            finally:
                done.set()

        with suppress(RuntimeError):  # the loop has closed: we are stopping
            loop.call_soon_threadsafe(run)
            while not done.wait(1.0) and not self._is_stopping:
                pass
        if failures:  # else the same slice would be read again at once, and for ever
            raise failures[0]

    def _load(self, table: Table, beside: Beside, is_fork: bool) -> None:
        self._load_beside(beside)
        self._mirror.load(table, is_other_history=is_fork)
        self.synchronised.set()
        self._let_go()
        self._watchers.reloaded(table.head, is_other_history=is_fork)
        log.info(
            "synchronised",
            revision=table.head.revision,
            routes=len(self._mirror),
            is_complete=self._mirror.is_complete,
        )
        if table.beyond:
            self._warn_of_limit()

    def _load_beside(self, beside: Beside) -> None:
        if self._keyring is not None and beside.keys is not None:
            self._keyring.load(beside.keys)
            self._watchers.check()
        if self._limits is not None and beside.limits is not None:
            self._limits.load(beside.limits)

    def _apply(self, changes: Slice, beside: Beside) -> None:
        # These first: whoever waits for the revision of a revocation finds it in force.
        self._load_beside(beside)
        head = self._mirror.head
        assert head is not None  # noqa: S101 slices come after a table
        was_complete = self._mirror.is_complete
        self._mirror.apply(changes)
        self._mirror.head = Head(head.epoch, head.epoch_number, changes.upto)
        if was_complete and not self._mirror.is_complete:
            self._warn_of_limit()
        self._watchers.applied(changes)
        self._let_go()

    def _warn_of_limit(self) -> None:
        log.warning(
            "mirror_bounded",
            reason="more active routes than MIRROR_MAX_ROUTES: others are read from Redis and the database",
            limit=self._mirror.max_routes,
            active_routes=self._mirror.active_routes,
        )

    def _let_go(self) -> None:
        for waiter in [waiter for waiter in self._waiting if waiter.revision <= self._mirror.applied]:
            self._let_one_go(waiter)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():  # else its task is being cancelled
        future.set_result(None)


def _first_line(cause: BaseException | None) -> str | None:
    """Return what the driver said, for whoever has to repair it; drivers name hosts and roles, not secrets."""
    return str(cause).strip().partition("\n")[0] if cause else None
