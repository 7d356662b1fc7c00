"""The proxy of the fault suite does to connections what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.faults.proxy import NONE, Proxy, Trouble
from tests.node import wait_until
from tests.servers.ports import HOST


class Echo(threading.Thread):
    """A server that sends back what it gets; `heard` is all of that."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self.heard = b""
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        # A cut connection is what is tried here.
        with connection, suppress(ConnectionError):
            while data := connection.recv(100):
                self.heard += data
                connection.sendall(data)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    made = Proxy(echo.port)
    yield made
    made.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, proxy.port), timeout=5.0) as connected:
        connected.sendall(b"first")
        assert connected.recv(100) == b"first"
        yield connected


def test_answers_come_later_by_the_latency(proxy: Proxy, client: socket.socket) -> None:
    proxy.set(Trouble(latency_s=0.2))
    began = time.monotonic()
    client.sendall(b"again")
    assert client.recv(100) == b"again"
    assert time.monotonic() - began >= 0.2


def test_what_is_held_passes_after_the_healing(proxy: Proxy, client: socket.socket) -> None:
    proxy.set(Trouble(holds_answers=True))
    client.sendall(b"held")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(100)
    proxy.set(NONE)
    client.settimeout(5.0)
    assert client.recv(100) == b"held"


def test_request_passes_and_its_answer_does_not(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.set(Trouble(cut_after=b"commit"))
    client.sendall(b"commit")
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    wait_until(lambda: echo.heard.endswith(b"commit"), what="the request at the server")


def test_refusal_resets_old_and_new_connections(proxy: Proxy, client: socket.socket) -> None:
    proxy.set(Trouble(refuses=True))
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    # Within, because the reset may come before the connection is there for us.
    with pytest.raises(ConnectionResetError), socket.create_connection((HOST, proxy.port), 5.0) as other:
        other.recv(100)
    assert proxy.opened() == 2
