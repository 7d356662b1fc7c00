"""Limits from the command line."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.cli.conftest import CommandLine
from tests.node import Node

_REASON = "select reason from changes where kind = 'limit' order by revision desc limit 1"


def test_a_limit_is_set_by_its_figures_and_the_others_stay(tm: CommandLine) -> None:
    tm("limits", "set", "tenant", "cli-a", "--resolves", "100", "--routes", "5")
    found = tm("limits", "set", "tenant", "cli-a", "--routes", "7", "-o", "json").document
    assert found == {
        "subject": "tenant", "name": "cli-a", "resolves": 100, "writes": None, "lists": None, "routes": 7,
        "keys": None,
    }  # fmt: skip
    assert found in tm("limits", "list", "-o", "json").document["limits"]


def test_unset_leaves_the_settings_in_force(tm: CommandLine) -> None:
    tm("limits", "set", "principal", "cli-b", "--writes", "1")
    assert "cli-b" in tm("limits", "list").out
    tm("limits", "unset", "principal", "cli-b")
    assert "cli-b" not in tm("limits", "list").out


def test_why_a_limit_is_set_stands_in_the_log(server: Node, tm: CommandLine) -> None:
    assert tm("--reason", "INC-42", "limits", "set", "tenant", "cli-c", "--writes", "1").code == 0
    with closing(sqlite3.connect(server.environment["DB_PATH"])) as database:
        (reason,) = database.execute(_REASON).fetchone()
    assert reason == "INC-42"


def test_what_is_no_limit_is_told_before_anybody_is_asked(tm: CommandLine) -> None:
    for words in (
        ["tenant", "-a"],
        ["tenant", "a"],
        ["service", "a", "--writes", "1"],
        ["tenant", "a", "--writes", "x"],
    ):
        assert tm("limits", "set", *words).code == 2
