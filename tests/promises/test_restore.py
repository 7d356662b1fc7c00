"""A backup that is restored as docs/operations.md says: whoever holds something of what is lost is told, and ends up
with what there is."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx2
import pytest

from tests.api.streams import Stream
from tests.events.test_docs import the_rule
from tests.events.topic import Record, read_topic
from tests.node import Json, Node, a_key, path_of, resolve, wait_until
from tests.promises.places import a_node
from tests.servers import KafkaServer, PostgresServer

pytestmark = pytest.mark.servers

_numbers = count(1)
BEFORE = "https://before.example.com/"
LATER = "https://later.example.com/"
SAME, CHANGED, DELETED, LOST, NEW = (
    a_key(service=name) for name in ("same", "changed", "deleted", "lost", "new")
)


def _put(node: Node, key: dict[str, str], url: str) -> str:
    with node.client() as client:
        answer = client.put(path_of(key), json={"url": url})
    assert answer.is_success, answer.text
    return answer.headers["TM-Revision"]


def _make_what_is_kept(node: Node) -> None:
    for key in (SAME, CHANGED, DELETED):
        _put(node, key, BEFORE)


def _make_what_is_lost(node: Node) -> str:
    """Return the position of the last change."""
    _put(node, CHANGED, LATER)
    with node.client() as client:
        client.delete(path_of(DELETED)).raise_for_status()
    return _put(node, LOST, LATER)


def _command(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "traffic_manager.cli", *arguments],
        env={**node.environment, "PATH": os.environ["PATH"]},
        cwd=node.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _routes(node: Node) -> dict[str, str]:
    with node.client() as client:
        found: list[Json] = client.get("/api/v1/routes").json()["routes"]
    return {
        "/".join(route[name] for name in ("tenant", "service", "env", "version")): route["url"]
        for route in found
    }


def _check_everybody_is_told(node: Node, lost: str) -> None:
    with node.client() as client:
        assert resolve(client, CHANGED).json()["url"] == BEFORE
        assert resolve(client, DELETED).json()["url"] == BEFORE
        assert resolve(client, LOST).status_code == 404
        assert resolve(client, SAME, tm_min_revision=lost).status_code == 412
        gone = client.get("/api/v1/changes", params={"after": lost})
        assert (gone.status_code, gone.json()["type"]) == (410, "urn:traffic-manager:history-gone")
        assert gone.json()["head"].partition(".")[0] != lost.partition(".")[0]
        polled = client.get("/api/v1/routes/resolve", params={**LOST, "after": lost, "wait": "10"})
        assert polled.status_code == 404
    with Stream(node, headers={"Last-Event-ID": lost}) as stream:
        assert stream.begin().status == 410
    with Stream(node, {"after": lost}) as stream:
        assert stream.begin().status == 410
    follow = _command(node, "changes", "--follow", "--after", lost, "--server", node.url)
    assert follow.returncode == 1
    assert "another history" in follow.stderr


class _Consumer:
    """Reads a topic as docs/events.md says."""

    def __init__(self, kafka: KafkaServer, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic

    def routes(self) -> dict[str, str]:
        """Return what it holds now."""
        is_news, held = the_rule(), {}
        for record in self._records():
            if is_news(record.key, record.value):
                held[record.key.decode()] = json.loads(record.value)["url"]
        return {key: url for key, url in held.items() if url is not None}

    def _records(self) -> list[Record]:
        return read_topic(self._kafka.bootstrap_servers, lambda found: False, self._topic, timeout_s=1)


@pytest.fixture
def kafka_settings(kafka: KafkaServer) -> dict[str, str]:
    topic = f"restore-{os.getpid()}-{next(_numbers)}"
    kafka.create_topic(topic)
    return {**kafka.env(), "KAFKA_ROUTE_EVENTS_TOPIC": topic}


@pytest.fixture
def restored_name(postgres: PostgresServer) -> Iterator[str]:
    """The name of the database that is restored to."""
    name = f"restored_{os.getpid()}_{next(_numbers)}"
    yield name
    postgres.drop_database(name)


def test_a_dump_is_restored_into_a_new_database(
    tmp_path: Path,
    postgres: PostgresServer,
    postgres_settings: dict[str, str],
    restored_name: str,
    kafka: KafkaServer,
    kafka_settings: dict[str, str],
) -> None:
    settings = {**postgres_settings, **kafka_settings, "API_WORKERS": "2"}
    consumer = _Consumer(kafka, kafka_settings["KAFKA_ROUTE_EVENTS_TOPIC"])
    dump = str(tmp_path / "routes.dump")
    with a_node(tmp_path, settings) as node:
        node.start("--migrate")
        _make_what_is_kept(node)
        postgres.run("pg_dump", "--format=custom", f"--file={dump}", database=postgres_settings["DB_NAME"])
        lost = _make_what_is_lost(node)
        wait_until(lambda: consumer.routes() == _routes(node), 30, "the lost branch in the topic")
        node.stop()
    postgres.create_database(restored_name)
    postgres.run("pg_restore", "--exit-on-error", f"--dbname={restored_name}", dump, database=restored_name)
    with a_node(tmp_path, {**settings, "DB_NAME": restored_name}) as node:
        begun = _command(node, "new-epoch")
        assert begun.stdout.startswith("Epoch 2 ("), begun.stderr
        node.start()
        _check_everybody_is_told(node, lost)
        _put(node, NEW, LATER)
        assert sorted(_routes(node)) == sorted(
            "/".join(key.values()) for key in (SAME, CHANGED, DELETED, NEW)
        )
        wait_until(lambda: consumer.routes() == _routes(node), 30, "the new history in the topic")
        verified = _command(node, "verify")
        assert verified.returncode == 0, verified.stdout


def test_a_backup_of_a_sqlite_file_is_restored_in_its_place(
    tmp_path: Path, kafka: KafkaServer, kafka_settings: dict[str, str]
) -> None:
    consumer = _Consumer(kafka, kafka_settings["KAFKA_ROUTE_EVENTS_TOPIC"])
    with a_node(tmp_path, kafka_settings) as node:
        node.start()
        _make_what_is_kept(node)
        database, copy = node.environment["DB_PATH"], str(tmp_path / "copy.db")
        with sqlite3.connect(database) as source, sqlite3.connect(copy) as target:
            source.backup(target)  # the program's `.backup` is the same
        lost = _make_what_is_lost(node)
        wait_until(lambda: consumer.routes() == _routes(node), 30, "the lost branch in the topic")
        node.stop()
        for rest in ("-wal", "-shm"):
            Path(database + rest).unlink(missing_ok=True)
        os.replace(copy, database)
        assert _command(node, "new-epoch").stdout.startswith("Epoch 2 (")
        node.start()
        _check_everybody_is_told(node, lost)
        wait_until(lambda: consumer.routes() == _routes(node), 30, "the new history in the topic")
        verified = _command(node, "verify")
        assert verified.returncode == 0, verified.stdout


def test_a_dump_is_restored_in_place_under_running_nodes(
    tmp_path: Path,
    postgres: PostgresServer,
    postgres_settings: dict[str, str],
    kafka: KafkaServer,
    kafka_settings: dict[str, str],
) -> None:
    settings = {**postgres_settings, **kafka_settings}
    database, dump = postgres_settings["DB_NAME"], str(tmp_path / "routes.dump")
    consumer = _Consumer(kafka, kafka_settings["KAFKA_ROUTE_EVENTS_TOPIC"])
    with a_node(tmp_path, settings) as node:
        node.start("--migrate")
        _make_what_is_kept(node)
        postgres.run("pg_dump", "--format=custom", f"--file={dump}", database=database)
        lost = _make_what_is_lost(node)
        wait_until(lambda: consumer.routes() == _routes(node), 30, "the lost branch in the topic")
        with Stream(node, {"after": lost}, timeout_s=30) as stream:
            assert stream.next("progress").id == lost
            options = ("--clean", "--single-transaction", "--exit-on-error")
            postgres.run("pg_restore", *options, f"--dbname={database}", dump, database=database)
            assert stream.next("end").data["reason"] == "history-changed"
        with node.client() as client:
            wait_until(lambda: _epoch(resolve(client, SAME)) != lost[:8], what="the new epoch")
        _check_everybody_is_told(node, lost)
        wait_until(lambda: consumer.routes() == _routes(node), 30, "the new history in the topic")
    assert postgres.psql("select epoch_number from meta", database).strip() == "2"


def _epoch(answer: httpx2.Response) -> str:
    return answer.headers["TM-Revision"].partition(".")[0]
