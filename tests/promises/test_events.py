"""P9: every change reaches Kafka, at least once and per route in order, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from tests.node import Node, wait_until
from tests.promises import history
from tests.promises.caller import Caller, NoAnswer
from tests.promises.crew import Writer, a_crew, keys
from tests.promises.ledger import Ledger
from tests.promises.oracle import violations
from tests.promises.places import a_database, a_node, killed, soon
from tests.promises.topic import Told, Topic, event_of, newest_only
from tests.servers import KafkaServer, PostgresServer

pytestmark = pytest.mark.servers

KEYS = keys(10)
TAKEOVER_S = 15.0
_topics = count(1)


@pytest.fixture
def topic(own_kafka: KafkaServer) -> Iterator[Topic]:
    """A topic that nobody has used."""
    name = f"promise-{os.getpid()}-{next(_topics)}"
    own_kafka.create_topic(name)
    opened = Topic(own_kafka, name)
    yield opened
    opened.close()


@pytest.fixture
def database(own_postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """The settings for an empty database."""
    with a_database(own_postgres) as settings:
        yield settings


@pytest.fixture
def nodes(
    tmp_path: Path, database: dict[str, str], own_kafka: KafkaServer, topic: Topic
) -> Iterator[list[Node]]:
    """Two nodes that send events."""
    settings = {**database, **own_kafka.env(), "KAFKA_ROUTE_EVENTS_TOPIC": topic.name}
    with a_node(tmp_path, settings) as first, a_node(tmp_path, settings) as second:
        yield [first.start("--migrate"), second.start()]


def leader_of(nodes: Sequence[Node]) -> Node | None:
    """Return the node that relays now."""
    for node in nodes:
        try:
            metrics = Caller(node).ask("GET", "/metrics").body
        except NoAnswer:
            continue
        if b"\ntm_relay_is_leader 1.0" in metrics:
            return node
    return None


def test_every_change_arrives_in_order_though_the_relay_and_kafka_die(
    nodes: list[Node],
    topic: Topic,
    own_kafka: KafkaServer,
    own_postgres: PostgresServer,
    database: dict[str, str],
) -> None:
    ledger = Ledger()
    leader = soon(lambda: leader_of(nodes), 15.0, "a leader")
    (other,) = [node for node in nodes if node is not leader]
    with a_crew() as crew:
        crew.add(Writer(leader, ledger, KEYS, seed=1), pause_s=0.02)
        crew.add(Writer(other, ledger, KEYS, seed=2), pause_s=0.02)
        wait_until(lambda: len(topic.read()) >= 50, 20.0, "the first events")
        with killed(own_kafka):
            wait_for_writes(ledger, 60)
            # It has read changes that Kafka has not taken; what it marked as sent is all that the next one knows.
            os.killpg(leader.pid, signal.SIGKILL)
            died_at = time.monotonic()
            wait_for_writes(ledger, 30)
        soon(lambda: leader_of([other]), TAKEOVER_S, "the takeover")
        print(f"takeover after kill -9: {time.monotonic() - died_at:.1f} s")
        wait_for_writes(ledger, 30)
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    everything = {event_of(change) for change in log.changes}
    wait_until(lambda: everything <= set(topic.read()), 20.0, "all events")
    assert set(topic.events) == everything
    by_key = {
        key: [event for event in newest_only(topic.events) if event.key == key] for key in map(str, KEYS)
    }
    assert by_key == {key: sorted_of(everything, key) for key in by_key}
    assert violations(log.changes, ledger) == []


def wait_for_writes(ledger: Ledger, count: int) -> None:
    """Return when so many more writes are acknowledged."""
    wanted = len(ledger.acknowledged) + count
    wait_until(lambda: len(ledger.acknowledged) >= wanted, 15.0, f"{count} more writes")


def sorted_of(events: set[Told], key: str) -> list[Told]:
    """Return the events of *key* by revision."""
    return sorted((event for event in events if event.key == key), key=lambda event: event.revision)


def test_the_relay_is_handed_over_at_once_when_its_node_stops_in_good_order(
    nodes: list[Node], topic: Topic
) -> None:
    leader = soon(lambda: leader_of(nodes), 15.0, "a leader")
    (other,) = [node for node in nodes if node is not leader]
    caller = Caller(leader)
    for number in range(20):
        caller.put(KEYS[0], f"https://example.com/{number}")
    assert leader.stop() == 0
    stopped_at = time.monotonic()
    soon(lambda: leader_of([other]), 3.0, "the takeover")
    print(f"takeover after SIGTERM: {time.monotonic() - stopped_at:.1f} s")
    wait_until(lambda: {event.revision for event in topic.read()} == set(range(1, 21)), 10.0, "all events")
