"""A TCP proxy between a node and a server, that delays, holds, refuses and cuts.

Of our own, and not one of those that are there: what is needed here is small, comes without another compiler, holds
one direction alone, and cuts between a request that has passed and its answer. It runs in a process of its own.

What it holds is passed on when it is healed, as TCP would after a partition. Both ends' kernels go on to acknowledge
what they receive meanwhile, so time-outs of TCP itself cannot be tried with it; nodes see a server that is silent.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import struct
from dataclasses import dataclass
from multiprocessing.connection import Connection

import uvloop

from tests.servers.ports import HOST, free_port

_CHUNK = 65536
# close() sends a reset instead of waiting for what is unsent.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Trouble:
    """What happens to all connections, old and new. *latency_s* is added to each answer. *holds_requests* and
    *holds_answers*: nothing passes that way. *cut_after*: when a request with these bytes has passed, its connection
    is cut before any answer passes."""

    latency_s: float = 0.0
    holds_requests: bool = False
    holds_answers: bool = False
    refuses: bool = False
    cut_after: bytes = b""


NONE = Trouble()
BLACKHOLE = Trouble(holds_requests=True, holds_answers=True)


class Proxy:
    """A proxy before *target_port*, from construction until `close`. `port` is where it listens."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (self.port, target_port, theirs)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # it listens

    def set(self, trouble: Trouble) -> None:
        """Trouble all connections so from now on."""
        self._pipe.send(trouble)
        self._pipe.recv()

    def cut(self) -> None:
        """Reset every connection."""
        self._pipe.send("cut")
        self._pipe.recv()

    def opened(self) -> int:
        """Return how many connections were begun so far, refused ones too."""
        self._pipe.send("opened")
        return int(self._pipe.recv())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


def _run(port: int, target_port: int, pipe: Connection) -> None:
    uvloop.run(_Wire(port, target_port).serve(pipe))


class _Wire:
    """All connections."""

    def __init__(self, port: int, target_port: int) -> None:
        self._port, self._target_port = port, target_port
        self._trouble = NONE
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._opened = 0

    async def serve(self, pipe: Connection) -> None:
        server = await asyncio.start_server(self._join, HOST, self._port)
        pipe.send("listening")
        async with server:
            while True:
                order = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
                pipe.send(self._obey(order))

    def _obey(self, order: Trouble | str) -> int:
        if isinstance(order, Trouble):
            self._trouble = order
            self._changed.set()
            self._changed = asyncio.Event()
        if order == "cut" or self._trouble.refuses:
            for writer in list(self._open):
                _reset(writer)
        return self._opened

    async def _join(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._opened += 1
        self._open.add(to_client)
        try:
            if self._trouble.refuses:
                _reset(to_client)
                return
            server, to_server = await asyncio.open_connection(HOST, self._target_port)
            self._open.add(to_server)
            try:
                requests = asyncio.create_task(self._pass_requests(client, to_server, to_client))
                answers = asyncio.create_task(self._pass_answers(server, to_client))
                await asyncio.wait((requests, answers), return_when=asyncio.FIRST_COMPLETED)
                requests.cancel()
                answers.cancel()
                await asyncio.gather(requests, answers, return_exceptions=True)
            finally:
                self._open.discard(to_server)
                to_server.close()
        except OSError:
            _reset(to_client)
        finally:
            self._open.discard(to_client)
            to_client.close()

    async def _pass_requests(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, to_client: asyncio.StreamWriter
    ) -> None:
        while data := await client.read(_CHUNK):
            while self._trouble.holds_requests:
                await self._changed.wait()
            to_server.write(data)
            if (words := self._trouble.cut_after) and words in data:
                await to_server.drain()
                _reset(to_client)
                return

    async def _pass_answers(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await server.read(_CHUNK):
            if self._trouble.latency_s:
                await asyncio.sleep(self._trouble.latency_s)
            while self._trouble.holds_answers:
                await self._changed.wait()
            to_client.write(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
