"""What waits on a connection: requests behind the one under way, and a client's data until there is room for more."""

from __future__ import annotations

from asyncio import Event, Transport
from typing import TYPE_CHECKING

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from traffic_manager.api.connection import Connection


class Queue(list[tuple[RequestResponseCycle, ASGI3Application]]):
    """Requests behind the one under way, the next one last. Of each connection an empty deque takes 760 bytes."""

    __slots__ = ()

    def appendleft(self, request: tuple[RequestResponseCycle, ASGI3Application]) -> None:
        """Put *request* behind all others."""
        self.insert(0, request)


class Flow(FlowControl):
    """Reads on only when there is room for another request, and what was held first."""

    def __init__(self, transport: Transport, connection: Connection) -> None:
        super().__init__(transport)
        # Made when it is needed, which is seldom: an event takes 860 bytes of each connection.
        del self._is_writable_event
        self._writable: Event | None = None
        self._connection = connection
        self._is_due = False

    def resume_reading(self) -> None:
        """Read on, if nothing is queued behind the request under way, and answers are taken."""
        if not self.read_paused or self._is_due or self.write_paused or self._connection.pipeline:
            return
        if self._connection.holds:
            # Soon: this may be called while the parser is at work.
            self._is_due = True
            self._connection.loop.call_soon(self._feed_held)
        else:
            super().resume_reading()

    async def drain(self) -> None:
        """Return when the client has taken enough."""
        if self._writable is not None:
            await self._writable.wait()

    def pause_writing(self) -> None:
        """Take note that the client does not take what is sent."""
        self.write_paused = True
        self._writable = self._writable or Event()

    def resume_writing(self) -> None:
        """Let those go on who wait in `drain`."""
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def _feed_held(self) -> None:
        self._is_due = False
        self._connection.feed_held()
