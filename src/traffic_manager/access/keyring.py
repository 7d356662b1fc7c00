"""All keys in force, in memory, as the log describes them: checking a key asks no database.

The follower keeps it as it keeps the mirror: only the event loop changes it, so readers there need no lock. It is
always complete, whatever the mirror holds, so that "not a key" is said from knowledge.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection

from traffic_manager.access.admitted import Admitted, Entry, mark_of
from traffic_manager.access.credentials import Credential
from traffic_manager.access.permissions import Principal, grants_of
from traffic_manager.errors import SourceUnavailable, Unauthenticated
from traffic_manager.routing.ports import StoredKey

_NOBODY_S_DIGEST = bytes(32)


class Keyring:
    """The keys of one history. *pepper*: what digests are keyed with; *admitted* remembers who was let in."""

    def __init__(self, pepper: bytes, admitted: Admitted | None = None) -> None:
        self._pepper = pepper
        self.admitted = Admitted() if admitted is None else admitted
        # Rows as they are: to make principals of 10,000 would hold the event loop up for half a second.
        self._keys: dict[str, StoredKey] = {}
        self.is_loaded = False

    def __len__(self) -> int:
        return len(self._keys)

    def load(self, keys: Collection[StoredKey]) -> None:
        """Take these keys instead of all that were here."""
        before, self._keys = self._keys, {key.id: key for key in keys}
        # The others go on in the lane: who makes keys all the time must not slow everybody down.
        self.admitted.forget_keys({id_ for id_, key in before.items() if self._keys.get(id_) != key})
        self.is_loaded = True

    def principal_of(self, credential: bytes) -> Principal:
        """Return whose key *credential* is. Raises Unauthenticated if it is none in force, SourceUnavailable while
        the keys are not known yet."""
        return self.admitted.principal_of(mark_of(credential), lambda: self._checked(credential))

    def knows(self, principal: Principal) -> bool:
        """Return whether the key of *principal* is still in force: for whoever was let in a while ago."""
        key = self._keys.get(principal.key_id or "")
        return (
            key is not None
            and key.grants == principal.written
            and self.admitted.now() < _seconds(key.expires_at)
        )

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
        expires_at = _seconds(key.expires_at)
        name, sources = f"{key.owner}/{key.id}", (f"the key {key.id}",) * len(grants)
        return Entry(Principal(name, grants, key.id, sources=sources, expires_at=expires_at), expires_at)


def _seconds(microseconds: int) -> float:
    return microseconds / 1_000_000
