"""`changes` shows what happened, and with --follow what happens, each change once."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import CommandLine, Result
from tests.node import Node
from traffic_manager.client import Client


def put(client: Client, tenant: str, version: str = "v1", url: str = "https://h.example.com") -> int:
    """Change a route; return the revision that this made."""
    position = client.put((tenant, "s", "e", version), url).position
    assert position is not None
    return position.revision


class TestOnce:
    def test_changes_after_a_revision_are_in_order(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        first = put(client, tenant, "v1")
        put(client, tenant, "v2")
        put(client, tenant, "v3")
        found = tm("changes", "--after", str(first), "--tenant", tenant, "-o", "json").document
        assert [change["version"] for change in found["changes"]] == ["v2", "v3"]

    def test_next_after_goes_on_exactly_there(self, tm: CommandLine, client: Client, tenant: str) -> None:
        first = put(client, tenant, "v1")
        put(client, tenant, "v2")
        page = tm("changes", "--after", str(first - 1), "--limit", "1", "-o", "json")
        then = tm("changes", "--after", page.document["next_after"], "-o", "json").document
        assert [change["version"] for change in page.document["changes"]] == ["v1"]
        assert [change["version"] for change in then["changes"]] == ["v2"]
        assert f"--after {page.document['next_after']} goes on" in page.err

    def test_changes_are_found_by_who_made_them_and_tell_why(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        route = f"{tenant}/s/e/v1"
        assert tm("--reason", "INC-42: höher", "routes", "put", route, "https://h.example.com").code == 0
        put(client, tenant, url="https://other.example.com")
        asked = ("changes", "--tenant", tenant, "--actor", "anonymous", "--since", "2026-01-01T00:00:00Z")
        found = tm(*asked, "--action", "created", "-o", "json").document["changes"]
        assert [(c["address"], c["reason"]) for c in found] == [("127.0.0.1", "INC-42: höher")]
        assert "INC-42: höher" in tm("routes", "history", route).out
        assert tm(*asked, "--follow").code == 2

    def test_without_a_revision_the_newest_are_shown(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        for version in ("v1", "v2", "v3"):
            put(client, tenant, version)
        found = tm("changes", "--limit", "2", "-o", "json").document
        assert [change["version"] for change in found["changes"]] == ["v2", "v3"]

    def test_people_see_one_line_for_each_in_a_pipe(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        revision = put(client, tenant)
        row = tm("changes", "--after", str(revision - 1)).out.splitlines()[2].split()
        assert (row[0], *row[3:]) == (str(revision), "created", f"{tenant}/s/e/v1", "https://h.example.com")

    def test_another_history_is_told_clearly(self, tm: CommandLine) -> None:
        found = tm("changes", "--after", "00000000.1")
        assert (found.code, "another history" in found.err, "go on with --after" in found.err) == (
            1,
            True,
            True,
        )

    @pytest.mark.parametrize("form", ["table", "json"])
    def test_a_reader_that_goes_away_ends_it_quietly(
        self, tm: CommandLine, client: Client, tenant: str, form: str
    ) -> None:
        for n in range(300):
            put(client, tenant, f"v{n}", f"https://{'h' * 60}.example.com/{'p' * 300}")
        with tm.start("changes", "--limit", "1000", "-o", form) as running:
            assert running.closed_after_a_line() == Result(141, "", "")


class TestFollow:
    def test_each_change_is_a_json_line_at_once(self, tm: CommandLine, client: Client, tenant: str) -> None:
        after = put(client, tenant, "v0")
        with tm.start("changes", "--follow", "--after", str(after), "-o", "json") as running:
            for version in ("v1", "v2"):
                put(client, tenant, version)
                assert json.loads(running.line())["version"] == version

    def test_people_see_a_line_for_each(self, tm: CommandLine, client: Client, tenant: str) -> None:
        after = put(client, tenant)
        with tm.start("changes", "-f", "--after", str(after), "--tenant", tenant) as running:
            client.delete((tenant, "s", "e", "v1"))
            words = running.line().split()
        assert (words[0], words[3:]) == (str(after + 1), ["deleted", f"{tenant}/s/e/v1"])

    def test_ctrl_c_ends_it_quietly(self, tm: CommandLine, client: Client, tenant: str) -> None:
        after = put(client, tenant)
        with tm.start("changes", "--follow", "--after", str(after - 1)) as running:
            running.line()
            found = running.interrupt()
        assert (found.code, found.out, found.err) == (130, "", "")

    def test_server_that_dies_and_comes_back_loses_and_doubles_nothing(self, node: Node) -> None:
        with Client(node.url) as client:
            put(client, "t", "v1")
            with CommandLine(node.url).start("changes", "--follow", "--after", "0", "-o", "json") as running:
                seen = [json.loads(running.line())["revision"]]
                node.kill()
                assert "trying again" in running.note()
                node.start()
                for version in ("v2", "v3"):
                    put(client, "t", version)
                seen += [json.loads(running.line())["revision"] for _ in range(2)]
        assert seen == [1, 2, 3]

    def test_history_that_is_gone_ends_it(self, tm: CommandLine) -> None:
        found = tm("changes", "--follow", "--after", "00000000.1")
        assert (found.code, found.out, "another history" in found.err) == (1, "", True)

    def test_server_that_is_not_there_is_told_at_once(self) -> None:
        assert CommandLine("http://127.0.0.1:9")("changes", "--follow").code == 5
