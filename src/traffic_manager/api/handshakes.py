"""New connections with TLS: the handshake, bounded in time and number, and only then the connection itself.

The listening socket could do it alone, but with one context for ever, with a minute for each handshake, and without
telling what becomes of them. So we make uvloop's protocol for each connection, as its listening socket does. It is no
public contract: the version is pinned, and tests hold what is relied on here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any

import structlog
from uvloop.loop import SSLProtocol  # type: ignore[attr-defined] # not in its stubs

from traffic_manager.access.client_names import KINDS, ClientCertificate, normal_name
from traffic_manager.api.admission import Admission, Arrival
from traffic_manager.api.connection import Connection
from traffic_manager.monitoring.label_values import HandshakeFailure
from traffic_manager.monitoring.metrics import Metrics

HANDSHAKE_S = 5.0
# A client that does not say goodbye is let go after so long.
_GOODBYE_S = 1.0
# So much that a client does not take is kept for it, as without TLS; else it would be eight times as much.
_UNSENT_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class Handshakes:
    """Makes the protocol of a new connection: TLS with the context that *context_of* returns, and over it
    *admission*'s. Who shakes hands counts as if connected, in all and from one address: else somebody who only begins
    to would keep everybody out."""

    def __init__(
        self, admission: Admission, context_of: Callable[[], ssl.SSLContext], metrics: Metrics
    ) -> None:
        self._admission = admission
        self._context_of = context_of
        self._metrics = metrics
        self._under_way: set[asyncio.Future[None]] = set()
        self._of_address: Counter[str | None] = Counter()

    def __call__(self, **more: Any) -> Arrival:  # Any: uvicorn's arguments
        """Return what decides when the connection is made: before that nobody knows whose it is."""
        return Arrival(partial(self._begun, more))

    def _begun(self, more: dict[str, Any], transport: asyncio.Transport) -> Any:  # Any: uvloop's protocol
        address = self._admission.address_of(transport)
        connected, here = len(more["server_state"].connections), self._of_address[address]
        if not self._admission.has_room(address, connected, len(self._under_way), here):
            self._failed(HandshakeFailure.TOO_MANY)
            return _Cut()
        loop = asyncio.get_running_loop()
        placeholder, shaken = _Placeholder(partial(self._admission, **more)), loop.create_future()
        self._under_way.add(shaken)
        self._of_address[address] += 1
        shaken.add_done_callback(partial(self._ended, placeholder, address))
        return SSLProtocol(
            loop,
            placeholder,
            self._context_of(),
            shaken,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=_GOODBYE_S,
        )

    async def finished(self, patience_s: float) -> None:
        """Return when none is under way, or time is up."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=patience_s)

    def _ended(self, placeholder: _Placeholder, address: str | None, shaken: asyncio.Future[None]) -> None:
        """Go on before the connection's first request is read, or take note that there is none."""
        self._under_way.discard(shaken)
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]
        error = None if shaken.cancelled() else shaken.exception()
        # A client that goes in the middle of a handshake is no error to uvloop.
        if error is None and placeholder.transport is not None:
            _complete(placeholder.transport)
            return
        is_slow = isinstance(error, ConnectionAbortedError)
        self._failed(HandshakeFailure.TOO_SLOW if is_slow else HandshakeFailure.REFUSED)
        log.debug("tls_handshake_failed", reason=str(error))

    def _failed(self, why: HandshakeFailure) -> None:
        self._metrics.tm_tls_handshakes_failed_total.labels(why).inc()


class _Placeholder(asyncio.BaseProtocol):
    """Stands for a connection until hands are shaken; *protocol* makes its successor."""

    def __init__(self, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._protocol = protocol
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # of a stream
        self.transport = transport
        protocol = self._protocol()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _complete(transport: asyncio.Transport) -> None:
    connection = transport.get_protocol()
    if isinstance(connection, Connection):
        connection.certificate = certificate_of(transport.get_extra_info("ssl_object"))
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)


class _Cut(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # of a stream
        transport.abort()


def certificate_of(secured: ssl.SSLObject) -> ClientCertificate | None:
    """Return what the client has shown and TLS has verified, None without."""
    shown = secured.getpeercert()
    whole = secured.getpeercert(binary_form=True)
    if not shown or whole is None:
        return None
    found: Any = shown.get("subjectAltName", ())  # Any: pairs of texts, for the kinds that we know
    names = tuple(normal_name(kind, text) for kind, text in found if kind in KINDS)
    expires_at = float(ssl.cert_time_to_seconds(str(shown["notAfter"])))
    return ClientCertificate(names, expires_at, sha256(b"certificate\0" + whole).digest())
