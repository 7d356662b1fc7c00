"""Routes, and "no such route", in Redis: keys, times to live, and distrust of what comes back.

An entry names its schema, epoch and full key, so that another program's value, another route's, or one left by a
database that has been restored is a miss. Where there is a pepper it is signed too, so that whoever can write to
Redis cannot make up routes. Whether it is recent enough is the mirror's to say.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from traffic_manager.cache.redis_client import RedisClient
from traffic_manager.config.settings import CacheSettings
from traffic_manager.monitoring.spans import step
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import CachedRoute
from traffic_manager.routing.urls import URL_MAX_CHARACTERS

SCHEMA = 2
_PREFIX = f"tm:{SCHEMA}:"
# A well-formed entry is its URL and names; anything much longer is not ours.
_MAX_BYTES = URL_MAX_CHARACTERS + 1024
_SIGNATURE_BYTES = 32


class RedisRouteCache:
    """The route cache over *client*. *rejected* is called with the reason when an entry is not to be trusted:
    `malformed`, `schema`, `key` or `signature`. Entries are signed with *pepper*, if there is one."""

    def __init__(
        self,
        client: RedisClient,
        ttls: CacheSettings,
        rejected: Callable[[str], None],
        pepper: bytes | None = None,
    ) -> None:
        self._client = client
        self._ttls = ttls
        self._rejected = rejected
        # Of its own: what is signed here must not pass for what the pepper is used for elsewhere.
        self._secret = hmac.digest(pepper, b"route cache", "sha256") if pepper else None

    async def get(self, key: RouteKey) -> CachedRoute | None:
        """Return what is kept for *key*, None on a miss or failure."""
        with step("cache.get"):
            value = await self._client.call(lambda redis: _get(redis, _PREFIX + str(key)))
        if not isinstance(value, bytes):
            return None
        entry = self._opened(key, value)
        if isinstance(entry, str):
            self._rejected(entry)
            return None
        return entry

    async def put(self, key: RouteKey, entry: CachedRoute) -> None:
        """Keep *entry* for its time to live, if Redis can be reached."""
        ttl_s = self._ttls.negative_ttl if entry.url is None else self._ttls.positive_ttl
        content = orjson.dumps([SCHEMA, entry.epoch, str(key), entry.as_of, entry.revision, entry.url])
        value = content + self._signature(content)
        with step("cache.put"):
            await self._client.call(lambda redis: redis.set(_PREFIX + str(key), value, ex=ttl_s))

    def _opened(self, key: RouteKey, value: bytes) -> CachedRoute | str:
        """Return the entry, or why it is rejected."""
        if len(value) > _MAX_BYTES:
            return "malformed"
        if self._secret is None:
            return _parsed(key, value)
        content, signature = value[:-_SIGNATURE_BYTES], value[-_SIGNATURE_BYTES:]
        entry = _parsed(key, content)
        is_ours = isinstance(entry, str) or hmac.compare_digest(signature, self._signature(content))
        return entry if is_ours else "signature"

    def _signature(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, content, "sha256") if self._secret else b""


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
