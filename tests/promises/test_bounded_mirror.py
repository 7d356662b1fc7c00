"""A server whose table outgrows its memory and shrinks again answers everything right all the while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node import Node, wait_until
from tests.promises.caller import Caller
from tests.promises.crew import keys, new_url
from tests.promises.places import a_node
from traffic_manager.routing.model import RouteKey

pytestmark = pytest.mark.servers

ROUTES = keys(6)
ALLOWED = 5


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that may hold three routes and look up five unknown names a second."""
    settings = {"MIRROR_MAX_ROUTES": "3", "UNKNOWN_NAMES_PER_SECOND": str(ALLOWED)}
    with a_node(tmp_path_factory.mktemp("node"), settings) as node:
        yield node.start()


def mirror(node: Node) -> str:
    """Return what the server says of its mirror."""
    return str(Caller(node).ask("GET", "/health/ready").json["checks"]["mirror"]["message"])


def a_name(number: int) -> RouteKey:
    """Return a key that no route has."""
    return RouteKey.of("team-a", f"made-up-{number}", "prod", "v1")


def test_a_table_that_outgrows_the_mirror_and_shrinks_again_is_answered_right(node: Node) -> None:
    caller = Caller(node)
    for count, key in enumerate(ROUTES, 1):
        caller.put(key, new_url())
        assert [caller.resolve(known).status for known in ROUTES[:count]] == [200] * count
        assert caller.resolve(a_name(0)).status == 404
    wait_until(lambda: mirror(node) == "bounded: 3 of 6 active routes; MIRROR_MAX_ROUTES=3", 10.0, "its word")
    for key in ROUTES[2:]:
        caller.delete(key)
        assert caller.resolve(key).status == 404
    wait_until(lambda: mirror(node) == "complete: all 2 active routes", 10.0, "its word")
    assert [caller.resolve(key).status for key in ROUTES] == [200] * 2 + [404] * 4


def test_a_flood_of_unknown_names_is_refused_and_routes_are_answered_on(node: Node) -> None:
    caller = Caller(node)
    for key in ROUTES:
        caller.put(key, new_url())
    held = [key for key in ROUTES[-2:] if caller.resolve(key).status == 200]
    answers = [caller.resolve(a_name(number)) for number in range(1, 10 * ALLOWED)]
    assert {answer.status for answer in answers} == {404, 503}
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.headers["retry-after"] in "123"
    assert refused.json["type"] == "urn:traffic-manager:busy"
    assert [caller.resolve(key).status for key in held] == [200, 200]


def test_a_complete_mirror_refuses_no_unknown_name(tmp_path: Path) -> None:
    with a_node(tmp_path, {"UNKNOWN_NAMES_PER_SECOND": "1"}) as node:
        caller = Caller(node.start())
        assert {caller.resolve(a_name(number)).status for number in range(20)} == {404}
