"""`verify` as an operator runs it, beside running servers."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.access.issue import REQUIRED, a_key_for
from tests.node import Node, a_key, a_route, path_of, wait_until
from tests.servers import KafkaServer, PostgresServer

_topics = count(1)


def _verify(node: Node, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "traffic_manager.cli", "verify", *arguments]
    environment = {**node.environment, "PATH": os.environ["PATH"], "TM_API_KEY": key}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def _make(node: Node, number: int = 1) -> None:
    with node.client() as client:
        for version in range(number):
            client.post("/api/v1/routes", json=a_route(version=f"v{version}")).raise_for_status()


def test_verify_says_that_all_agree_or_what_differs(node: Node) -> None:
    _make(node)
    good = _verify(node)
    assert (good.returncode, good.stdout) == (0, ""), good.stderr
    assert "1 changes (revisions 1 to 1 of history " in good.stderr
    with sqlite3.connect(node.environment["DB_PATH"]) as database:
        database.execute("update routes set url = 'https://evil.example.com/'")
    bad = _verify(node, "--node", node.url)
    assert bad.returncode == 1
    assert "is https://evil.example.com/ (active, revision 1); its last change left" in bad.stdout
    memory = (
        "holds https://payments.example.com/v2 (active, revision 1), the database https://evil.example.com/"
    )
    assert f"route team-a/payments/prod/v0: {memory}" in bad.stdout


def test_a_digest_that_was_seen_before_shows_a_log_that_was_cut_off_or_written_anew(node: Node) -> None:
    _make(node, 2)
    digest = _verify(node).stderr.splitlines()[-1].removeprefix("Digest at the head: ")
    assert digest.startswith("2:")
    assert _verify(node, "--known", digest).returncode == 0
    with sqlite3.connect(node.environment["DB_PATH"]) as database:
        for table in ("routes", "changes"):
            database.execute(f"delete from {table} where revision = 2")  # noqa: S608 constants
    cut = _verify(node, "--known", digest)
    assert (cut.returncode, cut.stdout) == (1, "revision 2 was there before, and the log ends at 1\n")


@pytest.mark.parametrize("cell", ["update changes set actor", "update routes set url"])
def test_a_text_that_is_none_is_told_and_no_traceback(node: Node, cell: str) -> None:
    _make(node)
    with sqlite3.connect(node.environment["DB_PATH"]) as database:
        database.execute(f"{cell} = cast(x'ff' as text)")
    found = _verify(node)
    assert (found.returncode, "a text that is not UTF-8" in found.stderr) == (1, True), found.stderr
    assert "Traceback" not in found.stderr


def test_what_is_no_digest_is_refused(node: Node) -> None:
    assert _verify(node, "--known", "2:abc").returncode == 2


@pytest.mark.servers
def test_every_worker_of_a_node_is_compared_while_routes_change(
    tmp_path: Path, postgres_settings: dict[str, str]
) -> None:
    settings = {**postgres_settings, **REQUIRED, "API_WORKERS": "2"}
    with Node(tmp_path, settings) as node, ThreadPoolExecutor() as pool:
        node.start("--migrate")
        admin = a_key_for(node, "admin:*/*")
        is_over: list[bool] = []

        def write() -> None:
            with node.client() as client:
                client.headers["X-API-Key"] = admin
                for number in count():
                    client.put(
                        path_of(a_key(version=f"v{number % 50}")),
                        json={"url": f"https://{number}.example.com/"},
                    )
                    if is_over:
                        return

        writing = pool.submit(write)
        good = _verify(node, "--node", node.url, key=a_key_for(node, "viewer:*/*"))
        is_over.append(True)
        writing.result()
        assert (good.returncode, good.stdout) == (0, ""), good.stderr
        assert f"2 workers of {node.url}: all agree." in good.stderr
        narrow = _verify(node, "--node", node.url, key=a_key_for(node, "viewer:team-a/*"))
        assert narrow.returncode == 1
        assert "the server refused" in narrow.stderr


@pytest.mark.servers
def test_memory_that_differs_is_named_with_its_worker(
    tmp_path: Path, postgres: PostgresServer, postgres_settings: dict[str, str]
) -> None:
    database = postgres_settings["DB_NAME"]
    with Node(tmp_path, {**postgres_settings, "SNAPSHOT_PATH": "off"}) as node:
        node.start("--migrate")
        _make(node, 2)
        node.stop()
        postgres.psql("update routes set url = 'https://evil.example.com/' where version = 'v0'", database)
        node.start()
        postgres.psql(
            "update routes set url = 'https://payments.example.com/v2' where version = 'v0'", database
        )
        bad = _verify(node, "--node", node.url)
        assert bad.returncode == 1
        assert bad.stdout.count("\n") == 1
        assert (
            "route team-a/payments/prod/v0: holds https://evil.example.com/ (active, revision 1)"
            in bad.stdout
        )


@pytest.fixture
def kafka_settings(kafka: KafkaServer) -> dict[str, str]:
    topic = f"verify-{os.getpid()}-{next(_topics)}"
    kafka.create_topic(topic)
    return {**kafka.env(), "KAFKA_ROUTE_EVENTS_TOPIC": topic}


@pytest.mark.servers
def test_the_topic_is_compared(tmp_path: Path, kafka: KafkaServer, kafka_settings: dict[str, str]) -> None:
    with Node(tmp_path, kafka_settings) as node:
        node.start()
        _make(node, 3)
        with node.client() as client:
            client.delete(path_of(a_key(version="v2"))).raise_for_status()
        with sqlite3.connect(node.environment["DB_PATH"]) as database:
            published = "select published_revision from leases"
            wait_until(lambda: database.execute(published).fetchone() == (4,), what="all events")
        good = _verify(node, "--kafka")
        assert (good.returncode, good.stdout) == (0, ""), good.stderr
        assert "and 4 events: all agree." in good.stderr
        _tell_wrongly(kafka, kafka_settings["KAFKA_ROUTE_EVENTS_TOPIC"])
        bad = _verify(node, "--kafka")
        assert bad.returncode == 1
        assert bad.stdout == (
            "revision 2: its event in the topic says something else than the log\n"
            "route team-a/payments/prod/v1: consumers hold https://evil.example.com/ (active, revision 2); "
            "it is https://payments.example.com/v2 (active, revision 2)\n"
        )


def _tell_wrongly(kafka: KafkaServer, topic: str) -> None:
    event = {
        **a_route("https://evil.example.com/", version="v1"),
        "event_id": "another:2",
        "epoch_number": 2,
        "revision": 2,
        "action": "updated",
        "is_active": True,
    }
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    producer.produce(topic, json.dumps(event), "team-a/payments/prod/v1")
    assert producer.flush(10) == 0


@pytest.mark.servers
def test_events_that_are_missing_are_named(
    tmp_path: Path, kafka: KafkaServer, kafka_settings: dict[str, str]
) -> None:
    with Node(tmp_path, {**kafka_settings, "RELAY": "off"}) as node:
        node.start()
        _make(node, 3)
        with sqlite3.connect(node.environment["DB_PATH"]) as database:
            database.execute("""insert into leases (name, holder, token, expires_at, published_revision)
                values ('relay', '', 1, 0, 2)""")
        bad = _verify(node, "--kafka")
        assert bad.returncode == 1
        assert bad.stdout.startswith("revisions 1 to 2: not all of their events are in the topic\n")
        assert "v2: consumers hold" not in bad.stdout, "it has still to be told"
