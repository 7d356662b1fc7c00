"""What callers are told when a database is full, locked, read-only or gone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.db.engines import SqlEngine, postgres_settings_of, sqlite_settings
from tests.node import wait_until
from tests.routing.builders import a_key, commit, create
from tests.servers import PostgresServer
from traffic_manager.db.migrate import migrate
from traffic_manager.db.postgres import REVISION_LOCK, conninfo
from traffic_manager.errors import (
    Busy,
    OutcomeUnknown,
    SourceUnavailable,
    StorageFull,
    StorageReadOnly,
)


class Stopwatch:
    """How long a block took."""

    seconds = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Measure the block."""
    began = time.monotonic()
    watch = Stopwatch()
    try:
        yield watch
    finally:
        watch.seconds = time.monotonic() - began


@pytest.fixture
def own_postgres_engine(postgres_settings: dict[str, str]) -> Iterator[SqlEngine]:
    """A database whose settings and connections this test may break."""
    settings = postgres_settings_of(postgres_settings).model_copy(update={"pool_min": 1, "pool_max": 4})
    migrate(settings)
    engine = SqlEngine(settings)
    yield engine
    engine.close()


def all_connections_in_use(engine: SqlEngine) -> ExitStack:
    """Take every connection of the pool."""
    held = ExitStack()
    for _ in range(engine.settings.pool_max):
        held.enter_context(engine.database.reading())
    return held


def test_full_pool_is_busy_after_a_quarter_of_a_second(sql_engine: SqlEngine) -> None:
    with all_connections_in_use(sql_engine), timed() as watch, pytest.raises(Busy):
        sql_engine.store.look_up([a_key()])
    assert 0.2 < watch.seconds < 0.6


def test_pool_that_was_full_works_again(sql_engine: SqlEngine) -> None:
    with all_connections_in_use(sql_engine), pytest.raises(Busy):
        sql_engine.store.look_up([a_key()])
    assert sql_engine.store.look_up([a_key()]).head.revision == 0


def test_statistics_tell_connections_in_use_and_idle(sql_engine: SqlEngine) -> None:
    sql_engine.store.look_up([a_key()])
    with sql_engine.database.reading():
        used = sql_engine.database.stats()
    idle = sql_engine.database.stats()
    assert (used.in_use, idle.in_use) == (1, 0)
    assert idle.size == idle.available >= 1
    assert idle.waiting == 0


def test_statements_and_failures_are_counted(sql_engine: SqlEngine) -> None:
    queries, errors = sql_engine.counts.queries, sql_engine.counts.errors
    sql_engine.store.look_up([a_key()])
    with all_connections_in_use(sql_engine), pytest.raises(Busy):
        sql_engine.store.look_up([a_key()])
    assert (sql_engine.counts.queries - queries, sql_engine.counts.errors - errors) == (1, 1)


def test_bug_in_a_statement_is_not_taken_for_an_outage(sql_engine: SqlEngine) -> None:
    with pytest.raises((sqlite3.Error, psycopg.Error)):
        sql_engine.rows("select no_such_column from routes")


def test_missing_tables_are_an_outage_that_says_what_to_do(sql_engine: SqlEngine) -> None:
    sql_engine.run("alter table routes rename to elsewhere")
    with pytest.raises(SourceUnavailable, match="run `traffic-manager migrate`"):
        sql_engine.store.look_up([a_key()])
    sql_engine.run("alter table elsewhere rename to routes")


# -- SQLite


def test_sqlite_statement_that_takes_too_long_is_ended(sqlite_engine: SqlEngine) -> None:
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    began = time.monotonic()
    with pytest.raises(Busy), sqlite_engine.database.reading() as session:
        session.rows(endless)
    assert time.monotonic() - began < 3.0
    assert sqlite_engine.store.look_up([]).head.revision == 0


