"""What others take from the machine is told apart from what is ours."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.faults.machine import Spent, spent

_WORK = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def test_work_of_children_that_have_ended_is_ours() -> None:
    before = spent()
    subprocess.run([sys.executable, "-c", _WORK], check=True)
    assert spent().ours_s - before.ours_s >= 0.4


def test_what_is_busy_and_not_ours_is_others() -> None:
    before, after = Spent(0.0, 10.0, 5.0), Spent(10.0, 20.0, 5.0)
    assert after.share_of_others_since(before) * (os.cpu_count() or 1) == 1.0
