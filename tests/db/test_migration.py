"""How the tables come to be, on both engines."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.engine.interfaces import ReflectedColumn

import traffic_manager.db.migrations
from tests.db.conftest import POSTGRES
from tests.db.engines import Counts, SqlEngine, postgres_settings_of, sqlite_settings
from tests.node import wait_until
from tests.routing.builders import a_key, commit, create
from tests.servers import PostgresServer
from traffic_manager.config.settings import DbSettings
from traffic_manager.db.migrate import (
    WAIT_MS,
    _upgrade,
    check_schema,
    found_version,
    migrate,
    opened_engine,
    plan,
    version_at,
)
from traffic_manager.db.pool import LOCK_TIMEOUT_S, open_database
from traffic_manager.db.schema import NEXT_SCHEMA_VERSION, SCHEMA_VERSION, metadata
from traffic_manager.errors import SchemaMismatch, StartRefused

_A_ROUTE = """insert into routes (tenant, service, env, version, url, is_active, revision, created_at, updated_at)
    values"""
_WAITING = """select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()
    and query ~* '^(create index|alter table)'"""


@pytest.fixture(params=["sqlite", POSTGRES])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> DbSettings:
    """An empty database that nobody has migrated."""
    if request.param == "sqlite":
        return sqlite_settings(tmp_path / "not-made-yet")
    return postgres_settings_of(request.getfixturevalue("postgres_settings"))


def version_of(settings: DbSettings) -> str | None:
    """Return the version of the tables."""
    database = open_database(settings, Counts().counters)
    with closing(database.connect()) as connection, connection.reading() as session:
        return found_version(session, database.dialect)


def differences_from_models(settings: DbSettings) -> Any:  # Any: as Alembic names them
    """Return how the tables differ from what the program works with."""
    with opened_engine(settings) as engine, engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, metadata)


def test_schema_version_is_the_newest_migration() -> None:
    assert _scripts().get_current_head() == SCHEMA_VERSION


def test_migrating_twice_keeps_what_is_there(new_database: DbSettings) -> None:
    assert migrate(new_database) == SCHEMA_VERSION
    engine = SqlEngine(new_database)
    commit(engine.store, create())
    before = engine.store.look_up([a_key()])
    assert migrate(new_database) == SCHEMA_VERSION
    assert engine.store.look_up([a_key()]) == before
    engine.close()


def test_migrating_from_several_places_at_once_makes_one_history(new_database: DbSettings) -> None:
    together = threading.Barrier(3)

    def run(_: int) -> str:
        together.wait()
        return migrate(new_database)

    with ThreadPoolExecutor(3) as places:
        assert list(places.map(run, range(3))) == [SCHEMA_VERSION] * 3
    engine = SqlEngine(new_database)
    assert engine.rows("select count(*), max(epoch_number) from meta") == [(1, 1)]
    engine.close()


def test_models_are_what_the_migrations_build(new_database: DbSettings) -> None:
    migrate(new_database)
    assert differences_from_models(new_database) == []


@pytest.mark.servers
def test_names_compare_byte_by_byte_in_postgresql_whatever_the_database_says(
    shared_postgres_engine: SqlEngine,
) -> None:
    columns = shared_postgres_engine.rows(
        """select count(*) from information_schema.columns where collation_name = 'C'
        and table_name in ('routes', 'changes') and column_name in ('tenant', 'service', 'env', 'version')"""
    )
    assert columns == [(8,)]


def test_plan_is_the_sql_that_migrating_runs(
    new_database: DbSettings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    planned = plan(new_database)
    if new_database.is_postgres:
        (tmp_path / "plan.sql").write_text(planned)
        server: PostgresServer = request.getfixturevalue("postgres")
        options = ("-q", "-v", "ON_ERROR_STOP=1", "-f", str(tmp_path / "plan.sql"))
        server.run("psql", *options, database=new_database.name)
    else:
        new_database.path.parent.mkdir()
        with closing(sqlite3.connect(new_database.path)) as connection:
            connection.executescript(planned)
    assert version_of(new_database) == SCHEMA_VERSION
    assert differences_from_models(new_database) == []
    engine = SqlEngine(new_database)
    assert commit(engine.store, create())[0].route is not None
    engine.close()


def test_plan_changes_nothing_and_is_empty_when_nothing_is_to_do(new_database: DbSettings) -> None:
    plan(new_database)
    assert version_at(new_database) is None
    assert new_database.is_postgres or not new_database.path.exists()
    migrate(new_database)
    assert plan(new_database) == ""


def test_plan_begins_where_the_tables_are(new_database: DbSettings) -> None:
    migrate_to(new_database, "0008")
    assert "CREATE TABLE limits" in plan(new_database)
    assert "CREATE TABLE routes" not in plan(new_database)


@pytest.mark.servers
def test_plan_says_what_the_servers_role_may_do(postgres_settings: dict[str, str]) -> None:
    owner = postgres_settings_of(postgres_settings)
    of_both = {"user": "app", "migrate_user": owner.user, "migrate_password": owner.password}
    assert 'grant select, insert on changes to "app";' in plan(owner.model_copy(update=of_both))


@pytest.mark.servers
@pytest.mark.parametrize("version", ["0003", "0007"], ids=["index of routes", "column of changes"])
def test_migrating_that_waits_for_a_long_transaction_lets_others_write(
    postgres: PostgresServer, postgres_settings: dict[str, str], version: str
) -> None:
    settings = postgres_settings_of(postgres_settings)
    migrate_to(settings, version)
    target = postgres.conninfo(settings.name)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(target) as holder:
        holder.execute(f"{_A_ROUTE} ('long', 's', 'e', 'v', 'u', true, 1, 0, 0)")
        holder.execute("select 1 from changes")
        migrating = pool.submit(migrate, settings)
        with psycopg.connect(target, autocommit=True) as writer:
            wait_until(lambda: writer.execute(_WAITING).fetchone() is not None, 30.0, "waiting for a lock")
            writer.execute("set lock_timeout = '30s'")
            writer.execute(f"{_A_ROUTE} ('short', 's', 'e', 'v', 'u', true, 1, 0, 0)")
            writer.execute("update changes set revision = revision")
        assert not migrating.done()
        holder.rollback()
        assert migrating.result(60.0) == SCHEMA_VERSION
    assert differences_from_models(settings) == []


def test_migration_gives_a_lock_up_before_a_change_that_waits_behind_it_does() -> None:
    assert WAIT_MS < LOCK_TIMEOUT_S * 1000


def test_database_without_tables_is_refused_with_what_to_do(new_database: DbSettings) -> None:
    database = open_database(new_database, Counts().counters)
    database.open()
    with (
        closing(database.connect()) as connection,
        connection.reading() as session,
        pytest.raises(SchemaMismatch, match=r"version none.*run `traffic-manager migrate`"),
    ):
        check_schema(session, database.dialect)
    database.close()


def test_tables_of_another_version_are_refused_with_both_versions(new_database: DbSettings) -> None:
    migrate(new_database)
    engine = SqlEngine(new_database)
    engine.run("update alembic_version set version_num = '9999'")
    with (
        engine.database.reading() as session,
        pytest.raises(SchemaMismatch, match=f"version 9999, this program needs {SCHEMA_VERSION}"),
    ):
        check_schema(session, engine.database.dialect)
    engine.close()


def test_tables_of_the_next_version_are_accepted(new_database: DbSettings) -> None:
    migrate(new_database)
    engine = SqlEngine(new_database)
    engine.run(f"update alembic_version set version_num = '{NEXT_SCHEMA_VERSION}'")  # noqa: S608 a constant
    with engine.database.reading() as session:
        check_schema(session, engine.database.dialect)
    engine.close()


def test_migrating_leaves_tables_of_a_later_version_as_they_are(new_database: DbSettings) -> None:
    migrate(new_database)
    engine = SqlEngine(new_database)
    engine.run(f"update alembic_version set version_num = '{NEXT_SCHEMA_VERSION}'")  # noqa: S608 a constant
    assert migrate(new_database) == NEXT_SCHEMA_VERSION
    assert version_of(new_database) == NEXT_SCHEMA_VERSION
    engine.close()


def test_each_version_keeps_what_the_one_before_it_uses(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'versions.db'}")
    before: dict[str, dict[str, ReflectedColumn]] = {}
    with engine.connect() as connection:
        for version in reversed([script.revision for script in _scripts().walk_revisions()]):
            _upgrade(connection, version)
            after = _columns(connection)
            for table, columns in before.items():
                assert columns.keys() <= after[table].keys(), version
                added = [after[table][name] for name in after[table].keys() - columns.keys()]
                assert all(column["nullable"] or column["default"] for column in added), version
            before = after
    engine.dispose()


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(traffic_manager.db.migrations.__path__[0])))
    return ScriptDirectory.from_config(config)


def _columns(connection: Connection) -> dict[str, dict[str, ReflectedColumn]]:
    """Return the columns of every table."""
    inspector = inspect(connection)
    return {
        table: {column["name"]: column for column in inspector.get_columns(table)}
        for table in inspector.get_table_names()
    }


def migrate_to(settings: DbSettings, version: str) -> None:
    """Make the tables of an earlier *version*."""
    with opened_engine(settings) as engine, engine.connect() as connection:
        _upgrade(connection, version)
        connection.commit()


def test_migrated_database_is_accepted(new_database: DbSettings) -> None:
    migrate(new_database)
    assert version_of(new_database) == SCHEMA_VERSION


def test_two_new_databases_have_different_epochs(tmp_path: Path) -> None:
    epochs = set()
    for name in ("a", "b"):
        settings = sqlite_settings(tmp_path / name)
        migrate(settings)
        engine = SqlEngine(settings)
        epochs.add(engine.store.look_up([]).head.epoch)
        engine.close()
    assert [len(epoch) for epoch in epochs] == [32, 32]


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path)
    settings.path.write_text("this is not a database " * 100)
    with pytest.raises(StartRefused, match="not a database"):
        migrate(settings)


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartRefused, match="DB_PATH: cannot make the folder"):
        migrate(sqlite_settings(tmp_path / "file"))


@pytest.mark.servers
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_database_that_cannot_keep_every_text_is_refused(postgres: PostgresServer, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}"
    postgres.psql(f"create database {name} template template0 encoding '{encoding}' locale 'C'")
    with pytest.raises(
        StartRefused, match=f"DB_NAME: the database's encoding is {encoding}, and must be UTF8"
    ):
        migrate(postgres_settings_of(postgres.env(name)))
    postgres.drop_database(name)


def test_unreachable_server_is_refused() -> None:
    settings = DbSettings.model_validate({"host": "127.0.0.1", "port": 1})
    with pytest.raises(StartRefused, match="migrate: "):
        migrate(settings)


@pytest.mark.servers
def test_servers_role_can_work_but_not_rewrite_history(postgres_settings: dict[str, str]) -> None:
    owner = postgres_settings_of(postgres_settings)
    assert owner.password is not None
    engine = SqlEngine(owner)
    role = f"server_{owner.name}"
    engine.run(f"create role {role} login password 'only-for-this-test'")
    secret = owner.password.get_secret_value()
    settings = postgres_settings_of(
        {
            **postgres_settings,
            "DB_USER": role,
            "DB_PASSWORD": "only-for-this-test",
            "DB_MIGRATE_USER": owner.user,
            "DB_MIGRATE_PASSWORD": secret,
        }
    )
    migrate(settings)
    server = SqlEngine(settings)
    commit(server.store, create())
    try:
        assert server.store.look_up([a_key()]).head.revision == 1
        for statement in ("update changes set actor = 'mallory'", "delete from changes", "delete from meta"):
            with pytest.raises(Exception, match="permission denied"):
                server.run(statement)
    finally:
        server.close()
        engine.run(f"drop owned by {role}")
        engine.run(f"drop role {role}")
        engine.close()
