"""Old changes are forgotten in whole pieces, and nothing that somebody still needs."""

from __future__ import annotations

import pytest

from tests.db.engines import Engine, SqlEngine
from tests.routing.builders import a_key, commit, commit_batches, create, deactivate, delete, put
from traffic_manager.db import retention
from traffic_manager.db.retention import Compaction, compact
from traffic_manager.routing.chain import next_link
from traffic_manager.routing.leases import RELAY_LEASE
from traffic_manager.routing.ports import NameFilter

# Later than any change that the tests make.
LATER = 2**60


def _made_at(engine: SqlEngine, revision: int, occurred_at: int) -> None:
    engine.run(
        "update changes set occurred_at = :at where revision = :revision", at=occurred_at, revision=revision
    )


def _kept(engine: Engine) -> list[int]:
    return [change.revision for change in engine.store.changes(NameFilter(), 0, 100).changes]


def test_changes_older_than_asked_are_forgotten_and_the_newest_stay(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), deactivate(), delete(), create())
    assert compact(sql_engine.database, LATER, kept=2) == Compaction(2, 2)
    assert _kept(sql_engine) == [3, 4]


def test_the_newest_change_always_stays(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), deactivate())
    compact(sql_engine.database, LATER, kept=1)
    assert _kept(sql_engine) == [2]
    assert sql_engine.store.look_up([]).head.revision == 2


def test_nothing_newer_than_asked_is_forgotten(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), deactivate(), delete(), create())
    _made_at(sql_engine, 1, 100)
    _made_at(sql_engine, 2, 200)
    assert compact(sql_engine.database, 200, kept=1) == Compaction(1, 1)


def test_a_batch_is_kept_whole(sql_engine: SqlEngine) -> None:
    commit_batches(sql_engine.store, [create()], [create(a_key(s)) for s in "abc"], [put(a_key("d"))])
    assert compact(sql_engine.database, LATER, kept=2) == Compaction(1, 1)
    assert _kept(sql_engine) == [2, 3, 4, 5]


def test_what_the_relay_has_not_sent_stays(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), deactivate(), delete(), create())
    lease = sql_engine.leases.acquire(RELAY_LEASE, "one", 10)
    assert lease
    sql_engine.leases.publish(lease, 1)
    assert compact(sql_engine.database, LATER, kept=1) == Compaction(1, 1)


def test_nothing_goes_where_events_go_to_kafka_and_none_has_been_sent_yet(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), deactivate())
    assert compact(sql_engine.database, LATER, kept=1, has_kafka=True) == Compaction(0, 0)
    assert compact(sql_engine.database, LATER, kept=1, has_kafka=False) == Compaction(1, 1)


def test_compaction_that_fails_half_way_leaves_boundary_and_changes(
    sql_engine: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(sql_engine.store, create(), deactivate())
    monkeypatch.setattr(retention, "_FORGET", "delete from nothing where revision <= :upto")
    with pytest.raises(Exception, match=r"nothing|migrate"):
        compact(sql_engine.database, LATER, kept=1)
    assert sql_engine.store.changes(NameFilter(), 0, 10).compacted_revision == 0
    assert _kept(sql_engine) == [1, 2]


def test_a_second_run_goes_on_where_the_first_ended(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), deactivate())
    compact(sql_engine.database, LATER, kept=1)
    assert compact(sql_engine.database, LATER, kept=1) == Compaction(1, 0)
    commit(sql_engine.store, delete())
    assert compact(sql_engine.database, LATER, kept=1) == Compaction(2, 1)


def test_more_than_a_step_is_forgotten_in_one_run(sql_engine: SqlEngine) -> None:
    for first in range(0, 6000, 1000):
        commit_batches(sql_engine.store, [create(a_key(f"s{first + i}")) for i in range(1000)])
    assert compact(sql_engine.database, LATER, kept=1000) == Compaction(5000, 5000)


def test_the_chain_goes_on_from_the_boundary(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), deactivate(), delete())
    chains = list(sql_engine.chains())
    compact(sql_engine.database, LATER, kept=1)
    commit(sql_engine.store, create())
    third, fourth = sql_engine.store.changes(NameFilter(), 2, 10).changes
    boundary = sql_engine.feed().pulse(2).chain
    assert boundary == chains[1]
    assert boundary is not None
    assert list(sql_engine.chains()) == [
        next_link(boundary, third),
        next_link(next_link(boundary, third), fourth),
    ]
