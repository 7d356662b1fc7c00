"""What a run has left behind, and how to look at it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from tests.faults.resources import Used, used_by
from tests.faults.stand import Stand
from tests.promises import history
from tests.promises.history import History
from tests.promises.ledger import Exchange, Kind, Ledger
from tests.promises.topic import Told

_SETTLED_S = 10.0
# What is measured in every run: which part of all processors others have used meanwhile.
OTHERS_SHARE = "others' share of the machine"
_MOST_OF_OTHERS = 0.15
_DRAINED_S = 30.0


@dataclass(frozen=True)
class Times:
    """When the phases began and ended, in monotonic nanoseconds. Breaking lasts from *breaks_ns* to *broken_ns*,
    healing from *heals_ns* to *healed_ns*."""

    began_ns: int
    breaks_ns: int
    broken_ns: int
    heals_ns: int
    healed_ns: int
    ended_ns: int


@dataclass(frozen=True)
class Evidence:
    """All that one run shows. *published_revision*: None where nobody publishes. *excess*: what the nodes still held
    too much of ten seconds after the recovery. *findings*: what the fault itself found wrong. *measured*: what it
    counted for the criteria."""

    times: Times
    ledger: Ledger
    log: History
    told: Sequence[Told]
    published_revision: int | None
    excess: Sequence[str]
    findings: Sequence[str]
    measured: Mapping[str, float]

    @property
    def tells_of_latency(self) -> bool:
        """Whether the machine was ours, so that the time that an answer took was the servers'."""
        return self.measured.get(OTHERS_SHARE, 0.0) <= _MOST_OF_OTHERS

    def base(self, *kinds: Kind) -> list[Exchange]:
        """The requests that were due and answered before anything broke."""
        return [
            e
            for e in self._of(kinds)
            if e.due_ns >= self.times.began_ns and e.ended_ns < self.times.breaks_ns
        ]

    def broken(self, *kinds: Kind, after_s: float = 0.0) -> list[Exchange]:
        """The requests that were due while it was broken, from *after_s* seconds on, and answered before it was
        healed."""
        start = self.times.broken_ns + after_s * 1e9
        return [e for e in self._of(kinds) if start <= e.due_ns and e.ended_ns < self.times.heals_ns]

    def since_broken(self, *kinds: Kind) -> list[Exchange]:
        """The requests that were due from the moment on when breaking began."""
        return [e for e in self._of(kinds) if e.ended_ns >= self.times.breaks_ns]

    def since_healed(self, *kinds: Kind) -> list[Exchange]:
        """The requests that were due after the healing."""
        return [e for e in self._of(kinds) if e.due_ns >= self.times.healed_ns]

    def series(self, name: str) -> list[float]:
        """Return what was measured as `name/number`, the smallest first."""
        return sorted(value for key, value in self.measured.items() if key.startswith(f"{name}/"))

    @property
    def recovered_after_s(self) -> float:
        """Seconds from the healing until the last request that failed or was answered with a flag."""
        troubled = (e.ended_ns for e in self.ledger.exchanges if e.has_failed or e.is_flagged)
        return max(0.0, (max(troubled, default=0) - self.times.healed_ns) / 1e9)

    def _of(self, kinds: Sequence[Kind]) -> Iterable[Exchange]:
        return (e for e in self.ledger.exchanges if e.kind in kinds)


def gathered(stand: Stand, times: Times, ledger: Ledger, before: Used) -> Evidence:
    """Return the evidence of a run that is over, while its nodes still run."""
    excess = _excess(stand, before, times.healed_ns / 1e9 + _SETTLED_S)
    published, told, log = _published_told_and_logged(stand)
    ledger.add(stand.ledger)
    return Evidence(times, ledger, log, told, published, excess, stand.findings, stand.measured)


def p99_s(exchanges: Sequence[Exchange]) -> float:
    """The time that 99 in 100 of *exchanges* took at most; 0 of none."""
    took = sorted(exchange.took_s for exchange in exchanges)
    return took[math.ceil(len(took) * 0.99) - 1] if took else 0.0


def _excess(stand: Stand, before: Used, deadline_s: float) -> list[str]:
    while excess := used_by(stand).excess_over(before):
        if time.monotonic() > deadline_s:
            return excess
        time.sleep(0.2)
    return []


def _published_told_and_logged(stand: Stand) -> tuple[int, Sequence[Told], History]:
    """Return how far the events are published, what the topic has, and the log: all as of one revision, for a write
    that its client has given up may be committed while we read; or as they are, if it does not come to that."""
    deadline_s = time.monotonic() + _DRAINED_S
    while True:
        published = _published(stand)
        told = _told(stand, published)
        log = reduce(History.followed_by, [*stand.forgotten, history.of_postgres(stand.conninfo)])
        if published == len(log.changes) or time.monotonic() > deadline_s:
            return published, told, log


def _published(stand: Stand) -> int:
    """Return how far the events are published, once that is the whole log; or how far they came."""
    head = int(stand.ask_database("select max(revision) from changes") or 0)
    deadline_s = time.monotonic() + _DRAINED_S
    while (published := _checkpoint(stand)) < head and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return published


def _checkpoint(stand: Stand) -> int:
    return int(stand.ask_database("select published_revision from leases where name = 'relay'") or 0)


def _told(stand: Stand, published: int) -> Sequence[Told]:
    deadline_s = time.monotonic() + _DRAINED_S
    while len({told.revision for told in stand.topic.read()}) < published and time.monotonic() < deadline_s:
        pass
    return stand.topic.events
