"""uvicorn, with our stop: not ready first, accept a while longer, then finish what is in flight and exit 0."""

from __future__ import annotations

import signal
import socket
from asyncio import BaseProtocol
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn

from traffic_manager.api.acceptor import Acceptor
from traffic_manager.api.admission import Admission, most_connections, most_of_address
from traffic_manager.api.backlog import all_accepted, take_no_more
from traffic_manager.api.connection import CLOSE
from traffic_manager.api.context import Parts
from traffic_manager.api.handshakes import Handshakes
from traffic_manager.api.lane import LaneConnection
from traffic_manager.api.telling_lane import lane_of
from traffic_manager.api.write_lane import WriteLane

# In-flight requests have this long to finish; a long poll is let go at once.
FINISH_S = 15.0
# At the end, clients that shake hands have so long to finish.
_HANDS_S = 1.0
# Connections that wait to be accepted: as many as the system allows (net.core.somaxconn), for clients of a node
# that has gone all come at once.
_BACKLOG = 65_535
# On every answer, the lanes' too: no browser may take data for a script or a page. What only a page needs is on ours.
_HEADERS = [("X-Content-Type-Options", "nosniff")]
# Over TLS: a browser that was here once comes by plain HTTP no more.
_TLS_HEADERS = [*_HEADERS, ("Strict-Transport-Security", "max-age=31536000")]

App = Any  # an ASGI application
Protocol = Callable[..., BaseProtocol]

log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Serves *app*. On SIGTERM or SIGINT it calls *draining*, goes on for *drain_s*, calls *closing* and stops;
    on a second one it stops at once. *is_node_stopping* tells whether everybody stops who shares the socket. With
    *handshakes* connections speak TLS."""

    def __init__(
        self,
        app: App,
        protocol: Protocol,
        drain_s: float,
        draining: Callable[[], None],
        closing: Callable[[], None],
        is_node_stopping: Callable[[], bool] = lambda: True,
        handshakes: Handshakes | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                # All that uvicorn does with the class is to call it.
                http=handshakes or protocol,  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",  # below it tells of every step of starting and stopping, as we do
                access_log=False,
                server_header=False,
                headers=_HEADERS if handshakes is None else _TLS_HEADERS,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=int(FINISH_S),
                # A request that was sent behind another begins where that one ends: not as a part of it.
                reset_contextvars=True,
            )
        )
        self._drain_s = drain_s
        self._draining = draining
        self._closing = closing
        self._close_at: float | None = None
        self._is_node_stopping = is_node_stopping
        self._handshakes = handshakes

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self.server_state.connections)

    def serve_on(self, listener: socket.socket) -> None:
        """Serve the connections of *listener* until told to stop."""
        self.run(sockets=[listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept. uvicorn itself would have uvloop do that, one in a round."""
        await super().startup([])
        create_protocol = partial(
            cast("Protocol", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        # All that uvicorn does with its servers is to close them.
        self.servers = [Acceptor(listener, create_protocol) for listener in sockets or []]  # type: ignore[misc]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals over, but for Ctrl-C where it is ignored: there a parent passes it on, and to hear
        it from both would be to be asked twice."""
        has_parent = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with super().capture_signals():
            if has_parent:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, or stop at once if asked a second time. Overrides uvicorn's, which would stop
        accepting at once and then raise the signal again, so that one worker exits with 143."""
        if self._close_at is None:
            self._close_at = monotonic() + self._drain_s
            self._draining()
            log.info("draining", seconds=self._drain_s, signal=signal.Signals(sig).name)
        else:
            self._closing()
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Return True when it is time to stop; called by uvicorn ten times a second."""
        if self._close_at is not None and monotonic() >= self._close_at and not self.should_exit:
            self._closing()
            self.should_exit = True
        is_time = await super().on_tick(counter)
        if self._close_at is not None and CLOSE not in self.server_state.default_headers:
            # Else a client's next request could meet the closing of its idle connection.
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        return is_time

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, when every connection that was made has been accepted. Others go on with the socket if this worker
        alone was told to stop: then the kernel makes connections to the last moment."""
        for listener in sockets or []:
            if self._is_node_stopping():
                take_no_more(listener)
            await all_accepted(listener)
        # uvicorn tells those of the end who are connected by now: none may be on its way.
        for acceptor in self.servers:
            acceptor.close()
            await acceptor.wait_closed()
        if self._handshakes is not None:
            await self._handshakes.finished(_HANDS_S)
        await super().shutdown(sockets)


def admission_to(parts: Parts) -> Admission:
    """Return what makes the protocol of a new connection."""
    protocol = partial(LaneConnection, lane_of(parts), WriteLane(parts), parts.metrics, parts.turns)
    most = most_connections(parts.settings)
    most_here = most_of_address(parts.settings, most)
    return Admission(protocol, parts.metrics, parts.turns, parts.proxies, most, most_here)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError if the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(_BACKLOG)
    listener.set_inheritable(True)
    return listener
