"""A keep-alive connection, and which worker holds its other end: for what has to be asked of every worker."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from tests.node import Node, workers_of

from benchmarks.load import WrongAnswers, get

_LIVE = get("/health/live")
_TIMEOUT_S = 30.0
# So many connections have always met every worker that is alive.
_MOST_TRIES = 500


@dataclass(frozen=True)
class Answer:
    """An answer: *headers* as sent, in lower case."""

    status: int
    headers: bytes
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header; None without it."""
        found = re.search(rb"\r\n" + name + rb": ([^\r]*)", self.headers)
        return found[1] if found else None


class Connection:
    """One connection; `send` and `receive` in turn, or several sends before their answers are received."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._socket = socket.create_connection((where.hostname, where.port), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def ask(self, request: bytes) -> Answer:
        """Return the answer to *request*."""
        self.send(request)
        return self.receive()

    def asked_ms(self, request: bytes) -> float:
        """Return how long the answer took, in milliseconds. Raises WrongAnswers if it is no success."""
        began = perf_counter()
        answer = self.ask(request)
        took = perf_counter() - began
        if answer.status >= 300:
            raise WrongAnswers(f"{answer.status} {answer.body!r}")
        return took * 1000

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def receive(self) -> Answer:
        """Return the next answer. Raises ConnectionError if the server hangs up instead."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._read()
        headers = self._buffer[:end].lower()
        found = re.search(rb"\r\ncontent-length: (\d+)", headers)
        size = end + 4 + (int(found[1]) if found else 0)
        while len(self._buffer) < size:
            self._read()
        body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
        return Answer(int(headers[9:12]), headers, body)

    @property
    def port(self) -> int:
        """Our own port."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server hung up")
        self._buffer += data


def answering(node: Node) -> list[int]:
    """Return the processes of *node* that answer requests."""
    return workers_of(node) or [node.pid]


@contextmanager
def to_every_worker(*nodes: Node) -> Iterator[list[Connection]]:
    """Give one connection to each worker of *nodes*."""
    opened: list[Connection] = []
    try:
        yield [connection for node in nodes for connection in _one_each(node, opened)]
    finally:
        for connection in opened:
            connection.close()


def _one_each(node: Node, opened: list[Connection]) -> list[Connection]:
    wanted = set(answering(node))
    chosen: dict[int, Connection] = {}
    for _ in range(_MOST_TRIES):
        if chosen.keys() == wanted:
            return list(chosen.values())
        connection = Connection(node.url)
        opened.append(connection)
        connection.ask(_LIVE)  # accepted by now
        pid = _holder(node.port, connection.port, wanted)
        if pid is not None:
            chosen.setdefault(pid, connection)
    raise WrongAnswers(f"{len(wanted) - len(chosen)} of {len(wanted)} workers accept no connection")


def _holder(server_port: int, client_port: int, pids: set[int]) -> int | None:
    """Return which of *pids* holds the server's end of a connection."""
    socket_name = f"socket:[{_inode(server_port, client_port)}]"
    for pid in pids:
        with suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(entry.path) == socket_name:
                        return pid
    return None


def _inode(server_port: int, client_port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[i].partition(":")[2], 16) for i in (1, 2))
        if (local, remote) == (server_port, client_port):
            return fields[9]
    return ""
