"""What a node begins with that starts while its database is away."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from time import monotonic

import pytest

from tests.test_snapshot import a_mirror
from traffic_manager.config.loading import load_settings
from traffic_manager.inheritance import Inheritance
from traffic_manager.routing.follower import FRESH_S, Beside
from traffic_manager.snapshot import SnapshotFile


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("clock_back_s", [0, 3600])
def test_table_from_disk_is_never_fresh_though_the_clock_was_put_back(
    clock_back_s: float, closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_HOST", "127.0.0.1")
    monkeypatch.setenv("DB_PORT", str(closed_port))
    monkeypatch.setenv("SNAPSHOT_PATH", str(tmp_path / "snapshot"))
    settings = load_settings(env_file=None)
    mirror = a_mirror()
    SnapshotFile(tmp_path / "snapshot", settings.db.described).write(
        mirror, Beside(), time.time() + clock_back_s
    )
    inheritance = Inheritance(settings)
    inheritance.follow()
    assert len(inheritance.memory.mirror) == len(mirror)
    assert inheritance.memory.at_head is not None
    assert monotonic() - inheritance.memory.at_head > FRESH_S
