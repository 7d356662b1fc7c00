"""Leaves a database that is away alone: calls fail at once until it has been reached again, and it is dialled seldom.

Without it each call would wait its time out, and hold the thread that it runs on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from time import monotonic

from traffic_manager.errors import SourceUnavailable

# So many failures, with no success since the first of those calls began, open it.
FAILURES_TO_OPEN = 5
# While open, one call is let through this often, give or take a third: workers must not ask in step.
PROBE_EVERY_S = 2.0
_JITTER = 0.3
# So many connections are tried at the same time in good health: the pool's and the follower's.
_FREE_DIALS = 4
# Beyond them, one is tried this often, give or take a fifth. Who starts without the database must be ready 2 s
# after it, and its follower may look half a second later.
_DIAL_EVERY_S = 1.1
_DIAL_JITTER = 0.2


class Breaker:
    """Of one database in one process, for all its threads. *clock*: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._reached_at = clock()
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        """True while calls fail at once."""
        return self._failures >= FAILURES_TO_OPEN

    @property
    def reached_at(self) -> float:
        """When the database was last heard of, on the clock; at first the beginning."""
        return self._reached_at

    def check(self) -> float:
        """Return the time now, for `failed`. Raises SourceUnavailable while open, but to one caller now and then,
        who finds out whether the database is back."""
        now = self._clock()
        if self.is_open:
            with self._lock:
                if now < self._probe_at:
                    raise SourceUnavailable
                self._rest(now)
        return now

    def succeeded(self) -> None:
        """Take note that the database has answered somebody, be it that his statement was wrong."""
        self._reached_at = self._clock()
        if self._failures:
            with self._lock:
                self._failures = 0

    def failed(self, began: float) -> None:
        """Take note that a call begun at *began* was not answered. If others were answered since, then it was the
        call, not the database: a slow list says nothing of those who ask for less."""
        with self._lock:
            if began >= self._reached_at:
                self._failures += 1
                if self._failures == FAILURES_TO_OPEN:
                    self._rest(self._clock())

    def _rest(self, now: float) -> None:
        self._probe_at = now + _around(PROBE_EVERY_S, _JITTER)


class Dialling:
    """When a new connection may be tried: at once as long as they come up, else once a second or so, whoever asks."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._unanswered = 0
        self._due_at = 0.0

    def begin(self) -> None:
        """Take note that a connection is tried. Raises SourceUnavailable if it must not be yet."""
        with self._lock:
            now = self._clock()
            if self._unanswered >= _FREE_DIALS:
                if now < self._due_at:
                    raise SourceUnavailable
                self._due_at = now + _around(_DIAL_EVERY_S, _DIAL_JITTER)
            self._unanswered += 1

    def came_up(self) -> None:
        """Take note that one was made."""
        with self._lock:
            self._unanswered = 0
            self._due_at = 0.0


def _around(seconds: float, jitter: float) -> float:
    return seconds * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311 no secret
