"""The example of PgBouncer, the real one, between two real nodes and PostgreSQL, with roles of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import httpx2
import psycopg
import pytest

from tests.kit.load import started
from tests.kit.proxies import EXAMPLES
from tests.kit.test_proxies import STREAM
from tests.node import SOURCE, Node, a_key, path_of, resolve, wait_until
from tests.servers import PgBouncer, PostgresServer, programs
from traffic_manager.db.postgres import _SERVER_SETTINGS as WANTED

pytestmark = [pytest.mark.kit, pytest.mark.servers, pytest.mark.timeout(300)]

ROLE, PASSWORD = f"kit_server_{os.getpid()}", "only-for-this-test"
WORKERS = 2


class ExamplePgBouncer(PgBouncer):
    """One with the very file of `deploy/proxies`, in which only addresses, names and folders are others."""

    def _command(self) -> Sequence[str | Path]:
        users, config = self.folder / "userlist.txt", self.folder / "pgbouncer.ini"
        users.write_text(f'"{ROLE}" "{PASSWORD}"\n')
        text = (EXAMPLES / "pgbouncer.ini").read_text()
        for written, ours in {
            "app_db =": "* =",
            "host=postgres.example.com port=5432": f"host={self._postgres.host} port={self._postgres.port}",
            "listen_addr = *": f"listen_addr = {self.host}",
            "listen_port = 6432": f"listen_port = {self.port}\nunix_socket_dir =",
            "/etc/pgbouncer/userlist.txt": str(users),
        }.items():
            assert text.count(written) == 1, written
            text = text.replace(written, ours)
        config.write_text(text)
        if account := self._account():
            for path in (self.folder, users, config):
                os.chown(path, account.uid, account.gid)
        return [programs.pgbouncer(), config]


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """Migrated tables, and the servers' role with the settings of the example."""
    name = f"pooled_{os.getpid()}"
    made = postgres.create_database(name)
    postgres.psql(f"create role {ROLE} login password '{PASSWORD}'")
    postgres.psql((EXAMPLES / "pgbouncer-role.sql").read_text().replace("app_user", ROLE))
    owner = {
        "DB_MIGRATE_USER": made["DB_USER"],
        "DB_MIGRATE_PASSWORD": made["DB_PASSWORD"],
    }
    settings = {**made, "DB_USER": ROLE, "DB_PASSWORD": PASSWORD}
    # Past the pooler, as the documentation says.
    migrated = subprocess.run(
        [sys.executable, "-m", "traffic_manager.cli", "migrate"],
        env={**os.environ, **settings, **owner, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
    )
    assert migrated.returncode == 0, migrated.stderr
    yield settings
    postgres.psql(f"drop owned by {ROLE}", name)
    postgres.psql(f"drop role {ROLE}")


@pytest.fixture(scope="module")
def pooler(postgres: PostgresServer, database: dict[str, str]) -> Iterator[PgBouncer]:
    with ExamplePgBouncer(postgres) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, database: dict[str, str], pooler: PgBouncer
) -> Iterator[tuple[Node, Node]]:
    """Two nodes of two workers that know nothing but the pooler."""
    pooled = {"DB_HOST": pooler.host, "DB_PORT": str(pooler.port), "DB_PREPARE": "false"}
    settings = {**database, **pooled, "API_WORKERS": str(WORKERS), "DB_POOL_MAX": "8"}
    folders = [tmp_path_factory.mktemp("node") for _ in range(2)]
    with Node(folders[0], settings) as one, Node(folders[1], settings) as two:
        yield started(one), started(two)


def test_connections_have_the_settings_that_a_server_asks_for(
    postgres: PostgresServer, database: Mapping[str, str], pooler: PgBouncer
) -> None:
    """As a connection of a server has them that goes to PostgreSQL itself."""
    name = database["DB_NAME"]
    through = f"host={pooler.host} port={pooler.port} user={ROLE} password={PASSWORD} dbname={name}"
    asked = " ".join(f"-c {setting}={value}" for setting, value in WANTED.items())
    direct = f"{postgres.conninfo(name)} options='{asked.replace(chr(92), chr(92) * 2)}'"
    assert shown(through) == shown(direct)


def shown(conninfo: str) -> dict[str, object]:
    """Return what a connection has of the settings that a server asks for."""
    with psycopg.connect(conninfo, prepare_threshold=None) as connection:
        rows = connection.execute(
            "select name, setting from pg_settings where name = any(%s)", [list(WANTED)]
        )
        found: dict[str, object] = dict(rows.fetchall())
    assert found.keys() == WANTED.keys()
    return found


def test_change_and_event_pass_and_few_connections_reach_postgres(
    nodes: tuple[Node, Node], postgres: PostgresServer, database: Mapping[str, str]
) -> None:
    one, two = nodes
    with one.client() as writer, two.client() as reader, reader.stream("GET", STREAM) as stream:
        lines = stream.iter_lines()
        next(line for line in lines if line == "event: progress")
        for number in range(50):
            url = f"https://payments.example.com/{number}"
            changed = writer.put(path_of(a_key()), json={"url": url})
            assert changed.is_success, changed.text
            found = resolve(reader, a_key(), tm_min_revision=changed.headers["TM-Revision"])
            assert found.json()["url"] == url
        changes = (line for line in lines if line == "event: change")
        assert len(list(islice(changes, 50))) == 50
    users = postgres.psql("select usename from pg_stat_activity where usename is not null").splitlines()
    # Of 2 nodes with 2 workers, each of which keeps more than two connections to the pooler.
    assert 1 <= users.count(ROLE) <= 20


def test_resolves_go_on_while_the_pooler_is_away_and_changes_when_it_is_back(
    nodes: tuple[Node, Node], pooler: PgBouncer
) -> None:
    with nodes[0].client() as client:
        assert client.put(path_of(a_key()), json={"url": "https://payments.example.com/v2"}).is_success
        pooler.kill()
        assert (
            client.put(path_of(a_key()), json={"url": "https://payments.example.com/v3"}).status_code == 503
        )
        assert resolve(client, a_key()).json()["url"] == "https://payments.example.com/v2"
        pooler.start()
        wait_until(lambda: _is_changed(client), 30.0, "a change")


def _is_changed(client: httpx2.Client) -> bool:
    return client.put(path_of(a_key()), json={"url": "https://payments.example.com/v4"}).is_success
