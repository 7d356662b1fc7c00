"""Knows whether all routes have been told to whoever reads the topic now; else they are told again.

They have not when a new epoch has begun, because consumers may hold what only the lost branch had; when the topic is
another one than before, or has other partitions, because its readers may hold nothing, or the routes of others; and
when changes were compacted away that nobody had sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from traffic_manager.events.delivery import Topic
from traffic_manager.events.retelling import Retelling
from traffic_manager.monitoring.label_values import RetellingReason
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.routing.leases import Telling
from traffic_manager.routing.ports import Head

# Known of nobody: all is told.
ASKED = Telling(0)

log = structlog.get_logger(__name__)


class Memory(Protocol):
    """Where it is kept what was told: a `Tenure`."""

    def telling(self) -> Telling:
        """Return what all routes were told of. Raises SourceUnavailable."""

    def told(self, telling: Telling) -> None:
        """Record that all routes were told of this. Raises LeaseLost, SourceUnavailable."""


class Audience:
    """For one shift. *retell* makes what there is to tell in the epoch of a head."""

    def __init__(self, memory: Memory, retell: Callable[[Head], Retelling], metrics: Metrics) -> None:
        self._memory = memory
        self._retell = retell
        self._metrics = metrics
        self._known: Telling | None = None
        self._retelling: Retelling | None = None
        self._to_be_told = ASKED
        self._has_missed = False

    def retelling(self, head: Head, topic: Topic | None) -> Retelling | None:
        """Return what is to be told now instead of the log, None if nothing is. Raises as `Memory` does."""
        if self._retelling is None:
            known = self._known = self._known or self._memory.telling()
            self._to_be_told = _telling(head, topic, known)
            if self._to_be_told != known or self._has_missed:
                self._begin(known, head)
        return self._retelling

    def has_missed(self) -> None:
        """Take note that changes were forgotten before they were told."""
        self._has_missed = True

    def told(self) -> None:
        """Take note that the retelling has come to its end. Raises as `Memory` does."""
        self._memory.told(self._to_be_told)
        self._known = self._to_be_told
        self._retelling = None
        self._has_missed = False

    def forget(self) -> None:
        """Give up what is being told: it has to be begun anew."""
        if self._retelling:
            self._retelling.close()
        self._known = self._retelling = None

    def _begin(self, known: Telling, head: Head) -> None:
        reason = RetellingReason.COMPACTED if self._has_missed else _reason(known, self._to_be_told)
        if reason is None:  # the topic is seen for the first time
            self.told()
            return
        self._retelling = self._retell(head)
        self._metrics.tm_retellings_total.labels(reason).inc()
        log.warning("retelling_begins", reason=reason, epoch_number=head.epoch_number)


def _telling(head: Head, topic: Topic | None, known: Telling) -> Telling:
    """Return what all routes have to be told of. A topic that is not known yet is taken for the one before."""
    if topic is None:
        return Telling(head.epoch_number, known.topic, known.partitions)
    return Telling(head.epoch_number, topic.id, topic.partitions)


def _reason(known: Telling, now: Telling) -> RetellingReason | None:
    if known == ASKED:
        return RetellingReason.ASKED_FOR
    if known.epoch_number != now.epoch_number:
        return RetellingReason.NEW_EPOCH
    if known.topic is None:
        return None
    return RetellingReason.OTHER_TOPIC if known.topic != now.topic else RetellingReason.OTHER_PARTITIONS
