"""Changes become events under the epoch that they belong to, or not at all."""

from __future__ import annotations

import json

import pytest

from tests.events.fakes import OTHER_EPOCH, FakeDatabase, a_key
from tests.routing.builders import commit, create, deactivate, delete
from tests.routing.memory_store import MemoryStore
from traffic_manager.errors import SourceUnavailable
from traffic_manager.events.reader import SLICE_CHANGES, ChangeReader, HistoryForked
from traffic_manager.events.waves import Waves


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


def a_reader(database: FakeDatabase, published: int = 0) -> ChangeReader:
    """Return a reader that has begun."""
    reader = ChangeReader(database)
    reader.begin(published)
    return reader


def revisions(waves: Waves | None) -> list[int]:
    assert waves
    return [outgoing.revision for outgoing in waves.next_wave()]


def test_it_reads_on_after_the_checkpoint(database: FakeDatabase) -> None:
    database.change(a_key("a"), a_key("b"), a_key("c"))

    assert revisions(a_reader(database, published=1).read()) == [2, 3]


def test_at_the_head_there_is_nothing_until_a_change_is_made(database: FakeDatabase) -> None:
    database.change(a_key("a"))
    reader = a_reader(database)
    reader.read()
    assert reader.read() is None

    database.change(a_key("b"))
    assert revisions(reader.read()) == [2]


def test_a_long_log_comes_in_slices(database: FakeDatabase) -> None:
    database.change(*(a_key(f"v{n}") for n in range(SLICE_CHANGES + 5)))
    reader = a_reader(database)

    assert len(revisions(reader.read())) == SLICE_CHANGES
    assert len(revisions(reader.read())) == 5
    assert reader.read() is None


def test_changes_of_other_kinds_send_nothing_and_are_passed(database: FakeDatabase) -> None:
    database.change_of_other_kind()
    waves = a_reader(database).read()

    assert waves
    assert waves.is_complete
    assert waves.acknowledged_upto == 1


def test_an_idle_look_costs_one_statement(database: FakeDatabase) -> None:
    reader = a_reader(database)
    before = database.calls
    reader.read()

    assert database.calls - before == 1


def test_events_carry_the_epoch(database: FakeDatabase) -> None:
    database.epoch, database.epoch_number = OTHER_EPOCH, 4
    database.change(a_key())
    waves = a_reader(database).read()

    assert waves
    value = json.loads(waves.next_wave()[0].event.value)
    assert (value["event_id"], value["epoch_number"]) == (f"{OTHER_EPOCH}:1", 4)


def test_a_new_epoch_is_noticed(database: FakeDatabase) -> None:
    reader = a_reader(database)
    database.epoch, database.epoch_number = OTHER_EPOCH, 2

    with pytest.raises(HistoryForked):
        reader.read()
    assert reader.begin(0) == 0


def test_a_new_epoch_between_slice_and_look_is_noticed(database: FakeDatabase) -> None:
    database.change(a_key())
    reader = a_reader(database)

    def swap() -> None:
        database.epoch = OTHER_EPOCH

    database.on_slice = swap
    with pytest.raises(HistoryForked):
        reader.read()


def test_a_log_that_became_shorter_is_noticed(database: FakeDatabase) -> None:
    database.change(a_key("a"), a_key("b"))
    reader = a_reader(database, published=2)
    database.lose(after=1)

    with pytest.raises(HistoryForked):
        reader.read()


def test_a_log_with_another_past_is_noticed_although_it_is_longer(database: FakeDatabase) -> None:
    database.change(a_key("a"), a_key("b"))
    reader = a_reader(database, published=2)
    database.lose(after=1)
    database.change(a_key("x"), a_key("y"), a_key("z"))

    with pytest.raises(HistoryForked):
        reader.read()


def test_a_forked_history_is_read_again_only_under_a_new_epoch(database: FakeDatabase) -> None:
    database.change(a_key("a"))
    reader = a_reader(database, published=1)
    database.lose(after=0)
    with pytest.raises(HistoryForked):
        reader.read()

    with pytest.raises(HistoryForked):
        reader.begin(0)
    database.epoch, database.epoch_number = OTHER_EPOCH, 2
    assert reader.begin(0) == 0


def test_a_checkpoint_beyond_the_head_falls_back_to_the_head(database: FakeDatabase) -> None:
    database.change(a_key("a"))

    assert ChangeReader(database).begin(published=9) == 1


def test_a_digest_that_is_no_longer_kept_is_no_fork(database: FakeDatabase) -> None:
    database.change(a_key("a"))
    reader = a_reader(database, published=1)
    database.forget_digests()

    assert reader.read() is None


def test_an_error_of_the_database_loses_nothing(database: FakeDatabase) -> None:
    database.change(a_key("a"))
    reader = a_reader(database)
    database.is_away = True
    with pytest.raises(SourceUnavailable):
        reader.read()

    database.is_away = False
    assert revisions(reader.read()) == [1]


def test_it_begins_after_what_is_no_longer_kept() -> None:
    database = MemoryStore()
    commit(database, create(), deactivate(), delete())
    database.compact(2)
    reader = ChangeReader(database)

    assert reader.begin(published=0) == 2
    assert revisions(reader.read()) == [3]
