"""Servers that only one module uses, because its tests kill and freeze them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers import KafkaServer, NotInstalled, PostgresServer, RedisServer, Server


def _own(server: Server) -> Iterator[Server]:
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


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Server]:
    """A PostgreSQL of this module's own. A test that stops it starts it again."""
    yield from _own(PostgresServer())


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Server]:
    """A Redis of this module's own. A test that stops it starts it again."""
    yield from _own(RedisServer())


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[Server]:
    """A Kafka of this module's own. A test that stops it starts it again."""
    yield from _own(KafkaServer())
