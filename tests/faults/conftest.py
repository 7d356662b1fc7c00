"""The servers of all faults, and what `make faults` and `make faults-full` choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from tests.faults import results
from tests.faults.phases import FULL, QUICK, Phases
from tests.faults.stand import Servers
from tests.servers import KafkaServer, PostgresServer, RedisServer
from tests.servers.fixtures import started


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("faults")
    group.addoption("--full", action="store_true", help="every row, with phases of 10, 20 and 20 s")
    group.addoption("--seed", type=int, default=1, help="of what the load does")
    group.addoption("--publish", action="store_true", help="append to docs/reliability-results.md")


@dataclass
class Series:
    """The runs of one call of the suite. `lines` is what they have shown."""

    phases: Phases
    seed: int
    lines: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def series(request: pytest.FixtureRequest) -> Iterator[Series]:
    """What every run of this call has in common; published in the end if that was asked for."""
    is_full = request.config.getoption("--full")
    made = Series(FULL if is_full else QUICK, request.config.getoption("--seed"))
    yield made
    print("\n", results.HEAD, *made.lines, sep="\n")
    if request.config.getoption("--publish"):
        results.append("full" if is_full else "quick", made.seed, made.lines)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers that all faults break, one after another."""
    kinds = (PostgresServer(), RedisServer(), KafkaServer())
    with ExitStack() as stack:
        for server in kinds:
            stack.enter_context(contextmanager(started)(server))
        yield Servers(*kinds)
