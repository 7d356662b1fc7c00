"""Sets limits, for those who may: whoever administers every tenant, for no tenant sets its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from traffic_manager.access.permissions import Operation, Principal
from traffic_manager.access.ports import LimitSet, LimitStore
from traffic_manager.routing.operations import Author
from traffic_manager.routing.ports import Head, Limit
from traffic_manager.routing.receipts import claim_to


class LimitRegistry:
    """Changes limits in *store*, one transaction a call; blocking. *committed* is called with the new head
    revision."""

    def __init__(self, store: LimitStore, committed: Callable[[int], None]) -> None:
        self._store = store
        self._committed = committed

    def limits(self, caller: Principal) -> tuple[Head, Sequence[Limit]]:
        """Return all limits that are set. Raises Forbidden."""
        caller.check(Operation.LIST_LIMITS, None, None)
        return self._store.limits()

    def put(self, caller: Principal, author: Author, limit: Limit) -> LimitSet:
        """Set *limit* in place of what was set. Raises Forbidden, or IdempotencyKeyReused."""
        caller.check(Operation.SET_LIMIT, None, None)
        came_to = self._store.put(limit, author, claim_to(author, "set-limit", *asdict(limit).values()))
        self._committed(came_to.head.revision)
        return came_to
