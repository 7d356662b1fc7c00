"""How many clients may be connected to a worker, and what the others are told: probes are answered all the same."""

from __future__ import annotations

import resource
from asyncio import Transport
from collections.abc import Callable
from typing import Any

from traffic_manager.api.access import HEALTH
from traffic_manager.api.connection import Connection
from traffic_manager.config.settings import Settings
from traffic_manager.errors import TooManyConnections
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import Overload

# Open files of a worker beside its clients' and the pool's: metrics, logs, Redis, Kafka, the follower, and clients
# who are being told that there is no room.
_OWN_FILES = 128
_SURPLUS = 32
# With fewer nobody could be served at all.
_LEAST = 16
# So long one who is too many has to ask for something.
_REQUEST_S = 1.0
_PROBES = tuple(path.encode() for path in HEALTH)


def most_connections(settings: Settings) -> int:
    """Return how many clients may be connected to a worker: no more than its limit of open files leaves room for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = max(_LEAST, files - settings.db.pool_max - _OWN_FILES)
    return min(room, settings.api.max_connections or room)


class Admission:
    """Makes the protocol of a new connection: *protocol*'s, as long as there are at most *most*."""

    def __init__(
        self, protocol: Callable[..., Connection], metrics: Metrics, overload: Overload, most: int
    ) -> None:
        self._protocol = protocol
        self._metrics = metrics
        self._overload = overload
        self._most = most

    def __call__(self, *arguments: Any, server_state: Any, **more: Any) -> Connection:  # Any: uvicorn's own
        """Return it."""
        surplus = len(server_state.connections) - self._most
        if surplus < 0:
            return self._protocol(*arguments, server_state=server_state, **more)
        self._metrics.tm_connections_refused_total.inc()
        is_cut = surplus >= _SURPLUS
        return SurplusConnection(
            is_cut, self._metrics, self._overload, *arguments, server_state=server_state, **more
        )


class SurplusConnection(Connection):
    """A connection too many: it is told so when it asks for something, and closed. *is_cut*: at once, without a word,
    for there are many like it."""

    __slots__ = ("_is_cut",)

    def __init__(self, is_cut: bool, *arguments: Any, **more: Any) -> None:  # Any: uvicorn's own
        super().__init__(*arguments, **more)
        self._is_cut = is_cut

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Begin, and end soon."""
        super().connection_made(transport)
        if self._is_cut:
            transport.abort()
        else:
            self.loop.call_later(_REQUEST_S, self._close_if_idle)

    def take(self) -> bool:
        """Refuse all but probes. Those are for the application."""
        if self.url.partition(b"?")[0] not in _PROBES:
            raise TooManyConnections
        return False

    def on_message_complete(self) -> None:
        """End the request, and the connection with its answer."""
        if self.is_waiting:
            self.cycle.keep_alive = False
        super().on_message_complete()
