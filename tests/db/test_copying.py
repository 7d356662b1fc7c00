"""A database that is copied to the other engine is the same history in another place."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.access.builders import a_grant, a_principal
from tests.db.engines import SqlEngine, postgres_settings_of, sqlite_settings
from tests.routing.builders import a_key, commit, commit_batches, create, deactivate, delete, put
from tests.servers import PostgresServer
from traffic_manager.access.key_registry import KeyRegistry
from traffic_manager.config.settings import DbSettings
from traffic_manager.db.copying import copy
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.db.migrate import migrate, opened_engine
from traffic_manager.db.pool import opened_as_owner
from traffic_manager.db.schema import SCHEMA_VERSION, metadata
from traffic_manager.db.session import Row
from traffic_manager.db.sqlite import FileLock
from traffic_manager.db.verification import verify
from traffic_manager.errors import SchemaMismatch, StartRefused
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.operations import Author

ROUTES = Path(__file__).parents[2] / "examples" / "aws-endpoints.csv"

pytestmark = pytest.mark.servers


@pytest.fixture
def postgres_place(postgres_settings: dict[str, str]) -> DbSettings:
    """An empty PostgreSQL that nobody has migrated."""
    return postgres_settings_of(postgres_settings)


@pytest.fixture
def sqlite_place(tmp_path: Path) -> DbSettings:
    """A SQLite file with some of everything in it."""
    settings = sqlite_settings(tmp_path)
    migrate(settings)
    with opened(settings) as engine:
        fill(engine)
    return settings


@contextmanager
def opened(settings: DbSettings) -> Iterator[SqlEngine]:
    """Lend the database."""
    engine = SqlEngine(settings)
    try:
        yield engine
    finally:
        engine.close()


def fill(engine: SqlEngine) -> None:
    """Put rows into every table."""
    commit(engine.store, create(), put(url="https://other.example.com/"), deactivate())
    commit(engine.store, create(a_key(version="v3")), delete(a_key(version="v3")))
    keys = KeyRegistry(SqlKeyStore(engine.database), b"pepper" * 8, lambda _: None)
    author = Author("root", "c-2", address="10.0.0.1")
    keys.create(a_principal("admin:*/*"), author, "ci", [a_grant("viewer:*/*")], timedelta(days=1))
    engine.run("insert into limits (subject, name, resolves) values ('tenant', 'team-a', 5)")
    engine.run("insert into receipts values ('alice', 'k-1', :request, '{}', 7)", request=bytes(range(32)))
    engine.run("insert into change_traces values (2, :trace, 'a=b')", trace=f"00-{1:032x}-{1:016x}-01")
    engine.run("insert into events_set_aside values (2, 'too large', 8)")
    engine.run("insert into leases values ('relay', 'node', 3, 0, 2, 1, 'topic-id', 4)")


def rows_of(settings: DbSettings) -> dict[str, list[Row]]:
    """Return every row of every table."""
    with opened_engine(settings) as engine, engine.connect() as connection:
        tables = metadata.sorted_tables
        return {
            table.name: sorted(map(tuple, connection.execute(table.select())), key=repr) for table in tables
        }


def test_every_row_of_every_table_arrives_and_comes_back(
    sqlite_place: DbSettings, postgres_place: DbSettings, tmp_path: Path
) -> None:
    before = rows_of(sqlite_place)
    assert all(before.values())
    told: list[tuple[int, int]] = []
    copied = copy(sqlite_place, postgres_place, lambda done, total: told.append((done, total)))
    assert rows_of(postgres_place) == before
    assert copied.rows == {name: len(rows) for name, rows in before.items()}
    assert (copied.missed, told[-1][0]) == (0, told[-1][1])
    back = sqlite_settings(tmp_path / "back")
    copy(postgres_place, back)
    assert rows_of(back) == before


def test_history_goes_on_where_it_was(sqlite_place: DbSettings, postgres_place: DbSettings) -> None:
    with opened(sqlite_place) as engine:
        left = engine.store.look_up([]).head
    copy(sqlite_place, postgres_place)
    with opened(postgres_place) as engine:
        assert engine.store.look_up([]).head == left
        commit(engine.store, create(a_key(version="v4")))
        assert engine.store.look_up([]).head.revision == left.revision + 1
    with opened_as_owner(postgres_place) as database:
        assert verify(database).findings == []


def test_real_routes_and_their_history_are_equal_on_postgresql(
    empty_sqlite_file: Path, postgres_place: DbSettings
) -> None:
    source = DbSettings.model_validate({"path": empty_sqlite_file.with_name("real.db")})
    source.path.write_bytes(empty_sqlite_file.read_bytes())
    routes = real_routes()
    with opened(source) as engine:
        for first in range(0, len(routes), 1000):
            batch = routes[first : first + 1000]
            commit_batches(engine.store, [create(key, url) for key, url in batch])
        commit_batches(engine.store, [deactivate(key) for key, _ in routes[::7]])
    copied = copy(source, postgres_place)
    assert copied.rows["routes"] == len(routes) == 10_140
    with opened_as_owner(source) as here, opened_as_owner(postgres_place) as there:
        left, arrived = verify(here), verify(there)
    assert (arrived.findings, arrived.changes) == ([], 10_140 + len(routes[::7]))
    assert (arrived.head, arrived.chain, arrived.table) == (left.head, left.chain, left.table)


def real_routes() -> list[tuple[RouteKey, str]]:
    """Return the routes of the example."""
    with ROUTES.open(newline="") as file:
        return [(RouteKey.of(*names), url) for *names, url in list(csv.reader(file))[1:]]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into limits (subject, name, resolves) values ('tenant', 'team-b', 1)",
        "update meta set compacted_revision = 9",
    ],
    ids=["a row", "a log that was compacted to nothing"],
)
def test_target_that_is_not_empty_is_refused_and_stays_as_it_is(
    sqlite_place: DbSettings, postgres_place: DbSettings, statement: str
) -> None:
    migrate(postgres_place)
    with opened(postgres_place) as engine:
        engine.run(statement)
    before = rows_of(postgres_place)
    with pytest.raises(StartRefused, match="the target is not empty"):
        copy(sqlite_place, postgres_place)
    assert rows_of(postgres_place) == before


def test_what_postgresql_cannot_hold_leaves_the_target_empty(
    sqlite_place: DbSettings, postgres_place: DbSettings
) -> None:
    with opened(sqlite_place) as engine:
        engine.run("update changes set reason = 'a' || char(0) where revision = 2")
    migrate(postgres_place)
    before = rows_of(postgres_place)
    with pytest.raises(StartRefused, match=r"cannot copy: .*NUL"):
        copy(sqlite_place, postgres_place)
    assert rows_of(postgres_place) == before


def test_file_that_a_server_uses_is_not_copied(sqlite_place: DbSettings, postgres_place: DbSettings) -> None:
    lock = FileLock(sqlite_place.path)
    lock.acquire()
    with pytest.raises(StartRefused, match="another server uses this SQLite file"):
        copy(sqlite_place, postgres_place)
    lock.release()


@pytest.mark.parametrize("which", ["source", "target"])
def test_tables_of_another_version_are_neither_read_nor_written(
    sqlite_place: DbSettings, postgres_place: DbSettings, which: str
) -> None:
    migrate(postgres_place)
    with opened(sqlite_place if which == "source" else postgres_place) as engine:
        engine.run("update alembic_version set version_num = '0001'")
    with pytest.raises(SchemaMismatch, match=f"the {which}'s tables are of version 0001.* {SCHEMA_VERSION}"):
        copy(sqlite_place, postgres_place)


def test_changes_that_are_made_at_the_source_meanwhile_are_told(
    sqlite_place: DbSettings, postgres_place: DbSettings, tmp_path: Path
) -> None:
    copy(sqlite_place, postgres_place)
    with opened(postgres_place) as engine:
        made = iter([create(a_key(version="v5"))])

        def change(done: int, total: int) -> None:
            for operation in made:
                commit(engine.store, operation)

        assert copy(postgres_place, sqlite_settings(tmp_path / "back"), change).missed == 1


def test_plans_are_made_for_the_rows_that_came(
    sqlite_place: DbSettings, postgres_place: DbSettings, postgres: PostgresServer
) -> None:
    copy(sqlite_place, postgres_place)
    counted = postgres.psql("select reltuples from pg_class where relname = 'changes'", postgres_place.name)
    assert counted == str(len(rows_of(sqlite_place)["changes"]))
