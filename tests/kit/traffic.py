"""Callers of every kind: those who resolve, change, list and watch, and those who are turned away."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

import httpx2

from tests.access.issue import bearer
from tests.node import Node, a_key, a_route, path_of, resolve
from tests.servers.ports import HOST

Habit = Callable[[httpx2.Client], None]
ROUTES = "/api/v1/routes"
_KNOWN = 40


@dataclass(frozen=True)
class Keys:
    """API keys: of one who may change everything, and of one who may resolve elsewhere."""

    editor: str
    elsewhere: str


@dataclass
class Traffic:
    """The callers of *nodes*. *pace* multiplies how often they call, and may be changed at any time."""

    nodes: Sequence[Node]
    keys: Keys
    pace: float = 1.0
    _stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def going(self) -> Iterator[Traffic]:
        """Let all of them call until the block ends."""
        threads = [threading.Thread(target=self._carry_out, args=habit) for habit in self._habits()]
        threads += [threading.Thread(target=self._watch, args=(node,)) for node in self.nodes]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()

    def _habits(self) -> list[tuple[Habit, Node, float]]:
        """Return what is done, where, and after which pause in seconds."""
        each: list[tuple[Habit, float]] = [
            (_resolves, 0.03),
            (_changes, 0.1),
            (_asks_for_what_is_not_there, 0.2),
            (_asks_in_batches, 0.5),
            (_asks_the_database, 0.3),
            (_makes_mistakes, 1.0),
            (_reads_lists, 0.2),
            (_is_turned_away(self.keys.elsewhere), 1.0),
        ]
        plain = [(_does_not_speak_tls(node), node, 1.0) for node in self.nodes]
        return [(habit, node, pause) for node in self.nodes for habit, pause in each] + plain

    def _carry_out(self, habit: Habit, node: Node, pause_s: float) -> None:
        with node.client(timeout_s=3.0) as client:
            client.headers.update(bearer(self.keys.editor))
            while not self._stopping.wait(pause_s / self.pace * random.uniform(0.7, 1.3)):
                with suppress(httpx2.HTTPError, OSError):
                    habit(client)

    def _watch(self, node: Node) -> None:
        """Read a stream until it ends, and again."""
        with node.client(timeout_s=3.0) as client:
            client.headers.update(bearer(self.keys.editor))
            while not self._stopping.wait(0.2):
                with (
                    suppress(httpx2.HTTPError),
                    client.stream("GET", "/api/v1/changes/stream", params={"tenant": "team-a"}) as stream,
                ):
                    for _ in stream.iter_lines():
                        if self._stopping.is_set():
                            break


_numbers = count(1)


def _some_key() -> dict[str, str]:
    return a_key(service=f"service-{random.randrange(_KNOWN)}")


def _resolves(client: httpx2.Client) -> None:
    answer = resolve(client, _some_key())
    if random.random() < 0.1 and "ETag" in answer.headers:
        resolve(client, _some_key(), if_none_match=answer.headers["ETag"])


def _asks_for_what_is_not_there(client: httpx2.Client) -> None:
    resolve(client, a_key(service="no-such-service"))


def _asks_in_batches(client: httpx2.Client) -> None:
    client.post(f"{ROUTES}/resolve", json={"keys": [_some_key() for _ in range(5)]})


def _asks_the_database(client: httpx2.Client) -> None:
    resolve(client, _some_key(), cache_control="no-cache")


def _changes(client: httpx2.Client) -> None:
    """Put a route, now and then twice as one who got no answer; switch it off and on; or delete it."""
    key, number = _some_key(), next(_numbers)
    headers = {"Idempotency-Key": f"change-{id(client)}-{number}"}
    for _ in range(2 if number % 8 == 0 else 1):
        client.put(path_of(key), json={"url": f"https://payments.example.com/{number}"}, headers=headers)
    if number % 5 == 0:
        client.post(f"{ROUTES}/deactivate", json=key)
        client.post(f"{ROUTES}/activate", json=key)
    if number % 20 == 0:
        client.delete(path_of(key))


def _makes_mistakes(client: httpx2.Client) -> None:
    client.post(ROUTES, json=a_route(**_some_key()))
    client.post(ROUTES, json=a_route(url="ftp://payments.example.com"))
    client.get("/nowhere")


def _reads_lists(client: httpx2.Client) -> None:
    client.get(ROUTES, params={"tenant": "team-a"})
    client.get("/api/v1/changes", params={"tenant": "team-a"})


def _is_turned_away(elsewhere: str) -> Habit:
    def knock(client: httpx2.Client) -> None:
        resolve(client, _some_key(), authorization="Bearer tmk_made_up")
        resolve(client, _some_key(), **bearer(elsewhere))

    return knock


def _does_not_speak_tls(node: Node) -> Habit:
    def knock(_: httpx2.Client) -> None:
        with socket.create_connection((HOST, node.port), timeout=2.0) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(100)

    return knock
