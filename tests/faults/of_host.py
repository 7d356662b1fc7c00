"""Faults of the machine that a node runs on: its disk for snapshots, F51."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from tests.db.engines import postgres_settings_of
from tests.faults.acts import seconds_until
from tests.faults.criteria import known_routes_answer
from tests.faults.disks import a_small_disk, filled
from tests.faults.scenario import Scenario, balanced
from tests.faults.stand import Stand
from tests.node import Node
from tests.promises.places import killed
from traffic_manager.snapshot import SnapshotFile

_DRAINING = {"DRAIN_SECONDS": "1"}
_READY_S = 15.0
_LOOKS_S = 10.0  # workers look at the database every two seconds


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


def _is_ready(node: Node) -> bool:
    return node.is_running() and node.is_ready()


SCENARIOS = [
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
