"""What is let through never comes to more than the limit, whoever asks, and however many do."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_manager.access.limiter import Limiter
from traffic_manager.access.limits import Kind, Limits, Subject
from traffic_manager.access.permissions import IN_TENANTS
from traffic_manager.errors import RateLimited
from traffic_manager.routing.ports import Limit

SECOND = 1_000_000_000
NO_LIMITS = {subject: Limit(subject, "") for subject in Subject}


class Clock:
    """Nanoseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 5 * SECOND

    def __call__(self) -> int:
        return self.now


class Rig:
    """A limiter with its clock."""

    def __init__(
        self, *limits: Limit, workers: int = 1, defaults: dict[Subject, Limit] | None = None
    ) -> None:
        self.clock = Clock()
        self.limits = Limits({**NO_LIMITS, **(defaults or {})})
        self.refused: list[Kind] = []
        self.limiter = Limiter(self.limits, workers, self.refused.append, leases=True, now=self.clock)
        self.limits.load(limits)

    def passes(
        self, tenant: str = "team-a", owner: str = "alice", cost: int = 1, kind: Kind = Kind.RESOLVES
    ) -> bool:
        """Return whether a request is let through."""
        try:
            if cost == 1:
                self.limiter.charge(kind, owner, tenant)
            else:
                self.limiter.charge_each(kind, owner, [tenant] * cost)
        except RateLimited:
            return False
        return True

    def passed(self, asked: int, **of: str) -> int:
        """Return how many of so many requests are let through at once."""
        return sum(self.passes(**of) for _ in range(asked))  # type: ignore[arg-type] # names only


def of_tenant(name: str = "team-a", **figures: int) -> Limit:
    return Limit(Subject.TENANT, name, **figures)


def test_a_second_s_worth_is_let_through_at_once_and_no_more() -> None:
    rig = Rig(of_tenant(resolves=10))
    assert rig.passed(50) == 10
    rig.clock.now += SECOND // 2
    assert rig.passed(50) == 5


def test_others_are_not_touched_by_a_noisy_tenant() -> None:
    rig = Rig(of_tenant(resolves=10))
    assert rig.passed(500) == 10
    assert rig.passed(500, tenant="team-b") == 500


def test_kinds_are_counted_apart() -> None:
    rig = Rig(of_tenant(resolves=3, writes=2))
    assert rig.passed(9) == 3
    assert sum(rig.passes(kind=Kind.WRITES) for _ in range(9)) == 2
    assert sum(rig.passes(kind=Kind.LISTS) for _ in range(9)) == 9


def test_principal_is_limited_over_all_tenants_together() -> None:
    rig = Rig(Limit(Subject.PRINCIPAL, "alice", resolves=4))
    assert rig.passed(3) + rig.passed(3, tenant="team-b") == 4
    assert rig.passed(9, owner="bob") == 9


def test_what_the_settings_say_holds_for_each_where_nothing_else_is_set() -> None:
    rig = Rig(of_tenant("large", resolves=100), defaults={Subject.TENANT: of_tenant("", resolves=2)})
    assert [rig.passed(500, tenant=name) for name in ("large", "small", "other")] == [100, 2, 2]


def test_refused_request_is_told_who_may_do_how_much_and_when_to_come_back() -> None:
    rig = Rig(of_tenant(resolves=10), workers=4)
    rig.passed(50)
    with pytest.raises(RateLimited) as refused:
        rig.limiter.charge(Kind.RESOLVES, "alice", "team-a")
    assert (refused.value.policy, refused.value.quota, refused.value.retry_after_s) == (
        "tenant-resolves",
        10,
        1,
    )
    assert set(rig.refused) == {Kind.RESOLVES}


def test_a_refusal_takes_nothing_from_anybody() -> None:
    rig = Rig(of_tenant(resolves=1), Limit(Subject.PRINCIPAL, "alice", resolves=5))
    assert rig.passed(100) == 1
    assert rig.passed(100, tenant="team-b") == 4


def test_a_batch_costs_as_many_as_it_has_and_is_waited_for_afterwards() -> None:
    rig = Rig(of_tenant(resolves=100))
    assert rig.passes(cost=250)
    rig.clock.now += SECOND
    assert not rig.passes()
    rig.clock.now += SECOND
    assert rig.passes()


def test_a_batch_over_several_tenants_passes_whole_or_not_at_all() -> None:
    rig = Rig(of_tenant("a", resolves=4), of_tenant("b", resolves=2))
    rig.limiter.charge_each(Kind.RESOLVES, "alice", ["a", "b", "c"] * 2)
    with pytest.raises(RateLimited):
        rig.limiter.charge_each(Kind.RESOLVES, "alice", ["a", "b"])
    assert rig.passed(9, tenant="a") == 2


def test_what_may_not_be_asked_for_costs_the_principal_and_no_tenant() -> None:
    rig = Rig(of_tenant(resolves=10), Limit(Subject.PRINCIPAL, "alice", resolves=10))
    rig.limiter.charge_each(Kind.RESOLVES, "alice", ["team-a"], refused=99)
    assert not rig.passes()
    assert rig.passed(50, owner="bob") == 9
    with pytest.raises(RateLimited):
        rig.limiter.charge_each(Kind.RESOLVES, "alice", [], refused=1)


def test_a_principal_s_limit_is_that_of_its_owner_in_each_tenant() -> None:
    rig = Rig(Limit(Subject.PRINCIPAL, "alice", resolves=3))
    assert [rig.passed(9, owner=f"alice{IN_TENANTS}{tenant}") for tenant in ("own", "other")] == [3, 3]


