"""What every route cache does, the fake too; and what Redis's must survive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import orjson
import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.routing.builders import EPOCH, OTHER_URL, URL, a_key
from tests.routing.memory_cache import MemoryCache
from traffic_manager.cache.redis_client import FAILURES_TO_OPEN, RedisClient
from traffic_manager.cache.route_cache import SCHEMA, RedisRouteCache
from traffic_manager.config.settings import CacheSettings, RedisSettings
from traffic_manager.routing.ports import CachedRoute, RouteCache

Result = TypeVar("Result")
TTLS = CacheSettings.model_validate({"positive_ttl": 60, "negative_ttl": 10})
FOUND = CachedRoute(EPOCH, 7, 5, URL)
ABSENT = CachedRoute(EPOCH, 7, 0, None)
NAME = f"tm:{SCHEMA}:{a_key()}"


class Caches:
    """Makes caches, Redis's with its client open while a scenario runs."""

    def __init__(self, to: RedisSettings | None, pepper: bytes | None = None) -> None:
        self._to = to
        self._pepper = pepper
        self.rejected: list[str] = []

    def run(self, scenario: Callable[[RouteCache], Awaitable[Result]]) -> Result:
        """Return what *scenario* returns on an event loop of its own."""
        return asyncio.run(self._run(scenario))

    async def _run(self, scenario: Callable[[RouteCache], Awaitable[Result]]) -> Result:
        if self._to is None:
            return await scenario(MemoryCache())
        client = RedisClient(self._to)
        try:
            return await scenario(RedisRouteCache(client, TTLS, self.rejected.append, self._pepper))
        finally:
            await client.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
def caches(request: pytest.FixtureRequest) -> Caches:
    """Each cache in turn, empty."""
    return Caches(None if request.param == "memory" else request.getfixturevalue("redis_settings"))


@pytest.mark.parametrize("entry", [FOUND, ABSENT])
def test_entry_comes_back_as_it_was_put(caches: Caches, entry: CachedRoute) -> None:
    async def put_and_get(cache: RouteCache) -> CachedRoute | None:
        await cache.put(a_key(), entry)
        return await cache.get(a_key())

    assert caches.run(put_and_get) == entry
    assert caches.rejected == []


def test_key_never_put_is_a_miss(caches: Caches) -> None:
    assert caches.run(lambda cache: cache.get(a_key())) is None
    assert caches.rejected == []


def test_last_entry_put_wins_even_if_it_is_older(caches: Caches) -> None:
    older = CachedRoute(EPOCH, 3, 3, OTHER_URL)

    async def put_twice(cache: RouteCache) -> CachedRoute | None:
        await cache.put(a_key(), FOUND)
        await cache.put(a_key(), older)
        return await cache.get(a_key())

    assert caches.run(put_twice) == older


def test_entries_of_other_keys_stay_apart(caches: Caches) -> None:
    keys = [a_key(), a_key(env="Prod"), a_key("v2", "payments"), a_key(tenant="team-b")]

    async def put_all(cache: RouteCache) -> list[CachedRoute | None]:
        for n, key in enumerate(keys, 1):
            await cache.put(key, CachedRoute(EPOCH, n, n, URL))
        return [await cache.get(key) for key in keys]

    assert [entry and entry.as_of for entry in caches.run(put_all)] == [1, 2, 3, 4]


def test_longest_url_is_kept(caches: Caches) -> None:
    entry = CachedRoute(EPOCH, 7, 5, "https://x.example/" + "y" * 2030)

    async def put_and_get(cache: RouteCache) -> CachedRoute | None:
        await cache.put(a_key(*("n" * 128,) * 4), entry)
        return await cache.get(a_key(*("n" * 128,) * 4))

    assert caches.run(put_and_get) == entry


# -- only Redis's


@pytest.mark.servers
@pytest.mark.parametrize(("entry", "seconds"), [(FOUND, 60), (ABSENT, 10)])
def test_entry_lasts_for_its_time_to_live(
    redis_settings: RedisSettings, raw_redis: redis.Redis, entry: CachedRoute, seconds: int
) -> None:
    Caches(redis_settings).run(lambda cache: cache.put(a_key(), entry))
    assert seconds - 2 <= raw_redis.ttl(NAME) <= seconds


def an_entry(**other: object) -> bytes:
    """Return a good entry's bytes, but for what *other* says."""
    values = {"schema": SCHEMA, "epoch": EPOCH, "key": str(a_key()), "as_of": 7, "revision": 5, "url": URL}
    return orjson.dumps(list((values | other).values()))


