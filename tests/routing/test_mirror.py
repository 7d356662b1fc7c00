"""Which values a mirror accepts, against a model that remembers the whole history."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.routing.builders import EPOCH, OTHER_EPOCH, URL, a_change, a_key
from tests.routing.logs import KEYS, Step, log_of, steps
from traffic_manager.routing import mirror as mirror_module
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.ports import Entry, Head, Slice, Table

KEY = str(a_key())


def a_mirror(applied: int = 0, *, floor: int = 0, max_routes: int = 100) -> Mirror:
    """Return a synchronised mirror without routes, whose window reaches down to *floor*."""
    mirror = Mirror(max_routes)
    mirror.load(Table(Head(EPOCH, 1, applied), b"", {}, [], floor))
    return mirror


def test_mirror_is_not_complete_before_it_was_loaded_nor_without_entries() -> None:
    assert not Mirror(100).is_complete
    assert a_mirror().is_complete
    assert not a_mirror(max_routes=0).is_complete


@pytest.mark.parametrize(("as_of", "is_good"), [(4, False), (5, True), (6, True), (9, True)])
def test_value_is_good_from_the_last_change_of_its_key_on(as_of: int, is_good: bool) -> None:
    mirror = a_mirror()
    mirror.apply(Slice(8, b"", [a_change(5)]))
    assert mirror.accept(KEY, as_of) == is_good


@pytest.mark.parametrize(("as_of", "is_good"), [(2, False), (3, True)])
def test_value_from_before_the_window_is_not_known_to_be_good(as_of: int, is_good: bool) -> None:
    assert a_mirror(8, floor=3).accept(KEY, as_of) == is_good


def test_value_below_what_was_shown_of_its_key_is_refused_and_of_other_keys_is_not() -> None:
    mirror = a_mirror(5)
    mirror.show(KEY, 9, Entry(URL, 9))
    assert [mirror.accept(KEY, as_of) for as_of in (5, 8, 9)] == [False, False, True]
    assert mirror.accept(str(a_key("other")), 5)


def test_what_was_shown_is_forgotten_once_it_is_applied() -> None:
    mirror = a_mirror(5)
    mirror.show(KEY, 7, None)
    mirror.apply(Slice(6, b"", []))
    assert KEY in mirror.shown
    mirror.apply(Slice(7, b"", []))
    assert mirror.shown == {}


def test_only_the_newest_of_what_was_shown_counts() -> None:
    mirror = a_mirror(5)
    mirror.show(KEY, 9, None)
    mirror.show(KEY, 7, Entry(URL, 6))
    assert mirror.shown[KEY] == (9, None)


def test_what_is_applied_already_need_not_be_remembered_as_shown() -> None:
    mirror = a_mirror(5)
    mirror.show(KEY, 5, None)
    assert mirror.shown == {}


def test_other_history_forgets_what_was_shown() -> None:
    mirror = a_mirror(5)
    mirror.show(KEY, 9, None)
    mirror.load(Table(Head(OTHER_EPOCH, 2, 7), b"", {}, [], 7))
    assert mirror.shown == {}


def test_reload_of_the_same_history_keeps_what_was_shown_above_it() -> None:
    mirror = a_mirror(5)
    mirror.show(KEY, 9, None)
    mirror.load(Table(Head(EPOCH, 1, 7), b"", {}, [], 7))
    assert mirror.shown == {KEY: (9, None)}


@settings(max_examples=200, deadline=None)
@given(
    history=steps(20),
    applied=st.integers(0, 20),
    shown=st.tuples(st.integers(0, 2), st.integers(0, 25)),
    key=st.integers(0, 2),
    as_of=st.integers(0, 25),
    window=st.integers(0, 6),
)
def test_accepted_value_is_still_true_and_not_older_than_what_was_shown(
    history: list[Step], applied: int, shown: tuple[int, int], key: int, as_of: int, window: int
) -> None:
    log = log_of(history)[:applied]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror_module, "WINDOW_CHANGES", window)
        mirror = a_mirror()
        if log:
            mirror.apply(Slice(len(log), b"", log))
    mirror.show(str(KEYS[shown[0]]), shown[1], None)
    last_shown = shown[1] if shown[0] == key else 0
    changed_since = [c for c in log if c.key == KEYS[key] and c.revision > as_of]
    is_good = as_of >= last_shown or (len(log) >= last_shown and not changed_since)
    is_good = is_good and not changed_since
    in_window = as_of >= len(log) - window
    if mirror.accept(str(KEYS[key]), as_of):
        assert is_good
    elif in_window:
        assert not is_good, "what is good is refused only beyond the window"
