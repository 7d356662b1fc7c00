"""How connections are opened: where to, and with which certificates."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Iterable

from traffic_manager.cli.load.plan import Server
from traffic_manager.client.trust import trust

# Who opens thousands at once fills the queue of those that wait to be accepted.
_AT_ONCE = 64


class Network:
    """Opens connections to *server*, each within *timeout_s*."""

    def __init__(self, server: Server, timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._context: ssl.SSLContext | None = None
        if server.is_tls:
            trusted = trust(server.ca_file, server.cert_file)
            self._context = trusted if isinstance(trusted, ssl.SSLContext) else ssl.create_default_context()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Have *protocol* speak over a new connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        async with self._turns, asyncio.timeout(self._timeout_s):
            await loop.create_connection(
                lambda: protocol, self._server.host, self._server.port, ssl=self._context
            )

    async def together(self, openings: Iterable[Coroutine[None, None, None]]) -> None:
        """Wait for all of them. Raises OSError, of the first that fails."""
        await asyncio.gather(*openings)
