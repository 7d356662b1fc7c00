"""How many clients may be connected to a worker, in all and from one address, and what the others are told: probes
are answered all the same."""

from __future__ import annotations

import resource
from asyncio import BaseProtocol, Transport
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.utils import get_remote_addr

from traffic_manager.api.acceptor import AT_ONCE
from traffic_manager.api.access import HEALTH
from traffic_manager.api.connection import Connection
from traffic_manager.api.origin import TrustedProxies, place_of
from traffic_manager.api.turns import Turns
from traffic_manager.config.settings import Settings
from traffic_manager.errors import RequestRefused, TooManyConnections, TooManyOfAddress
from traffic_manager.monitoring.metrics import Metrics

# Open files of a worker beside its clients' and the pool's: metrics, logs, Redis, Kafka, the follower, and clients
# who are being told that there is no room, or cut: those of two rounds of the event loop.
_OWN_FILES = 128 + 2 * AT_ONCE
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


def most_of_address(settings: Settings, most: int) -> int:
    """Return how many of *most* clients may be at one address."""
    return settings.api.max_connections_per_address or most - most // 4


class Admission:
    """Makes the protocol of a new connection: *protocol*'s, as long as there are at most *most*, and from its address
    *most_of_address*, unless that is a trusted proxy's."""

    def __init__(
        self,
        protocol: Callable[..., Connection],
        metrics: Metrics,
        turns: Turns,
        proxies: TrustedProxies,
        most: int,
        most_of_address: int,
    ) -> None:
        self._protocol = protocol
        self._metrics = metrics
        self._turns = turns
        self._proxies = proxies
        self._most = most
        self._most_of_address = most_of_address
        self._of_address: Counter[str] = Counter()

    def __call__(self, *arguments: Any, **more: Any) -> Arrival:  # Any: uvicorn's own
        """Return what decides when the connection is made: before that nobody knows whose it is."""
        return Arrival(partial(self._protocol_of, arguments, more))

    def address_of(self, transport: Transport) -> str | None:
        """Return whose connections that of *transport* counts among, None for a trusted proxy's."""
        peer = get_remote_addr(transport)
        return None if self._proxies.trusts(peer) else place_of(self._proxies.address_of(peer, ()))

    def has_room(self, address: str | None, connected: int, coming: int, coming_of_address: int) -> bool:
        """Return whether one more of *address* may come, beside those who are connected and those who are coming: for
        a few above the limit there is room, to tell them that they are too many."""
        if connected + coming >= self._most + _SURPLUS:
            return False
        here = self._of_address[address] + coming_of_address if address is not None else 0
        return here < self._most_of_address + _SURPLUS

    def _protocol_of(
        self, arguments: tuple[Any, ...], more: dict[str, Any], transport: Transport
    ) -> Connection:
        address = self.address_of(transport)
        refusal, surplus = self._refusal(len(more["server_state"].connections), address)
        if refusal is None:
            made = self._protocol(*arguments, **more)
        else:
            is_cut = surplus >= _SURPLUS
            made = SurplusConnection(refusal, is_cut, self._metrics, self._turns, *arguments, **more)
        if address is not None:
            self._of_address[address] += 1
            made.on_lost = partial(self._left, address)
        return made

    def _refusal(self, connected: int, address: str | None) -> tuple[RequestRefused | None, int]:
        """Return why a connection is one too many, if it is, and how many there are above that already."""
        if connected >= self._most:
            self._metrics.tm_connections_refused_total.inc()
            return TooManyConnections(), connected - self._most
        connected = self._of_address[address] if address is not None else 0
        if connected >= self._most_of_address:
            self._metrics.tm_connections_refused_by_address_total.inc()
            return TooManyOfAddress(), connected - self._most_of_address
        return None, 0

    def _left(self, address: str) -> None:
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]


class Arrival(BaseProtocol):
    """The protocol of a connection until it is made. *protocol_of*: makes the one that it has from then on."""

    def __init__(self, protocol_of: Callable[[Transport], BaseProtocol]) -> None:
        self._protocol_of = protocol_of

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Hand the connection on."""
        try:
            protocol = self._protocol_of(transport)
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
        except BaseException:
            # Left to the garbage collector, its file would be closed twice: the second time it may be another's.
            transport.abort()
            raise


class SurplusConnection(Connection):
    """A connection too many: it is told so by *refusal* when it asks for something, and closed. *is_cut*: at once,
    without a word, for there are many like it."""

    __slots__ = ("_is_cut", "_refusal_of_all")

    def __init__(
        self, refusal: RequestRefused, is_cut: bool, *arguments: Any, **more: Any
    ) -> None:  # Any: uvicorn's own
        super().__init__(*arguments, **more)
        self._refusal_of_all = refusal
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
            raise self._refusal_of_all
        return False

    def on_message_complete(self) -> None:
        """End the request, and the connection with its answer."""
        if self.is_waiting:
            self.cycle.keep_alive = False
        super().on_message_complete()
