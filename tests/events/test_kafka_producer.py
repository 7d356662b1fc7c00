"""The adapter to librdkafka, against its mock cluster."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import KafkaError
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.events.fakes import EPOCH, a_change, a_key
from tests.events.mock_kafka import MockKafka
from tests.events.relaying import kafka_settings
from tests.events.topic import read_topic
from tests.events.waiting import eventually
from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events import kafka_producer
from traffic_manager.events.delivery import Delivery, KafkaUnavailable
from traffic_manager.events.envelope import Event, event_of
from traffic_manager.events.kafka_client import client_settings
from traffic_manager.events.kafka_probe import KafkaProbe
from traffic_manager.events.kafka_producer import KafkaProducer

SECRET = "canary-7f3b"


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    with MockKafka() as kafka:
        yield kafka


def settings_of(kafka: MockKafka | None = None, **other: object) -> KafkaSettings:
    """Return settings without creation of the topic, which the mock does not know."""
    servers = kafka.bootstrap_servers if kafka else "127.0.0.1:1"
    return kafka_settings(**{"bootstrap_servers": servers, "create_topic": False} | other)


@contextmanager
def a_producer(settings: KafkaSettings) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(settings)
    try:
        yield producer
    finally:
        producer.close()


def send(producer: KafkaProducer, *revisions: int) -> None:
    for revision in revisions:
        producer.send(revision, event_of(a_change(revision, a_key(f"v{revision}")), EPOCH, 1))


def collect(
    producer: KafkaProducer, is_enough: Callable[[list[Delivery]], bool], timeout_s: float = 10
) -> list[Delivery]:
    """Return the deliveries until they are enough or time is up."""
    deliveries: list[Delivery] = []
    deadline = time.monotonic() + timeout_s
    while not is_enough(deliveries) and time.monotonic() < deadline:
        deliveries += producer.wait(0.1)
    return deliveries


def test_an_event_arrives_with_key_value_and_headers(kafka: MockKafka) -> None:
    event = event_of(a_change(), EPOCH, 1)
    with a_producer(settings_of(kafka)) as producer:
        assert producer.is_ready()
        producer.send(1, event)
        assert collect(producer, bool) == [Delivery(1, None)]

    [record] = read_topic(kafka.bootstrap_servers, until=bool)
    assert (record.key, record.value) == (event.key, event.value)
    assert record.headers == dict(event.headers)


def test_a_key_always_goes_to_one_partition_and_keys_are_spread(kafka: MockKafka) -> None:
    with a_producer(settings_of(kafka)) as producer:
        for _ in range(2):
            send(producer, *range(40))
        collect(producer, lambda deliveries: len(deliveries) == 80)

    records = read_topic(kafka.bootstrap_servers, until=lambda records: len(records) == 80)
    places = {(record.key, record.partition) for record in records}
    assert len(places) == 40
    assert len({partition for _, partition in places}) == 4


def test_a_key_goes_where_javas_clients_send_it(kafka: MockKafka) -> None:
    # From the tests of Kafka's own murmur2.
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-longer-string": -1486304829}
    with a_producer(settings_of(kafka)) as producer:
        for revision, key in enumerate(hashes):
            producer.send(revision, Event(key, b"{}", ()))
        collect(producer, lambda deliveries: len(deliveries) == len(hashes))
    records = read_topic(kafka.bootstrap_servers, until=lambda records: len(records) == len(hashes))
    expected = {key: (value & 0x7FFFFFFF) % 4 for key, value in hashes.items()}
    assert {record.key: record.partition for record in records} == expected


def test_librdkafka_gives_no_event_up_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(kafka_producer, "Producer", lambda settings, **_: given.update(settings))
    KafkaProducer(settings_of(create_topic=False))
    assert given["message.timeout.ms"] == 0  # for ever: after its own time it would drop what it cannot send


def test_events_wait_while_the_broker_is_down(kafka: MockKafka) -> None:
    with a_producer(settings_of(kafka)) as producer:
        send(producer, 1)
        collect(producer, bool)
        kafka.take_down()
        send(producer, 2, 3)
        assert collect(producer, bool, timeout_s=1) == []
        assert producer.last_error

        kafka.bring_up()
        assert len(collect(producer, lambda deliveries: len(deliveries) == 2)) == 2
    assert len(read_topic(kafka.bootstrap_servers, until=lambda records: len(records) == 3)) == 3


def test_errors_that_pass_are_not_seen(kafka: MockKafka) -> None:
    kafka.fail_produce([KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.REQUEST_TIMED_OUT])
    with a_producer(settings_of(kafka)) as producer:
        send(producer, 1)

        assert collect(producer, bool) == [Delivery(1, None)]


def test_a_slow_broker_is_waited_for(kafka: MockKafka) -> None:
    with a_producer(settings_of(kafka)) as producer:
        send(producer, 1)
        collect(producer, bool)
        kafka.answer_slowly(500)
        send(producer, 2)

        assert producer.wait(0.1) == []
        assert collect(producer, bool) == [Delivery(2, None)]


@pytest.mark.parametrize(
    ("error", "is_rejection"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, True),
        (KafkaError.INVALID_RECORD, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False),
    ],
)
def test_an_event_that_kafka_refuses_is_told(kafka: MockKafka, error: int, is_rejection: bool) -> None:
    kafka.fail_produce([error])
    with a_producer(settings_of(kafka)) as producer:
        send(producer, 1)
        [delivery] = collect(producer, bool)

        assert delivery.failure
        assert delivery.failure.is_rejection == is_rejection


def test_an_event_that_librdkafka_refuses_is_told_the_same_way(kafka: MockKafka) -> None:
    large = event_of(a_change(actor="a" * 2_000_000), EPOCH, 1)
    with a_producer(settings_of(kafka)) as producer:
        producer.send(1, large)
        [delivery] = producer.wait(0)

        assert delivery.failure
        assert delivery.failure.is_rejection


def test_a_producer_that_cannot_go_on_says_so(kafka: MockKafka) -> None:
    """As after a broker was frozen: https://github.com/confluentinc/librdkafka/issues/3584."""
    kafka.fail_produce([KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
    with a_producer(settings_of(kafka)) as producer:
        send(producer, 1)

        with pytest.raises(KafkaUnavailable, match="sequence"):
            collect(producer, lambda _: False)


def test_closing_does_not_wait_for_a_broker(kafka: MockKafka) -> None:
    producer = KafkaProducer(settings_of(kafka))
    send(producer, 1)
    collect(producer, bool)
    kafka.take_down()
    send(producer, 2)
    producer.wait(0.1)

    began = time.monotonic()
    producer.close()
    assert time.monotonic() - began < 1


def test_without_a_broker_the_topic_is_not_ready_and_then_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("traffic_manager.events.kafka_topic._ANSWER_TIMEOUT_S", 1.0)
    with a_producer(settings_of(create_topic=True)) as producer:
        assert not producer.is_ready()
        with pytest.raises(KafkaUnavailable):
            eventually(producer.is_ready)


def test_a_wrong_setting_is_unavailable_with_the_reason() -> None:
    with pytest.raises(KafkaUnavailable, match=r"ssl\.ca\.location"):
        KafkaProducer(settings_of(security_protocol="SSL", ssl_ca_location="/nowhere/ca.pem"))


def test_the_login_reaches_librdkafka() -> None:
    chosen = client_settings(
        settings_of(
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username="relay",
            sasl_password=SecretStr(SECRET),
            ssl_ca_location="/etc/ca.pem",
        )
    )

    assert chosen["security.protocol"] == "SASL_SSL"
    assert chosen["sasl.mechanism"] == "SCRAM-SHA-512"
    assert (chosen["sasl.username"], chosen["sasl.password"]) == ("relay", SECRET)
    assert chosen["ssl.ca.location"] == "/etc/ca.pem"


def test_without_a_login_no_secret_is_passed_on() -> None:
    assert not [
        name for name in client_settings(settings_of(sasl_password=SecretStr(SECRET))) if "sasl" in name
    ]


def test_the_password_is_in_no_log_line_and_no_error(kafka: MockKafka) -> None:
    login = {
        "sasl_username": "relay",
        "sasl_password": SecretStr(SECRET),
        "security_protocol": "SASL_PLAINTEXT",
    }
    settings = settings_of(kafka, **login)
    with capture_logs() as logs, a_producer(settings) as producer:
        send(producer, 1)
        collect(producer, lambda _: producer.last_error is not None)
        with pytest.raises(KafkaUnavailable) as raised:
            KafkaProbe(settings).check(0.5)

    assert [line for line in logs if line["event"] == "librdkafka"], "librdkafka's log comes to ours"
    assert producer.last_error
    assert SECRET not in f"{logs} {producer.last_error!r} {raised.value!r}"


def test_closed_producer_leaves_no_thread_behind(kafka: MockKafka) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    gc.collect()
    gc.disable()
    try:
        before = threads()
        with a_producer(settings_of(kafka, create_topic=True)):
            assert threads() > before
        assert threads() <= before
    finally:
        gc.enable()
