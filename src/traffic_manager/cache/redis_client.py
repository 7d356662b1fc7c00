"""The connection to Redis: short deadlines, no retries on the read path, and silence after failures.

redis-py has no time-out of its own and may retry. An answer of Redis is worth 25 ms of waiting and no more: the
database is one step behind it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import structlog
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MaxConnectionsError, RedisError

from traffic_manager.config.settings import RedisSettings

CONNECT_TIMEOUT_S = 0.1
# After so many failures in a row Redis is left alone for a while, so that an outage costs each request nothing.
FAILURES_TO_OPEN = 5
_PROBE_EVERY_S = 1.0
_MAX_CONNECTIONS = 64

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class RedisClient:
    """Calls to Redis that end within their deadline; a failed one answers None and is told to the log once."""

    def __init__(self, settings: RedisSettings) -> None:
        self._deadline_s = settings.socket_timeout
        pool: ConnectionPool = ConnectionPool(
            connection_class=SSLConnection if settings.tls else Connection,
            host=settings.host,
            port=settings.port,
            db=settings.db,
            password=settings.password.get_secret_value() if settings.password else None,
            socket_timeout=settings.socket_timeout,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            max_connections=_MAX_CONNECTIONS,
        )
        self._redis = Redis(connection_pool=pool)
        self._failures = 0
        self._closed_until = 0.0
        self._finding_out: asyncio.Task[bool] | None = None

    @property
    def is_left_alone(self) -> bool:
        """True while calls answer None at once, because the last ones failed."""
        return self._failures >= FAILURES_TO_OPEN

    async def call(self, command: Callable[[Redis], Awaitable[Result]]) -> Result | None:
        """Return what *command* answers, None if it failed, took too long, or Redis is being left alone."""
        if not self.is_left_alone:
            return await self._ask(command)
        if monotonic() >= self._closed_until:
            self._rest()
            self._finding_out = asyncio.create_task(self.ping())  # nobody waits with it
        return None

    async def _ask(self, command: Callable[[Redis], Awaitable[Result]]) -> Result | None:
        try:
            # Past connect and answer there is nothing to wait for; cancelling drops the connection, so that no
            # later caller can read this one's answer.
            async with asyncio.timeout(self._deadline_s + CONNECT_TIMEOUT_S):
                result = await command(self._redis)
        except MaxConnectionsError:
            return None  # we are busy, Redis is not away: this call goes without
        # RuntimeError: what uvloop says of a connection that was closed before it was written to.
        except (RedisError, OSError, TimeoutError, ValueError, RuntimeError) as error:
            self._failed(error)
            return None
        if self.is_left_alone:
            log.info("cache_reached_again")
        self._failures = 0
        return result

    async def ping(self) -> bool:
        """Return whether Redis answers now, whatever came before."""
        return bool(await self._ask(lambda redis: redis.ping()))

    async def close(self) -> None:
        """Close every connection."""
        if self._finding_out:
            self._finding_out.cancel()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._rest()
        if self._failures == FAILURES_TO_OPEN:
            log.warning("cache_lost", reason=type(error).__name__)

    def _rest(self) -> None:
        self._closed_until = monotonic() + _PROBE_EVERY_S * random.uniform(0.7, 1.3)  # noqa: S311 not a secret
