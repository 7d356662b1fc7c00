"""Faults of SQLite, F15 to F17: one node of one process."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.criteria import (
    nodes_stay_ready,
    nothing_is_flagged,
    p99_holds,
    reads_do_not_fail,
    writes_are_refused,
    writes_find_no_room,
    writes_succeed_again,
)
from tests.faults.disks import a_small_disk, filled
from tests.faults.driver import LoadProcess
from tests.faults.evidence import OTHERS_SHARE, Evidence, Times
from tests.faults.machine import spent
from tests.faults.phases import Phases
from tests.faults.scenario import Criterion
from tests.faults.stand import Servers, a_load, fill
from tests.node import Node, wait_until
from tests.promises import history
from tests.promises.crew import Writer, a_crew, keys
from tests.promises.ledger import Ledger
from tests.promises.places import a_node

_WRITERS = 4
_WRITES = 40
_DISK_MIB = 20
READS_GO_ON = (reads_do_not_fail, p99_holds, nodes_stay_ready, nothing_is_flagged)


@dataclass(frozen=True)
class KilledWhileWriting:
    """F15: the server is killed while clients write as fast as they can, and started again."""

    id: str = "F15"
    title: str = "SQLite's server killed while it writes"
    criteria: Sequence[Criterion] = ()
    kills_our_own: bool = True

    def run(self, _servers: Servers, folder: Path, phases: Phases, seed: int) -> Evidence:
        """Try it; return what was seen."""
        ledger, findings = Ledger(), list[str]()
        began_ns = time.monotonic_ns()
        with a_node(folder) as node:
            path = Path(node.environment["DB_PATH"])
            for number in range(phases.rounds(5, 50)):
                _write_until_killed(node, ledger, seed + number * _WRITERS)
                findings += _damage(path)
        ended_ns = time.monotonic_ns()
        times = Times(began_ns, began_ns, began_ns, ended_ns, ended_ns, ended_ns)
        return _evidence(times, ledger, path, findings, {})


def _write_until_killed(node: Node, ledger: Ledger, seed: int) -> None:
    node.start()
    wanted = len(ledger.acknowledged) + _WRITES
    with a_crew() as crew:
        for number in range(_WRITERS):
            crew.add(Writer(node, ledger, keys(12), seed + number))
        wait_until(lambda: len(ledger.acknowledged) >= wanted, 30.0, f"{_WRITES} writes")
        node.kill()


@dataclass(frozen=True)
class UnderLoad:
    """A row that is tried on one node on SQLite under L0. *disk_mib*: the size of the disk that its file is on, 0 for
    no disk of its own."""

    id: str
    title: str
    fault: Callable[[Path], AbstractContextManager[None]]
    criteria: Sequence[Criterion]
    disk_mib: int = 0
    kills_our_own: bool = False

    def run(self, _servers: Servers, folder: Path, phases: Phases, seed: int) -> Evidence:
        """Try it; return what was seen."""
        if not self.disk_mib:
            return self._run(folder, {}, phases, seed)
        with a_small_disk(folder / "disk", self.disk_mib) as disk:
            return self._run(folder, {"DB_PATH": str(disk / "routes.db")}, phases, seed)

    def _run(self, folder: Path, settings: Mapping[str, str], phases: Phases, seed: int) -> Evidence:
        ledger = Ledger()
        with a_node(folder, settings) as node:
            node.start()
            fill(node, ledger)
            load = LoadProcess(a_load([node], seed))
            try:
                began = spent()
                times = self._observe(Path(node.environment["DB_PATH"]), phases)
                measured = {OTHERS_SHARE: spent().share_of_others_since(began)}
                ledger.add(load.finish())
            finally:
                load.kill()
            node.stop()
            path = Path(node.environment["DB_PATH"])
            return _evidence(times, ledger, path, _damage(path), measured)

    def _observe(self, path: Path, phases: Phases) -> Times:
        began_ns = time.monotonic_ns()
        time.sleep(phases.base_s)
        breaks_ns = time.monotonic_ns()
        with self.fault(path):
            broken_ns = time.monotonic_ns()
            time.sleep(phases.fault_s)
            heals_ns = time.monotonic_ns()
        healed_ns = time.monotonic_ns()
        time.sleep(phases.recovery_s)
        return Times(began_ns, breaks_ns, broken_ns, heals_ns, healed_ns, time.monotonic_ns())


def _damage(path: Path) -> list[str]:
    said = history.integrity_of(path)
    return [] if said == "ok" else [f"integrity_check: {said}"]


def _evidence(
    times: Times, ledger: Ledger, path: Path, findings: Sequence[str], measured: Mapping[str, float]
) -> Evidence:
    return Evidence(times, ledger, history.of_sqlite(path), (), None, (), findings, measured)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock for writers, as a backup or somebody's shell might."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30.0)
    connection.execute("begin exclusive")
    try:
        yield
    finally:
        connection.close()


@contextmanager
def _disk_full(path: Path) -> Iterator[None]:
    """Leave no room on the disk, nor in the write-ahead log, whose old pages would be used again."""
    with sqlite3.connect(path, timeout=5.0) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    with filled(path.parent):
        yield


SCENARIOS = [
    KilledWhileWriting(),
    UnderLoad(
        "F16",
        "SQLite's file locked by somebody else",
        _locked,
        (*READS_GO_ON, writes_are_refused(2.0, though_reads_go_on=True), writes_succeed_again(1.0)),
    ),
    UnderLoad(
        "F17",
        "SQLite's disk full",
        _disk_full,
        (*READS_GO_ON, writes_find_no_room, writes_succeed_again(5.0)),
        disk_mib=_DISK_MIB,
    ),
]
