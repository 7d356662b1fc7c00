"""`resolve --watch` prints what serves a route, now and each time that it is something else."""

from __future__ import annotations

import json

from tests.cli.conftest import CommandLine
from tests.node import Node
from traffic_manager.client import Client

URL = "https://a.example.com"
OTHER_URL = "https://b.example.com"


def test_each_state_is_a_line_at_once(tm: CommandLine, client: Client, tenant: str) -> None:
    key = (tenant, "s", "e", "v1")
    client.put(key, URL)
    with tm.start("resolve", "--watch", "/".join(key)) as running:
        seen = [running.line()]
        client.put((tenant, "s", "e", "v2"), OTHER_URL)
        client.put(key, OTHER_URL)
        seen.append(running.line())
        client.deactivate(key)
        seen.append(running.line())
        assert "waiting for one" in running.note()
        client.activate(key)
        seen.append(running.line())
        assert running.interrupt().code == 130
    assert seen == [URL, OTHER_URL, "", OTHER_URL]


def test_route_that_is_not_there_is_waited_for(tm: CommandLine, client: Client, tenant: str) -> None:
    with tm.start("resolve", "-w", f"{tenant}/s/e/v1", "-o", "json") as running:
        nothing = json.loads(running.line())
        client.put((tenant, "s", "e", "v1"), URL)
        found = json.loads(running.line())
    assert (nothing["url"], nothing["revision"]) == (None, None)
    assert (found["url"], found["tenant"]) == (URL, tenant)


def test_server_that_dies_and_comes_back_is_watched_on(node: Node) -> None:
    key = ("t", "s", "e", "v1")
    with Client(node.url) as client:
        client.put(key, URL)
        with CommandLine(node.url).start("resolve", "--watch", "/".join(key)) as running:
            assert running.line() == URL
            node.kill()
            assert "trying again" in running.note()
            node.start()
            client.put(key, OTHER_URL)
            assert running.line() == OTHER_URL


def test_other_history_is_told_and_the_route_is_read_again(node: Node) -> None:
    key = ("t", "s", "e", "v1")
    with Client(node.url) as client:
        client.put(key, URL)
        with CommandLine(node.url).start("resolve", "--watch", "/".join(key)) as running:
            assert running.line() == URL
            node.kill()
            assert "trying again" in running.note()
            for file in node.folder.glob("routes.db*"):
                file.unlink()
            node.start()
            client.put(key, OTHER_URL)
            assert "back again" in running.note()
            assert "reading the route again" in running.note()
            lines = [running.line()]
            if not lines[-1]:  # it was back before the route was
                lines.append(running.line())
            assert lines[-1] == OTHER_URL


def test_server_that_is_not_there_is_told_at_once() -> None:
    assert CommandLine("http://127.0.0.1:9")("resolve", "--watch", "t/s/e/v").code == 5
