"""Real servers for all tests: each is started once per test process, when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.node import Node
from tests.servers import KafkaServer, PostgresServer, RedisServer, Server
from tests.servers.fixtures import started

# What waits for servers of its own most. The rest is short, and in the end no test process works alone for long.
_BEGIN_WITH = {"promises", "cli", "docs", "events"}

_databases = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files that take longest begin."""
    items.sort(key=lambda item: _BEGIN_WITH.isdisjoint(item.nodeid.split("/")))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL that all tests of this process share; take a database of your own from it."""
    yield from started(PostgresServer())


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A Redis that all tests of this process share; keys of other tests may be in it."""
    yield from started(RedisServer())


@pytest.fixture(scope="session")
def kafka() -> Iterator[Server]:
    """A Kafka that all tests of this process share; take a topic of your own."""
    yield from started(KafkaServer())


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
