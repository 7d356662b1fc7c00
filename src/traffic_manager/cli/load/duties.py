"""When requests are due: at constant intervals, whether or not those before were answered."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence

# After so many the loop looks at the answers first, however late the others are.
_AT_ONCE = 500
_SOONEST_S = 1e-6


class Duty:
    """Something to *begin*, *rate* times a second: it is told when it was due and what time it is."""

    def __init__(self, rate: float, first_due: float, begin: Callable[[float, float], None]) -> None:
        self._interval_s = 1 / rate
        self._begin = begin
        self._done = 0
        self._first_due = first_due
        self._start_s = 0.0

    def start(self, now_s: float) -> None:
        """Count from *now_s*."""
        self._start_s = now_s

    @property
    def due_s(self) -> float:
        """When it is due next."""
        return self._start_s + (self._done + self._first_due) * self._interval_s

    def catch_up(self, now_s: float, end_s: float) -> None:
        """Begin what is due by *now_s*, but nothing that is due at *end_s* or after."""
        for _ in range(_AT_ONCE):
            due_s = self.due_s
            if due_s > now_s or due_s >= end_s:
                return
            self._done += 1
            self._begin(due_s, now_s)


class Clockwork:
    """Begins each duty when it is due, until *end_s*.

    It is woken by the process's interval timer: the event loop's own timers know whole milliseconds only, which is
    longer than a resolve takes.
    """

    def __init__(self, duties: Sequence[Duty]) -> None:
        self._duties = duties
        self._loop = asyncio.get_running_loop()
        self._end_s = 0.0
        self._is_over: asyncio.Future[None] = self._loop.create_future()

    async def run(self, begin_s: float, end_s: float) -> None:
        """Begin what is due from *begin_s* on; return when nothing more is. Needs the main thread."""
        self._end_s = end_s
        for duty in self._duties:
            duty.start(begin_s)
        self._loop.add_signal_handler(signal.SIGALRM, self._act)
        self._act()
        await self._is_over

    def stop(self) -> None:
        """Begin nothing any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not self._is_over.done():
            self._is_over.set_result(None)

    def _act(self) -> None:
        now_s = time.monotonic()
        for duty in self._duties:
            duty.catch_up(now_s, self._end_s)
        next_s = min((duty.due_s for duty in self._duties), default=self._end_s)
        if next_s >= self._end_s:
            self.stop()
        elif not self._is_over.done():
            signal.setitimer(signal.ITIMER_REAL, max(next_s - time.monotonic(), _SOONEST_S))
