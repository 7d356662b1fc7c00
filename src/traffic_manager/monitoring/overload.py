"""What is refused when requests wait too long for their turn on the event loop: the dearest first, probes never.

Bounded by waiting time, not by the length of a queue. The wait is measured by how late a timer comes, as every
request does. A moment's delay is no overload: only one that stands for half a second is, as in CoDel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from traffic_manager.monitoring.label_values import Load
from traffic_manager.monitoring.metrics import Metrics

# Refuse a step more while requests wait longer than the first, a step less below the second, two below the third.
TOO_LATE_S = 0.1
_EASY_S = 0.05
_IDLE_S = 0.01
_TICK_S = 0.025
_CALM_TICK_S = 0.25  # ten looks cost an idle worker as much as it may need for all else
_WINDOW_S = 0.5
# Fewer looks are a pause, such as that of a start: what stands is seen again and again.
_LEAST_LOOKS = 4
# So many steps refuse all of a kind, each a part of it: to refuse all or nothing would swing between the two.
STEPS = 4

_ORDER = tuple(Load)
# Of the last kind, resolves that memory can answer, only the first step: a refusal costs half of an answer.
MOST = STEPS * (len(_ORDER) - 1) + 1


class Overload:
    """How much one worker has to refuse. Belongs to its event loop. *clock*: monotonic seconds."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = monotonic) -> None:
        self._counts = [metrics.tm_shed_total.labels(load) for load in _ORDER]
        self._clock = clock
        self.level = 0  # so many steps, kind by kind in their order
        self.refuses_resolves = False  # the last of them, for the lane
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
            tick_s = _CALM_TICK_S if late_s < _IDLE_S and self.level == 0 else _TICK_S

    def saw(self, late_s: float) -> None:
        """Take note that a timer was so late."""
        now = self._clock()
        self._least_s = min(self._least_s, late_s)
        self._looks += 1
        if now - self._began < _WINDOW_S or self._looks < _LEAST_LOOKS:
            return
        self.standing_s = max(0.0, self._least_s)
        self.level = max(0, min(MOST, self.level + _steps(self.standing_s)))
        self.refuses_resolves = self.level == MOST
        self._least_s, self._looks, self._began = float("inf"), 0, now

    def refuses(self, load: Load) -> bool:
        """Return whether to refuse a request of this kind, and count it then."""
        position = _ORDER.index(load)
        steps = self.level - STEPS * position
        if steps <= 0:
            return False
        self._turn = (self._turn + 1) % STEPS
        if self._turn >= steps:
            return False
        self._counts[position].inc()
        return True


def _steps(standing_s: float) -> int:
    """Return by how many steps to refuse more."""
    if standing_s > TOO_LATE_S:
        return 1
    if standing_s < _IDLE_S:
        return -2
    return -1 if standing_s < _EASY_S else 0
