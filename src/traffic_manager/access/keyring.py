"""All keys in force, in memory, as the log describes them: checking a key asks no database.

The follower keeps it as it keeps the mirror: only the event loop changes it, so readers there need no lock. It is
always complete, whatever the mirror holds, so that "not a key" is said from knowledge.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Collection
from hashlib import sha256
from typing import NamedTuple

from traffic_manager.access.credentials import Credential
from traffic_manager.access.permissions import Principal, covers, grants_of
from traffic_manager.errors import SourceUnavailable, Unauthenticated
from traffic_manager.routing.ports import StoredKey

# A check costs 4 µs, most of it for the keyed hash; a look-up here 1 µs. Past so many all are forgotten.
MAX_REMEMBERED = 10_000
_NOBODY_S_DIGEST = bytes(32)


def mark_of(credential: bytes) -> bytes:
    """Return what stands for *credential* in memory, so that no secret has to be kept."""
    return sha256(credential).digest()


class Entry(NamedTuple):
    """Somebody who was admitted, until *expires_at* (seconds since 1970)."""

    principal: Principal
    expires_at: float


class Keyring:
    """The keys of one history. *pepper*: what digests are keyed with; *now*: seconds since 1970."""

    def __init__(self, pepper: bytes, now: Callable[[], float] = time.time) -> None:
        self._pepper = pepper
        self._now = now
        # Rows as they are: to make principals of 10,000 would hold the event loop up for half a second.
        self._keys: dict[str, StoredKey] = {}
        # Who was admitted lately, by the mark of the whole credential.
        self._remembered: dict[bytes, Entry] = {}
        self.is_loaded = False

    def __len__(self) -> int:
        return len(self._keys)

    def load(self, keys: Collection[StoredKey]) -> None:
        """Take these keys instead of all that were here."""
        self._keys = {key.id: key for key in keys}
        self._remembered = {}
        self.is_loaded = True

    def principal_of(self, credential: bytes) -> Principal:
        """Return whose key *credential* is. Raises Unauthenticated if it is none in force, SourceUnavailable while
        the keys are not known yet."""
        mark = mark_of(credential)
        entry = self._remembered.get(mark)
        if entry is None:
            entry = self._checked(credential)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered = {}
            self._remembered[mark] = entry
        if self._now() >= entry.expires_at:
            raise Unauthenticated
        return entry.principal

    def permits_resolve(self, mark: bytes | None, tenant: str, env: str) -> bool:
        """Return whether the credential of *mark* was admitted lately, is in force, and may resolve there. False is
        no refusal: `principal_of` has to be asked. The lane asks this of every request."""
        entry = self._remembered.get(mark) if mark is not None else None
        if entry is None or self._now() >= entry.expires_at:
            return False
        return covers(entry.principal.resolvable, tenant, env)

    def knows(self, principal: Principal) -> bool:
        """Return whether the key of *principal* is still in force: for whoever was let in a while ago."""
        key = self._keys.get(principal.key_id or "")
        return key is not None and key.grants == principal.written and self._now() < _seconds(key.expires_at)

    def _checked(self, credential: bytes) -> Entry:
        """Return the entry of a key that may have expired. An unknown id costs as much as a wrong secret."""
        if not self.is_loaded:
            raise SourceUnavailable("the keys are not known yet")
        shown = Credential.parse(credential)
        if shown is None:
            raise Unauthenticated
        key = self._keys.get(shown.key_id)
        expected = key.digest if key else _NOBODY_S_DIGEST
        is_right = hmac.compare_digest(shown.digest(self._pepper), expected)
        if key is None or not is_right:
            raise Unauthenticated
        try:
            grants = grants_of(key.grants)
        except (ValueError, TypeError, LookupError) as error:  # others' hands have been at the row
            raise Unauthenticated from error
        principal = Principal(f"{key.owner}/{key.id}", grants, key.id)
        return Entry(principal, _seconds(key.expires_at))


def _seconds(microseconds: int) -> float:
    return microseconds / 1_000_000