def test_nothing_is_let_through_where_nothing_may_be() -> None:
    rig = Rig(of_tenant(resolves=0))
    rig.clock.now += 1000 * SECOND
    assert not rig.passes()
    assert not rig.passes(cost=100)


@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize("quota", [1, 5, 100])
def test_workers_let_through_no_more_than_the_limit_together_and_each_something(
    quota: int, workers: int
) -> None:
    rigs = [Rig(of_tenant(resolves=quota), workers=workers) for _ in range(workers)]
    passed = [0] * workers
    for _ in range(20 * 10):
        for number, rig in enumerate(rigs):
            rig.clock.now += SECOND // 10
            passed[number] += rig.passed(1 + quota // workers)
    # 20 s of it, and what the buckets held at first: a token each at least.
    assert sum(passed) <= quota * 20 + max(quota, workers)
    assert min(passed) >= quota * 20 // workers // 2


@given(
    quota=st.integers(1, 1000),
    workers=st.integers(1, 9),
    steps=st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 1000)), max_size=30),
)
def test_any_requests_at_any_time_stay_within_the_limit(
    quota: int, workers: int, steps: list[tuple[int, int]]
) -> None:
    rig = Rig(of_tenant(resolves=quota), workers=workers)
    began, passed, largest = rig.clock.now, 0, 0
    for pause, cost in steps:
        rig.clock.now += pause
        if rig.passes(cost=cost):
            passed, largest = passed + cost, max(largest, cost)
        elapsed = rig.clock.now - began
        share = max(quota / workers, 1)
        assert passed <= elapsed * quota / workers / SECOND + share + largest


def test_a_limit_that_is_set_anew_holds_at_once_and_gives_no_second_helping() -> None:
    rig = Rig(of_tenant(resolves=10))
    assert rig.passed(50) == 10
    rig.limits.load([of_tenant(resolves=20)])
    assert rig.passed(50) == 0
    rig.clock.now += SECOND
    assert rig.passed(50) == 20
    rig.limits.load([])
    assert rig.passed(500) == 500
    assert not rig.limiter.limits_resolves


def test_names_that_somebody_makes_up_take_a_bounded_room() -> None:
    rig = Rig(defaults={Subject.TENANT: of_tenant("", resolves=5)})
    rig.passed(1)
    tracemalloc.start()
    for number in range(45_000):
        rig.passes(tenant=f"made-up-{number}")
        rig.limiter.take_active(1)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 10_000_000


class TestLeasing:
    """What a worker does with tokens of the bucket that all share."""

    def test_a_lease_replaces_the_share(self) -> None:
        rig = Rig(of_tenant(resolves=100), workers=10)
        assert rig.passed(50) == 10
        (bucket,) = rig.limiter.take_active(9)
        assert bucket.settle(rig.clock.now) == -10
        bucket.lease(40, rig.clock.now + SECOND)
        rig.clock.now += SECOND // 2
        assert rig.passed(100) == 40

    def test_what_is_left_of_a_lease_goes_back(self) -> None:
        rig = Rig(of_tenant(resolves=100), workers=10)
        rig.passed(1)
        (bucket,) = rig.limiter.take_active(9)
        bucket.settle(rig.clock.now)
        bucket.lease(40, rig.clock.now + SECOND)
        assert rig.passed(15) == 15
        assert bucket.settle(rig.clock.now) == 25

    def test_what_is_spent_while_a_lease_is_on_its_way_is_part_of_it(self) -> None:
        rig = Rig(of_tenant(resolves=100), workers=10)
        rig.passed(4)
        (bucket,) = rig.limiter.take_active(9)
        bucket.settle(rig.clock.now)
        assert rig.passed(3) == 3
        bucket.lease(5, rig.clock.now + SECOND)
        assert rig.passed(9) == 2

    def test_without_a_new_lease_the_share_is_what_is_left(self) -> None:
        rig = Rig(of_tenant(resolves=100), workers=10)
        rig.passed(1)
        (bucket,) = rig.limiter.take_active(9)
        bucket.settle(rig.clock.now)
        bucket.lease(50, rig.clock.now + SECOND)
        rig.clock.now += SECOND
        assert rig.passed(500) == 10
        rig.clock.now += SECOND // 2
        assert rig.passed(500) == 5

    def test_a_lease_that_ends_leaves_no_more_than_is_left_to_all(self) -> None:
        rig = Rig(of_tenant(resolves=100), workers=10)
        for left, passed in ((500, 10), (4, 4), (-3, 0)):
            rig.clock.now += 10 * SECOND
            rig.passed(1)
            (bucket,) = rig.limiter.take_active(9)
            bucket.settle(rig.clock.now)
            bucket.release(left, rig.clock.now)
            assert rig.passed(500) == passed

    def test_no_worker_lets_more_than_the_whole_limit_through_whatever_it_leases(self) -> None:
        rig = Rig(of_tenant(resolves=100), workers=10)
        passed = 0
        for _ in range(40):  # 4 s, and a shared bucket that gives and gives
            passed += rig.passed(500)
            for bucket in rig.limiter.take_active(9):
                bucket.settle(rig.clock.now)
                bucket.lease(1_000_000, rig.clock.now + SECOND)
            rig.clock.now += SECOND // 10
        assert passed <= 100 * 5
