"""Workers that share a limit by way of Redis let no more through together than one alone would, and all of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import cast

import pytest

from tests.cache.conftest import settings_of
from tests.routing.builders import on_a_loop
from tests.servers import RedisServer
from tests.servers.ports import free_port
from traffic_manager.access.limiter import Limiter
from traffic_manager.access.limits import Kind, Limits, Subject
from traffic_manager.cache.redis_client import RedisClient
from traffic_manager.cache.shared_budgets import SharedBudgets
from traffic_manager.config.settings import RedisSettings
from traffic_manager.errors import RateLimited
from traffic_manager.routing.ports import Limit

QUOTA = 200
WORKERS = 4


class Worker:
    """A limiter and what leases tokens for it."""

    def __init__(self, settings: RedisSettings, quota: int, least_workers: int = 1) -> None:
        self._client = RedisClient(settings)
        limits = Limits({subject: Limit(subject, "") for subject in Subject})
        self.limiter = Limiter(limits, least_workers, leases=True)
        limits.load([Limit("tenant", "team-a", resolves=quota)])
        self.budgets = SharedBudgets(self._client, self.limiter)
        self.passed = 0

    def ask(self, times: int = 1) -> int:
        """Return how many of so many requests are let through."""
        before = self.passed
        for _ in range(times):
            try:
                self.limiter.charge(Kind.RESOLVES, "alice", "team-a")
            except RateLimited:
                break
            self.passed += 1
        return self.passed - before

    async def close(self) -> None:
        await self._client.close()


@asynccontextmanager
async def workers(
    settings: RedisSettings, number: int, least_workers: int | None = None
) -> AsyncIterator[list[Worker]]:
    """Lend so many workers, which know at first how many they are, or of *least_workers*."""
    crew = [Worker(settings, QUOTA, least_workers or number) for _ in range(number)]
    try:
        yield crew
    finally:
        for worker in crew:
            await worker.close()


async def keep_asking(crew: list[Worker], asking: list[Worker], is_enough: Callable[[], bool]) -> float:
    """Let *asking* ask for all that they can get, and *crew* lease, until *is_enough*; return the seconds it took."""
    began = monotonic()
    while not is_enough():
        assert monotonic() < began + 60
        for worker in asking:
            worker.ask(2 * QUOTA)
        for worker in crew:
            await worker.budgets.renew()
        await asyncio.sleep(0.02)
    return monotonic() - began


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when *condition* holds: on a busy machine a lease may run out before it is used, and is taken again."""
    began = monotonic()
    while not await condition():
        assert monotonic() < began + 60
        await asyncio.sleep(0.5)


async def asked_after_renewal(worker: Worker, others: list[Worker]) -> int:
    """Return how many requests are let through with a lease that was just taken."""
    worker.ask()
    for each in (*others, worker):
        await each.budgets.renew()
    return worker.ask(2 * QUOTA)


def total(crew: list[Worker]) -> int:
    return sum(worker.passed for worker in crew)


@pytest.mark.servers
@on_a_loop
async def test_together_they_let_through_what_one_may_and_share_it_alike(
    redis_settings: RedisSettings,
) -> None:
    async with workers(redis_settings, WORKERS) as crew:
        took_s = await keep_asking(crew, crew, lambda: total(crew) >= 4 * QUOTA)
        # A second's worth is there at first. What comes in while the last of them ask is theirs.
        assert total(crew) <= 1.1 * QUOTA * (took_s + 1)
        assert min(worker.passed for worker in crew) >= QUOTA // 4


@pytest.mark.servers
@on_a_loop
async def test_one_that_is_asked_alone_may_have_more_than_its_share(redis_settings: RedisSettings) -> None:
    async with workers(redis_settings, WORKERS) as (alone, *others):

        async def has_more() -> bool:
            return await asked_after_renewal(alone, others) > 1.5 * QUOTA / WORKERS

        await until(has_more)


@pytest.mark.servers
@on_a_loop
async def test_what_nobody_uses_any_more_is_there_for_the_others(redis_settings: RedisSettings) -> None:
    async with workers(redis_settings, 2) as (first, second):
        first.ask()
        await first.budgets.renew()  # half of all is leased
        await first.budgets.renew()  # and given back, for nobody has asked since

        async def has_half() -> bool:
            return await asked_after_renewal(second, []) >= QUOTA // 2 - 2

        await until(has_half)


