"""Writes go on soon after the database is back, whatever became of it: nobody has to restart a server."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.node import Node, wait_until, workers_of
from tests.promises.caller import Caller
from tests.promises.crew import Writer, a_crew, keys, new_url
from tests.promises.ledger import Ledger
from tests.promises.places import a_database, a_node
from tests.servers import PostgresServer
from tests.servers.ports import HOST

pytestmark = pytest.mark.servers

KEY = keys(1)[0]
# The first write after PostgreSQL accepts connections again.
SOON_S = 3.0


def wait_for_a_write(node: Node) -> float:
    """Return how many seconds it took until a write was acknowledged."""
    began = time.monotonic()
    wait_until(lambda: _is_written(node), SOON_S, "the first write after the outage")
    return time.monotonic() - began


def _is_written(node: Node) -> bool:
    answer = Caller(node).put(KEY, new_url())
    return answer is not None and answer.status < 300


def test_writes_go_on_soon_after_every_one_of_many_crashes_of_postgres(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with (
        a_database(own_postgres) as settings,
        a_node(tmp_path, settings) as node,
        a_crew() as crew,
    ):
        node.start("--migrate")
        for number in range(3):
            crew.add(Writer(node, Ledger(), keys(6), seed=number))
        for _ in range(4):
            own_postgres.kill()
            own_postgres.start()
            wait_for_a_write(node)


def test_writes_go_on_soon_after_a_long_outage(tmp_path: Path, own_postgres: PostgresServer) -> None:
    with a_database(own_postgres) as settings, a_node(tmp_path, settings) as node:
        node.start("--migrate")
        caller = Caller(node)
        own_postgres.kill()
        # A pool that doubles its pauses from 1 s would be in one of 4 s now.
        gone_at = time.monotonic()
        wait_until(lambda: _is_away(caller) and time.monotonic() - gone_at > 3.5, 10.0, "a long outage")
        own_postgres.start()
        wait_for_a_write(node)


def _is_away(caller: Caller) -> bool:
    answer = caller.put(KEY, new_url())
    return answer is not None and answer.status == 503


def test_writes_go_on_soon_after_postgres_was_frozen(tmp_path: Path, own_postgres: PostgresServer) -> None:
    with a_database(own_postgres) as settings, a_node(tmp_path, settings) as node:
        node.start("--migrate")
        caller = Caller(node)
        own_postgres.freeze()
        began = time.monotonic()
        answer = caller.put(KEY, new_url())
        took_s = time.monotonic() - began
        own_postgres.thaw()
        assert answer is not None
        assert answer.status == 503
        assert took_s < 2.5
        wait_for_a_write(node)


def test_writes_go_on_though_more_than_a_thousand_clients_hold_connections(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with a_database(own_postgres) as settings, a_node(tmp_path, settings) as node, ExitStack() as clients:
        node.start("--migrate")
        for _ in range(1100):
            clients.enter_context(socket.create_connection((HOST, node.port)))
        wait_until(lambda: open_files(node) > 1100, 10.0, "as many open files")
        own_postgres.kill()
        own_postgres.start()
        # The connections to PostgreSQL have high numbers now, which select() cannot take.
        wait_for_a_write(node)


def open_files(node: Node) -> int:
    """Return how many files the server's one worker has open."""
    (worker,) = workers_of(node)
    return len(os.listdir(f"/proc/{worker}/fd"))
