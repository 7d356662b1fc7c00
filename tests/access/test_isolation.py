"""Nothing of one tenant reaches another, whatever it asks for; and a revoked key opens nothing, anywhere."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.access.canary import FOREIGN, hunt
from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.node import Node, a_key, a_route, resolve, wait_until
from tests.servers import PostgresServer

REQUESTS = 1000
KEYS = "/api/v1/keys"
ROUTES = "/api/v1/routes"
CHANGES = "/api/v1/changes"


def test_no_byte_of_another_tenant_is_in_any_answer(tmp_path: Path) -> None:
    """`make canary` does the same a hundred times as long, on each way to run a server."""
    with Node(tmp_path, REQUIRED) as node:
        found = hunt(node.start(), REQUESTS, seed=7)
    assert found.shown == []
    assert found.asked == REQUESTS
    assert set(found.statuses) >= {200, 400, 403, 404}


def test_whoever_may_see_another_tenant_is_found_out(tmp_path: Path) -> None:
    """Else the hunt above would find nothing."""
    with Node(tmp_path, REQUIRED) as node:
        assert hunt(node.start(), REQUESTS // 4, 7, f"viewer:{FOREIGN}/*").shown


def _client(node: Node, *grants: str) -> httpx2.Client:
    client = node.client()
    client.headers.update(bearer(a_key_for(node, *grants)))
    wait_until(lambda: client.get("/api/v1/whoami").status_code == 200)
    return client


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[tuple[Node, Node]]:
    """Both, asking for keys."""
    tmp_path = tmp_path_factory.mktemp("nodes")
    database = postgres.create_database(f"access_{os.getpid()}")
    settings = {**database, **REQUIRED, "API_WORKERS": "2"}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with Node(tmp_path / "one", settings) as one, Node(tmp_path / "two", settings) as two:
        one.start("--migrate")
        two.start()
        yield one, two


@pytest.mark.servers
class TestTwoNodes:
    """Two nodes of two workers on one PostgreSQL."""

    def test_key_opens_every_worker_and_is_revoked_on_every_worker_within_a_second(
        self, nodes: tuple[Node, Node]
    ) -> None:
        admin = _client(nodes[0], "admin:*/*")
        wanted = {"owner": "ci", "grants": [{"role": "editor", "tenant": "team-a"}]}
        made = admin.post(KEYS, json=wanted).json()
        # Each keeps its connection, and so its worker: of ten, both workers have some.
        clients = [
            httpx2.Client(base_url=node.url, headers=bearer(made["key"])) for node in nodes for _ in range(10)
        ]
        wait_until(lambda: {c.get("/api/v1/whoami").status_code for c in clients} == {200}, 1.0)
        assert clients[0].post(ROUTES, json=a_route()).status_code == 201
        wait_until(lambda: {resolve(c, a_key()).status_code for c in clients} == {200})
        with _open_streams(clients) as ended:
            assert admin.post(f"{KEYS}/{made['id']}/revoke").status_code == 200
            began = time.monotonic()
            open_still = list(clients)
            while open_still:
                open_still = [c for c in open_still if resolve(c, a_key()).status_code != 401]
                assert time.monotonic() - began < 1.0, (
                    f"{len(open_still)} workers' connections are open still"
                )
            wait_until(lambda: len(ended) == 2, 2.0, "the end of the streams")
        assert all("credential-over" in text for text in ended)
        for client in clients:
            client.close()

    def test_key_revoked_while_a_node_is_down_opens_nothing_there_later(
        self, nodes: tuple[Node, Node]
    ) -> None:
        one, two = nodes
        admin = _client(one, "admin:*/*")
        made = admin.post(KEYS, json={"owner": "ci", "grants": [{"role": "viewer"}]}).json()
        assert two.stop() == 0
        admin.post(f"{KEYS}/{made['id']}/revoke")
        two.start()
        assert httpx2.get(f"{two.url}/api/v1/whoami", headers=bearer(made["key"])).status_code == 401


class _open_streams:  # noqa: N801 used as a function is
    """Hold a stream open at each node; lends what they said, as they end."""

    def __init__(self, clients: list[httpx2.Client]) -> None:
        self._ended: list[str] = []
        self._begun = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._read, args=(str(c.base_url), dict(c.headers)), daemon=True)
            for c in (clients[0], clients[-1])
        ]

    def __enter__(self) -> list[str]:
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            assert self._begun.acquire(timeout=10)
        return self._ended

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(5)

    def _read(self, url: str, headers: dict[str, str]) -> None:
        with httpx2.stream("GET", f"{url}{CHANGES}/stream", headers=headers, timeout=30) as answer:
            text = ""
            for part in answer.iter_text():
                if not text:
                    self._begun.release()
                text += part
        self._ended.append(text)
