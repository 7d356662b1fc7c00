"""Two servers over one mirror: one with the lane, one whose every request goes to the documented routes.

In this process, so that tests can change the mirror under both at once, and see what has been read of a request.
There is nothing behind the mirror: had a resolve asked for a database, it would have failed.
"""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields, replace
from functools import partial
from threading import Condition, Event, Thread
from typing import Any, cast

from fastapi import FastAPI

from tests.node import a_key, wait_until
from traffic_manager.access.client_names import ClientCertificate
from traffic_manager.access.limiter import Limiter
from traffic_manager.access.limits import Limits, Subject
from traffic_manager.api.access import Gate
from traffic_manager.api.app import build_app
from traffic_manager.api.connection import Connection
from traffic_manager.api.context import Parts
from traffic_manager.api.lane import LaneConnection
from traffic_manager.api.origin import TrustedProxies
from traffic_manager.api.server import Server, bind
from traffic_manager.api.telling_lane import lane_of
from traffic_manager.api.turns import AT_ONCE, PATIENCE_S, Turns
from traffic_manager.api.write_lane import WriteLane
from traffic_manager.config.loading import load_settings
from traffic_manager.monitoring.access_log import AccessLog
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import Overload
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.ports import Entry, Head, Limit, Table
from traffic_manager.routing.resolver import Resolver

TIMEOUT_S = 10.0
EPOCH = "ab" * 16
HEAD = Head(EPOCH, 1, 7)
URL = "https://payments.example.com/v2?a=\u00fc&b=\"'"
# Of 24 hex digits are the ids that the server makes, and no others here.
_MADE_ID = re.compile(rb"\b[0-9a-f]{24}\b")
_DATE = re.compile(rb"^date: .*\r\n", re.MULTILINE)


class FakeFollower:
    """Says how stale the mirror is."""

    def __init__(self) -> None:
        self.age_s: int | None = None

    def stale_age_s(self) -> int | None:
        """Return what the test has set."""
        return self.age_s

    async def reached(self, _revision: int, _timeout_s: float) -> bool:
        """Return True: tests ask for revisions that the mirror has."""
        return True

    def tell(self, _revision: int, _timeout_s: float, told: Callable[[], object]) -> None:
        """Tell at once."""
        told()


class TimedTurns(Turns):
    """Turns for whom a round takes as long as a test says, whatever the machine is busy with."""

    def __init__(self, metrics: Metrics, overload: Overload) -> None:
        self._now = 0.0
        super().__init__(metrics, overload, lambda: self._now)
        self.pace()

    def pace(self, round_s: float = 0.0, at_once: int = AT_ONCE) -> None:
        """Let so many begin in a round, which takes *round_s*: without it nobody waits too long."""
        self._round_s, self._at_once = round_s, at_once

    def go_on(self) -> None:
        """Let those begin who wait."""
        self._next_round()

    def _next_round(self) -> None:
        self._now += self._round_s
        super()._next_round()


