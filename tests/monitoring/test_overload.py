"""When all is late at a worker: only under a wait that stands; then a part of what memory answers is refused."""

from __future__ import annotations

import pytest

from tests.monitoring.exposition import values
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import Overload


class Worker:
    """A worker whose timers come as late as a test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.metrics = Metrics()
        self.overload = Overload(self.metrics, lambda: self.now)

    def go_on(self, seconds: float, late_s: float) -> None:
        """Let time pass with timers that are so late."""
        for _ in range(round(seconds / 0.025)):
            self.now += 0.025
            self.overload.saw(late_s)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_good_health_is_no_overload(worker: Worker) -> None:
    worker.go_on(10.0, 0.02)
    assert not worker.overload.stands


def test_a_wait_that_stands_is(worker: Worker) -> None:
    worker.go_on(1.0, 0.15)
    assert worker.overload.stands
    assert worker.overload.standing_s == 0.15


def test_it_is_over_within_a_second(worker: Worker) -> None:
    worker.go_on(10.0, 0.3)
    worker.go_on(1.0, 0.005)
    assert not worker.overload.stands


def test_a_moment_is_no_overload_however_long(worker: Worker) -> None:
    for _ in range(10):
        worker.now += 5.0
        worker.overload.saw(5.0)
        assert not worker.overload.stands
        worker.go_on(0.2, 0.0)


@pytest.mark.parametrize("late_s", [0.005, 0.15])
def test_between_the_bounds_it_stays_as_it_is(worker: Worker, late_s: float) -> None:
    worker.go_on(1.0, late_s)
    before = worker.overload.stands
    worker.go_on(5.0, 0.07)
    assert worker.overload.stands is before


def test_of_resolves_that_memory_can_answer_one_in_four_is_refused_and_counted(worker: Worker) -> None:
    refused = [worker.overload.refuses_resolve() for _ in range(400)]
    assert sum(refused) == 100
    assert values(worker.metrics.render())['tm_shed_total{class="resolves"}'] == 100.0
