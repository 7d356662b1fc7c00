"""`routes import` puts a file, and always knows which lines are in."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.cli.proxy import Fault, losing
from tests.node import Node, wait_until
from traffic_manager.client import Client, Filter

EXAMPLE = Path(__file__).parents[2] / "examples" / "aws-endpoints.csv"
HEADER = "tenant,service,env,version,url\n"
COUNTS = ("created", "updated", "unchanged")


def a_file(folder: Path, tenant: str, routes: int, bad_urls: tuple[int, ...] = ()) -> str:
    """Write a file of *routes*; the line numbers *bad_urls* have a URL that the server refuses."""
    lines = [
        f"{tenant},s,e,v{line},{'ftp' if line in bad_urls else 'https'}://h{line}.example.com\n"
        for line in range(2, routes + 2)
    ]
    path = folder / "routes.csv"
    path.write_text(HEADER + "".join(lines))
    return str(path)


def count_of(client: Client, tenant: str) -> int:
    """Return how many routes *tenant* has, told by the changes: they are exactly those imported."""
    changes = client.changes(0, Filter()).value.changes
    return len({change.key for change in changes if change.tenant == tenant})


def test_ten_thousand_routes_are_in_and_a_second_time_changes_nothing(node: Node) -> None:
    tm = CommandLine(node.url)
    before_s = os.times().children_user
    first = tm("routes", "import", str(EXAMPLE), "-o", "json").document
    # The command's own work, measured 0.8 s: what else the machine does must not fail this.
    assert os.times().children_user - before_s < 5
    second = tm("routes", "import", str(EXAMPLE), "-o", "json").document
    assert [first[name] for name in COUNTS] == [10140, 0, 0]
    assert [second[name] for name in COUNTS] == [0, 0, 10140]
    assert second["tm_revision"] == first["tm_revision"]


def test_counts_tell_what_was_created_updated_and_left(tm: CommandLine, client: Client, tenant: str) -> None:
    client.put((tenant, "s", "e", "same"), "https://same.example.com")
    client.put((tenant, "s", "e", "other"), "https://before.example.com")
    names = ("same", "other", "new")
    lines = [f"{tenant},s,e,{name},https://{name}.example.com\n" for name in names]
    found = tm("routes", "import", "-", "-o", "json", stdin=HEADER + "".join(lines)).document
    assert [found[name] for name in COUNTS] == [1, 1, 1]


def test_dry_run_tells_the_same_and_changes_nothing(
    tm: CommandLine, client: Client, tmp_path: Path, tenant: str
) -> None:
    found = tm("routes", "import", a_file(tmp_path, tenant, 3), "--dry-run", "-o", "json").document
    assert ([found[name] for name in COUNTS], found["dry_run"]) == ([3, 0, 0], True)
    assert count_of(client, tenant) == 0


def test_json_lines_are_known_by_their_ending(
    tm: CommandLine, client: Client, tmp_path: Path, tenant: str
) -> None:
    path = tmp_path / "routes.jsonl"
    route = {
        "tenant": tenant,
        "service": "s",
        "env": "e",
        "version": "v",
        "url": "https://h",
        "is_active": False,
    }
    path.write_text(json.dumps(route) + "\n")
    assert tm("routes", "import", str(path)).code == 0
    assert client.get((tenant, "s", "e", "v")).value.is_active is False


def test_people_see_the_counts(tm: CommandLine, tmp_path: Path, tenant: str) -> None:
    shown = tm("routes", "import", a_file(tmp_path, tenant, 2)).out.splitlines()
    assert [line.split() for line in shown[:4]] == [
        ["lines", "2"],
        ["created", "2"],
        ["updated", "0"],
        ["unchanged", "0"],
    ]


class TestBadLines:
    def test_nothing_of_a_file_with_a_bad_line_is_sent(
        self, tm: CommandLine, client: Client, tmp_path: Path, tenant: str
    ) -> None:
        path = Path(a_file(tmp_path, tenant, 3))
        path.write_text(path.read_text() + "not a route\n")
        found = tm("routes", "import", str(path), "-o", "json")
        assert (found.code, found.document["imported_lines"], count_of(client, tenant)) == (1, [], 0)
        assert "line 5: has 1 columns, the header has 5" in found.err

    def test_the_first_twenty_are_shown_and_the_others_counted(
        self, tm: CommandLine, tmp_path: Path, tenant: str
    ) -> None:
        path = tmp_path / "routes.csv"
        path.write_text(HEADER + "not a route\n" * 25)
        found = tm("routes", "import", str(path), "-o", "json")
        assert (found.err.count("  line "), "and 5 more" in found.err) == (20, True)
        assert len(found.document["problems"]) == 25

    def test_refused_urls_are_told_by_their_lines_and_their_batch_is_not_in(
        self, tm: CommandLine, client: Client, tmp_path: Path, tenant: str
    ) -> None:
        path = a_file(tmp_path, tenant, 2500, bad_urls=(1500, 1510, 2400))
        found = tm("routes", "import", path, "-o", "json")
        told = found.document
        assert (found.code, [problem["line"] for problem in told["problems"]]) == (1, [1500, 1510, 2400])
        assert (told["imported_lines"], told["not_imported_lines"]) == ([[2, 1001]], [[1002, 2501]])
        assert "line 1510: url: must begin with https:// or http://" in found.err

    def test_refused_urls_are_told_by_a_dry_run_too(
        self, tm: CommandLine, tmp_path: Path, tenant: str
    ) -> None:
        path = a_file(tmp_path, tenant, 30, bad_urls=tuple(range(2, 32)))
        found = tm("routes", "import", path, "--dry-run")
        assert (found.code, found.err.count("  line ")) == (1, 20)


class TestBreaks:
    @pytest.mark.parametrize("fault", Fault)
    def test_a_batch_that_got_no_answer_is_sent_again(
        self, server: Node, client: Client, tmp_path: Path, tenant: str, fault: Fault
    ) -> None:
        path = a_file(tmp_path, tenant, 2500)
        with losing(server.port, {2: fault}) as proxy:
            found = CommandLine(proxy.url)("routes", "import", path, "-o", "json")
        told = found.document
        assert (found.code, told["imported_lines"], told["resent_batches"]) == (0, [[2, 2501]], 1)

    @pytest.mark.parametrize("fault", Fault)
    def test_giving_up_says_which_lines_are_in(
        self, server: Node, tmp_path: Path, tenant: str, fault: Fault
    ) -> None:
        path = a_file(tmp_path, tenant, 2500)
        with losing(server.port, dict.fromkeys(range(2, 99), fault)) as proxy:
            found = CommandLine(proxy.url)("routes", "import", path, "--retry-for", "1", "-o", "json")
        told = found.document
        assert (found.code, told["imported_lines"]) == (5, [[2, 1001]])
        assert (told["unknown_lines"], told["not_imported_lines"]) == ([[1002, 2001]], [[2002, 2501]])

    def test_giving_up_says_that_nothing_is_in_where_nothing_was_sent(
        self, node: Node, tmp_path: Path, tenant: str
    ) -> None:
        path = a_file(tmp_path, tenant, 2500)
        with losing(node.port, {2: Fault.UNAVAILABLE}) as proxy:
            node.kill()
            found = CommandLine(proxy.url)("routes", "import", path, "--retry-for", "0", "-o", "json")
        assert (found.code, found.document["imported_lines"]) == (5, [])

    def test_server_that_is_not_there_is_told_at_once(self, tmp_path: Path, tenant: str) -> None:
        begin = time.monotonic()
        found = CommandLine("http://127.0.0.1:9")("routes", "import", a_file(tmp_path, tenant, 1))
        assert (found.code, time.monotonic() - begin < 20) == (5, True)
        assert "line 2: not imported" in found.err

    def test_ctrl_c_says_which_lines_are_in(self, server: Node, tmp_path: Path, tenant: str) -> None:
        path = a_file(tmp_path, tenant, 2500)
        with (
            losing(server.port, dict.fromkeys(range(2, 999), Fault.UNAVAILABLE)) as proxy,
            CommandLine(proxy.url).start("routes", "import", path, "--retry-for", "60") as running,
        ):
            wait_until(lambda: proxy.batches >= 3, timeout_s=30)
            found = running.interrupt()
        assert (found.code, "lines 2 to 1001: imported" in found.err) == (130, True)
        assert "lines 2002 to 2501: not imported" in found.err
