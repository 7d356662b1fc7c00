"""A database that loses changes, and goes on as if nothing had been, is noticed; nothing of the lost branch stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest

from tests.monitoring.exposition import values
from tests.node import Node, a_key, a_route, path_of, resolve, wait_until
from tests.promises.caller import Answer
from tests.promises.places import a_node, one_caller_per_worker
from tests.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.servers

KEPT, LOST, NEW = (a_key(service=service) for service in ("kept", "lost", "new"))
LOST_URL, NEW_URL = "https://lost.example.com/", "https://new.example.com/"


@pytest.fixture
def nodes(tmp_path: Path, postgres_settings: dict[str, str]) -> Iterator[list[Node]]:
    """Two nodes over one database."""
    found = [Node(tmp_path, postgres_settings) for _ in range(2)]
    try:
        yield [node.start("--migrate") for node in found]
    finally:
        for node in found:
            node.kill()


def _make(client: httpx2.Client, key: dict[str, str], url: str) -> str:
    answer = client.put(path_of(key), json={"url": url})
    assert answer.is_success, answer.text
    return answer.headers["TM-Revision"]


def _lose_changes_after(postgres: PostgresServer, database: str, revision: int) -> None:
    """Do as an asynchronous replica does that takes over; only for changes that made a route."""
    for table in ("routes", "changes"):
        postgres.psql(f"delete from {table} where revision > {revision}", database)  # noqa: S608 constants


def _epoch_of(client: httpx2.Client) -> str:
    return resolve(client, KEPT).headers["TM-Revision"].partition(".")[0]


def test_lost_branch_is_forgotten_by_every_node_though_the_new_head_is_higher(
    nodes: list[Node], postgres: PostgresServer, postgres_settings: dict[str, str]
) -> None:
    with nodes[0].client() as one, nodes[1].client() as other:
        _make(one, KEPT, "https://kept.example.com/")
        token = _make(one, LOST, LOST_URL)
        assert resolve(other, LOST, tm_min_revision=token).json()["url"] == LOST_URL
        before = _epoch_of(one)
        _lose_changes_after(postgres, postgres_settings["DB_NAME"], 1)
        for version in ("v1", "v2", "v3"):  # the head is soon higher than before
            one.post("/api/v1/routes", json=a_route(NEW_URL, service="new", version=version))
        for client in (one, other):
            wait_until(lambda client=client: _epoch_of(client) != before, what="a new epoch")  # type: ignore[misc]
            assert resolve(client, LOST).status_code == 404
            assert resolve(client, NEW).json()["url"] == NEW_URL
            assert resolve(client, KEPT, tm_min_revision=token).status_code == 412
        assert _epoch_of(one) == _epoch_of(other)
    assert postgres.psql("select epoch_number from meta", postgres_settings["DB_NAME"]).strip() == "2"


@pytest.mark.parametrize("max_routes", ["1000", "1", "0"], ids=["complete", "bounded", "no mirror"])
def test_every_worker_drops_the_lost_branch_and_all_agree_on_one_new_epoch(
    tmp_path: Path,
    postgres: PostgresServer,
    postgres_settings: dict[str, str],
    redis_server: RedisServer,
    max_routes: str,
) -> None:
    settings = {
        **postgres_settings,
        **redis_server.env(),
        "API_WORKERS": "2",
        "MIRROR_MAX_ROUTES": max_routes,
    }
    lost = a_key(service="lost", tenant=f"forked-{max_routes}")
    with a_node(tmp_path, settings) as first, a_node(tmp_path, settings) as second:
        nodes = [first.start("--migrate"), second.start()]
        with first.client() as client:
            _make(client, KEPT, "https://kept.example.com/")
            token = _make(client, lost, LOST_URL)
        callers = [caller for node in nodes for caller in one_caller_per_worker(node, 2).values()]
        path = f"/api/v1/routes/resolve?{urlencode(lost)}"
        for caller in callers * 3:  # the lane keeps the answer, Redis the route
            assert caller.ask("GET", path, tm_min_revision=token).json["url"] == LOST_URL
        _lose_changes_after(postgres, postgres_settings["DB_NAME"], 1)
        with second.client() as client:
            _make(client, NEW, NEW_URL)
            _make(client, a_key(service="newer"), NEW_URL)
        for caller in callers:
            wait_until(
                lambda caller=caller: _epoch(caller.ask("GET", path)) != token[:8],  # type: ignore[misc] # bound now
                what="the new epoch",
            )
            assert [caller.ask("GET", path).status for _ in range(3)] == [404] * 3
        assert len({_epoch(caller.ask("GET", path)) for caller in callers}) == 1
        assert postgres.psql("select epoch_number from meta", postgres_settings["DB_NAME"]).strip() == "2"
        for node in nodes:
            wait_until(lambda node=node: _forks(node) == 2, what="both workers' counts")  # type: ignore[misc] # bound now


def test_snapshots_of_the_lost_branch_are_removed(
    tmp_path: Path, postgres: PostgresServer, postgres_settings: dict[str, str]
) -> None:
    with a_node(tmp_path, postgres_settings) as node:
        for number in range(2):  # each stop keeps another generation
            node.start("--migrate")
            with node.client() as client:
                _make(client, LOST, LOST_URL)
                _make(client, KEPT, f"https://kept-{number}.example.com/")
            node.stop()
        assert [LOST_URL.encode() in file.read_bytes() for file in _snapshots(node)] == [True, True]
        node.start()
        for table in ("routes", "changes"):
            postgres.psql(f"delete from {table}", postgres_settings["DB_NAME"])  # noqa: S608 constants
        wait_until(
            lambda: [LOST_URL.encode() in file.read_bytes() for file in _snapshots(node)] == [False],
            what="a snapshot of the new history alone",
        )


def _snapshots(node: Node) -> list[Path]:
    return sorted((node.folder / "data").glob(f"snapshot-{node.port}*"))


def _epoch(answer: Answer) -> str:
    return answer.headers["tm-revision"].partition(".")[0]


def _forks(node: Node) -> float:
    with node.client() as client:
        return values(client.get("/metrics").content)["tm_history_fork_total"]


def test_operator_begins_a_new_epoch_after_a_restore(node: Node) -> None:
    with node.client() as client:
        _make(client, KEPT, "https://kept.example.com/")
        before = _epoch_of(client)
        told = subprocess.run(
            [sys.executable, "-m", "traffic_manager.cli", "new-epoch"],
            env={**node.environment, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told.returncode == 0, told.stderr
        assert told.stdout.startswith("Epoch 2 (")
        wait_until(lambda: _epoch_of(client) != before, what="the new epoch")
        assert _epoch_of(client) in told.stdout
