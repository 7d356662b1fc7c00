"""Several processes, one scrape: right sums, no ghosts, and restarts that nobody sees."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from traffic_manager.monitoring.metric_files import clear, forget_worker
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.resolve_counts import ResolveOutcome

from .exposition import values

REQUESTS = 'api_requests_total{endpoint="/x",method="GET",status_code="200"}'


def _work(directory: Path, index: int, commands: Connection) -> None:
    """Be a worker process: count and scrape as told."""
    metrics = Metrics(directory, index)
    commands.send("up")
    while True:
        name, amount = commands.recv()
        commands.send(_COMMANDS[name](metrics, amount))


def _count(metrics: Metrics, amount: int) -> None:
    for _ in range(amount):
        metrics.resolved(ResolveOutcome.HIT, 0.00003)
        metrics.observe_request("GET", "/x", 200, 0.002)
        metrics.written(True, 0.002)


def _set_gauges(metrics: Metrics, amount: int) -> None:
    metrics.db_pool_size.set(amount)
    metrics.tm_staleness_seconds.set(amount)
    metrics.tm_applied_revision.set(amount)
    metrics.tm_mirror_routes.set(amount)


def _scrape(metrics: Metrics, _: int) -> dict[str, float]:
    return values(metrics.render())


_COMMANDS: dict[str, Callable[[Metrics, int], object]] = {
    "count": _count,
    "set gauges": _set_gauges,
    "scrape": _scrape,
}


@dataclass
class Worker:
    process: multiprocessing.process.BaseProcess
    commands: Connection

    # Any: each command has an answer of its own.
    def do(self, command: str, amount: int = 0) -> Any:
        self.commands.send((command, amount))
        return self.commands.recv()

    def scrape(self) -> dict[str, float]:
        shown: dict[str, float] = self.do("scrape")
        return shown

    def kill(self) -> None:
        self.process.kill()  # SIGKILL
        self.process.join()
        self.commands.close()


class Workers:
    """The parent of the workers of one directory."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        # Like the server's parent, the fork server has the modules loaded and no threads.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])

    def start(self, index: int) -> Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._directory, index, theirs), daemon=True)
        process.start()
        theirs.close()
        worker = Worker(process, ours)
        self._stack.callback(worker.kill)
        assert ours.recv() == "up"
        return worker


@contextmanager
def _workers(directory: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(directory, stack)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    clear(tmp_path)
    with _workers(tmp_path) as started:
        yield started


def test_any_worker_shows_the_sum_over_all(workers: Workers) -> None:
    first, second = workers.start(0), workers.start(1)
    first.do("count", 3)
    second.do("count", 4)
    for shown in (first.scrape(), second.scrape()):
        assert shown[REQUESTS] == 7
        assert shown["resolve_cache_hit_total"] == 7
        assert shown["resolve_latency_seconds_count"] == 7
        assert shown["write_latency_seconds_count"] == 7


def test_a_killed_worker_loses_no_counts_and_leaves_no_ghost_gauges(workers: Workers, tmp_path: Path) -> None:
    first, second = workers.start(0), workers.start(1)
    first.do("count", 3)
    first.do("set gauges", 10)
    second.do("count", 4)
    second.do("set gauges", 99)
    second.kill()
    forget_worker(tmp_path, 1)
    shown = first.scrape()
    assert shown[REQUESTS] == 7
    assert shown["resolve_requests_total"] == 7
    assert shown["db_pool_size"] == 10
    assert shown["tm_staleness_seconds"] == 10


def test_a_restarted_worker_goes_on_counting_and_begins_its_gauges_anew(workers: Workers) -> None:
    first, second = workers.start(0), workers.start(1)
    first.do("set gauges", 10)
    second.do("count", 4)
    second.do("set gauges", 99)
    second.kill()
    again = workers.start(1)
    again.do("count", 1)
    shown = first.scrape()
    assert shown[REQUESTS] == 5
    assert shown["resolve_requests_total"] == 5
    assert shown["db_pool_size"] == 10


def test_gauges_join_as_documented(workers: Workers) -> None:
    first, second = workers.start(0), workers.start(1)
    first.do("set gauges", 10)
    second.do("set gauges", 30)
    shown = first.scrape()
    assert shown["db_pool_size"] == 40
    assert shown["tm_staleness_seconds"] == 30
    assert shown["tm_mirror_routes"] == 30
    assert shown["tm_applied_revision"] == 10


def test_fifty_restarts_leave_the_same_files_and_never_take_a_count_back(
    workers: Workers, tmp_path: Path
) -> None:
    first, second = workers.start(0), workers.start(1)
    second.do("count", 1)
    files = _sizes(tmp_path)
    for restart in range(50):
        second.kill()
        forget_worker(tmp_path, 1)
        second = workers.start(1)
        assert first.scrape()[REQUESTS] == restart + 1
        second.do("count", 1)
    assert first.scrape()["resolve_requests_total"] == 51
    assert _sizes(tmp_path) == files


def test_a_scrape_while_workers_are_killed_and_started_never_fails(workers: Workers) -> None:
    first = workers.start(0)
    for _ in range(10):
        worker = workers.start(1)
        worker.commands.send(("count", 1_000_000))
        assert first.scrape()["resolve_requests_total"] >= 0
        worker.kill()


def test_uptime_is_the_servers_and_outlives_its_workers(tmp_path: Path) -> None:
    now = [1000.0]
    clear(tmp_path, monotonic=lambda: now[0])
    now[0] = 1060.0
    late_worker = Metrics(tmp_path, 3, monotonic=lambda: now[0])
    assert values(late_worker.render())["application_uptime_seconds"] == 60


def test_a_new_start_of_the_server_begins_at_zero(tmp_path: Path) -> None:
    clear(tmp_path)
    Metrics(tmp_path).resolved(ResolveOutcome.HIT, 0.1)
    clear(tmp_path)
    assert values(Metrics(tmp_path).render())["resolve_requests_total"] == 0


def test_clearing_leaves_other_peoples_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    clear(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "keep me"


def test_forgetting_one_worker_leaves_the_others_gauges(tmp_path: Path) -> None:
    clear(tmp_path)
    Metrics(tmp_path, 1).db_pool_size.set(1)
    eleventh = Metrics(tmp_path, 11)
    eleventh.db_pool_size.set(5)
    forget_worker(tmp_path, 1)
    assert values(eleventh.render())["db_pool_size"] == 5


def _sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}
