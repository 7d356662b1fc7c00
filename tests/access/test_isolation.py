"""Nothing of one tenant reaches another, whatever it asks for; and a revoked key opens nothing, anywhere."""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.node import Node, a_key, a_route, resolve, wait_until
from tests.servers import PostgresServer

REQUESTS = 1000
KEYS = "/api/v1/keys"
ROUTES = "/api/v1/routes"
CHANGES = "/api/v1/changes"
OWN, FOREIGN = "tenant-a", "tenant-b"


class TestCanary:
    """Tenant B's names and URLs hold words that nobody can guess; tenant A must never be told one."""

    @pytest.fixture
    def node(self, tmp_path: Path) -> Iterator[Node]:
        """A server that asks everybody for a key."""
        with Node(tmp_path, REQUIRED) as node:
            yield node.start()

    def test_no_byte_of_another_tenant_is_in_any_answer(self, node: Node) -> None:
        canaries = [f"canary{secrets.token_hex(16)}" for _ in range(6)]
        own = _client(node, f"admin:{OWN}/*")
        foreign = _client(node, f"admin:{FOREIGN}/*", owner=canaries[5])
        for canary in canaries[:4]:
            names = a_key(tenant=FOREIGN, service=canary, env="prod", version=canary[:9])
            foreign.post(ROUTES, json={**names, "url": f"https://{canary}.example.com/"})
        own.post(ROUTES, json=a_route(tenant=OWN))
        stop = threading.Event()
        busy = threading.Thread(target=_keep_changing, args=(foreign, canaries[4], stop))
        busy.start()
        try:
            seen = _fuzz(own, random.Random(7))
        finally:
            stop.set()
            busy.join()
        told = _everything(foreign)
        assert all(canary in told for canary in canaries), "the canaries are not there to be seen"
        assert not [canary for canary in canaries if canary in seen]
        assert OWN in seen


def _client(node: Node, *grants: str, owner: str = "alice") -> httpx2.Client:
    client = node.client()
    client.headers.update(bearer(a_key_for(node, *grants, owner=owner)))
    wait_until(lambda: client.get("/api/v1/whoami").status_code == 200)
    return client


def _everything(client: httpx2.Client) -> str:
    return "".join(client.get(path).text for path in (ROUTES, CHANGES + "?limit=1000", KEYS))


def _keep_changing(client: httpx2.Client, canary: str, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        key = a_key(tenant=FOREIGN, service=canary, version=f"v{number % 50}")
        path = "/".join(key.values())
        client.put(f"{ROUTES}/{path}", json={"url": f"https://x.example.com/{canary}{number}"})


def _fuzz(client: httpx2.Client, chance: random.Random) -> str:
    """Ask for much, some of it silly; return all that was answered."""
    seen: list[str] = []
    tokens: list[str] = ["0", "1"]
    for _ in range(REQUESTS):
        answer = _one(client, chance, tokens)
        seen.append(f"{answer.headers}{answer.text}")
        if answer.headers.get("Content-Type") == "application/json":
            document = answer.json()
            tokens += [
                str(document[name])
                for name in ("next_page_token", "next_after", "head")
                if document.get(name)
            ]
        tokens += [answer.headers[name] for name in ("TM-Revision", "ETag") if name in answer.headers]
    return "".join(seen)


def _one(client: httpx2.Client, chance: random.Random, tokens: list[str]) -> httpx2.Response:
    pick = chance.choice
    names = {
        "tenant": pick([OWN, OWN, FOREIGN, "*", "", f"{OWN}%2f{FOREIGN}"]),
        "service": pick(["payments", "canary", "*", "x"]),
        "env": pick(["prod", "test", "*"]),
        "version": pick(["v1", "v2", "canary"]),
    }
    headers = {}
    if chance.random() < 0.3:
        name = pick(["If-None-Match", "If-Match", "TM-Min-Revision", "Last-Event-ID", "X-Correlation-ID"])
        headers[name] = pick(tokens)
    filters = {name: value for name, value in names.items() if chance.random() < 0.4}
    path = f"{ROUTES}/{names['tenant']}/{names['service']}/{names['env']}/{names['version']}"
    match chance.randrange(12):
        case 0 | 1:
            page = {"page_size": pick(["1", "2", "500"])}
            token = {"page_token": pick(tokens)} if chance.random() < 0.5 else {}
            return client.get(ROUTES, params={**filters, **page, **token}, headers=headers)
        case 2 | 3:
            wait = {"wait": "0.05"} if chance.random() < 0.3 else {}
            after = {"after": pick(tokens)} if chance.random() < 0.7 else {}
            return client.get(CHANGES, params={**filters, "limit": "50", **after, **wait}, headers=headers)
        case 4:
            return _stream(client, filters, headers, pick(["snapshot", None]), pick(tokens))
        case 5:
            return client.get(f"{ROUTES}/resolve", params=names, headers=headers)
        case 6:
            keys = [{**names, "tenant": tenant} for tenant in (OWN, FOREIGN)]
            return client.post(f"{ROUTES}/resolve", json={"keys": keys}, headers=headers)
        case 7:
            return client.get(path + pick(["", "/history"]), headers=headers)
        case 8:
            body = {"url": "https://a.example.com/"}
            return client.request(pick(["PUT", "DELETE"]), path, json=body, headers=headers)
        case 9:
            operations = [
                {**names, "tenant": tenant, "operation": pick(["create", "activate", "delete"])}
                for tenant in (OWN, FOREIGN)
            ]
            return client.post(f"{ROUTES}/batch", json={"operations": operations, "dry_run": True})
        case 10:
            return client.get(KEYS, params={"page_token": pick(tokens)} if chance.random() < 0.3 else {})
        case _:
            paths = ["/metrics", "/health/ready", "/openapi.json", "/api/v1/whoami", "/nowhere", path + "/x"]
            return client.get(pick(paths), headers=headers)


def _stream(
    client: httpx2.Client, filters: dict[str, str], headers: dict[str, str], include: str | None, after: str
) -> httpx2.Response:
    """Return what a stream says in its first moments."""
    question = {**filters, "include": include} if include else {**filters, "after": after}
    with client.stream("GET", f"{CHANGES}/stream", params=question, headers=headers, timeout=0.05) as answer:
        text = ""
        try:
            for part in answer.iter_text():
                text += part
        except httpx2.ReadTimeout:
            pass
        return httpx2.Response(answer.status_code, headers={"Content-Type": "text/plain"}, text=text)


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
