"""No proxy of `deploy/proxies` sends a change a second time that may have been carried out, unless it has a name."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Self

import httpx2
import pytest

from tests.access.authority import SERVER, Authority
from tests.kit.proxies import PROXIES, Nginx, Proxy
from tests.node import a_key, path_of
from tests.servers.ports import HOST

pytestmark = [pytest.mark.kit, pytest.mark.timeout(400)]

CHANGE = path_of(a_key())
# Answered as a node does, so that a proxy has a connection that it may use again.
HEALTHY = ("/health/ready", "/health/live")


class Breaking(ThreadingHTTPServer):
    """What stands where a node would: it takes each request as a whole, and gives no answer to it."""

    daemon_threads = True

    def __init__(self, certificate: tuple[Path, Path], seen: list[tuple[str, str | None]]) -> None:
        super().__init__((HOST, 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.seen = seen
        self.is_silent = False
        self.is_over = Event()

    def __enter__(self) -> Self:
        self._thread = Thread(target=self.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that a proxy gives up are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Breaking

    def log_message(self, *_: object) -> None:
        """The test looks at `seen`."""

    def _take(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path in HEALTHY:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.server.seen.append((self.command, self.headers.get("Idempotency-Key")))
        if self.server.is_silent:
            self.server.is_over.wait()
        self.close_connection = True

    do_GET = do_PUT = do_POST = _take  # noqa: N815 names of its library


class Broken:
    """A proxy before two nodes that break off, and what reached them."""

    def __init__(self, proxy: Proxy, nodes: tuple[Breaking, Breaking]) -> None:
        self.proxy = proxy
        self._nodes = nodes

    def silence(self) -> None:
        """Let nodes hold what they are asked, in place of breaking off."""
        for node in self._nodes:
            node.is_silent = True

    def received_of(self, method: str, path: str, **headers: str) -> list[tuple[str, str | None]]:
        """Return what has reached the nodes when the caller of a request has learned that it failed."""
        seen = self._nodes[0].seen
        with self.proxy.client(timeout_s=60.0) as client:
            for healthy in HEALTHY * 2:
                assert client.get(healthy).status_code == 200
            seen.clear()
            body = None if method == "GET" else {"url": "https://payments.example.com/v2"}
            # HAProxy closes the connection if the node closed one that it had used before.
            with suppress(httpx2.RemoteProtocolError):
                answer: httpx2.Response = client.request(method, path, headers=headers, json=body)
                assert answer.status_code in (502, 503, 504)
        return list(seen)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, tuple[Path, Path]]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    return authority, authority.issue(*SERVER, is_server=True)


@pytest.fixture(params=PROXIES, ids=lambda proxy: proxy.name)
def broken(
    request: pytest.FixtureRequest, certificate: tuple[Authority, tuple[Path, Path]]
) -> Iterator[Broken]:
    authority, files = certificate
    seen: list[tuple[str, str | None]] = []
    with ExitStack() as opened:
        one, two = (opened.enter_context(Breaking(files, seen)) for _ in range(2))
        made = request.param((one.server_port, two.server_port), authority)
        yield Broken(opened.enter_context(made), (one, two))


def test_change_that_broke_off_reaches_one_node_once_or_has_a_name(broken: Broken) -> None:
    assert _is_made_once(broken.received_of("PUT", CHANGE), broken.proxy)


def test_change_without_an_answer_reaches_one_node_once_or_has_a_name(broken: Broken) -> None:
    broken.silence()
    assert _is_made_once(broken.received_of("PUT", CHANGE), broken.proxy)


def _is_made_once(received: list[tuple[str, str | None]], proxy: Proxy) -> bool:
    """Return whether nodes make of it one change at most. nginx gives one name to all that it sends."""
    names = {name for _, name in received}
    return len(names) == 1 and (None not in names if isinstance(proxy, Nginx) else len(received) == 1)


def test_change_with_a_name_is_sent_to_the_other_node_too_under_the_same(broken: Broken) -> None:
    received = broken.received_of("POST", "/api/v1/routes/activate", **{"Idempotency-Key": "one"})
    assert len(received) > 1
    assert set(received) == {("POST", "one")}


def test_read_that_broke_off_is_sent_to_the_other_node_too(broken: Broken) -> None:
    assert len(broken.received_of("GET", CHANGE)) > 1
