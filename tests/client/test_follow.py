"""`follow` tells each change once, however often and wherever its connection is cut."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, count, repeat
from threading import Event, Thread

import pytest

from tests.node import Node
from traffic_manager.client import Client, Filter, HistoryGone, follow
from traffic_manager.client import stream as stream_module


class CuttingProxy:
    """Passes bytes on to *port*, and cuts each connection after the next of *sizes*, in the server's bytes."""

    def __init__(self, port: int, sizes: Iterator[int]) -> None:
        self._port = port
        self._sizes = sizes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_over = Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0

    def run(self) -> None:
        while not self._is_over.is_set():
            with suppress(OSError):
                caller, _ = self._listener.accept()
                self._pass_on(caller)

    def _pass_on(self, caller: socket.socket) -> None:
        with caller, socket.create_connection(("127.0.0.1", self._port)) as server:
            server.sendall(caller.recv(65536))
            left = next(self._sizes)
            server.settimeout(1)
            while left > 0 and (data := server.recv(min(left, 4096))):
                caller.sendall(data)
                left -= len(data)
            self.cuts += 1

    def stop(self) -> None:
        self._is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def cutting(port: int, sizes: Iterator[int]) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(port, sizes)
    thread = Thread(target=proxy.run)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()


def _change(node: Node, number: int, versions: int = 7) -> None:
    with Client(node.url) as client:
        for n in range(number):
            client.put(("t", "s", "e", f"v{n % versions}"), f"https://h{n}.example.com")


def test_each_change_is_told_once_wherever_the_connection_is_cut(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "full_jitter_s", lambda *_, **__: 0.0)
    told: list[int] = []
    chance = random.Random(5)
    sizes = (chance.randrange(300, 6000) for _ in count())
    with cutting(node.port, sizes) as proxy, ThreadPoolExecutor(1) as writer:
        work = writer.submit(_change, node, 150)
        with Client(proxy.url) as client:
            for event in follow(client, Filter(), "0"):
                if event.kind == "change":
                    told.append(event.change.revision)
                if len(told) >= 150:
                    break
        work.result()
        assert proxy.cuts > 10
    assert told == list(range(1, 151))


def test_snapshot_that_was_cut_is_begun_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "full_jitter_s", lambda *_, **__: 0.0)
    _change(node, 25, versions=25)
    routes: list[str] = []
    snapshots = 0
    sizes = chain([400, 900, 1500, 2500], repeat(10**9))
    with cutting(node.port, sizes) as proxy, Client(proxy.url) as client:
        for event in follow(client, Filter(), with_snapshot=True):
            if event.kind == "snapshot":
                routes, snapshots = [], snapshots + 1
            elif event.kind == "route":
                routes.append(event.document["version"])
            elif event.kind == "snapshot-end":
                break
    assert sorted(routes) == sorted(f"v{n}" for n in range(25))
    assert snapshots >= 3, "the first were cut off"


def test_history_that_is_gone_is_an_error(node: Node) -> None:
    with Client(node.url) as client, pytest.raises(HistoryGone):
        next(follow(client, Filter(), "00000000.1"))
