"""Routes, and "no such route", in Redis: keys, times to live, and distrust of what comes back.

An entry names its schema, epoch and full key, so that another program's value, another route's, or one left by a
database that has been restored is a miss. Whether it is recent enough is the mirror's to say.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from traffic_manager.cache.redis_client import RedisClient
from traffic_manager.config.settings import CacheSettings
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import CachedRoute
from traffic_manager.routing.urls import URL_MAX_CHARACTERS

SCHEMA = 1
_PREFIX = f"tm:{SCHEMA}:"
# A well-formed entry is its URL and names; anything much longer is not ours.
_MAX_BYTES = URL_MAX_CHARACTERS + 1024


class RedisRouteCache:
    """The route cache over *client*. *rejected* is called with the reason when an entry is not to be trusted:
    `malformed`, `schema` or `key`."""

    def __init__(self, client: RedisClient, ttls: CacheSettings, rejected: Callable[[str], None]) -> None:
        self._client = client
        self._ttls = ttls
        self._rejected = rejected

    async def get(self, key: RouteKey) -> CachedRoute | None:
        """Return what is kept for *key*, None on a miss or failure."""
        value = await self._client.call(lambda redis: _get(redis, _PREFIX + str(key)))
        if not isinstance(value, bytes):
            return None
        entry = _parsed(key, value)
        if isinstance(entry, str):
            self._rejected(entry)
            return None
        return entry

    async def put(self, key: RouteKey, entry: CachedRoute) -> None:
        """Keep *entry* for its time to live, if Redis can be reached."""
        ttl_s = self._ttls.negative_ttl if entry.url is None else self._ttls.positive_ttl
        value = orjson.dumps([SCHEMA, entry.epoch, str(key), entry.as_of, entry.revision, entry.url])
        await self._client.call(lambda redis: redis.set(_PREFIX + str(key), value, ex=ttl_s))


async def _get(redis: Redis, name: str) -> bytes | str | None:
    try:
        return await redis.get(name)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return (
            b""  # a list or the like: Redis is well, and the entry as little ours as one that cannot be read
        )


def _parsed(key: RouteKey, value: bytes) -> CachedRoute | str:
    """Return the entry, or why it is rejected."""
    if len(value) > _MAX_BYTES:
        return "malformed"
    try:
        schema, epoch, text, as_of, revision, url = orjson.loads(value)
    except (ValueError, TypeError):
        return "malformed"
    if schema != SCHEMA:
        return "schema"
    if text != str(key):
        return "key"
    numbers = (as_of, revision)
    is_sound = isinstance(epoch, str) and (url is None or (isinstance(url, str) and url != ""))
    if not is_sound or not all(type(n) is int and n >= 0 for n in numbers) or revision > as_of:
        return "malformed"
    return CachedRoute(epoch, as_of, revision, url)
