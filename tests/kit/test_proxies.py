"""Each proxy of `deploy/proxies`, the real one, before two real nodes on one database."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.access.authority import Authority
from tests.kit.load import a_change, a_load, a_named_change, started
from tests.kit.proxies import PROXIES, Proxy
from tests.node import Node, a_key, a_route, path_of, resolve, wait_until
from tests.servers import PostgresServer

pytestmark = [pytest.mark.kit, pytest.mark.servers, pytest.mark.timeout(400)]

Nodes = tuple[Node, Node]
# As in production.
DRAIN_S = 5.0
# Longer than a proxy waits for an ordinary answer.
LONG_S = 7
STREAM = "/api/v1/changes/stream"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, authority: Authority
) -> Iterator[Nodes]:
    """Two nodes that speak TLS and believe the proxy, but not its clients, where a request comes from."""
    settings = {
        **postgres.create_database(f"proxies_{os.getpid()}"),
        **authority.settings_for_a_server(),
        "API_TRUSTED_PROXIES": "127.0.0.1/32",
        "DRAIN_SECONDS": str(DRAIN_S),
    }
    folders = [tmp_path_factory.mktemp("node") for _ in range(2)]
    with (
        Node(folders[0], settings, authority.trust()) as one,
        Node(folders[1], settings, authority.trust()) as two,
    ):
        yield started(one, "--migrate"), started(two)


@pytest.fixture(scope="module", params=PROXIES, ids=lambda proxy: proxy.name)
def proxy(request: pytest.FixtureRequest, nodes: Nodes, authority: Authority) -> Iterator[Proxy]:
    """Each proxy before both nodes, which know a route."""
    made: Proxy = request.param((nodes[0].port, nodes[1].port), authority)
    with made, made.client() as client:
        assert client.put(path_of(a_key()), json={"url": a_route()["url"]}).is_success
        wait_until(lambda: all(_knows(node) for node in nodes), what="the route on both nodes")
        yield made


@pytest.fixture
def client(proxy: Proxy) -> Iterator[httpx2.Client]:
    with proxy.client() as client:
        yield client


def _knows(node: Node) -> bool:
    with node.client() as client:
        return resolve(client, a_key()).is_success


def test_what_was_changed_through_it_is_resolved_through_it(client: httpx2.Client) -> None:
    for number in range(10):
        url = f"https://payments.example.com/{number}"
        changed = client.put(path_of(a_key("own-writes")), json={"url": url})
        found = resolve(client, a_key("own-writes"), tm_min_revision=changed.headers["TM-Revision"])
        assert found.json()["url"] == url


def test_the_largest_batch_passes(client: httpx2.Client) -> None:
    operations = [
        {"operation": "put", **a_route(f"https://example.com/{'x' * 1900}", service=f"large-{number}")}
        for number in range(1000)
    ]
    answer = client.post("/api/v1/routes/batch", json={"operations": operations})
    assert answer.status_code == 200, answer.text[:500]


def test_log_names_the_client_whatever_it_says_of_itself(client: httpx2.Client) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    changed = client.put(
        path_of(a_key("forged")), json={"url": f"https://a.example/{time.time_ns()}"}, headers=forged
    )
    before = int(changed.headers["TM-Revision"].partition(".")[2]) - 1
    changes = client.get("/api/v1/changes", params={"after": before, "service": "forged"}).json()["changes"]
    assert [change["address"] for change in changes] == ["127.0.0.9"]


def test_changes_are_told_to_an_open_stream_as_they_happen(proxy: Proxy, client: httpx2.Client) -> None:
    with proxy.client() as reader, reader.stream("GET", STREAM, params={"service": "streamed"}) as stream:
        lines = stream.iter_lines()
        _next(lines, "event: progress")
        for number in range(3):
            url = f"https://streamed.example.com/{time.time_ns()}"
            assert client.put(path_of(a_key("streamed", f"v{number}")), json={"url": url}).is_success
            assert url in _next_change(lines)


def _next(lines: Iterator[str], beginning: str) -> str:
    """Return the next line that begins so."""
    return next(line for line in lines if line.startswith(beginning))


def _next_change(lines: Iterator[str]) -> str:
    """Return what the next change is told with."""
    _next(lines, "event: change")
    return _next(lines, "data: ")


def test_silent_stream_and_long_poll_outlast_what_others_may_take(
    proxy: Proxy, client: httpx2.Client
) -> None:
    """A poll and a stream of which nothing is told for longer than an ordinary answer may take."""
    with proxy.client() as reader, reader.stream("GET", STREAM, params={"service": "silent"}) as stream:
        lines = stream.iter_lines()
        _next(lines, "event: progress")
        assert resolve_later(client).is_success
        url = f"https://silent.example.com/{time.time_ns()}"
        assert client.put(path_of(a_key("silent")), json={"url": url}).is_success
        assert url in _next_change(lines)


def resolve_later(client: httpx2.Client) -> httpx2.Response:
    """Return the answer of a poll that ends because its time is up."""
    began = time.monotonic()
    answer = client.get("/api/v1/routes/resolve", params={**a_key(), "wait": LONG_S})
    assert time.monotonic() - began >= LONG_S - 0.5
    return answer


def test_killed_node_costs_no_resolve_and_no_change_that_has_a_name(proxy: Proxy, nodes: Nodes) -> None:
    began = _head(nodes[0])
    with a_load(proxy.client, a_named_change) as load:
        for node in nodes:
            node.kill()
            load.wait_for_more()
            started(node)
            _wait_until_used(node)
    assert load.failures == []
    assert _changes_of(nodes[0], "named", began) == load.answered["writer"]


def test_nobody_notices_that_nodes_are_restarted_one_after_another(proxy: Proxy, nodes: Nodes) -> None:
    with a_load(proxy.client, a_change) as load:
        for node in nodes:
            assert node.stop() == 0
            load.wait_for_more()
            started(node)
            _wait_until_used(node)
            load.wait_for_more()
    assert load.failures == []


def test_frozen_node_costs_time_and_no_resolve(proxy: Proxy, nodes: Nodes) -> None:
    with a_load(proxy.client) as load:
        os.killpg(nodes[1].pid, signal.SIGSTOP)
        try:
            load.wait_for_more(200)
        finally:
            os.killpg(nodes[1].pid, signal.SIGCONT)
        _wait_until_used(nodes[1])
    assert load.failures == []


def _wait_until_used(node: Node) -> None:
    """Wait until the proxy sends resolves to *node*."""
    with node.client() as client:
        before = _resolves(client)
        wait_until(lambda: _resolves(client) > before + 20, 60.0, "resolves at the node that came back")


def _resolves(client: httpx2.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("resolve_requests_total"))


def _head(node: Node) -> str:
    with node.client() as client:
        return str(client.get("/api/v1/changes", params={"limit": 1}).json()["head"])


def _changes_of(node: Node, service: str, after: str) -> int:
    found = 0
    with node.client() as client:
        while True:
            answer = client.get(
                "/api/v1/changes", params={"after": after, "service": service, "limit": 1000}
            ).json()
            found += len(answer["changes"])
            if answer["next_after"] == answer["head"] or answer["next_after"] == after:
                return found
            after = answer["next_after"]
