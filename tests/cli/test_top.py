"""`top`: figures of what nodes did between two looks."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest

from tests.cli.conftest import COMMAND, TIMEOUT_S, CommandLine
from tests.node import Node, a_key, a_route, resolve, wait_until
from traffic_manager.cli.figures import Sample, figures, sample_of


def a_sample(at_s: float, buckets: dict[float, float] | None = None, **values: float) -> Sample:
    return Sample(at_s, values, {"resolve_latency_seconds": buckets or {}})


def test_rates_are_of_the_time_between_two_looks() -> None:
    found = figures(
        a_sample(10.0, resolve_requests_total=100, resolve_cache_hit_total=90),
        a_sample(12.0, resolve_requests_total=300, resolve_cache_hit_total=240, tm_staleness_seconds=0.5),
    )
    assert (found.resolves, found.hit_ratio, found.staleness_s) == (100.0, 0.75, 0.5)


def test_node_that_was_started_again_has_done_what_its_counters_say() -> None:
    found = figures(a_sample(0.0, resolve_requests_total=500), a_sample(1.0, resolve_requests_total=30))
    assert found.resolves == 30.0


def test_what_nobody_asked_for_has_no_latency() -> None:
    found = figures(a_sample(0.0, {0.1: 5, float("inf"): 5}), a_sample(1.0, {0.1: 5, float("inf"): 5}))
    assert (found.resolve_p99_s, found.hit_ratio) == (None, None)


def test_quantiles_are_of_the_time_between_two_looks_and_lie_within_a_bucket() -> None:
    before = {0.1: 1000.0, 0.2: 1000.0, float("inf"): 1000.0}
    found = figures(a_sample(0.0, before), a_sample(1.0, {0.1: 1050.0, 0.2: 1100.0, float("inf"): 1100.0}))
    assert found.resolve_p50_s == pytest.approx(0.1)
    assert found.resolve_p99_s == pytest.approx(0.198)


def test_beyond_the_last_bucket_its_bound_is_all_that_is_known() -> None:
    found = figures(a_sample(0.0), a_sample(1.0, {0.1: 1.0, float("inf"): 100.0}))
    assert found.resolve_p99_s == 0.1


def test_metrics_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="not Traffic Manager's"):
        sample_of("# TYPE up gauge\nup 1\n")


@contextmanager
def resolving(node: Node) -> Iterator[None]:
    """Have somebody ask all the time."""
    is_over = Event()

    def ask() -> None:
        with node.client() as client:
            while not is_over.is_set():
                assert resolve(client, a_key()).status_code == 200

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        yield
        is_over.set()
        asking.result()


def test_once_prints_the_figures_of_a_node_under_load(tm: CommandLine, node: Node) -> None:
    with node.client() as client:
        client.post("/api/v1/routes", json=a_route()).raise_for_status()
        # Gauges are measured every other second.
        wait_until(lambda: "\ntm_mirror_routes 1.0\n" in client.get("/metrics").text, what="the gauge")
    with resolving(node):
        result = tm("top", "--node", node.url, "--once", "--every", "0.5", "--output", "json")
    assert result.code == 0, result.err
    [found] = result.document["nodes"]
    assert found["figures"]["resolves"] > 0
    assert 0 < found["figures"]["resolve_p50_s"] <= found["figures"]["resolve_p99_s"]
    assert found["figures"]["routes"] == 1
    assert [worker["revision"] for worker in found["workers"]] == [1]
    assert found["state"] == "ready"


def test_node_that_is_away_is_told_with_what_to_do(tm: CommandLine) -> None:
    result = tm("top", "--node", "http://127.0.0.1:1", "--once")
    assert (result.code, "cannot reach http://127.0.0.1:1" in result.err) == (5, True)


@contextmanager
def on_a_terminal(rows: int, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command on a terminal of 80 columns; yield it, and where what it shows can be read."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm"}
    with subprocess.Popen([*COMMAND, *words], stdin=its, stdout=its, stderr=its, env=environment) as running:
        os.close(its)
        try:
            yield running, ours
        finally:
            running.kill()
            os.close(ours)


def shown_until(text: bytes, terminal: int) -> bytes:
    """Return what is shown up to *text*."""
    seen = b""
    while text not in seen:
        assert select.select([terminal], [], [], TIMEOUT_S)[0], seen
        seen += os.read(terminal, 65_536)
    return seen


def test_one_node_that_is_away_does_not_hide_the_others(node: Node) -> None:
    with on_a_terminal(24, "top", "--node", "http://127.0.0.1:1", "--node", node.url) as (top, terminal):
        assert b"no answer from" in shown_until(b"ready", terminal)
        top.send_signal(signal.SIGINT)
        assert top.wait(TIMEOUT_S) == 130


def test_workers_that_do_not_fit_are_counted(node: Node) -> None:
    with on_a_terminal(21, "top", "--node", node.url) as (_, terminal):
        shown_until(b"workers that do not fit: 1", terminal)
