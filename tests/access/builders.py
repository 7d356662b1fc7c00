"""Keys and principals for tests."""

from __future__ import annotations

from traffic_manager.access.credentials import Credential
from traffic_manager.access.permissions import Grant, Principal, as_text
from traffic_manager.routing.ports import StoredKey

PEPPER = b"0123456789abcdef0123456789abcdef"
FAR_FUTURE = 4_102_444_800_000_000  # 2100


def a_grant(text: str) -> Grant:
    """Return the grant written as `role:tenant/env`."""
    role, _, place = text.partition(":")
    return Grant.known(role, *(place or "*/*").split("/"))


def a_principal(*grants: str) -> Principal:
    """Return somebody with these grants."""
    return Principal("alice/k", tuple(a_grant(grant) for grant in grants), "k")


def stored(
    credential: Credential, *grants: str, expires_at: int = FAR_FUTURE, pepper: bytes = PEPPER
) -> StoredKey:
    """Return the row of a key."""
    text = as_text([a_grant(grant) for grant in grants])
    return StoredKey(credential.key_id, "alice", credential.digest(pepper), text, expires_at)
