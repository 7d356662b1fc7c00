"""What the relay needs of the database besides the log: the right to be the only one, and how far it has come.

`db` implements it; `events` holds a lease while it sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

# The lease of whoever sends the changes to Kafka; its published revision says how far they are sent.
RELAY_LEASE = "relay"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do what only one may do at a time. *token* grows with each holder and fences older ones;
    *published_revision* is how far the holder before came."""

    name: str
    holder: str
    token: int
    published_revision: int


@dataclass(frozen=True, slots=True)
class Telling:
    """What all routes were told of: up to which epoch, and in which *topic*, by Kafka's id of it, of how many
    *partitions* then; None: not known yet."""

    epoch_number: int
    topic: str | None = None
    partitions: int | None = None


class Leases(Protocol):
    """Rows of the database that one holder at a time can have; the database's clock alone decides."""

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Return the lease if nobody holds it (any more), else None."""

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        """Return True if the lease is still ours and now lasts *ttl_s* more."""

    def publish(self, lease: Lease, revision: int) -> bool:
        """Record that all changes up to *revision* are published: further than before, or less far after a
        restore. False if the lease is no longer ours."""

    def set_aside(self, lease: Lease, revision: int, reason: str) -> bool:
        """Record that the event of *revision* cannot be published, and why. False if the lease is no longer
        ours."""

    def telling(self, name: str) -> Telling:
        """Return what all routes were told of."""

    def told(self, lease: Lease, telling: Telling) -> bool:
        """Record that all routes were told of this. False if the lease is no longer ours."""

    def release(self, lease: Lease) -> None:
        """Let the next one have it at once; nothing if it is no longer ours."""

    def published_revision(self, name: str) -> int:
        """Return how far the published changes reach, whoever published them."""
