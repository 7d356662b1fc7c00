"""Thousands of watchers of the stream of changes in one process, and when an event reached each of them."""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

from benchmarks.load import WrongAnswers, get

_PATIENCE_S = 30.0
_SPARE_FILES = 200


class Watchers:
    """Open streams, each for the changes of one tenant. One change is waited for at a time."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}

    def __len__(self) -> int:
        return len(self._sockets)

    def open(self, url: str, tenant: str, count: int) -> list[int]:
        """Open *count* streams, each answered with its headers, and return their numbers."""
        where = urlsplit(url)
        request = get(
            f"/api/v1/changes/stream?{urlencode({'tenant': tenant})}", {"Accept": "text/event-stream"}
        )
        opened = []
        for _ in range(count):
            watcher = socket.create_connection((where.hostname, where.port), timeout=_PATIENCE_S)
            watcher.sendall(request)
            _read_head(watcher)
            watcher.setblocking(False)
            self._poll.register(watcher, select.EPOLLIN)
            self._sockets[watcher.fileno()] = watcher
            opened.append(watcher.fileno())
        return opened

    def seen_s(self, expected: Sequence[int], text: bytes) -> list[float]:
        """Return when *text* had reached each of *expected*. Raises WrongAnswers if another stream was woken for it,
        if one ended, or if time is up."""
        waiting = set(expected)
        heard: dict[int, bytes] = {}
        seen: list[float] = []
        deadline = time.monotonic() + _PATIENCE_S
        while waiting:
            if time.monotonic() > deadline:
                raise WrongAnswers(
                    f"{len(waiting)} of {len(expected)} watchers heard nothing in {_PATIENCE_S} s"
                )
            for number, _ in self._poll.poll(0.1, 1024):
                heard[number] = heard.get(number, b"") + self._read(number)
                if number in waiting and text in heard[number]:
                    seen.append(time.time())
                    waiting.discard(number)
        disturbed = [number for number in heard.keys() - set(expected) if text in heard[number]]
        if disturbed:
            raise WrongAnswers(f"{len(disturbed)} watchers were told of a change that they had not asked for")
        return seen

    def close(self) -> None:
        self._poll.close()
        for watcher in self._sockets.values():
            watcher.close()

    def _read(self, number: int) -> bytes:
        data = self._sockets[number].recv(1 << 16)
        if not data:
            raise WrongAnswers("a stream ended by itself")
        return data


@contextmanager
def watchers() -> Iterator[Watchers]:
    """Give no watchers yet, and close all that were opened."""
    opened = Watchers()
    try:
        yield opened
    finally:
        opened.close()


def raise_file_limit(files: int) -> None:
    """Let this process, and those that it starts, open *files* files and a few more. Raises WrongAnswers if it may
    not."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < files + _SPARE_FILES:
        raise WrongAnswers(f"the hard limit of open files is {most}; {files + _SPARE_FILES} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, files + _SPARE_FILES), most))


def _read_head(watcher: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        data = watcher.recv(1 << 16)
        if not data:
            raise WrongAnswers(f"a stream ended at once: {head!r}")
        head += data
    if not head.startswith(b"HTTP/1.1 200") or b"text/event-stream" not in head:
        raise WrongAnswers(f"no stream: {head!r}")
