"""How long the events of traced changes were on their way to Kafka."""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns

from traffic_manager.events.waves import Outgoing
from traffic_manager.monitoring.spans import Record


class Sendings:
    """Tells *record* of each when Kafka has it; None: nobody asks. One that is sent again was on its way since the
    first time. *now*: nanoseconds since 1970."""

    def __init__(self, record: Record | None, now: Callable[[], int] = time_ns) -> None:
        self._record = record
        self._now = now
        self._began_ns: dict[int, int] = {}

    def begin(self, outgoing: Outgoing) -> None:
        """Take note that *outgoing* is sent."""
        if self._record and outgoing.trace and outgoing.revision not in self._began_ns:
            self._began_ns[outgoing.revision] = self._now()

    def end(self, outgoing: Outgoing) -> None:
        """Take note that Kafka has *outgoing*."""
        began_ns = self._began_ns.pop(outgoing.revision, None)
        if self._record and outgoing.trace and began_ns is not None:
            self._record(outgoing.trace, began_ns, self._now())

    def forget(self) -> None:
        """Take note that nothing is on its way any more."""
        self._began_ns.clear()
