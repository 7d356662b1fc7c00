"""As process 1, which is what a container starts, every command ends when it is told to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.ports import HOST


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_process_one_that_waits_for_a_server_ends_on_sigterm() -> None:
    with socket.create_server((HOST, 0)) as silent:
        silent.settimeout(30)
        server = f"http://{HOST}:{silent.getsockname()[1]}"
        command = [
            sys.executable,
            "-m",
            "traffic_manager.cli",
            "health",
            "--server",
            server,
            "--timeout",
            "60",
        ]
        running = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *command])
        try:
            with silent.accept()[0]:
                os.kill(_only_child_of(running.pid), signal.SIGTERM)
                assert running.wait(30) == 128 + signal.SIGTERM
        finally:
            running.kill()


def _only_child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
