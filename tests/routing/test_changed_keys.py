"""Which keys changed lately, against a model that remembers all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from traffic_manager.routing.changed_keys import ChangedKeys

FLOOR = 10


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(1, 6))
def test_last_change_of_every_key_above_the_floor_is_known(keys: list[str], most: int) -> None:
    changes = list(enumerate(keys, FLOOR + 1))
    changed = ChangedKeys(most, FLOOR, changes)
    last = {key: revision for revision, key in changes if revision > changed.floor}
    for key in "abcd":
        assert changed.last(key) == last.get(key, 0)
        assert (key in changed) == (key in last)
    assert changed.floor <= max(FLOOR, FLOOR + len(keys) - most), "the last changes are remembered"


def test_what_is_remembered_is_bounded() -> None:
    changed = ChangedKeys(5)
    for revision in range(1, 1001):
        changed.add(revision, str(revision))
        assert sum(str(number) in changed for number in range(revision + 1)) < 2 * 5
    assert changed.floor == 995


def test_few_keys_that_change_all_the_time_are_all_remembered() -> None:
    changed = ChangedKeys(5)
    for revision in range(1, 1001):
        changed.add(revision, "abcd"[revision % 4])
    assert changed.floor == 0
    assert [changed.last(key) for key in "dabc"] == [999, 1000, 997, 998]
