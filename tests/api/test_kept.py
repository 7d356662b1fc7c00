"""What the lane keeps is bounded in bytes, and what is used stays."""

from __future__ import annotations

from traffic_manager.api.kept import Kept

SIZE = 10
LIMIT = 100


def kept() -> Kept[int, str]:
    """Return room for ten values."""
    return Kept(LIMIT, lambda _key, _value: SIZE)


def held(found: Kept[int, str]) -> int:
    """Return how many values are in memory."""
    return len(found._young) + len(found._old)


def test_no_more_is_held_than_the_limit_however_much_is_put() -> None:
    found = kept()
    most = 0
    for key in range(1000):
        found.put(key, "value")
        most = max(most, held(found))
    assert LIMIT / SIZE / 2 <= most <= LIMIT / SIZE


def test_what_is_used_stays_and_the_rest_goes() -> None:
    found = kept()
    found.put(-1, "used")
    found.put(-2, "not used")
    for key in range(100):
        found.put(key, "value")
        assert found.get(-1) == "used"
    assert found.get(-2) is None


def test_use_of_what_is_old_takes_no_more_room() -> None:
    found = kept()
    for key in range(10):
        found.put(key, "value")
    for _ in range(100):
        for key in range(10):
            found.get(key)
            assert held(found) <= LIMIT / SIZE


def test_value_as_large_as_half_of_the_room_is_not_kept() -> None:
    found: Kept[int, str] = Kept(LIMIT, lambda _key, value: len(value))
    found.put(1, "x" * (LIMIT // 2 + 1))
    found.put(2, "x" * (LIMIT // 2))
    assert (found.get(1), found.get(2)) == (None, "x" * (LIMIT // 2))
