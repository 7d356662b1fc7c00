"""API keys in the database, each change of one also in the log: the `KeyStore` of the rules of access.

The log says what became of a key, never its digest: the log is shown, exported and sent on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from traffic_manager.access.permissions import as_text, grants_of
from traffic_manager.access.ports import ApiKey, KeyAction, KeyTransaction
from traffic_manager.db.other_changes import OtherChanges, changing
from traffic_manager.db.pool import Database
from traffic_manager.db.session import Row
from traffic_manager.db.store import HEAD_COLUMNS, only
from traffic_manager.routing.chain import KEY_KIND
from traffic_manager.routing.operations import Author
from traffic_manager.routing.ports import Claim, Head

# All but the digest: whoever manages keys has no use for it.
_KEY_COLUMNS = "k.id, k.owner, k.grants, k.created_at, k.created_by, k.expires_at, k.revoked_at"
# All are read: they are few, and which of them the caller may see is decided on their grants.
_KEYS = f"""select {HEAD_COLUMNS}, k.* from meta m left join (
    select {_KEY_COLUMNS} from api_keys k) k on true order by k.id"""
# Served by the primary key of api_keys.
_KEY = f"select {_KEY_COLUMNS} from api_keys k where k.id = :id"
_INSERT_KEY = """insert into api_keys (id, owner, digest, grants, created_at, created_by, expires_at)
    values (:id, :owner, :digest, :grants, :created_at, :created_by, :expires_at)"""
_UPDATE_KEY = "update api_keys set expires_at = :expires_at, revoked_at = :revoked_at where id = :id"


class SqlKeyStore:
    """The keys over either engine."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keys(self) -> tuple[Head, Sequence[ApiKey]]:
        """Return all keys in the order of their ids, as they are at the head now."""
        with self._database.reading() as session:
            rows = session.rows(_KEYS)
        return Head(*only(rows[0] if rows else None)[:3]), _keys_of(rows)

    @contextmanager
    def writing(
        self, key_id: str | None, author: Author, claim: Claim | None = None
    ) -> Iterator[KeyTransaction]:
        """Begin a change under the revision lock."""
        with changing(self._database, KEY_KIND, author, claim) as changes:
            row = changes.session.row(_KEY, id=key_id)
            yield SqlKeyTransaction(changes, _key(row) if row else None)


class SqlKeyTransaction:
    """An open transaction that holds the revision lock."""

    def __init__(self, changes: OtherChanges, key: ApiKey | None) -> None:
        self.head = changes.head
        self.now = changes.now
        self.key = key
        self.done = changes.done
        self._changes = changes

    def all_keys(self) -> Sequence[ApiKey]:
        """Return all keys in the order of their ids."""
        return _keys_of(self._changes.session.rows(_KEYS))

    def issue(self, key: ApiKey, digest: bytes) -> None:
        """Keep a new key with the digest of its secret."""
        self._changes.session.run(
            _INSERT_KEY,
            id=key.id,
            owner=key.owner,
            digest=digest,
            grants=as_text(key.grants),
            created_at=key.created_at,
            created_by=key.created_by,
            expires_at=key.expires_at,
        )
        self._note(key, KeyAction.CREATED)

    def change(self, key: ApiKey, action: KeyAction) -> None:
        """Keep the new state of a key."""
        self._changes.session.run(
            _UPDATE_KEY, id=key.id, expires_at=key.expires_at, revoked_at=key.revoked_at
        )
        self._note(key, action)

    def keep(self, answer: str) -> None:
        """Keep what the request came to, if it is to be done once."""
        self._changes.keep(answer)

    def _note(self, key: ApiKey, action: KeyAction) -> None:
        self._changes.note(action.value, key.is_live(self.now), _detail(key))


def _detail(key: ApiKey) -> Mapping[str, object]:
    """Return what the log says of a key: enough to see later who was given what, and nothing to check it by."""
    return {
        "key": key.id,
        "owner": key.owner,
        "grants": [grant.written() for grant in key.grants],
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def _keys_of(rows: Sequence[Row]) -> Sequence[ApiKey]:
    return [key for row in rows if row[3] is not None and (key := _key(row[3:]))]


def _key(row: Row) -> ApiKey | None:
    """Return the key of a row, None if it can be none."""
    try:
        return ApiKey(row[0], row[1], grants_of(row[2]), *row[3:7])
    except (ValueError, TypeError, LookupError):
        return None
