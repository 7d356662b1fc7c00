"""Two nodes of two workers let no more through together than one limit says, with Redis and without it, and whoever
asks too much takes nothing from others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from tests.node import Node, wait_until
from tests.promises.caller import Caller
from tests.promises.crew import keys
from tests.promises.places import a_node, killed, one_caller_per_worker
from tests.servers import RedisServer

pytestmark = pytest.mark.servers

QUOTA = 200
WORKERS = 2
(NOISY,) = keys(1, "noisy")
(QUIET,) = keys(1, "quiet")


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, database: dict[str, str], own_redis: RedisServer
) -> Iterator[list[Node]]:
    """Both nodes; the noisy tenant is limited."""
    folder = tmp_path_factory.mktemp("limited")
    settings = {**database, **own_redis.env(), "API_WORKERS": str(WORKERS), "LIMIT_NODES": "2"}
    with a_node(folder, settings) as first, a_node(folder, settings) as second:
        first.start("--migrate")
        second.start()
        # Nothing at first, so that all workers know the tenant to be limited before it is counted.
        set_limit(first, 0)
        for caller in callers_of([first, second]):
            wait_until(lambda: caller.resolve(NOISY).status == 429)  # noqa: B023 called at once
        set_limit(first, QUOTA)
        yield [first, second]


def set_limit(node: Node, resolves: int) -> None:
    answer = Caller(node).ask("PUT", "/api/v1/limits/tenant/noisy", {"resolves": resolves})
    assert answer.status == 200


def callers_of(nodes: list[Node]) -> list[Caller]:
    """Return a connection to each worker."""
    return [caller for node in nodes for caller in one_caller_per_worker(node, WORKERS).values()]


@contextmanager
def everybody_asking(nodes: list[Node]) -> Iterator[Counter[int]]:
    """Ask for the noisy tenant's route at every worker, without a pause; yield how often which status came."""
    statuses: Counter[int] = Counter()
    is_over = threading.Event()

    def ask(caller: Caller) -> None:
        while not is_over.is_set():
            status = caller.resolve(NOISY).status
            with counting:
                statuses[status] += 1

    counting = threading.Lock()
    threads = [threading.Thread(target=ask, args=[caller]) for caller in callers_of(nodes)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join(30.0)


def accepted_until(statuses: Counter[int], is_enough: Callable[[], bool]) -> tuple[int, float]:
    """Return how many were let through until *is_enough*, and in how many seconds."""
    began, before = monotonic(), statuses[404]
    wait_until(is_enough, 60.0, "enough requests")
    accepted = statuses[404] - before
    return accepted, monotonic() - began


def test_all_workers_together_let_one_limit_through(nodes: list[Node]) -> None:
    with everybody_asking(nodes) as statuses:
        accepted, took_s = accepted_until(statuses, lambda: statuses[404] >= 5 * QUOTA)
    assert statuses.keys() == {404, 429}
    # A second's worth is there at first.
    assert accepted <= 1.1 * QUOTA * (took_s + 1)


def test_other_tenants_are_answered_all_the_time(nodes: list[Node]) -> None:
    with everybody_asking(nodes) as statuses:
        wait_until(lambda: statuses[429] > 0, 60.0, "a refusal")
        quiet = {
            caller.resolve(QUIET).status
            for caller in (Caller(nodes[0]), Caller(nodes[1]))
            for _ in range(200)
        }
    assert quiet == {404}


def test_without_redis_each_worker_goes_on_with_its_part(nodes: list[Node], own_redis: RedisServer) -> None:
    with everybody_asking(nodes) as statuses:
        wait_until(lambda: statuses[429] > 0, 60.0, "a refusal")
        with killed(own_redis):
            before = statuses[404]
            accepted, took_s = accepted_until(statuses, lambda: statuses[404] >= before + 4 * QUOTA)
    assert statuses.keys() == {404, 429}
    assert accepted <= 1.1 * QUOTA * (took_s + 1)
