"""What each operation comes to, whatever the state before; and that requests stand or fall as a whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.routing.builders import (
    AT_2026,
    AUTHOR,
    EPOCH,
    OTHER_URL,
    URL,
    a_key,
    a_route,
    activate,
    create,
    deactivate,
    delete,
    put,
)
from traffic_manager.errors import BatchFailed, PreconditionFailed, RouteConflict, RouteNotFound
from traffic_manager.routing.model import Action, Route
from traffic_manager.routing.operations import Operation, Outcome, Overlay
from traffic_manager.routing.ports import Head

TAG = f"{EPOCH[:8]}.1"
ACTIVE = a_route()
INACTIVE = a_route(active=False)
NOW = AT_2026 + 1_000


def over(*routes: Route, revision: int = 10) -> Overlay:
    """Return the overlay over *routes* with the head at *revision*."""
    return Overlay(Head(EPOCH, 1, revision), NOW, {route.key: route for route in routes})


def do(operation: Operation, *routes: Route) -> Outcome:
    """Return what *operation* comes to where *routes* exist."""
    return over(*routes).apply([operation], AUTHOR, is_batch=False)[0]


DECISIONS = [
    (create(), None, Action.CREATED, URL, True),
    (create(), ACTIVE, None, URL, True),
    (put(), None, Action.CREATED, URL, True),
    (put(is_active=True), None, Action.CREATED, URL, True),
    (put(is_active=False), None, Action.CREATED, URL, False),
    (put(), ACTIVE, None, URL, True),
    (put(), INACTIVE, None, URL, False),
    (put(is_active=True), INACTIVE, Action.ACTIVATED, URL, True),
    (put(is_active=False), ACTIVE, Action.DEACTIVATED, URL, False),
    (put(url=OTHER_URL), ACTIVE, Action.UPDATED, OTHER_URL, True),
    (put(url=OTHER_URL), INACTIVE, Action.UPDATED, OTHER_URL, False),
    (put(url=OTHER_URL, is_active=True), INACTIVE, Action.UPDATED, OTHER_URL, True),
    (put(url=OTHER_URL, is_active=False), ACTIVE, Action.UPDATED, OTHER_URL, False),
    (activate(), INACTIVE, Action.ACTIVATED, URL, True),
    (activate(), ACTIVE, None, URL, True),
    (deactivate(), ACTIVE, Action.DEACTIVATED, URL, False),
    (deactivate(), INACTIVE, None, URL, False),
]


@pytest.mark.parametrize(("operation", "before", "action", "url", "is_active"), DECISIONS)
def test_operation_comes_to_the_state_it_asks_for(
    operation: Operation, before: Route | None, action: Action | None, url: str, is_active: bool
) -> None:
    outcome = do(operation, *([before] if before else []))
    assert outcome.route is not None
    assert (outcome.action, outcome.route.url, outcome.route.is_active) == (action, url, is_active)
    assert outcome.revision == outcome.route.revision == (11 if action else 1)


@pytest.mark.parametrize("before", [ACTIVE, INACTIVE])
def test_delete_leaves_no_route(before: Route) -> None:
    outcome = do(delete(), before)
    assert (outcome.route, outcome.action, outcome.revision) == (None, Action.DELETED, 11)


@pytest.mark.parametrize(("operation", "before"), [(create(url=OTHER_URL), ACTIVE), (create(), INACTIVE)])
def test_create_meets_another_route_and_carries_it(operation: Operation, before: Route) -> None:
    with pytest.raises(RouteConflict) as conflict:
        do(operation, before)
    assert conflict.value.current == before


@pytest.mark.parametrize("operation", [activate(), deactivate(), delete()])
def test_operation_on_an_unknown_route_is_not_found(operation: Operation) -> None:
    with pytest.raises(RouteNotFound):
        do(operation)


@pytest.mark.parametrize(
    ("tags", "before", "holds"),
    [
        ({"if_match": frozenset({TAG})}, ACTIVE, True),
        ({"if_match": frozenset({TAG, "x"})}, ACTIVE, True),
        ({"if_match": frozenset({"*"})}, ACTIVE, True),
        ({"if_match": frozenset({"ffffffff.1"})}, ACTIVE, False),
        ({"if_match": frozenset({f"{EPOCH[:8]}.2"})}, ACTIVE, False),
        ({"if_match": frozenset[str]()}, ACTIVE, False),
        ({"if_match": frozenset({"*"})}, None, False),
        ({"if_match": frozenset({TAG})}, None, False),
        ({"if_none_match": frozenset({"*"})}, None, True),
        ({"if_none_match": frozenset({"*"})}, ACTIVE, False),
        ({"if_none_match": frozenset({TAG})}, ACTIVE, False),
        ({"if_none_match": frozenset({"x"})}, ACTIVE, True),
        ({"if_match": frozenset({TAG}), "if_none_match": frozenset({TAG})}, ACTIVE, False),
    ],
)
def test_precondition_is_checked_before_anything_else(
    tags: dict[str, Any], before: Route | None, holds: bool
) -> None:
    routes = [before] if before else []
    if holds:
        assert do(put(url=OTHER_URL, **tags), *routes).action
        return
    with pytest.raises(PreconditionFailed) as failure:
        do(put(url=OTHER_URL, **tags), *routes)
    assert failure.value.current == before


def test_change_holds_the_state_before_and_after() -> None:
    overlay = over(ACTIVE)
    overlay.apply([put(url=OTHER_URL, is_active=False)], AUTHOR, is_batch=False)
    change = overlay.changes[0]
    assert (change.url, change.is_active, change.occurred_at, change.actor) == (
        OTHER_URL,
        False,
        NOW,
        "alice",
    )
    assert json.loads(change.previous or "") == {"url": URL, "is_active": True, "revision": 1}


def test_times_of_a_route_are_those_of_its_creation_and_last_change() -> None:
    changed = do(deactivate(), ACTIVE).route
    created = do(create()).route
    assert changed is not None
    assert created is not None
    assert (changed.created_at, changed.updated_at) == (ACTIVE.created_at, NOW)
    assert (created.created_at, created.updated_at) == (NOW, NOW)


def test_batch_sees_its_own_effects_and_is_numbered_from_the_head() -> None:
    overlay = over()
    wishes = [create(), deactivate(), activate(), delete(), create(url=OTHER_URL)]
    outcomes = overlay.apply(wishes, AUTHOR, is_batch=True)
    assert [o.revision for o in outcomes] == [11, 12, 13, 14, 15]
    assert [c.batch_end for c in overlay.changes] == [15] * 5
    route = overlay.after[a_key()]
    assert route is not None
    assert (route.url, route.revision) == (OTHER_URL, 15)


def test_batch_that_changes_nothing_makes_no_change() -> None:
    overlay = over(ACTIVE)
    outcomes = overlay.apply([create(), activate()], AUTHOR, is_batch=True)
    assert ([o.action for o in outcomes], overlay.changes) == ([None, None], [])


def test_tag_of_a_batch_is_checked_against_its_own_effects() -> None:
    overlay = over(ACTIVE)
    with pytest.raises(BatchFailed) as failure:
        overlay.apply([deactivate(), activate(if_match=frozenset({TAG}))], AUTHOR, is_batch=True)
    assert (failure.value.index, type(failure.value.cause)) == (1, PreconditionFailed)


def test_failing_batch_leaves_nothing_and_says_which_failed() -> None:
    overlay = over(ACTIVE)
    with pytest.raises(BatchFailed) as failure:
        overlay.apply([deactivate(), create(a_key("new")), delete(a_key("unknown"))], AUTHOR, is_batch=True)
    assert failure.value.index == 2
    assert isinstance(failure.value.cause, RouteNotFound)
    assert (overlay.changes, overlay.after) == ([], {})


def test_failing_request_keeps_the_effects_of_those_before_it_and_takes_no_number() -> None:
    overlay = over()
    overlay.apply([create()], AUTHOR, is_batch=False)
    with pytest.raises(BatchFailed):
        overlay.apply([deactivate(), delete(a_key("unknown"))], AUTHOR, is_batch=True)
    overlay.apply([create(a_key("next"))], AUTHOR, is_batch=False)
    assert [(c.revision, c.batch_end, c.action) for c in overlay.changes] == [
        (11, 11, Action.CREATED),
        (12, 12, Action.CREATED),
    ]
    route = overlay.after[a_key()]
    assert route is not None
    assert route.is_active
