"""From the log to a real topic and to a consumer."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # re-exported without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from structlog.testing import capture_logs

from tests.events.fakes import FakeDatabase, a_key, expected_by_key
from tests.events.relaying import Line, kafka_settings
from tests.events.waiting import eventually
from tests.servers import KafkaServer
from traffic_manager.events.delivery import KafkaUnavailable
from traffic_manager.events.kafka_probe import KafkaProbe
from traffic_manager.events.replay import Replayed

pytestmark = pytest.mark.servers

KEYS = [a_key(f"v{n}") for n in range(200)]


class Crash(BaseException):
    """Ends the thread as SIGKILL would end the process: nothing is tidied up."""


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with KafkaServer() as server:
        yield server


@pytest.fixture
def line(kafka: KafkaServer, request: pytest.FixtureRequest) -> Line:
    """Return a line to a topic of the test's own."""
    topic = request.node.name[:200]
    return Line(kafka_settings(bootstrap_servers=kafka.bootstrap_servers, route_events_topic=topic))


def change_at_random(database: FakeDatabase, count: int, seed: int = 1) -> None:
    """Make *count* changes; a few routes get most of them."""
    chosen = random.Random(seed)
    database.change(*(KEYS[int(chosen.paretovariate(0.5)) % len(KEYS)] for _ in range(count)))


def test_every_change_arrives_once_and_in_the_order_of_its_route(line: Line) -> None:
    change_at_random(line.database, 3000)
    with line.relaying() as relay:
        for seed in range(20):
            change_at_random(line.database, 100, seed)
            relay.wake()
        assert line.is_published_in(30)

    by_key: dict[bytes, list[int]] = {}
    for record in line.records(5000):
        by_key.setdefault(record.key, []).append(record.revision)
    assert by_key == expected_by_key(line.database.changes)


def test_a_missing_topic_is_created_as_the_settings_say(line: Line, kafka: KafkaServer) -> None:
    line.settings = line.settings.model_copy(update={"topic_partitions": 7})
    line.database.change(*KEYS)
    with line.relaying():
        assert line.is_published_in(20)

    assert len(partitions_of(line, kafka)) == 7


def test_a_topic_that_exists_stays_as_it_is(line: Line, kafka: KafkaServer) -> None:
    kafka.create_topic(line.settings.route_events_topic, partitions=2)
    line.database.change(*KEYS)
    with line.relaying():
        assert line.is_published_in(20)

    assert len(partitions_of(line, kafka)) == 2


def test_without_leave_to_create_the_topic_it_waits_for_it(line: Line, kafka: KafkaServer) -> None:
    line.settings = line.settings.model_copy(update={"create_topic": False})
    line.database.change(*KEYS)
    with line.relaying():
        assert not line.is_published_in(1)
        kafka.create_topic(line.settings.route_events_topic)
        assert line.is_published_in(20)


def partitions_of(line: Line, kafka: KafkaServer) -> dict[int, object]:
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=5).topics
    return dict(topics[line.settings.route_events_topic].partitions)


def test_events_too_large_for_the_topic_are_set_aside_and_replayed_when_it_takes_them(
    line: Line, kafka: KafkaServer
) -> None:
    kafka.create_topic(line.settings.route_events_topic)
    limit_messages(line, kafka, size_bytes=200)
    line.database.change(*KEYS[:3])
    with line.relaying():
        assert line.is_published_in(30)
    assert set(line.database.aside) == {1, 2, 3}
    limit_messages(line, kafka, size_bytes=1_000_000)
    assert line.replay(first=2) == Replayed(3, [])
    assert set(line.database.aside) == {1}
    line.replay(first=1)

    assert line.database.aside == {}
    assert line.is_told_by(line.records())


def limit_messages(line: Line, kafka: KafkaServer, size_bytes: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(size_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(
        ResourceType.TOPIC, line.settings.route_events_topic, incremental_configs=[entry]
    )
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_crash_between_acknowledgement_and_checkpoint_loses_nothing(line: Line) -> None:
    crashed = threading.Event()

    def crash(revision: int) -> None:
        crashed.set()
        raise Crash

    change_at_random(line.database, 800)
    line.database.on_publish = crash
    with line.relaying("one"):
        assert crashed.wait(20)
    assert line.database.published == 0

    line.database.on_publish = lambda revision: None
    line.database_clock_ahead_s = 11
    with line.relaying("two"):
        assert line.is_published_in(20)
    records = line.records(801)
    assert len(records) > 800, "at least once: some twice"
    assert line.is_told_by(records)


def test_a_zombie_cannot_move_the_checkpoint_and_confuses_no_consumer(line: Line) -> None:
    """The first relay hangs in a call, its clock is slow, and it sends when another has the lease already."""
    hangs, goes_on = threading.Event(), threading.Event()

    def hang_once() -> None:
        if not hangs.is_set():
            hangs.set()
            goes_on.wait(30)

    with capture_logs() as logs, line.relaying("zombie"):
        line.database.on_slice = hang_once
        line.database.change(*KEYS[:5], *KEYS[:5])
        assert hangs.wait(20)
        line.database_clock_ahead_s = 11
        with line.relaying("two"):
            assert line.is_published_in(20)
            goes_on.set()
            assert eventually(lambda: "relay_stands_back" in [entry["event"] for entry in logs])
            line.database.change(*KEYS[:5])
            assert line.is_published_in(20)

    records = line.records()
    assert len(records) > 15, "the zombie did send"
    assert line.is_told_by(records)
    assert line.database.checkpoints == sorted(line.database.checkpoints)


def test_the_probe_tells_whether_kafka_answers(kafka: KafkaServer) -> None:
    KafkaProbe(kafka_settings(bootstrap_servers=kafka.bootstrap_servers)).check(5)

    with pytest.raises(KafkaUnavailable):
        KafkaProbe(kafka_settings(bootstrap_servers="127.0.0.1:1")).check(0.5)
