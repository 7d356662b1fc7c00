"""The time for which this process may relay, by its own clock.

The database's clock decides who has the lease; a process that was frozen or cut off from the database learns
of a loss too late. So it stops by itself, a good while before the lease can pass to another.
"""

from __future__ import annotations

from collections.abc import Callable

from traffic_manager.errors import TrafficManagerError
from traffic_manager.routing.leases import Lease, Leases, Telling

TTL_S = 10.0
RENEW_S = 3.0
# Counted from the start of the last renewal that succeeded. 3 s of the 10 are left for an answer under way,
# for clocks that run at different speeds and for getting out of whatever holds the thread.
SURE_S = 7.0
_RETRY_S = 1.0


class LeaseLost(TrafficManagerError):
    """The lease is no longer ours, or we cannot be sure that it is. Stays inside this room."""


class Tenure:
    """A lease that was just acquired by a call which began at *began* on *clock*."""

    def __init__(self, leases: Leases, lease: Lease, clock: Callable[[], float], began: float) -> None:
        self._leases = leases
        self._lease = lease
        self._clock = clock
        self._sure_until = began + SURE_S
        self._renew_at = began + RENEW_S

    def published_revision(self) -> int:
        """Return where the checkpoint is. Raises SourceUnavailable."""
        return self._leases.published_revision(self._lease.name)

    def keep(self) -> None:
        """Renew the lease if that is due. Raises LeaseLost, also when our own clock has run out, and
        SourceUnavailable, after which the lease may well be ours still: go on calling."""
        now = self._clock()
        if now >= self._sure_until:
            raise LeaseLost("the lease could not be renewed in time")
        if now >= self._renew_at:
            self._renew(now)

    def publish(self, revision: int) -> None:
        """Move the checkpoint to *revision*. Raises LeaseLost if another took over, SourceUnavailable."""
        if not self._leases.publish(self._lease, revision):
            raise LeaseLost("another took over: the checkpoint was refused")

    def set_aside(self, revision: int, reason: str) -> None:
        """Record that the event of *revision* is not published. Raises as `publish` does."""
        if not self._leases.set_aside(self._lease, revision, reason):
            raise LeaseLost("another took over: setting an event aside was refused")

    def telling(self) -> Telling:
        """Return what all routes were told of. Raises SourceUnavailable."""
        return self._leases.telling(self._lease.name)

    def told(self, telling: Telling) -> None:
        """Record that all routes were told of this. Raises as `publish` does."""
        if not self._leases.told(self._lease, telling):
            raise LeaseLost("another took over: what it was told was refused")

    def end(self) -> None:
        """Let the next one have the lease at once. Raises SourceUnavailable; then it waits for the TTL."""
        self._leases.release(self._lease)

    def _renew(self, now: float) -> None:
        self._renew_at = now + _RETRY_S
        if not self._leases.renew(self._lease, TTL_S):
            raise LeaseLost("another took over: the renewal was refused")
        self._sure_until = now + SURE_S
        self._renew_at = now + RENEW_S
