"""The log as a follower reads it, from every engine."""

from __future__ import annotations

import pytest

from tests.db.engines import Engine, SqlEngine
from tests.routing.builders import (
    OTHER_EPOCH,
    OTHER_URL,
    URL,
    a_key,
    commit,
    commit_batches,
    create,
    deactivate,
    delete,
    put,
)
from traffic_manager.errors import RevisionGap, SchemaMismatch
from traffic_manager.routing.chain import CHAIN_START
from traffic_manager.routing.ports import Entry


def test_pulse_of_an_empty_log_is_revision_0_and_the_first_digest(engine: Engine) -> None:
    pulse = engine.feed().pulse(0)
    assert (pulse.head.revision, pulse.chain) == (0, CHAIN_START)


def test_pulse_tells_the_head_and_the_digest_where_asked(engine: Engine) -> None:
    commit(engine.store, create(), deactivate())
    pulse = engine.feed().pulse(1)
    assert (pulse.head.revision, pulse.chain) == (2, engine.chains()[0])


def test_pulse_has_no_digest_beyond_the_head(engine: Engine) -> None:
    commit(engine.store, create())
    assert engine.feed().pulse(2).chain is None


def test_pulse_has_no_digest_below_the_compacted_revision_but_one_at_it(engine: Engine) -> None:
    commit(engine.store, create(), deactivate(), delete())
    chains = list(engine.chains())
    engine.compact(2)
    feed = engine.feed()
    assert [feed.pulse(at).chain for at in (1, 2, 3)] == [None, chains[1], chains[2]]


def test_pulse_sees_another_epoch_at_once(engine: Engine) -> None:
    feed = engine.feed()
    feed.pulse(0)
    engine.begin_epoch(OTHER_EPOCH)
    assert (feed.pulse(0).head.epoch, feed.pulse(0).head.epoch_number) == (OTHER_EPOCH, 2)


def test_history_leaves_its_epoch_for_the_next_once(engine: Engine) -> None:
    commit(engine.store, create())
    feed = engine.feed()
    forked = feed.pulse(0).head
    feed.leave_epoch(forked.epoch)
    feed.leave_epoch(forked.epoch)
    begun = feed.pulse(0).head
    assert (begun.epoch_number, begun.revision) == (forked.epoch_number + 1, forked.revision)
    assert begun.epoch8 != forked.epoch8


def test_next_epoch_comes_after_one_that_is_known_elsewhere(engine: Engine) -> None:
    feed = engine.feed()
    feed.leave_epoch(feed.pulse(0).head.epoch, 7)
    assert feed.pulse(0).head.epoch_number == 8


def test_pulse_brings_what_follows_if_asked_to(engine: Engine) -> None:
    commit(engine.store, create(), deactivate(), delete())
    pulse = engine.feed().pulse(1, 10)
    assert (pulse.head.revision, pulse.chain, pulse.changes) == (
        3,
        engine.chains()[0],
        engine.feed().slice(1, 10),
    )


def test_pulse_at_the_head_brings_nothing(engine: Engine) -> None:
    assert engine.feed().pulse(0, 10).changes is None
    commit(engine.store, create())
    assert engine.feed().pulse(1, 10).changes is None


def test_pulse_brings_whole_batches_only(engine: Engine) -> None:
    commit_batches(engine.store, [create()], [create(a_key(s)) for s in "abc"])
    found = engine.feed().pulse(0, 3).changes
    assert found is not None
    assert found.upto == 1


def test_pulse_below_the_compacted_revision_brings_nothing(engine: Engine) -> None:
    commit(engine.store, create(), deactivate(), delete())
    engine.compact(2)
    pulse = engine.feed().pulse(1, 10)
    assert (pulse.chain, pulse.changes) == (None, None)


def test_pulse_that_finds_a_change_missing_is_a_gap(engine: Engine) -> None:
    commit(engine.store, *(create(a_key(s)) for s in "abc"))
    engine.lose_change(2)
    with pytest.raises(RevisionGap):
        engine.feed().pulse(1, 10)


def test_slice_at_the_head_is_none(engine: Engine) -> None:
    commit(engine.store, create())
    assert engine.feed().slice(1, 10) is None


def test_slice_holds_the_changes_after_and_the_digest_at_its_end(engine: Engine) -> None:
    commit(engine.store, create(), deactivate(), delete())
    found = engine.feed().slice(1, 10)
    assert found is not None
    assert (found.upto, [c.revision for c in found.changes], found.chain) == (3, [2, 3], engine.chains()[2])


def test_changes_come_in_the_order_of_their_revisions_whatever_the_clock_said(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(), deactivate(), delete())
    sql_engine.run("update changes set occurred_at = 1000 - revision")
    feed = sql_engine.feed()
    for changes in (feed.slice(0, 10), feed.pulse(0, 10).changes):
        assert changes
        assert [change.revision for change in changes.changes] == [1, 2, 3]


@pytest.mark.parametrize(("limit", "upto"), [(1, 1), (2, 1), (3, 1), (4, 4), (5, 5)])
def test_slice_never_cuts_a_batch(engine: Engine, limit: int, upto: int) -> None:
    batch = [create(a_key(s)) for s in "abc"]
    commit_batches(engine.store, [create()], batch, [delete()])
    found = engine.feed().slice(0, limit)
    assert found is not None
    assert (found.upto, found.changes[-1].revision) == (upto, upto)


