"""SQLite's write-ahead log comes into its file beside the writers, and never grows without bound."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.db.engines import SqlEngine, sqlite_settings
from tests.node import wait_until
from tests.routing.builders import a_key, commit, create
from traffic_manager.db import checkpoints


@pytest.fixture
def engine(empty_sqlite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlEngine]:
    """SQLite with many checkpoints a second, and hardly any room in the log."""
    monkeypatch.setattr(checkpoints, "_EVERY_S", 0.02)
    monkeypatch.setattr(checkpoints, "_MAX_FRAMES", 10)
    settings = sqlite_settings(tmp_path)
    shutil.copy(empty_sqlite_file, settings.path)
    engine = SqlEngine(settings)
    yield engine
    engine.close()


def in_the_file_alone(path: Path, copy: Path) -> int:
    """Return how many changes the file has without its log."""
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        return int(connection.execute("select count(*) from changes").fetchone()[0])


def test_changes_come_into_the_file_while_the_server_runs(engine: SqlEngine, tmp_path: Path) -> None:
    commit(engine.store, create())
    wait_until(lambda: in_the_file_alone(engine.settings.path, tmp_path / "copy.db") == 1)


def test_writers_make_no_checkpoints(engine: SqlEngine) -> None:
    with engine.database.writing() as session:
        assert session.row("pragma wal_autocheckpoint") == (0,)


def test_log_begins_anew_however_busy_the_writers_are(engine: SqlEngine) -> None:
    commits = 0
    until = time.monotonic() + 3.0  # a checkpoint is made every second
    while time.monotonic() < until:
        commits += 1
        commit(engine.store, create(a_key(f"s{commits}")))
    log = engine.settings.path.with_name(engine.settings.path.name + "-wal")
    # Each commit writes at least a page of routes, of changes and of their index.
    assert log.stat().st_size < commits * 3 * 4096 / 2
