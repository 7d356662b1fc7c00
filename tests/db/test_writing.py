"""How every store writes: numbered without a gap, chained, all or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.db.engines import Engine, MemoryEngine, SqlEngine
from tests.routing.builders import (
    AT_2026,
    AUTHOR,
    OTHER_URL,
    a_key,
    commit,
    commit_batches,
    create,
    deactivate,
    delete,
    put,
)
from traffic_manager.routing.chain import CHAIN_START, next_link
from traffic_manager.routing.operations import Operation, Overlay
from traffic_manager.routing.ports import NameFilter, RouteStore

ANY = NameFilter()


def commit_at(store: RouteStore, now: int, *operations: Operation) -> None:
    """Commit *operations* as if the database's clock stood at *now*."""
    with store.writing([operation.key for operation in operations]) as transaction:
        overlay = Overlay(transaction.head, now, transaction.routes)
        overlay.apply(operations, AUTHOR, is_batch=True)
        transaction.append(overlay.changes, overlay.after)


def append_and_fail(store: RouteStore, *operations: Operation) -> None:
    """Write *operations*, but raise ZeroDivisionError before the commit."""
    with store.writing([operation.key for operation in operations]) as transaction:
        overlay = Overlay(transaction.head, transaction.now, transaction.routes)
        overlay.apply(operations, AUTHOR, is_batch=True)
        transaction.append(overlay.changes, overlay.after)
        raise ZeroDivisionError


def test_revisions_begin_at_1_and_have_no_gap(engine: Engine) -> None:
    commit(engine.store, create(a_key("a")), create(a_key("b")))
    commit(engine.store, deactivate(a_key("a")), delete(a_key("b")))
    assert [c.revision for c in engine.store.changes(ANY, 0, 10).changes] == [1, 2, 3, 4]


def test_transaction_sees_head_clock_and_the_routes_asked_for(engine: Engine) -> None:
    commit(engine.store, create(a_key("a")), create(a_key("b")))
    with engine.store.writing([a_key("a"), a_key("c")]) as transaction:
        assert transaction.head == engine.store.look_up([]).head
        assert set(transaction.routes) == {a_key("a")}
        assert transaction.now > AT_2026


def test_block_that_fails_leaves_nothing(engine: Engine) -> None:
    commit(engine.store, create())
    with pytest.raises(ZeroDivisionError):
        append_and_fail(engine.store, delete(), create(url=OTHER_URL))
    sighting = engine.store.look_up([a_key()])
    assert (sighting.head.revision, sighting.routes[a_key()].revision) == (1, 1)
    assert len(engine.store.changes(ANY, 0, 10).changes) == 1


def test_revision_of_a_failed_block_is_given_again(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), engine.store.writing([a_key()]):
        raise ZeroDivisionError
    commit(engine.store, create())
    assert engine.store.look_up([a_key()]).routes[a_key()].revision == 1


def test_block_that_appends_nothing_changes_nothing(engine: Engine) -> None:
    with engine.store.writing([a_key()]):
        pass
    assert engine.store.look_up([]).head.revision == 0


def test_nobody_sees_a_change_before_its_commit(engine: Engine) -> None:
    with engine.store.writing([a_key()]) as transaction:
        overlay = Overlay(transaction.head, transaction.now, transaction.routes)
        overlay.apply([create()], AUTHOR, is_batch=False)
        transaction.append(overlay.changes, overlay.after)
        with ThreadPoolExecutor(1) as elsewhere:
            seen = elsewhere.submit(engine.store.look_up, [a_key()]).result()
    assert (seen.routes, seen.head.revision) == ({}, 0)


def test_changes_of_a_batch_share_its_end_and_those_of_a_group_do_not(engine: Engine) -> None:
    commit_batches(
        engine.store, [create(a_key("a")), create(a_key("b"))], [create(a_key("c"))], [delete(a_key("a"))]
    )
    found = engine.store.changes(ANY, 0, 10).changes
    assert [(c.revision, c.batch_end) for c in found] == [(1, 2), (2, 2), (3, 3), (4, 4)]


