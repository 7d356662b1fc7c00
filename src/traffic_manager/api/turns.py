"""Whose turn it is at a worker, of the requests that memory cannot answer at once.

In each round of the event loop a few of them begin, the most important kind first, so that rounds stay short and what
memory can answer, and probes, wait for one of them at most. The others wait here, where how long they wait is known:
none begins that has waited too long, and while they wait too long no more are taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import NamedTuple

from traffic_manager.monitoring.label_values import Load
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import Overload

# Nobody waits longer than both. Few rounds that took long are no queue but a pause, of the machine or of Python.
PATIENCE_S = 0.1
PATIENCE_ROUNDS = 8
# Who comes while the first of its kind has waited for this part of that would wait too long: it is told so at once.
_HOPELESS = 0.5
# Of 0.3 ms of the loop each. An answer takes several rounds, so that long rounds make late answers.
AT_ONCE = 8
_ORDER = (Load.MISSES, Load.WRITES, Load.LISTS)


class _Waiting(NamedTuple):
    """A request, since when it waits, and what is called in the end, one of the two."""

    since: float
    since_round: int
    begin: Callable[[], None]
    refuse: Callable[[], None]


class _Line:
    """The requests of one kind that wait. *is_shut*: the last whose wait ended had waited too long, so that one at a
    time is taken, to see whether that is still so."""

    def __init__(self, count: Callable[[], None]) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.is_shut = False
        self.count = count


class Turns:
    """The turns of one worker, so many in a round of its event loop, to which it belongs. While *overload* stands,
    nobody has one."""

    def __init__(self, metrics: Metrics, overload: Overload, clock: Callable[[], float] = monotonic) -> None:
        self._lines = {load: _Line(metrics.tm_shed_total.labels(load).inc) for load in _ORDER}
        self._overload = overload
        self._clock = clock
        self._at_once = AT_ONCE
        self._rounds = 0
        self._begun = 0  # in this round
        self._is_due = False  # a round's end is awaited
        self._waiting = 0
        self._context = Context()  # what begins here is no part of what has ended before it

    @property
    def may_refuse(self) -> bool:
        """False in good times: then `refuses` is False for all."""
        return self._waiting > 0 or self._overload.stands

    def refuses(self, load: Load) -> bool:
        """Return whether to refuse a request of this kind before anything is done for it, and count it then."""
        line = self._lines[load]
        if not (self._overload.stands or self._is_full(line)):
            return False
        line.count()
        return True

    def take(self, load: Load, begin: Callable[[], None], refuse: Callable[[], None]) -> None:
        """Call *begin* when it is the turn of this request: at once, in good times. Calls *refuse* when that takes
        too long."""
        self._arm()
        line = self._lines[load]
        if self._begun < self._at_once and not self._waiting:
            self._begin(line, begin)
        else:
            self._waiting += 1
            line.waiting.append(_Waiting(self._clock(), self._rounds, begin, refuse))

    def _arm(self) -> None:
        """See to it that there is another round."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next_round, context=self._context)

    def _begin(self, line: _Line, begin: Callable[[], None]) -> None:
        self._begun += 1
        line.is_shut = False
        begin()

    def _next_round(self) -> None:
        self._rounds += 1
        self._begun, self._is_due = 0, False
        if not self._waiting:
            return
        self._arm()  # before anybody is called, who may let another wait, or fail
        for line in self._lines.values():
            self._refuse_late(line)
            while line.waiting and self._begun < self._at_once:
                self._waiting -= 1
                self._begin(line, line.waiting.popleft().begin)

    def _refuse_late(self, line: _Line) -> None:
        while line.waiting and self._has_waited(line.waiting[0], 1.0):
            line.is_shut = True
            line.count()
            self._waiting -= 1
            line.waiting.popleft().refuse()

    def _is_full(self, line: _Line) -> bool:
        return bool(line.waiting) and (line.is_shut or self._has_waited(line.waiting[0], _HOPELESS))

    def _has_waited(self, waiting: _Waiting, share: float) -> bool:
        """Return whether it has waited for more than that share of what it may."""
        rounds = self._rounds - waiting.since_round
        return rounds > share * PATIENCE_ROUNDS and self._clock() - waiting.since > share * PATIENCE_S