HOSTILE = {
    "empty": (b"", "malformed"),
    "no JSON": (b"https://evil.example/", "malformed"),
    "truncated": (an_entry()[:-1], "malformed"),
    "a number": (b"1", "malformed"),
    "null": (b"null", "malformed"),
    "an object": (b'{"url":"https://evil.example/"}', "malformed"),
    "one value too few": (orjson.dumps(orjson.loads(an_entry())[:-1]), "malformed"),
    "one value too many": (orjson.dumps([*orjson.loads(an_entry()), 1]), "malformed"),
    "no text": (b"\xff\xfe\x00", "malformed"),
    "pickle": (b"\x80\x04K\x01.", "malformed"),
    "huge": (an_entry(url="https://x.example/" + "y" * 100_000), "malformed"),
    "deep": (b"[" * 900 + b"]" * 900, "malformed"),
    "other schema": (an_entry(schema=SCHEMA + 1), "schema"),
    "other route": (an_entry(key=str(a_key("other"))), "key"),
    "other case": (an_entry(key=str(a_key()).upper()), "key"),
    "epoch is a number": (an_entry(epoch=1), "malformed"),
    "epoch is null": (an_entry(epoch=None), "malformed"),
    "as_of is text": (an_entry(as_of="7"), "malformed"),
    "as_of is true": (an_entry(as_of=True), "malformed"),
    "as_of is a fraction": (an_entry(as_of=7.5), "malformed"),
    "as_of is negative": (an_entry(as_of=-1), "malformed"),
    "as_of is beyond 64 bits": (an_entry().replace(b",7,", b",18446744073709551616,"), "malformed"),
    "revision is negative": (an_entry(revision=-1), "malformed"),
    "revision after as_of": (an_entry(revision=8), "malformed"),
    "url is a number": (an_entry(url=1), "malformed"),
    "url is empty": (an_entry(url=""), "malformed"),
    "url is a list": (an_entry(url=[URL]), "malformed"),
}


@pytest.mark.servers
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_entry_is_a_miss_and_counted(
    redis_settings: RedisSettings, raw_redis: redis.Redis, name: str
) -> None:
    value, reason = HOSTILE[name]
    raw_redis.set(NAME, value)
    caches = Caches(redis_settings)
    assert caches.run(lambda cache: cache.get(a_key())) is None
    assert caches.rejected == [reason]


@pytest.mark.servers
def test_value_of_another_type_is_a_miss_and_counted_and_no_outage(
    redis_settings: RedisSettings, raw_redis: redis.Redis
) -> None:
    raw_redis.lpush(NAME, "x")
    caches = Caches(redis_settings)

    async def read_it_often_then_another(cache: RouteCache) -> CachedRoute | None:
        await cache.put(a_key("other"), FOUND)
        for _ in range(FAILURES_TO_OPEN + 1):
            assert await cache.get(a_key()) is None
        return await cache.get(a_key("other"))

    assert caches.run(read_it_often_then_another) == FOUND
    assert caches.rejected == ["malformed"] * (FAILURES_TO_OPEN + 1)


@pytest.mark.servers
def test_hostile_entry_is_replaced_by_the_next_one_put(
    redis_settings: RedisSettings, raw_redis: redis.Redis
) -> None:
    raw_redis.lpush(NAME, "x")

    async def put_and_get(cache: RouteCache) -> CachedRoute | None:
        await cache.put(a_key(), FOUND)
        return await cache.get(a_key())

    assert Caches(redis_settings).run(put_and_get) == FOUND


@pytest.mark.servers
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), min_size=1, max_size=3))
@example(cuts=[(0, b"")])
def test_damaged_entry_is_a_miss_or_what_it_says(
    redis_settings: RedisSettings, raw_redis: redis.Redis, cuts: list[tuple[int, bytes]]
) -> None:
    value = an_entry()
    for at, what in cuts:
        value = value[:at] + what + value[at + 1 :]
    raw_redis.set(NAME, value)
    entry = Caches(redis_settings).run(lambda cache: cache.get(a_key()))
    if entry is not None:
        assert entry.revision <= entry.as_of
        assert orjson.loads(value)[2] == str(a_key())


PEPPER = b"a pepper of at least thirty-two characters"


@pytest.mark.servers
@pytest.mark.parametrize("entry", [FOUND, ABSENT])
def test_signed_entry_comes_back_as_it_was_put(redis_settings: RedisSettings, entry: CachedRoute) -> None:
    caches = Caches(redis_settings, PEPPER)

    async def put_and_get(cache: RouteCache) -> CachedRoute | None:
        await cache.put(a_key(), entry)
        return await cache.get(a_key())

    assert (caches.run(put_and_get), caches.rejected) == (entry, [])


@pytest.mark.servers
@pytest.mark.parametrize("signer", [None, b"another pepper of thirty-two characters"])
def test_entry_that_is_not_signed_with_our_pepper_is_a_miss_and_counted(
    redis_settings: RedisSettings, signer: bytes | None
) -> None:
    Caches(redis_settings, signer).run(lambda cache: cache.put(a_key(), FOUND))
    caches = Caches(redis_settings, PEPPER)
    assert caches.run(lambda cache: cache.get(a_key())) is None
    # Without a signature the end of the entry is taken for one.
    assert caches.rejected == ["signature" if signer else "malformed"]


@pytest.mark.servers
def test_signed_entry_with_another_url_is_a_miss_and_counted(
    redis_settings: RedisSettings, raw_redis: redis.Redis
) -> None:
    caches = Caches(redis_settings, PEPPER)
    caches.run(lambda cache: cache.put(a_key(), FOUND))
    signed = raw_redis.get(NAME)
    assert isinstance(signed, bytes)
    raw_redis.set(NAME, signed.replace(URL.encode(), OTHER_URL.encode()))
    assert caches.run(lambda cache: cache.get(a_key())) is None
    assert caches.rejected == ["signature"]
