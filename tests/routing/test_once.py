"""A request with an idempotency key is done once, and told what it came to each time it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.routing.builders import OTHER_URL, a_key, activate, create, deactivate, delete, on_a_loop, put
from tests.routing.memory_store import MemoryStore
from tests.routing.test_registry import Turnstile, running
from traffic_manager.errors import (
    BatchFailed,
    Busy,
    IdempotencyKeyReused,
    RequestUnderWay,
    RouteNotFound,
    SourceUnavailable,
)
from traffic_manager.routing import registry as registry_module
from traffic_manager.routing.operations import Author, Operation
from traffic_manager.routing.ports import RECEIPTS_KEPT_US, Receipt
from traffic_manager.routing.receipts import Receipts, claim_of
from traffic_manager.routing.registry import Registry, Written

ONCE = Author("alice", "c-1", "key-1")
AGAIN = Author("alice", "c-2", "key-1")
# One of each kind, in an order in which all of them succeed.
REQUESTS: Sequence[tuple[Operation, ...]] = [
    (create(),),
    (create(),),  # which changes nothing
    (put(url=OTHER_URL, is_active=False),),
    (activate(),),
    (deactivate(),),
    (put(a_key("other"), if_none_match=frozenset("*")), delete(), create(a_key("third"))),
    (delete(a_key("other")),),
]


async def _send(registry: Registry, operations: Sequence[Operation], author: Author) -> Written:
    if len(operations) == 1:
        return await registry.write(operations[0], author)
    return await registry.write_batch(operations, author)


@on_a_loop
async def test_what_is_sent_again_is_told_what_it_came_to_and_not_done_again() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        first = [
            await _send(registry, wish, Author("alice", "c-1", f"k-{number}"))
            for number, wish in enumerate(REQUESTS)
        ]
        made = store.log()
        again = [
            await _send(registry, wish, Author("alice", "c-2", f"k-{number}"))
            for number, wish in enumerate(REQUESTS)
        ]
    assert again == [written._replace(is_replay=True) for written in first]
    assert not any(written.is_replay for written in first)
    assert store.log() == made
    assert len(made) == 8


@on_a_loop
async def test_another_request_with_the_same_key_is_refused_and_leaves_nothing() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        await registry.write(put(), ONCE)
        others = [put(url=OTHER_URL), put(a_key("other")), create(), put(is_active=True), delete()]
        others += [put(if_match=frozenset("*"))]
        for other in others:
            with pytest.raises(IdempotencyKeyReused):
                await registry.write(other, AGAIN)
        with pytest.raises(IdempotencyKeyReused):
            await registry.write_batch([put()], AGAIN)
    assert len(store.log()) == 1


@on_a_loop
async def test_what_was_refused_is_decided_anew() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        with pytest.raises(RouteNotFound):
            await registry.write(deactivate(), ONCE)
        with pytest.raises(BatchFailed):
            await registry.write_batch([deactivate()], Author("alice", "c-1", "key-2"))
        await registry.write(create(), Author("alice", "c-2"))
        assert not (await registry.write(deactivate(), AGAIN)).is_replay
        assert not (await registry.write_batch([activate()], Author("alice", "c-2", "key-2"))).is_replay


@on_a_loop
async def test_what_changed_nothing_changes_nothing_later() -> None:
    """Sent again after the route has gone, it would else make another."""
    store = MemoryStore()
    async with running(store) as registry:
        await registry.write(create(), Author("alice", "c-0"))
        assert (await registry.write(create(), ONCE)).outcomes[0].action is None
        await registry.write(delete(), Author("alice", "c-0"))
        again = await registry.write(create(), AGAIN)
    assert (again.is_replay, again.outcomes[0].action, len(store.log())) == (True, None, 2)


@on_a_loop
async def test_each_principal_has_keys_of_its_own() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        await registry.write(put(), ONCE)
        other = await registry.write(put(url=OTHER_URL), Author("bob", "c-2", "key-1"))
    assert (other.is_replay, len(store.log())) == (False, 2)


@on_a_loop
async def test_of_many_at_once_one_is_done_and_all_are_told_the_same() -> None:
    store = MemoryStore()
    gate = Turnstile(store)
    async with running(store) as registry:
        before = asyncio.ensure_future(registry.write(create(a_key("before")), Author("alice", "c-0")))
        await gate.until_entered()
        sent = [asyncio.ensure_future(registry.write(delete(a_key("before")), ONCE)) for _ in range(20)]
        await asyncio.sleep(0)
        gate.go.set()
        await before
        written = await asyncio.gather(*sent)
    assert [w.is_replay for w in written] == [False] + [True] * 19
    assert {(w.head, w.outcomes[0]) for w in written} == {(written[0].head, written[0].outcomes[0])}
    assert len(store.log()) == 2


@on_a_loop
async def test_it_is_done_again_once_a_day_is_over() -> None:
    now_s = 1_800_000_000.0
    store = MemoryStore(clock=lambda: now_s)
    async with running(store) as registry:
        await registry.write(create(), ONCE)
        await registry.write(delete(), Author("alice", "c-0"))
        now_s += RECEIPTS_KEPT_US / 1e6 - 1
        assert (await registry.write(create(), AGAIN)).is_replay
        now_s += 1
        assert not (await registry.write(create(), AGAIN)).is_replay


@on_a_loop
async def test_a_commit_that_fails_leaves_no_receipt() -> None:
    store = MemoryStore()

    def break_down() -> None:
        store.before_commit = lambda: None
        raise SourceUnavailable

    store.before_commit = break_down
    async with running(store) as registry:
        with pytest.raises(SourceUnavailable):
            await registry.write(create(), ONCE)
        again = await registry.write(create(), AGAIN)
    assert (again.is_replay, len(store.log())) == (False, 1)


@on_a_loop
async def test_who_waits_too_long_behind_the_same_request_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "TURN_TIMEOUT_S", 0.05)
    store = MemoryStore()
    gate = Turnstile(store)
    async with running(store) as registry:
        first = asyncio.ensure_future(registry.write(create(), ONCE))
        await gate.until_entered()
        with pytest.raises(RequestUnderWay):
            await registry.write(create(), AGAIN)
        with pytest.raises(Busy):
            await registry.write(create(), Author("alice", "c-2", "key-2"))
        gate.go.set()
        await first
        assert (await registry.write(create(), AGAIN)).is_replay


@on_a_loop
async def test_who_has_gone_away_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "TURN_TIMEOUT_S", 0.05)
    store = MemoryStore()
    gate = Turnstile(store)
    async with running(store) as registry:
        blocking = asyncio.ensure_future(registry.write(create(a_key("before")), Author("alice", "c-0")))
        await gate.until_entered()
        gone = asyncio.ensure_future(registry.write(create(), ONCE))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        with pytest.raises(Busy):
            await registry.write(create(), AGAIN)
        gate.go.set()
        await blocking


@pytest.mark.parametrize("text", ["", "[]", "{}", '["e", 1, 1, []]', '["e", 1, 1, [["made", 1, null]]]', "7"])
def test_a_receipt_that_cannot_be_read_is_no_reason_to_do_it_again(text: str) -> None:
    claim = claim_of([create()], ONCE, is_batch=False)
    assert claim is not None
    with pytest.raises(SourceUnavailable):
        Receipts({claim.name: Receipt(claim, text)}).look_up(claim, [create()])
