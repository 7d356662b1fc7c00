"""Sources are asked again and again, and a broken one harms nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from structlog.testing import capture_logs

from traffic_manager.errors import SourceUnavailable
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.system_metrics import SystemMetrics

from .exposition import values


def a_round_of(sources: Mapping[str, Callable[[], None]]) -> SystemMetrics:
    return SystemMetrics(Metrics(), sources, interval_s=60)


def broken() -> None:
    raise SourceUnavailable


def test_sources_are_asked_at_once_and_then_each_interval() -> None:
    rounds = threading.Semaphore(0)
    measuring = SystemMetrics(Metrics(), {"count": lambda: rounds.release()}, interval_s=0.01)
    measuring.start()
    assert all(rounds.acquire(timeout=5) for _ in range(3))
    measuring.stop()


def test_stop_ends_the_thread_without_waiting_for_the_interval() -> None:
    asked = threading.Event()
    measuring = SystemMetrics(Metrics(), {"one": asked.set}, interval_s=3600)
    measuring.start()
    assert asked.wait(5)
    measuring.stop()
    assert "system-metrics" not in {thread.name for thread in threading.enumerate()}


def test_stop_before_start_does_nothing() -> None:
    SystemMetrics(Metrics(), {}, interval_s=1).stop()


def test_stop_does_not_wait_for_ever_for_a_source_that_hangs() -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        release.wait(30)

    measuring = SystemMetrics(Metrics(), {"hang": hang}, interval_s=1)
    measuring.start()
    assert hanging.wait(5)
    with capture_logs() as lines:
        measuring.stop(timeout_s=0.05)
    release.set()
    assert [line["event"] for line in lines] == ["system_metrics_hang"]


def test_the_uptime_is_kept_without_a_source_for_it() -> None:
    now = [10.0]
    metrics = Metrics(monotonic=lambda: now[0])
    now[0] = 13.0
    SystemMetrics(metrics, {}, interval_s=1).measure()
    assert values(metrics.render())["application_uptime_seconds"] == 3


def test_a_failing_source_does_not_stop_the_others() -> None:
    asked: list[str] = []
    a_round_of({"broken": broken, "good": lambda: asked.append("good")}).measure()
    assert asked == ["good"]


def test_a_failing_source_is_logged_once_until_it_works_again() -> None:
    failing = True

    def flaky() -> None:
        if failing:
            raise SourceUnavailable

    measuring = a_round_of({"flaky": flaky})
    with capture_logs() as lines:
        measuring.measure()
        measuring.measure()
        failing = False
        measuring.measure()
        measuring.measure()
    assert [line["event"] for line in lines] == ["metrics_source_failed", "metrics_source_recovered"]
    assert lines[0]["source"] == "flaky"


def test_only_a_bug_is_logged_with_its_stack() -> None:
    def bug() -> None:
        raise TypeError

    with capture_logs() as lines:
        a_round_of({"away": broken, "bug": bug}).measure()
    assert [line["exc_info"] for line in lines] == [False, True]
