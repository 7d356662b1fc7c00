"""P1 in the moment of a power cut: what is committed is on the disk, whatever the defaults say. To kill a process
shows nothing of it, for the kernel keeps what was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.db.engines import SqlEngine, postgres_settings_of
from tests.servers import PostgresServer
from traffic_manager.db.session import Session

# As `pragma synchronous` answers.
FULL = 2


def test_every_connection_to_sqlite_flushes_each_commit(sqlite_engine: SqlEngine) -> None:
    database = sqlite_engine.database

    def asked(session: Session) -> object:
        return session.rows("pragma synchronous")

    with database.writing() as writing, database.reading() as reading:
        assert [asked(writing), asked(reading)] == [[(FULL,)], [(FULL,)]]


@pytest.fixture
def careless_database(postgres: PostgresServer, postgres_settings: dict[str, str]) -> Iterator[SqlEngine]:
    """A database whose sessions do not wait for the disk unless they ask for it."""
    name = postgres_settings["DB_NAME"]
    postgres.psql(f"alter database {name} set synchronous_commit = off", name)
    with closing(SqlEngine(postgres_settings_of(postgres_settings))) as engine:
        yield engine


@pytest.mark.servers
def test_commits_wait_for_the_disk_of_postgres_though_its_default_is_otherwise(
    careless_database: SqlEngine,
) -> None:
    asked = "select current_setting('synchronous_commit')"
    assert careless_database.rows(asked) == [("on",)]
    with careless_database.database.writing() as session:
        assert session.rows(asked) == [("on",)]
