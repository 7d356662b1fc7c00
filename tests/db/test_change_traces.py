"""What a change is a part of is kept with it, for as long as the relay may need it, and read with the log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.db.engines import Engine, SqlEngine
from tests.routing.builders import AUTHOR, a_key, create, put
from traffic_manager.db.change_traces import KEPT_CHANGES
from traffic_manager.db.store import SqlStore
from traffic_manager.monitoring.spans import Parent
from traffic_manager.routing.model import Trace
from traffic_manager.routing.operations import Operation, Overlay
from traffic_manager.routing.ports import RouteStore, WriteTransaction

TRACE = Trace(f"00-{'a' * 32}-{'b' * 16}-01", "vendor=1")
OTHER = Trace(f"00-{'c' * 32}-{'d' * 16}-01")


def change(store: RouteStore, *wishes: tuple[Operation, Trace | None]) -> None:
    """Make one change of each wish, for a request that is part of the trace, in one transaction."""
    with store.writing([operation.key for operation, _ in wishes]) as transaction:
        overlay = Overlay(transaction.head, transaction.now, transaction.routes)
        for operation, trace in wishes:
            overlay.apply([operation], replace(AUTHOR, trace=trace), is_batch=False)
        transaction.append(overlay.changes, overlay.after)
        if overlay.traces:
            transaction.trace(overlay.traces)


def _trace_and_fail(transaction: WriteTransaction) -> None:
    transaction.trace({4: TRACE})
    raise ZeroDivisionError


def test_traces_are_read_with_their_changes(engine: Engine) -> None:
    change(engine.store, (create(), TRACE), (create(a_key("b")), None), (create(a_key("c")), OTHER))
    found = engine.feed().slice(0, 1000)
    assert found is not None
    assert (found.upto, found.traces) == (3, {1: TRACE, 3: OTHER})
    later = engine.feed().slice(1, 1000)
    assert later is not None
    assert later.traces == {3: OTHER}


def test_log_and_its_digests_are_the_same_with_traces_and_without(engine: Engine) -> None:
    change(engine.store, (create(), TRACE))
    [digest] = engine.chains()
    found = engine.feed().slice(0, 1000)
    assert found is not None
    assert found.chain == digest
    assert not any(TRACE.parent in str(field) for field in found.changes[0])


def test_traces_of_the_newest_changes_alone_are_kept(sql_engine: SqlEngine) -> None:
    change(sql_engine.store, (create(), TRACE), (create(a_key("b")), TRACE))
    sql_engine.run("update changes set revision = :to, batch_end = :to where revision = 2", to=KEPT_CHANGES)
    sql_engine.run("update change_traces set revision = :to where revision = 2", to=KEPT_CHANGES)
    change(sql_engine.store, (put(url="https://other.example.com"), OTHER))
    kept = sql_engine.rows("select revision from change_traces order by revision")
    assert kept == [(KEPT_CHANGES,), (KEPT_CHANGES + 1,)]


def test_a_change_without_a_trace_writes_none(sql_engine: SqlEngine) -> None:
    change(sql_engine.store, (create(), None))
    assert sql_engine.rows("select count(*) from change_traces") == [(0,)]


def test_a_row_that_is_in_the_way_keeps_no_change_from_being_made(sql_engine: SqlEngine) -> None:
    sql_engine.run("insert into change_traces (revision, traceparent) values (1, 'x')")
    change(sql_engine.store, (create(), TRACE))
    assert sql_engine.store.look_up([a_key()]).head.revision == 1


@pytest.mark.parametrize("parent", ["", "x", "00-zz-01", f"00-{'0' * 32}-{'b' * 16}-01"])
def test_what_somebody_else_has_put_there_is_no_trace(sql_engine: SqlEngine, parent: str) -> None:
    change(sql_engine.store, (create(), TRACE))
    sql_engine.run("update change_traces set traceparent = :parent", parent=parent)
    found = sql_engine.feed().slice(0, 1000)
    assert found is not None
    assert found.traces == {}


def test_writing_is_told_of_once_for_each_request_when_it_is_committed(sql_engine: SqlEngine) -> None:
    told: list[Parent] = []
    store = SqlStore(sql_engine.database, lambda parent, *_: told.append(parent))
    change(store, (create(), TRACE), (create(a_key("b")), TRACE), (create(a_key("c")), OTHER))
    assert sorted(told) == sorted([TRACE, OTHER])
    with pytest.raises(ZeroDivisionError), store.writing([a_key("d")]) as transaction:
        _trace_and_fail(transaction)
    assert len(told) == 2
