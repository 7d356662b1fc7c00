"""What the rules of access need from the database; `db.key_store` and `db.limit_store` have it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from traffic_manager.access.permissions import Grant
from traffic_manager.routing.operations import Author
from traffic_manager.routing.ports import Claim, Head, Limit


class KeyAction(StrEnum):
    """What a change did to its key."""

    CREATED = "created"
    SHORTENED = "shortened"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What may be known of a key: all but its secret and the digest of it. Times are microseconds since 1970, UTC;
    *revoked_at* is None as long as it is not."""

    id: str
    owner: str
    grants: tuple[Grant, ...]
    created_at: int
    created_by: str
    expires_at: int
    revoked_at: int | None = None

    @property
    def name(self) -> str:
        """What changes say of who made them."""
        return f"{self.owner}/{self.id}"

    def is_live(self, now: int) -> bool:
        """Return whether it is in force at *now*."""
        return self.revoked_at is None and now < self.expires_at


class KeyTransaction(Protocol):
    """An open transaction that holds the revision lock. Each change of a key is a change of the log."""

    head: Head
    now: int  # the database's clock
    key: ApiKey | None  # the one asked for
    done: str | None  # what was kept of the same request, if it was done before

    def all_keys(self) -> Sequence[ApiKey]:
        """Return all keys."""

    def issue(self, key: ApiKey, digest: bytes) -> None:
        """Keep a new key with the digest of its secret."""

    def change(self, key: ApiKey, action: KeyAction) -> None:
        """Keep the new state of a key."""

    def keep(self, answer: str) -> None:
        """Keep what the request came to, if it is to be done once."""


class KeyStore(Protocol):
    """The keys in the database."""

    def keys(self) -> tuple[Head, Sequence[ApiKey]]:
        """Return all keys, also those no longer in force, in the order of their ids."""

    def writing(
        self, key_id: str | None, author: Author, claim: Claim | None = None
    ) -> AbstractContextManager[KeyTransaction]:
        """Begin a change of the key *key_id* by *author*, for a request with this *claim*: commits when the block
        ends well, all its changes as one batch, else nothing was written. Raises IdempotencyKeyReused."""


class LimitAction(StrEnum):
    """What a change did to its limit."""

    SET = "set"
    REMOVED = "removed"


class LimitSet(NamedTuple):
    """What setting a limit came to: where history stands then. *is_replay*: the request had been done before."""

    head: Head
    is_replay: bool = False


class LimitStore(Protocol):
    """The limits in the database."""

    def limits(self) -> tuple[Head, Sequence[Limit]]:
        """Return all limits that are set, in the order of subjects and names."""

    def put(self, limit: Limit, author: Author, claim: Claim | None = None) -> LimitSet:
        """Set *limit*, for a request with this *claim*. Raises IdempotencyKeyReused."""
