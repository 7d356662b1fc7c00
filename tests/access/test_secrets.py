"""No secret leaves a server: not by an answer, a log line, a metric, an event, a file, a cache or the list of
processes; not while all is well, and not while everything that has a password refuses it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from tests.access.issue import PEPPER, a_key_for, bearer
from tests.events.topic import read_topic
from tests.node import Node, a_key, a_route, path_of, wait_until
from tests.servers import KafkaServer, PostgresServer, RedisServer
from tests.servers.ports import free_port

pytestmark = pytest.mark.servers
ROLE = f"sinks_{os.getpid()}"
TABLES = ("table routes", "table changes", "table meta", "table leases", "table api_keys")


def a_secret() -> str:
    """Return what nobody else has, and nothing else contains."""
    return f"canary{secrets.token_hex(24)}"


@pytest.fixture(scope="module")
def password(postgres: PostgresServer) -> Iterator[str]:
    """The password of the role that the servers connect as."""
    text = a_secret()
    postgres.psql(f"create role {ROLE} login superuser password '{text}'")
    yield text
    postgres.psql(f"drop role {ROLE}")


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: PostgresServer,
    redis_server: RedisServer,
    kafka: KafkaServer,
    password: str,
) -> Iterator[Node]:
    """A server with all its parts, that says as much as it can."""
    name = f"sinks_{os.getpid()}"
    settings = {
        **postgres.create_database(name),
        **redis_server.env(),
        **kafka.env(),
        "DB_USER": ROLE,
        "DB_PASSWORD": password,
        "DB_MIGRATE_PASSWORD": password,
        "DB_MIGRATE_USER": ROLE,
        "AUTH_MODE": "required",
        "AUTH_PEPPER": PEPPER,
        "MIRROR_MAX_ROUTES": "0",
        "API_WORKERS": "2",
        "LOG_LEVEL": "DEBUG",
        "API_ACCESS_LOG": "true",
        "KAFKA_ROUTE_EVENTS_TOPIC": name,
    }
    with Node(tmp_path_factory.mktemp("sinks"), settings) as started:
        yield started.start("--migrate")
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def key(node: Node) -> str:
    """A key that may do everything, after it did much, some of it wrongly."""
    text = a_key_for(node, "admin:*/*")
    with node.client() as client:
        client.headers.update(bearer(text))
        wait_until(lambda: client.get("/api/v1/whoami").status_code == 200)
        for number in range(5):
            names = a_key(version=f"v{number}")
            client.post("/api/v1/routes", json=a_route(version=f"v{number}"))
            client.get("/api/v1/routes/resolve", params=names, headers={"Cache-Control": "no-cache"})
            client.get("/api/v1/routes/resolve", params=names)
        client.post("/api/v1/routes", json={"tenant": text})
        client.put(path_of(a_key()), json={"url": f"https://{text}@a.example.com"})
        client.get("/api/v1/routes", params={"page_token": text})
        client.get("/nowhere", params={"key": text})
        client.get("/api/v1/routes", headers={"X-API-Key": text})  # a second credential
        client.get("/api/v1/routes", headers={"X-Correlation-ID": text, "Authorization": "Basic " + text})
    return text


def _never_shown(key: str, *others: str) -> list[bytes]:
    """Return what must be nowhere: the secret part of *key*, and *others*."""
    return [text.encode() for text in (key[17:60], *others)]


def _answers(node: Node, key: str) -> bytes:
    found = []
    with node.client() as client:
        for headers in (bearer(key), {}, bearer(key + "x")):
            for path in (
                *("/metrics", "/openapi.json", "/health/ready", "/docs", "/api/v1/whoami", "/api/v1/keys"),
                *("/api/v1/changes?limit=1000", "/api/v1/routes", "/api/v1/mirror", "/nowhere", "/%00"),
            ):
                answer = client.get(path, headers=headers)
                found.append(f"{answer.status_code}{answer.headers}{answer.text}")
    return "\n".join(found).encode()


def _processes(node: Node) -> bytes:
    """Return how the server and all that it started are listed."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if os.getsid(int(folder.name)) == node.pid:
                    found.append((folder / "cmdline").read_bytes())
            except (ProcessLookupError, FileNotFoundError):
                continue
    return b"\n".join(found)


def _command(node: Node, *words: str) -> bytes:
    command = [sys.executable, "-m", "traffic_manager.cli", *words]
    done = subprocess.run(command, env=node.environment, cwd=node.folder, capture_output=True, timeout=60)
    return done.stdout + done.stderr


def test_no_sink_of_a_server_holds_a_secret(
    node: Node, key: str, password: str, postgres: PostgresServer, kafka: KafkaServer
) -> None:
    environment = node.environment
    database, topic = environment["DB_NAME"], environment["KAFKA_ROUTE_EVENTS_TOPIC"]
    records = read_topic(kafka.env()["KAFKA_BOOTSTRAP_SERVERS"], lambda found: len(found) >= 5, topic)
    cache = redis.Redis(environment["REDIS_HOST"], int(environment["REDIS_PORT"]))
    entries = wait_until(lambda: [*cache.scan_iter("tm:*")], what="entries in Redis")
    rows = "\n".join(postgres.psql(table, database) for table in TABLES)
    sinks = {
        "answers": _answers(node, key),
        "processes": _processes(node),
        "log": node.log().encode(),
        "config show": _command(node, "config", "show"),
        "verify": _command(node, "verify"),
        "redis": b"\n".join(name + (cache.get(name) or b"") for name in entries),
        "kafka": b"\n".join(r.key + r.value + repr(r.headers).encode() for r in records),
        "database": rows.encode(),
    }
    assert node.stop() == 0
    del environment["MIRROR_MAX_ROUTES"]  # a complete table is kept on disk when its server ends
    assert node.start().stop() == 0
    sinks["snapshot"] = b"".join(path.read_bytes() for path in node.folder.rglob("snapshot-*"))
    sinks["files"] = b"".join(path.read_bytes() for path in node.folder.rglob("*") if path.is_file())
    for name, content in sinks.items():
        assert len(content) > 40, name
        assert [text for text in _never_shown(key, password, PEPPER) if text in content] == [], name


def test_nothing_is_told_of_secrets_that_are_refused(tmp_path: Path, postgres: PostgresServer) -> None:
    wrong = {
        name: a_secret() for name in ("DB_PASSWORD", "REDIS_PASSWORD", "KAFKA_SASL_PASSWORD", "AUTH_PEPPER")
    }
    settings = {
        **{name: value for name, value in postgres.env().items() if name.startswith("DB_")},
        "DB_USER": "nobody",
        "DB_HOST": "127.0.0.1",
        "DB_PORT": str(free_port()),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(free_port()),
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": "relay",
        "AUTH_MODE": "required",
        "LOG_LEVEL": "DEBUG",
        **wrong,
    }
    with Node(tmp_path, settings).start(wait_ready=False) as node:
        wait_until(lambda: "listening" in node.log(), 30.0)
        answers = [
            httpx2.get(f"{node.url}{path}", headers=headers).text
            for path in ("/health/ready", "/health", "/api/v1/routes", "/metrics")
            for headers in ({}, bearer(wrong["AUTH_PEPPER"]))
        ]
        wait_until(lambda: '"database' in node.log(), 30.0, "a word on the database")
        told = "\n".join([*answers, node.log()]).encode()
        told += _processes(node) + _command(node, "config", "show") + _command(node, "verify")
        told += _command(node, "keys", "list") + _command(node, "migrate")
    assert [name for name, text in wrong.items() if text.encode() in told] == []