class Twin:
    """One of the two servers. *protocol_of* makes its protocol."""

    def __init__(self, parts: Parts, protocol_of: Callable[[Parts], Callable[..., Connection]]) -> None:
        metrics = Metrics()
        overload = Overload(metrics)
        self.turns = TimedTurns(metrics, overload)
        self.parts = replace(parts, metrics=metrics, overload=overload, turns=self.turns)
        self.connections: list[Connection] = []
        self.certificate: ClientCertificate | None = None  # that clients show, as if over TLS
        self._reading = Condition()
        self._read_bytes: dict[tuple[str, int] | None, int] = {}
        self._make = protocol_of(self.parts)
        self.listener = bind("127.0.0.1", 0)
        self.port: int = self.listener.getsockname()[1]
        app = build_app(self.parts, _no_lifespan)
        self.server = Server(app, self._connection, 0.0, draining=lambda: None, closing=lambda: None)
        self._thread = Thread(target=self.server.serve_on, args=[self.listener], daemon=True)

    def _connection(self, *arguments: Any, **more: Any) -> Connection:  # Any: uvicorn's own
        connection = self._make(*arguments, **more)
        connection.certificate = self.certificate
        self.connections.append(connection)
        receive = connection.data_received

        def data_received(data: bytes) -> None:
            receive(data)
            with self._reading:
                name = connection.client
                self._read_bytes[name] = self._read_bytes.get(name, 0) + len(data)
                self._reading.notify_all()

        connection.data_received = data_received  # type: ignore[method-assign] # to know when it has read
        return connection

    def connect(self) -> socket.socket:
        """Return a new connection to it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, *parts: bytes) -> bytes:
        """Return all that is answered to *parts*, each sent when the one before has been read, and nothing more
        after them."""
        with self.connect() as connection:
            with self._reading:  # another client may have had the same port
                self._read_bytes.pop(connection.getsockname(), None)
            sent = 0
            for part in parts[:-1]:
                connection.sendall(part)
                sent += len(part)
                self._wait_until_read(connection, sent)
            connection.sendall(parts[-1])
            connection.shutdown(socket.SHUT_WR)
            return all_of(connection)

    def _wait_until_read(self, connection: socket.socket, wanted: int) -> None:
        name = connection.getsockname()
        with self._reading:
            has_read = self._reading.wait_for(lambda: self._read_bytes.get(name, 0) >= wanted, TIMEOUT_S)
        assert has_read, "the server does not read"

    @contextmanager
    def one_at_a_time(self) -> Iterator[Twin]:
        """Begin one request in each round, which takes a fifth of what anybody waits, while the block runs."""
        self.turns.pace(round_s=PATIENCE_S / 5, at_once=1)
        try:
            yield self
        finally:
            self.turns.pace()

    @contextmanager
    def without_turns(self) -> Iterator[Twin]:
        """Let requests wait for their turn until the block ends."""
        self.turns.pace(at_once=0)
        try:
            yield self
        finally:
            self.turns.pace()
            self.connections[-1].loop.call_soon_threadsafe(self.turns.go_on)

    def answers_together(self, requests: Sequence[bytes]) -> list[bytes]:
        """Return the answers to *requests* that come at the same time, each on a connection of its own, in this
        order."""
        before = len(self.connections)
        clients = [self.connect() for _ in requests]
        wait_until(lambda: len(self.connections) == before + len(clients), what="all connections")
        is_held, goes_on = Event(), Event()

        def hold() -> None:
            is_held.set()
            goes_on.wait(TIMEOUT_S)

        self.connections[-1].loop.call_soon_threadsafe(hold)
        is_held.wait(TIMEOUT_S)
        for client, request in zip(clients, requests, strict=True):
            client.sendall(request)
        goes_on.set()
        return [_answer_on(client) for client in clients]

    def start(self) -> None:
        """Serve."""
        self._thread.start()
        wait_until(lambda: self.server.started, what="the twin")

    def stop(self) -> None:
        """End."""
        self.server.should_exit = True
        self._thread.join(TIMEOUT_S)


class Twins:
    """Both, and what they serve: the mirror, and how stale it is."""

    def __init__(self, gate: Gate, limiter: Limiter | None = None, access_log: float = 0.0) -> None:
        self.follower = FakeFollower()
        self.mirror = Mirror(max_routes=100)
        self.serve({"v2": Entry(URL, 5), "strange": Entry(URL, 6)})
        nothing = cast("Any", None)
        follower = cast("Follower", self.follower)
        needed = {
            "settings": load_settings(env_file=None),
            "mirror": self.mirror,
            "follower": follower,
            "resolver": Resolver(self.mirror, follower, nothing, nothing, nothing, nothing),
            "gate": gate,
            "limiter": limiter or a_limiter(),
            "proxies": TrustedProxies([]),
            "access_log": AccessLog(access_log),
        }
        parts = Parts(**{**dict.fromkeys((part.name for part in fields(Parts)), nothing), **needed})
        self.lane = Twin(parts, in_lanes)
        self.documented = Twin(parts, lambda parts: partial(Connection, parts.metrics, parts.turns))

    def serve(
        self, entries: dict[str, Entry], head: Head = HEAD, *, is_fork: bool = False, beyond: int = 0
    ) -> None:
        """Let the mirror hold *entries*, by their versions; with routes *beyond* them it is bounded."""
        by_key = {"/".join(a_key(version=version).values()): entry for version, entry in entries.items()}
        self.mirror.load(Table(head, b"", by_key, [], 0, beyond), is_other_history=is_fork)

    def answers(self, *parts: bytes) -> tuple[bytes, bytes]:
        """Return what both answer to the same bytes, comparably; the lane gets them in *parts*."""
        return comparable(self.lane.exchange(*parts)), comparable(self.documented.exchange(b"".join(parts)))

    def show(self, certificate: ClientCertificate | None) -> None:
        """Let the clients of both show *certificate*."""
        self.lane.certificate = self.documented.certificate = certificate


def _answer_on(client: socket.socket) -> bytes:
    with client:
        return client.recv(65536)


def a_limiter(*limits: Limit) -> Limiter:
    """Return what lets everything through but for these *limits*."""
    kept = Limits({subject: Limit(subject, "") for subject in Subject})
    limiter = Limiter(kept, 1)
    kept.load(limits)
    return limiter


def in_lanes(parts: Parts) -> partial[LaneConnection]:
    """Return what makes connections with both lanes."""
    return partial(LaneConnection, lane_of(parts), WriteLane(parts), parts.metrics, parts.turns)


def all_of(connection: socket.socket) -> bytes:
    """Return what comes until the server closes."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def comparable(answer: bytes) -> bytes:
    """Return *answer* without what no two answers share: the time, and ids that the server made."""
    return _MADE_ID.sub(b"MADE", _DATE.sub(b"", answer))


@asynccontextmanager
async def _no_lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield


@contextmanager
def the_twins(
    gate: Gate | None = None, limiter: Limiter | None = None, access_log: float = 0.0
) -> Iterator[Twins]:
    """Start and stop them. *gate*: whom they let in; without one everybody. *limiter*: what it lets through of both
    together; without one everything. *access_log*: of which share of the requests they write a line."""
    twins = Twins(gate or Gate(None), limiter, access_log)
    for twin in (twins.lane, twins.documented):
        twin.start()
    try:
        yield twins
    finally:
        for twin in (twins.lane, twins.documented):
            twin.stop()
