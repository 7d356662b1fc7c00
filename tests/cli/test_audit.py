"""`audit` as an operator runs it: heads are signed beside a running server, and the log is held against them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path

import pytest

from tests.audit.keys import KeyFiles, a_pair
from tests.cli.test_verify import _make
from tests.node import Node, a_key, a_route, path_of, wait_until
from tests.servers import KafkaServer
from traffic_manager.audit.heads import SigningKey
from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.head_lines import send_line
from traffic_manager.routing.chain import covered, link
from traffic_manager.routing.ports import Head

_topics = count(1)


def _settings(node: Node, keys: KeyFiles, **more: str) -> dict[str, str]:
    own = {"AUDIT_KEY_FILE": str(keys.private), "AUDIT_HEADS_FILE": str(node.folder / "heads.jsonl")}
    return {**node.environment, "PATH": os.environ["PATH"], **own, **more}


def _audit(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "traffic_manager.cli", "audit", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def _signed(node: Node) -> list[int]:
    """Return the revisions of the heads that are kept."""
    file = node.folder / "heads.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line)["revision"] for line in lines if line.endswith("\n")]


@contextmanager
def _signing(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Sign on a timer meanwhile."""
    command = [sys.executable, "-m", "traffic_manager.cli", "audit", "sign"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_heads_are_signed_on_a_timer_and_show_a_log_that_was_written_anew(node: Node, tmp_path: Path) -> None:
    settings = _settings(node, a_pair(tmp_path), AUDIT_HEADS_SECONDS="0.05")
    with _signing(settings) as process:
        _make(node, 2)
        wait_until(lambda: 2 in _signed(node), 30.0, "the head after the first changes")
        with node.client() as client:
            client.delete(path_of(a_key(version="v0"))).raise_for_status()
        wait_until(lambda: _signed(node)[-1] == 3, 30.0, "the next head")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    good = _audit(settings, "verify")
    assert (good.returncode, good.stdout) == (0, ""), good.stderr
    assert "signed heads: all agree" in good.stderr
    with sqlite3.connect(node.environment["DB_PATH"]) as database:
        database.execute("delete from changes where revision = 3")
    bad = _audit(settings, "verify")
    assert bad.returncode == 1
    assert "revision 3 was there before, and the log ends at 2" in bad.stdout
    assert _audit(settings, "sign", "--once").returncode == 1


def test_a_key_is_replaced_by_giving_both_public_keys(node: Node, tmp_path: Path) -> None:
    old, new = a_pair(tmp_path, "old"), a_pair(tmp_path, "new")
    for keys, number in ((old, 1), (new, 2)):
        with node.client() as client:
            client.post("/api/v1/routes", json=a_route(version=f"v{number}")).raise_for_status()
        assert _audit(_settings(node, keys), "sign", "--once").returncode == 0
    assert _signed(node) == [1, 2]
    both = ("--public-key", str(old.public), "--public-key", str(new.public))
    assert _audit(_settings(node, new), "verify", *both).returncode == 0
    one = _audit(_settings(node, new), "verify")
    assert (one.returncode, "heads.jsonl, line 1: is no signed head: its key" in one.stdout) == (1, True)


def test_whoever_has_the_lines_can_compute_the_digests(node: Node, tmp_path: Path) -> None:
    _make(node, 3)
    lines = _audit(_settings(node, a_pair(tmp_path)), "export").stdout.splitlines()
    digest = bytes(32)
    for line in lines:
        change = json.loads(line)
        columns = list(change.values())[:15]
        digest = link(digest, covered(columns, change["detail"], change["address"], change["chain_version"]))
        assert digest.hex() == change["chain"]
    assert len(lines) == 3
    later = _audit(_settings(node, a_pair(tmp_path)), "export", "--after", "2").stdout.splitlines()
    assert later == lines[2:]


@pytest.mark.parametrize(
    ("command", "unset", "told"),
    [
        ("sign", "AUDIT_KEY_FILE", "AUDIT_KEY_FILE, AUDIT_HEADS_FILE: must be set"),
        ("sign", "AUDIT_HEADS_FILE", "AUDIT_KEY_FILE, AUDIT_HEADS_FILE: must be set"),
        ("verify", "AUDIT_HEADS_FILE", "must be given"),
        ("verify", "AUDIT_KEY_FILE", "must be given"),
    ],
)
def test_what_is_missing_is_told(tmp_path: Path, command: str, unset: str, told: str) -> None:
    settings = {
        name: value for name, value in _settings(Node(tmp_path), a_pair(tmp_path)).items() if name != unset
    }
    found = _audit(settings, command)
    assert (found.returncode, told in found.stderr) == (1, True), found.stderr


def test_without_heads_nothing_is_called_sound(node: Node, tmp_path: Path) -> None:
    settings = _settings(node, a_pair(tmp_path))
    (node.folder / "heads.jsonl").write_text("")
    found = _audit(settings, "verify")
    assert (found.returncode, "there is nothing to check the log against" in found.stderr) == (1, True)


@pytest.mark.servers
def test_kafka_holds_the_heads_when_the_file_is_gone(tmp_path: Path, kafka: KafkaServer) -> None:
    topic = f"heads-{os.getpid()}-{next(_topics)}"
    kafka.create_topic(topic)
    with Node(tmp_path).start() as node:
        settings = _settings(node, a_pair(tmp_path), AUDIT_HEADS_TOPIC=topic, **kafka.env())
        _make(node, 2)
        assert _audit(settings, "sign", "--once").returncode == 0
        (node.folder / "heads.jsonl").unlink()
        del settings["AUDIT_HEADS_FILE"]
        good = _audit(settings, "verify", "--kafka")
        assert (good.returncode, "1 signed heads: all agree" in good.stderr) == (0, True), good.stderr
        with sqlite3.connect(node.environment["DB_PATH"]) as database:
            database.execute("delete from changes where revision = 2")
        assert "revision 2 was there before" in _audit(settings, "verify", "--kafka").stdout


@pytest.mark.servers
def test_what_somebody_does_to_the_topic_is_told(tmp_path: Path, kafka: KafkaServer) -> None:
    topic = f"heads-{os.getpid()}-{next(_topics)}"
    own, stranger = a_pair(tmp_path), a_pair(tmp_path, "stranger")
    with Node(tmp_path).start() as node:
        _make(node, 2)
        settings = _settings(node, own, AUDIT_HEADS_TOPIC=topic, **kafka.env())
        alone = {name: value for name, value in settings.items() if name != "AUDIT_HEADS_TOPIC"}
        assert _audit(alone, "sign", "--once").returncode == 0
        gone = _audit(settings, "verify", "--kafka")
        assert (gone.returncode, f"the topic {topic} is not there" in gone.stderr) == (1, True), gone.stderr
        kafka.create_topic(topic)
        anew = _audit(settings, "verify", "--kafka")
        assert (anew.returncode, anew.stdout) == (1, "Kafka: holds no signed head\n")
        head = json.loads((node.folder / "heads.jsonl").read_bytes())
        forged = SigningKey(stranger.private, "").sign(
            Head(head["epoch"], 1, 9), bytes(32), head["signed_at"]
        )
        for sent in (head | {"revision": 3}, asdict(forged), head, head):
            to = KafkaSettings.model_validate({"bootstrap_servers": kafka.bootstrap_servers})
            send_line(to, topic, head["epoch"], json.dumps(sent).encode())
        found = _audit(settings, "verify", "--kafka")
    assert found.stdout.splitlines() == [
        "Kafka, line 1: is no signed head: its signature is wrong",
        f"Kafka, line 2: is no signed head: its key {forged.key_id!r} is not one of those given",
    ]
    assert "Kafka: 2 signed heads, up to revision 2" in found.stderr
