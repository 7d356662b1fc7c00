"""Redis: does it answer, in time, and can it make room?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from traffic_manager.cli.checkup import Findings, advice, good, problem, unused
from traffic_manager.config.settings import RedisSettings

if TYPE_CHECKING:
    from redis import Redis

_TRIES = 5
_TIMEOUT_S = 2.0


def look(settings: RedisSettings) -> Findings:
    """Yield what is found."""
    if settings.host is None:
        yield unused("Redis", "REDIS_HOST is not set")
        return
    from redis.exceptions import RedisError

    try:
        with _connected(settings) as redis:
            yield from _answers(redis, settings)
            yield from _memory(redis)
    except (RedisError, OSError) as away:
        fix = "check REDIS_HOST, REDIS_PORT, REDIS_PASSWORD and REDIS_TLS; until then the database is asked instead"
        yield problem("Redis", f"cannot be used: {away}", fix)


def _connected(settings: RedisSettings) -> Redis:
    from redis import Redis

    return Redis(
        host=settings.host or "",
        port=settings.port,
        db=settings.db,
        password=settings.password.get_secret_value() if settings.password else None,
        ssl=settings.tls,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
    )


def _answers(redis: Redis, settings: RedisSettings) -> Findings:
    redis.ping()
    took_s = []
    for _ in range(_TRIES):
        began = time.monotonic()
        redis.ping()
        took_s.append(time.monotonic() - began)
    if min(took_s) > settings.socket_timeout:
        what = f"answers after {min(took_s) * 1000:.0f} ms, and we wait {settings.socket_timeout * 1000:.0f}"
        yield problem("Redis", what, "put it nearer, or raise REDIS_SOCKET_TIMEOUT")
    else:
        yield good("Redis", f"answers after {min(took_s) * 1000:.1f} ms")


def _memory(redis: Redis) -> Findings:
    found = redis.info("memory")
    if found.get("maxmemory") and str(found.get("maxmemory_policy")).startswith("noeviction"):
        what = "has a limit of memory and throws nothing away: when it is full it keeps nothing new"
        yield advice("Redis", what, "config set maxmemory-policy allkeys-lru")
