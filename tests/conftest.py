"""Real servers for all tests: each is started once per test process, when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.node import Node
from tests.servers import KafkaServer, NotInstalled, PostgresServer, RedisServer, Server

_databases = count(1)


def _started(server: Server) -> Iterator[Server]:
    try:
        server.start()
    except NotInstalled as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: in CI every server must be there")
        pytest.skip(f"NEEDS A REAL SERVER: {missing}")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL that all tests of this process share; take a database of your own from it."""
    yield from _started(PostgresServer())


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A Redis that all tests of this process share; keys of other tests may be in it."""
    yield from _started(RedisServer())


@pytest.fixture(scope="session")
def kafka() -> Iterator[Server]:
    """A Kafka that all tests of this process share; take a topic of your own. Mark tests that use it with
    `xdist_group("kafka")`, so that one process runs them all and no second Kafka is started."""
    yield from _started(KafkaServer())


@pytest.fixture
def postgres_settings(postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """The settings for an empty database of this test's own."""
    name = f"test_{os.getpid()}_{next(_databases)}"
    yield dict(postgres.create_database(name))
    postgres.drop_database(name)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A running server on SQLite."""
    with Node(tmp_path) as started:
        yield started.start()


@pytest.fixture
def postgres_node(tmp_path: Path, postgres_settings: dict[str, str]) -> Iterator[Node]:
    """A running server of two workers on PostgreSQL."""
    with Node(tmp_path, {**postgres_settings, "API_WORKERS": "2"}) as started:
        yield started.start("--migrate")
