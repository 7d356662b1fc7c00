"""P7: a node that has synchronised once resolves with its database gone, also after its own restart."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx2
import pytest

from tests.node import Node, a_key, a_route, path_of, resolve, wait_until, workers_of
from tests.promises.places import a_database, a_node
from tests.servers import PostgresServer

pytestmark = pytest.mark.servers

KNOWN, UNKNOWN = a_key(), a_key(service="unknown")
# Twice a time-out for a connection, and a start on a busy machine.
READY_WITHIN_S = 10.0
URL = "https://later.example.com/"


def _make(node: Node, **names: str) -> None:
    with node.client() as client:
        client.post("/api/v1/routes", json=a_route(**names)).raise_for_status()


def test_node_restarted_without_its_database_serves_what_it_knew_and_says_so(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with a_database(own_postgres) as settings, a_node(tmp_path, {**settings, "API_WORKERS": "2"}) as node:
        node.start("--migrate")
        _make(node)
        assert node.stop() == 0
        own_postgres.kill()
        try:
            node.start(wait_ready=False)
            wait_until(node.is_ready, READY_WITHIN_S, "readiness without a database")
            with node.client() as client:
                _check_serves_from_memory(client)
        finally:
            own_postgres.start()
        with node.client() as client:
            wait_until(lambda: "TM-Stale" not in resolve(client, KNOWN).headers, what="freshness")
            wait_until(
                lambda: client.put(path_of(a_key(service="later")), json={"url": URL}).is_success,
                what="a write",
            )


def _check_serves_from_memory(client: httpx2.Client) -> None:
    known = resolve(client, KNOWN)
    assert (known.status_code, known.headers["TM-Stale"]) == (200, "?1")
    unknown = resolve(client, UNKNOWN)
    assert (unknown.status_code, unknown.headers["TM-Stale"]) == (404, "?1")
    assert client.post("/api/v1/routes", json=a_route(service="new")).status_code == 503


def test_killed_worker_is_replaced_by_one_that_serves_without_the_database(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with a_database(own_postgres) as settings, a_node(tmp_path, settings) as node:
        node.start("--migrate")
        _make(node)
        with node.client() as client:
            wait_until(lambda: resolve(client, KNOWN).status_code == 200)
        assert node.stop() == 0
        node.start()
        own_postgres.kill()
        try:
            (worker,) = workers_of(node)
            _kill(worker)
            with node.client() as client:
                wait_until(lambda: _resolves(node), 5, "the replacement's answer")
                assert resolve(client, KNOWN).status_code == 200
        finally:
            own_postgres.start()


def test_node_without_snapshot_waits_for_its_database_and_is_not_ready(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with a_database(own_postgres) as settings, a_node(tmp_path, {**settings, "SNAPSHOT_PATH": "off"}) as node:
        node.start("--migrate")
        _make(node)
        node.stop()
        own_postgres.kill()
        try:
            node.start(wait_ready=False)
            wait_until(lambda: _status(node, "/health/live") == 200)
            assert _status(node, "/health/ready") == 503
        finally:
            own_postgres.start()
        wait_until(node.is_ready, what="readiness once the database is back")


def test_database_restored_while_the_node_was_down_is_a_fork(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with a_database(own_postgres) as settings, a_node(tmp_path, settings) as node:
        node.start("--migrate")
        _make(node)
        _make(node, service="lost")
        node.stop()
        for table in ("routes", "changes"):
            own_postgres.psql(f"delete from {table} where revision > 1", settings["DB_NAME"])  # noqa: S608 constants
        node.start()
        with node.client() as client:
            assert resolve(client, a_key(service="lost")).status_code == 404
        assert own_postgres.psql("select epoch_number from meta", settings["DB_NAME"]).strip() == "2"


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _status(node: Node, path: str) -> int | None:
    try:
        return httpx2.get(node.url + path, timeout=2).status_code
    except httpx2.HTTPError:
        return None


def _resolves(node: Node) -> bool:
    with node.client() as client:
        try:
            return resolve(client, KNOWN).status_code == 200
        except httpx2.HTTPError:
            return False
