"""What every store answers to reads: look up, page, history, changes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.db.engines import Engine, SqlEngine
from tests.routing.builders import (
    OTHER_EPOCH,
    OTHER_URL,
    URL,
    a_key,
    activate,
    commit,
    commit_batches,
    create,
    deactivate,
    delete,
    put,
)
from tests.routing.memory_store import MemoryStore
from traffic_manager.routing.model import Action, RouteKey
from traffic_manager.routing.operations import Author, Operation, Overlay
from traffic_manager.routing.ports import ChangeTraits, NameFilter, RouteStore

ANY = NameFilter()


def keys_of_page(store: RouteStore, wanted: NameFilter = ANY, **how: object) -> list[str]:
    """Return the keys of one page as text."""
    options = {"is_active": None, "after": None, "size": 100} | how
    return [str(route.key) for route in store.page(wanted, **options).routes]  # type: ignore[arg-type] # by name


# -- look up


def test_look_up_in_an_empty_database_sees_nothing_at_revision_0(engine: Engine) -> None:
    sighting = engine.store.look_up([a_key()])
    assert (sighting.routes, sighting.head.revision, sighting.head.epoch_number) == ({}, 0, 1)


def test_look_up_finds_the_routes_asked_for_and_no_others(engine: Engine) -> None:
    commit(engine.store, create(a_key("a")), create(a_key("b")), create(a_key("c")))
    sighting = engine.store.look_up([a_key("a"), a_key("c"), a_key("missing")])
    assert set(sighting.routes) == {a_key("a"), a_key("c")}
    assert sighting.head.revision == 3


def test_look_up_of_no_keys_tells_the_head(engine: Engine) -> None:
    commit(engine.store, create())
    sighting = engine.store.look_up([])
    assert (sighting.routes, sighting.head.revision) == ({}, 1)


def test_look_up_sees_a_route_as_its_last_change_left_it(engine: Engine) -> None:
    commit(engine.store, create())
    created = engine.store.look_up([a_key()]).routes[a_key()]
    commit(engine.store, put(url=OTHER_URL, is_active=False))
    route = engine.store.look_up([a_key()]).routes[a_key()]
    assert (route.url, route.is_active, route.revision) == (OTHER_URL, False, 2)
    assert route.created_at == created.created_at <= route.updated_at


def test_look_up_takes_a_thousand_keys_at_once(engine: Engine) -> None:
    keys = [a_key(f"s{n}") for n in range(1000)]
    commit(engine.store, *(create(key) for key in keys))
    assert len(engine.store.look_up(keys).routes) == 1000


def test_names_are_told_apart_by_case_and_by_place(engine: Engine) -> None:
    commit(engine.store, create(a_key("Payments", "v1")))
    others = [a_key("payments", "v1"), a_key("v1", "Payments"), a_key("Payments", "V1")]
    assert engine.store.look_up(others).routes == {}


def test_url_comes_back_byte_for_byte(engine: Engine) -> None:
    url = "https://a.example.com:8443/%7Bx%7d/a'b?q=%25&c=$1;(d)#"[:-1]
    commit(engine.store, create(url=url))
    assert engine.store.look_up([a_key()]).routes[a_key()].url == url


# -- pages


def test_page_is_in_byte_order_of_the_four_names(engine: Engine) -> None:
    services = ["a", "Z", "a+b", "a~b", "a.b", "a-b", "aB", "0", "a0", "A"]
    commit(engine.store, *(create(a_key(service)) for service in services))
    commit(engine.store, create(a_key("a", tenant="team-Z")), create(a_key("a", tenant="Team-a")))
    expected = sorted(
        [f"team-a/{s}/prod/v2" for s in services] + ["team-Z/a/prod/v2", "Team-a/a/prod/v2"],
        key=lambda text: [name.encode() for name in text.split("/")],
    )
    assert keys_of_page(engine.store) == expected


def test_page_goes_on_strictly_above_the_key_given(engine: Engine) -> None:
    commit(engine.store, *(create(a_key(s, v)) for s in ("a", "b") for v in ("v1", "v2")))
    after = a_key("a", "v2")
    assert keys_of_page(engine.store, after=after) == ["team-a/b/prod/v1", "team-a/b/prod/v2"]


def test_page_goes_on_above_a_key_that_is_gone(engine: Engine) -> None:
    commit(engine.store, create(a_key("a")), create(a_key("c")))
    assert keys_of_page(engine.store, after=a_key("b")) == ["team-a/c/prod/v2"]


@pytest.mark.parametrize(("size", "has_more"), [(2, True), (3, False), (4, False)])
def test_page_says_exactly_whether_routes_follow(engine: Engine, size: int, has_more: bool) -> None:
    commit(engine.store, *(create(a_key(s)) for s in "abc"))
    page = engine.store.page(ANY, None, None, size)
    assert (len(page.routes), page.has_more) == (min(size, 3), has_more)


def test_page_after_the_last_key_is_empty_and_knows_the_head(engine: Engine) -> None:
    commit(engine.store, create())
    page = engine.store.page(ANY, None, a_key(), 10)
    assert (page.routes, page.has_more, page.head.revision) == ([], False, 1)


@pytest.mark.parametrize("is_active", [None, True, False])
def test_page_can_ask_for_active_or_inactive_routes(engine: Engine, is_active: bool | None) -> None:
    commit(engine.store, create(a_key("on")), put(a_key("off"), is_active=False))
    expected = {None: ["off", "on"], True: ["on"], False: ["off"]}[is_active]
    assert keys_of_page(engine.store, is_active=is_active) == [f"team-a/{s}/prod/v2" for s in expected]


NAMES = ("a", "B")
ALL_KEYS = [RouteKey.of(t, s, e, v) for t in NAMES for s in NAMES for e in NAMES for v in NAMES]


def filters() -> st.SearchStrategy[NameFilter]:
    """Draw a filter of any of the four names, some of which no route has."""
    names = st.sampled_from([None, *NAMES, "c"])
    return st.builds(NameFilter, names, names, names, names)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(
    wanted=filters(),
    is_active=st.sampled_from([None, True, False]),
    after=st.sampled_from([None, *ALL_KEYS]),
    size=st.integers(1, 17),
)
def test_page_is_what_the_fake_says_for_every_filter(
    sql_engine: SqlEngine, wanted: NameFilter, is_active: bool | None, after: RouteKey | None, size: int
) -> None:
    fake = MemoryStore()
    wishes = [put(key, is_active=n % 3 > 0) for n, key in enumerate(ALL_KEYS)]
    commit(fake, *wishes)
    if sql_engine.store.look_up([]).head.revision == 0:
        commit(sql_engine.store, *wishes)
    expected = fake.page(wanted, is_active, after, size)
    page = sql_engine.store.page(wanted, is_active, after, size)
    assert [r.key for r in page.routes] == [r.key for r in expected.routes]
    assert page.has_more == expected.has_more


# -- history


def test_history_is_the_changes_of_one_route_newest_first(engine: Engine) -> None:
    commit(engine.store, create(), create(a_key("other")), deactivate(), activate(), delete())
    page = engine.store.history(a_key(), None, 10)
    assert [(c.revision, c.action) for c in page.changes] == [
        (5, Action.DELETED),
        (4, Action.ACTIVATED),
        (3, Action.DEACTIVATED),
        (1, Action.CREATED),
    ]
    assert not page.has_more


def test_history_holds_who_what_and_the_state_before(engine: Engine) -> None:
    commit(engine.store, create())
    commit(engine.store, put(url=OTHER_URL))
    change = engine.store.history(a_key(), None, 1).changes[0]
    assert (change.url, change.is_active, change.actor, change.correlation_id) == (
        OTHER_URL,
        True,
        "alice",
        "c-1",
    )
    assert change.previous == f'{{"url":"{URL}","is_active":true,"revision":1}}'


def test_history_goes_on_below_the_revision_given(engine: Engine) -> None:
    commit(engine.store, create(), deactivate(), activate())
    first = engine.store.history(a_key(), None, 2)
    rest = engine.store.history(a_key(), 2, 2)
    assert ([c.revision for c in first.changes], first.has_more) == ([3, 2], True)
    assert ([c.revision for c in rest.changes], rest.has_more) == ([1], False)


def test_history_of_an_unknown_route_is_empty_at_the_head(engine: Engine) -> None:
    commit(engine.store, create())
    page = engine.store.history(a_key("unknown"), None, 10)
    assert (page.changes, page.has_more, page.head.revision) == ([], False, 1)


# -- changes


def test_changes_come_oldest_first_with_the_head_of_the_same_moment(engine: Engine) -> None:
    commit(engine.store, create(a_key("a")), create(a_key("b")), create(a_key("c")))
    page = engine.store.changes(ANY, 1, 10)
    assert ([c.revision for c in page.changes], page.head.revision, page.has_more) == ([2, 3], 3, False)


@pytest.mark.parametrize(("limit", "has_more"), [(1, True), (2, False), (3, False)])
def test_changes_say_exactly_whether_others_follow(engine: Engine, limit: int, has_more: bool) -> None:
    commit(engine.store, create(a_key("a")), create(a_key("b")))
    page = engine.store.changes(ANY, 0, limit)
    assert (len(page.changes), page.has_more) == (min(limit, 2), has_more)


def test_changes_after_the_head_are_none(engine: Engine) -> None:
    commit(engine.store, create())
    assert engine.store.changes(ANY, 1, 10).changes == []


@pytest.mark.parametrize(
    "wanted",
    [
        NameFilter(tenant="team-b"),
        NameFilter(service="orders"),
        NameFilter(env="staging"),
        NameFilter(version="v9"),
        NameFilter("team-a", "payments", "prod", "v2"),
        NameFilter(tenant="nobody"),
    ],
)
def test_changes_can_be_asked_for_by_any_name(engine: Engine, wanted: NameFilter) -> None:
    keys = [a_key(), a_key(tenant="team-b"), a_key("orders"), a_key(env="staging"), a_key(version="v9")]
    commit(engine.store, *(create(key) for key in keys))
    page = engine.store.changes(wanted, 0, 10)
    assert [c.key for c in page.changes] == [key for key in keys if wanted.matches(key)]
    assert page.head.revision == 5


def commit_as(store: RouteStore, author: Author, now: int, *operations: Operation) -> None:
    """Commit *operations* of *author* as if the database's clock stood at *now*."""
    with store.writing([operation.key for operation in operations]) as transaction:
        overlay = Overlay(transaction.head, now, transaction.routes)
        overlay.apply(operations, author, is_batch=True)
        transaction.append(overlay.changes, overlay.after)


