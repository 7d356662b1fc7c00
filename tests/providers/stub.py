"""An identity provider for tests that does what it is told: answers, hangs, or answers wrongly, over real TLS."""

from __future__ import annotations

import json
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from tests.access.authority import SERVER, Authority
from tests.servers.ports import HOST

Json = dict[str, Any]
# As long as a fetch may take in a test that does not ask for less: nothing is late on a busy machine.
PATIENCE_S = 60.0
CONFIGURATION = "/.well-known/openid-configuration"
JWKS = "/jwks"


class Stub:
    """One with *keys* (a JWKS). *answers* has what it answers instead, by path; *asked* how often it was asked, over
    how many *connections*."""

    def __init__(self, authority: Authority, keys: Json) -> None:
        self.keys = keys
        self.asked: Counter[str] = Counter()
        self.connections = 0
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.go_on = Event()
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue(*SERVER, is_server=True))
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://{HOST}:{self._server.server_port}"
        self.ca_file = authority.file
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def described(self, **changes: Any) -> Json:
        """Return its entry in the settings' file."""
        entry = {
            "name": "corp",
            "issuer": self.url,
            "audiences": ["traffic-manager"],
            "algorithms": ["RS256"],
            "grants": {"groups": {"team-a": ["editor:team-a/*"], "ops": ["viewer:*/*"]}},
            "ca_file": str(self.ca_file),
        }
        return {**entry, **changes}

    def document(self, path: str) -> bytes:
        """Return what it answers at *path* when nothing else is to be answered."""
        found: Json = {CONFIGURATION: {"issuer": self.url, "jwks_uri": self.url + JWKS}, JWKS: self.keys}
        return json.dumps(found[path]).encode()

    def hang(self, request: BaseHTTPRequestHandler) -> None:
        """Answer nothing until it goes on."""
        self.go_on.wait(30.0)

    def drip(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a byte now and then, until it goes on."""
        request.send_response(200)
        request.end_headers()
        with suppress(OSError):
            while not self.go_on.wait(0.05):
                request.wfile.write(b" ")
        request.close_connection = True

    def start(self) -> None:
        """Answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more: connections are refused."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()


def answer(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return what answers so."""

    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return send


def _handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections, if the client does

        def setup(self) -> None:
            stub.connections += 1
            super().setup()

        def do_GET(self) -> None:
            stub.asked[self.path] += 1
            send = stub.answers.get(self.path) or answer(stub.document(self.path))
            send(self)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Handler


@contextmanager
def a_provider(authority: Authority, keys: Json) -> Iterator[Stub]:
    """Start and stop one."""
    stub = Stub(authority, keys)
    stub.start()
    try:
        yield stub
    finally:
        stub.stop()
