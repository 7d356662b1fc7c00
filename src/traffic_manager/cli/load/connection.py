"""The connections of a load: one request at a time on each, told by callbacks, for thousands a second."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import httptools

NO_ANSWER, LOST, NOT_HTTP = "no answer", "connection lost", "not HTTP"


class Job(NamedTuple):
    """A request, and when it is due on the monotonic clock."""

    kind: str
    due_s: float
    text: bytes


class Caller(Protocol):
    """Whoever a connection tells what became of its request."""

    def answered(self, job: Job, outcome: str) -> None:
        """Take in how a job ended."""

    def freed(self, connection: Connection) -> None:
        """Take in that it may be used."""

    def closed(self, connection: Connection) -> None:
        """Take in that it is gone."""


class _Wire(asyncio.Protocol):
    """A connection that reads answers."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be told of the connection by asyncio, as below."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own kind

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.drop(NOT_HTTP)

    def drop(self, outcome: str) -> None:
        """End the connection for this reason."""
        if self._transport is not None:
            self._transport.abort()


class Connection(_Wire):
    """A connection that a caller sends requests over."""

    def __init__(self, caller: Caller) -> None:
        super().__init__()
        self._caller = caller
        self.job: Job | None = None

    def send(self, job: Job) -> None:
        """Send a request; the caller is told what becomes of it."""
        self.job = job
        if self._transport is not None:
            self._transport.write(job.text)

    def on_message_complete(self) -> None:
        """Be told by the parser that an answer is whole."""
        self._end(str(self._parser.get_status_code()))
        if self._parser.should_keep_alive():
            self._caller.freed(self)
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell what was under way."""
        self._end(LOST)
        self._caller.closed(self)

    def drop(self, outcome: str) -> None:
        """End the connection, and what is under way with it."""
        self._end(outcome)
        super().drop(outcome)

    def _end(self, outcome: str) -> None:
        job, self.job = self.job, None
        if job is not None:
            self._caller.answered(job, outcome)


class Watcher(_Wire):
    """A stream of changes. *seen* is called with the number in each change's URL, *answered* with the status,
    *closed* when it has ended; *after* is where it can be gone on."""

    def __init__(
        self,
        request: bytes,
        url: str,
        seen: Callable[[int], None],
        answered: Callable[[str], None],
        closed: Callable[[], None],
    ) -> None:
        super().__init__()
        self._request = request
        self._change = re.compile(rb'"url": ?"%b/(\d+)"' % re.escape(url.encode()))
        self._seen, self._answered, self._closed = seen, answered, closed
        self._rest = b""
        self.after: bytes | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own kind
        self._transport.write(self._request)

    def on_headers_complete(self) -> None:
        """Be told by the parser which status it is."""
        self._answered(str(self._parser.get_status_code()))

    def on_body(self, body: bytes) -> None:
        """Be told by the parser what the stream says."""
        *events, self._rest = (self._rest + body).split(b"\n\n")
        for event in events:
            found = re.search(rb"^id: ?(.+)$", event, re.MULTILINE)
            self.after = found[1] if found else self.after
            change = self._change.search(event)
            if change:
                self._seen(int(change[1]))

    def on_message_complete(self) -> None:
        """Be told by the parser that the stream has ended."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that it is over."""
        self._closed()
