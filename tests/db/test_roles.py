"""Migrations by a role that owns the tables, service by one that may not rewrite history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.issue import PEPPER
from tests.db.engines import postgres_settings_of
from tests.node import Node, a_key, a_route, resolve
from tests.servers import PostgresServer
from traffic_manager.db.pool import opened_as_owner
from traffic_manager.db.retention import Compaction, compact

pytestmark = pytest.mark.servers
ROLE = "served_by_app"


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
    for forbidden in (
        "delete from api_keys",
        "update changes set detail = null",
        "delete from changes",
        "update changes set actor = 'nobody'",
        "truncate changes",
        "alter table changes disable trigger all",
        "create rule forget as on insert to changes do instead nothing",
        "update meta set compacted_revision = 1",
        "create table public.mine (a int)",
        "drop table changes",
    ):
        with pytest.raises(RuntimeError, match=r"permission denied|must be owner"):
            postgres.psql(f"set role {ROLE}; {forbidden}", app_settings["DB_NAME"])


def test_compaction_works_as_the_role_that_owns_the_tables(
    tmp_path: Path, app_settings: dict[str, str]
) -> None:
    with Node(tmp_path, app_settings).start("--migrate") as node, node.client() as client:
        for version in ("v1", "v2"):
            client.post("/api/v1/routes", json=a_route(version=version)).raise_for_status()
    with opened_as_owner(postgres_settings_of(app_settings)) as database:
        assert compact(database, made_before=2**60, kept=1) == Compaction(1, 1)
