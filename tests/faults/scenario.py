"""What a fault is made of, and the run that tries it: base, fault, recovery."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tests.faults.driver import LoadProcess
from tests.faults.evidence import OTHERS_SHARE, Evidence, Times, gathered
from tests.faults.load import Load
from tests.faults.machine import spent
from tests.faults.phases import Phases
from tests.faults.resources import used_by
from tests.faults.stand import NODES, Servers, Stand, a_stand

# What many changes fill in four workers: 8 MiB of recent changes each, and the window of revisions beside them.
RECENT_CHANGES_KIB = 4 * 16 * 1024
# Breaks something on entry and heals it when the block ends; in between, the load goes on.
Fault = Callable[[Stand], AbstractContextManager[None]]
# Yields what is wrong with the run.
Criterion = Callable[[Evidence], Sequence[str]]


class Row(Protocol):
    """One row of the table of faults that is tried."""

    @property
    def id(self) -> str:
        """`F01` and so on."""

    @property
    def title(self) -> str:
        """What breaks."""

    @property
    def criteria(self) -> Sequence[Criterion]:
        """What the row asks for, beyond the invariants."""

    @property
    def kills_our_own(self) -> bool:
        """Whether processes of ours are the victims, so that their health and their memory prove nothing."""

    def run(self, servers: Servers, folder: Path, phases: Phases, seed: int) -> Evidence:
        """Try it; return what was seen."""


def as_it_is(load: Load) -> Load:
    """Leave L0 as it is."""
    return load


def balanced(load: Load) -> Load:
    """Ask as through a load balancer."""
    return replace(load, is_balanced=True)


@dataclass(frozen=True)
class Scenario:
    """A row that is tried on two nodes under load. *settings* are each node's own; *shape* makes another load of
    L0."""

    id: str
    title: str
    fault: Fault
    criteria: Sequence[Criterion]
    settings: Sequence[Mapping[str, str]] = field(default=({},) * NODES)
    shape: Callable[[Load], Load] = as_it_is
    # What the nodes reach through a proxy: `postgres`, `redis`.
    proxied: Sequence[str] = ()
    kills_our_own: bool = False
    # What runs beside the nodes before anything is measured.
    beside: Fault = lambda _stand: nullcontext()
    # Memory of a bounded size that the fault fills, and that is not given back.
    fills_kib: int = 0
    # Whether all is done when the fault's context has been entered, so that nothing stays broken.
    is_momentary: bool = False

    def run(self, servers: Servers, folder: Path, phases: Phases, seed: int) -> Evidence:
        """Try it; return what was seen."""
        with (
            a_stand(servers, folder, self.settings, self.proxied, phases, seed) as stand,
            self.beside(stand),
        ):
            load = LoadProcess(self.shape(stand.load()))
            try:
                return self._observe(stand, load, phases)
            finally:
                load.kill()

    def _observe(self, stand: Stand, load: LoadProcess, phases: Phases) -> Evidence:
        began, began_ns = spent(), time.monotonic_ns()
        time.sleep(phases.base_s)
        before = used_by(stand).with_more_memory(self.fills_kib)
        breaks_ns = time.monotonic_ns()
        with self.fault(stand):
            broken_ns = time.monotonic_ns()
            time.sleep(0.0 if self.is_momentary else phases.fault_s)
            heals_ns = time.monotonic_ns()
        healed_ns = time.monotonic_ns()
        time.sleep(phases.recovery_s)
        times = Times(began_ns, breaks_ns, broken_ns, heals_ns, healed_ns, time.monotonic_ns())
        stand.measured[OTHERS_SHARE] = spent().share_of_others_since(began)
        ledger = load.finish()
        return gathered(stand, times, ledger, before)
