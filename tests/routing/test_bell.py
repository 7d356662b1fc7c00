"""A bell wakes whoever polls its descriptor."""

from __future__ import annotations

import threading

from traffic_manager.db.pool import wait_readable
from traffic_manager.routing.bell import Bell


def test_ringing_wakes_the_one_who_waits_for_the_descriptor() -> None:
    bell = Bell()
    thread = threading.Thread(target=bell.ring)
    thread.start()
    assert wait_readable(5.0, bell.fileno())
    thread.join()
    bell.close()


def test_many_rings_are_one_and_it_can_be_rung_again() -> None:
    bell = Bell()
    for _ in range(3):
        for _ in range(10_000):
            bell.ring()
        assert [bell.take(), bell.take()] == [True, False]
        assert not wait_readable(0.0, bell.fileno())
    bell.close()


def test_no_ring_is_lost_between_threads() -> None:
    bell, rounds = Bell(), 2000
    asked = [0]

    def ask() -> None:
        for _ in range(rounds):
            asked[0] += 1
            bell.ring()

    thread = threading.Thread(target=ask)
    thread.start()
    seen = 0
    while seen < rounds:
        assert wait_readable(5.0, bell.fileno()), f"deaf after {seen}"
        bell.take()
        seen = asked[0]
    thread.join()
    bell.close()


def test_ringing_a_closed_bell_is_heard_by_nobody_and_fails_nobody() -> None:
    bell = Bell()
    bell.close()
    bell.ring()
