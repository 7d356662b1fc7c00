"""Hints are trusted while they prove themselves; what they save is polls, never freshness."""

from __future__ import annotations

import pytest

from tests.clock import Clock
from traffic_manager.routing.hints import POLL_HINTED_S, POLL_S, Hints


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def turns() -> list[bool]:
    """What was said about trust, in order."""
    return []


@pytest.fixture
def hints(clock: Clock, turns: list[bool]) -> Hints:
    """An account of hints in which none has come yet."""
    return Hints(turns.append, clock)


def missing_one(hints: Hints, clock: Clock, revision: int = 7) -> bool:
    """Let a poll find *revision*, and no hint of it come; return what `check` says."""
    hints.found(revision)
    clock.now += 1.0
    return hints.check()


def test_polls_are_frequent_until_a_hint_comes(hints: Hints, turns: list[bool]) -> None:
    assert hints.poll_s == POLL_S == 0.05
    hints.heard([5])
    assert hints.poll_s == POLL_HINTED_S == 0.5
    assert turns == [True]


def test_a_probe_is_a_proof_too_and_is_sent_once_a_minute_until_one_comes(hints: Hints, clock: Clock) -> None:
    assert [hints.is_probe_due(), hints.is_probe_due()] == [True, False]
    clock.now += 60.0
    assert hints.is_probe_due()
    hints.heard([0])
    clock.now += 3600.0
    assert not hints.is_probe_due()
    assert hints.are_trusted


def test_hearing_nothing_changes_nothing(hints: Hints, turns: list[bool]) -> None:
    hints.heard([])
    assert (hints.are_trusted, turns) == (False, [])


def test_a_change_without_its_hint_makes_polls_frequent_again(
    hints: Hints, clock: Clock, turns: list[bool]
) -> None:
    hints.heard([5])
    assert not missing_one(hints, clock)
    assert (hints.poll_s, turns) == (POLL_S, [True, False])


def test_a_hint_may_come_a_second_after_the_poll_that_saw_its_change(hints: Hints, clock: Clock) -> None:
    hints.heard([5])
    hints.found(7)
    clock.now += 0.9
    assert hints.check()
    hints.heard([7])
    clock.now += 60.0
    assert hints.check()
    assert hints.are_trusted


def test_hints_of_other_changes_do_not_stand_in_for_the_one_that_is_missing(
    hints: Hints, clock: Clock
) -> None:
    hints.heard([5])
    hints.found(7)
    hints.heard([6, 8])
    hints.found(9)
    hints.heard([9])
    clock.now += 1.0
    assert not hints.check()


def test_while_hints_are_not_trusted_none_is_missed(hints: Hints, clock: Clock) -> None:
    assert missing_one(hints, clock)


def test_a_doubt_lasts_a_minute_and_each_further_one_twice_as_long_up_to_an_hour(
    hints: Hints, clock: Clock
) -> None:
    hints.heard([1])
    for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
        assert not missing_one(hints, clock)
        clock.now += minutes * 60 - 1
        assert not hints.is_probe_due()
        hints.heard([2])
        assert not hints.are_trusted
        clock.now += 1
        assert hints.is_probe_due()
        hints.heard([0])
        assert hints.are_trusted
