"""A proxy before the real server that loses batches on demand."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Fault(Enum):
    """What happens to a batch."""

    LOSE_REQUEST = auto()  # the connection breaks before the server sees it
    LOSE_ANSWER = auto()  # the server does it, and the connection breaks
    UNAVAILABLE = auto()  # 503 instead of passing it on


class Proxy(ThreadingHTTPServer):
    """Passes everything on to the server, but for the batches that *faults* names by their number (from 1);
    number 0 stands for all others."""

    daemon_threads = True

    def __init__(self, port: int, faults: Mapping[int, Fault]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target_port = port
        self.faults = faults
        self.batches = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self) -> Fault | None:
        self.batches += 1
        return self.faults.get(self.batches, self.faults.get(0))


_PASSED_ON = ("Content-Type", "Authorization", "Idempotency-Key")


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(*self._pass_on("GET", None))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.next_fault()
        if fault is Fault.UNAVAILABLE:
            return self._answer(503, {"Retry-After": "0"}, b"busy")
        if fault is not Fault.LOSE_REQUEST:
            answer = self._pass_on("POST", body)
            if fault is None:
                return self._answer(*answer)
        self.close_connection = True
        return None

    def _pass_on(self, method: str, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target_port)
        passed = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        connection.request(method, self.path, body, passed)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kept = {
            name: value
            for name, value in answer.getheaders()
            if name.lower().startswith(("tm-", "content-t"))
        }
        return answer.status, kept, content

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def losing(port: int, faults: Mapping[int, Fault]) -> Iterator[Proxy]:
    """Run a proxy before the server on *port*."""
    with Proxy(port, faults) as proxy:
        thread = Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
