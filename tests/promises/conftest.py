"""Servers that only one module uses, because its tests kill and freeze them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.promises.ledger import Ledger
from tests.promises.places import a_database
from tests.servers import KafkaServer, PostgresServer, RedisServer, Server
from tests.servers.fixtures import started


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Server]:
    """A PostgreSQL of this module's own. A test that stops it starts it again."""
    yield from started(PostgresServer())


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Server]:
    """A Redis of this module's own. A test that stops it starts it again."""
    yield from started(RedisServer())


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[Server]:
    """A Kafka of this module's own. A test that stops it starts it again."""
    yield from started(KafkaServer())


@pytest.fixture(scope="module")
def database(own_postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """The settings for an empty database of this module's own, on a server that may be killed and frozen."""
    with a_database(own_postgres) as settings:
        yield settings


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """All that this module asked of that database."""
    return Ledger()
