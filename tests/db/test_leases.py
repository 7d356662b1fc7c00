"""Who may relay: one holder at a time, by the database's clock, fenced by a token."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.db.engines import Engine, MemoryEngine, SqlEngine
from tests.node import wait_until
from tests.routing.builders import a_key, commit, create, deactivate
from traffic_manager.db.leases import SqlLeases
from traffic_manager.routing.leases import Lease, Leases, Telling

LONG_S = 60.0
PAST_S = -1.0


def held(leases: Leases, holder: str = "a", ttl_s: float = LONG_S) -> Lease:
    """Return the lease, taken."""
    lease = leases.acquire("relay", holder, ttl_s)
    assert lease is not None
    return lease


def test_first_holder_gets_the_lease_with_nothing_published(engine: Engine) -> None:
    assert held(engine.leases) == Lease("relay", "a", 1, 0)


def test_second_holder_does_not_get_a_lease_that_lasts(engine: Engine) -> None:
    held(engine.leases)
    assert engine.leases.acquire("relay", "b", LONG_S) is None


def test_holder_itself_cannot_take_its_lease_twice(engine: Engine) -> None:
    held(engine.leases)
    assert engine.leases.acquire("relay", "a", LONG_S) is None


def test_leases_of_other_names_are_free(engine: Engine) -> None:
    held(engine.leases)
    assert engine.leases.acquire("other", "b", LONG_S) == Lease("other", "b", 1, 0)


def test_expired_lease_goes_to_the_next_with_a_greater_token(engine: Engine) -> None:
    first = held(engine.leases, ttl_s=PAST_S)
    assert held(engine.leases, "b").token == first.token + 1


def test_lease_expires_as_time_passes(engine: Engine) -> None:
    held(engine.leases, ttl_s=0.05)
    assert wait_until(lambda: engine.leases.acquire("relay", "b", LONG_S), what="expiry")


def test_renewed_lease_lasts_on(engine: Engine) -> None:
    lease = held(engine.leases, ttl_s=PAST_S)
    assert engine.leases.renew(lease, LONG_S)
    assert engine.leases.acquire("relay", "b", LONG_S) is None


def test_lease_that_another_has_taken_cannot_be_renewed(engine: Engine) -> None:
    old = held(engine.leases, ttl_s=PAST_S)
    held(engine.leases, "b")
    assert not engine.leases.renew(old, LONG_S)


def test_next_holder_is_told_how_far_the_one_before_came(engine: Engine) -> None:
    assert engine.leases.publish(held(engine.leases, ttl_s=PAST_S), 7)
    assert held(engine.leases, "b").published_revision == 7
    assert engine.leases.published_revision("relay") == 7


def test_old_token_cannot_publish(engine: Engine) -> None:
    old = held(engine.leases, ttl_s=PAST_S)
    new = held(engine.leases, "b")
    assert engine.leases.publish(new, 5)
    assert not engine.leases.publish(old, 9)
    assert engine.leases.published_revision("relay") == 5


def test_holder_may_take_the_published_revision_back(engine: Engine) -> None:
    lease = held(engine.leases)
    assert engine.leases.publish(lease, 5)
    assert engine.leases.publish(lease, 5)
    assert engine.leases.publish(lease, 4)
    assert engine.leases.published_revision("relay") == 4


def test_released_lease_is_free_at_once(engine: Engine) -> None:
    engine.leases.release(held(engine.leases))
    assert held(engine.leases, "b").token == 2


def test_release_by_an_older_holder_takes_nothing_away(engine: Engine) -> None:
    old = held(engine.leases, ttl_s=PAST_S)
    held(engine.leases, "b")
    engine.leases.release(old)
    assert engine.leases.acquire("relay", "c", LONG_S) is None


def test_nothing_is_published_before_anybody_held_the_lease(engine: Engine) -> None:
    assert engine.leases.published_revision("relay") == 0


def test_only_one_of_many_gets_the_lease(engine: Engine) -> None:
    together = threading.Barrier(4)

    def take(holder: str) -> Lease | None:
        together.wait()
        return engine.leases.acquire("relay", holder, LONG_S)

    with ThreadPoolExecutor(4) as holders:
        leases = list(holders.map(take, "abcd"))
    assert [lease.token for lease in leases if lease] == [1]


def test_clock_of_a_holder_does_not_matter() -> None:
    now = [1000.0]
    fake = MemoryEngine()
    fake.memory._clock = lambda: now[0]
    held(fake.leases, ttl_s=10)
    now[0] += 9.9
    assert fake.leases.acquire("relay", "b", LONG_S) is None
    now[0] += 0.2
    assert fake.leases.acquire("relay", "b", LONG_S) is not None


def test_age_of_the_backlog_is_that_of_the_first_change_not_published(sql_engine: SqlEngine) -> None:
    leases = SqlLeases(sql_engine.database)
    commit(sql_engine.store, create())
    commit(sql_engine.store, deactivate())
    times = [c.occurred_at for c in reversed(sql_engine.store.history(a_key(), None, 2).changes)]
    assert [leases.occurred_at_after(r) for r in (0, 1, 2)] == [*times, None]


@pytest.mark.parametrize("ttl_s", [PAST_S, LONG_S])
def test_lease_that_nobody_took_over_may_still_publish(engine: Engine, ttl_s: float) -> None:
    assert engine.leases.publish(held(engine.leases, ttl_s=ttl_s), 3)


def test_event_is_set_aside_by_the_holder_alone(engine: Engine) -> None:
    old = held(engine.leases, ttl_s=PAST_S)
    new = held(engine.leases, "b")
    assert not engine.leases.set_aside(old, 7, "too large")
    assert engine.leases.set_aside(new, 7, "too large")
    assert engine.leases.set_aside(new, 7, "still too large"), "again, after a replay"


def test_at_first_the_first_epoch_counts_as_told(engine: Engine) -> None:
    assert engine.leases.telling("relay") == Telling(1)
    held(engine.leases)
    assert engine.leases.telling("relay") == Telling(1)


def test_what_was_told_is_kept_for_the_next_holder(engine: Engine) -> None:
    assert engine.leases.told(held(engine.leases, ttl_s=PAST_S), Telling(2, "topic", 4))
    held(engine.leases, "b")
    assert engine.leases.telling("relay") == Telling(2, "topic", 4)


def test_old_token_cannot_say_what_was_told(engine: Engine) -> None:
    old = held(engine.leases, ttl_s=PAST_S)
    held(engine.leases, "b")
    assert not engine.leases.told(old, Telling(2))
    assert engine.leases.telling("relay") == Telling(1)
