"""Engines for the contract: each test begins with an empty database."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.db.engines import Engine, MemoryEngine, SqlEngine, postgres_settings_of, sqlite_settings
from tests.servers import PostgresServer
from traffic_manager.db.migrate import migrate

POSTGRES = pytest.param("postgres", marks=pytest.mark.servers)


@pytest.fixture(scope="session")
def empty_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, to be copied: migrating takes longer than most tests."""
    settings = sqlite_settings(tmp_path_factory.mktemp("sqlite"))
    migrate(settings)
    return settings.path


@pytest.fixture
def sqlite_engine(empty_sqlite_file: Path, tmp_path: Path) -> Iterator[SqlEngine]:
    """SQLite in a file of this test's own."""
    settings = sqlite_settings(tmp_path)
    shutil.copy(empty_sqlite_file, settings.path)
    engine = SqlEngine(settings)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def shared_postgres_engine(postgres: PostgresServer) -> Iterator[SqlEngine]:
    """One migrated database and one pool for all tests of this process."""
    settings = postgres_settings_of(postgres.create_database(f"contract_{os.getpid()}"))
    migrate(settings)
    engine = SqlEngine(settings)
    yield engine
    engine.close()


@pytest.fixture
def postgres_engine(shared_postgres_engine: SqlEngine) -> Iterator[SqlEngine]:
    """PostgreSQL with nothing in it."""
    shared_postgres_engine.empty()
    yield shared_postgres_engine
    shared_postgres_engine.close_feeds()


@pytest.fixture(params=["memory", "sqlite", POSTGRES])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn, the fake too."""
    if request.param == "memory":
        return MemoryEngine()
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture(params=["sqlite", POSTGRES])
def sql_engine(request: pytest.FixtureRequest) -> SqlEngine:
    """Each real engine in turn."""
    found: SqlEngine = request.getfixturevalue(f"{request.param}_engine")
    return found
