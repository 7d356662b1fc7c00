"""What is refused, and when: only under a wait that stands, the dearest first, and less again as it falls."""

from __future__ import annotations

import pytest

from tests.monitoring.exposition import values
from traffic_manager.monitoring.label_values import Load
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import MOST, STEPS, Overload

IN_ORDER = [Load.LISTS, Load.WRITES, Load.MISSES, Load.RESOLVES]


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

    def steps(self, number: int, late_s: float = 0.15) -> None:
        """Let so much time pass that it is thought over so often."""
        for _ in range(4 * number):
            self.now += 0.13
            self.overload.saw(late_s)

    def refused(self) -> list[Load]:
        """Return which kinds are refused now, be it not every time."""
        return [load for load in IN_ORDER if any(self.overload.refuses(load) for _ in range(STEPS))]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_nothing_is_refused_in_good_health(worker: Worker) -> None:
    worker.go_on(10.0, 0.02)
    assert worker.refused() == []


def test_one_kind_after_the_other_is_refused_while_the_wait_stands_and_probes_never(worker: Worker) -> None:
    seen = []
    for _ in range(MOST + 3):
        worker.steps(1)
        seen.append(worker.refused())
    assert seen == [IN_ORDER[: step // STEPS + 1] for step in range(MOST)] + [IN_ORDER] * 3


def test_of_each_kind_a_part_is_refused_before_all_of_it(worker: Worker) -> None:
    shares = []
    for _ in range(STEPS + 1):
        shares.append(sum(worker.overload.refuses(Load.LISTS) for _ in range(100)))
        worker.steps(1)
    assert shares == [0, 25, 50, 75, 100]


def test_all_is_taken_again_within_five_seconds(worker: Worker) -> None:
    worker.go_on(10.0, 0.3)
    worker.go_on(5.0, 0.005)
    assert worker.refused() == []


def test_a_moment_is_no_overload_however_long(worker: Worker) -> None:
    for _ in range(10):
        worker.now += 5.0
        worker.overload.saw(5.0)
        assert worker.refused() == []
        worker.go_on(0.2, 0.0)


def test_between_the_bounds_it_stays_as_it_is(worker: Worker) -> None:
    worker.steps(STEPS + 1)
    before = worker.refused()
    worker.go_on(5.0, 0.07)
    assert worker.refused() == before == IN_ORDER[:2]


def test_most_resolves_that_memory_can_answer_are_answered_whatever_happens(worker: Worker) -> None:
    worker.go_on(10.0, 1.0)
    refused = [worker.overload.refuses(Load.RESOLVES) for _ in range(400)]
    assert sum(refused) == 100


def test_what_is_refused_is_counted_by_its_kind(worker: Worker) -> None:
    worker.steps(2 * STEPS)
    worker.overload.refuses(Load.LISTS)
    worker.overload.refuses(Load.WRITES)
    worker.overload.refuses(Load.WRITES)
    worker.overload.refuses(Load.MISSES)
    found = values(worker.metrics.render())
    counted = [found[f'tm_shed_total{{class="{load}"}}'] for load in IN_ORDER]
    assert counted == [1.0, 2.0, 0.0, 0.0]
