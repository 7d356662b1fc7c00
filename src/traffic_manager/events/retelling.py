"""Tells all routes again, when what consumers hold may be of a history that is lost, or of another topic.

Events of the new epoch count more than all before (docs/events.md). So each route is told once as it is now, and each
that only the lost branch had as deleted: the topic alone knows of those. A replay of the log would do neither, and
lead consumers through every state that a route ever had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from traffic_manager.errors import TrafficManagerError
from traffic_manager.events.consumers_view import ConsumersView, Reader
from traffic_manager.events.envelope import event_of, gone_event
from traffic_manager.events.waves import Outgoing, Waves
from traffic_manager.routing.model import Action, Change, RouteKey
from traffic_manager.routing.ports import Head

_PAGE_ROUTES = 500
_READ_S = 0.1

log = structlog.get_logger(__name__)


class Routes(Protocol):
    """What is asked of the table of routes; `db` has it."""

    def page(self, after: RouteKey | None, size: int) -> tuple[Head, Sequence[Change]]:
        """Return the head, and up to *size* routes above *after* as the last change of each."""

    def missing(self, keys: Sequence[RouteKey]) -> tuple[Head, Sequence[RouteKey]]:
        """Return the head, and those of *keys* that have no route there."""


class EpochLeft(TrafficManagerError):
    """Another epoch has begun meanwhile. Stays inside this room."""


class Retelling:
    """What is to be told in the epoch of *head*, in portions. *connect* makes the reader of the topic."""

    def __init__(self, routes: Routes, connect: Callable[[], Reader], head: Head) -> None:
        self._routes = routes
        self._connect = connect
        self._head = head
        self._view = ConsumersView()
        self._reader: Reader | None = None
        self._is_read = False
        self._after: RouteKey | None = None
        self._gone: list[RouteKey] | None = None
        self._told = 0

    def read(self) -> Waves | None:
        """Return what is told next, perhaps nothing yet; None when all is told. Raises EpochLeft, KafkaUnavailable,
        SourceUnavailable; after the last two, go on."""
        if not self._is_read:
            self._read_topic()
            return Waves((), 0)
        if self._gone is None:
            return self._next_routes()
        return self._next_gone()

    def close(self) -> None:
        """Disconnect from the topic."""
        if self._reader:
            self._reader.close()
            self._reader = None

    def _read_topic(self) -> None:
        reader = self._reader = self._reader or self._connect()
        try:
            records = reader.read(_READ_S)
        except TrafficManagerError:
            self.close()  # from the beginning again: what was taken twice changes nothing
            raise
        if records is None:
            self._is_read = True
            self.close()
        else:
            self._view.take(records)

    def _next_routes(self) -> Waves:
        head, changes = self._routes.page(self._after, _PAGE_ROUTES)
        self._check(head)
        if changes:
            self._after = changes[-1].key
        else:
            self._gone = self._view.lost(head.epoch_number)
        events = [event_of(change, head.epoch, head.epoch_number) for change in changes]
        self._told += len(events)
        outgoing = zip(changes, events, strict=True)
        return Waves([Outgoing(change.revision, change.action, event) for change, event in outgoing], 0)

    def _next_gone(self) -> Waves | None:
        if not self._gone:
            log.info("retelling_ended", epoch_number=self._head.epoch_number, events=self._told)
            return None
        head, keys = self._routes.missing(self._gone[:_PAGE_ROUTES])
        self._check(head)
        del self._gone[:_PAGE_ROUTES]
        now = time.time_ns() // 1000
        self._told += len(keys)
        # Numbered by no revision: they are no changes, and many of them are told as of the same head.
        return Waves(
            [
                Outgoing(-number, Action.DELETED, gone_event(key, head, now))
                for number, key in enumerate(keys, 1)
            ],
            0,
        )

    def _check(self, head: Head) -> None:
        if head.epoch != self._head.epoch:
            raise EpochLeft(f"epoch {head.epoch_number} has begun")
