"""How much the outbox still has to tell. Every worker shows it, whoever relays and with Kafka away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from traffic_manager.routing.leases import RELAY_LEASE


class Outbox(Protocol):
    """What is asked about the log of changes and its checkpoint; `db` has it."""

    def published_revision(self, name: str) -> int:
        """Return how far the published changes reach, whoever published them."""

    def occurred_at_after(self, revision: int) -> int | None:
        """Return when the first change after *revision* was made, in microseconds; None if there is none."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Changes that are not known to be in Kafka: how many, and for how long the oldest has waited."""

    events: int
    age_s: float


def backlog(outbox: Outbox, head_revision: int, now: Callable[[], float]) -> Backlog:
    """Return the backlog below *head_revision*, as this worker last saw the head; *now* is seconds since
    1970. Counts changes of all kinds. Raises SourceUnavailable."""
    published = outbox.published_revision(RELAY_LEASE)
    oldest = outbox.occurred_at_after(published)
    if oldest is None:
        return Backlog(0, 0.0)
    # The head may have been seen before the last changes were made, and the clocks are two machines'.
    return Backlog(max(1, head_revision - published), max(0.0, now() - oldest / 1e6))
