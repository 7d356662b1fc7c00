"""Redis may hang, die, refuse and come back: its callers hardly notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import pytest
import redis
import uvloop
from structlog.testing import capture_logs

from tests.cache.conftest import settings_of
from tests.routing.builders import on_a_loop
from tests.servers import RedisServer
from tests.servers.ports import free_port
from traffic_manager.cache import redis_client
from traffic_manager.cache.redis_client import FAILURES_TO_OPEN, RedisClient
from traffic_manager.config.settings import RedisSettings

Result = TypeVar("Result")
HANG_ALLOWANCE_S = 0.15
AT_ONCE_S = 0.01


@pytest.fixture(scope="module")
def own_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A Redis that this module may freeze; the shared one only shows that it can be had."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def frozen_redis(own_redis: RedisServer) -> Iterator[RedisServer]:
    """A Redis that hangs until the test thaws it."""
    own_redis.freeze()
    yield own_redis
    own_redis.thaw()


def impatient(server: RedisServer) -> RedisClient:
    """Return a client with the deadline of production."""
    return RedisClient(RedisSettings.model_validate({"host": server.host, "port": server.port}))


async def timed(call: Awaitable[Result]) -> tuple[Result, float]:
    """Return the answer and how long it took."""
    began = time.monotonic()
    return await call, time.monotonic() - began


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for *condition*, at most 10 s."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 nobody sets an event when Redis comes back
            await asyncio.sleep(0.02)


async def answers(client: RedisClient) -> bool:
    """Return whether a call succeeds now, in its turn."""
    return bool(await client.call(lambda r: r.ping()))


@pytest.mark.servers
@on_a_loop
async def test_frozen_redis_costs_little_and_after_some_failures_nothing(frozen_redis: RedisServer) -> None:
    client = impatient(frozen_redis)
    for _ in range(FAILURES_TO_OPEN):
        answer, seconds = await timed(client.call(lambda r: r.get("x")))
        assert answer is None
        assert seconds < HANG_ALLOWANCE_S
    assert client.is_left_alone
    answer, seconds = await timed(client.call(lambda r: r.get("x")))
    assert answer is None
    assert seconds < AT_ONCE_S
    await client.close()


@pytest.mark.servers
@on_a_loop
async def test_nobody_waits_while_it_is_found_out_whether_redis_is_back(frozen_redis: RedisServer) -> None:
    client = impatient(frozen_redis)
    for _ in range(FAILURES_TO_OPEN):
        await client.call(lambda r: r.get("x"))
    asked: list[int] = []

    async def ask(redis: redis.asyncio.Redis, number: int) -> bool:
        asked.append(number)
        return bool(await redis.get("x"))

    client._closed_until = 0.0  # it is time to ask
    answers = await asyncio.gather(*(client.call(partial(ask, number=n)) for n in range(20)))
    assert answers == [None] * 20
    assert asked == []
    await client.close()


@pytest.mark.servers
@on_a_loop
async def test_redis_that_freezes_on_an_open_connection_answers_nobody_elses_question(
    own_redis: RedisServer,
) -> None:
    client = impatient(own_redis)
    await client.call(lambda r: r.set("mine", "1"))
    await client.call(lambda r: r.set("yours", "2"))
    own_redis.freeze()
    assert await client.call(lambda r: r.get("mine")) is None
    own_redis.thaw()
    await until(lambda: answers(client))
    assert await client.call(lambda r: r.get("yours")) == b"2"
    await client.close()


@pytest.mark.servers
@on_a_loop
async def test_thawed_redis_is_found_again_and_the_log_says_both_once(own_redis: RedisServer) -> None:
    client = impatient(own_redis)
    with capture_logs() as log:
        own_redis.freeze()
        for _ in range(FAILURES_TO_OPEN + 2):
            await client.call(lambda r: r.get("x"))
        own_redis.thaw()
        await until(lambda: answers(client))
    assert not client.is_left_alone
    assert [line["event"] for line in log] == ["cache_lost", "cache_reached_again"]
    await client.close()


@pytest.mark.servers
def test_connection_that_ends_before_the_command_is_a_miss(own_redis: RedisServer) -> None:
    async def ask_on_a_closed_connection(redis: redis.asyncio.Redis) -> bool:
        connection = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call] # redis-py's
        try:
            connection._writer.transport.abort()
            await connection.send_command("GET", "x")
            return True
        finally:
            await redis.connection_pool.release(connection)

    async def ask() -> None:
        client = impatient(own_redis)
        assert await client.call(ask_on_a_closed_connection) is None
        assert await client.call(lambda r: r.ping())
        await client.close()

    uvloop.run(ask())  # which tells of it otherwise than asyncio


@on_a_loop
async def test_refused_connection_is_a_miss() -> None:
    client = RedisClient(RedisSettings.model_validate({"host": "127.0.0.1", "port": free_port()}))
    answer, seconds = await timed(client.call(lambda r: r.get("x")))
    assert answer is None
    assert seconds < HANG_ALLOWANCE_S
    assert not await client.ping()
    await client.close()


@pytest.mark.servers
@on_a_loop
async def test_ping_asks_even_while_redis_is_left_alone(own_redis: RedisServer) -> None:
    client = impatient(own_redis)
    own_redis.freeze()
    for _ in range(FAILURES_TO_OPEN):
        await client.call(lambda r: r.get("x"))
    assert not await client.ping()
    own_redis.thaw()
    await until(client.ping)
    assert not client.is_left_alone
    await client.close()


@pytest.mark.servers
@on_a_loop
async def test_redis_that_refuses_is_a_miss(redis_settings: RedisSettings, raw_redis: redis.Redis) -> None:
    client = RedisClient(redis_settings.model_copy(update={"db": 1023}))  # it has 16
    assert await client.call(lambda r: r.get("x")) is None
    await client.close()


@pytest.mark.servers
@on_a_loop
async def test_more_callers_than_connections_are_no_outage(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "CONNECT_TIMEOUT_S", 5.0)  # 64 connect at once, on a busy machine
    client = RedisClient(settings_of(own_redis))
    with capture_logs() as log:
        await asyncio.gather(*(client.call(lambda r: r.get("x")) for _ in range(500)))
    assert not client.is_left_alone
    assert log == []
    await client.close()


@pytest.mark.servers
@on_a_loop
async def test_bug_in_a_command_is_not_hidden_as_an_outage(redis_settings: RedisSettings) -> None:
    client = RedisClient(redis_settings)
    with pytest.raises(AttributeError):
        await client.call(lambda r: r.no_such_command())  # type: ignore[attr-defined] # the bug)
    await client.close()
