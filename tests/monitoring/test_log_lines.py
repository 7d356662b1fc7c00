"""One event is one line of at most 8 KiB, whatever was logged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traffic_manager.access.credentials import Credential
from traffic_manager.monitoring.log_lines import MAX_LINE_BYTES, ConsoleLines, json_line

FACTS = {"event": "route_activated", "level": "info", "logger": "a.b", "timestamp": "2025-01-01T00:00:00Z"}


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


def a_line(**facts: Any) -> dict[str, Any]:  # Any: the values of a JSON object
    parsed: dict[str, Any] = json.loads(json_line({**FACTS, **facts}))
    return parsed


def test_time_level_logger_and_event_come_first() -> None:
    line = json_line({"revision": 5, **FACTS})
    assert list(json.loads(line)) == ["timestamp", "level", "logger", "event", "revision"]


def test_plain_facts_keep_their_types() -> None:
    assert a_line(revision=5, ok=True, none=None, seconds=0.5, names=["a"])["names"] == ["a"]
    assert a_line(revision=5)["revision"] == 5


def test_of_an_api_key_only_the_public_part_is_told() -> None:
    key = str(Credential.new())
    for text in (f"/api/v1/keys/{key}/revoke", f"{'x' * 1000}{key}", f"{key}{key}"):
        for line in (json_line({**FACTS, "path": text}), ConsoleLines(False)({**FACTS, "path": text})):
            assert (key[:17].encode() + b"***" in line, key[17:22].encode() in line) == (True, False)


def test_what_json_does_not_know_becomes_text() -> None:
    assert a_line(path=Path("x/y"))["path"] == "x/y"
    assert a_line(raw=b"\xff")["raw"] == "b'\\xff'"


@pytest.mark.parametrize(
    ("fact", "shown"),
    [
        (1 << 80, str(1 << 80)),
        ("\ud800", "\\ud800"),
        (Unprintable(), "<unprintable Unprintable>"),
        (10**5000, "<unprintable int>"),
    ],
    ids=["large integer", "lone surrogate", "raising __str__", "integer too long for text"],
)
def test_an_impossible_fact_spoils_only_itself(fact: object, shown: str) -> None:
    line = a_line(fact=fact, revision=5)
    assert (line["fact"], line["revision"]) == (shown, 5)


def test_a_long_text_is_shortened_and_says_so() -> None:
    line = a_line(text="x" * 5000)
    assert line["text"] == "x" * 1024 + "…[3976 characters more]"


def test_of_a_long_stack_the_end_is_kept() -> None:
    line = a_line(exception="frame\n" * 10_000 + "ValueError: the end")
    assert line["exception"].endswith("ValueError: the end")
    assert line["exception"].startswith("[55923 characters before]…")


def test_too_many_facts_leave_the_essential_ones() -> None:
    line = a_line(correlation_id="abc", **{f"fact{i}": "x" * 2000 for i in range(200)})
    assert line["event"] == "route_activated"
    assert line["correlation_id"] == "abc"
    assert line["fields_left_out"] == 200


def test_a_long_nested_fact_is_shortened_too() -> None:
    line = a_line(rows=[{"a": "x" * 100}] * 1000)
    assert line["rows"].endswith("characters more]")


@pytest.mark.parametrize("character", ["\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066"])
def test_characters_that_fool_a_terminal_are_escaped_and_not_lost(character: str) -> None:
    line = json_line({**FACTS, "name": f"a{character}b"})
    assert character not in line.decode()
    assert json.loads(line)["name"] == f"a{character}b"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
LONG = st.builds(lambda text, times: text * times, st.text(max_size=8), st.sampled_from([200, 2000]))
ANYTHING = st.recursive(
    SCALARS | LONG,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=20), ANYTHING, max_size=12), ANYTHING)
def test_any_event_is_one_json_object_on_one_short_line(facts: dict[str, Any], event: object) -> None:
    line = json_line({**facts, "event": event})
    assert len(line) < MAX_LINE_BYTES
    assert len(line.decode().splitlines()) == 1
    assert isinstance(json.loads(line), dict)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=20), ANYTHING, max_size=12), ANYTHING)
def test_on_a_console_too_an_event_is_one_short_printable_line(facts: dict[str, Any], event: object) -> None:
    facts.pop("exception", None)
    line = ConsoleLines(is_coloured=False)({**facts, "event": event})
    assert len(line) < MAX_LINE_BYTES
    assert line.decode(errors="ignore").isprintable()


def test_on_a_console_a_stack_follows_behind_a_bar_that_no_value_can_leave() -> None:
    line = ConsoleLines(is_coloured=False)(
        {**FACTS, "exception": "Traceback\nValueError: 2025-01-01 [info] forged\x1b[2J"}
    )
    assert [part[:6] for part in line.decode().split("\n")[1:]] == ["    | ", "    | "]
    assert b"\x1b" not in line


def test_colours_only_where_asked_for() -> None:
    assert re.search(rb"\x1b\[", ConsoleLines(is_coloured=True)(dict(FACTS)))
    assert not re.search(rb"\x1b\[", ConsoleLines(is_coloured=False)(dict(FACTS)))
