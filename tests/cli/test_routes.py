"""Commands that read and change single routes."""

from __future__ import annotations

import socket

import pytest

from tests.cli.conftest import CommandLine
from tests.node import Node
from traffic_manager import __version__
from traffic_manager.client import Client

URL = "https://pay.example.com/v2"


def a_route(client: Client, tenant: str, version: str = "v2", *, is_active: bool = True) -> str:
    """Make a route and return its text."""
    client.put((tenant, "payments", "prod", version), URL, is_active=is_active)
    return f"{tenant}/payments/prod/{version}"


class TestResolve:
    def test_prints_the_url_and_nothing_else(self, tm: CommandLine, client: Client, tenant: str) -> None:
        found = tm("resolve", a_route(client, tenant))
        assert (found.code, found.out, found.err) == (0, f"{URL}\n", "")

    def test_as_json_is_the_document_of_the_api(self, tm: CommandLine, client: Client, tenant: str) -> None:
        found = tm("resolve", a_route(client, tenant), "--output", "json").document
        assert list(found) == ["tenant", "service", "env", "version", "url", "revision"]

    def test_an_inactive_route_is_not_found(self, tm: CommandLine, client: Client, tenant: str) -> None:
        found = tm("resolve", a_route(client, tenant, is_active=False))
        assert (found.code, found.out) == (3, "")

    def test_every_character_of_a_name_goes_through(self, tm: CommandLine, tenant: str) -> None:
        route = f"{tenant}/a~b/c+d/e._-f"
        tm("routes", "put", route, URL)
        assert tm("resolve", route).out == f"{URL}\n"

    def test_of_several_routes_there_is_a_line_for_each_in_their_order(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        first, second = a_route(client, tenant, "v1"), a_route(client, tenant, "v2")
        off = a_route(client, tenant, "v3", is_active=False)
        client.put((tenant, "payments", "prod", "v1"), f"{URL}/1")
        found = tm("resolve", second, first)
        assert (found.code, found.out) == (0, f"{URL}\n{URL}/1\n")
        found = tm("resolve", first, off, second)
        assert (found.code, found.out) == (3, f"{URL}/1\n\n{URL}\n")

    def test_several_routes_as_json_have_their_status(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        found = tm("resolve", a_route(client, tenant), f"{tenant}/no/such/route", "--output", "json")
        assert [(r["status"], r["url"]) for r in found.document["results"]] == [(200, URL), (404, None)]

    def test_only_one_route_can_be_watched(self, tm: CommandLine, client: Client, tenant: str) -> None:
        route = a_route(client, tenant)
        assert tm("resolve", route, route, "--watch").code == 2


class TestList:
    def test_filters_must_all_match(self, tm: CommandLine, client: Client, tenant: str) -> None:
        for version in ("v1", "v2"):
            a_route(client, tenant, version)
        found = tm("routes", "list", "--tenant", tenant, "--version", "v1", "-o", "json").document
        assert [route["version"] for route in found["routes"]] == ["v1"]

    @pytest.mark.parametrize(("option", "version"), [("--active", "v1"), ("--inactive", "v2")])
    def test_shows_active_or_inactive_routes(
        self, tm: CommandLine, client: Client, tenant: str, option: str, version: str
    ) -> None:
        a_route(client, tenant, "v1")
        a_route(client, tenant, "v2", is_active=False)
        found = tm("routes", "list", "--tenant", tenant, option, "-o", "json").document
        assert [route["version"] for route in found["routes"]] == [version]

    def test_says_if_there_are_more_than_the_limit(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        for version in ("v1", "v2", "v3"):
            a_route(client, tenant, version)
        found = tm("routes", "list", "--tenant", tenant, "--limit", "2", "-o", "json")
        assert (len(found.document["routes"]), found.document["has_more"]) == (2, True)
        assert "more than 2" in found.err

    def test_all_wins_over_the_limit(self, tm: CommandLine, client: Client, tenant: str) -> None:
        for version in ("v1", "v2", "v3"):
            a_route(client, tenant, version)
        found = tm("routes", "list", "--tenant", tenant, "--limit", "2", "--all", "-o", "json").document
        assert (len(found["routes"]), found["has_more"]) == (3, False)

    def test_in_a_pipe_one_route_is_one_line(self, tm: CommandLine, client: Client, tenant: str) -> None:
        route = a_route(client, tenant, "v" * 128)
        lines = tm("routes", "list", "--tenant", tenant).out.splitlines()
        assert [line.split()[1:] for line in lines[2:]] == [["active", route, URL]]

    def test_csv_is_what_import_reads(self, tm: CommandLine, client: Client, tenant: str) -> None:
        a_route(client, tenant, is_active=False)
        found = tm("routes", "list", "--tenant", tenant, "-o", "csv").out
        expected = f"tenant,service,env,version,url,is_active\n{tenant},payments,prod,v2,{URL},false\n"
        assert found == expected

    def test_no_routes_are_no_failure(self, tm: CommandLine, tenant: str) -> None:
        found = tm("routes", "list", "--tenant", tenant)
        assert (found.code, found.out, found.err) == (0, "", "no such routes\n")


class TestWrites:
    def test_create_shows_the_route_that_it_made(self, tm: CommandLine, tenant: str) -> None:
        found = tm("routes", "create", f"{tenant}/payments/prod/v2", URL, "-o", "json").document
        assert (found["url"], found["is_active"]) == (URL, True)

    def test_create_of_another_route_is_a_conflict_that_shows_it(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        found = tm("routes", "create", a_route(client, tenant), "https://other.example.com")
        assert (found.code, f"it is now: {URL}, active" in found.err) == (4, True)

    def test_put_gives_url_and_state(self, tm: CommandLine, client: Client, tenant: str) -> None:
        tm("routes", "put", a_route(client, tenant), "https://other.example.com", "--inactive")
        found = client.get((tenant, "payments", "prod", "v2")).value
        assert (found.url, found.is_active) == ("https://other.example.com", False)

    def test_put_leaves_the_state_as_it_is(self, tm: CommandLine, client: Client, tenant: str) -> None:
        tm("routes", "put", a_route(client, tenant, is_active=False), "https://other.example.com")
        assert client.get((tenant, "payments", "prod", "v2")).value.is_active is False

    def test_deactivate_and_activate_switch(self, tm: CommandLine, client: Client, tenant: str) -> None:
        route = a_route(client, tenant)
        states = [
            tm("routes", verb, route, "-o", "json").document["is_active"]
            for verb in ("deactivate", "activate")
        ]
        assert states == [False, True]

    def test_delete_is_not_found_the_second_time(self, tm: CommandLine, client: Client, tenant: str) -> None:
        route = a_route(client, tenant)
        first, second = tm("routes", "delete", route, "-o", "json"), tm("routes", "delete", route)
        assert (first.code, first.document["action"], second.code) == (0, "deleted", 3)

    @pytest.mark.parametrize("strip", ["", '"'])
    def test_etag_of_get_is_what_if_match_takes(
        self, tm: CommandLine, client: Client, tenant: str, strip: str
    ) -> None:
        route = a_route(client, tenant)
        etag = tm("routes", "get", route, "-o", "json").document["etag"].strip(strip)
        assert tm("routes", "deactivate", route, "--if-match", etag).code == 0

    @pytest.mark.parametrize("verb", ["put", "activate", "deactivate", "delete"])
    def test_stale_etag_is_a_conflict_and_changes_nothing(
        self, tm: CommandLine, client: Client, tenant: str, verb: str
    ) -> None:
        route = a_route(client, tenant)
        before = client.get((tenant, "payments", "prod", "v2"))
        words = [route, "https://other.example.com"] if verb == "put" else [route]
        found = tm("routes", verb, *words, "--if-match", "00000000.1")
        assert (found.code, client.get((tenant, "payments", "prod", "v2")).value) == (4, before.value)

    def test_refused_url_is_told_by_its_field(self, tm: CommandLine, tenant: str) -> None:
        found = tm("routes", "put", f"{tenant}/payments/prod/v2", "ftp://pay.example.com")
        assert (found.code, found.err.splitlines()[1]) == (1, "  url: must begin with https:// or http://")

    def test_every_route_command_has_a_view_for_people(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        route = a_route(client, tenant)
        shown = tm("routes", "get", route).out.splitlines()
        assert [line.split()[0] for line in shown] == [
            "route",
            "url",
            "state",
            "revision",
            "etag",
            "created",
            "updated",
        ]


class TestHistory:
    def test_is_newest_first_and_outlives_the_route(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        route = a_route(client, tenant)
        tm("routes", "delete", route)
        found = tm("routes", "history", route, "-o", "json").document
        assert [change["action"] for change in found["changes"]] == ["deleted", "created"]

    def test_says_if_there_are_more_than_the_limit(
        self, tm: CommandLine, client: Client, tenant: str
    ) -> None:
        route = a_route(client, tenant)
        a_route(client, tenant, is_active=False)
        found = tm("routes", "history", route, "--limit", "1", "-o", "json").document
        assert (len(found["changes"]), found["has_more"]) == (1, True)

    def test_of_a_route_that_never_was_is_not_found(self, tm: CommandLine, tenant: str) -> None:
        assert tm("routes", "history", f"{tenant}/payments/prod/v2").code == 3


class TestUse:
    @pytest.mark.parametrize(
        "words",
        [
            ("resolve", "a/b/c"),
            ("resolve", "a/b/c/d/e"),
            ("resolve", "a/b/c/-d"),
            ("routes", "list", "--tenant", "a b"),
            ("routes", "list", "--limit", "0"),
            ("routes", "list", "--server", "localhost:8000"),
            ("routes", "list", "--server", "http://"),
            ("routes", "import", "/no/such/file.csv"),
            ("changes", "--after", "yesterday"),
            ("routes", "teleport"),
        ],
    )
    def test_wrong_use_is_told_before_the_server_is_asked(
        self, tm: CommandLine, words: tuple[str, ...]
    ) -> None:
        found = tm(*words)
        assert (found.code, found.out, "Error: " in found.err) == (2, "", True)

    def test_server_that_cannot_be_reached(self) -> None:
        found = CommandLine("http://127.0.0.1:9")("routes", "list")
        assert (found.code, len(found.err.splitlines())) == (5, 2)

    def test_server_that_is_another_one_is_told_without_a_traceback(self, server: Node) -> None:
        found = CommandLine(f"{server.url}/docs?")("resolve", "a/b/c/d")
        assert (found.code, "this is not Traffic Manager's API" in found.err) == (1, True)

    def test_password_in_the_servers_url_is_not_shown(self) -> None:
        found = CommandLine("http://admin:secret@127.0.0.1:9")("routes", "list")
        assert ("secret" in found.err, found.code) == (False, 5)

    def test_names_itself_to_the_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with CommandLine(f"http://127.0.0.1:{port}").start("resolve", "a/b/c/d"):
                connection, _ = listener.accept()
                with connection:
                    head = connection.recv(4096).decode()
        assert f"User-Agent: traffic-manager/{__version__}\r\n" in head
