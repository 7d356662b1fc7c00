"""Makes, replaces and ends API keys, for those who may: `api` calls it for callers, `cli` for whoever has the
database's credentials anyway.

Nobody gives away more than they have: a key is administered by whoever may do so in every place that it holds for.

What has an idempotency key is done once. Of a key that was made, its id is kept for whoever asks again, and nothing
of its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from traffic_manager.access.credentials import Credential, is_key_id
from traffic_manager.access.permissions import Grant, Operation, Principal, as_text
from traffic_manager.access.ports import ApiKey, KeyAction, KeyStore, KeyTransaction
from traffic_manager.errors import Forbidden, KeyIssuedBefore, KeyNotFound, KeysUnavailable, QuotaExceeded
from traffic_manager.routing.operations import Author
from traffic_manager.routing.ports import Head
from traffic_manager.routing.receipts import claim_to, head_as_text, head_of_text

DEFAULT_LIFETIME = timedelta(days=365)
DEFAULT_OVERLAP = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A new key, with its *secret* text: the only time that it can be read. *head*: where history stands."""

    key: ApiKey
    secret: Credential
    head: Head


@dataclass(frozen=True)
class Revoked:
    """A *key* that is revoked, and where history stands. *is_replay*: the request had been done before."""

    key: ApiKey
    head: Head
    is_replay: bool = False


class KeyRegistry:
    """Changes keys in *store*, one transaction a call; blocking. *committed* is called with the new head revision.
    *most_keys* tells how many keys in force may hold in a tenant, None for any number."""

    def __init__(
        self,
        store: KeyStore,
        pepper: bytes | None,
        committed: Callable[[int], None],
        most_keys: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        self._most_keys = most_keys
        self._store = store
        self._pepper = pepper
        self._committed = committed

    def keys(self, caller: Principal) -> tuple[Head, Sequence[ApiKey]]:
        """Return the keys that *caller* administers, in the order of their ids."""
        head, keys = self._store.keys()
        return head, [key for key in keys if _administers(caller, Operation.LIST_KEYS, key.grants)]

    def create(
        self, caller: Principal, author: Author, owner: str, grants: Sequence[Grant], lifetime: timedelta
    ) -> Issued:
        """Return a new key of *owner*. Raises Forbidden if it would hold where *caller* administers nothing, and
        KeyIssuedBefore or IdempotencyKeyReused."""
        if not _administers(caller, Operation.CREATE_KEY, grants):
            raise Forbidden
        wanted = tuple(dict.fromkeys(grants))
        claim = claim_to(author, "create-key", owner, as_text(wanted), _microseconds(lifetime))
        with self._store.writing(None, author, claim) as transaction:
            issued = self._issue(transaction, author, owner, wanted, lifetime)
        return self._done(issued)

    def rotate(
        self, caller: Principal, author: Author, key_id: str, overlap: timedelta, lifetime: timedelta
    ) -> Issued:
        """Return a new key of the same owner with the same grants; the old one ends after *overlap*, if it would not
        sooner. Raises KeyNotFound, also for one that is no longer in force: that one is not to come back; and
        KeyIssuedBefore or IdempotencyKeyReused."""
        _check_id(key_id)
        claim = claim_to(author, "rotate-key", key_id, _microseconds(overlap), _microseconds(lifetime))
        with self._store.writing(key_id, author, claim) as transaction:
            old = _found(transaction, caller, Operation.ROTATE_KEY)
            _check_not_issued(transaction)
            if not old.is_live(transaction.now):
                raise KeyNotFound
            issued = self._issue(transaction, author, old.owner, old.grants, lifetime)
            ends_at = min(old.expires_at, transaction.now + _microseconds(overlap))
            transaction.change(replace(old, expires_at=ends_at), KeyAction.SHORTENED)
        return self._done(replace(issued, head=replace(issued.head, revision=issued.head.revision + 1)))

    def revoke(self, caller: Principal, author: Author, key_id: str) -> Revoked:
        """End a key for good; nothing changes if it was revoked before. Raises KeyNotFound, or
        IdempotencyKeyReused."""
        _check_id(key_id)
        with self._store.writing(key_id, author, claim_to(author, "revoke-key", key_id)) as transaction:
            key, head = _found(transaction, caller, Operation.REVOKE_KEY), transaction.head
            if transaction.done is not None:
                return Revoked(key, head_of_text(transaction.done), is_replay=True)
            if key.revoked_at is None:
                key = replace(key, revoked_at=transaction.now)
                transaction.change(key, KeyAction.REVOKED)
                head = replace(head, revision=head.revision + 1)
            transaction.keep(head_as_text(head))
        self._committed(head.revision)
        return Revoked(key, head)

    def _issue(
        self,
        transaction: KeyTransaction,
        author: Author,
        owner: str,
        grants: tuple[Grant, ...],
        lifetime: timedelta,
    ) -> Issued:
        _check_not_issued(transaction)
        if self._pepper is None:
            raise KeysUnavailable
        self._check_quotas(transaction, grants)
        secret = Credential.new()
        now = transaction.now
        key = ApiKey(secret.key_id, owner, grants, now, author.actor, now + _microseconds(lifetime))
        transaction.issue(key, secret.digest(self._pepper))
        transaction.keep(key.id)
        return Issued(key, secret, replace(transaction.head, revision=transaction.head.revision + 1))

    def _check_quotas(self, transaction: KeyTransaction, grants: tuple[Grant, ...]) -> None:
        """Raise QuotaExceeded if a tenant of *grants* has as many keys in force as it may."""
        tenants = {grant.tenant for grant in grants if grant.tenant is not None}
        most = {name: most for name in tenants if (most := self._most_keys(name)) is not None}
        if not most:
            return
        live = [key for key in transaction.all_keys() if key.is_live(transaction.now)]
        for tenant, quota in most.items():
            if sum(any(grant.tenant == tenant for grant in key.grants) for key in live) >= quota:
                raise QuotaExceeded(tenant, "keys", quota)

    def _done(self, issued: Issued) -> Issued:
        self._committed(issued.head.revision)
        return issued


def _administers(caller: Principal, operation: Operation, grants: Sequence[Grant]) -> bool:
    places = [grant.place for grant in grants] or [(None, None)]
    return all(caller.may(operation, tenant, env) for tenant, env in places)


def _check_id(key_id: str) -> None:
    """Raise KeyNotFound for what can be no id, before the revision lock is taken for it."""
    if not is_key_id(key_id):
        raise KeyNotFound


def _check_not_issued(transaction: KeyTransaction) -> None:
    """Raise KeyIssuedBefore if the same request has made its key already."""
    if transaction.done is not None:
        raise KeyIssuedBefore(transaction.done)


def _found(transaction: KeyTransaction, caller: Principal, operation: Operation) -> ApiKey:
    """Return the key asked for. One that is not the caller's to administer is as good as missing."""
    key = transaction.key
    if key is None or not _administers(caller, operation, key.grants):
        raise KeyNotFound
    return key


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
