"""The digests are fixed for ever: logs on disk hold them."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.routing.builders import AT_2026, EPOCH, a_change, a_key
from tests.routing.logs import Step, log_of, steps
from traffic_manager.routing.chain import CHAIN_START, columns_of, next_link
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import Action, Change
from traffic_manager.routing.ports import Entry, Head, Slice, Table

FIRST = Change(
    revision=1,
    batch_end=2,
    key=a_key(),
    action=Action.CREATED,
    url='https://payments.example.com/v2?q="%C3%BC"',
    is_active=True,
    previous=None,
    actor="Zoë",
    reason=None,
    correlation_id="c-1",
    occurred_at=AT_2026,
)
SECOND = FIRST._replace(
    revision=2,
    action=Action.DELETED,
    url=None,
    is_active=False,
    previous='{"url":"https://x.example","is_active":true,"revision":1}',
)


def test_change_is_hashed_as_a_compact_json_array_of_its_columns() -> None:
    text = (
        '[1,2,"route","team-a","payments","prod","v2","created",'
        '"https://payments.example.com/v2?q=\\"%C3%BC\\"",true,null,"Zoë",null,"c-1",1767225600000000]'
    )
    assert next_link(CHAIN_START, FIRST) == hashlib.sha256(bytes(32) + text.encode()).digest()


def test_digests_are_those_of_version_1() -> None:
    first = next_link(CHAIN_START, FIRST)
    assert first.hex() == "a63efd5bb1e32c7d8a1b67db265fa383eb21f79c1d741b0e59a20b67a8c0b55a"
    assert (
        next_link(first, SECOND).hex() == "ee7f97296b7c1cba480c28faedfcaed5808dfa7586ba07f2dcec106c0871e14f"
    )


def test_a_change_from_a_known_address_is_hashed_with_it() -> None:
    text = (
        '[1,2,"route","team-a","payments","prod","v2","created",'
        '"https://payments.example.com/v2?q=\\"%C3%BC\\"",true,null,"Zoë","why","c-1",1767225600000000,'
        'null,"192.0.2.1"]'
    )
    change = FIRST._replace(address="192.0.2.1", reason="why")
    assert next_link(CHAIN_START, change) == hashlib.sha256(bytes(32) + text.encode()).digest()


def test_every_column_of_a_change_is_in_its_digest() -> None:
    # The key is four columns, and the kind is one more; the address is in the digest only where it is known.
    assert len(columns_of(FIRST)) == len(Change._fields) - 1 + 3 + 1


@pytest.mark.parametrize(
    "other",
    [
        {"revision": 9},
        {"batch_end": 9},
        {"key": a_key("other")},
        {"key": a_key(tenant="team", service="apayments")},
        {"action": Action.UPDATED},
        {"url": None},
        {"is_active": False},
        {"previous": ""},
        {"actor": "zoë"},
        {"reason": ""},
        {"correlation_id": "c-2"},
        {"occurred_at": AT_2026 + 1},
    ],
)
def test_digest_tells_changes_apart_by_any_column(other: dict[str, object]) -> None:
    edited = FIRST._replace(**other)  # type: ignore[arg-type] # the fields of Change, by name
    assert next_link(CHAIN_START, edited) != next_link(CHAIN_START, FIRST)


@given(st.text(), st.none() | st.text(), st.integers(0, 2**62))
def test_array_is_written_as_any_json_library_writes_it(actor: str, url: str | None, revision: int) -> None:
    edited = FIRST._replace(actor=actor, url=url, revision=revision)
    text = json.dumps(columns_of(edited), ensure_ascii=False, separators=(",", ":"))
    assert next_link(CHAIN_START, edited) == hashlib.sha256(bytes(32) + text.encode()).digest()


def test_digest_depends_on_the_one_before() -> None:
    assert next_link(bytes(31) + b"\1", FIRST) != next_link(CHAIN_START, FIRST)


# -- a mirror is a replay of the log


def replayed(log: list[Change]) -> dict[str, Entry]:
    """Return the active routes after *log*, the simple way."""
    state: dict[str, Entry] = {}
    for change in log:
        state.pop(str(change.key), None)
        if change.url is not None and change.is_active:
            state[str(change.key)] = Entry(change.url, change.revision)
    return state


@settings(max_examples=100, deadline=None)
@given(steps(), st.integers(0, 40), st.integers(1, 7))
def test_mirror_is_the_replay_of_the_log_from_wherever_it_was_loaded(
    history: list[Step], start: int, size: int
) -> None:
    log = log_of(history)
    start = min(start, len(log))
    mirror = Mirror(100)
    recent = [(c.revision, str(c.key)) for c in log[:start]]
    mirror.load(Table(Head(EPOCH, 1, start), b"", replayed(log[:start]), recent, 0))
    for begin in range(start, len(log), size):
        piece = log[begin : begin + size]
        mirror.apply(Slice(piece[-1].revision, b"", piece))
    assert mirror.entries == replayed(log)
    assert mirror.applied == len(log)


def test_mirror_without_entries_keeps_none() -> None:
    mirror = Mirror(0)
    mirror.load(Table(Head(EPOCH, 1, 0), b"", {}, [], 0))
    mirror.apply(Slice(1, b"", [a_change(1)]))
    assert (mirror.entries, mirror.applied, mirror.is_complete) == ({}, 1, False)