@pytest.mark.servers
@on_a_loop
async def test_a_lease_of_a_worker_that_died_is_lost_for_a_moment_only(redis_settings: RedisSettings) -> None:
    async with workers(redis_settings, 2) as (dead, living):
        dead.ask()
        await dead.budgets.renew()
        took_s = await keep_asking([living], [living], lambda: living.passed >= 3 * QUOTA)
        assert living.passed <= 1.1 * QUOTA * (took_s + 1)


@pytest.mark.servers
@on_a_loop
async def test_workers_know_how_many_they_are(redis_settings: RedisSettings) -> None:
    async with workers(redis_settings, WORKERS, least_workers=1) as crew:

        async def known() -> bool:
            for worker in crew:
                worker.ask()
                await worker.budgets.renew()
            return [worker.limiter.workers for worker in crew] == [WORKERS] * WORKERS

        await until(known)


@pytest.mark.servers
@on_a_loop
async def test_without_redis_each_worker_goes_on_with_its_share(redis_server: RedisServer) -> None:
    with RedisServer() as own:
        async with workers(settings_of(own), WORKERS) as crew:
            await keep_asking(crew, crew, lambda: total(crew) >= QUOTA)
            own.freeze()
            before = total(crew)
            took_s = await keep_asking(crew, crew, lambda: total(crew) >= before + 2 * QUOTA)
            # Leases that were out when it froze are part of what was there.
            assert total(crew) - before <= 1.1 * QUOTA * (took_s + 1)
            assert min(worker.passed for worker in crew) > 0
            own.thaw()
            before = total(crew)
            took_s = await keep_asking(crew, crew, lambda: total(crew) >= before + 2 * QUOTA)
            assert total(crew) - before <= 1.1 * QUOTA * (took_s + 2)


@pytest.mark.servers
@on_a_loop
async def test_a_redis_that_was_never_there_changes_nothing(redis_server: RedisServer) -> None:
    nowhere = RedisSettings.model_validate({"host": redis_server.host, "port": free_port()})
    async with workers(nowhere, WORKERS) as crew:
        took_s = await keep_asking(crew, crew, lambda: total(crew) >= 2 * QUOTA)
        assert total(crew) <= 1.1 * QUOTA * (took_s + 1)


class Liar:
    """In the place of a client: answers what the test has set."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def call(self, _command: object) -> object:
        return self._answer


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [9],
        [9, 2, 3],
        [b"9", 50],
        [9, "50"],
        [9, None],
        [9, 50.5],
        [9, True],
        [9, -1],
        [-9, 50],
        "99",
        b"99",
        {0: 9, 1: 4},
    ],
)
@on_a_loop
async def test_what_is_no_answer_of_the_script_is_as_good_as_none(answer: object) -> None:
    worker = Worker(RedisSettings.model_validate({"host": "nowhere"}), QUOTA, least_workers=WORKERS)
    budgets = SharedBudgets(cast("RedisClient", Liar(answer)), worker.limiter)
    worker.ask()
    await budgets.renew()
    assert worker.limiter.workers == WORKERS  # and not 9


@on_a_loop
async def test_a_redis_that_gives_and_gives_lets_nobody_pass_the_whole_limit() -> None:
    worker = Worker(RedisSettings.model_validate({"host": "nowhere"}), QUOTA, least_workers=WORKERS)
    budgets = SharedBudgets(cast("RedisClient", Liar([10**15, 10**15])), worker.limiter)
    began = monotonic()
    for _ in range(50):
        worker.ask(10 * QUOTA)
        await budgets.renew()
    assert worker.passed <= QUOTA * (monotonic() - began + 1) + 1


@pytest.mark.servers
@on_a_loop
async def test_a_redis_that_forgot_everything_gives_one_more_helping_at_most(
    redis_server: RedisServer, redis_settings: RedisSettings
) -> None:
    async with workers(redis_settings, 2) as crew:
        await keep_asking(crew, crew, lambda: total(crew) >= 2 * QUOTA)
        redis_server.flushall()
        before = total(crew)
        took_s = await keep_asking(crew, crew, lambda: total(crew) >= before + 2 * QUOTA)
        assert total(crew) - before <= 1.1 * QUOTA * (took_s + 2)
