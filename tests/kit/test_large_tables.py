"""A million routes on PostgreSQL: migrations let others work, and no statement of a server goes through a table.

One table for all tests here, in their order: it is filled at the first version, migrated by what there is, and at
last by a migration that nobody has written yet.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx2
import psycopg
import pytest

from tests.db.engines import SqlEngine, postgres_settings_of
from tests.db.plans import FILL_CHANGES, FILL_ROUTES, LIMITED, STATEMENTS, is_slow_in_postgres, plans_of
from tests.db.test_migration import migrate_to
from tests.node import Node, path_of, wait_until
from tests.servers import PostgresServer
from tests.servers.fixtures import started
from traffic_manager.config.settings import DbSettings
from traffic_manager.db import migrate as migrating
from traffic_manager.db.schema import NEXT_SCHEMA_VERSION, SCHEMA_VERSION
from traffic_manager.db.session import pyformat

pytestmark = [pytest.mark.kit, pytest.mark.timeout(900)]

ROUTES = 1_000_000
LONGEST_WRITE_S = 2.0
KEY = {"tenant": "tenant-15", "service": "service-150", "env": "prod", "version": "v50"}

_NEXT = f'''"""A version as the one after ours could be: what it may do, all at once."""
import sqlalchemy as sa
from alembic import op
from traffic_manager.db.migrations.online import build_index

revision = "{NEXT_SCHEMA_VERSION}"
down_revision = "{SCHEMA_VERSION}"

def upgrade() -> None:
    op.create_table("next", sa.Column("id", sa.BigInteger, primary_key=True))
    op.add_column("routes", sa.Column("note", sa.Text))
    op.add_column("changes", sa.Column("weight", sa.BigInteger, nullable=False, server_default="1"))
    build_index("ix_routes_url", "routes", ["url"])
    build_index("ix_changes_actor", "changes", ["actor", "revision"])
'''


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A server whose data nobody else moves through its buffers."""
    settings = {"shared_buffers": "512MB", "max_wal_size": "4GB", "autovacuum": "off"}
    for server in started(PostgresServer(settings=settings)):
        assert isinstance(server, PostgresServer)
        yield server


@pytest.fixture(scope="module")
def million(own_postgres: PostgresServer) -> DbSettings:
    """Tables of the first version, with a million routes and their changes."""
    settings = postgres_settings_of(own_postgres.env())
    migrate_to(settings, "0001")
    with psycopg.connect(own_postgres.conninfo()) as connection:
        connection.execute(pyformat(FILL_ROUTES), {"last": ROUTES - 1})
        connection.execute(pyformat(FILL_CHANGES), {"chain": bytes(32)})
    return settings


class Repeated:
    """Does something again and again on a thread of its own, and keeps how long each time took."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.took_s: list[float] = []
        self.failed: BaseException | None = None

    @contextmanager
    def going(self) -> Iterator[None]:
        """Go on while the block runs, from some times before it until some after; raises what *act* raised."""
        self._thread.start()
        try:
            self._some_more()
            yield
            self._some_more()
        finally:
            self._is_over.set()
            self._thread.join()
        if self.failed is not None:
            raise self.failed

    def _some_more(self) -> None:
        enough = len(self.took_s) + 5
        wait_until(lambda: self.failed or len(self.took_s) >= enough, 60.0, "some more times")

    def _run(self) -> None:
        for number in count():
            if self._is_over.is_set():
                return
            began = time.monotonic()
            try:
                self._act(number)
            except BaseException as error:
                self.failed = error
                return
            self.took_s.append(time.monotonic() - began)


def test_migrating_from_the_first_version_blocks_nobody_for_long(
    million: DbSettings, own_postgres: PostgresServer
) -> None:
    with psycopg.connect(own_postgres.conninfo(), autocommit=True) as connection:

        def write(number: int) -> None:
            connection.execute(
                "update routes set url = %s where (tenant, service, env, version) = (%s, %s, %s, %s)",
                [f"https://{number}.example.com/", *KEY.values()],
            )
            connection.execute("update changes set reason = null where revision = %s", [number + 1])

        writing = Repeated(write)
        began = time.monotonic()
        with writing.going():
            assert migrating.migrate(million) == SCHEMA_VERSION
    print(
        f"migrating took {time.monotonic() - began:.1f} s, the slowest of {len(writing.took_s)} writes "
        f"{max(writing.took_s):.3f} s"
    )
    assert max(writing.took_s) < LONGEST_WRITE_S
    own_postgres.psql("analyze", own_postgres.database)


@pytest.fixture(scope="module")
def engine(million: DbSettings) -> Iterator[SqlEngine]:
    """The store over it."""
    found = SqlEngine(million)
    yield found
    found.close()


@pytest.mark.parametrize("statement", [*STATEMENTS, *LIMITED])
def test_statement_neither_scans_nor_sorts_a_table(
    engine: SqlEngine, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = plans_of(engine, {**STATEMENTS, **LIMITED}[statement], monkeypatch)
    assert plans
    for plan in plans:
        assert not [step for step in plan if is_slow_in_postgres(step)], "\n".join(plan)


@pytest.fixture(scope="module")
def served(
    million: DbSettings, own_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A node that holds all of it."""
    settings = own_postgres.env() | {
        "API_WORKERS": "2",
        "MIRROR_MAX_ROUTES": "1100000",
        "SNAPSHOT_PATH": "off",
    }
    with Node(tmp_path_factory.mktemp("node"), settings) as node:
        node.start(wait_ready=False)
        wait_until(node.is_ready, 300.0, "a node with a million routes")
        yield node


