"""The packed table is a dictionary in everything but its size."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import re
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.routing.builders import OTHER_URL, URL, a_key
from traffic_manager.routing import table as table_module
from traffic_manager.routing.ports import Entry
from traffic_manager.routing.table import RouteTable

KEY = str(a_key())

# Few, and one the beginning of others, so that records meet, overwrite each other and are taken for one another.
keys = st.sampled_from(["a/b/c/v", "a/b/c/v1", "a/b/c/v10", "a/b/c", "", "é"]) | st.integers(0, 40).map(
    lambda n: f"tenant/service/prod/v{n}"
)
entries = st.builds(Entry, st.sampled_from([URL, OTHER_URL, "https://é.example.com"]), st.integers(1, 2**62))


def small_parts(patch: pytest.MonkeyPatch) -> None:
    """Let a few routes fill segments and chunks as millions do."""
    patch.setattr(table_module, "_SEGMENTS", 2)
    patch.setattr(table_module, "_SEGMENT_MASK", 1)
    patch.setattr(table_module, "_SEGMENT_BITS", 1)
    patch.setattr(table_module, "_PLACE_BITS", 8)
    patch.setattr(table_module, "_PLACE_MASK", 255)


class AsADictionary(RuleBasedStateMachine):
    """Does the same to a table and to a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        small_parts(self._patch)
        self.table = RouteTable()
        self.model: dict[str, Entry] = {}

    def teardown(self) -> None:
        self._patch.undo()

    @rule(key=keys, entry=entries)
    def put(self, key: str, entry: Entry) -> None:
        self.table[key] = self.model[key] = entry

    @rule(loaded=st.dictionaries(keys, entries))
    def load(self, loaded: dict[str, Entry]) -> None:
        new = {key: entry for key, entry in loaded.items() if key not in self.model}
        self.table.load((key, entry.url, entry.revision) for key, entry in new.items())
        self.model |= new

    @rule(key=keys)
    def pop(self, key: str) -> None:
        assert self.table.pop(key, None) == self.model.pop(key, None)

    @precondition(lambda self: self.model)
    @rule()
    def pop_any(self) -> None:
        key, entry = self.table.popitem()
        assert self.model.pop(key) == entry

    @rule(key=keys)
    def get(self, key: str) -> None:
        assert self.table.get(key) == self.model.get(key)
        assert (key in self.table) == (key in self.model)

    @invariant()
    def same(self) -> None:
        assert len(self.table) == len(self.model)
        assert dict(self.table.items()) == self.model
        assert set(self.table) == self.model.keys()

    @invariant()
    def room_is_accounted_for(self) -> None:
        table = self.table
        assert table._used_bytes == sum(map(len, table._chunks))
        assert table._wasted_bytes == sum(table._waste)


TestAsADictionary = AsADictionary.TestCase
TestAsADictionary.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def a_table(routes: int) -> RouteTable:
    """Return a table of many routes."""
    table = RouteTable()
    table.load(
        (f"tenant/service-{n}/prod/v1", f"https://service-{n}.example.com", n + 1) for n in range(routes)
    )
    return table


def test_missing_key_is_none_or_a_key_error() -> None:
    table = a_table(10)
    assert table.get(KEY) is None
    with pytest.raises(KeyError):
        table[KEY]
    with pytest.raises(KeyError):
        del table[KEY]
    with pytest.raises(KeyError):
        RouteTable().popitem()


def test_record_larger_than_a_chunk_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    table = a_table(10)
    table[KEY] = Entry("https://example.com/" + "x" * 1000, 5)
    table["after/it/prod/v1"] = Entry(URL, 6)
    assert table[KEY] == Entry("https://example.com/" + "x" * 1000, 5)
    assert table["after/it/prod/v1"] == Entry(URL, 6)


def test_room_of_overwritten_routes_is_used_again() -> None:
    table = a_table(5_000)
    before = sum(map(len, table._chunks))
    for n in range(30_000):
        table[f"tenant/service-{random.randrange(5_000)}/prod/v1"] = Entry(URL, n)
    assert sum(map(len, table._chunks)) < 2 * before


def test_room_of_deleted_routes_is_used_again() -> None:
    table = a_table(20_000)
    for key in list(table):
        del table[key]
    assert sum(map(len, table._chunks)) < table_module._PLACE_MASK * 1.1


def test_portions_hold_what_stays_exactly_once_whatever_changes_between_them() -> None:
    table = a_table(20_000)
    seen: list[str] = []
    for number, portion in enumerate(table.portions()):
        assert len(portion) < 2000
        seen += [key for key, _ in portion]
        for n in range(200):  # comers and goers, and some that change
            table[f"tenant/new-{number}-{n}/prod/v1"] = Entry(URL, 30_000)
            table.pop(f"tenant/service-{number * 200 + n}/prod/v1", None)
            table[f"tenant/service-{19_999 - n}/prod/v1"] = Entry(URL, 30_000 + number)
    assert number > 10
    assert len(seen) == len(set(seen))
    stayed = {f"tenant/service-{n}/prod/v1" for n in range((number + 1) * 200, 20_000)}
    assert stayed
    assert stayed <= set(seen)


def test_portions_hold_what_begins_alike() -> None:
    table = a_table(3_000)
    found = [key for portion in table.portions("tenant/service-12/") for key, _ in portion]
    assert found == ["tenant/service-12/prod/v1"]
    assert [portion for portion in table.portions("ten/") if portion] == []


def test_forked_reader_shares_the_table() -> None:
    # In a process of its own: in that of the tests, what else is there would be written to by a reader, too.
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_read_in_a_fork)
    process.start()
    process.join()
    assert process.exitcode == 0


def _read_in_a_fork() -> None:
    table = a_table(100_000)
    gc.freeze()
    reader = os.fork()
    if reader == 0:
        for n in range(100_000):
            table.get(f"tenant/service-{n}/prod/v1")
        os._exit(0 if _private_bytes() < 100 * 100_000 / 3 else 1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]))


def _private_bytes() -> int:
    """Return how much memory this process has that it does not share."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(kib) for kib in re.findall(r"^Private_\w+: +(\d+) kB", rollup, re.MULTILINE))


def test_route_takes_about_a_hundred_bytes() -> None:
    table = RouteTable(20_000)
    empty = sum(len(segment) * segment.itemsize for segment in table._segments)
    table.load((f"tenant-{n % 20}/service-{n // 100}/prod/v{n % 100}", URL, n) for n in range(20_000))
    assert (sum(map(len, table._chunks)) + empty) / 20_000 < 110
