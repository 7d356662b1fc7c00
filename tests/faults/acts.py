"""How things are broken: context managers that break on entry and heal when the block ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.faults.driver import LoadProcess
from tests.faults.load import Load
from tests.faults.proxy import NONE, Proxy, Trouble
from tests.faults.stand import Stand
from tests.promises.crew import a_crew


@contextmanager
def again_and_again(act: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do *act* all the time, with pauses."""
    with a_crew() as crew:
        crew.add(act, every_s)
        yield


@contextmanager
def troubled(proxy: Proxy, trouble: Trouble) -> Iterator[None]:
    """Trouble all connections through *proxy*."""
    proxy.set(trouble)
    try:
        yield
    finally:
        proxy.set(NONE)


@contextmanager
def beside(stand: Stand, load: Load) -> Iterator[None]:
    """Do *load* too."""
    process = LoadProcess(load)
    try:
        yield
        stand.ledger.add(process.finish())
    finally:
        process.kill()


@contextmanager
def counted(stand: Stand, node: int, metric: str) -> Iterator[None]:
    """Measure by how much a metric of a node grows, as `metric/node`."""
    before = stand.metric(node, metric)
    yield
    stand.measured[f"{metric}/{node}"] = stand.metric(node, metric) - before


def seconds_until(condition: Callable[[], object], most_s: float) -> float:
    """Return how long it took until *condition* was true, at least *most_s* if it was not by then."""
    began = time.monotonic()
    while not condition() and time.monotonic() - began < most_s:
        time.sleep(0.02)
    return time.monotonic() - began
