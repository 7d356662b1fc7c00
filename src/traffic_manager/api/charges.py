"""Who pays for a request that no call charges: whoever has nothing left is refused before anything is done, and what
is refused costs its caller, so that refusals are no way to have work done for nothing."""

from __future__ import annotations

from traffic_manager.access.limiter import Limiter
from traffic_manager.access.limits import Kind
from traffic_manager.access.permissions import Principal
from traffic_manager.api.resolve import RESOLVE_PATH
from traffic_manager.errors import BatchFailed, Forbidden, InvalidInput, RequestRefused, TrafficManagerError

# What calls refuse before they charge anybody.
_BEFORE_CHARGE = (Forbidden, InvalidInput, RequestRefused)


class Charges:
    """Of the requests that one worker's *limiter* counts."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def check(self, caller: Principal, method: str, path: str) -> None:
        """Raise RateLimited if *caller* has nothing left for such a request."""
        self._limiter.check(_kind_of(method, path), caller.counted_as)

    def refused(self, caller: Principal, method: str, path: str, error: TrafficManagerError) -> None:
        """Let *caller* pay for what was looked at before *error*: all operations of a batch up to the bad one.
        Tenants pay nothing, for a stranger must not use up what they have."""
        cause, cost = error, 1
        if isinstance(error, BatchFailed):
            cause, cost = error.cause, error.index + 1
        if isinstance(cause, _BEFORE_CHARGE):
            self._limiter.charge_refused(_kind_of(method, path), caller.counted_as, cost)


def _kind_of(method: str, path: str) -> Kind:
    if path == RESOLVE_PATH:
        return Kind.RESOLVES
    return Kind.LISTS if method in ("GET", "HEAD") else Kind.WRITES
