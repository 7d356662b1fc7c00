"""Events come out whole, wherever the network cuts the bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_manager.client import Position, StreamEvent
from traffic_manager.client.events import events_of

STREAM = (
    b'retry: 1000\nevent: progress\nid: 4be1f0a2.41\ndata: {"position":"4be1f0a2.41"}\n\n'
    b":\n\n"
    b'event: change\nid: 4be1f0a2.42\ndata: {"url":"https://h.example.com/\xe2\x80\xa8"}\n\n'
    b'retry: 1500\nevent: end\ndata: {"reason":"draining"}\n\n'
)
EVENTS = [
    StreamEvent("progress", Position("4be1f0a2", 41), {"position": "4be1f0a2.41"}, 1000),
    StreamEvent("change", Position("4be1f0a2", 42), {"url": "https://h.example.com/\u2028"}, 1000),
    StreamEvent("end", None, {"reason": "draining"}, 1500),
]


@given(st.sets(st.integers(0, len(STREAM))))
def test_events_are_the_same_wherever_the_bytes_are_cut(cuts: set[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in pairwise(places)]
    assert list(events_of(chunks)) == EVENTS


@given(st.integers(0, len(STREAM)))
def test_event_that_was_cut_off_is_none(end: int) -> None:
    assert list(events_of([STREAM[:end]])) == EVENTS[: STREAM[:end].count(b"}\n\n")]


@pytest.mark.parametrize(
    "text", [b"data: x\n\n", b"data: []\n\n", b"data: {}\nid: soon\n\n", b"data: \xff\n\n"]
)
def test_anything_else_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 the caller tells what it was
        list(events_of([text]))
