"""The decision, on every combination of role, operation and place."""

from __future__ import annotations

from itertools import product

import pytest

from tests.access.builders import a_grant, a_principal
from traffic_manager.access.permissions import (
    ROLES_OF,
    Operation,
    Principal,
    Role,
    as_text,
    grants_of,
)
from traffic_manager.errors import Forbidden
from traffic_manager.routing.operations import Verb
from traffic_manager.routing.ports import NameFilter

# Grants, and the (tenant, environment) that they are to reach of these four.
TENANTS, ENVS = ("own", "other"), ("prod", "test")
REACH: dict[str, set[tuple[str, str]]] = {
    "own/prod": {("own", "prod")},
    "own/*": {("own", "prod"), ("own", "test")},
    "*/prod": {("own", "prod"), ("other", "prod")},
    "*/*": set(product(TENANTS, ENVS)),
}


@pytest.mark.parametrize(("role", "place", "operation"), list(product(Role, REACH, Operation)))
def test_a_role_may_what_the_table_says_where_it_is_granted_and_nowhere_else(
    role: Role, place: str, operation: Operation
) -> None:
    principal = a_principal(f"{role}:{place}")
    permitted = {at for at in product(TENANTS, ENVS) if principal.may(operation, *at)}
    assert permitted == (REACH[place] if role in ROLES_OF[operation] else set())


def test_every_operation_and_every_writing_verb_is_in_the_table() -> None:
    assert set(ROLES_OF) == set(Operation)
    assert {Operation(verb.value) for verb in Verb} <= set(Operation)


def test_each_role_may_all_that_the_one_below_it_may() -> None:
    may = [{op for op in Operation if role in ROLES_OF[op]} for role in Role if role is not Role.MONITOR]
    assert may[0] < may[1] < may[2] < may[3] == set(Operation)


def test_resolver_may_do_nothing_but_resolve() -> None:
    assert [op for op in Operation if Role.RESOLVER in ROLES_OF[op]] == [Operation.RESOLVE]


def test_monitor_may_do_nothing_but_read_metrics() -> None:
    assert [op for op in Operation if Role.MONITOR in ROLES_OF[op]] == [Operation.READ_METRICS]


def test_grants_add_up_but_do_not_mix() -> None:
    principal = a_principal("editor:a/test", "viewer:a/prod")
    assert principal.may(Operation.PUT, "a", "test")
    assert principal.may(Operation.GET, "a", "prod")
    assert not principal.may(Operation.PUT, "a", "prod")


def test_what_spans_all_tenants_needs_a_grant_that_does() -> None:
    assert a_principal("viewer:*/*").may(Operation.READ_METRICS, None, None)
    for place in ("own/*", "*/prod", "own/prod"):
        assert not a_principal(f"admin:{place}").may(Operation.READ_METRICS, None, None)


def test_nobody_may_anything_without_a_grant() -> None:
    nobody = Principal("nobody", ())
    assert not [op for op in Operation if nobody.may(op, None, None) or nobody.may(op, "own", "prod")]


def test_a_question_is_narrowed_to_what_may_be_seen() -> None:
    principal = a_principal("viewer:own/prod", "viewer:second/*", "resolver:third/*")
    narrowed = principal.narrowed(Operation.LIST, NameFilter(service="s"))
    assert narrowed.patterns == [("own", "s", "prod", None), ("second", "s", None, None)]
    of_prod = principal.narrowed(Operation.LIST, NameFilter(env="prod"))
    assert of_prod.patterns == [("own", None, "prod", None), ("second", None, "prod", None)]


@pytest.mark.parametrize("wanted", [NameFilter(tenant="other"), NameFilter(tenant="own", env="test")])
def test_a_question_that_leaves_nothing_to_see_is_forbidden(wanted: NameFilter) -> None:
    with pytest.raises(Forbidden):
        a_principal("viewer:own/prod").narrowed(Operation.LIST, wanted)


def test_whoever_may_see_everything_is_asked_as_nobody_in_particular() -> None:
    wanted = NameFilter(tenant="own")
    assert a_principal("viewer:*/*").narrowed(Operation.LIST, wanted).patterns == [wanted.names]


def test_keys_of_one_owner_are_counted_together_in_the_same_tenants() -> None:
    counted = [
        a_principal(*grants).counted_as
        for grants in (["viewer:own/prod"], ["editor:own/*", "viewer:own/test"], ["viewer:other/*"])
    ]
    assert counted[0] == counted[1] != counted[2]
    everywhere = a_principal("viewer:*/*"), a_principal("editor:*/prod", "viewer:own/*")
    assert {principal.counted_as for principal in everywhere} == {"alice"}


def test_grants_read_back_from_their_row() -> None:
    grants = (a_grant("editor:team-a/prod"), a_grant("viewer:*/*"))
    assert as_text(grants) == '[["editor","team-a","prod"],["viewer","*","*"]]'
    assert grants_of(as_text(grants)) == grants
