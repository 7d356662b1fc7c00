"""A connection of the load: HTTP/1.1 by hand, because the client shares two cores with all servers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from itertools import count
from typing import cast

from tests.servers.ports import HOST

_HEAD_END = b"\r\n\r\n"
_WITHOUT_BODY = (204, 304)
_numbers = count(1)


class Line(asyncio.Protocol):
    """One connection to the server on *port*, and so to one worker; one request at a time."""

    def __init__(self, port: int) -> None:
        self.name = f"{port}/{os.getpid()}-{next(_numbers)}"
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, Mapping[str, str], bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self.is_open = True

    async def ask(self, request: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers (names in lower case) and body. Raises ConnectionError."""
        if not self.is_open or self._transport is None:
            raise ConnectionError("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        status, headers, body = await self._answer
        if headers.get("connection") == "close":
            self.close()
        return status, headers, body

    def close(self) -> None:
        """End the connection."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be told of the connection by asyncio, as below."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own kind

    def data_received(self, data: bytes) -> None:
        """Give the answer to who waits for it, once it is whole."""
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0 or self._answer is None or self._answer.done():
            return
        status, headers = _head(bytes(self._received[:end]))
        start = end + len(_HEAD_END)
        stop = start + (0 if status in _WITHOUT_BODY else int(headers.get("content-length", "0")))
        if len(self._received) >= stop:
            self._answer.set_result((status, headers, bytes(self._received[start:stop])))
            self._received.clear()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what was under way."""
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError(str(error or "the server closed the connection")))


def _head(head: bytes) -> tuple[int, Mapping[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, value in pairs}


class Lines:
    """The connections to one node: used in turn, so that all workers are asked, and opened as needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Line] = []

    async def take(self) -> Line:
        """Return one that nobody uses. Raises OSError."""
        while self._idle:
            line = self._idle.pop(0)
            if line.is_open:
                return line
        return await self.open()

    async def open(self) -> Line:
        """Return a new one. Raises OSError."""
        loop = asyncio.get_running_loop()
        _transport, line = await loop.create_connection(lambda: Line(self._port), HOST, self._port)
        return line

    def give_back(self, line: Line) -> None:
        """Let others use *line*, whose answer has come."""
        if line.is_open:
            self._idle.append(line)

    def close(self) -> None:
        """End them all."""
        for line in self._idle:
            line.close()
