"""A row that breaks the rules of its table is passed over: it takes nobody down, and others are served."""

from __future__ import annotations

import pytest

from tests.db.engines import SqlEngine
from tests.db.test_keys import ADMIN, Keys
from tests.db.test_keys import keys as keys  # the fixture
from tests.routing.builders import a_key, commit, create
from traffic_manager.routing.ports import NameFilter

EVERYTHING = NameFilter()
# What a change of the log can be made of by hand, though never by this program.
BAD_CHANGES = {
    "action": "action = 'moved'",
    "no name": "tenant = null",
    "previous": "previous = 'garbage'",
    "previous of another kind": "previous = '[]'",
    "time": "occurred_at = 9223372036854775807",
    "url": "url = 'two' || chr(10) || 'lines'",
    "no url": "url = null",
}
BAD_ROUTES = {
    "no url": "url = ''",
    "url": "url = 'two' || chr(10) || 'lines'",
    "not ASCII": "url = 'https://☃.example'",
    "revision": "revision = -1",
    "time": "updated_at = -1",
}


def spoil(engine: SqlEngine, table: str, assignment: str, where: str) -> None:
    """Set columns as somebody with a prompt of SQL could."""
    if engine.name == "sqlite":
        assignment = assignment.replace("chr(", "char(")
    engine.run(f"update {table} set {assignment} where {where}")  # noqa: S608 constants of this module


@pytest.mark.parametrize("assignment", BAD_CHANGES.values(), ids=BAD_CHANGES)
def test_bad_change_is_passed_over_and_reported_and_those_around_it_are_followed(
    sql_engine: SqlEngine, assignment: str
) -> None:
    bad: list[None] = []
    commit(sql_engine.store, create(), create(a_key("bad")), create(a_key("good")))
    spoil(sql_engine, "changes", assignment, "revision = 2")
    found = sql_engine.feed(lambda: bad.append(None)).pulse(0, 10).changes
    assert found is not None
    assert ([change.revision for change in found.changes], found.upto, len(bad)) == ([1, 3], 3, 1)


def test_batch_whose_end_is_wrong_is_followed(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), create(a_key("good")))
    for end in (1, 99):
        spoil(sql_engine, "changes", f"batch_end = {end}", "revision = 2")
        found = sql_engine.feed().slice(1, 10)
        assert found is not None
        assert found.upto == 2


@pytest.mark.parametrize("assignment", BAD_CHANGES.values(), ids=BAD_CHANGES)
def test_pages_of_changes_leave_a_bad_one_out_and_go_on_behind_it(
    sql_engine: SqlEngine, assignment: str
) -> None:
    commit(sql_engine.store, *(create(a_key(service)) for service in "abcd"))
    spoil(sql_engine, "changes", assignment, "revision = 2")
    first = sql_engine.store.changes(EVERYTHING, 1, 1)
    assert (first.changes, first.last) == ([], 2)
    rest = sql_engine.store.changes(EVERYTHING, 2, 10)
    assert [change.revision for change in rest.changes] == [3, 4]


@pytest.mark.parametrize("assignment", BAD_ROUTES.values(), ids=BAD_ROUTES)
def test_pages_of_routes_leave_a_bad_one_out_and_go_on_behind_it(
    sql_engine: SqlEngine, assignment: str
) -> None:
    commit(sql_engine.store, create(a_key("a")), create(a_key("b")), create(a_key("c")))
    spoil(sql_engine, "routes", assignment, "service = 'b'")
    second = sql_engine.store.page(EVERYTHING, None, a_key("a"), 1)
    assert (second.routes, second.last) == ([], a_key("b"))
    everything = sql_engine.store.page(EVERYTHING, None, None, 3)
    assert [route.key for route in everything.routes] == [a_key("a"), a_key("c")]


@pytest.mark.parametrize("assignment", BAD_ROUTES.values(), ids=BAD_ROUTES)
def test_bad_route_is_none_and_can_be_made_anew(sql_engine: SqlEngine, assignment: str) -> None:
    commit(sql_engine.store, create())
    spoil(sql_engine, "routes", assignment, "true")
    assert sql_engine.store.look_up([a_key()]).routes == {}
    commit(sql_engine.store, create())
    assert sql_engine.store.look_up([a_key()]).routes[a_key()].revision == 2


@pytest.mark.parametrize("assignment", ["url = x'ff'", "revision = 'garbage'"])
def test_table_is_loaded_around_values_of_other_types(sqlite_engine: SqlEngine, assignment: str) -> None:
    bad: list[None] = []
    commit(sqlite_engine.store, create(a_key("bad")), create(a_key("good")))
    spoil(sqlite_engine, "routes", assignment, "service = 'bad'")
    table = sqlite_engine.feed(lambda: bad.append(None)).table(10, 10)
    assert (list(table.entries), len(bad)) == ([str(a_key("good"))], 1)


@pytest.mark.parametrize("grants", ["garbage", "null", '[["viewer"]]', "[1]"])
def test_key_with_bad_grants_lets_nobody_in_and_others_go_on(keys: Keys, grants: str) -> None:
    broken, good = keys.create().secret, keys.create().secret
    keys.engine.run("update api_keys set grants = :grants where id = :id", grants=grants, id=broken.key_id)
    assert (keys.lets_in(broken), keys.lets_in(good)) == (False, True)
    _, listed = keys.registry.keys(ADMIN)
    assert [key.id for key in listed] == [good.key_id]
