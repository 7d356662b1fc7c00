"""The clock of the fault suite is the wall clock of who is given it, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.clocks import a_clock

SAY = "import time; print(time.time()); print(time.monotonic())"


@pytest.mark.skipif(shutil.which("cc") is None and "CI" not in os.environ, reason="NEEDS A COMPILER OF C")
def test_wall_clock_of_a_process_is_put_and_its_monotonic_clock_is_not(tmp_path: Path) -> None:
    with a_clock(tmp_path) as clock:
        clock.put(-3600)
        environment = {**os.environ, **clock.environment}
        said = subprocess.run([sys.executable, "-c", SAY], env=environment, capture_output=True, check=True)
    wall, monotonic = map(float, said.stdout.split())
    assert abs(wall + 3600 - time.time()) < 60
    assert abs(monotonic - time.monotonic()) < 60