def revisions(store: RouteStore, traits: ChangeTraits, after: int = 0, limit: int = 100) -> list[int]:
    """Return which changes are found."""
    return [change.revision for change in store.changes(ANY, after, limit, traits).changes]


def test_changes_can_be_asked_for_by_what_they_are_like(engine: Engine) -> None:
    commit_as(engine.store, Author("alice/k1", "c-1", address="192.0.2.1", reason="why"), 1000, create())
    commit_as(engine.store, Author("alice/k2", "c-2"), 2000, deactivate())
    commit_as(engine.store, Author("alicia", "c-3"), 3000, activate())
    commit_as(engine.store, Author("alice", "c-4"), 4000, deactivate())
    found = {
        ChangeTraits(actor="alice"): [1, 2, 4],
        ChangeTraits(actor="alice/k1"): [1],
        ChangeTraits(actor="ali"): [],
        ChangeTraits(actor="%"): [],
        ChangeTraits(action=Action.DEACTIVATED): [2, 4],
        ChangeTraits(since=2000): [2, 3, 4],
        ChangeTraits(until=2000): [1],
        ChangeTraits(since=2000, until=4000, actor="alice"): [2],
    }
    assert {traits: revisions(engine.store, traits) for traits in found} == found
    first = engine.store.changes(ANY, 0, 1, ChangeTraits()).changes[0]
    assert (first.address, first.reason) == ("192.0.2.1", "why")
    assert engine.store.history(a_key(), None, 1).changes[0].address is None


