"""The relay over the real tables: what the fakes claim of the database holds there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.db.engines import SqlEngine, sqlite_settings
from tests.events.fakes import FakeKafka
from tests.events.waiting import eventually
from tests.routing.builders import a_key, commit, create, deactivate, put
from traffic_manager.db.leases import SqlLeases
from traffic_manager.db.migrate import migrate
from traffic_manager.db.retention import compact
from traffic_manager.db.telling import SqlTelling
from traffic_manager.events.backlog import backlog
from traffic_manager.events.relay import Relay
from traffic_manager.events.retelling import Retelling
from traffic_manager.monitoring.metrics import Metrics


def a_relay(engine: SqlEngine, kafka: FakeKafka) -> Relay:
    """Return a relay that has not been started."""
    retell = partial(Retelling, SqlTelling(engine.database), kafka.reader)
    return Relay(engine.leases, engine.feed(), kafka.connect, retell, Metrics(), "one")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    settings = sqlite_settings(tmp_path)
    migrate(settings)
    engine = SqlEngine(settings)
    yield engine
    engine.close()


def test_changes_are_relayed_and_the_next_relay_goes_on_behind_them(engine: SqlEngine) -> None:
    kafka = FakeKafka()
    commit(engine.store, create(), put(url="https://other.example.com"))
    engine.add_change_of_other_kind()
    for count in (2, 3):
        relay = a_relay(engine, kafka)
        relay.start()
        assert eventually(lambda count=count: len(kafka.records) == count)  # type: ignore[misc] # bound now
        assert relay.stop()
        commit(engine.store, deactivate())

    assert kafka.revisions == [1, 2, 4]
    assert engine.leases.published_revision("relay") == 4


def test_a_new_epoch_is_taken_up(engine: SqlEngine) -> None:
    kafka = FakeKafka()
    commit(engine.store, create())
    relay = a_relay(engine, kafka)
    relay.start()
    assert eventually(lambda: kafka.revisions == [1])
    engine.begin_epoch("f" * 32)
    commit(engine.store, deactivate(a_key()))
    assert eventually(lambda: kafka.revisions[-1] == 2)
    relay.stop()

    assert kafka.records[-1][1].headers[1] == ("ce_id", b"f" * 32 + b":2")


def test_in_a_new_epoch_every_route_is_told_as_its_last_change(engine: SqlEngine) -> None:
    kafka = FakeKafka()
    commit(
        engine.store,
        create(),
        put(url="https://other.example.com"),
        create(a_key("s2")),
        deactivate(a_key("s2")),
    )
    relay = a_relay(engine, kafka)
    relay.start()
    assert eventually(lambda: sorted(kafka.revisions) == [1, 2, 3, 4])
    engine.begin_epoch("f" * 32)
    assert eventually(lambda: len(kafka.records) == 6)
    relay.stop()

    again = [json.loads(event.value) for _, event in kafka.records[4:]]
    before = {json.loads(event.value)["revision"]: json.loads(event.value) for _, event in kafka.records[:4]}
    assert {event["revision"] for event in again} == {2, 4}
    for event in again:
        assert event == before[event["revision"]] | {
            "epoch_number": 2,
            "event_id": f"{'f' * 32}:{event['revision']}",
        }


def test_a_route_is_told_though_its_change_is_no_longer_kept(engine: SqlEngine) -> None:
    kafka = FakeKafka()
    commit(engine.store, create(), create(a_key("s2")))
    compact(engine.database, 2**60, kept=1)
    engine.begin_epoch("f" * 32)
    relay = a_relay(engine, kafka)
    relay.start()
    assert eventually(lambda: {1, 2} <= set(kafka.revisions))
    relay.stop()

    told = json.loads(next(event.value for revision, event in kafka.records if revision == 1))
    assert (told["url"], told["is_active"], told["action"]) == (
        "https://payments.example.com/v2",
        True,
        "updated",
    )


def test_routes_are_told_whose_changes_were_forgotten_before_anybody_relayed(engine: SqlEngine) -> None:
    kafka = FakeKafka()
    commit(engine.store, create(), create(a_key("s2")), create(a_key("s3")))
    compact(engine.database, 2**60, kept=1)
    relay = a_relay(engine, kafka)
    relay.start()
    assert eventually(lambda: engine.leases.published_revision("relay") == 3)
    relay.stop()
    assert set(kafka.revisions) == {1, 2, 3}
    told = len(kafka.records)
    again = a_relay(engine, kafka)
    again.start()
    commit(engine.store, deactivate())
    assert eventually(lambda: engine.leases.published_revision("relay") == 4)
    again.stop()
    assert kafka.revisions[told:] == [4], "once is enough"


def test_the_backlog_is_measured(engine: SqlEngine) -> None:
    commit(engine.store, create(), deactivate())
    assert isinstance(engine.leases, SqlLeases)
    found = backlog(engine.leases, head_revision=2, now=lambda: 4e9)

    assert found.events == 2
    assert found.age_s > 0