def test_servers_go_through_no_table(served: Node, own_postgres: PostgresServer) -> None:
    def scans() -> str:
        return own_postgres.psql(
            """select relname, seq_scan from pg_stat_user_tables
            where relname in ('routes', 'changes', 'receipts') order by relname""",
            own_postgres.database,
        )

    def looked_up() -> int:
        return int(
            own_postgres.psql(
                "select idx_scan from pg_stat_user_tables where relname = 'receipts'", own_postgres.database
            )
        )

    before, known = scans(), looked_up()
    with served.client() as client:
        for number in range(20):
            everything(client, number)
    wait_until(lambda: looked_up() >= known + 20, 30.0, "the statistics of what was done")
    assert scans() == before


def everything(client: httpx2.Client, number: int) -> None:
    """Ask for all that callers ask for, once."""
    path, prod = path_of(KEY), {"env": "prod", "page_size": "50"}
    once = {"Idempotency-Key": f"key-{number}"}
    url = {"url": f"https://{number}.example.com/"}
    new = {**KEY, "version": f"new-{number}"}
    operations = [{"operation": "put", **KEY, **url}, {"operation": "deactivate", **KEY}]
    for answer in (
        client.get("/api/v1/routes/resolve", params=KEY, headers={"Cache-Control": "no-cache"}),
        client.put(path, json=url, headers=once),
        client.post("/api/v1/routes", json={**new, **url}, headers={"Idempotency-Key": f"new-{number}"}),
        client.post("/api/v1/routes/batch", json={"operations": operations}),
        client.post("/api/v1/routes/activate", json=KEY),
        client.delete(path_of(new)),
        client.get(path),
        client.get(f"{path}/history"),
        client.get("/api/v1/routes", params=prod),
        client.get("/api/v1/routes", params={**prod, "is_active": "false"}),
        client.get("/api/v1/changes", params={"after": str(ROUTES)}),
        client.get("/api/v1/changes", params={"after": str(ROUTES), "tenant": KEY["tenant"]}),
    ):
        assert answer.is_success, answer.text


def test_nodes_serve_while_the_next_version_migrates_and_go_on_with_its_tables(
    million: DbSettings, served: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(migrating._SCRIPTS, scripts)
    (scripts / "versions" / "next.py").write_text(_NEXT)
    monkeypatch.setattr(migrating, "_SCRIPTS", scripts)
    monkeypatch.setattr(migrating, "SCHEMA_VERSION", NEXT_SCHEMA_VERSION)
    with served.client() as writer, served.client() as reader:

        def write(number: int) -> None:
            answer = writer.put(path_of(KEY), json={"url": f"https://{number}.example.org/"})
            assert answer.status_code == 200, answer.text

        def read(_: int) -> None:
            answer = reader.get("/api/v1/routes/resolve", params=KEY)
            assert (answer.status_code, answer.headers.get("TM-Stale")) == (200, None), answer.text

        writing, reading = Repeated(write), Repeated(read)
        began = time.monotonic()
        with writing.going(), reading.going():
            assert migrating.migrate(million) == NEXT_SCHEMA_VERSION
        slowest_s = max(writing.took_s), max(reading.took_s)
        print(
            f"migrating took {time.monotonic() - began:.1f} s; slowest of {len(writing.took_s)} writes "
            f"{slowest_s[0]:.3f} s, of {len(reading.took_s)} resolves {slowest_s[1]:.3f} s"
        )
        assert slowest_s[0] < LONGEST_WRITE_S
        readiness = reader.get("/health/ready")
        assert readiness.status_code == 200, readiness.text
        everything(writer, 1_000)
