"""A topic that is deleted, made again or grown, on a real Kafka: the relay sees it, and readers get all routes."""

from __future__ import annotations

import os
from itertools import count

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from structlog.testing import capture_logs

from tests.events.fakes import a_key
from tests.events.relaying import Line, kafka_settings
from tests.events.topic import read_topic
from tests.events.waiting import eventually
from tests.servers import KafkaServer
from traffic_manager.events.kafka_reader import TopicReader
from traffic_manager.routing.leases import Telling

pytestmark = pytest.mark.servers

KEYS = [a_key(f"v{n}") for n in range(30)]
# A producer that sent before the topic went may hear nothing more of it, and is replaced after 30 s.
NOTICED_S = 90.0
_topics = count(1)


@pytest.fixture
def admin(kafka: KafkaServer) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})


@pytest.fixture
def line(kafka: KafkaServer) -> Line:
    """A line to a topic of this test's own, which holds the changes of 30 routes."""
    topic = f"replaced-{os.getpid()}-{next(_topics)}"
    found = Line(kafka_settings(bootstrap_servers=kafka.bootstrap_servers, route_events_topic=topic))
    found.database.change(*KEYS, *KEYS)
    with found.relaying():
        assert found.is_published_in(30)
        assert eventually(lambda: found.database.known.topic is not None, NOTICED_S)
    return found


def delete(admin: AdminClient, line: Line) -> None:
    """Delete the topic."""
    topic = line.settings.route_events_topic
    admin.delete_topics([topic])[topic].result(10)

    def is_gone() -> bool:
        return topic not in admin.list_topics(timeout=5).topics

    assert eventually(is_gone, 20)


def is_told_anew(line: Line, before: Telling) -> bool:
    """Wait until it is recorded that all routes were told of another topic."""
    return eventually(lambda: line.database.known not in (before, Telling(1)), NOTICED_S)


def keys_in(line: Line, partitions: int = 4) -> set[bytes]:
    """Return the routes that the topic tells of."""
    wanted = {str(key).encode() for key in KEYS}
    records = read_topic(
        line.settings.bootstrap_servers or "",
        lambda found: wanted <= {record.key for record in found},
        line.settings.route_events_topic,
        partitions,
        timeout_s=10,
    )
    return {record.key for record in records}


def test_a_topic_that_is_deleted_under_the_relay_is_made_again_with_every_route(
    line: Line, admin: AdminClient
) -> None:
    before = line.database.known
    with capture_logs() as logs, line.relaying() as relay:
        delete(admin, line)
        line.database.change(KEYS[0])
        relay.wake()
        assert is_told_anew(line, before)
        assert line.is_published_in(30)
    assert keys_in(line) == {str(key).encode() for key in KEYS}
    assert [line["reason"] for line in logs if line["event"] == "retelling_begins"] == ["other-topic"]


def test_a_topic_that_was_made_again_while_nobody_relayed_gets_every_route(
    line: Line, admin: AdminClient, kafka: KafkaServer
) -> None:
    before = line.database.known
    delete(admin, line)
    assert eventually(lambda: _is_created(kafka, line.settings.route_events_topic), 20)
    with line.relaying():
        assert is_told_anew(line, before)
    assert keys_in(line) == {str(key).encode() for key in KEYS}


def _is_created(kafka: KafkaServer, topic: str) -> bool:
    try:
        kafka.create_topic(topic)
    except KafkaException:
        return False
    return True


def test_every_route_is_told_again_when_partitions_were_added(line: Line, admin: AdminClient) -> None:
    topic = line.settings.route_events_topic
    with capture_logs() as logs, line.relaying():
        admin.create_partitions([NewPartitions(topic, 6)])[topic].result(10)
        assert eventually(lambda: line.database.known.partitions == 6, NOTICED_S)
    assert [line["reason"] for line in logs if line["event"] == "retelling_begins"] == ["other-partitions"]
    assert (
        len(read_topic(line.settings.bootstrap_servers or "", lambda found: len(found) >= 90, topic, 6)) == 90
    )


def test_a_reader_reads_the_whole_topic_once(line: Line) -> None:
    keys = [key or b"" for key, _ in read_all(line)]
    assert sorted(keys) == sorted(str(key).encode() for key in [*KEYS, *KEYS])


def test_a_reader_tells_which_partitions_have_lost_their_beginning(line: Line, admin: AdminClient) -> None:
    first = TopicPartition(line.settings.route_events_topic, 2, 1)
    admin.delete_records([first])[first].result(10)
    reader = TopicReader(line.settings)
    while reader.read(1.0) is not None:
        pass
    reader.close()
    assert reader.shortened == {2}


def test_a_topic_that_is_not_there_holds_nothing(line: Line) -> None:
    line.settings = line.settings.model_copy(update={"route_events_topic": "never-made"})
    assert read_all(line) == []


def read_all(line: Line) -> list[tuple[bytes | None, bytes | None]]:
    """Return all records."""
    reader = TopicReader(line.settings)
    found: list[tuple[bytes | None, bytes | None]] = []
    while (records := reader.read(1.0)) is not None:
        found += records
    reader.close()
    return found
