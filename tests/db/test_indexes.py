"""The hot statements are served by the indexes that their comments name, at 20,000 routes and changes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.db.conftest import POSTGRES
from tests.db.engines import SqlEngine, postgres_settings_of, sqlite_settings
from tests.routing.builders import OTHER_URL, a_key, commit, put
from tests.servers import PostgresServer
from traffic_manager.db.migrate import migrate
from traffic_manager.db.postgres import with_rows
from traffic_manager.db.session import Cursor, Session
from traffic_manager.db.store import _DELETE_ROUTES, _KEY_TYPES
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import ChangeTraits, NameFilter

ROUTES = 20_000
_LAST = a_key("service-150", "v50", tenant="tenant-15")

_FILL_ROUTES = """with recursive n(i) as (select 0 union all select i + 1 from n where i < :last)
    insert into routes select 'tenant-' || (i / 1000), 'service-' || (i / 100), 'prod',
    'v' || (i - i / 100 * 100), 'https://example.com/', true, i + 1, 0, 0 from n"""
_FILL_CHANGES = """insert into changes (revision, batch_end, kind, tenant, service, env, version, action, url,
    is_active, actor, correlation_id, occurred_at, chain, chain_version)
    select revision, revision, 'route', tenant, service, env, version, 'created', url, true, 'alice', 'c-1', 0,
    :chain, 1 from routes"""


def fill(engine: SqlEngine) -> None:
    """Make the rows, past the store: through it they would take minutes."""
    engine.run(_FILL_ROUTES, last=ROUTES - 1)
    engine.run(_FILL_CHANGES, chain=bytes(32))


@pytest.fixture(scope="module")
def large_sqlite(empty_sqlite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlEngine]:
    """SQLite with 20,000 routes and changes."""
    settings = sqlite_settings(tmp_path_factory.mktemp("large"))
    shutil.copy(empty_sqlite_file, settings.path)
    engine = SqlEngine(settings)
    fill(engine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def large_postgres(postgres: PostgresServer) -> Iterator[SqlEngine]:
    """PostgreSQL with 20,000 routes and changes, and the statistics of the empty tables before them: the
    moment at which plans were seen to go wrong."""
    name = f"large_{os.getpid()}"
    settings = postgres_settings_of(postgres.create_database(name))
    migrate(settings)
    engine = SqlEngine(settings)
    fill(engine)
    yield engine
    engine.close()
    postgres.drop_database(name)


STATEMENTS: dict[str, Callable[[SqlEngine], object]] = {
    "look up one": lambda e: e.store.look_up([_LAST]),
    "look up a thousand": lambda e: e.store.look_up([a_key(f"service-{n}") for n in range(1000)]),
    "first page": lambda e: e.store.page(NameFilter(), None, None, 100),
    "next page": lambda e: e.store.page(NameFilter(), None, _LAST, 100),
    "page of a tenant": lambda e: e.store.page(NameFilter(tenant="tenant-15"), None, _LAST, 100),
    "page of a service": lambda e: e.store.page(NameFilter(service="service-150"), None, _LAST, 100),
    "page of an environment": lambda e: e.store.page(NameFilter(env="prod"), True, _LAST, 100),
    "page of inactive routes": lambda e: e.store.page(NameFilter(), False, None, 100),
    "page of an environment's inactive routes": lambda e: e.store.page(
        NameFilter(env="prod"), False, None, 100
    ),
    "page of a version": lambda e: e.store.page(NameFilter(version="v50"), None, _LAST, 100),
    "history": lambda e: e.store.history(_LAST, 100_000, 100),
    "changes": lambda e: e.store.changes(NameFilter(), ROUTES - 10, 100),
    "changes of somebody": lambda e: e.store.changes(
        NameFilter(), ROUTES - 10, 100, ChangeTraits(actor="alice", since=1)
    ),
    "changes of a route": lambda e: e.store.changes(NameFilter(*_LAST), ROUTES - 10, 100),
    "pulse": lambda e: e.feed().pulse(ROUTES),
    "pulse with changes": lambda e: e.feed().pulse(ROUTES - 10, 2000),
    "pulse at the head": lambda e: e.feed().pulse(ROUTES, 2000),
    "slice": lambda e: e.feed().slice(ROUTES - 10, 100),
    "window": lambda e: e.rows(
        "select 1 from changes where revision > :floor order by revision", floor=ROUTES
    ),
    "backlog": lambda e: e.leases.published_revision("relay"),
}

# SQLite sorts what one tenant has.
LIMITED: dict[str, Callable[[SqlEngine], object]] = {
    "page of two tenants, for whoever may see no others": lambda e: e.store.page(
        NameFilter(within=frozenset({("tenant-15", "prod"), ("tenant-14", None)})), None, _LAST, 100
    ),
    "page of a service, for whoever may see one tenant": lambda e: e.store.page(
        NameFilter(service="service-150", within=frozenset({("tenant-15", None)})), None, _LAST, 100
    ),
    "changes, for whoever may see one tenant": lambda e: e.store.changes(
        NameFilter(within=frozenset({("tenant-15", None)})), ROUTES - 10, 100
    ),
}


@pytest.mark.servers
@pytest.mark.parametrize("statement", LIMITED)
def test_statement_for_few_places_takes_up_few_rows(
    large_postgres: SqlEngine, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plan in plans_of(large_postgres, LIMITED[statement], monkeypatch):
        assert not [step for step in plan if is_slow_in_postgres(step)], "\n".join(plan)


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("large", ["large_sqlite", pytest.param("large_postgres", marks=POSTGRES.marks)])
def test_statement_neither_scans_nor_sorts_a_table(
    large: str, statement: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: SqlEngine = request.getfixturevalue(large)
    plans = plans_of(engine, STATEMENTS[statement], monkeypatch)
    assert plans
    for plan in plans:
        slow = is_slow_in_sqlite if engine.name == "sqlite" else is_slow_in_postgres
        assert not [step for step in plan if slow(step)], "\n".join(plan)


def is_slow_in_sqlite(step: str) -> bool:
    """Return whether a step goes through a table without an index, or sorts what an index should bring in
    order. Rows of an answer are set aside, read back (`SCAN r LEFT-JOIN`) and may be sorted."""
    if "TEMP B-TREE" in step:
        return step.startswith(" ")  # indented: inside of what is set aside
    is_scan = step.strip().startswith("SCAN ") and " INDEX " not in step
    return is_scan and step not in ("SCAN m", "SCAN r LEFT-JOIN", "SCAN c LEFT-JOIN")


def is_slow_in_postgres(step: str) -> bool:
    """Return whether a step went through a table, or took up more rows than a thousand asked for."""
    if "Seq Scan on" in step:
        return "Seq Scan on meta" not in step
    rows = re.search(r"actual rows=([0-9.]+)|Rows Removed by \w+.*: ([0-9]+)", step)
    return rows is not None and float(rows[1] or rows[2]) > 1001


def plans_of(
    engine: SqlEngine, call: Callable[[SqlEngine], object], monkeypatch: pytest.MonkeyPatch
) -> list[list[str]]:
    """Return the steps of every statement that *call* runs."""
    plans: list[list[str]] = []
    run = Session._run

    def explained(session: Session, statement: str, parameters: Any) -> Cursor:  # Any: as in Session
        if engine.name == "sqlite":
            rows = run(session, f"explain query plan {statement}", parameters).fetchall()
            plans.append([("" if row[1] == 0 else " ") + row[3] for row in rows])
        else:
            rows = run(session, f"explain (analyze, timing off) {statement}", parameters).fetchall()
            plans.append([row[0] for row in rows])
        return run(session, statement, parameters)

    monkeypatch.setattr(Session, "_run", explained)
    call(engine)
    return plans


@pytest.mark.parametrize("large", ["large_sqlite", pytest.param("large_postgres", marks=POSTGRES.marks)])
def test_route_is_deleted_by_its_key(large: str, request: pytest.FixtureRequest) -> None:
    engine: SqlEngine = request.getfixturevalue(large)
    if engine.name == "sqlite":
        rows = f"values ({', '.join(repr(name) for name in _LAST)})"
        plan = engine.rows("explain query plan " + _DELETE_ROUTES.format(rows=rows))
        assert [row[3] for row in plan if "INDEX" in row[3]]
        assert not [row[3] for row in plan if row[3].startswith("SCAN routes")]
    else:
        statement = "explain " + with_rows(_DELETE_ROUTES, _KEY_TYPES)
        plan = engine.rows(statement, rows=orjson.dumps([tuple(_LAST)]).decode())
        assert not [row[0] for row in plan if is_slow_in_postgres(row[0])]
        # Any index will do that holds all four names: the statistics choose.
        condition = next(row[0] for row in plan if "Index Cond" in row[0])
        assert all(f"({name})::text = " in condition for name in RouteKey._fields), condition


@pytest.mark.servers
@pytest.mark.parametrize("name", ["enable_seqscan", "enable_bitmapscan", "jit"])
def test_connections_of_the_store_neither_prefer_scans_nor_compile_plans(
    postgres_engine: SqlEngine, name: str
) -> None:
    assert postgres_engine.rows("select current_setting(:name)", name=name) == [("off",)]


@pytest.mark.servers
def test_table_is_scanned_as_a_whole_where_that_is_right(postgres_engine: SqlEngine) -> None:
    connection = postgres_engine.database.connect()
    with connection.snapshot() as session:
        assert session.rows("select current_setting('enable_seqscan')") == [("on",)]
    connection.close()


@pytest.mark.servers
def test_route_whose_url_changes_stays_in_its_page_and_so_changes_no_index(
    postgres_engine: SqlEngine,
) -> None:
    pages = "select (ctid::text::point)[0], tenant, service from routes where version = 'v7' order by 2, 3"
    postgres_engine.run(_FILL_ROUTES, last=1999)
    before = postgres_engine.rows(pages)
    for route in postgres_engine.store.page(NameFilter(version="v7"), None, None, 100).routes:
        commit(postgres_engine.store, put(route.key, OTHER_URL))
    assert postgres_engine.rows(pages) == before
    assert len(before) == 20


def test_keys_of_the_filled_tables_are_well_formed(large_sqlite: SqlEngine) -> None:
    route = large_sqlite.store.page(NameFilter(), None, None, 1).routes[0]
    assert RouteKey.of(*route.key) == route.key
