"""A server holds as many connections as the system lets it, and says how many."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.node import Node
from tests.promises.caller import Caller
from tests.promises.places import a_node
from tests.servers.ports import HOST

CONNECTIONS = 700


@contextmanager
def low_limit() -> Iterator[int]:
    """Start processes with a lower soft limit, which is given, while the block runs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # This process goes on below it too, and other tests may have left it files of higher numbers.
    soft = max(int(number) for number in os.listdir("/proc/self/fd")) + 100
    assert soft < CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield soft
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def listening(node: Node) -> dict[str, int]:
    """Return what the node said when it began to listen."""
    lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    (found,) = [line for line in lines if line["event"] == "listening"]
    return dict(found)


def test_soft_limit_of_open_files_is_raised_and_the_number_of_connections_told(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with a_node(tmp_path, {"DB_POOL_MAX": "6"}) as node:
        with low_limit() as soft:
            node.start()
        said = listening(node)
        assert said["open_files"] == min(hard, 2**20) > soft
        assert said["connections"] == said["open_files"] - 6 - 256


def test_more_connections_than_the_soft_limit_are_held_and_served(tmp_path: Path) -> None:
    with a_node(tmp_path) as node, ExitStack() as held:
        with low_limit():
            node.start()
        for _ in range(CONNECTIONS):
            connection = held.enter_context(socket.create_connection((HOST, node.port), timeout=5.0))
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert Caller(node).ask("GET", "/health/ready").status == 200
