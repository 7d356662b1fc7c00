"""Wrong credentials are counted by address, in a bounded room."""

from __future__ import annotations

import pytest

from tests.clock import Clock
from traffic_manager.api.sign_ins import FailedSignIns
from traffic_manager.errors import TooManyFailedSignIns

MOST = 5


def counted(failures: FailedSignIns, address: str, times: int) -> int:
    """Return how many of so many failures are not refused."""
    found = 0
    for _ in range(times):
        try:
            failures.count(address)
        except TooManyFailedSignIns:
            continue
        found += 1
    return found


def test_so_many_a_minute_are_taken_from_an_address() -> None:
    clock = Clock()
    failures = FailedSignIns(MOST, clock)
    assert (counted(failures, "192.0.2.1", 20), counted(failures, "192.0.2.2", 20)) == (MOST, MOST)
    clock.now += 60
    assert counted(failures, "192.0.2.1", 20) == MOST


def test_who_is_refused_is_told_when_the_minute_ends() -> None:
    clock = Clock()
    failures = FailedSignIns(MOST, clock)
    counted(failures, "192.0.2.1", MOST)
    clock.now += 45
    with pytest.raises(TooManyFailedSignIns) as refused:
        failures.count("192.0.2.1")
    assert (refused.value.quota, refused.value.retry_after_s, refused.value.window_s) == (MOST, 15, 60)


def test_addresses_of_one_ipv6_network_count_together() -> None:
    failures = FailedSignIns(MOST, Clock())
    assert sum(counted(failures, f"2001:db8:1:2::{host:x}", 1) for host in range(50)) == MOST
    assert counted(failures, "2001:db8:1:3::1", 1) == 1


def test_more_addresses_than_are_kept_apart_count_as_one() -> None:
    failures = FailedSignIns(MOST, Clock())
    addresses = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(12_000)]
    assert sum(counted(failures, address, 1) for address in addresses) == 10_000 + MOST


def test_without_a_limit_any_number_is_taken() -> None:
    assert counted(FailedSignIns(None, Clock()), "192.0.2.1", 1000) == 1000
