"""P14: whoever is connected when the server stops gets an answer; whoever comes later is refused at once."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.node import Node, wait_until
from tests.promises.places import a_database, a_node
from tests.servers import PostgresServer

REQUEST = b"GET /api/v1/routes/resolve?tenant=a&service=b&env=c&version=d HTTP/1.1\r\nHost: x\r\n\r\n"
DOCUMENTED = REQUEST.replace(b"Host: x", b"Host: x\r\nCache-Control: max-age=60")
CALLERS = 12


class Callers:
    """Connect, ask and read again and again, each on a thread, until nobody listens any more."""

    def __init__(self, node: Node, request: bytes) -> None:
        self._address = ("127.0.0.1", node.port)
        self._request = request
        self.ends: Counter[str] = Counter()
        self.asked = 0
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Return when all have ended."""
        for thread in self._threads:
            thread.join(30.0)

    def _call(self) -> None:
        connection: socket.socket | None = None
        while True:
            if connection is None:
                try:
                    connection = socket.create_connection(self._address, timeout=0.8)
                except OSError as refusal:  # where it drops what begins a connection, that is as good
                    self.ends["refused" if isinstance(refusal, ConnectionRefusedError) else "dropped"] += 1
                    return
            connection = self._ask(connection)

    def _ask(self, connection: socket.socket) -> socket.socket | None:
        connection.settimeout(10.0)
        with connection:
            try:
                connection.sendall(self._request)
                answer = connection.recv(65536)
            except OSError as error:
                self.ends[type(error).__name__] += 1
                return None
        self.asked += 1
        self.ends["answered" if answer.startswith(b"HTTP/1.1 404 ") else f"torn: {answer!r}"] += 1
        return None


@pytest.mark.parametrize("request_bytes", [REQUEST, DOCUMENTED], ids=["lane", "documented"])
def test_every_connection_made_before_the_end_is_answered(tmp_path: Path, request_bytes: bytes) -> None:
    with a_node(tmp_path, {"DRAIN_SECONDS": "0"}) as node:
        _stop_under(node.start(), request_bytes)


@pytest.mark.servers
def test_so_it_is_with_several_workers(tmp_path: Path, own_postgres: PostgresServer) -> None:
    with a_database(own_postgres) as database:
        settings = {**database, "API_WORKERS": "2", "DRAIN_SECONDS": "0"}
        with a_node(tmp_path, settings) as node:
            _stop_under(node.start("--migrate"), REQUEST)


def _stop_under(node: Node, request: bytes) -> None:
    callers = Callers(node, request)
    wait_until(lambda: callers.asked > 200, what="load")
    assert node.stop() == 0
    callers.wait()
    unanswered = {end for end in callers.ends if end not in ("answered", "refused", "dropped")}
    assert unanswered == set(), callers.ends
    assert callers.ends["refused"] + callers.ends["dropped"] == CALLERS


def test_a_connection_made_before_the_end_may_ask_after_it(tmp_path: Path) -> None:
    """Accepted or not, it has half a second for its first request."""
    with a_node(tmp_path, {"DRAIN_SECONDS": "0"}) as node:
        node.start()
        connection = socket.create_connection(("127.0.0.1", node.port), timeout=10.0)
        stopping = threading.Thread(target=node.stop)
        stopping.start()
        wait_until(lambda: "draining" in node.log(), what="the stop")
        wait_until(lambda: not _accepts(node), what="the end of accepting")
        connection.sendall(REQUEST)
        answer = connection.recv(65536)
        stopping.join()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"\r\nconnection: close\r\n" in answer


def _accepts(node: Node) -> bool:
    try:
        socket.create_connection(("127.0.0.1", node.port), timeout=0.2).close()
    except OSError:
        return False
    return True
