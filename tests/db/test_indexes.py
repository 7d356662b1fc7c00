"""The hot statements are served by the indexes that their comments name, at 20,000 routes and changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.db.conftest import POSTGRES
from tests.db.engines import SqlEngine, postgres_settings_of, sqlite_settings
from tests.db.plans import (
    FILL_CHANGES,
    FILL_ROUTES,
    LAST,
    LIMITED,
    STATEMENTS,
    is_slow_in_postgres,
    is_slow_in_sqlite,
    plans_of,
)
from tests.routing.builders import OTHER_URL, commit, put
from tests.servers import PostgresServer
from traffic_manager.db.json_rows import with_rows
from traffic_manager.db.migrate import migrate
from traffic_manager.db.store import _DELETE_ROUTES, _KEY_TYPES
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import NameFilter

ROUTES = 20_000


def fill(engine: SqlEngine) -> None:
    """Make the rows, past the store: through it they would take minutes."""
    engine.run(FILL_ROUTES, last=ROUTES - 1)
    engine.run(FILL_CHANGES, chain=bytes(32))


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


@pytest.mark.parametrize("large", ["large_sqlite", pytest.param("large_postgres", marks=POSTGRES.marks)])
def test_route_is_deleted_by_its_key(large: str, request: pytest.FixtureRequest) -> None:
    engine: SqlEngine = request.getfixturevalue(large)
    if engine.name == "sqlite":
        rows = f"values ({', '.join(repr(name) for name in LAST)})"
        plan = engine.rows("explain query plan " + _DELETE_ROUTES.format(rows=rows))
        assert [row[3] for row in plan if "INDEX" in row[3]]
        assert not [row[3] for row in plan if row[3].startswith("SCAN routes")]
    else:
        statement = "explain " + with_rows(_DELETE_ROUTES, _KEY_TYPES)
        plan = engine.rows(statement, rows=orjson.dumps([tuple(LAST)]).decode())
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
    postgres_engine.run(FILL_ROUTES, last=1999)
    before = postgres_engine.rows(pages)
    for route in postgres_engine.store.page(NameFilter(version="v7"), None, None, 100).routes:
        commit(postgres_engine.store, put(route.key, OTHER_URL))
    assert postgres_engine.rows(pages) == before
    assert len(before) == 20


def test_keys_of_the_filled_tables_are_well_formed(large_sqlite: SqlEngine) -> None:
    route = large_sqlite.store.page(NameFilter(), None, None, 1).routes[0]
    assert RouteKey.of(*route.key) == route.key
