"""`health` says by its exit code whether the server takes work."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.cli.conftest import CommandLine
from tests.node import Node, wait_until


def test_ready_server_shows_its_checks(tm: CommandLine) -> None:
    found = tm("health")
    words = [line.split()[:2] for line in found.out.splitlines()[2:]]
    assert (found.code, words[0], words[-1]) == (0, ["database", "healthy"], ["ready"])


def test_json_is_the_document_of_the_api(tm: CommandLine) -> None:
    found = tm("health", "-o", "json").document
    assert (found["status"], set(found["checks"])) == ("ready", {"database", "cache", "kafka", "mirror"})


def test_server_that_is_about_to_end_is_not_ready(tmp_path: Path) -> None:
    with Node(tmp_path, {"DRAIN_SECONDS": "20"}) as node:
        node.start()
        os.kill(node.pid, signal.SIGTERM)
        wait_until(lambda: not node.is_ready())
        found = CommandLine(node.url)("health")
    assert (found.code, found.out.splitlines()[-1]) == (1, "not ready")


def test_server_that_cannot_be_reached(tmp_path: Path) -> None:
    assert CommandLine("http://127.0.0.1:9")("health").code == 5
