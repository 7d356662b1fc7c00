"""The write path: commits shared by those who come together, each request standing or falling alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.routing.builders import (
    AUTHOR,
    OTHER_URL,
    a_key,
    activate,
    commit,
    create,
    deactivate,
    delete,
    on_a_loop,
    put,
)
from tests.routing.memory_store import MemoryStore
from traffic_manager.errors import (
    BatchFailed,
    Busy,
    OutcomeUnknown,
    RouteConflict,
    RouteNotFound,
    SourceUnavailable,
    TrafficManagerError,
)
from traffic_manager.routing import registry as registry_module
from traffic_manager.routing.model import Action
from traffic_manager.routing.operations import Operation, Verb
from traffic_manager.routing.registry import Registry, Written


class Turnstile:
    """Holds the writer back once, before its next commit or where *place* of the store says."""

    def __init__(self, store: MemoryStore, place: str = "before_commit") -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self._store = store
        self._place = place
        setattr(store, place, self._wait)

    def _wait(self) -> None:
        setattr(self._store, self._place, lambda: None)
        self.entered.set()
        self.go.wait()

    async def until_entered(self) -> None:
        """Wait until the writer stands before its commit."""
        await asyncio.to_thread(self.entered.wait, 5)


@asynccontextmanager
async def running(store: MemoryStore) -> AsyncIterator[Registry]:
    """Run a registry over *store*."""
    registry = Registry(store, lambda _: None)
    registry.start()
    try:
        yield registry
    finally:
        await asyncio.to_thread(registry.stop)


@on_a_loop
async def test_change_is_answered_with_its_outcome_and_the_head_after_it() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        written = await registry.write(create(), AUTHOR)
    assert written.head == store.head
    assert (written.outcomes[0].action, written.outcomes[0].revision) == (Action.CREATED, 1)


@on_a_loop
async def test_nobody_is_answered_before_the_commit() -> None:
    store = MemoryStore()
    gate = Turnstile(store)
    async with running(store) as registry:
        answer = asyncio.ensure_future(registry.write(create(), AUTHOR))
        await gate.until_entered()
        assert not answer.done()
        assert store.head.revision == 0
        gate.go.set()
        assert (await answer).head.revision == 1


@on_a_loop
async def test_commit_is_told_before_the_answer() -> None:
    told: list[int] = []
    registry = Registry(MemoryStore(), told.append)
    registry.start()
    await registry.write(create(), AUTHOR)
    assert told == [1]
    await registry.write(create(), AUTHOR)  # which changes nothing
    assert told == [1]
    await asyncio.to_thread(registry.stop)


@on_a_loop
async def test_requests_that_come_together_share_a_commit() -> None:
    store = MemoryStore()
    gate = Turnstile(store)
    async with running(store) as registry:
        first = asyncio.ensure_future(registry.write(create(a_key("first")), AUTHOR))
        await gate.until_entered()
        others = [asyncio.ensure_future(registry.write(create(a_key(f"s{n}")), AUTHOR)) for n in range(20)]
        await asyncio.sleep(0)
        gate.go.set()
        written = await asyncio.gather(first, *others)
    assert store.commits == 2
    assert sorted(w.outcomes[0].revision for w in written) == list(range(1, 22))


@on_a_loop
async def test_requests_that_come_while_the_lock_is_waited_for_share_the_commit() -> None:
    store = MemoryStore()
    waits = Turnstile(store, "before_lock")
    async with running(store) as registry:
        first = asyncio.ensure_future(registry.write(create(a_key("first")), AUTHOR))
        await waits.until_entered()
        others = [asyncio.ensure_future(registry.write(create(a_key(f"s{n}")), AUTHOR)) for n in range(20)]
        refused = asyncio.ensure_future(registry.write(delete(a_key("nothing")), AUTHOR))
        await asyncio.sleep(0)
        waits.go.set()
        written = await asyncio.gather(first, *others)
        with pytest.raises(RouteNotFound):
            await refused
    assert store.commits == 1
    assert sorted(w.outcomes[0].revision for w in written) == list(range(1, 22))


@on_a_loop
async def test_all_who_share_a_commit_that_fails_are_refused() -> None:
    store = MemoryStore()
    waits = Turnstile(store, "before_lock")
    store.before_commit = _failing
    async with running(store) as registry:
        sending = [asyncio.ensure_future(registry.write(create(a_key("first")), AUTHOR))]
        await waits.until_entered()
        sending += [asyncio.ensure_future(registry.write(create(a_key(f"s{n}")), AUTHOR)) for n in range(3)]
        await asyncio.sleep(0)
        waits.go.set()
        answers = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(answer) for answer in answers] == [SourceUnavailable] * 4


def _failing() -> None:
    raise SourceUnavailable


@on_a_loop
async def test_submitted_change_is_answered_on_the_loop() -> None:
    answers: asyncio.Queue[Written | Exception] = asyncio.Queue()
    async with running(MemoryStore()) as registry:
        for operation in (create(), delete(a_key("nothing"))):
            registry.submit(operation, AUTHOR, answers.put_nowait)
        kinds = {type(await answers.get()) for _ in range(2)}
    assert kinds == {Written, RouteNotFound}


async def together(
    store: MemoryStore, registry: Registry, *requests: list[Operation]
) -> list[Written | BaseException]:
    """Send *requests* while another change is being committed, so that they are one group."""
    gate = Turnstile(store)
    first = asyncio.ensure_future(registry.write(create(a_key("first")), AUTHOR))
    await gate.until_entered()
    sending = [
        asyncio.ensure_future(
            registry.write(request[0], AUTHOR) if len(request) == 1 else registry.write_batch(request, AUTHOR)
        )
        for request in requests
    ]
    await asyncio.sleep(0)
    gate.go.set()
    await first
    return await asyncio.gather(*sending, return_exceptions=True)


@on_a_loop
async def test_requests_of_a_group_fail_alone() -> None:
    store = MemoryStore()
    async with running(store) as registry:
        answers = await together(
            store,
            registry,
            [create(a_key("a"))],
            [create(a_key("a"), OTHER_URL)],
            [create(a_key("b")), delete(a_key("unknown"))],
            [create(a_key("c"))],
        )
    assert [type(answer) for answer in answers] == [Written, RouteConflict, BatchFailed, Written]
    assert [(c.revision, c.key.service) for c in store.log()] == [(1, "first"), (2, "a"), (3, "c")]


@on_a_loop
async def test_each_request_of_a_group_is_told_the_head_of_its_own_turn() -> None:
    store = MemoryStore()
    commit(store, put(a_key("x"), is_active=False))
    async with running(store) as registry:
        answers = await together(
            store, registry, [delete(a_key("x"))], [activate(a_key("x"))], [put(a_key("x"), OTHER_URL)]
        )
    deleted, missing, created = answers
    assert isinstance(deleted, Written)
    assert isinstance(missing, RouteNotFound)
    assert isinstance(created, Written)
    assert missing.as_of is not None
    assert (deleted.head.revision, missing.as_of.revision, created.head.revision) == (3, 3, 4)


@on_a_loop
async def test_bug_in_one_request_does_not_hurt_the_others() -> None:
    store = MemoryStore()
    broken = Operation(Verb.CREATE, a_key("broken"), if_match=7)  # type: ignore[arg-type] # the bug
    async with running(store) as registry:
        bad, good = await together(store, registry, [broken], [create(a_key("good"))])
        assert await registry.write(create(a_key("later")), AUTHOR)
    assert isinstance(bad, TypeError)
    assert isinstance(good, Written)


@on_a_loop
async def test_refusals_and_no_ops_take_no_lock() -> None:
    store = MemoryStore()
    commit(store, create())
    commits = store.commits
    async with running(store) as registry:
        written = await registry.write(create(), AUTHOR)
        with pytest.raises(RouteNotFound) as missing:
            await registry.write(deactivate(a_key("unknown")), AUTHOR)
    assert (written.outcomes[0].action, written.outcomes[0].revision) == (None, 1)
    assert str(missing.value.as_of) == f"{store.head.epoch8}.1"
    assert store.commits == commits


@on_a_loop
async def test_decision_is_made_again_under_the_lock() -> None:
    store = MemoryStore()
    commit(store, create())

    def meanwhile() -> None:
        store.after_read = lambda: None
        commit(store, delete())

    store.after_read = meanwhile
    async with running(store) as registry:
        with pytest.raises(RouteNotFound):
            await registry.write(deactivate(), AUTHOR)


@on_a_loop
async def test_request_whose_turn_does_not_come_is_busy_and_never_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry_module, "TURN_TIMEOUT_S", 0.05)
    store = MemoryStore()
    gate = Turnstile(store)
    async with running(store) as registry:
        first = asyncio.ensure_future(registry.write(create(a_key("first")), AUTHOR))
        await gate.until_entered()
        with pytest.raises(Busy):
            await registry.write(create(a_key("late")), AUTHOR)
        gate.go.set()
        await first
        await registry.write(create(a_key("next")), AUTHOR)
    assert [c.key.service for c in store.log()] == ["first", "next"]


@on_a_loop
async def test_failing_commit_fails_all_of_its_group_and_the_writer_goes_on() -> None:
    store = MemoryStore()

    def break_off() -> None:
        store.before_commit = lambda: None
        raise OutcomeUnknown

    store.before_commit = break_off
    async with running(store) as registry:
        with pytest.raises(OutcomeUnknown):
            await registry.write(create(), AUTHOR)
        assert (await registry.write(create(), AUTHOR)).head.revision == 1


@pytest.mark.parametrize(("failure", "told"), [(OutcomeUnknown, SourceUnavailable), (Busy, Busy)])
@on_a_loop
async def test_who_waited_behind_a_group_that_failed_late_is_told_so_at_once_and_nothing_was_done(
    monkeypatch: pytest.MonkeyPatch, failure: type[SourceUnavailable], told: type[SourceUnavailable]
) -> None:
    monkeypatch.setattr(registry_module, "_LONG_S", 0.0)
    store = MemoryStore()
    gate = Turnstile(store)
    wait = store.before_commit

    def fail_late() -> None:
        wait()
        raise failure("too late")

    store.before_commit = fail_late
    async with running(store) as registry:
        first = asyncio.ensure_future(registry.write(create(), AUTHOR))
        await gate.until_entered()
        behind = [asyncio.ensure_future(registry.write(create(a_key(s)), AUTHOR)) for s in "ab"]
        await asyncio.sleep(0)
        gate.go.set()
        errors = await asyncio.gather(first, *behind, return_exceptions=True)
        assert [type(error) for error in errors] == [failure, told, told]
        await registry.write(create(a_key("next")), AUTHOR)
    assert [c.key.service for c in store.log()] == ["next"]


@on_a_loop
async def test_database_that_is_away_is_told_to_the_caller() -> None:
    store = MemoryStore()
    store.is_away = True
    async with running(store) as registry:
        with pytest.raises(SourceUnavailable):
            await registry.write(create(), AUTHOR)


@on_a_loop
async def test_stop_writes_what_is_queued() -> None:
    store = MemoryStore()
    gate = Turnstile(store)
    registry = Registry(store, lambda _: None)
    registry.start()
    queued = [asyncio.ensure_future(registry.write(create(a_key(f"s{n}")), AUTHOR)) for n in range(3)]
    await gate.until_entered()
    queued.append(asyncio.ensure_future(registry.write(create(a_key("last")), AUTHOR)))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(asyncio.to_thread(registry.stop))
    gate.go.set()
    await asyncio.gather(*queued, stopping)
    assert len(store.log()) == 4


@on_a_loop
async def test_caller_who_goes_away_does_not_undo_its_change() -> None:
    store = MemoryStore()
    gate = Turnstile(store)
    async with running(store) as registry:
        gone = asyncio.ensure_future(registry.write(create(), AUTHOR))
        await gate.until_entered()
        gone.cancel()
        gate.go.set()
        await registry.write(create(a_key("next")), AUTHOR)
    assert len(store.log()) == 2


def test_rehearsal_tells_what_would_be_and_writes_nothing() -> None:
    store = MemoryStore()
    commit(store, create())
    registry = Registry(store, lambda _: None)
    written = registry.rehearse([deactivate(), create(a_key("new"))], AUTHOR)
    assert [(o.action, o.revision) for o in written.outcomes] == [
        (Action.DEACTIVATED, 2),
        (Action.CREATED, 3),
    ]
    assert store.head.revision == 1
    with pytest.raises(BatchFailed) as failure:
        registry.rehearse([delete(), delete()], AUTHOR)
    assert isinstance(failure.value, TrafficManagerError)
