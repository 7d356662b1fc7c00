"""Migrations by a role that owns the tables, service by one that may not rewrite history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.access.issue import PEPPER
from tests.db.engines import SqlEngine, postgres_settings_of
from tests.node import Node, a_key, a_route, path_of, resolve
from tests.routing.builders import a_key as routing_key
from tests.routing.builders import commit, create, deactivate
from tests.servers import PostgresServer
from traffic_manager.db.migrate import migrate
from traffic_manager.db.pool import opened_as_owner
from traffic_manager.db.postgres import conninfo
from traffic_manager.db.retention import Compaction, compact
from traffic_manager.db.verification import verify

pytestmark = pytest.mark.servers
ROLE = "served_by_app"
CHANGED = {"url": "https://changed.example.com"}


@pytest.fixture
def app_settings(postgres: PostgresServer, postgres_settings: dict[str, str]) -> Iterator[dict[str, str]]:
    """The settings of a server whose role owns nothing, with the owner as migration role."""
    database = postgres_settings["DB_NAME"]
    postgres.psql(f"create role {ROLE} login password 'only-for-this-test'")
    owner = {
        "DB_MIGRATE_USER": postgres_settings["DB_USER"],
        "DB_MIGRATE_PASSWORD": postgres_settings["DB_PASSWORD"],
    }
    yield postgres_settings | owner | {"DB_USER": ROLE, "DB_PASSWORD": "only-for-this-test"}
    postgres.psql(f"drop owned by {ROLE}", database)
    postgres.psql(f"drop role {ROLE}")


def test_role_without_ownership_serves_and_cannot_rewrite_history(
    tmp_path: Path, postgres: PostgresServer, app_settings: dict[str, str]
) -> None:
    settings = {**app_settings, "AUTH_PEPPER": PEPPER}
    with Node(tmp_path, settings).start("--migrate") as node, node.client() as client:
        assert client.post("/api/v1/routes", json=a_route()).status_code == 201
        key = client.post("/api/v1/keys", json={"owner": "ci", "grants": [{"role": "viewer"}]}).json()
        assert client.post(f"/api/v1/keys/{key['id']}/revoke").status_code == 200
        assert resolve(client, a_key(), cache_control="no-cache").status_code == 200
    owner = app_settings["DB_MIGRATE_USER"]
    served = conninfo(postgres_settings_of(app_settings))
    with psycopg.connect(served, autocommit=True) as connection:
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.Error, match=r"permission denied|must be (owner|superuser)"):
                connection.execute(statement.replace("tables_owner", owner).encode())
        # This one is a warning of PostgreSQL's, and gives nothing.
        connection.execute("grant all on changes, meta, api_keys to current_user with grant option")
        connection.execute("grant all on changes, meta, api_keys to public")
        for privilege in ("update", "delete", "truncate", "trigger", "references"):
            row = connection.execute("select has_table_privilege('changes', %s)", [privilege]).fetchone()
            assert row == (False,), privilege


# What somebody would try who has taken a server over, and with it the password of its role.
FORBIDDEN = (
    "delete from api_keys",
    "update changes set detail = null",
    "delete from changes",
    "update changes set actor = 'nobody'",
    "insert into changes select * from changes on conflict (revision) do update set actor = 'nobody'",
    "merge into changes c using changes d on c.revision = d.revision when matched then delete",
    "select * from changes for update",
    "truncate changes",
    "alter table changes disable trigger all",
    "alter table changes owner to current_user",
    "create rule forget as on insert to changes do instead nothing",
    "create trigger forget before insert on changes execute function suppress_redundant_updates_trigger()",
    "alter table changes rename to changes_of_old",
    "create view public.changes_of_mine as select 1",
    "update meta set compacted_revision = 1",
    "update meta set compacted_chain = null",
    "delete from meta",
    "update alembic_version set version_num = '0001'",
    "create table public.mine (a int)",
    "drop table changes",
    "grant tables_owner to current_user",
    "set role tables_owner",
    "set session authorization tables_owner",
    "alter role current_user superuser",
    "alter role current_user createrole",
    "create role another",
    "set session_replication_role = replica",
    "copy changes to program 'true'",
    "alter system set fsync = off",
)


# As an earlier program left the tables: without receipts, addresses in the log, limits, traces.
_BACK_TO_0006 = """drop table limits; drop table receipts; drop table change_traces;
    alter table changes drop column address; update alembic_version set version_num = '0006'"""


def test_tables_of_before_are_brought_up_with_their_rows_and_served_by_that_role(
    tmp_path: Path, postgres: PostgresServer, app_settings: dict[str, str]
) -> None:
    owned = postgres_settings_of(app_settings).as_owner
    migrate(owned)
    engine = SqlEngine(owned)
    commit(engine.store, create())
    commit(engine.store, create(routing_key("inactive")))
    commit(engine.store, deactivate(routing_key("inactive")))
    engine.close()
    postgres.psql(_BACK_TO_0006, app_settings["DB_NAME"])
    with Node(tmp_path, app_settings).start("--migrate") as node, node.client() as client:
        assert resolve(client, a_key(), cache_control="no-cache").status_code == 200
        named = {"Idempotency-Key": "after"}
        first, again = (client.put(path_of(a_key()), json=CHANGED, headers=named) for _ in range(2))
        assert (first.status_code, again.headers["Idempotency-Replayed"]) == (200, "?1")
        assert client.put("/api/v1/limits/tenant/team-a", json={"routes": 5}).status_code == 200
        changes = client.get("/api/v1/changes").json()["changes"]
    assert [change["address"] for change in changes] == [None, None, None, "127.0.0.1"]
    with opened_as_owner(postgres_settings_of(app_settings)) as database:
        assert verify(database).findings == []


def test_compaction_works_as_the_role_that_owns_the_tables(
    tmp_path: Path, app_settings: dict[str, str]
) -> None:
    with Node(tmp_path, app_settings).start("--migrate") as node, node.client() as client:
        for version in ("v1", "v2"):
            client.post("/api/v1/routes", json=a_route(version=version)).raise_for_status()
    with opened_as_owner(postgres_settings_of(app_settings)) as database:
        assert compact(database, made_before=2**60, kept=1) == Compaction(1, 1)
