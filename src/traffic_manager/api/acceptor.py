"""Takes new connections: all that wait, as long as that leaves the event loop time for others.

The listening socket of uvloop takes one in each round of the event loop. A worker that has much to do goes round
fifty times a second, so that new connections, and with them all probes, waited in the kernel for seconds.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import structlog

# Of 0.2 ms of the loop each.
AT_ONCE = 64
# Without memory or a free file nobody can come; others go on, and some of them will leave.
_PAUSE_S = 0.1
# It has gone already, or its network has: accept(2).
_GONE = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)

log = structlog.get_logger(__name__)


class Acceptor:
    """Takes the connections of *listener*, each with the protocol that *protocol* makes, until it is closed. Belongs
    to the running event loop. Stands where uvicorn has asyncio's servers."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._listener = listener
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[Any]] = set()  # Any: transport and protocol
        self._is_closed = False
        listener.setblocking(False)
        self._go_on()

    def close(self) -> None:
        """Take no more."""
        self._is_closed = True
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Return when the protocol of every connection that was taken knows of it."""
        if self._coming:
            await asyncio.wait(self._coming)

    def _go_on(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._take)

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return  # nobody waits, or another worker was quicker
            except OSError as error:
                if error.errno not in _GONE:
                    self._pause(error)
                    return
                continue
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        coming = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
        self._coming.add(coming)
        coming.add_done_callback(self._coming.discard)

    def _pause(self, error: OSError) -> None:
        log.warning("accepting_paused", reason=str(error), seconds=_PAUSE_S)
        self._loop.remove_reader(self._listener)
        self._loop.call_later(_PAUSE_S, self._go_on)
