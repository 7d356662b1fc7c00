"""By its own clock the relay stops before the lease can be another's."""

from __future__ import annotations

import pytest

from tests.events.fakes import Clock, FakeDatabase
from traffic_manager.errors import SourceUnavailable
from traffic_manager.events.tenure import TTL_S, LeaseLost, Tenure
from traffic_manager.routing.leases import RELAY_LEASE


class Process:
    """One that has the lease; its clock and the database's can be told apart."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.database_clock = Clock()
        self.database = FakeDatabase(self.database_clock)
        lease = self.database.acquire(RELAY_LEASE, "one", TTL_S)
        assert lease
        self.tenure = Tenure(self.database, lease, self.clock, began=self.clock())

    def live(self, seconds: float) -> None:
        """Let time pass in small steps, keeping the lease."""
        for _ in range(round(seconds * 2)):
            self.clock.advance(0.5)
            self.database_clock.advance(0.5)
            self.tenure.keep()


@pytest.fixture
def process() -> Process:
    return Process()


def test_a_lease_that_is_kept_lasts(process: Process) -> None:
    process.live(seconds=60)

    assert process.database.acquire(RELAY_LEASE, "two", TTL_S) is None


def test_it_is_renewed_every_3_seconds(process: Process) -> None:
    before = process.database.calls
    process.live(seconds=30)

    assert process.database.calls - before == 10


def test_without_a_renewal_it_ends_after_7_seconds(process: Process) -> None:
    process.database.is_away = True
    process.clock.advance(6.9)
    with pytest.raises(SourceUnavailable):
        process.tenure.keep()

    process.clock.advance(0.1)
    with pytest.raises(LeaseLost):
        process.tenure.keep()


def test_after_a_failed_renewal_it_tries_again_each_second(process: Process) -> None:
    process.clock.advance(3)
    process.database.is_away = True
    with pytest.raises(SourceUnavailable):
        process.tenure.keep()
    process.database.is_away = False

    process.tenure.keep()
    assert process.database.calls == 2, "acquire and one renewal that failed"
    process.clock.advance(1)
    process.tenure.keep()
    assert process.database.calls == 3


def test_the_time_counts_from_the_start_of_a_renewal_and_not_from_its_answer(process: Process) -> None:
    process.database.on_renew = lambda: process.clock.advance(5)
    process.clock.advance(3)
    process.tenure.keep()

    process.clock.advance(2)
    with pytest.raises(LeaseLost):
        process.tenure.keep()


def test_a_process_that_was_frozen_learns_it_before_it_does_anything(process: Process) -> None:
    process.clock.advance(30)
    calls = process.database.calls

    with pytest.raises(LeaseLost):
        process.tenure.keep()
    assert process.database.calls == calls


def test_another_holder_fences_renewal_and_checkpoint(process: Process) -> None:
    process.database_clock.advance(TTL_S + 1)
    assert process.database.acquire(RELAY_LEASE, "two", TTL_S)
    process.clock.advance(3)

    with pytest.raises(LeaseLost):
        process.tenure.keep()
    with pytest.raises(LeaseLost):
        process.tenure.publish(5)
    assert process.database.checkpoints == []
