"""The scenarios, by name. Each takes the stage and yields its figures, and fails if an answer is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.figures import Outcome
from benchmarks.scenarios.bounded import bounded
from benchmarks.scenarios.propagation import propagation
from benchmarks.scenarios.resolve import resolve
from benchmarks.scenarios.size import size
from benchmarks.scenarios.watching import watching
from benchmarks.scenarios.writes import writes
from benchmarks.stage import Stage

Scenario = Callable[[Stage], Iterator[Outcome]]
SCENARIOS: dict[str, Scenario] = {
    "resolve": resolve,
    "writes": writes,
    "size": size,
    "bounded": bounded,
    "propagation": propagation,
    "watching": watching,
}
