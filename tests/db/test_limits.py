"""Limits in the database, what the log and the feed say of them, and quotas in the transaction of a write."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from tests.access.builders import PEPPER, a_grant, a_principal
from tests.db.engines import Engine, SqlEngine
from tests.routing.builders import AUTHOR, a_key, commit, put
from traffic_manager.access.key_registry import DEFAULT_LIFETIME, DEFAULT_OVERLAP, KeyRegistry
from traffic_manager.access.limit_registry import LimitRegistry
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.db.limit_store import SqlLimitStore
from traffic_manager.errors import Forbidden, IdempotencyKeyReused, QuotaExceeded
from traffic_manager.routing.ports import Limit

ADMIN = a_principal("admin:*/*")
OF_TEAM_A = a_principal("admin:team-a/*", "viewer:*/*")
LIMIT = Limit("tenant", "team-a", writes=5, routes=100)


class Limits:
    """The registry over an engine, and what its followers read."""

    def __init__(self, engine: SqlEngine) -> None:
        self.engine = engine
        self.committed: list[int] = []
        self.registry = LimitRegistry(SqlLimitStore(engine.database), self.committed.append)

    def set(self, limit: Limit) -> int:
        return self.registry.put(ADMIN, AUTHOR, limit).head.revision

    def followed(self) -> list[Limit]:
        with closing(self.engine.feed()) as feed:
            return list(feed.limits())

    def logged(self) -> list[tuple[str, str, dict[str, object]]]:
        rows = self.engine.rows(
            "select kind, action, detail from changes where kind = 'limit' order by revision"
        )
        return [(kind, action, json.loads(detail)) for kind, action, detail in rows]


@pytest.fixture
def limits(sql_engine: SqlEngine) -> Iterator[Limits]:
    yield Limits(sql_engine)
    sql_engine.run("delete from limits")
    sql_engine.run("delete from receipts")
    sql_engine.run("delete from api_keys")


def test_a_limit_is_kept_followed_and_logged(limits: Limits) -> None:
    revision = limits.set(LIMIT)
    head, found = limits.registry.limits(ADMIN)
    assert (head.revision, list(found), limits.followed()) == (revision, [LIMIT], [LIMIT])
    assert limits.committed == [revision]
    assert limits.logged()[-1] == (
        "limit",
        "set",
        {"subject": "tenant", "name": "team-a", "writes": 5, "routes": 100},
    )


def test_the_same_again_makes_no_change(limits: Limits) -> None:
    assert limits.set(LIMIT) == limits.set(LIMIT)
    assert limits.set(Limit("tenant", "never-set")) == limits.committed[0]


def test_a_request_that_is_sent_again_undoes_nothing_that_was_set_meanwhile(limits: Limits) -> None:
    once = replace(AUTHOR, idempotency_key="once")
    first = limits.registry.put(ADMIN, once, LIMIT)
    limits.set(Limit("tenant", "team-a", writes=7))
    again = limits.registry.put(ADMIN, once, LIMIT)
    assert (again.head, again.is_replay) == (first.head, True)
    assert limits.followed() == [Limit("tenant", "team-a", writes=7)]
    with pytest.raises(IdempotencyKeyReused):
        limits.registry.put(ADMIN, once, Limit("tenant", "team-b", writes=5, routes=100))


def test_new_figures_take_the_place_of_all_and_none_removes_it(limits: Limits) -> None:
    limits.set(LIMIT)
    limits.set(Limit("tenant", "team-a", resolves=0))
    assert limits.followed() == [Limit("tenant", "team-a", resolves=0)]
    limits.set(Limit("tenant", "team-a"))
    assert limits.followed() == []
    assert [action for _, action, _ in limits.logged()[-3:]] == ["set", "set", "removed"]


def test_the_feed_tells_of_limits_and_passes_them_over_as_changes_of_routes(limits: Limits) -> None:
    before = limits.set(Limit("tenant", "before", keys=1))
    limits.set(LIMIT)
    with closing(limits.engine.feed()) as feed:
        found = feed.slice(before, 2000)
    assert found is not None
    assert (found.upto, list(found.changes), found.has_limits, found.has_keys) == (
        before + 1,
        [],
        True,
        False,
    )


def test_the_chain_holds_over_them(limits: Limits) -> None:
    limits.set(LIMIT)
    with closing(limits.engine.feed()) as feed:
        found = feed.slice(0, 2000)
        assert found is not None
        assert feed.pulse(found.upto).chain == found.chain


def test_whoever_administers_one_tenant_sets_and_sees_no_limits(limits: Limits) -> None:
    with pytest.raises(Forbidden):
        limits.registry.put(OF_TEAM_A, AUTHOR, LIMIT)
    with pytest.raises(Forbidden):
        limits.registry.limits(OF_TEAM_A)
    assert limits.followed() == []


class TestQuotaOfKeys:
    @pytest.fixture
    def registry(self, limits: Limits) -> KeyRegistry:
        """Two keys at most in team-a."""
        quotas: Callable[[str], int | None] = {"team-a": 2}.get
        return KeyRegistry(SqlKeyStore(limits.engine.database), PEPPER, lambda _: None, quotas)

    def create(self, registry: KeyRegistry, *grants: str) -> str:
        wanted = [a_grant(grant) for grant in grants]
        return registry.create(ADMIN, AUTHOR, "alice", wanted, DEFAULT_LIFETIME).key.id

    def test_one_more_than_may_hold_there_is_refused_and_there_is_room_when_one_ends(
        self, registry: KeyRegistry
    ) -> None:
        first = self.create(registry, "viewer:team-a/prod", "editor:team-a/test")
        self.create(registry, "viewer:team-a/*", "viewer:team-b/*")
        with pytest.raises(QuotaExceeded) as refused:
            self.create(registry, "viewer:team-b/*", "viewer:team-a/prod")
        assert (refused.value.things, refused.value.quota) == ("keys", 2)
        registry.revoke(ADMIN, AUTHOR, first)
        self.create(registry, "viewer:team-a/prod")

    def test_keys_of_others_and_of_all_tenants_do_not_count(self, registry: KeyRegistry) -> None:
        for grant in ("viewer:team-b/*", "viewer:*/*", "viewer:*/prod") * 2:
            self.create(registry, grant)
        self.create(registry, "viewer:team-a/prod")

    def test_a_rotation_counts_while_both_are_in_force(self, registry: KeyRegistry) -> None:
        key = self.create(registry, "viewer:team-a/prod")
        registry.rotate(ADMIN, AUTHOR, key, DEFAULT_OVERLAP, DEFAULT_LIFETIME)
        with pytest.raises(QuotaExceeded):
            registry.rotate(ADMIN, AUTHOR, key, DEFAULT_OVERLAP, DEFAULT_LIFETIME)

    def test_many_at_once_do_not_pass_it(self, registry: KeyRegistry) -> None:
        made: list[str] = []

        def make() -> None:
            with suppress(QuotaExceeded):
                made.append(self.create(registry, "viewer:team-a/prod"))

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
        assert len(made) == 2


def test_routes_are_counted_by_tenant_active_or_not(engine: Engine) -> None:
    for service in ("one", "two"):
        commit(engine.store, put(a_key(service=service)))
    commit(engine.store, put(a_key(service="three"), is_active=False))
    commit(engine.store, put(a_key(tenant="team-b")))
    assert engine.store.counts(["team-a", "team-b", "nobody"]) == {"team-a": 3, "team-b": 1, "nobody": 0}
    with engine.store.writing([]) as transaction:
        assert transaction.counts(["team-a"]) == {"team-a": 3}
