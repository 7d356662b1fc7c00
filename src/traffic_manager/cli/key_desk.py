"""Keys made on the server's machine, directly in its database: for the first one, and for when none is left.

Whoever can do this has the database's password and the pepper, and so may do everything.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from datetime import timedelta

from traffic_manager.access.key_registry import KeyRegistry
from traffic_manager.access.permissions import Grant as AccessGrant
from traffic_manager.api.access import ANONYMOUS
from traffic_manager.api.keys import key_json
from traffic_manager.client import ApiKey, Grant
from traffic_manager.client.answers import api_key
from traffic_manager.config.settings import Settings
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.db.migrate import check_schema, migrate
from traffic_manager.db.pool import Counters, open_database
from traffic_manager.routing.operations import Author


class KeyDesk:
    """Does what the client does with keys, without a server. Close it, or use it as a context manager."""

    def __init__(self, settings: Settings, reason: str | None = None) -> None:
        if not settings.db.is_postgres:
            migrate(settings.db)  # as `serve` does: the file may not be there yet
        self._database = open_database(settings.db, Counters())
        self._database.open()
        with self._database.reading() as session:
            check_schema(session, self._database.dialect)
        self._registry = KeyRegistry(SqlKeyStore(self._database), settings.pepper, lambda _: None)
        self._author = Author(f"local/{user_name()}", f"cli-{os.getpid()}", reason=reason)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def keys(self) -> Sequence[ApiKey]:
        """Return all keys in the order of their ids."""
        _, keys = self._registry.keys(ANONYMOUS)
        return [api_key(key_json(key)) for key in keys]

    def create_key(self, owner: str, grants: Sequence[Grant], expires_in_days: int) -> ApiKey:
        """Make a key."""
        wanted = [AccessGrant.known(grant.role, grant.tenant, grant.env) for grant in grants]
        lifetime = timedelta(days=expires_in_days)
        issued = self._registry.create(ANONYMOUS, self._author, owner, wanted, lifetime)
        return api_key(key_json(issued.key) | {"key": str(issued.secret)})

    def rotate_key(self, key_id: str, overlap_s: int, expires_in_days: int) -> ApiKey:
        """Make a key that replaces another. Raises KeyNotFound."""
        overlap, lifetime = timedelta(seconds=overlap_s), timedelta(days=expires_in_days)
        issued = self._registry.rotate(ANONYMOUS, self._author, key_id, overlap, lifetime)
        return api_key(key_json(issued.key) | {"key": str(issued.secret)})

    def revoke_key(self, key_id: str) -> ApiKey:
        """End a key for good. Raises KeyNotFound."""
        return api_key(key_json(self._registry.revoke(ANONYMOUS, self._author, key_id).key))


def user_name() -> str:
    """Return who is logged in here, `operator` if that is no name of ours."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return "operator"
    return name if name.isascii() and name.isalnum() else "operator"
