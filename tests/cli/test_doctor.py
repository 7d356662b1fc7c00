"""`doctor` as an operator runs it: what is wrong is named, with what to do; what it gives away holds no secrets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.access.authority import Authority
from tests.cli.conftest import Result
from tests.node import Node
from tests.servers import KafkaServer, PostgresServer
from tests.servers.ports import HOST, free_port
from traffic_manager.db.schema import SCHEMA_VERSION

CANARY = 'canary-7f3a"/&%-which-nobody-may-see-anywhere-at-all'
SECRETS = (
    *("DB_PASSWORD", "DB_MIGRATE_PASSWORD", "REDIS_PASSWORD", "KAFKA_SASL_PASSWORD", "AUTH_PEPPER"),
    "TM_API_KEY",
)
NOBODY = {"DB_HOST": "127.0.0.1", "DB_PORT": "1"}


def doctor(folder: Path, *options: str, **settings: str) -> Result:
    """Run it with *settings*."""
    done = subprocess.run(
        [sys.executable, "-m", "traffic_manager.cli", "doctor", *options],
        env={"PATH": os.environ["PATH"], "API_PORT": str(free_port()), **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def findings(result: Result, check: str) -> list[tuple[str, str, str]]:
    """Return level, what was found and what to do."""
    return [(f["level"], f["what"], f["fix"]) for f in result.document["findings"] if f["check"] == check]


def test_nothing_is_wrong_with_a_laptop(tmp_path: Path) -> None:
    result = doctor(tmp_path, "--output", "json")
    assert (result.code, result.err) == (0, "")
    assert {f["level"] for f in result.document["findings"]} == {"good", "advice", "not used"}
    assert not list(tmp_path.iterdir())


def test_every_wrong_setting_is_named(tmp_path: Path) -> None:
    result = doctor(tmp_path, API_PORT="abc", DB_POOL_MAX="1")
    assert result.code == 1
    assert "API_PORT: " in result.out
    assert "DB_POOL_MAX: " in result.out


def test_what_is_away_is_told_with_the_settings_to_look_at(tmp_path: Path) -> None:
    away = {**NOBODY, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": "1", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    result = doctor(tmp_path, "--output", "json", **away)
    assert result.code == 1
    for check, setting in (
        ("database", "DB_HOST"),
        ("Redis", "REDIS_HOST"),
        ("Kafka", "KAFKA_BOOTSTRAP_SERVERS"),
    ):
        [(level, what, fix)] = findings(result, check)
        assert (level, setting in fix) == ("problem", True), what


def test_server_that_could_not_start_is_told_why(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue(lifetime=timedelta(days=1), is_server=True)
    (tmp_path / "file").touch()
    with socket.socket() as other:
        other.bind((HOST, 0))
        port = str(other.getsockname()[1])
        wrong = {
            "SNAPSHOT_PATH": "file/snapshot",
            "TLS_CERT_FILE": str(certificate),
            "TLS_KEY_FILE": str(key),
        }
        result = doctor(tmp_path, "--output", "json", **NOBODY, **wrong, API_HOST=HOST, API_PORT=port)
    [(level, what, fix)] = findings(result, "server")
    assert (level, f"something listens on port {port}" in what, "ss -ltnp" in fix) == ("problem", True, True)
    assert (
        "problem",
        "SNAPSHOT_PATH: file is a file, and has to be a folder",
        "set SNAPSHOT_PATH",
    ) in findings(result, "files")
    [(level, what, _)] = findings(result, "certificate")
    assert (level, what) == ("problem", "ends in 1 days")


def test_address_of_another_machine_is_told(tmp_path: Path) -> None:
    result = doctor(tmp_path, "--output", "json", API_HOST="192.0.2.1")
    [(level, what, _)] = findings(result, "server")
    assert (level, what.endswith("Cannot assign requested address")) == ("problem", True), what


def test_server_is_asked_for_its_readiness_without_a_key(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    with Node(tmp_path / "node", {"AUTH_MODE": "required", "AUTH_PEPPER": "p" * 32}).start() as node:
        result = doctor(tmp_path, "--support", "b.tar.gz", "--output", "json", API_PORT=str(node.port))
    assert findings(result, "server") == [("good", f"the one at {node.url} is ready", "")]
    [(level, _, fix)] = findings(result, "metrics")
    assert (level, "--key-file" in fix) == ("not used", True)
    with tarfile.open(tmp_path / "b.tar.gz") as bundle:
        assert "traffic-manager-support/health.json" in bundle.getnames()


def test_secrets_are_nowhere(tmp_path: Path) -> None:
    given = dict.fromkeys(SECRETS, CANARY) | NOBODY
    more = {
        "DB_MIGRATE_USER": CANARY,
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "KAFKA_SASL_USERNAME": "ours",
    }
    result = doctor(tmp_path, "--support", "bundle.tar.gz", "--output", "json", **given, **more)
    assert result.code == 1
    everything = result.out + result.err
    with tarfile.open(tmp_path / "bundle.tar.gz") as bundle:
        names = bundle.getnames()
        for entry in bundle:
            file = bundle.extractfile(entry)
            assert file is not None
            everything += file.read().decode()
    assert "traffic-manager-support/settings.txt" in names
    assert "DB_PASSWORD=***" in everything
    for written in (CANARY, json.dumps(CANARY)[1:-1], CANARY[:11]):
        assert written not in everything
    assert (tmp_path / "bundle.tar.gz").stat().st_mode & 0o777 == 0o600


def test_secrets_are_nowhere_though_the_settings_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(CANARY)
    result = doctor(
        tmp_path, "--support", "b.tar.gz", DB_PASSWORD_FILE="secret", DB_PORT=CANARY, API_PORT=CANARY
    )
    assert result.code == 1
    with tarfile.open(tmp_path / "b.tar.gz") as bundle:
        file = bundle.extractfile("traffic-manager-support/doctor.json")
        assert file is not None
        assert "canary" not in result.out + result.err + file.read().decode()


def test_bundle_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    result = doctor(tmp_path, "--support", "not-there/bundle.tar.gz")
    assert (result.code, "No such file or directory" in result.err) == (1, True)


@pytest.mark.servers
def test_database_of_a_server_is_looked_at(
    tmp_path: Path, postgres: PostgresServer, postgres_settings: dict[str, str]
) -> None:
    name = postgres_settings["DB_NAME"]
    none = doctor(tmp_path, "--output", "json", **postgres_settings)
    assert findings(none, "tables") == [("problem", "of version none", "run `traffic-manager migrate`")]
    with Node(tmp_path, postgres_settings) as node:
        node.start("--migrate")
        port = {"API_PORT": str(node.port)}
        good = doctor(tmp_path, "--output", "json", "--support", "b.tar.gz", **postgres_settings, **port)
        assert good.code == 0, good.out
        assert findings(good, "tables") == [("good", f"of version {SCHEMA_VERSION}, as this program's", "")]
        assert findings(good, "server") == [("good", f"the one at {node.url} is ready", "")]
        with tarfile.open(tmp_path / "b.tar.gz") as bundle:
            assert "traffic-manager-support/metrics.txt" in bundle.getnames()
    postgres.psql("drop index ix_changes_key", name)
    postgres.psql("create role looker login password 'only-for-this-test'", name)
    postgres.psql("grant select on alembic_version, routes to looker", name)
    looker = postgres_settings | {"DB_USER": "looker", "DB_PASSWORD": "only-for-this-test"}
    bad = doctor(tmp_path, "--output", "json", **looker)
    postgres.psql("drop owned by looker; drop role looker", name)
    assert bad.code == 1
    [(_, lacks, fix)] = findings(bad, "permissions")
    assert "insert on changes" in lacks
    assert "select on routes" not in lacks
    assert "traffic-manager migrate" in fix
    statement = "CREATE INDEX ix_changes_key ON changes (tenant, service, env, version, revision)"
    assert findings(bad, "indexes") == [("problem", "ix_changes_key is missing", statement)]


@pytest.mark.servers
def test_topic_that_does_not_keep_its_promises_is_told(tmp_path: Path, kafka: KafkaServer) -> None:
    compacted = {"cleanup.policy": "compact", "max.message.bytes": "1000"}
    admin = AdminClient({"bootstrap.servers": kafka.env()["KAFKA_BOOTSTRAP_SERVERS"]})
    admin.create_topics([NewTopic("doctored", 2, 1, config=compacted)])["doctored"].result(30)
    result = doctor(tmp_path, "--output", "json", **kafka.env(), KAFKA_ROUTE_EVENTS_TOPIC="doctored")
    assert result.code == 1
    told = {what.split(":")[0].split("=")[0]: level for level, what, _ in findings(result, "topic")}
    assert told == {
        "2 partitions, 1 replicas": "advice",
        "cleanup.policy": "problem",
        "max.message.bytes": "problem",
    }
