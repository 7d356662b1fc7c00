"""What a fault is made of, and the run that tries it: base, fault, recovery."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.driver import LoadProcess
from tests.faults.evidence import Evidence, Times, gathered
from tests.faults.load import Load
from tests.faults.resources import used_by
from tests.faults.stand import NODES, Servers, Stand, a_stand


@dataclass(frozen=True)
class Phases:
    """How long each phase lasts, in seconds."""

    base_s: float
    fault_s: float
    recovery_s: float


FULL = Phases(10.0, 20.0, 20.0)
QUICK = Phases(3.0, 8.0, 6.0)

# Breaks something on entry and heals it when the block ends; in between, the load goes on.
Fault = Callable[[Stand], AbstractContextManager[None]]
# Yields what is wrong with the run.
Criterion = Callable[[Evidence], Sequence[str]]


def as_it_is(load: Load) -> Load:
    """Leave L0 as it is."""
    return load


@dataclass(frozen=True)
class Scenario:
    """One row of the table of faults. *settings* are each node's own; *shape* makes another load of L0."""

    id: str
    title: str
    fault: Fault
    criteria: Sequence[Criterion]
    settings: Sequence[Mapping[str, str]] = field(default=({},) * NODES)
    shape: Callable[[Load], Load] = as_it_is
    # Whether processes of ours are the victims, so that their health and their memory prove nothing.
    kills_our_own: bool = False

    def run(self, servers: Servers, folder: Path, phases: Phases, seed: int) -> Evidence:
        """Try it; return what was seen."""
        with a_stand(servers, folder, self.settings) as stand:
            load = LoadProcess(self.shape(stand.load(seed)))
            try:
                return self._observe(stand, load, phases)
            finally:
                load.kill()

    def _observe(self, stand: Stand, load: LoadProcess, phases: Phases) -> Evidence:
        began_ns = time.monotonic_ns()
        time.sleep(phases.base_s)
        before = used_by(stand)
        breaks_ns = time.monotonic_ns()
        with self.fault(stand):
            broken_ns = time.monotonic_ns()
            time.sleep(phases.fault_s)
            heals_ns = time.monotonic_ns()
        healed_ns = time.monotonic_ns()
        time.sleep(phases.recovery_s)
        times = Times(began_ns, breaks_ns, broken_ns, heals_ns, healed_ns, time.monotonic_ns())
        ledger = load.finish()
        return gathered(stand, times, ledger, before)
