"""What is to be asked of which server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlencode, urlsplit

ENV = "bench"


@dataclass(frozen=True)
class Server:
    """Where the server is, and what is shown to it."""

    url: str
    api_key: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None

    @property
    def is_tls(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (443 if self.is_tls else 80)

    @property
    def api_path(self) -> str:
        return urlsplit(self.url).path.rstrip("/") + "/api/v1"

    @property
    def headers(self) -> str:
        """What stands in every request."""
        authority = urlsplit(self.url).netloc.rpartition("@")[2]
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        return f"Host: {authority}\r\nUser-Agent: traffic-manager-bench\r\n{key}"


@dataclass(frozen=True)
class Load:
    """So many *resolves* and *changes* a second of *routes* routes of *tenant* and *service*, over *connections*,
    while *watchers* watch them. Changes have the routes lead to *url* and a number. *first_due*: which part of an
    interval this begins after others."""

    server: Server
    tenant: str
    service: str
    routes: int
    url: str
    resolves: float
    changes: float
    watchers: int
    connections: int
    warm_up_s: float
    duration_s: float
    timeout_s: float
    number: int = 0
    first_due: float = 0.0

    def part(self, number: int, of: int) -> Self:
        """Return the part of process *number*: those of all *of* processes together are this load."""
        return replace(
            self,
            resolves=self.resolves / of,
            changes=self.changes / of,
            watchers=_share(self.watchers, number, of),
            connections=_share(self.connections, number, of),
            number=number,
            first_due=number / of,
        )


def _share(things: int, number: int, of: int) -> int:
    return things * (number + 1) // of - things * number // of


class Requests:
    """The requests of a load, as they are sent."""

    def __init__(self, load: Load) -> None:
        server, self._url = load.server, load.url
        names = {"tenant": load.tenant, "service": load.service, "env": ENV}
        path = "/".join(quote(name, safe="") for name in names.values())
        end = f" HTTP/1.1\r\n{server.headers}"
        self._resolve = f"GET {server.api_path}/routes/resolve?{urlencode(names)}&version=".encode()
        self._change = f"PUT {server.api_path}/routes/{path}/".encode()
        self._end = f"{end}\r\n".encode()
        self._change_end = f"{end}Content-Type: application/json\r\n".encode()
        watched = urlencode({"tenant": load.tenant, "service": load.service})
        self._watch = (
            f"GET {server.api_path}/changes/stream?{watched}{end}Accept: text/event-stream\r\n".encode()
        )
        self._run = f"{load.service}-{load.number}".encode()

    def resolve(self, route: int) -> bytes:
        """Ask which URL serves a route."""
        return b"%b%b%b" % (self._resolve, version(route).encode(), self._end)

    def change(self, route: int, serial: int, due_us: int) -> bytes:
        """Have a route lead to where no change has led before, once."""
        body = b'{"url":"%b/%d"}' % (self._url.encode(), due_us)
        once = b'Idempotency-Key: "%b-%d"\r\nContent-Length: %d\r\n\r\n' % (self._run, serial, len(body))
        return b"%b%b%b%b%b" % (self._change, version(route).encode(), self._change_end, once, body)

    def watch(self, after: bytes | None) -> bytes:
        """Follow the changes from now on, or after those that are known."""
        known = b"Last-Event-ID: %b\r\n" % after if after else b""
        return b"%b%b\r\n" % (self._watch, known)


def version(route: int) -> str:
    """Return the version by which the routes of a load differ."""
    return f"r{route}"
