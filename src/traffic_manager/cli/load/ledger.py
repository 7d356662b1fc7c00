"""What came of a load."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Self

from traffic_manager.cli.load.histogram import Histogram

RESOLVE, CHANGE, WATCH, SEEN = "resolve", "change", "watch", "change seen"
ANSWERED = "200"
NEVER_SENT = "never sent"
SLICES = 60
# The generator's own delays are too small to matter below this, or below this part of what it measures.
_NO_MATTER_US = 1000
_SMALL_PART = 0.25
_ENOUGH_BEGUN = 0.99
# Of a core: beyond this, answers wait for the generator to look at them.
_BUSY = 0.85


class Ledger:
    """How long each kind of request took, from when it was due, by *outcome*: a status, or why there is none. Times
    are seconds of the monotonic clock; what was due before *begin_s* is left out."""

    def __init__(self, duration_s: float) -> None:
        self.begin_s = math.inf
        self.end_s = math.inf
        self._planned_s = duration_s
        self.outcomes: dict[tuple[str, str], Histogram] = defaultdict(Histogram)
        self.resolves: dict[int, Histogram] = defaultdict(Histogram)
        self.lateness = Histogram()
        self.waited = 0
        self.busy: list[float] = []
        self.watching = 0

    def begin(self, at_s: float) -> None:
        """Measure from *at_s* on, for as long as was planned."""
        self.begin_s, self.end_s = round(at_s, 6), round(at_s + self._planned_s, 6)

    def end(self, now_s: float) -> None:
        """Measure no longer."""
        self.end_s = max(self.begin_s, min(self.end_s, now_s))

    def begun(self, due_s: float, now_s: float, *, waits: bool) -> None:
        """Take in that a request that was due was handed out, and whether it has to wait for a connection."""
        if self._counts(due_s):
            self.lateness.add(round((now_s - due_s) * 1e6))
            self.waited += waits

    def ended(self, kind: str, outcome: str, due_s: float, now_s: float) -> None:
        """Take in what became of a request."""
        if not self._counts(due_s):
            return
        took_us = round((now_s - due_s) * 1e6)
        self.outcomes[kind, outcome].add(took_us)
        if kind == RESOLVE:
            self.resolves[int((due_s - self.begin_s) / self.slice_s)].add(took_us)

    def merge(self, other: Ledger) -> None:
        """Take in what another process did at the same time."""
        for key, histogram in other.outcomes.items():
            self.outcomes[key].merge(histogram)
        for number, histogram in other.resolves.items():
            self.resolves[number].merge(histogram)
        self.lateness.merge(other.lateness)
        self.waited += other.waited
        self.busy += other.busy
        self.watching += other.watching

    @classmethod
    def of(cls, ledgers: Iterable[Self]) -> Self:
        """Return all of them as one."""
        first, *others = ledgers
        for other in others:
            first.merge(other)
        return first

    @property
    def duration_s(self) -> float:
        """How long was measured: as planned, unless it was interrupted."""
        return 0.0 if math.isinf(self.begin_s) else self.end_s - self.begin_s

    @property
    def slice_s(self) -> float:
        """The time of one of `resolves`."""
        return self._planned_s / SLICES

    def count(self, kind: str, outcome: str = ANSWERED) -> int:
        """Return how many ended so."""
        found = self.outcomes.get((kind, outcome))
        return found.count if found else 0

    @property
    def unseen(self) -> int:
        """How often a change was acknowledged and did not reach a watcher."""
        return max(0, self.count(CHANGE) * self.watching - self.count(SEEN))

    def kept_up(self, asked: float) -> bool:
        """Return whether the generator did the *asked* requests when they were due: otherwise what it measured is its
        own slowness, too."""
        late_us = self.lateness.percentile_us(99) or 0
        took_us = min(
            (self.outcomes[kind, ANSWERED].percentile_us(99) or 0 for kind in self._measured()), default=0
        )
        is_prompt = late_us <= max(_NO_MATTER_US, _SMALL_PART * took_us)
        has_time = max(self.busy, default=0.0) <= _BUSY
        return is_prompt and has_time and self.lateness.count >= int(_ENOUGH_BEGUN * asked)

    def _measured(self) -> list[str]:
        return [kind for kind in (RESOLVE, CHANGE) if self.count(kind)]

    def _counts(self, due_s: float) -> bool:
        # To the microsecond, as watchers know it.
        return self.begin_s <= round(due_s, 6) < self.end_s
