"""No address can take a worker's connections for itself; proxies of ours carry many callers and may have more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse

import pytest

from tests.node import Node, wait_until
from tests.promises.places import a_node
from tests.servers.ports import HOST

MOST = 4
ROUTES = "/api/v1/routes"
# Each of this machine's addresses of its own is somebody else to the server.
GREEDY, OTHER, PROXY = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that takes few clients of one address."""
    settings = {"API_MAX_CONNECTIONS_PER_ADDRESS": str(MOST), "API_TRUSTED_PROXIES": f"{PROXY}/32"}
    with a_node(tmp_path_factory.mktemp("addresses"), settings) as started:
        yield started.start()


def connected(node: Node, address: str) -> HTTPConnection:
    """Return a connection from *address*."""
    return HTTPConnection(HOST, node.port, timeout=10.0, source_address=(address, 0))


def asked(connection: HTTPConnection, path: str = ROUTES) -> HTTPResponse:
    """Return the answer to *path*, read to its end."""
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer


def status_of(node: Node, address: str, path: str = ROUTES) -> int:
    """Return what a new connection is answered, 0 if nothing."""
    with closing(connected(node, address)) as connection:
        try:
            return asked(connection, path).status
        except (HTTPException, OSError):
            return 0


@contextmanager
def clients(node: Node, address: str, number: int) -> Iterator[list[HTTPConnection]]:
    """Hold so many connections from *address*, all of them served."""
    with ExitStack() as held:
        connections = [connected(node, address) for _ in range(number)]
        for connection in connections:
            held.enter_context(closing(connection))
            wait_until(lambda: asked_well(connection), what="room")  # noqa: B023 called at once
        yield connections


def asked_well(connection: HTTPConnection) -> bool:
    """Return whether the connection is served."""
    try:
        return asked(connection).status == 200
    except (HTTPException, OSError):
        return False


def test_one_too_many_of_an_address_is_told_so_and_others_are_served(node: Node) -> None:
    with clients(node, GREEDY, MOST) as served:
        with closing(connected(node, GREEDY)) as surplus:
            refused = asked(surplus)
        assert refused.status == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] in "123"
        assert refused.headers["connection"] == "close"
        assert status_of(node, OTHER) == 200
        assert [asked(connection).status for connection in served] == [200] * MOST


def test_probe_over_one_too_many_of_an_address_is_answered(node: Node) -> None:
    with clients(node, GREEDY, MOST):
        assert status_of(node, GREEDY, "/health/ready") == 200


def test_there_is_room_again_when_one_of_them_goes(node: Node) -> None:
    with clients(node, GREEDY, MOST) as served:
        served[0].close()
        wait_until(lambda: status_of(node, GREEDY) == 200, what="room")


def test_trusted_proxy_may_have_more(node: Node) -> None:
    with clients(node, PROXY, 3 * MOST) as served:
        assert [asked(connection).status for connection in served] == [200] * (3 * MOST)


def test_refusals_are_counted(node: Node) -> None:
    with clients(node, GREEDY, MOST):
        assert status_of(node, GREEDY) == 429
        with closing(connected(node, OTHER)) as scraper:
            scraper.request("GET", "/metrics")
            lines = scraper.getresponse().read().decode().splitlines()
    (refused,) = [line for line in lines if line.startswith("tm_connections_refused_by_address_total ")]
    assert float(refused.split()[1]) >= 1
