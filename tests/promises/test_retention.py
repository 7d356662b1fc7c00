"""Readers from before what is still kept are told so, exactly there; nobody is shown a state with a hole in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.api.streams import Stream
from tests.db.engines import SqlEngine, postgres_settings_of
from tests.monitoring.exposition import values
from tests.node import Node, a_key, a_route, path_of, resolve, wait_until, workers_of
from tests.promises.places import a_node
from traffic_manager.db.retention import compact

pytestmark = pytest.mark.servers

CHANGES = "/api/v1/changes"


@pytest.fixture
def engine(postgres_settings: dict[str, str]) -> Iterator[SqlEngine]:
    """The same database as the node's."""
    found = SqlEngine(postgres_settings_of(postgres_settings))
    yield found
    found.close()


def _make(client: httpx2.Client, *versions: int) -> None:
    for version in versions:
        client.post("/api/v1/routes", json=a_route(version=f"v{version}")).raise_for_status()


def _forget(engine: SqlEngine, kept: int) -> None:
    compact(engine.database, 2**60, kept=kept)


def _revisions(answer: httpx2.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [change["revision"] for change in answer.json()["changes"]]


def test_the_last_forgotten_revision_can_be_gone_on_from_and_the_one_before_cannot(
    tmp_path: Path, postgres_settings: dict[str, str], engine: SqlEngine
) -> None:
    with a_node(tmp_path, postgres_settings) as node:
        node.start("--migrate")
        with node.client() as client:
            _make(client, 1, 2, 3)
            client.delete(path_of(a_key(version="v1"))).raise_for_status()  # revision 4
            _make(client, 5)
        node.stop()
        _forget(engine, kept=2)
        node.start()  # it remembers nothing of what was changed before
        with node.client() as client:
            assert _revisions(client.get(CHANGES, params={"after": 3})) == [4, 5], "the deletion is told"
            for after in ("0", "2"):
                gone = client.get(CHANGES, params={"after": after, "wait": 5})
                assert (gone.status_code, gone.json()["head"].partition(".")[2]) == (410, "5")
        with Stream(node, {"after": 3}) as stream:
            assert [stream.next("change").data["revision"] for _ in range(2)] == [4, 5]
        with Stream(node, {"after": 2}) as stream:
            assert stream.begin().status == 410
        with Stream(node, {"after": 2, "include": "snapshot"}) as stream:
            assert stream.next("snapshot-end").data["routes"] == 3


def test_a_worker_that_slept_through_a_compaction_loads_the_table_and_shows_nothing_old(
    tmp_path: Path, postgres_settings: dict[str, str], engine: SqlEngine
) -> None:
    with a_node(tmp_path, postgres_settings) as sleeper, a_node(tmp_path, postgres_settings) as other:
        sleeper.start("--migrate")
        other.start()
        with other.client() as client, Stream(sleeper) as stream:
            _make(client, 1, 2)
            assert stream.next("change").data["revision"] == 1
            assert stream.next("change").data["revision"] == 2
            with _asleep(sleeper):
                client.delete(path_of(a_key(version="v1"))).raise_for_status()
                _make(client, 3, 4)
                _forget(engine, kept=1)
            with sleeper.client() as woken:
                wait_until(
                    lambda: resolve(woken, a_key(version="v4")).status_code == 200, what="the new table"
                )
                assert resolve(woken, a_key(version="v1")).status_code == 404
                assert resolve(woken, a_key(version="v2")).status_code == 200
                assert values(woken.get("/metrics").content)["tm_history_fork_total"] == 0
            assert stream.next("change", "end").data["reason"] == "history-gone"


@contextmanager
def _asleep(node: Node) -> Iterator[None]:
    (pid,) = workers_of(node)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
