"""Events sent again by command: all of them, beside the relay, without its checkpoint."""

from __future__ import annotations

import pytest

from tests.events.fakes import FakeDatabase, FakeKafka, a_key
from traffic_manager.errors import StartRefused
from traffic_manager.events.replay import Replayed, replay
from traffic_manager.monitoring.metrics import Metrics


@pytest.fixture
def database() -> FakeDatabase:
    found = FakeDatabase()
    found.change(a_key("a"), a_key("b"), a_key("a"), a_key("c"))
    return found


def replayed(database: FakeDatabase, kafka: FakeKafka, first: int) -> Replayed:
    return replay(database, database, kafka.connect, Metrics(), first)


def test_all_from_the_revision_on_are_sent_and_the_checkpoint_stays(database: FakeDatabase) -> None:
    kafka = FakeKafka()
    assert replayed(database, kafka, first=2) == Replayed(4, [])
    assert sorted(kafka.revisions) == [2, 3, 4]
    assert (database.published, database.checkpoints) == (0, [])


def test_what_was_set_aside_is_forgotten_once_it_is_sent(database: FakeDatabase) -> None:
    database.aside = {1: "too large", 3: "too large"}
    replayed(database, FakeKafka(), first=2)
    assert database.aside == {1: "too large"}


def test_what_is_refused_again_stays_set_aside_and_is_told(database: FakeDatabase) -> None:
    database.aside = {2: "too large", 3: "too large"}
    assert replayed(database, FakeKafka(rejected={3}), first=1) == Replayed(4, [3])
    assert set(database.aside) == {3}


def test_changes_that_are_not_there_cannot_be_sent(database: FakeDatabase) -> None:
    with pytest.raises(StartRefused, match="--from: the newest change has revision 4"):
        replayed(database, FakeKafka(), first=5)
