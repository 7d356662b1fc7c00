"""Callers that ask without a pause through a proxy, and keep whatever was not answered as it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from threading import Event

import httpx2

from tests.node import Node, a_key, path_of, resolve, wait_until

READERS = 4
NAMED_ATTEMPTS = 5
# The machine of `make kit` may do other things besides.
START_TIMEOUT_S = 120.0
_numbers = count(1)
Ask = Callable[[httpx2.Client], httpx2.Response]


def started(node: Node, *arguments: str) -> Node:
    """Start a node, and wait for it with patience."""
    node.start(*arguments, wait_ready=False)
    wait_until(node.is_ready, START_TIMEOUT_S, f"readiness of the node; its log:\n{node.log()}")
    return node


class Load:
    """What came of it so far: `answered` by kind of caller, and `failures` in words."""

    def __init__(self, callers: Sequence[tuple[str, Ask]], client: Callable[[], httpx2.Client]) -> None:
        self.answered = {name: 0 for name, _ in callers}
        self.failures: list[str] = []
        self._client = client
        self._is_over = Event()

    def ask_on(self, name: str, ask: Ask) -> None:
        """Ask until it is over, each caller on connections of its own."""
        with self._client() as client:
            while not self._is_over.is_set():
                try:
                    answer = ask(client)
                except httpx2.HTTPError as error:
                    self.failures.append(f"{name}: {error!r}")
                    continue
                if answer.is_success:
                    self.answered[name] += 1
                else:
                    self.failures.append(f"{name}: {answer.status_code} {answer.text}")

    def wait_for_more(self, answers: int = 50, timeout_s: float = 60.0) -> None:
        """Wait until each kind of caller got so many more answers."""
        wanted = {name: number + answers for name, number in self.answered.items()}
        wait_until(
            lambda: all(self.answered[name] >= wanted[name] for name in wanted), timeout_s, str(wanted)
        )

    def end(self) -> None:
        self._is_over.set()


@contextmanager
def a_load(client: Callable[[], httpx2.Client], change: Ask | None = None) -> Iterator[Load]:
    """Run readers of `a_key()`, and one who makes *change*, until the block ends."""
    readers = [("readers", lambda client: resolve(client, a_key()))] * READERS
    callers: list[tuple[str, Ask]] = [*readers, *([("writer", change)] if change else [])]
    load = Load(callers, client)
    with ThreadPoolExecutor(len(callers)) as threads:
        running = [threads.submit(load.ask_on, name, ask) for name, ask in callers]
        try:
            load.wait_for_more(20)
            yield load
        finally:
            load.end()
        for each in running:
            each.result()


def a_change(client: httpx2.Client) -> httpx2.Response:
    """Give a route another URL than it ever had."""
    return client.put(
        path_of(a_key("changed")), json={"url": f"https://changed.example.com/{next(_numbers)}"}
    )


def a_named_change(client: httpx2.Client) -> httpx2.Response:
    """The same under a name, by which it is made once: sent again after 503, as callers should."""
    number = next(_numbers)
    named = {"Idempotency-Key": f"named-{number}"}
    body = {"url": f"https://named.example.com/{number}"}
    for _ in range(NAMED_ATTEMPTS):
        answer = client.put(path_of(a_key("named")), json=body, headers=named)
        if "traffic-manager" not in answer.text or answer.status_code != 503:
            break
    return answer