def test_sqlite_file_locked_by_another_process_refuses_writes_in_time_and_serves_reads(
    sqlite_engine: SqlEngine,
) -> None:
    commit(sqlite_engine.store, create())
    with closing(sqlite3.connect(sqlite_engine.settings.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        with timed() as watch, pytest.raises(Busy):
            commit(sqlite_engine.store, create(a_key("other")))
        assert 1.0 < watch.seconds < 1.8
        assert sqlite_engine.store.look_up([a_key()]).routes
        other.execute("rollback")
    commit(sqlite_engine.store, create(a_key("other")))


def test_second_writer_of_the_process_is_busy_when_the_first_takes_too_long(sqlite_engine: SqlEngine) -> None:
    with sqlite_engine.store.writing([]), ThreadPoolExecutor(1) as elsewhere, timed() as watch:
        second = elsewhere.submit(commit, sqlite_engine.store, create())
        with pytest.raises(Busy):
            second.result()
    assert watch.seconds < 1.8


def test_full_disk_of_sqlite_is_told_as_such_and_leaves_nothing(sqlite_engine: SqlEngine) -> None:
    with ExitStack() as held:
        sessions = [
            held.enter_context(sqlite_engine.database.reading())
            for _ in range(sqlite_engine.settings.pool_max)
        ]
        for session in sessions:
            session.row("pragma max_page_count = 1")
    with pytest.raises(StorageFull):
        commit(
            sqlite_engine.store,
            *(create(a_key(f"s{n}"), "https://x.example/" + "y" * 2000) for n in range(20)),
        )
    assert sqlite_engine.store.look_up([]).head.revision == 0


def test_read_only_sqlite_file_refuses_writes_and_serves_reads(sqlite_engine: SqlEngine) -> None:
    with ExitStack() as held:
        for _ in range(sqlite_engine.settings.pool_max):
            session = held.enter_context(sqlite_engine.database.reading())
            session.row("pragma query_only = 1")
    with pytest.raises(StorageReadOnly):
        commit(sqlite_engine.store, create())
    assert sqlite_engine.store.look_up([]).head.revision == 0


def test_sqlite_file_that_is_gone_with_its_folder_is_unavailable(tmp_path: Path) -> None:
    engine = SqlEngine(sqlite_settings(tmp_path / "folder"))
    (tmp_path / "folder").rmdir()
    with pytest.raises(SourceUnavailable):
        engine.store.look_up([])
    engine.close()


# -- PostgreSQL


@pytest.mark.servers
def test_read_only_postgresql_refuses_writes_at_once_and_serves_reads(own_postgres_engine: SqlEngine) -> None:
    own_postgres_engine.run(
        f"alter database {own_postgres_engine.settings.name} set default_transaction_read_only = on"
    )
    engine = SqlEngine(own_postgres_engine.settings)
    with timed() as watch, pytest.raises(StorageReadOnly):
        commit(engine.store, create())
    assert watch.seconds < 0.6
    assert engine.store.look_up([]).head.revision == 0
    engine.close()


@pytest.mark.servers
def test_held_revision_lock_is_busy_within_its_time_and_reads_go_on(postgres_engine: SqlEngine) -> None:
    with psycopg.connect(conninfo(postgres_engine.settings)) as other:
        other.execute("select pg_advisory_xact_lock(%s)", [REVISION_LOCK])
        with timed() as watch, pytest.raises(Busy):
            commit(postgres_engine.store, create())
        assert 1.3 < watch.seconds < 1.8
        assert postgres_engine.store.look_up([]).head.revision == 0
    commit(postgres_engine.store, create())


@pytest.mark.servers
def test_connection_that_the_server_ends_is_unavailable_and_replaced(own_postgres_engine: SqlEngine) -> None:
    with pytest.raises(SourceUnavailable), own_postgres_engine.database.reading() as session:
        session.row("select pg_terminate_backend(pg_backend_pid())")
    assert wait_until(lambda: _head_if_there(own_postgres_engine) == 0)


@pytest.mark.servers
def test_idle_connection_that_the_server_closed_is_not_lent(own_postgres_engine: SqlEngine) -> None:
    own_postgres_engine.store.look_up([])
    with psycopg.connect(conninfo(own_postgres_engine.settings), autocommit=True) as other:
        other.execute(
            """select pg_terminate_backend(pid, 2000) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()"""
        )
    assert own_postgres_engine.store.look_up([]).head.revision == 0


@pytest.mark.servers
def test_connection_lost_during_the_commit_leaves_the_outcome_unknown(own_postgres_engine: SqlEngine) -> None:
    # A deferred trigger runs inside COMMIT, and there ends its own connection.
    own_postgres_engine.run(
        """create function die() returns trigger language plpgsql as
        $$ begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(1); return null; end $$"""
    )
    own_postgres_engine.run(
        """create constraint trigger dies after insert on changes deferrable initially deferred
        for each row execute function die()"""
    )
    with pytest.raises(OutcomeUnknown):
        commit(own_postgres_engine.store, create())


@pytest.mark.servers
def test_database_that_nobody_answers_for_is_unavailable_and_not_busy(postgres: PostgresServer) -> None:
    settings = postgres_settings_of(postgres.env()).model_copy(update={"port": 1})
    engine = SqlEngine(settings)
    with timed() as watch, pytest.raises(SourceUnavailable) as failure:
        engine.store.look_up([a_key()])
    engine.close()
    assert not isinstance(failure.value, Busy)
    assert watch.seconds < 0.6


def _head_if_there(engine: SqlEngine) -> int | None:
    try:
        return engine.store.look_up([]).head.revision
    except SourceUnavailable:
        return None