def test_deleted_route_is_gone_and_may_come_back(engine: Engine) -> None:
    commit(engine.store, create(), delete())
    assert engine.store.look_up([a_key()]).routes == {}
    commit(engine.store, create(url=OTHER_URL))
    assert engine.store.look_up([a_key()]).routes[a_key()].revision == 3


def test_route_created_and_deleted_in_one_batch_leaves_two_changes_and_no_route(engine: Engine) -> None:
    commit_batches(engine.store, [create(), delete()])
    assert engine.store.look_up([a_key()]).routes == {}
    assert len(engine.store.changes(ANY, 0, 10).changes) == 2


def test_each_digest_chains_the_change_to_the_one_before(engine: Engine) -> None:
    commit_batches(engine.store, [create(), put(url=OTHER_URL)], [delete()])
    expected, chain = [], CHAIN_START
    for change in engine.store.changes(ANY, 0, 10).changes:
        chain = next_link(chain, change)
        expected.append(chain)
    assert list(engine.chains()) == expected


def test_same_changes_have_the_same_digests_on_every_engine(sql_engine: SqlEngine) -> None:
    fake = MemoryEngine()
    for engine in (fake, sql_engine):
        commit_at(engine.store, AT_2026, create(), put(url=OTHER_URL, is_active=False))
        commit_at(engine.store, AT_2026 + 1, delete(), create(a_key("a~b+c", tenant="Z")))
    assert sql_engine.chains() == fake.chains()


def test_chain_goes_on_after_compaction_of_the_whole_log(engine: Engine) -> None:
    commit(engine.store, create(), deactivate())
    last = engine.chains()[-1]
    engine.compact(1)
    commit(engine.store, delete())
    change = engine.store.changes(ANY, 2, 10).changes[0]
    assert engine.feed().pulse(3).chain == next_link(last, change)


def test_concurrent_writers_number_their_changes_without_gap_or_double(engine: Engine) -> None:
    def write(writer: int) -> None:
        for n in range(5):
            commit(engine.store, create(a_key(f"w{writer}-{n}")))

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(4)))
    assert [c.revision for c in engine.store.changes(ANY, 0, 100).changes] == list(range(1, 21))


def test_reader_of_a_revision_has_all_below_it(engine: Engine) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            page = engine.store.changes(ANY, len(seen), 1000)
            seen.extend(c.revision for c in page.changes)

    with ThreadPoolExecutor(4) as pool:
        reading = pool.submit(read)
        writing = [pool.submit(_write_20, engine.store, name) for name in ("a", "b")]
        for writer in writing:
            writer.result()
        stop.set()
        reading.result()
    assert seen == list(range(1, len(seen) + 1))


def _write_20(store: RouteStore, name: str) -> None:
    for n in range(10):
        commit_batches(store, [create(a_key(f"{name}{n}")), deactivate(a_key(f"{name}{n}"))])


@pytest.mark.servers
def test_changes_go_on_when_the_server_has_forgotten_what_was_prepared(postgres_engine: SqlEngine) -> None:
    commit(postgres_engine.store, create(), delete())
    for _ in range(postgres_engine.settings.pool_max):
        postgres_engine.rows("select 1")
        postgres_engine.run("deallocate all")
    commit(postgres_engine.store, create(), delete())
    assert postgres_engine.store.look_up([]).head.revision == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c._replace(url="https://evil.example.com"),
        lambda c: c._replace(actor="mallory"),
        lambda c: c._replace(occurred_at=c.occurred_at + 1),
        lambda c: c._replace(is_active=not c.is_active),
    ],
)
def test_edited_change_no_longer_fits_its_digest(engine: Engine, change: Callable[..., object]) -> None:
    commit(engine.store, create())
    original = engine.store.changes(ANY, 0, 1).changes[0]
    edited = change(original)
    assert next_link(CHAIN_START, edited) != engine.chains()[0]  # type: ignore[arg-type] # still a change
