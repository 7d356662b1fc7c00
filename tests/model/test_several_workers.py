"""Several workers over one store and one Redis: whatever happens in whatever order, every answer is the state of its
key at its revision, no worker's answers for a key go back, and what is stale says so.

The real registry, follower, mirror, resolvers, route cache, watchers and snapshot run. Of each, only the moments at
which it goes on are chosen here. `make model` runs it for long.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.db.engines import sqlite_settings
from tests.model.databases import Database, OnDisk
from tests.model.machine import SeveralWorkers
from tests.routing.stepped import run_stepped
from traffic_manager.db.migrate import migrate
from traffic_manager.routing import batch_resolver as batch_resolver_module
from traffic_manager.routing import follower as follower_module
from traffic_manager.routing import mirror as mirror_module
from traffic_manager.routing import recent as recent_module
from traffic_manager.routing import resolver as resolver_module

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "200"))
STEPS = int(os.environ.get("MODEL_STEPS", "40"))
# A real file takes about ten times as long.
EXAMPLES_ON_DISK = max(1, EXAMPLES // 10)
WINDOW = 4
SLICE = 4
FILL_ATTEMPTS = 4

# A long run has no limit, and a failure is made small before it is shown.
pytestmark = pytest.mark.timeout(0 if "MODEL_EXAMPLES" in os.environ else 600)


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the edges of the window and of slices soon."""
    monkeypatch.setattr(mirror_module, "WINDOW_CHANGES", WINDOW)
    monkeypatch.setattr(follower_module, "WINDOW_CHANGES", WINDOW)
    monkeypatch.setattr(follower_module, "SLICE_CHANGES", SLICE)
    # By a count: time stands still here while a read is made again.
    for module in (resolver_module, batch_resolver_module):
        monkeypatch.setattr(module, "fill_attempts", lambda: iter([None] * FILL_ATTEMPTS))


def run_machine(machine: type[SeveralWorkers], examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run *machine*, whose clock is the workers' too."""

    class Machine(machine):  # type: ignore[misc, valid-type] # a class that is chosen when it runs
        def __init__(self) -> None:
            super().__init__()
            for module in (follower_module, recent_module):
                monkeypatch.setattr(module, "monotonic", lambda: self.now_s)

    run_stepped(Machine, examples=examples, steps=STEPS)


def test_no_answer_of_several_workers_is_wrong_goes_back_or_hides_its_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_machine(SeveralWorkers, EXAMPLES, monkeypatch)


def test_no_answer_is_wrong_on_sqlite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    migrate(sqlite_settings(tmp_path))

    class OnSqlite(SeveralWorkers):
        def new_database(self) -> Database:
            return OnDisk(sqlite_settings(tmp_path).path)

    run_machine(OnSqlite, EXAMPLES_ON_DISK, monkeypatch)
