"""A tenant never has more routes than it may, whoever creates them, at once or in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.routing.builders import AUTHOR, a_key, activate, create, delete, on_a_loop, put
from tests.routing.memory_store import MemoryStore
from traffic_manager.errors import BatchFailed, QuotaExceeded, TrafficManagerError
from traffic_manager.routing.operations import Operation
from traffic_manager.routing.registry import Registry, Written

MOST = 3


@asynccontextmanager
async def running(store: MemoryStore) -> AsyncIterator[Registry]:
    """Run a registry over *store* where team-a may have three routes."""
    registry = Registry(store, lambda _: None, {"team-a": MOST}.get)
    registry.start()
    try:
        yield registry
    finally:
        await asyncio.to_thread(registry.stop)


def creations(number: int, tenant: str = "team-a") -> list[Operation]:
    return [create(a_key(tenant=tenant, service=f"s{i}")) for i in range(number)]


async def answers(registry: Registry, operations: list[Operation]) -> list[Written | BaseException]:
    """Return what came of *operations*, asked for at once."""
    wishes = (registry.write(operation, AUTHOR) for operation in operations)
    return await asyncio.gather(*wishes, return_exceptions=True)


def routes_of(store: MemoryStore, tenant: str = "team-a") -> int:
    return store.counts([tenant])[tenant]


@on_a_loop
async def test_many_at_once_create_no_more_than_the_tenant_may_have() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        found = await answers(registry, creations(20))
    refused = [answer for answer in found if isinstance(answer, QuotaExceeded)]
    assert (len(refused), routes_of(store)) == (20 - MOST, MOST)
    assert (refused[0].things, refused[0].quota) == ("routes", MOST)


@on_a_loop
async def test_other_tenants_have_any_number() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        await answers(registry, creations(20, "team-b") + creations(MOST))
    assert (routes_of(store, "team-b"), routes_of(store)) == (20, MOST)


@on_a_loop
async def test_what_is_there_can_be_changed_and_one_that_goes_makes_room() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        await answers(registry, creations(MOST))
        first, *_ = creations(1)
        await registry.write(put(first.key, is_active=False), AUTHOR)
        await registry.write(activate(first.key), AUTHOR)
        with pytest.raises(QuotaExceeded):
            await registry.write(put(a_key(service="another")), AUTHOR)
        await registry.write(delete(first.key), AUTHOR)
        await registry.write(put(a_key(service="another")), AUTHOR)
    assert routes_of(store) == MOST


@on_a_loop
async def test_a_batch_that_would_pass_it_is_refused_whole_and_its_last_creation_named() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        with pytest.raises(BatchFailed) as refused:
            await registry.write_batch([*creations(MOST + 1), *creations(2, "team-b")], AUTHOR)
    assert isinstance(refused.value.cause, QuotaExceeded)
    assert (refused.value.index, routes_of(store), routes_of(store, "team-b")) == (MOST, 0, 0)


@on_a_loop
async def test_what_a_batch_comes_to_counts_not_the_order_of_its_operations() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        await registry.write_batch(creations(MOST), AUTHOR)
        exchange = [create(a_key(service="new")), delete(creations(1)[0].key)]
        await registry.write_batch(exchange, AUTHOR)
    assert routes_of(store) == MOST


@on_a_loop
async def test_a_rehearsal_says_what_the_batch_would_come_to() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        with pytest.raises(BatchFailed):
            await asyncio.to_thread(registry.rehearse, creations(MOST + 1), AUTHOR)
        written = await asyncio.to_thread(registry.rehearse, creations(MOST), AUTHOR)
    assert (len(written.outcomes), routes_of(store)) == (MOST, 0)


@on_a_loop
async def test_a_request_that_fails_uses_nothing_up() -> None:
    """Of requests that share a commit, too."""
    store = MemoryStore()
    async with running(store) as registry:
        too_much = registry.write_batch(creations(MOST + 1), AUTHOR)
        missing = registry.write_batch([*creations(MOST), delete(a_key(service="none"))], AUTHOR)
        fits = registry.write_batch(creations(MOST), AUTHOR)
        found = await asyncio.gather(too_much, missing, fits, return_exceptions=True)
    assert [isinstance(answer, TrafficManagerError) for answer in found] == [True, True, False]
    assert routes_of(store) == MOST


@on_a_loop
async def test_a_tenant_that_has_more_than_it_may_now_keeps_them_and_gets_no_others() -> None:
    store = MemoryStore()
    generous = Registry(store, lambda _: None)
    generous.start()
    await answers(generous, creations(2 * MOST))
    await asyncio.to_thread(generous.stop)
    async with running(store) as registry:
        with pytest.raises(QuotaExceeded):
            await registry.write(put(a_key(service="another")), AUTHOR)
        await registry.write(delete(creations(1)[0].key), AUTHOR)
        await registry.write(put(creations(2)[1].key, is_active=False), AUTHOR)
    assert routes_of(store) == 2 * MOST - 1
