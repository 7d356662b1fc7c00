"""How long everything waits for its turn on the event loop, and whether that is overload.

Measured by how late a timer comes, as every request does. A moment's delay is no overload: only one that stands for
half a second is, as in CoDel. Then even resolves that memory can answer are refused, a part of them, and all else:
`api/turns.py` sees to it that the others alone never get that far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from traffic_manager.monitoring.label_values import Load
from traffic_manager.monitoring.metrics import Metrics

TOO_LATE_S = 0.1
_EASY_S = 0.05
_IDLE_S = 0.01
_TICK_S = 0.025
_CALM_TICK_S = 0.25  # ten looks cost an idle worker as much as it may need for all else
_WINDOW_S = 0.5
# Fewer looks are a pause, such as that of a start: what stands is seen again and again.
_LEAST_LOOKS = 4
# Of resolves that memory can answer, one in so many: a refusal costs half of an answer.
ONE_IN = 4


class Overload:
    """How late one worker is. Belongs to its event loop. *clock*: monotonic seconds."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = monotonic) -> None:
        self._count = metrics.tm_shed_total.labels(Load.RESOLVES).inc
        self._clock = clock
        self.stands = False
        self.standing_s = 0.0  # what every request of the last half second has waited
        self._least_s = float("inf")
        self._looks = 0
        self._began = clock()
        self._turn = 0

    async def watch(self) -> None:
        """Measure until cancelled."""
        tick_s = _TICK_S
        while True:
            due = self._clock() + tick_s
            await asyncio.sleep(tick_s)
            late_s = self._clock() - due
            self.saw(late_s)
            tick_s = _CALM_TICK_S if late_s < _IDLE_S and not self.stands else _TICK_S

    def saw(self, late_s: float) -> None:
        """Take note that a timer was so late."""
        now = self._clock()
        self._least_s = min(self._least_s, late_s)
        self._looks += 1
        if now - self._began < _WINDOW_S or self._looks < _LEAST_LOOKS:
            return
        self.standing_s = max(0.0, self._least_s)
        self.stands = self.standing_s > (_EASY_S if self.stands else TOO_LATE_S)
        self._least_s, self._looks, self._began = float("inf"), 0, now

    def refuses_resolve(self) -> bool:
        """Return whether to refuse a resolve that memory can answer, and count it then. Asked while it stands."""
        self._turn = (self._turn + 1) % ONE_IN
        if self._turn:
            return False
        self._count()
        return True
