"""Keeps count of the events of one slice: which are unsent, in flight and acknowledged.

Never are two events of one key in flight. With two, the first could fail for good after the second was
delivered, and sending the first again would put it behind: old state over newer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from traffic_manager.events.envelope import Event
from traffic_manager.routing.model import Action, Trace


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event to send, with what the relay must know of its change."""

    revision: int
    action: Action
    event: Event
    trace: Trace | None = None


class Waves:
    """The events of the changes up to *upto*, handed out in waves. A wave holds the first unacknowledged
    event of each key; the next one begins when nothing is in flight."""

    def __init__(self, events: Iterable[Outgoing], upto: int) -> None:
        self._upto = upto
        self._queues: dict[bytes, deque[Outgoing]] = {}
        self._in_flight: dict[int, Outgoing] = {}
        # Revisions not acknowledged yet; a dict, because it keeps them in rising order.
        self._open: dict[int, None] = {}
        for outgoing in events:
            self._queues.setdefault(outgoing.event.key, deque()).append(outgoing)
            self._open[outgoing.revision] = None

    @property
    def in_flight(self) -> Sequence[Outgoing]:
        """The events handed out and neither acknowledged nor returned."""
        return tuple(self._in_flight.values())

    @property
    def acknowledged_upto(self) -> int:
        """The highest revision of which all events up to it are acknowledged: safe for a checkpoint."""
        return next(iter(self._open), self._upto + 1) - 1

    @property
    def is_complete(self) -> bool:
        """True if every event is acknowledged."""
        return not self._open

    def next_wave(self, size: int | None = None) -> list[Outgoing]:
        """Hand out the next events, at most *size*; none while some are in flight."""
        if self._in_flight:
            return []
        wave = [queue[0] for queue in islice(self._queues.values(), size)]
        self._in_flight = {outgoing.revision: outgoing for outgoing in wave}
        return wave

    def acknowledge(self, revision: int) -> Outgoing:
        """Take note that Kafka has the event of *revision* for good, or never will."""
        outgoing = self._in_flight.pop(revision)
        del self._open[revision]
        queue = self._queues[outgoing.event.key]
        queue.popleft()
        if not queue:
            del self._queues[outgoing.event.key]
        return outgoing

    def give_back(self, revision: int) -> Outgoing:
        """Take note that the event of *revision* was refused. It stays the first of its key, and its key
        comes last, so that an event which is always refused does not keep the others from their turn."""
        outgoing = self._in_flight.pop(revision)
        self._queues[outgoing.event.key] = self._queues.pop(outgoing.event.key)
        return outgoing

    def forget_flight(self) -> None:
        """Take note that nobody will report on what is in flight: it counts as unsent."""
        self._in_flight.clear()