def test_slice_passes_over_other_kinds_but_counts_them(engine: Engine) -> None:
    commit(engine.store, create())
    engine.add_change_of_other_kind()
    engine.add_change_of_other_kind()
    found = engine.feed().slice(0, 10)
    assert found is not None
    assert (found.upto, [c.revision for c in found.changes]) == (3, [1])
    assert found.chain == engine.feed().pulse(3).chain


@pytest.mark.parametrize("after", [0, 1])
def test_slice_with_a_missing_row_is_a_gap_that_says_where(engine: Engine, after: int) -> None:
    commit(engine.store, *(create(a_key(s)) for s in "abc"))
    engine.lose_change(2)
    with pytest.raises(RevisionGap) as gap:
        engine.feed().slice(after, 10)
    assert (gap.value.expected, gap.value.found) == (2, 3)


def test_table_is_the_active_routes_with_head_and_digest(engine: Engine) -> None:
    commit(engine.store, create(), create(a_key("off")), deactivate(a_key("off")))
    commit(engine.store, create(a_key("gone")), delete(a_key("gone")), put(url=OTHER_URL))
    table = engine.feed().table(10, 10)
    assert table.entries == {str(a_key()): Entry(OTHER_URL, 6)}
    assert (table.head.revision, table.chain) == (6, engine.chains()[-1])


def test_table_of_an_empty_database_is_empty_at_revision_0(engine: Engine) -> None:
    table = engine.feed().table(10, 10)
    assert (table.head.revision, table.chain, table.entries) == (0, CHAIN_START, {})
    assert (list(table.recent), table.floor) == ([], 0)


@pytest.mark.parametrize(("window", "floor"), [(0, 3), (2, 1), (3, 0), (10, 0)])
def test_table_brings_the_last_changes_of_the_window(engine: Engine, window: int, floor: int) -> None:
    commit(engine.store, *(create(a_key(s)) for s in "abc"))
    table = engine.feed().table(10, window)
    expected = [(n, f"team-a/{s}/prod/v2") for n, s in enumerate("abc", 1) if n > floor]
    assert (list(table.recent), table.floor) == (expected, floor)


def test_window_has_no_keys_of_other_kinds(engine: Engine) -> None:
    commit(engine.store, create())
    engine.add_change_of_other_kind()
    table = engine.feed().table(10, 10)
    assert (list(table.recent), table.head.revision) == ([(1, str(a_key()))], 2)


def test_table_without_routes_still_has_head_and_window(engine: Engine) -> None:
    commit(engine.store, create())
    table = engine.feed().table(0, 10)
    assert (table.entries, table.head.revision, len(table.recent)) == ({}, 1, 1)


def test_table_takes_as_many_routes_as_allowed_and_counts_the_others(engine: Engine) -> None:
    commit(engine.store, create(a_key("a")), create(a_key("b")), put(a_key("off"), is_active=False))
    whole = engine.feed().table(2, 10)
    assert (len(whole.entries), whole.beyond) == (2, 0)
    commit(engine.store, create(a_key("c")), create(a_key("d")), create(a_key("e")))
    part = engine.feed().table(2, 10)
    assert (len(part.entries), part.beyond) == (2, 3)
    assert engine.feed().table(0, 10).beyond == 0


def test_feed_works_again_after_an_error(engine: Engine) -> None:
    feed = engine.feed()
    commit(engine.store, create(a_key("a")), create(a_key("b")))
    engine.lose_change(1)
    with pytest.raises(RevisionGap):
        feed.slice(0, 10)
    assert feed.pulse(0).head.revision == 2


def test_closed_feed_opens_again_when_used(engine: Engine) -> None:
    feed = engine.feed()
    feed.pulse(0)
    feed.close()
    assert feed.pulse(0).head.revision == 0


def test_snapshot_of_the_table_is_one_moment(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(a_key("before")))
    connection = sql_engine.database.connect()
    try:
        with connection.snapshot() as session:
            first = session.row("select count(*) from changes")
            commit(sql_engine.store, create(a_key("meanwhile")))
            again = session.row("select count(*) from changes")
    finally:
        connection.close()
    assert first == again == (1,)


def test_row_that_cannot_be_a_route_is_passed_over_and_reported(sql_engine: SqlEngine) -> None:
    bad: list[None] = []
    commit(sql_engine.store, create(), create(a_key("bad")))
    sql_engine.run("update routes set url = '' where service = 'bad'")
    table = sql_engine.feed(lambda: bad.append(None)).table(10, 10)
    assert (table.entries, len(bad)) == ({str(a_key()): Entry(URL, 1)}, 1)


def test_database_without_its_row_of_meta_is_refused(sql_engine: SqlEngine) -> None:
    row = sql_engine.rows("select id, epoch, epoch_number, compacted_revision, compacted_chain from meta")[0]
    sql_engine.run("delete from meta")
    try:
        with pytest.raises(SchemaMismatch, match="restore the database"):
            sql_engine.feed().pulse(0)
        with pytest.raises(SchemaMismatch):
            sql_engine.store.look_up([a_key()])
    finally:
        names = ("id", "epoch", "epoch_number", "compacted_revision", "compacted_chain")
        sql_engine.run(
            "insert into meta values (:id, :epoch, :epoch_number, :compacted_revision, :compacted_chain)",
            **dict(zip(names, row, strict=True)),
        )


def test_table_brings_no_window_from_below_the_compacted_revision(engine: Engine) -> None:
    commit(engine.store, create(), deactivate(), delete())
    engine.compact(2)
    table = engine.feed().table(10, window=100)
    assert (table.floor, [revision for revision, _ in table.recent]) == (2, [3])
