"""Redis as the contract of route caches sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.servers import RedisServer
from traffic_manager.config.settings import RedisSettings


def settings_of(server: RedisServer) -> RedisSettings:
    """Return the settings that lead to *server*, patient enough for a busy machine."""
    return RedisSettings.model_validate({"host": server.host, "port": server.port, "socket_timeout": 0.5})


@pytest.fixture
def redis_settings(redis_server: RedisServer) -> RedisSettings:
    """The settings of a Redis without keys."""
    redis_server.flushall()
    return settings_of(redis_server)


@pytest.fixture
def raw_redis(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A connection past our own client."""
    with redis.Redis(redis_server.host, redis_server.port) as connection:
        yield connection
