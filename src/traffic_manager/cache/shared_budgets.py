"""Limits over all workers of all nodes, by way of Redis, in the background: no request ever waits for it.

Redis has one bucket for each tenant and principal that is limited and asks for something now. Ten times a second each
worker gives back what is left of its lease and takes half of what is there as the next one: a worker alone has nearly
all, and many have equal parts, for each takes half of what comes in between. What is leased is gone from the bucket,
so together they let no more through than it was given. What a worker let through before it had a lease is told and
paid for with the next.

Without Redis leases run out, and each worker goes on with its share (`access/limiter.py`). Whoever can write to Redis
can make each worker let the whole limit through, and no more, for the worker keeps to that by itself; or nothing.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Collection, Sequence
from functools import partial
from time import monotonic_ns
from typing import TypeGuard

from redis.asyncio import Redis

from traffic_manager.access.limiter import Bucket, Limiter
from traffic_manager.cache.redis_client import RedisClient

_EVERY_S = 0.1
# A lease outlives some answers that are late, and few that never come.
_LEASE_NS = 500_000_000
# So often a worker says that it is there, if there are limits at all.
_TELL_EVERY_NS = 1_000_000_000
# So many buckets a call: one takes Redis about 10 µs. The others have their share, and their turn after these.
_MOST_AT_ONCE = 250
# As many as the settings allow for.
_MOST_WORKERS = 64_000
_PREFIX = "tm:limit:"
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3000)
redis.call('PEXPIRE', KEYS[1], 60000)
local answers = {redis.call('ZCARD', KEYS[1])}
for i = 2, #KEYS do
  local quota, back, wants = tonumber(ARGV[3 * i - 4]), tonumber(ARGV[3 * i - 3]), ARGV[3 * i - 2]
  local kept = redis.call('HMGET', KEYS[i], 'level', 'at')
  local level, at = tonumber(kept[1]) or quota, tonumber(kept[2]) or now
  level = math.min(quota, level + math.max(0, now - at) * quota / 1000 + back)
  local lease = 0
  if wants == '1' and level >= 1 then lease = math.ceil(level / 2) end
  redis.call('HSET', KEYS[i], 'level', level - lease, 'at', now)
  redis.call('PEXPIRE', KEYS[i], 10000 + math.ceil(math.max(0, -level) * 1000 / math.max(1, quota)))
  answers[i] = wants == '1' and lease or math.floor(level)
end
return answers
"""


class SharedBudgets:
    """Leases tokens for the buckets of *limiter* over *client*, and tells it how many workers there are: as many as
    it knows of at first, or more."""

    def __init__(self, client: RedisClient, limiter: Limiter) -> None:
        self._client = client
        self._limiter = limiter
        self._least_workers = limiter.workers
        self._name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._leased: set[Bucket] = set()
        self._told_at = 0

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.renew()

    async def renew(self) -> None:
        """Give leases back, and take new ones for what is asked for now."""
        now = monotonic_ns()
        wanted = self._limiter.take_active(_MOST_AT_ONCE)
        idle = list(self._leased.difference(wanted))[:_MOST_AT_ONCE]
        if not (wanted or idle or (self._limiter.is_used and now - self._told_at > _TELL_EVERY_NS)):
            return
        self._told_at = now
        words: list[int | str] = [self._name]
        for bucket in wanted:
            words += [bucket.quota, bucket.settle(now), 1]
        for bucket in idle:
            words += [bucket.quota, bucket.settle(now), 0]
        answer = await self._client.call(partial(_evaluate, buckets=[*wanted, *idle], words=words))
        if not _is_good(answer, len(wanted), len(idle)):
            for bucket in (*wanted, *idle):
                bucket.forget_spent()
            return
        self._limiter.share_with(min(_MOST_WORKERS, max(self._least_workers, answer[0])))
        self._take(wanted, idle, answer[1:])

    def _take(self, wanted: Collection[Bucket], idle: Collection[Bucket], answers: Sequence[int]) -> None:
        now = monotonic_ns()
        for bucket, tokens in zip(wanted, answers, strict=False):
            bucket.lease(tokens, now + _LEASE_NS)
        for bucket, left in zip(idle, answers[len(wanted) :], strict=True):
            bucket.release(left, now)
        self._leased.difference_update(idle)
        self._leased.update(wanted)


def _is_good(answer: object, wanted: int, idle: int) -> TypeGuard[list[int]]:
    """Return whether it is what the script answers: others can write to Redis, too. With a lease below 0 a bucket
    would owe for longer than the lease lasts."""
    if not isinstance(answer, list) or not all(type(number) is int for number in answer):
        return False
    return len(answer) == 1 + wanted + idle and min(answer[: 1 + wanted]) >= 0


async def _evaluate(redis: Redis, buckets: Collection[Bucket], words: Sequence[int | str]) -> object:
    keys = [f"{_PREFIX}workers", *(_PREFIX + bucket.name for bucket in buckets)]
    return await redis.eval(_SCRIPT, len(keys), *keys, *words)
