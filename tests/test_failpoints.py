"""Failpoints end the process that reaches them, once, and only where they were asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from traffic_manager import failpoints
from traffic_manager.errors import StartRefused

_REACH_TWO = """
import os
from traffic_manager import failpoints
failpoints.arm(os.environ, is_development=True)
failpoints.reach("first")
failpoints.reach("second")
"""


def reach_two(folder: Path) -> int:
    """Return the exit code of a process that reaches `first` and then `second`."""
    command = [sys.executable, "-c", _REACH_TWO]
    return subprocess.run(command, env={**os.environ, "TM_FAILPOINTS": str(folder)}, check=False).returncode


def test_process_that_reaches_a_failpoint_is_killed_once(tmp_path: Path) -> None:
    (tmp_path / "second").write_text("kill")
    assert [reach_two(tmp_path), reach_two(tmp_path)] == [-signal.SIGKILL, 0]


def test_pause_takes_its_time_and_the_process_goes_on(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("pause 0.01")
    assert (reach_two(tmp_path), (tmp_path / "first").exists()) == (0, False)


def test_no_server_starts_with_failpoints_outside_development(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="TM_FAILPOINTS"):
        failpoints.arm({"TM_FAILPOINTS": str(tmp_path)}, is_development=False)
