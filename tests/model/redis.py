"""A Redis in memory behind the real route cache: it forgets, lags, lies and goes away on demand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

import orjson
from redis.asyncio import Redis

from tests.routing.stepped import Post
from traffic_manager.cache.redis_client import RedisClient
from traffic_manager.cache.route_cache import SCHEMA
from traffic_manager.routing.model import RouteKey

Result = TypeVar("Result")
PREFIX = f"tm:{SCHEMA}:"

EVIL = "https://evil.example/"

# What an entry may be turned into: never again something that may be believed.
POISONS: dict[str, Callable[[list[Any]], bytes]] = {  # Any: JSON values
    "another epoch": lambda entry: orjson.dumps([entry[0], "f" * 32, *entry[2:5], EVIL]),
    "another key": lambda entry: orjson.dumps([*entry[:2], "team-a/other/prod/v2", *entry[3:5], EVIL]),
    "another schema": lambda entry: orjson.dumps([SCHEMA + 1, *entry[1:5], EVIL]),
    "no number": lambda entry: orjson.dumps([*entry[:3], 1e9, *entry[4:5], EVIL]),
    "newer than itself": lambda entry: orjson.dumps([*entry[:4], entry[3] + 1, EVIL]),
    "cut off": lambda entry: orjson.dumps(entry)[:-3],
    "empty": lambda entry: b"",
}


class MemoryRedis:
    """Strings with a time to live. *clock* is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.is_away = False
        self.strings: dict[str, tuple[bytes, float]] = {}

    async def get(self, name: str) -> bytes | None:
        value, until = self.strings.get(name, (None, 0.0))
        return value if until > self._clock() else None

    async def set(self, name: str, value: bytes, ex: int) -> None:
        self.strings[name] = value, self._clock() + ex

    def image(self) -> Mapping[str, bytes]:
        """Return what a dump on disk would hold."""
        return {name: value for name, (value, _) in self.strings.items()}

    def restore(self, image: Mapping[str, bytes]) -> None:
        """Go back to *image*, as fresh as ever."""
        self.strings = {name: (value, self._clock() + 60) for name, value in image.items()}

    def poison(self, key: RouteKey, how: str) -> None:
        """Spoil the entry of *key*, if there is one."""
        name = PREFIX + str(key)
        value, until = self.strings.get(name, (b"", 0.0))
        if value.endswith(b"]"):
            self.strings[name] = POISONS[how](orjson.loads(value)), until


class _SlowCommands:
    """What finds and keeps at once or later: what is kept late may put an old value over a newer one."""

    def __init__(self, redis: MemoryRedis, post: Post) -> None:
        self._redis = redis
        self._post = post

    async def get(self, name: str) -> bytes | None:
        value = await self._redis.get(name)
        return await self._post.carry(value) if value is not None else None

    async def set(self, name: str, value: bytes, ex: int) -> None:
        await self._post.carry(None)
        await self._redis.set(name, value, ex)


class SlowClient(RedisClient):
    """The connection of one worker to *redis*; answers arrive by *post*."""

    def __init__(self, redis: MemoryRedis, post: Post) -> None:
        self._memory = redis
        # Those are the commands that the route cache uses.
        self._commands = cast("Redis", _SlowCommands(redis, post))

    async def call(self, command: Callable[[Redis], Awaitable[Result]]) -> Result | None:
        return None if self._memory.is_away else await command(self._commands)
