"""The thin path through everything: create over HTTP, resolve from memory, on both engines."""

from __future__ import annotations

import pytest

from tests.node import Node, a_key, a_route, resolve


@pytest.mark.parametrize("engine", ["node", pytest.param("postgres_node", marks=pytest.mark.servers)])
def test_created_route_resolves_at_once(engine: str, request: pytest.FixtureRequest) -> None:
    node: Node = request.getfixturevalue(engine)
    with node.client() as client:
        created = client.post("/api/v1/routes", json=a_route())
        answer = resolve(client, a_key(), tm_min_revision=created.headers["TM-Revision"])
    assert created.status_code == 201
    assert (answer.status_code, answer.json()["url"]) == (200, "https://payments.example.com/v2")


def test_server_stops_with_exit_code_0_on_sigterm_and_finds_nothing_wrong(node: Node) -> None:
    assert node.stop() == 0
    assert [line for line in node.log().splitlines() if '"level":"error"' in line] == []
