"""Faults of the machine that a node runs on: its clock, its logs and its disk, F47, F48 and F51."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path

from structlog.testing import capture_logs

from tests.db.engines import postgres_settings_of
from tests.faults.acts import again_and_again, beside, seconds_until
from tests.faults.clocks import a_clock
from tests.faults.criteria import known_routes_answer, nothing_fails, p99_holds
from tests.faults.disks import a_small_disk, filled
from tests.faults.evidence import Evidence
from tests.faults.scenario import Scenario, balanced
from tests.faults.stand import Stand
from tests.node import Node
from tests.promises.caller import Caller, NoAnswer
from tests.promises.ledger import Kind
from tests.promises.places import killed
from traffic_manager.snapshot import SnapshotFile

_DRAINING = {"DRAIN_SECONDS": "1"}
_LOGGING = ({**_DRAINING, "API_ACCESS_LOG": "true"}, _DRAINING)
_DROPPED_S = 30.0
_READY_S = 15.0
_HOUR_S = 3600
_LOOKS_S = 10.0  # workers look at the database every two seconds


@contextmanager
def _wall_clock_jumps(stand: Stand) -> Iterator[None]:
    """Put the clock of one node forward and back by an hour, then to and fro."""
    node = stand.nodes[0]
    with a_clock(node.folder) as clock:
        node.environment.update(clock.environment)
        _restart(stand, node)
        token = _lease_token(stand)
        for hours in (1, -1):
            clock.put(hours * _HOUR_S)
            _expect(stand, _is_ahead(node, hours * _HOUR_S), f"the node's clock was not put by {hours} h")
            time.sleep(stand.phases.fault_s / 4)
        with again_and_again(clock.put_to_and_fro, 0.5):
            yield
        clock.put(0)
        _expect(stand, _lease_token(stand) <= token + 1, "the relay's lease went to and fro")


def _is_ahead(node: Node, seconds: int) -> bool:
    """Return whether a node's clock is so far ahead of ours within ten seconds, by what its answers say."""

    def is_so() -> bool:
        said = Caller(node).ask("GET", "/health/live").headers["date"]
        return abs(parsedate_to_datetime(said).timestamp() - time.time() - seconds) < 60

    return seconds_until(is_so, _LOOKS_S) < _LOOKS_S


def _lease_token(stand: Stand) -> int:
    return int(stand.ask_database("select token from leases where name = 'relay'"))


@contextmanager
def _no_room_for_snapshots(stand: Stand) -> Iterator[None]:
    """Leave no room for a node's next snapshot; then damage the last one, and start without the database."""
    node = stand.nodes[0]
    node.stop()
    with _own_disk(node) as kept:
        before = kept.read_bytes()
        with filled(kept.parent):
            node.start()
            seconds_until(lambda: "snapshot_failed" in node.log(), _LOOKS_S)
        _expect(stand, "snapshot_failed" in node.log(), "nobody says that the disk is full")
        _expect(stand, kept.read_bytes() == before, "the snapshot before is gone")
        _damage_everywhere(stand, before)
        node.stop()
        _damage_the_newest(kept, stand.seed)
        with killed(stand.servers.postgres):
            node.start(wait_ready=False)
            took_s = seconds_until(lambda: _is_ready(node), _READY_S)
            _expect(stand, took_s < _READY_S, "the node does not start from the snapshot before")
            _expect(stand, "snapshot_not_usable" in node.log(), "nobody says that the snapshot is damaged")
            yield
        node.stop()
    node.start()


@contextmanager
def _own_disk(node: Node) -> Iterator[Path]:
    """Lend the snapshot of *node*, which does not run, on a small disk of its own."""
    folder = node.folder / "data"
    aside = folder.rename(node.folder / "aside")
    with a_small_disk(folder, 1) as disk:
        name = f"snapshot-{node.port}"
        shutil.copy(aside / name, disk)
        yield disk / name
    folder.rmdir()
    aside.rename(folder)


def _damage_the_newest(kept: Path, seed: int) -> None:
    """Leave the newest snapshot in part, and the one before it whole."""
    whole = kept.read_bytes()
    kept.rename(kept.with_name(f"{kept.name}.before"))
    kept.write_bytes(whole[: random.Random(seed).randrange(len(whole))])


