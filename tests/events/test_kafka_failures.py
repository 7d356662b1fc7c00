"""Kafka is killed, frozen and absent while changes are made."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from tests.events.fakes import FakeDatabase, a_key
from tests.events.relaying import Line, kafka_settings
from tests.events.waiting import eventually
from tests.servers import KafkaServer

pytestmark = pytest.mark.servers

KEYS = [a_key(f"v{n}") for n in range(200)]


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with KafkaServer() as server:
        yield server


@pytest.fixture
def line(kafka: KafkaServer, request: pytest.FixtureRequest) -> Line:
    """Return a line to a topic of the test's own."""
    settings = kafka_settings(bootstrap_servers=kafka.bootstrap_servers, route_events_topic=request.node.name)
    return Line(settings)


@contextmanager
def being_changed(database: FakeDatabase, per_second: int = 200) -> Iterator[None]:
    """Let changes be made all the time."""
    ends = threading.Event()

    def change() -> None:
        chosen = random.Random(7)
        while not ends.wait(1 / per_second):
            database.change(chosen.choice(KEYS))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def test_a_broker_killed_while_changes_are_made_loses_nothing(line: Line, kafka: KafkaServer) -> None:
    with line.relaying():
        with being_changed(line.database):
            assert eventually(lambda: line.database.published > 100, timeout_s=20)
            for _ in range(2):
                kafka.kill()
                made = len(line.database.changes)
                assert eventually(lambda: len(line.database.changes) > made + 100)  # noqa: B023 used at once
                kafka.start()
                assert eventually(lambda: line.database.published > made + 100, timeout_s=30)  # noqa: B023
        assert line.is_published_in(30)

    records = line.records()
    assert {record.revision for record in records} == set(range(1, len(line.database.changes) + 1))
    assert line.is_told_by(records)


def test_a_broker_frozen_while_changes_are_made_loses_nothing(
    line: Line, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long enough for a second producer, which sends again what the first one's connection may still hold."""
    monkeypatch.setattr("traffic_manager.events.shift.SILENCE_S", 1.0)
    monkeypatch.setattr("traffic_manager.events.shift.PATIENCE_S", 2.0)
    with capture_logs() as logs, line.relaying():
        with being_changed(line.database):
            assert eventually(lambda: line.database.published > 100, timeout_s=20)
            kafka.freeze()
            assert eventually(lambda: "relay_waits" in [entry["event"] for entry in logs])
            time.sleep(3)  # how long it is frozen is what is tested
            kafka.thaw()
            made = len(line.database.changes)
            assert eventually(lambda: line.database.published > made, timeout_s=40)
        assert line.is_published_in(30)

    assert line.is_told_by(line.records())


def test_a_backlog_of_10_000_is_drained_within_a_minute_of_kafkas_start(
    line: Line, kafka: KafkaServer
) -> None:
    kafka.stop()
    chosen = random.Random(3)
    line.database.change(*(chosen.choice(KEYS) for _ in range(10_000)))
    with capture_logs() as logs, line.relaying():
        assert eventually(lambda: "relay_waits" in [entry["event"] for entry in logs], timeout_s=20)
        kafka.start()
        assert line.is_published_in(60)

    assert line.is_told_by(line.records())
