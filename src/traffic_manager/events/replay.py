"""Sends events again that were sent before, or set aside: `traffic-manager relay replay`, and `relay retell`.

Beside the relay and without its lease. Consumers keep the newest event of each route (docs/events.md), so what comes
again late changes nothing for them, and what they missed comes at last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from traffic_manager.errors import StartRefused
from traffic_manager.events.audience import ASKED, Audience
from traffic_manager.events.delivery import EventProducer, KafkaUnavailable
from traffic_manager.events.reader import ChangeLog, ChangeReader
from traffic_manager.events.retelling import Retelling
from traffic_manager.events.shift import PATIENCE_S, Shift
from traffic_manager.events.trouble import Trouble
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.routing.leases import Telling
from traffic_manager.routing.ports import Head

_RETRY_S = 1.0


class SetAside(Protocol):
    """What is known of events that were set aside; `db` has it."""

    def set_aside_from(self, revision: int) -> Sequence[int]:
        """Return the revisions from *revision* on whose events are set aside."""

    def forget_set_aside(self, revision: int) -> None:
        """Take note that the event of *revision* has been published after all."""


@dataclass(frozen=True)
class Replayed:
    """What `replay` did: events up to revision *upto* were sent again, but for those *refused*."""

    upto: int
    refused: Sequence[int]


def replay(
    log: ChangeLog, aside: SetAside, connect: Callable[[], EventProducer], metrics: Metrics, first: int
) -> Replayed:
    """Send the events of all changes from revision *first* up to the head of now, and return what became of
    them. Raises StartRefused if those changes are not there, KafkaUnavailable, SourceUnavailable."""
    pulse = log.pulse(first - 1)
    head = pulse.head.revision
    if first > head:
        raise StartRefused(f"--from: the newest change has revision {head}")
    if first <= pulse.compacted_revision:
        raise StartRefused(f"--from: changes up to revision {pulse.compacted_revision} are no longer kept")
    place = _Place(first - 1)
    clock = time.monotonic
    troubles = Trouble("database", clock), Trouble("kafka", clock)
    shift = Shift(place, ChangeReader(log), connect, metrics, *troubles, clock)
    try:
        _run(shift, lambda: place.upto >= head)
    finally:
        shift.close()
    for revision in aside.set_aside_from(first):
        if revision <= place.upto and revision not in place.refused:
            aside.forget_set_aside(revision)
    return Replayed(place.upto, place.refused)


def retell(
    log: ChangeLog,
    routes: Callable[[Head], Retelling],
    connect: Callable[[], EventProducer],
    metrics: Metrics,
) -> Sequence[int]:
    """Tell all routes again as they are now, and those as deleted that consumers hold and nobody has. Return the
    revisions of events that were refused. Raises KafkaUnavailable, SourceUnavailable."""
    place = _Place(log.pulse(0).head.revision)
    asked = _Asked()
    clock = time.monotonic
    troubles = Trouble("database", clock), Trouble("kafka", clock)
    audience = Audience(asked, routes, metrics)
    shift = Shift(place, ChangeReader(log), connect, metrics, *troubles, clock, audience)
    try:
        _run(shift, lambda: asked.is_told)
    finally:
        shift.close()
    return place.refused


def _run(shift: Shift, is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_done():
        try:
            time.sleep(shift.step())
            deadline = time.monotonic() + PATIENCE_S
        except KafkaUnavailable:
            if time.monotonic() > deadline:
                raise
            shift.replace_producer()
            time.sleep(_RETRY_S)


class _Place:
    """How far the replay is, in the place of a lease: it moves no checkpoint and keeps nobody out."""

    def __init__(self, upto: int) -> None:
        self.upto = upto
        self.refused: list[int] = []

    def published_revision(self) -> int:
        return self.upto

    def keep(self) -> None:
        """Nothing to keep."""

    def publish(self, revision: int) -> None:
        self.upto = revision

    def set_aside(self, revision: int, reason: str) -> None:
        self.refused.append(revision)

    def end(self) -> None:
        """Nothing to release."""


class _Asked:
    """Has it all told, once."""

    is_told = False

    def telling(self) -> Telling:
        return ASKED

    def told(self, _telling: Telling) -> None:
        self.is_told = True
