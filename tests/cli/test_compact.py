"""`compact` as an operator runs it, on the file of a running server."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.node import Node, a_route


def _compact(node: Node, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "traffic_manager.cli", "compact"]
    environment = {**node.environment, "PATH": os.environ["PATH"], **settings}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_compact_works_beside_a_running_server_and_keeps_the_newest_changes(node: Node) -> None:
    with node.client() as client:
        client.post("/api/v1/routes", json=a_route())
        done = _compact(node, RETENTION_DAYS="0.000001")
        assert (done.returncode, done.stdout.split(";")[0]) == (0, "Forgot 0 changes"), done.stderr
        assert client.get("/api/v1/changes").json()["changes"]


def test_compact_without_a_period_forgets_nothing_and_says_why(node: Node) -> None:
    done = _compact(node)
    assert done.returncode == 1
    assert "RETENTION_DAYS: must be set" in done.stderr


def test_compact_tells_of_a_database_that_is_away(node: Node) -> None:
    done = _compact(node, RETENTION_DAYS="1", DB_HOST="127.0.0.1", DB_PORT="1")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
