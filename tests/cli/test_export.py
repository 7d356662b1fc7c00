"""`routes export` writes one moment, and import reads it back."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.cli.conftest import CommandLine
from tests.node import Node
from traffic_manager.client import Change, Client, Filter, Operation, Position


def some_routes(client: Client, tenant: str, number: int = 3) -> None:
    """Make *number* routes, of which v0 is inactive."""
    for n in range(number):
        client.put((tenant, "s", "e", f"v{n}"), f"https://h{n}.example.com", is_active=n != 0)


@pytest.mark.parametrize(("form", "ending"), [("csv", ".csv"), ("json", ".jsonl")])
def test_an_export_can_be_imported_again_and_changes_nothing(
    tm: CommandLine, client: Client, tmp_path: Path, tenant: str, form: str, ending: str
) -> None:
    some_routes(client, tenant)
    path = str(tmp_path / f"routes{ending}")
    tm("routes", "export", "--tenant", tenant, "--output", form, "--file", path)
    found = tm("routes", "import", path, "-o", "json").document
    assert (found["lines"], found["unchanged"]) == (3, 3)


def test_stdout_holds_the_routes_and_stderr_the_revision(
    tm: CommandLine, client: Client, tenant: str
) -> None:
    some_routes(client, tenant, 1)
    found = tm("routes", "export", "--tenant", tenant)
    assert found.out.splitlines()[1:] == [f"{tenant},s,e,v0,https://h0.example.com,false"]
    assert re.fullmatch(r"1 route at revision [0-9a-f]{8}\.[0-9]+\n", found.err)


def test_every_json_line_names_the_revision_of_the_export(
    tm: CommandLine, client: Client, tenant: str
) -> None:
    some_routes(client, tenant, 1)
    found = tm("routes", "export", "--tenant", tenant, "-o", "json")
    assert found.lines[0]["tm_revision"] == found.err.split()[-1]


def test_only_routes_asked_for_are_exported(tm: CommandLine, client: Client, tenant: str) -> None:
    some_routes(client, tenant)
    found = tm("routes", "export", "--tenant", tenant, "--active", "-o", "json").lines
    assert [route["version"] for route in found] == ["v1", "v2"]


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(tm: CommandLine, tmp_path: Path) -> None:
    found = tm("routes", "export", "--file", str(tmp_path / "missing" / "routes.csv"))
    assert (found.code, "error: " in found.err, list(tmp_path.iterdir())) == (1, True, [])


def test_export_while_others_write_is_exactly_the_table_of_its_revision(node: Node) -> None:
    with Client(node.url) as client, Client(node.url) as writer:
        for start in (0, 600):
            client.batch([a_put(n) for n in range(start, start + 600)])
        ended = Event()
        thread = Thread(target=change_all_the_time, args=(writer, ended))
        thread.start()
        try:
            exports = [CommandLine(node.url)("routes", "export", "-o", "json") for _ in range(3)]
        finally:
            ended.set()
            thread.join()
        log = all_changes(client)
    for export in exports:
        revision = Position.parse(export.err.split()[-1]).revision
        expected = table_at(log, revision)
        assert {r["version"]: (r["url"], r["is_active"], r["revision"]) for r in export.lines} == expected


def a_put(n: int) -> Operation:
    url = f"https://h{n}.example.com"
    return Operation(operation="put", tenant="team-a", service="s", env="e", version=f"v{n}", url=url)


def change_all_the_time(client: Client, ended: Event) -> None:
    """Delete, create and switch routes in all parts of the table."""
    n = 0
    while not ended.is_set():
        key = ("team-a", "s", "e", f"v{n * 7919 % 1200}")
        client.delete(key)
        client.put(key, f"https://again{n}.example.com", is_active=n % 3 == 0)
        client.put(("team-a", "s", "e", f"w{n}"), "https://new.example.com")
        n += 1


def all_changes(client: Client) -> list[Change]:
    found: list[Change] = []
    page = client.changes(0, Filter()).value
    while page.changes:
        found.extend(page.changes)
        page = client.changes(page.next_after, Filter()).value
    return found


def table_at(log: list[Change], revision: int) -> dict[str, tuple[str | None, bool, int]]:
    table: dict[str, tuple[str | None, bool, int]] = {}
    for change in log[:revision]:
        table.pop(change.version, None)
        if change.action != "deleted":
            table[change.version] = (change.url, change.is_active, change.revision)
    return table