def test_a_page_of_changes_by_what_they_are_like_is_looked_for_in_so_many(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("traffic_manager.db.store", "tests.routing.memory_store"):
        monkeypatch.setattr(f"{module}.TRAITS_SCAN", 3)
    commit(engine.store, create(), deactivate(), activate(), deactivate(), activate(), deactivate())
    traits = ChangeTraits(action=Action.DEACTIVATED)
    pages = [engine.store.changes(ANY, after, 100, traits) for after in (0, 3, 6)]
    assert [[c.revision for c in page.changes] for page in pages] == [[2], [4, 6], []]
    assert [page.last for page in pages] == [3, None, None]
    assert [engine.store.changes(ANY, 3, 1, traits).last] == [4]


def test_changes_pass_over_other_kinds_but_the_head_counts_them(engine: Engine) -> None:
    commit(engine.store, create())
    engine.add_change_of_other_kind()
    page = engine.store.changes(ANY, 0, 10)
    assert ([c.revision for c in page.changes], page.head.revision) == ([1], 2)


def test_changes_tell_up_to_where_they_are_compacted(engine: Engine) -> None:
    commit(engine.store, create(), deactivate(), activate())
    engine.compact(2)
    page = engine.store.changes(ANY, 0, 10)
    assert ([c.revision for c in page.changes], page.compacted_revision) == ([3], 2)


def test_every_read_names_the_epoch(engine: Engine) -> None:
    commit_batches(engine.store, [create()])
    engine.begin_epoch(OTHER_EPOCH)
    store = engine.store
    heads = [
        store.look_up([a_key()]).head,
        store.page(ANY, None, None, 1).head,
        store.history(a_key(), None, 1).head,
        store.changes(ANY, 0, 1).head,
    ]
    assert {(head.epoch, head.epoch_number, head.revision) for head in heads} == {(OTHER_EPOCH, 2, 1)}
