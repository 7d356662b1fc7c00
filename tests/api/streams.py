"""Reads streams of events as a careful client does, and as a careless one."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.node import Json, Node

STREAM = "/api/v1/changes/stream"


@dataclass
class Event:
    """One event: *kind*, the *id* if it had one, and its *data*."""

    kind: str = ""
    id: str | None = None
    data: Json = field(default_factory=dict)


class Stream:
    """One stream, read from a socket of its own. Closes with its block."""

    def __init__(
        self,
        node: Node,
        question: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 10.0,
        receive_bytes: int | None = None,
    ) -> None:
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(timeout_s)
        self._socket.connect(("127.0.0.1", node.port))
        lines = [f"GET {STREAM}?{urlencode(question or {})} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._file = self._socket.makefile("rb")
        self._events = self._read()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.last_id: str | None = None
        self.comments = 0
        self.retries_ms: list[int] = []

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away."""
        self._file.close()
        self._socket.close()

    def begin(self) -> Stream:
        """Read the head of the answer."""
        self.status = int(self._file.readline().split()[1])
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()
        return self

    def problem(self) -> Json:
        """Return the problem document of a refusal."""
        found: Json = json.loads(self._file.read(int(self.headers["content-length"])))
        return found

    def next(self, *kinds: str) -> Event:
        """Return the next event, or the next of *kinds*. Raises EOFError at the end of the stream."""
        for event in self:
            if not kinds or event.kind in kinds:
                return event
        raise EOFError

    def __iter__(self) -> Iterator[Event]:
        if not self.status:
            self.begin()
        return self._events

    def _read(self) -> Iterator[Event]:
        event = Event()
        for line in self._lines():
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if event.id is not None:
                    self.last_id = event.id
                if event.kind:
                    yield event
                event = Event()
            elif name == "":
                self.comments += 1
            elif name == "event":
                event.kind = value
            elif name == "id":
                event.id = value
            elif name == "data":
                event.data = json.loads(value)
            elif name == "retry":
                self.retries_ms.append(int(value))
            else:
                raise AssertionError(f"unknown line: {line}")

    def _lines(self) -> Iterator[str]:
        rest = b""
        for chunk in self._chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode()

    def _chunks(self) -> Iterator[bytes]:
        while size_line := self._file.readline():
            size = int(size_line, 16)
            chunk = self._file.read(size + 2)[:size]
            if not size:
                return
            yield chunk


@contextmanager
def streaming(
    node: Node, headers: Mapping[str, str] | None = None, **question: str | int
) -> Iterator[Stream]:
    """Return a stream that has told where it begins."""
    with Stream(node, question, headers) as stream:
        assert stream.begin().status == 200, stream.problem()
        yield stream
