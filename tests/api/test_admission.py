"""As many clients as may be connected are served; others are told so, and probes are answered even then."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.node import Node, wait_until
from tests.promises.caller import Caller, NoAnswer
from tests.promises.crew import keys
from tests.promises.places import a_node
from tests.servers.ports import HOST

MOST = 8
ROUTES = "/api/v1/routes"
# Beyond these a connection is cut without a word.
SURPLUS = 32


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that takes few clients."""
    settings = {"API_MAX_CONNECTIONS": str(MOST), "API_MAX_CONNECTIONS_PER_ADDRESS": str(MOST)}
    with a_node(tmp_path_factory.mktemp("admission"), settings) as started:
        yield started.start()


@contextmanager
def clients(node: Node, number: int) -> Iterator[list[Caller]]:
    """Hold so many connections, all of them served."""
    with ExitStack() as held:
        callers = [Caller(node) for _ in range(number)]
        for caller in callers:
            held.callback(caller.close)
            wait_until(lambda: status_of(caller, ROUTES) == 200, what="room")  # noqa: B023 called at once
        yield callers


def status_of(caller: Caller, path: str) -> int:
    """Return the status of *path*, 0 if there was no answer."""
    try:
        return caller.ask("GET", path).status
    except NoAnswer:
        return 0


def test_one_too_many_is_told_so_and_those_who_are_in_are_served(node: Node) -> None:
    with clients(node, MOST) as served:
        refused = Caller(node).ask("GET", ROUTES)
        assert (refused.status, refused.json["type"]) == (503, "urn:traffic-manager:too-many-connections")
        assert refused.headers["connection"] == "close"
        assert refused.headers["retry-after"] in "123"
        assert Caller(node).resolve(keys(1)[0]).status == 503
        assert [caller.resolve(keys(1)[0]).status for caller in served] == [404] * MOST


@pytest.mark.parametrize("probe", ["/health", "/health/live", "/health/ready"])
def test_probe_over_one_too_many_is_answered_and_the_connection_closed(node: Node, probe: str) -> None:
    with clients(node, MOST):
        answer = Caller(node).ask("GET", probe)
        assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_there_is_room_again_when_somebody_goes(node: Node) -> None:
    with clients(node, MOST) as served:
        served[0].close()
        wait_until(lambda: status_of(Caller(node), ROUTES) == 200, what="room")


def test_one_too_many_that_says_nothing_is_closed_soon(node: Node) -> None:
    with clients(node, MOST), socket.create_connection((HOST, node.port), timeout=5.0) as silent:
        assert silent.recv(1) == b""


def test_a_flood_of_connections_is_cut_and_leaves_nothing(node: Node) -> None:
    with clients(node, MOST) as served, ExitStack() as flood:
        for _ in range(10 * SURPLUS):
            flood.enter_context(socket.create_connection((HOST, node.port), timeout=5.0))
        assert [status_of(caller, ROUTES) for caller in served] == [200] * MOST
        flood.close()
        wait_until(lambda: status_of(Caller(node), "/health/live") == 200, what="an answer to a probe")
        found = served[0].ask("GET", "/metrics").body.decode().splitlines()
    (refused,) = [line for line in found if line.startswith("tm_connections_refused_total ")]
    assert float(refused.split()[1]) >= 10 * SURPLUS


def test_settings_cannot_promise_more_than_the_open_files_leave_room_for(node: Node) -> None:
    assert '"connections":8' in node.log()
