"""`traffic-manager relay`: relays what servers with `RELAY=off` commit, and ends when told."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.events.topic import read_topic
from tests.node import Node, a_key, a_route, path_of
from tests.servers import KafkaServer

pytestmark = pytest.mark.servers
TOPIC = "relay-command"


@pytest.fixture
def silent_node(tmp_path: Path, postgres_settings: dict[str, str], kafka: KafkaServer) -> Iterator[Node]:
    """A server that does not relay."""
    settings = {**postgres_settings, **kafka.env(), "KAFKA_ROUTE_EVENTS_TOPIC": TOPIC, "RELAY": "off"}
    with Node(tmp_path, settings) as node:
        yield node.start("--migrate")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_relay_alone_sends_what_a_silent_server_commits(
    silent_node: Node, kafka: KafkaServer, number: signal.Signals
) -> None:
    with silent_node.client() as client:
        assert client.post("/api/v1/routes", json=a_route(service=number.name)).status_code == 201
    relay = subprocess.Popen(
        [sys.executable, "-m", "traffic_manager.cli", "relay"],
        env=silent_node.environment,
        cwd=silent_node.folder,
    )
    try:
        key = f"team-a/{number.name}/prod/v2".encode()
        records = read_topic(
            kafka.bootstrap_servers, lambda found: any(r.key == key for r in found), TOPIC, timeout_s=30
        )
        relay.send_signal(signal.SIGUSR1)  # changes the level of its log, and ends nothing
        relay.send_signal(number)
        assert (relay.wait(15), [r.revision for r in records if r.key == key]) == (0, [1])
    finally:
        relay.kill()


@pytest.mark.parametrize(
    ("arguments", "said", "revisions"),
    [
        (["replay", "--from", "2"], "Sent the events of revisions 2 to 3 again.\n", [2, 3]),
        (["retell"], "Told all routes again.\n", [2, 3]),
    ],
    ids=["replay", "retell"],
)
def test_events_are_sent_again_by_command(
    silent_node: Node, kafka: KafkaServer, arguments: list[str], said: str, revisions: list[int]
) -> None:
    topic = f"again-{arguments[0]}"
    with silent_node.client() as client:
        for number, service in enumerate(("a", "a", "b")):
            body = {"url": f"https://{number}.example.com/"}
            client.put(path_of(a_key(service=service)), json=body).raise_for_status()
    done = subprocess.run(
        [sys.executable, "-m", "traffic_manager.cli", "relay", *arguments],
        env={**silent_node.environment, "KAFKA_ROUTE_EVENTS_TOPIC": topic, "LOG_LEVEL": "ERROR"},
        cwd=silent_node.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, said), done.stderr
    records = read_topic(kafka.bootstrap_servers, lambda found: len(found) == 2, topic)
    assert sorted(record.revision for record in records) == revisions


def test_relay_without_kafka_is_refused_by_variable_name(tmp_path: Path) -> None:
    node = Node(tmp_path)
    command = [sys.executable, "-m", "traffic_manager.cli", "relay"]
    done = subprocess.run(
        command, env=node.environment, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "KAFKA_BOOTSTRAP_SERVERS" in done.stderr
