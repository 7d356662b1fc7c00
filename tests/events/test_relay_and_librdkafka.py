"""Relay and producer together, against librdkafka's mock cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from tests.events.fakes import a_key
from tests.events.mock_kafka import MockKafka
from tests.events.relaying import Line, kafka_settings
from tests.events.waiting import eventually

KEYS = [a_key(f"v{n}") for n in range(50)]


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    with MockKafka() as kafka:
        yield kafka


@pytest.fixture
def line(kafka: MockKafka) -> Line:
    return Line(kafka_settings(bootstrap_servers=kafka.bootstrap_servers, create_topic=False))


def test_changes_made_while_the_broker_is_down_arrive_when_it_is_back(kafka: MockKafka, line: Line) -> None:
    with line.relaying():
        line.database.change(*KEYS)
        assert line.is_published_in(10)
        kafka.take_down()
        line.database.change(*KEYS, *KEYS)
        kafka.bring_up()
        assert line.is_published_in(10)

    assert line.is_told_by(line.records())


def test_a_broker_that_is_down_at_the_start_is_waited_for(
    kafka: MockKafka, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traffic_manager.events.shift.SILENCE_S", 0.5)
    kafka.take_down()
    line.database.change(*KEYS)
    with capture_logs() as logs, line.relaying():
        assert eventually(lambda: "relay_waits" in [entry["event"] for entry in logs])
        kafka.bring_up()
        assert line.is_published_in(10)

    told = [entry["event"] for entry in logs if entry["event"] in ("relay_waits", "relay_goes_on")]
    assert told == ["relay_waits", "relay_goes_on"]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, id="fatal for the producer"),
        pytest.param(KafkaError.TOPIC_AUTHORIZATION_FAILED, id="failed for now"),
        pytest.param(KafkaError.INVALID_RECORD, id="rejected for now"),
        pytest.param(KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, id="perhaps stored"),
    ],
)
def test_an_error_of_the_broker_loses_nothing(kafka: MockKafka, line: Line, error: int) -> None:
    with line.relaying():
        line.database.change(*KEYS)
        assert line.is_published_in(10)
        kafka.fail_produce([error])
        line.database.change(*KEYS, *KEYS)
        assert line.is_published_in(15)

    assert line.is_told_by(line.records())