def _damage_everywhere(stand: Stand, whole: bytes) -> None:
    """See that a snapshot that ends too early, wherever, is not used."""
    damaged = stand.nodes[0].folder / "damaged"
    source = postgres_settings_of(dict(stand.database)).described
    chosen = random.Random(stand.seed)
    for size in chosen.choices(range(len(whole)), k=stand.phases.rounds(20, 200)):
        damaged.write_bytes(whole[:size])
        with capture_logs():  # that it is damaged is no news here
            found = SnapshotFile(damaged, source).read()
        _expect(stand, found is None, f"{size} bytes were taken for a snapshot")


def _expect(stand: Stand, is_so: bool, otherwise: str) -> None:
    if not is_so:
        stand.findings.append(otherwise)


@contextmanager
def _nobody_reads_the_log(stand: Stand) -> Iterator[None]:
    """Stop who reads what a node logs, each request a line, until lines are dropped; let it go on in the end."""
    node = stand.nodes[0]
    kept, pipe = node.folder / "kept.log", node.folder / "log.pipe"
    os.mkfifo(pipe)
    with kept.open("wb") as file, subprocess.Popen(["cat", pipe], stdout=file) as reader:
        try:
            _log_to(node, pipe)
            reader.send_signal(signal.SIGSTOP)
            _ask_until_lines_are_dropped(stand)
            yield
            reader.send_signal(signal.SIGCONT)
            took_s = seconds_until(lambda: b"log_lines_dropped" in kept.read_bytes(), _LOOKS_S)
            _expect(stand, took_s < _LOOKS_S, "the log does not tell how many of its lines are missing")
        finally:
            reader.kill()


@contextmanager
def _log_disk_full(stand: Stand) -> Iterator[None]:
    """Have a node log to a disk that is full."""
    node = stand.nodes[0]
    with a_small_disk(node.folder / "logs", 1) as disk:
        _log_to(node, disk / "log")
        with filled(disk):
            _ask_until_lines_are_dropped(stand)
            yield
        node.stop()
    node.start()


def _log_to(node: Node, place: Path) -> None:
    """Start *node* again with its log in *place*."""
    node.stop()
    node.log_path = place
    node.start(wait_ready=False)
    seconds_until(lambda: _says_ready(node), 30.0)


def _says_ready(node: Node) -> bool:
    with suppress(NoAnswer):
        return Caller(node).ask("GET", "/health/ready").status == 200
    return False


def _ask_until_lines_are_dropped(stand: Stand) -> None:
    """Ask more than usual: a pipe takes 64 KiB and a worker 4,000 lines before any is dropped."""
    more = replace(stand.load(), resolves=1000.0, strong_resolves=0, writes=0, probes=0, unknown_share=0)
    with beside(stand, more):
        took_s = seconds_until(lambda: stand.metric(0, "tm_log_dropped_total"), _DROPPED_S)
    _expect(stand, took_s < _DROPPED_S, "no line of the log was dropped")


def _nodes_live_on(evidence: Evidence) -> Sequence[str]:
    """Nobody takes a node for dead while it is broken."""
    failed = [sample for sample in evidence.broken(Kind.LIVE) if sample.has_failed]
    return [f"{len(failed)} probes of liveness failed, such as {failed[0]}"] if failed else []


def _restart(stand: Stand, node: Node) -> None:
    """Stop and start *node* in good order, and give clients the time to see that it is ready."""
    if code := node.stop():
        stand.findings.append(f"a node ended with exit code {code}")
    node.start()
    time.sleep(0.5)


def _is_ready(node: Node) -> bool:
    return node.is_running() and node.is_ready()


SCENARIOS = [
    Scenario(
        "F47",
        "the wall clock of one node jumps",
        _wall_clock_jumps,
        (nothing_fails, known_routes_answer(1.0), p99_holds, _nodes_live_on),
        (_DRAINING, _DRAINING),
        balanced,
        kills_our_own=True,
    ),
    Scenario(
        "F48",
        "nobody reads the log",
        _nobody_reads_the_log,
        (nothing_fails, known_routes_answer(1.0), p99_holds, _nodes_live_on),
        _LOGGING,
        balanced,
        kills_our_own=True,
    ),
    Scenario(
        "F48/disk",
        "the disk for the log full",
        _log_disk_full,
        (nothing_fails, known_routes_answer(1.0), p99_holds, _nodes_live_on),
        _LOGGING,
        balanced,
        kills_our_own=True,
    ),
    Scenario(
        "F51",
        "no room for a snapshot, and a damaged one",
        _no_room_for_snapshots,
        (known_routes_answer(1.0),),
        (_DRAINING, _DRAINING),
        balanced,
        kills_our_own=True,
    ),
]
