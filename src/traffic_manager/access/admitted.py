"""Who was admitted lately, whatever they showed: to check a credential costs a keyed hash or a signature, a look-up
here 1 µs. The lane asks for nothing else.

Whoever changes what a credential means (keys, grants, issuers) has those forgotten whom it may concern; they are
checked anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from hashlib import sha256
from typing import NamedTuple

from traffic_manager.access.permissions import Principal, covers
from traffic_manager.errors import Unauthenticated

# Past so many all are forgotten.
MAX_REMEMBERED = 10_000


def mark_of(credential: bytes) -> bytes:
    """Return what stands for *credential* in memory, so that no secret has to be kept."""
    return sha256(credential).digest()


class Entry(NamedTuple):
    """Somebody who was admitted, until *expires_at* (seconds since 1970)."""

    principal: Principal
    expires_at: float


class Admitted:
    """By the mark of the whole credential. *now*: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def principal_of(self, mark: bytes, check: Callable[[], Entry]) -> Principal:
        """Return who is remembered under *mark*, else who *check* finds. Raises Unauthenticated for a credential that
        has ended, and what *check* raises."""
        entry = self._entries.get(mark)
        if entry is not None and self.now() < entry.expires_at:
            return entry.principal
        entry = check()
        if self.now() >= entry.expires_at:
            raise Unauthenticated
        if len(self._entries) >= MAX_REMEMBERED:
            self._entries = {}
        self._entries[mark] = entry
        return entry.principal

    def forget(self) -> None:
        """Have everybody checked anew."""
        self._entries = {}

    def forget_keys(self, ids: Container[str]) -> None:
        """Have those checked anew who showed one of these API keys."""
        kept = self._entries.items()
        self._entries = {mark: entry for mark, entry in kept if (entry.principal.key_id or "") not in ids}

    def permits_resolve(self, mark: bytes | None, tenant: str, env: str) -> bool:
        """Return whether the credential of *mark* was admitted lately, is in force, and may resolve there. False is
        no refusal: it has to be checked. The lane asks this of every request."""
        entry = self._entries.get(mark) if mark is not None else None
        if entry is None:
            return False
        principal, expires_at = entry
        return self.now() < expires_at and covers(principal.resolvable, tenant, env)

    def counted_as(self, mark: bytes | None) -> str:
        """Return as whom those with the credential of *mark* are counted, of which `permits_resolve` has just
        said true."""
        return self._entries[mark].principal.counted_as if mark is not None else ""
