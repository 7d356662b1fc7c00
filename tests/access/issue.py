"""Keys for servers under test, made as `traffic-manager keys create` makes them: directly in the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import httpx2

from tests.access.builders import a_grant, a_principal
from tests.db.engines import Counts
from tests.node import Node, wait_until
from traffic_manager.access.key_registry import KeyRegistry
from traffic_manager.config.settings import DbSettings
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.db.pool import open_database
from traffic_manager.routing.operations import Author

PEPPER = "only-for-tests-only-for-tests-only-for-tests"
REQUIRED = {"AUTH_MODE": "required", "AUTH_PEPPER": PEPPER}


def a_key_for(node: Node, *grants: str, owner: str = "alice", lifetime: timedelta = timedelta(days=1)) -> str:
    """Return the text of a new key for *node*, with grants as `role:tenant/env`. The node's tables must be there."""
    named = {
        name.removeprefix("DB_").lower(): value
        for name, value in node.environment.items()
        if name.startswith("DB_")
    }
    database = open_database(DbSettings.model_validate(named), Counts().counters)
    database.open()
    try:
        registry = KeyRegistry(SqlKeyStore(database), PEPPER.encode(), lambda _: None)
        wanted = [a_grant(grant) for grant in grants]
        author = Author("local/test", "test")
        return str(registry.create(a_principal("admin:*/*"), author, owner, wanted, lifetime).secret)
    finally:
        database.close()


def bearer(key: str) -> dict[str, str]:
    """Return the header that shows *key*."""
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def an_admin(node: Node) -> Iterator[httpx2.Client]:
    """Lend a client of *node* that may do everything, once the node knows its key."""
    with node.client() as client:
        client.headers.update(bearer(a_key_for(node, "admin:*/*", owner="root")))
        wait_until(lambda: client.get("/api/v1/whoami").status_code == 200)
        yield client
