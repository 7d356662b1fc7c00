"""API keys in the database, each change of one also in the log: the `KeyStore` of the rules of access.

The log says what became of a key, never its digest: the log is shown, exported and sent on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import orjson

from traffic_manager.access.permissions import as_text, grants_of
from traffic_manager.access.ports import ApiKey, KeyAction, KeyTransaction
from traffic_manager.db.pool import Database
from traffic_manager.db.session import Row, Session
from traffic_manager.db.store import HEAD_COLUMNS, only
from traffic_manager.routing.chain import (
    ADDRESS_CHAIN_VERSION,
    DETAIL_CHAIN_VERSION,
    KEY_KIND,
    covered,
    link,
)
from traffic_manager.routing.operations import Author
from traffic_manager.routing.ports import Head

# All but the digest: whoever manages keys has no use for it.
_KEY_COLUMNS = "k.id, k.owner, k.grants, k.created_at, k.created_by, k.expires_at, k.revoked_at"
# All are read: they are few, and which of them the caller may see is decided on their grants.
_KEYS = f"""select {HEAD_COLUMNS}, k.* from meta m left join (
    select {_KEY_COLUMNS} from api_keys k) k on true order by k.id"""
# Served by the primary keys of api_keys and, backwards, of changes.
_LAST = f"""select {HEAD_COLUMNS}, {{now}},
    coalesce((select chain from changes order by revision desc limit 1), m.compacted_chain) from meta m"""
_KEY = f"select {_KEY_COLUMNS} from api_keys k where k.id = :id"
_INSERT_KEY = """insert into api_keys (id, owner, digest, grants, created_at, created_by, expires_at)
    values (:id, :owner, :digest, :grants, :created_at, :created_by, :expires_at)"""
_UPDATE_KEY = "update api_keys set expires_at = :expires_at, revoked_at = :revoked_at where id = :id"
_CHANGE_FIELDS = (
    *("revision", "batch_end", "kind", "tenant", "service", "env", "version", "action", "url"),
    *("is_active", "previous", "actor", "reason", "correlation_id", "occurred_at"),
)
_INSERT_CHANGE = f"""insert into changes ({", ".join(_CHANGE_FIELDS)}, detail, address, chain, chain_version)
    values ({", ".join(f":{field}" for field in _CHANGE_FIELDS)}, :detail, :address, :chain, :chain_version)"""


class SqlKeyStore:
    """The keys over either engine."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keys(self) -> tuple[Head, Sequence[ApiKey]]:
        """Return all keys in the order of their ids, as they are at the head now."""
        with self._database.reading() as session:
            rows = session.rows(_KEYS)
        keys = [key for row in rows if row[3] is not None and (key := _key(row[3:]))]
        return Head(*only(rows[0] if rows else None)[:3]), keys

    @contextmanager
    def writing(self, key_id: str | None, author: Author) -> Iterator[KeyTransaction]:
        """Begin a change under the revision lock."""
        with self._database.writing() as session:
            self._database.lock_revision(session)
            # A statement of its own after the lock: one that also took the lock would read a stale head.
            last = only(session.row(_LAST.format(now=self._database.dialect.now)))
            row = session.row(_KEY, id=key_id)
            transaction = SqlKeyTransaction(session, last, _key(row) if row else None, author)
            yield transaction
            transaction.log()


class SqlKeyTransaction:
    """An open transaction that holds the revision lock."""

    def __init__(self, session: Session, last: Row, key: ApiKey | None, author: Author) -> None:
        self.head = Head(*last[:3])
        self.now: int = last[3]
        self.key = key
        self._chain: bytes = last[4]
        self._session = session
        self._author = author
        self._changed: list[tuple[ApiKey, KeyAction]] = []

    def issue(self, key: ApiKey, digest: bytes) -> None:
        """Keep a new key with the digest of its secret."""
        self._session.run(
            _INSERT_KEY,
            id=key.id,
            owner=key.owner,
            digest=digest,
            grants=as_text(key.grants),
            created_at=key.created_at,
            created_by=key.created_by,
            expires_at=key.expires_at,
        )
        self._changed.append((key, KeyAction.CREATED))

    def change(self, key: ApiKey, action: KeyAction) -> None:
        """Keep the new state of a key."""
        self._session.run(_UPDATE_KEY, id=key.id, expires_at=key.expires_at, revoked_at=key.revoked_at)
        self._changed.append((key, action))

    def log(self) -> None:
        """Append all that was changed to the log, as one batch."""
        if not self._changed:
            return
        end = self.head.revision + len(self._changed)
        for revision, (key, action) in enumerate(self._changed, self.head.revision + 1):
            columns, detail = self._columns(revision, end, key, action), _detail(key)
            address = self._author.address
            version = DETAIL_CHAIN_VERSION if address is None else ADDRESS_CHAIN_VERSION
            self._chain = link(self._chain, covered(list(columns.values()), detail, address, version))
            more = {"detail": detail, "address": address, "chain": self._chain, "chain_version": version}
            self._session.run(_INSERT_CHANGE, **columns, **more)
        self._session.hinted_revision = end

    def _columns(self, revision: int, end: int, key: ApiKey, action: KeyAction) -> dict[str, object]:
        columns = dict.fromkeys(_CHANGE_FIELDS) | {"revision": revision, "batch_end": end, "kind": KEY_KIND}
        columns |= {"action": action.value, "is_active": key.is_live(self.now), "occurred_at": self.now}
        author = self._author
        return columns | {
            "actor": author.actor,
            "reason": author.reason,
            "correlation_id": author.correlation_id,
        }


def _detail(key: ApiKey) -> str:
    """Return what the log says of a key: enough to see later who was given what, and nothing to check it by."""
    state = {
        "key": key.id,
        "owner": key.owner,
        "grants": [grant.written() for grant in key.grants],
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
    return orjson.dumps(state).decode()


def _key(row: Row) -> ApiKey | None:
    """Return the key of a row, None if it can be none."""
    try:
        return ApiKey(row[0], row[1], grants_of(row[2]), *row[3:7])
    except (ValueError, TypeError, LookupError):
        return None
