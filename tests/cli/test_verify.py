"""`verify` as an operator runs it, on the file of a running server."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

from tests.node import Node, a_route


def _verify(node: Node) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "traffic_manager.cli", "verify"]
    environment = {**node.environment, "PATH": os.environ["PATH"]}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_verify_says_that_all_agree_or_what_differs(node: Node) -> None:
    with node.client() as client:
        client.post("/api/v1/routes", json=a_route()).raise_for_status()
    good = _verify(node)
    assert (good.returncode, good.stdout) == (0, ""), good.stderr
    assert "1 changes (revisions 1 to 1 of history " in good.stderr
    with sqlite3.connect(node.environment["DB_PATH"]) as database:
        database.execute("update routes set url = 'https://evil.example.com/'")
    bad = _verify(node)
    assert bad.returncode == 1
    assert "is https://evil.example.com/ (active, revision 1); its last change left" in bad.stdout
