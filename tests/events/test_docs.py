"""`docs/events.md` tells the truth: its examples are run, its tables compared."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.events.fakes import EPOCH, a_change, a_key
from traffic_manager.events.envelope import Event, event_of
from traffic_manager.routing.model import Action

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "events.md").read_text()
EXAMPLE = event_of(
    a_change(
        42,
        action=Action.UPDATED,
        url="https://payments-v1.example.com",
        address="192.0.2.17",
        reason="INC-42",
    ),
    EPOCH,
    1,
)


def block(language: str) -> str:
    """Return the one code block in *language*."""
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def the_rule() -> Callable[[bytes, bytes], bool]:
    """Return a new `is_news`."""
    names: dict[str, Callable[[bytes, bytes], bool]] = {}
    exec(block("python"), names)  # noqa: S102 our own page
    return names["is_news"]


def test_the_value_is_as_shown() -> None:
    assert json.dumps(json.loads(EXAMPLE.value), indent=2) + "\n" == block("json")


def test_every_field_is_explained() -> None:
    rows = re.findall(
        r"^\| (`.*?) \|", PAGE[PAGE.index("| field |") : PAGE.index("New fields")], re.MULTILINE
    )

    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(json.loads(EXAMPLE.value))


def test_the_headers_are_as_shown() -> None:
    assert "".join(f"{name}: {value.decode()}\n" for name, value in EXAMPLE.headers) == block("text")


def test_every_log_line_is_explained() -> None:
    sources = (ROOT / "src" / "traffic_manager" / "events").glob("*.py")
    calls = r'log\.(?:info|warning|error|exception)\(\s*"(\w+)"'
    written = {name for source in sources for name in re.findall(calls, source.read_text())}
    explained = re.findall(r"^\| (`.*?) \|", PAGE[PAGE.index("| log line |") :], re.MULTILINE)

    assert set(re.findall(r"`(\w+)`", " ".join(explained))) == written


@given(seed=st.integers())
def test_with_the_rule_a_consumer_ends_with_the_last_state_of_each_route(seed: int) -> None:
    """Each slice of the log may come again at any later time, its routes mixed, but each route's in order."""
    chosen = random.Random(seed)
    log = [event_of(a_change(r, a_key(chosen.choice("abc"))), EPOCH, 1) for r in range(1, 13)]
    is_news = the_rule()
    seen = {event.key: event for event in delivered(log, chosen) if is_news(event.key, event.value)}

    assert seen == {event.key: event for event in log}


def delivered(log: list[Event], chosen: random.Random) -> list[Event]:
    """Return the log in order, with copies of earlier parts in between and behind."""
    records: list[Event] = []
    for upto in range(1, len(log) + 1):
        records.append(log[upto - 1])
        if chosen.random() < 0.4:
            records += log[chosen.randrange(upto) : upto]
    return records


def test_with_the_rule_a_new_history_wins_over_the_lost_one() -> None:
    is_news = the_rule()
    lost, new = event_of(a_change(9), EPOCH, 1), event_of(a_change(8), "f" * 32, 2)

    assert is_news(lost.key, lost.value)
    assert is_news(new.key, new.value)
    assert not is_news(lost.key, lost.value)
