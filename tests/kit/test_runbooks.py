"""The runbooks of docs/operations.md can be followed by copying: their very commands, with real servers.

Only what a container has not is stood in for: systemd, which starts and stops a node here by a script.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.access.issue import PEPPER
from tests.docs.shown import DOCS, Block, carried_out
from tests.kit.tools import tool
from tests.servers import KafkaServer, PostgresServer, RedisServer
from tests.servers.ports import HOST, free_port
from tests.servers.programs import java
from tests.servers.programs import kafka as kafka_folder

pytestmark = [pytest.mark.kit, pytest.mark.servers, pytest.mark.timeout(400)]

PAGE = (DOCS / "operations.md").read_text()
TOPIC = "route-events"
SYSTEMCTL = """#!/bin/bash
pid={folder}/node.pid
stop() {{ test ! -e $pid || {{ kill $(cat $pid); tail --pid=$(cat $pid) -f /dev/null; rm $pid; }}; }}
start() {{
  set -a; . {folder}/etc/environment; set +a
  cd {folder}/var; traffic-manager serve >> {folder}/node.log 2>&1 & echo $! > $pid
}}
case "$*" in
  "start traffic-manager") start ;;
  "stop traffic-manager") stop ;;
  "restart traffic-manager") stop; start ;;
  "start traffic-manager-migrate")
    set -a; . {folder}/etc/environment; set +a
    export DB_MIGRATE_USER=traffic_manager_owner DB_MIGRATE_PASSWORD_FILE={folder}/etc/secrets/db-migrate-password
    traffic-manager migrate ;;
  *) exit 1 ;;
esac
"""
KAFKA_TOPICS = """#!/bin/bash
exec {java} -cp '{libs}/*:{tools}' org.apache.kafka.tools.TopicCommand "$@"
"""


def commands(section: str) -> list[str]:
    """Return the blocks of commands of a section, those in lists too."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    found = re.findall(r"^( *)```sh\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


BEGINNING = textwrap.dedent(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0])


class Machine:
    """A machine with the unit installed, in *folder*, and *settings* beside those of the page."""

    def __init__(self, folder: Path, postgres: PostgresServer, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._postgres = postgres
        self._port = str(free_port())
        self._environment = {
            "PGHOST": postgres.host,
            "PGPORT": str(postgres.port),
            "PGUSER": postgres.user,
            "PGPASSWORD": postgres.password,
            "PATH_OF_STANDINS": str(folder / "bin"),
        }
        for name in ("bin", "etc/secrets", "var"):
            (folder / name).mkdir(parents=True)
        (folder / "etc" / "secrets" / "pepper").write_text(PEPPER)
        own = {"ENVIRONMENT": "production", "API_PORT": self._port, "API_HOST": HOST, "DRAIN_SECONDS": "0"}
        own |= {"AUTH_PEPPER_FILE": f"{folder}/etc/secrets/pepper", **settings}
        lines = "".join(f"{name}={value}\n" for name, value in own.items())
        (folder / "etc" / "environment").write_text(lines)
        self._write("systemctl", self._here(SYSTEMCTL.format(folder=folder)))
        jar = tool("kafka-tools.jar")
        self._write(
            "kafka-topics.sh", KAFKA_TOPICS.format(java=java(), libs=kafka_folder() / "libs", tools=jar)
        )

    def follow(self, steps: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Return what each step prints, whose blocks are carried out one after the other. Fails if a command does."""
        scripts = ['export PATH="$PATH_OF_STANDINS:$PATH"', *("\n".join(blocks) for blocks in steps.values())]
        blocks = [Block(self._here(script), "") for script in scripts]
        _, *told = carried_out(blocks, self._folder, self._environment, timeout_s=300.0)
        return dict(zip(steps, told, strict=True))

    def log(self) -> str:
        """Return what the node has written."""
        return (self._folder / "node.log").read_text()

    def _write(self, name: str, script: str) -> None:
        file = self._folder / "bin" / name
        file.write_text(script)
        file.chmod(0o755)

    def _here(self, text: str) -> str:
        """Return *text* for this folder and server, whose administrator has the name of the page's role."""
        places = {
            "chgrp traffic-manager": "chgrp 0",
            "/etc/traffic-manager": f"{self._folder}/etc",
            "/var/lib/traffic-manager": f"{self._folder}/var",
            "localhost:8000": f"localhost:{self._port}",
            "/root/": f"{self._folder}/",
            "DB_HOST=postgres.example.com": f"DB_HOST={self._postgres.host}\nDB_PORT={self._postgres.port}",
        }
        for theirs, ours in places.items():
            text = text.replace(theirs, ours)
        return re.sub(r"\btraffic_manager(?=_owner|_2|\b)", "node", text)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server whose roles nobody else uses."""
    with PostgresServer() as server:
        yield server


def test_a_life_on_postgresql(
    tmp_path: Path, own_postgres: PostgresServer, redis_server: RedisServer, kafka: KafkaServer
) -> None:
    kafka.create_topic(TOPIC, partitions=4)
    settings = {**redis_server.env(), **kafka.env(), "KAFKA_CREATE_TOPIC": "false"}
    machine = Machine(tmp_path, own_postgres, settings)
    told = machine.follow(
        {
            "begin": [BEGINNING],
            **{name: commands(name) for name in ("Install", "Upgrade", "Backup")},
            "lose": ["traffic-manager routes put team-a/lost/prod/v1 https://lost.example.com"],
            "Restore": commands("Restore"),
            "list": ["traffic-manager routes list"],
            **{name: commands(name) for name in ("Replacing secrets", "Kafka")},
            "resolve": ["traffic-manager resolve team-a/payments/prod/v2"],
        }
    )
    assert told["resolve"].strip() == "https://payments.example.com/v2"
    assert ("payments" in told["list"], "lost" in told["list"]) == (True, False)
    assert "events: all agree" in told["Kafka"]
    assert "Traceback" not in "".join(told.values()) + machine.log()


def test_a_move_from_sqlite(tmp_path: Path, own_postgres: PostgresServer) -> None:
    machine = Machine(tmp_path, own_postgres, {})
    passwords, database, settings, _, start = commands("Install")
    stop, copy, *others = commands("Move from SQLite to PostgreSQL")
    history = "traffic-manager routes history team-a/payments/prod/v2"
    told = machine.follow(
        {
            "begin": [
                BEGINNING,
                "(umask 077; traffic-manager keys create --role admin --owner ops > /root/ops.key)",
                start,
                *re.findall(r"^sqlite3 .*", PAGE, re.MULTILINE),
            ],
            "before": [history],
            "move": [passwords, database, stop, settings, copy, *others],
            "after": [history],
        }
    )
    assert told["before"] == told["after"] != ""
    assert "all agree" in told["move"]
    assert own_postgres.psql("select count(*) from routes", "routes") == "1"
